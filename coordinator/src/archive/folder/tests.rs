use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flate2::Compression;
use flate2::write::GzEncoder;
use radialog_schemas::{ErrorCode, Failure};

use super::super::entries::StudyEntries;
use super::super::file_place::OutsideFiles;
use super::super::file_tree::{FileTree, LocalFileTree, PathWalk};
use super::super::gzip;
use super::super::image::ImageSource;
use super::super::open::{ArchiveLocation, open};
use super::{FolderArchive, TABLE_TRIES};

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Each study as `id file` and perhaps a code, each problem as `! place`.
async fn read(path: &Path) -> Vec<String> {
    let archive = open(&ArchiveLocation::Path(path.into())).await.unwrap();
    let mut entries = archive.entries().await.unwrap();
    let mut seen = Vec::new();
    let mut studies = 0;
    while let Some(entry) = entries.next().await {
        seen.push(match entry {
            Ok(entry) => {
                studies += 1;
                let code = entry
                    .image
                    .err()
                    .map(|failure| format!(" {}", failure.code));
                format!("{} {}{}", entry.study, entry.file, code.unwrap_or_default())
            }
            Err(problem) => format!("! {}", problem.place),
        });
    }
    assert_eq!(archive.count().await.unwrap(), studies);
    seen
}

#[tokio::test]
async fn every_file_of_a_folder_is_a_study_or_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut dicom = vec![0; 128];
    dicom.extend(b"DICM");
    let stored = format!("store/images/{}", "0123456789abcdef".repeat(4));
    for (path, content) in [
        ("ward/2.JPG", b"x".as_slice()),
        ("ward/1.png", b"x"),
        ("notes.txt", b"x"),
        ("scan.dcm", b"x"),
        ("scan.png", b"x"),
        ("old.jpe", b"x"),
        ("photo.pjpeg", b"x"),
        ("IM000001", b"\xff\xd8\xff\xe0"),
        ("IM000002", &dicom),
        ("image.001", b"\x89PNG\r\n\x1a\n"),
        ("weights.bin", b"x"),
        ("ward/Thumbs.db", b"x"),
        ("results/run.json", b"{}"),
        ("results/results.jsonl", b""),
        ("results/pictures/1.png", b"x"),
        (&stored, b"\xff\xd8\xff\xe0"),
        ("ward/@eaDir/1.png", b"x"),
    ] {
        write(dir.path(), path, content);
    }
    let unsupported = ErrorCode::ImageFormatUnsupported;
    assert_eq!(
        read(dir.path()).await,
        [
            "IM000001 IM000001",
            &format!("IM000002 IM000002 {unsupported}"),
            "image.001 image.001",
            "! notes.txt",
            "old old.jpe",
            "photo photo.pjpeg",
            &format!("! {}/results/", dir.path().display()),
            &format!("scan.dcm scan.dcm {unsupported}"),
            "scan scan.png",
            &format!("! {stored}"),
            "ward/1 ward/1.png",
            "ward/2 ward/2.JPG",
            "! weights.bin",
        ]
    );
    assert_eq!(read(&dir.path().join("ward/1.png")).await, ["1 1.png"]);
    assert_eq!(
        read(&dir.path().join("IM000001")).await,
        ["IM000001 IM000001"]
    );
}

#[tokio::test]
async fn a_tree_of_studies_is_found_wherever_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let study = "p10/p10000032/s50414267";
    for file in [
        format!("nested/files/{study}/a.jpg"),
        format!("nested/files/{study}/b.jpg"),
        format!("nested/files/{study}/deeper/c.jpg"),
        format!("nested/files/{study}/d.txt"),
        "nested/mimic-cxr-2.0.0-negbio.csv".into(),
        "mimic-cxr-2.0.0-split.csv".into(),
        "z.png".into(),
    ] {
        write(dir.path(), &file, b"x");
    }
    for number in 0..150 {
        write(dir.path(), &format!("a/{number:03}.txt"), b"x");
    }
    let tables = dir.path().join("nested");
    write(
        &tables,
        "mimic-cxr-2.0.0-metadata.csv",
        b"dicom_id,ViewPosition\na,LATERAL\nb,PA\n",
    );
    let seen = read(dir.path()).await;
    let studies: Vec<_> = seen
        .iter()
        .filter(|line| !line.starts_with("! a/"))
        .collect();
    assert_eq!(
        studies,
        [
            &format!("s50414267 nested/files/{study}/b.jpg"),
            &format!("! nested/files/{study}/d.txt"),
            &format!("nested/files/{study}/deeper/c nested/files/{study}/deeper/c.jpg"),
            "! nested/mimic-cxr-2.0.0-negbio.csv",
            "z z.png",
            "! mimic-cxr-2.0.0-split.csv",
        ]
    );
    assert_eq!(seen.len(), studies.len() + 150);
    for (folder, file) in [
        ("files", format!("{study}/b.jpg")),
        ("files/p10", "p10000032/s50414267/b.jpg".into()),
    ] {
        let seen = read(&tables.join(folder)).await;
        assert_eq!(
            seen[0],
            format!("s50414267 {file}"),
            "tables above it are read"
        );
    }
}

#[tokio::test]
async fn no_study_is_read_by_a_table_that_says_which_image_it_is_and_cannot_be_used() {
    let doubled = b"dicom_id,ViewPosition,ViewPosition\na,LATERAL,PA\n".to_vec();
    let mut cut = GzEncoder::new(Vec::new(), Compression::default());
    cut.write_all(b"dicom_id,ViewPosition\na,LATERAL\n")
        .unwrap();
    for row in 0..20_000 {
        writeln!(cut, "d{row},PA").unwrap();
    }
    let mut cut = cut.finish().unwrap();
    cut.truncate(cut.len() / 2);
    for (suffix, content, words) in [
        (".csv", doubled, "several columns 'ViewPosition'"),
        (".csv.gz", cut, "the rest of the table cannot be read"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let study = "nested/files/p10/p10000032/s50414267";
        for number in 0..150 {
            write(dir.path(), &format!("a/{number:03}.txt"), b"x");
        }
        for name in ["a", "b"] {
            write(dir.path(), &format!("{study}/{name}.jpg"), b"x");
        }
        let table = format!("nested/mimic-cxr-2.0.0-metadata{suffix}");
        write(dir.path(), &table, &content);
        let archive = open(&ArchiveLocation::Path(dir.path().into()))
            .await
            .unwrap();
        let mut entries = archive.entries().await.unwrap();
        let (mut studies, mut unread) = (Vec::new(), Vec::new());
        while let Some(entry) = entries.next().await {
            match entry {
                Ok(entry) => studies.push(entry.image.unwrap_err()),
                Err(problem) if problem.may_hide_studies() => unread.push(problem),
                Err(problem) => assert_ne!(problem.place, table, "it was told with its tree"),
            }
        }
        assert_eq!((studies.len(), unread.len()), (1, 1), "{unread:?}");
        for failure in [&studies[0], &unread[0].failure] {
            let message = &failure.message;
            assert!(message.contains(words), "{message}");
        }
        // What was done of it before stays.
        assert_eq!(studies[0].code, ErrorCode::ArchiveEntry);
    }
}

#[tokio::test]
async fn a_table_that_cannot_be_read_just_now_makes_no_study_and_is_read_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    for study in ["s50414267", "s50414268", "s50414269", "s50414270"] {
        for image in ["a", "b"] {
            let file = format!("nested/files/p10/p10000032/{study}/{image}.jpg");
            write(dir.path(), &file, b"x");
        }
    }
    // Nobody can open a link to itself, root included.
    let table = "nested/mimic-cxr-2.0.0-metadata.csv";
    std::os::unix::fs::symlink(dir.path().join(table), dir.path().join(table)).unwrap();
    let tree = LocalFileTree::new(dir.path().into(), OutsideFiles::Refused);
    let archive = FolderArchive::new("archive".into(), Arc::new(tree));
    let mut entries = archive.pass();
    entries.retry_pause = Duration::ZERO;
    entries.table_pause = Duration::MAX;
    let problem = entries.next().await.unwrap().unwrap_err();
    assert!(problem.may_hide_studies(), "{problem}");
    let message = problem.failure.message;
    assert!(
        message.contains(table) && !message.contains("Give a folder"),
        "{message}"
    );
    fs::remove_file(dir.path().join(table)).unwrap();
    let rows = b"dicom_id,ViewPosition\na,LATERAL\nb,PA\n";
    write(dir.path(), table, rows);
    // Not before the pause is over.
    let second = entries.next_path().await.unwrap().unwrap();
    assert!(second.contains("s50414268"), "{second}");
    entries.study_folder(second).await;
    assert!(entries.found.is_empty(), "{:?}", entries.found);
    entries.table_pause = Duration::ZERO;
    let mut seen = Vec::new();
    while let Some(entry) = entries.next().await {
        seen.push(match entry {
            Ok(entry) => format!("{} {}", entry.file, entry.image.is_ok()),
            Err(problem) => problem.to_string(),
        });
    }
    let read = ["s50414269", "s50414270"]
        .map(|study| format!("nested/files/p10/p10000032/{study}/b.jpg true"));
    assert_eq!(seen, read);
}

#[tokio::test]
async fn a_table_that_stays_unreadable_is_told_once_with_the_tree_that_lies_beside_it() {
    for target in ["mimic-cxr-2.0.0-metadata.csv", "nowhere.csv"] {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..150 {
            write(dir.path(), &format!("a/{number:03}.txt"), b"x");
        }
        for study in ["s50414267", "s50414268"] {
            let file = format!("nested/files/p10/p10000032/{study}/a.jpg");
            write(dir.path(), &file, b"x");
        }
        let table = dir.path().join("nested/mimic-cxr-2.0.0-metadata.csv");
        std::os::unix::fs::symlink(target, table).unwrap();
        let tree = LocalFileTree::new(dir.path().into(), OutsideFiles::Refused);
        let archive = FolderArchive::new("archive".into(), Arc::new(tree));
        let mut entries = archive.pass();
        entries.retry_pause = Duration::ZERO;
        let mut told = Vec::new();
        while let Some(entry) = entries.next().await {
            let place = entry.expect_err("a study without its table").place;
            if !place.starts_with("a/") {
                told.push(place);
            }
        }
        let beside = dir.path().join("nested/files/").display().to_string();
        assert_eq!(told, [beside], "{target}");
    }
}

/// A tree on a disk that does not give its table of views so many times.
struct HiccupTree(LocalFileTree, AtomicU32);

#[async_trait]
impl FileTree for HiccupTree {
    fn walk(&self, under: &str) -> Box<dyn PathWalk> {
        self.0.walk(under)
    }

    fn image(&self, path: &str) -> Result<ImageSource, Failure> {
        self.0.image(path)
    }

    async fn lines(&self, path: &str) -> io::Result<gzip::Lines> {
        let one_less = |left: u32| left.checked_sub(1);
        let (order, left) = (Ordering::Relaxed, &self.1);
        if path.ends_with("metadata.csv") && left.fetch_update(order, order, one_less).is_ok() {
            // What a disk that fails gives (EIO).
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.lines(path).await
    }

    fn name(&self, path: &str) -> String {
        self.0.name(path)
    }

    fn folder_name(&self) -> Option<String> {
        self.0.folder_name()
    }

    fn above(&self) -> Option<Arc<dyn FileTree>> {
        self.0.above()
    }
}

#[tokio::test]
async fn a_disk_that_does_not_give_a_table_for_a_moment_costs_no_study() {
    let dir = tempfile::tempdir().unwrap();
    let study = "nested/files/p10/p10000032/s50414267";
    for image in ["a", "b"] {
        write(dir.path(), &format!("{study}/{image}.jpg"), b"x");
    }
    let rows = b"dicom_id,ViewPosition\na,LATERAL\nb,PA\n";
    write(dir.path(), "nested/mimic-cxr-2.0.0-metadata.csv", rows);
    let tree = LocalFileTree::new(dir.path().into(), OutsideFiles::Refused);
    let tree = HiccupTree(tree, (TABLE_TRIES - 1).into());
    let archive = FolderArchive::new("archive".into(), Arc::new(tree));
    let mut entries = archive.pass();
    entries.retry_pause = Duration::ZERO;
    let entry = entries.next().await.unwrap();
    let entry = entry.unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(entry.file, format!("{study}/b.jpg"));
    assert!(entries.next().await.is_none());
    // Nor does it end a run when its archive is opened.
    let tree = LocalFileTree::new(dir.path().into(), OutsideFiles::Refused);
    let tree = HiccupTree(tree, (TABLE_TRIES - 1).into());
    let archive = FolderArchive::new("archive".into(), Arc::new(tree));
    archive.check_first(1, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn two_trees_of_studies_in_one_folder_have_their_own_tables() {
    let dir = tempfile::tempdir().unwrap();
    for (root, number, views) in [
        ("one", 7, "a,LATERAL\nb,PA\n"),
        ("two", 8, "a,PA\nb,LATERAL\n"),
    ] {
        for image in ["a", "b"] {
            let file = format!("{root}/files/p10/p10000032/s5041426{number}/{image}.jpg");
            write(dir.path(), &file, b"x");
        }
        let table = format!("{root}/mimic-cxr-2.0.0-metadata.csv");
        let rows = format!("dicom_id,ViewPosition\n{views}");
        write(dir.path(), &table, rows.as_bytes());
    }
    assert_eq!(
        read(dir.path()).await,
        [
            "s50414267 one/files/p10/p10000032/s50414267/b.jpg",
            "s50414268 two/files/p10/p10000032/s50414268/a.jpg",
        ]
    );
}

#[tokio::test]
async fn an_input_that_is_no_archive_is_refused_with_what_would_be_one() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "x.txt", b"x");
    write(dir.path(), "x.bin", b"x");
    for name in ["nowhere", "x.txt", "x.bin"] {
        let path = dir.path().join(name);
        let error = open(&ArchiveLocation::Path(path.clone()))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("CSV manifest"),
            "{error}"
        );
    }
}
