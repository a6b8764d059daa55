//! Bad input: a clear name for what is wrong, nothing lost, and the run goes on where it can.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use radialog_coordinator::archive::OutsideFiles;
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_schemas::ObjectKey;
use radialog_tests::embedded::{batch_options, run_batch};
use radialog_tests::services::Services;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_read_fail_with_a_code_and_their_name() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["good.png", "scan.dcm", "moving.gif", "large.png"]);
    fixture.write_file("empty.png", b"");
    fixture.write_file("bomb.jpg", &[0; 5000]);
    std::os::unix::fs::symlink("nowhere", fixture.dir.path().join("archive/missing.png")).unwrap();
    fs::create_dir(fixture.dir.path().join("archive/folder.png")).unwrap();
    let mut options = batch_options(fixture.archive("").await, &fixture.out());
    options.image_limit = 4096;
    let summary = run_batch(options, &fixture.backends).await.unwrap();
    assert_eq!((summary.done, summary.failed), (2, 5));
    let expected = [
        ("bomb", "image_too_large"),
        ("empty", "image_empty"),
        ("missing", "image_missing"),
        ("moving.gif", "image_format_unsupported"),
        ("scan.dcm", "image_format_unsupported"),
    ];
    assert_eq!(
        failures(&fixture.out()),
        expected
            .map(|(study, code)| (study.to_owned(), code.to_owned()))
            .into()
    );
    for record in records(&fixture.out())
        .values()
        .filter(|record| record.error.is_some())
    {
        let error = record.error.as_ref().unwrap();
        assert!(error.message.contains(&record.file), "{error}");
        assert_eq!(record.failed_stage, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_an_option_refused_are_read_once_it_allows_them() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["good.png"]);
    fixture.write_file("large.png", &[image("large"), vec![0; 5000]].concat());
    let outside = fixture.dir.path().join("outside.png");
    fs::write(&outside, image("outside")).unwrap();
    let link = fixture.dir.path().join("archive/linked.png");
    std::os::unix::fs::symlink(&outside, link).unwrap();
    let run = async |outside, limit, studies: [u64; 2]| {
        let input = ArchiveLocation::Path(fixture.dir.path().join("archive"));
        let archive = archive::open_with(&input, outside).await.unwrap();
        let mut options = batch_options(archive, &fixture.out());
        options.image_limit = limit;
        let summary = run_batch(options, &fixture.backends).await.unwrap();
        assert_eq!([summary.done, summary.failed], studies);
        summary.session.changed
    };
    let (refused, allowed) = (OutsideFiles::Refused, OutsideFiles::Allowed);
    assert_eq!(run(refused, 4096, [1, 2]).await, 0);
    assert_eq!(run(refused, 4096, [1, 2]).await, 0);
    assert_eq!(run(allowed, 4096, [2, 1]).await, 1);
    assert_eq!(run(allowed, 8192, [3, 0]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_used_are_named_with_file_and_line() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["1.png", "2.png", "3.png"]);
    let rows = "study_id,image,reference\n\
                s1,1.png,\"No change,\nagain.\"\n\
                s2,gone.png,\n\
                s3\n\
                s1,2.png,\n\
                s5,\"2.png,\n\
                ,2.png,\n\
                s7,3.png,\n\
                s8,,x\n";
    fixture.write_file("list.csv", rows.as_bytes());
    let summary = run_batch(
        batch_options(fixture.archive("list.csv").await, &fixture.out()),
        &fixture.backends,
    )
    .await
    .unwrap();
    assert_eq!(summary.done, 2);
    let expected = [
        ("s2", "image_missing"),
        ("s3", "archive_entry"),
        ("s8", "archive_entry"),
    ];
    assert_eq!(
        failures(&fixture.out()),
        expected
            .map(|(study, code)| (study.to_owned(), code.to_owned()))
            .into()
    );
    assert!(
        records(&fixture.out())["s3"]
            .error
            .as_ref()
            .unwrap()
            .message
            .contains("list.csv line 5")
    );
    let problems = problems(&summary);
    assert_eq!(summary.problem_count, 3, "{problems:?}");
    let named = |line: &str, words: &str| {
        problems
            .iter()
            .any(|p| p.contains(line) && p.contains(words))
    };
    assert!(named("list.csv line 6", "duplicate_study"), "{problems:?}");
    assert!(
        named("list.csv line 7", "archive_unreadable") && named("list.csv line 7", "quote"),
        "{problems:?}"
    );
    assert!(
        named("list.csv line 8", "archive_unreadable") && named("list.csv line 8", "study_id"),
        "{problems:?}"
    );
    assert_eq!(summary.unread_count, 3);

    let record = &records(&fixture.out())["s1"];
    assert_eq!(
        record.file, "1.png",
        "the first of two entries is the one that is run"
    );
    assert!(record.reference_labels.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_no_text_and_second_files_of_a_study_are_named() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["a.jpg", "a.png", "b.png"]);
    fs::write(
        fixture
            .dir
            .path()
            .join("archive")
            .join(OsStr::from_bytes(b"caf\xe9.png")),
        b"x",
    )
    .unwrap();
    let summary = run_batch(
        batch_options(fixture.archive("").await, &fixture.out()),
        &fixture.backends,
    )
    .await
    .unwrap();
    assert_eq!(summary.done, 2);
    let problems = problems(&summary);
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with("caf\\xe9.png: archive_unreadable")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with("a.png: duplicate_study")),
        "{problems:?}"
    );
    assert_eq!(summary.unread_count, 2);
}

#[tokio::test]
async fn an_input_that_is_unusable_as_a_whole_does_not_start() {
    let fixture = BatchFixture::new().await;
    fixture.write_file("list.csv", b"study,image\ns1,1.png\n");
    let open = async |name: &str| {
        let path = fixture.dir.path().join("archive").join(name);
        archive::open(&ArchiveLocation::Path(path))
            .await
            .err()
            .unwrap()
            .to_string()
    };
    let error = open("list.csv").await;
    assert!(
        error.contains("list.csv") && error.contains("'study_id'"),
        "{error}"
    );
    assert!(open("nowhere").await.contains("nowhere"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_the_same_archives_as_a_folder() {
    let fixture = BatchFixture::new().await;
    let bucket = fixture.dir.path().join("bucket");
    let store = Arc::new(FilesystemObjects::open(&bucket).unwrap());
    let csv = "study_id,image\ns1,a.png\ns2,../climb.png\ns3,none.png\n";
    for (key, content) in [
        ("x/a.png", image("a")),
        ("x/b/c.jpg", image("c")),
        ("x/IM000001", image("e")),
        ("x/weights", b"none".to_vec()),
        ("x/@eaDir/a.png", image("f")),
        ("x/list.csv", csv.into()),
        ("other/d.png", image("d")),
    ] {
        store
            .put(&ObjectKey::parse(key).unwrap(), content.into())
            .await
            .unwrap();
    }
    let input = |prefix: &str| ArchiveLocation::Objects {
        url: format!("s3://bucket/{prefix}"),
        store: store.clone(),
        prefix: prefix.into(),
    };
    let folder = archive::open(&input("x")).await.unwrap();
    let summary = run_batch(batch_options(folder, &fixture.out()), &fixture.backends)
        .await
        .unwrap();
    assert_eq!(
        records(&fixture.out()).keys().collect::<Vec<_>>(),
        ["IM000001", "a", "b/c"]
    );
    let left_out: Vec<_> = summary
        .problems
        .iter()
        .map(|problem| &problem.place)
        .collect();
    assert_eq!(left_out, ["list.csv", "weights"]);

    let out = fixture.dir.path().join("manifest");
    let manifest = archive::open(&input("x/list.csv")).await.unwrap();
    let summary = run_batch(batch_options(manifest, &out), &fixture.backends)
        .await
        .unwrap();
    let failed = ["image_missing", "archive_entry"].map(|code| summary.failed_by_code[code]);
    assert_eq!((summary.done, failed), (1, [1, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_folder_markers_and_odd_names_is_read_to_its_end() {
    let server = Services::shared().await.unwrap().s3();
    let bucket = server.bucket().unwrap();
    let images: Vec<_> = (0..3000).map(|n| format!("cxr/p{n:04}/1.png")).collect();
    for image in &images {
        let path = server.folder(&bucket).join(image);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let odd = ["cxr//1.png", "cxr/../up.png", "cxr/p\u{1}/1.png"];
    let markers = (0..3000).map(|n| format!("cxr/a{n:04}/"));
    server.list_also(&bucket, markers.chain(odd.map(str::to_owned)));
    let store = crate::adapters::s3_at(&bucket).await;
    let archive = archive::open(&ArchiveLocation::Objects {
        url: "s3://bucket/cxr".into(),
        store,
        prefix: "cxr".into(),
    })
    .await
    .unwrap();
    let mut entries = archive.entries().await.unwrap();
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.next().await {
        match entry {
            Ok(entry) => files.push(format!("cxr/{}", entry.file)),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    assert!(files == images, "{} of {}", files.len(), images.len());
    assert_eq!(problems.len(), odd.len(), "{problems:?}");
    for place in [
        "s3://bucket/cxr//1.png",
        "s3://bucket/cxr/../up.png",
        "p\\u{1}/1.png",
    ] {
        let named = problems.iter().find(|p| p.contains(place));
        assert!(
            named.is_some_and(|p| p.contains("archive_unreadable")),
            "{problems:?}"
        );
    }
}

/// The attack: a table that names files of the machine on which it is run.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_cannot_take_other_files_of_the_machine_into_the_store() {
    let fixture = BatchFixture::new().await;
    fixture.write(&["good.png"]);
    let outside = fixture.dir.path().join("outside.png");
    fs::write(&outside, image("outside")).unwrap();
    let secret = fixture.dir.path().join("secret.txt");
    fs::write(&secret, "PASSWORD=secret").unwrap();
    let archive_folder = fixture.dir.path().join("archive");
    std::os::unix::fs::symlink(&outside, archive_folder.join("link.png")).unwrap();
    fs::write(archive_folder.join("named.png"), "PASSWORD=secret").unwrap();
    let rows = format!(
        "study_id,image\ngood,good.png\nclimbs,../secret.txt\nproc,/proc/self/environ\n\
         whole,{}\nlink,link.png\nnamed,named.png\n",
        outside.display()
    );
    fixture.write_file("list.csv", rows.as_bytes());
    let stored = || {
        let images = fs::read_dir(fixture.dir.path().join("objects/images")).unwrap();
        images.count()
    };

    let refused = fixture.archive("list.csv").await;
    let summary = run_batch(batch_options(refused, &fixture.out()), &fixture.backends)
        .await
        .unwrap();
    assert_eq!((summary.done, summary.failed, stored()), (1, 5, 1));
    let mut codes = failures(&fixture.out());
    assert_eq!(codes.remove("named").unwrap(), "image_format_unsupported");
    assert!(
        codes.values().all(|code| code == "archive_entry"),
        "{codes:?}"
    );
    for record in records(&fixture.out()).values() {
        if let Some(error) = &record.error
            && record.study.0 != "named"
        {
            assert!(error.message.contains("--allow-outside"), "{error}");
        }
    }

    let out = fixture.dir.path().join("allowed");
    let input = ArchiveLocation::Path(archive_folder.join("list.csv"));
    let allowed = archive::open_with(&input, OutsideFiles::Allowed)
        .await
        .unwrap();
    let summary = run_batch(batch_options(allowed, &out), &fixture.backends)
        .await
        .unwrap();
    // What may be named is still no image for that.
    assert_eq!((summary.done, summary.failed, stored()), (3, 3, 2));
    for study in ["climbs", "proc", "named"] {
        assert_eq!(failures(&out)[study], "image_format_unsupported");
    }
}
