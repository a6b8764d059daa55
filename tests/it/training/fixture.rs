//! What the tests of all trainers stand on: a folder with a recipe and its data, in which a training is started,
//! interrupted and resumed as `radialog train` does.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::Stage;
use radialog_tests::fixtures::preprocessing_images;
use radialog_training::TrainingError;
use radialog_training::trainers::curves::EpochMetrics;
use radialog_training::trainers::{StepReport, Trainer, Training, TrainingOutcome};
use tempfile::TempDir;

/// Reads the recipe at a path and prepares its training in an output folder, from the start or from its checkpoint.
type Start<S> = fn(&Path, &Path, bool) -> Result<Training<S>, TrainingError>;

/// The file that [`TrainingFixture::training`] reads.
pub(super) const RECIPE: &str = "recipe.toml";

/// A folder with a recipe and its data, and the trainer that they are for.
pub(super) struct TrainingFixture<S> {
    dir: TempDir,
    start: Start<S>,
    steps: Option<u64>,
}

impl<S: Trainer> TrainingFixture<S> {
    /// An empty folder. `start` is the trainer's; `steps` is how many a whole training must announce, where they are known.
    pub(super) fn new(start: Start<S>, steps: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, start, steps }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(super) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a part of the recipe, which must be there.
    pub(super) fn change_recipe(&self, from: &str, to: &str) {
        let recipe = self.text(RECIPE);
        assert!(recipe.contains(from), "'{from}' is not in the recipe");
        self.write(RECIPE, &recipe.replace(from, to));
    }

    pub(super) fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.path(name), &Device::Cpu).unwrap()
    }

    /// Opens a checkpoint as the workers of this stage do.
    pub(super) fn bundle(&self, name: &str, stage: Stage) -> Bundle {
        let cache = HashCache::at(self.path("hashes.json"));
        Bundle::open_with(&self.path(name), &[stage], &cache).unwrap()
    }

    /// Prepares the training of the recipe.
    pub(super) fn training(&self, out: &str, resume: bool) -> Result<Training<S>, TrainingError> {
        (self.start)(&self.path(RECIPE), &self.path(out), resume)
    }

    /// Runs a training until its end, or until so many steps are done.
    pub(super) fn run(
        &self,
        out: &str,
        resume: bool,
        until: u64,
    ) -> Result<TrainingOutcome, TrainingError> {
        let stop = AtomicBool::new(false);
        let report = |report: StepReport| {
            if let Some(steps) = self.steps {
                assert_eq!(report.total, steps);
            }
            stop.fetch_or(report.step >= until, Ordering::Relaxed);
        };
        self.training(out, resume)?
            .run(&|| stop.load(Ordering::Relaxed), &report)
    }

    /// Runs a training from its start to its end, and returns what was measured after each epoch.
    pub(super) fn run_whole(&self, out: &str) -> Vec<EpochMetrics> {
        rows(self.run(out, false, u64::MAX).unwrap())
    }

    /// Runs a training in parts that end after so many steps, and one to its end.
    pub(super) fn run_in_parts(&self, out: &str, ends: &[u64]) -> Vec<EpochMetrics> {
        for (index, &until) in ends.iter().enumerate() {
            let outcome = self.run(out, index > 0, until).unwrap();
            assert_eq!(outcome, TrainingOutcome::Interrupted);
        }
        rows(self.run(out, !ends.is_empty(), u64::MAX).unwrap())
    }

    /// Holds these files of the last checkpoints of two runs to the same bytes.
    pub(super) fn assert_same_bytes(&self, one: &str, other: &str, names: &[&str]) {
        for name in names {
            let [one, other] = [one, other].map(|run| self.bytes(&format!("{run}/last/{name}")));
            assert!(one == other, "{name} differs");
        }
    }

    /// Holds all files that two trainings of the same recipe wrote to the same bytes, but for their times.
    pub(super) fn assert_same_folders(&self, one: &str, other: &str) {
        let files = |run: &str| {
            let mut files: Vec<String> = Vec::new();
            for folder in ["", "last/", "best/"] {
                let entries = fs::read_dir(self.path(run).join(folder)).unwrap();
                let names = entries.map(|entry| entry.unwrap());
                let names = names.filter(|entry| entry.path().is_file());
                files
                    .extend(names.map(|entry| {
                        folder.to_owned() + &entry.file_name().into_string().unwrap()
                    }));
            }
            files.retain(|name| name != "times.csv");
            files.sort();
            files
        };
        assert_eq!(files(one), files(other));
        for name in files(one) {
            let [one, other] = [one, other].map(|run| self.bytes(&format!("{run}/{name}")));
            assert!(one == other, "{name} differs");
        }
    }

    /// Copies PNG files of the preprocessing cases into a folder below, and returns their names in alphabetical order.
    pub(super) fn copy_images(&self, folder: &str) -> Vec<String> {
        let source = preprocessing_images();
        fs::create_dir_all(self.path(folder)).unwrap();
        let mut names: Vec<String> = fs::read_dir(&source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".png"))
            .collect();
        names.sort();
        for name in &names {
            fs::copy(source.join(name), self.path(folder).join(name)).unwrap();
        }
        names
    }
}

/// The measurements of a training that came to its end.
pub(super) fn rows(outcome: TrainingOutcome) -> Vec<EpochMetrics> {
    match outcome {
        TrainingOutcome::Complete(rows) => rows,
        TrainingOutcome::Interrupted => panic!("the training was interrupted"),
    }
}
