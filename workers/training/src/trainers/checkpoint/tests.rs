use std::env;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::Stage;

use super::*;
use crate::optimizer::AdamW;

/// Tells [`saves_one_checkpoint_after_the_other`] where.
const VICTIM: &str = "RADIALOG_TEST_CHECKPOINT";
/// Values of the only variable, so many that a save takes a while.
const VALUES: usize = 1 << 16;
const KILLS: u64 = 8;

/// A training whose only variable has the number of the step as its values.
struct CountingTraining {
    component: ComponentDescription,
    variables: Variables,
    optimizer: Optimizer,
    recipe: ContentHash,
    progress: TrainingProgress,
}

impl CountingTraining {
    fn new() -> Self {
        let zeros = Tensor::zeros(VALUES, DType::F32, &Device::Cpu).unwrap();
        let variables = Variables::of([("step".to_owned(), zeros)]).unwrap();
        Self {
            component: ComponentDescription::new(Stage::Findings, &(), "").unwrap(),
            optimizer: Optimizer::new(AdamW::findings(), variables.clone()),
            variables,
            recipe: ContentHash::of(b"recipe"),
            progress: TrainingProgress::default(),
        }
    }

    /// Goes on from the checkpoint that is there, which must be whole.
    fn resume(&mut self, dir: &Path) {
        let manifest = bundle::read_manifest(dir).unwrap();
        for (name, entry) in &manifest.files {
            assert_eq!(
                hashes::file_entry(&dir.join(name)).unwrap(),
                *entry,
                "{name}"
            );
        }
        self.progress = restore(
            dir,
            &self.component,
            &self.variables,
            &mut self.optimizer,
            &self.recipe,
        )
        .unwrap();
        let values: Vec<f32> = self.variables.get("step").unwrap().to_vec1().unwrap();
        assert_eq!(values, vec![self.progress.step as f32; VALUES]);
    }

    fn step(&mut self, dir: &Path) {
        self.progress.step += 1;
        let values = Tensor::full(self.progress.step as f32, VALUES, &Device::Cpu).unwrap();
        self.variables.get("step").unwrap().set(&values).unwrap();
        let resume = Some((&self.optimizer, &self.progress, &self.recipe));
        save(dir, &self.component, &self.variables, resume).unwrap();
    }
}

#[test]
fn a_process_that_is_killed_while_it_saves_leaves_a_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let last = dir.path().join("last");
    let mut training = CountingTraining::new();
    for kill in 0..KILLS {
        let wanted = training.progress.step + 1 + kill;
        let mut victim = victim(&last);
        while saved_steps(&last).is_none_or(|steps| steps < wanted) || !is_saving(dir.path()) {
            assert!(victim.try_wait().unwrap().is_none(), "it ended by itself");
            thread::sleep(Duration::from_millis(1));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        training.resume(&find(&last).unwrap());
        assert!(training.progress.step >= wanted);
    }
    training.step(&last);
    training.resume(&last);
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["last"], "what killed processes have left is gone");
}

#[test]
fn a_checkpoint_that_was_moved_away_is_found_and_stays_until_the_next_one_is_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let last = dir.path().join("last");
    let mut training = CountingTraining::new();
    training.step(&last);
    fs::rename(&last, beside(&last, "previous")).unwrap();
    training.resume(&find(&last).unwrap());
    training.step(&last);
    training.resume(&last);
    assert_eq!((training.progress.step, find(&last)), (2, Some(last)));
}

#[test]
fn whoever_may_read_a_checkpoint_may_read_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let last = dir.path().join("last");
    CountingTraining::new().step(&last);
    fs::write(dir.path().join("plain"), "x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let plain = mode(&dir.path().join("plain"));
    for entry in fs::read_dir(&last).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), plain, "{}", path.display());
    }
}

/// Steps of the checkpoint that can be found, read while another process may be replacing it.
fn saved_steps(last: &Path) -> Option<u64> {
    let text = fs::read(find(last)?.join(STATE_FILE)).ok()?;
    let state: CheckpointState = serde_json::from_slice(&text).ok()?;
    Some(state.progress.step)
}

/// Whether a checkpoint is being written.
fn is_saving(dir: &Path) -> bool {
    let mut names = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(".partial"))
}

/// The process that is killed: this test binary, with the one test below.
fn victim(last: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "trainers::checkpoint::tests::saves_one_checkpoint_after_the_other",
        ])
        .env(VICTIM, last)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "it never ends: another test runs it in a process of its own and kills that"]
fn saves_one_checkpoint_after_the_other() {
    let Some(last) = env::var_os(VICTIM).map(PathBuf::from) else {
        return;
    };
    let mut training = CountingTraining::new();
    if let Some(found) = find(&last) {
        training.resume(&found);
    }
    loop {
        training.step(&last);
    }
}

#[test]
fn frozen_weights_are_the_same_file_in_every_checkpoint_and_outlive_their_source() {
    let dir = tempfile::tempdir().unwrap();
    let frozen = dir.path().join("frozen.safetensors");
    let tensor = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    candle_core::safetensors::save(&[("a", tensor.clone())].into(), &frozen).unwrap();
    let component = ComponentDescription::new(Stage::Findings, &(), "").unwrap();
    let component = ComponentDescription {
        weights: ("weights.2".into(), "moved.safetensors".into()),
        ..component
    }
    .with(ComponentFile::linked("weights", "kept.safetensors", &frozen).unwrap())
    .with(ComponentFile::text("note", "note.txt", "a note".into()));
    let variables = Variables::of([("b".to_owned(), tensor)]).unwrap();
    for _ in 0..2 {
        save(&dir.path().join("last"), &component, &variables, None).unwrap();
    }
    let kept = dir.path().join("last/kept.safetensors");
    assert_eq!(
        fs::metadata(&kept).unwrap().ino(),
        fs::metadata(&frozen).unwrap().ino()
    );
    fs::remove_file(&frozen).unwrap();
    let manifest = bundle::read_manifest(&dir.path().join("last")).unwrap();
    for (name, entry) in &manifest.files {
        assert_eq!(
            entry.sha256,
            hashes::hash_file(&dir.path().join("last").join(name)).unwrap(),
            "{name}"
        );
    }
    // Its configuration is none of a classifier: what fails is that, and not the files.
    let error = Bundle::open_with(
        &dir.path().join("last"),
        &[Stage::Findings],
        &HashCache::at(dir.path().join("h")),
    );
    assert!(error.err().unwrap().to_string().contains("configuration"));
}
