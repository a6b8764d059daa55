//! Objects of the store that are not what was stored: the next run makes them anew.

use radialog_tests::embedded::{batch_options, run_batch, synthetic_archive};

use super::*;

const STUDIES: u64 = 5;

/// All objects of the store.
fn objects(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(objects(&path));
        } else if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            files.push(path);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_objects_are_made_anew_by_the_next_run() {
    let fixture = BatchFixture::new().await;
    let folder = fixture.dir.path().join("objects");
    let run = async |name: &str| {
        let out = fixture.dir.path().join(name);
        let options = batch_options(synthetic_archive(STUDIES), &out);
        let summary = run_batch(options, &fixture.backends).await.unwrap();
        assert_eq!((summary.done, summary.failed), (STUDIES, 0), "{name}");
        out
    };
    let first = run("first").await;
    let stored = objects(&folder);
    assert_eq!(
        stored.len() as u64,
        5 * STUDIES,
        "an image and four outputs"
    );
    let contents: Vec<Vec<u8>> = stored.iter().map(|file| fs::read(file).unwrap()).collect();
    for damage in ["emptied", "cut", "changed"] {
        for (file, content) in stored.iter().zip(&contents) {
            let content = match damage {
                "emptied" => Vec::new(),
                "cut" => content[..content.len() / 2].to_vec(),
                _ => content.iter().map(|byte| byte ^ 1).collect(),
            };
            fs::write(file, content).unwrap();
        }
        assert_eq!(
            without_timings(&run(damage).await),
            without_timings(&first),
            "{damage}"
        );
        for (file, content) in stored.iter().zip(&contents) {
            assert_eq!(&fs::read(file).unwrap(), content, "{}", file.display());
        }
    }
    for (study, record) in records(&run("last").await) {
        assert!(
            record.timings.values().all(|timings| timings.reused),
            "{study}"
        );
    }
}
