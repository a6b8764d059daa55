//! `train chexbert` from a recipe to checkpoints.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use radialog_models::bundle::components::ReportLabeler;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_schemas::{Finding, Label, Stage};
use radialog_training::recipe::ChexbertRecipe;
use radialog_training::trainers::{Training, TrainingOutcome};

const EPOCHS: u64 = 6;

struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    /// 24 training and 8 validation reports about edema, there or denied.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        RandomBundle::tiny(7)
            .write(&dir.path().join("start"))
            .unwrap();
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let mut table = format!("split,findings,{}\n", names.join(","));
        for index in 0..32 {
            let (text, label) = if index % 2 == 0 {
                ("There is edema", "1")
            } else {
                ("No edema is seen", "0")
            };
            let split = if index < 24 { "train" } else { "validate" };
            let cells =
                Finding::ALL.map(|finding| if finding == Finding::Edema { label } else { "" });
            table += &format!("{split},{text} in study {index}.,{}\n", cells.join(","));
        }
        table += &format!("train,,{}\n", ",".repeat(13));
        fs::write(dir.path().join("reports.csv"), table).unwrap();
        let recipe = format!(
            "reports = \"reports.csv\"\nstart = \"start\"\nepochs = {EPOCHS}\nbatch_size = 5\nrate = 1e-3\nclip = 1.0\n"
        );
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, out: &str, resume: bool, until: u64) -> TrainingOutcome {
        let stop = AtomicBool::new(false);
        let recipe = ChexbertRecipe::read(&self.path("recipe.toml")).unwrap();
        let training = Training::chexbert(recipe, &self.path(out), resume, &Device::Cpu).unwrap();
        let report = |report: radialog_training::trainers::StepReport| {
            assert_eq!(report.total, 5 * EPOCHS, "24 reports are five batches");
            stop.fetch_or(report.step >= until, Ordering::Relaxed);
        };
        training
            .run(&|| stop.load(Ordering::Relaxed), &report)
            .unwrap()
    }
}

#[test]
fn dropout_goes_on_where_it_was_so_that_a_resumed_training_ends_with_the_same_bytes() {
    let workshop = Workshop::new();
    assert!(matches!(
        workshop.run("whole", false, u64::MAX),
        TrainingOutcome::Complete(_)
    ));
    assert_eq!(
        workshop.run("parts", false, 7),
        TrainingOutcome::Interrupted
    );
    assert!(matches!(
        workshop.run("parts", true, u64::MAX),
        TrainingOutcome::Complete(_)
    ));
    for name in ["scoring.safetensors", "optimizer.safetensors"] {
        let bytes = |run: &str| fs::read(workshop.path(run).join("last").join(name)).unwrap();
        assert!(bytes("whole") == bytes("parts"), "{name} differs");
    }
}

#[test]
fn the_labeler_learns_to_tell_a_finding_from_its_denial_and_is_served_from_its_checkpoint() {
    let workshop = Workshop::new();
    let TrainingOutcome::Complete(rows) = workshop.run("out", false, u64::MAX) else {
        panic!("interrupted")
    };
    let loss = |row: usize| rows[row].get("train_loss").unwrap();
    assert!(
        loss(rows.len() - 1) < 0.5 * loss(0),
        "{} then {}",
        loss(0),
        loss(rows.len() - 1)
    );
    let cache = HashCache::at(workshop.path("hashes.json"));
    let bundle = Bundle::open_with(&workshop.path("out/best"), &[Stage::Scoring], &cache).unwrap();
    let labeler = ReportLabeler::load(&bundle, &Device::Cpu).unwrap();
    let label =
        |text: &str| labeler.label(&[labeler.encode(text).unwrap()]).unwrap()[0][&Finding::Edema];
    assert_eq!(label("There is edema in study 28."), Label::Positive);
    assert_eq!(label("No edema is seen in study 29."), Label::Negative);
}
