//! A run from archive to results, over workers without models: each study exactly once, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use radialog_coordinator::RunSummary;
use radialog_coordinator::archive::{self, Archive, ArchiveLocation};
use radialog_runtime::backends::Backends;
use radialog_schemas::{ImageFormat, Stage, StudyRecord};
use radialog_tests::embedded::{backends, start_workers};
use radialog_tests::fake_stage::FakeStage;
use tempfile::TempDir;
use tokio_util::sync::DropGuard;

mod archives;
mod changed;
mod damage;
mod disk;
mod faults;
mod given;
mod stored;
mod whole;

/// A fixture for a test: backends under a directory, and workers.
struct BatchFixture {
    dir: TempDir,
    backends: Backends,
    _workers: DropGuard,
}

impl BatchFixture {
    async fn new() -> Self {
        Self::with(FakeStage::new).await
    }

    async fn with(make: impl Fn(Stage) -> FakeStage) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backends = backends(&dir.path().join("objects")).unwrap();
        let workers = start_workers(&backends, make).await.unwrap();
        Self {
            dir,
            backends,
            _workers: workers,
        }
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    /// Writes files of the archive, each with a content of its own.
    fn write(&self, files: &[&str]) {
        for file in files {
            self.write_file(file, &image(file));
        }
    }

    fn write_file(&self, file: &str, content: &[u8]) {
        let path = self.dir.path().join("archive").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The archive, or the manifest in it.
    async fn archive(&self, manifest: &str) -> Arc<dyn Archive> {
        let path = self.dir.path().join("archive").join(manifest);
        archive::open(&ArchiveLocation::Path(path)).await.unwrap()
    }
}

/// As much of an image as a run looks at: what PNG files begin with, and the name.
fn image(name: &str) -> Vec<u8> {
    [ImageFormat::Png.signature(), name.as_bytes()].concat()
}

/// The records by study; panics when a study has two.
fn records(out: &Path) -> BTreeMap<String, StudyRecord> {
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let mut records = BTreeMap::new();
    for line in text.lines() {
        let record: StudyRecord = serde_json::from_str(line).unwrap();
        let before = records.insert(record.study.0.clone(), record);
        assert!(before.is_none(), "two lines for {before:?}");
    }
    records
}

/// The records as they must be equal between runs.
fn without_timings(out: &Path) -> BTreeMap<String, StudyRecord> {
    let mut records = records(out);
    for record in records.values_mut() {
        record.timings.clear();
    }
    records
}

/// Failed studies and their codes.
fn failures(out: &Path) -> BTreeMap<String, String> {
    let records = records(out).into_iter();
    records
        .filter_map(|(study, record)| Some((study, record.error?.code.as_str())))
        .collect()
}

fn problems(summary: &RunSummary) -> BTreeSet<String> {
    summary.problems.iter().map(ToString::to_string).collect()
}
