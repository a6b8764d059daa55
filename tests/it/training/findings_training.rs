//! `train findings` from a recipe to checkpoints: resumed as if never interrupted, served at once, refused where it must be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use radialog_models::bundle::components::FindingsPredictor;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::{Finding, Stage};
use radialog_tests::golden::roots;
use radialog_training::TrainingError;
use radialog_training::recipe::FindingsRecipe;
use radialog_training::trainers::{FindingsTrainer, Training, TrainingOutcome};

const SIDE: usize = 96;
const EPOCHS: u64 = 2;

struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    /// Twelve training and two validation images, every other one with an effusion.
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = roots().unwrap()[0].join("01_preprocess/images");
        let images = dir.path().join("images");
        fs::create_dir_all(&images).unwrap();
        let mut names: Vec<String> = fs::read_dir(&source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".png"))
            .collect();
        names.sort();
        assert!(names.len() >= 14);
        let findings: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let mut labels = format!("image,split,{}\n", findings.join(","));
        for (index, name) in names.iter().take(14).enumerate() {
            fs::copy(source.join(name), images.join(name)).unwrap();
            let split = if index < 12 { "train" } else { "validate" };
            let cells = Finding::ALL.map(|finding| match finding {
                Finding::PleuralEffusion => (index % 2).to_string(),
                Finding::Fracture => String::new(),
                _ => "0".to_owned(),
            });
            labels += &format!("{name},{split},{}\n", cells.join(","));
        }
        fs::write(dir.path().join("labels.csv"), labels).unwrap();
        let recipe = format!(
            "epochs = {EPOCHS}\nbatch_size = 4\nrate = 1e-3\naugment = true\n{more}\n[[tables]]\nlabels = \"labels.csv\"\nimages = \
             \"images\"\n[geometry]\nimage_size = {SIDE}\nstem_width = 4\nvit_dim = 8\njoint_feature_size = 8\npool = \
             1\nfc_hidden = 16\n"
        );
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn training(
        &self,
        out: &str,
        resume: bool,
    ) -> Result<Training<FindingsTrainer>, TrainingError> {
        Training::findings(
            FindingsRecipe::read(&self.path("recipe.toml"))?,
            &self.path(out),
            resume,
            &Device::Cpu,
        )
    }

    /// Runs until the end, or until so many steps are done.
    fn run(&self, out: &str, resume: bool, until: u64) -> Result<TrainingOutcome, TrainingError> {
        let stop = AtomicBool::new(false);
        self.training(out, resume)?
            .run(&|| stop.load(Ordering::Relaxed), &|report| {
                assert_eq!(report.total, 3 * EPOCHS);
                if report.step >= until {
                    stop.store(true, Ordering::Relaxed);
                }
            })
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// All of a run's measurements but the time.
fn measured(outcome: TrainingOutcome) -> Vec<Vec<f64>> {
    let TrainingOutcome::Complete(rows) = outcome else {
        panic!("the run was interrupted")
    };
    rows.into_iter()
        .map(|row| {
            row.0
                .into_iter()
                .filter(|(name, _)| name != "seconds")
                .map(|(_, v)| v)
                .collect()
        })
        .collect()
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes_as_an_uninterrupted_one() {
    let workshop = Workshop::new("");
    let whole = measured(workshop.run("whole", false, u64::MAX).unwrap());
    // Once inside each epoch.
    assert_eq!(
        workshop.run("parts", false, 2).unwrap(),
        TrainingOutcome::Interrupted
    );
    assert_eq!(
        workshop.run("parts", true, 4).unwrap(),
        TrainingOutcome::Interrupted
    );
    let parts = measured(workshop.run("parts", true, u64::MAX).unwrap());
    assert_eq!(whole, parts);
    for name in ["findings.safetensors", "optimizer.safetensors"] {
        let file = |run: &str| workshop.path(run).join("last").join(name);
        assert!(
            bytes(&file("whole")) == bytes(&file("parts")),
            "{name} differs"
        );
    }
    let csv = fs::read_to_string(workshop.path("parts/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count() as u64, 1 + EPOCHS, "{csv}");
    let html = fs::read_to_string(workshop.path("parts/curves.html")).unwrap();
    assert!(
        html.contains("<polyline") && !html.contains("src="),
        "the curves need nothing else"
    );
}

#[test]
fn both_checkpoints_are_bundles_that_predict() {
    let workshop = Workshop::new("");
    workshop.run("out", false, u64::MAX).unwrap();
    for checkpoint in ["last", "best"] {
        let cache = HashCache::at(workshop.path("hashes.json"));
        let bundle = Bundle::open_with(
            &workshop.path("out").join(checkpoint),
            &[Stage::Findings],
            &cache,
        )
        .unwrap();
        let predictor = FindingsPredictor::load(&bundle, &Device::Cpu).unwrap();
        assert_eq!(predictor.input().side, SIDE);
        let image = Tensor::full(0.5f32, (1, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let report = predictor.predict(&image).unwrap().remove(0);
        for predicted in &report.findings {
            // No image has a label for fractures: none is seen, whatever the weights were drawn as.
            let is_known = predicted.finding != Finding::Fracture;
            assert!(
                is_known || (0.0..0.03).contains(&predicted.probability),
                "{predicted:?}"
            );
            assert!(predicted.probability.is_finite());
        }
    }
}

#[test]
fn the_loss_of_the_training_images_falls() {
    let workshop = Workshop::new("");
    let text = fs::read_to_string(workshop.path("recipe.toml"))
        .unwrap()
        .replace("augment = true", "augment = false");
    fs::write(workshop.path("recipe.toml"), text).unwrap();
    let rows = measured(workshop.run("out", false, u64::MAX).unwrap());
    // Epoch, step, rate, loss.
    let (first, last) = (rows[0][3], rows[1][3]);
    assert!(last < first, "{first} then {last}");
}

#[test]
fn another_recipe_a_second_start_and_nothing_to_resume_are_refused() {
    let workshop = Workshop::new("");
    let refusal = |out, resume| {
        workshop
            .training(out, resume)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal("out", true).contains("without --resume"));
    assert_eq!(
        workshop.run("out", false, 1).unwrap(),
        TrainingOutcome::Interrupted
    );
    assert!(refusal("out", false).contains("--resume"));
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    fs::write(
        workshop.path("recipe.toml"),
        recipe.replace("rate = 1e-3", "rate = 1e-4"),
    )
    .unwrap();
    assert!(refusal("out", true).contains("another recipe"));
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_images_of_its_batch_and_keeps_the_checkpoint() {
    let workshop = Workshop::new("checkpoint_steps = 1");
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    fs::write(
        workshop.path("recipe.toml"),
        recipe.replace("rate = 1e-3", "rate = 1e30"),
    )
    .unwrap();
    let error = workshop.run("out", false, u64::MAX).unwrap_err();
    let TrainingError::NotANumber { step, samples } = &error else {
        panic!("{error}")
    };
    assert!(
        *step > 1 && samples.len() == 4 && samples[0].ends_with(".png"),
        "{error}"
    );
    assert!(
        workshop.training("out", true).is_ok(),
        "the checkpoint before is whole"
    );
}

#[test]
fn an_image_that_cannot_be_read_is_named() {
    let workshop = Workshop::new("");
    fs::write(workshop.path("images/binary.png"), b"not an image").unwrap();
    let error = workshop
        .run("out", false, u64::MAX)
        .unwrap_err()
        .to_string();
    assert!(error.contains("binary.png"), "{error}");
}

#[test]
fn a_save_that_fails_leaves_the_checkpoint_before() {
    let workshop = Workshop::new("");
    assert_eq!(
        workshop.run("out", false, 1).unwrap(),
        TrainingOutcome::Interrupted
    );
    let before = bytes(&workshop.path("out/last/findings.safetensors"));
    // A file where the next checkpoint is written first.
    fs::write(workshop.path("out/last.partial"), b"in the way").unwrap();
    assert!(workshop.run("out", true, 2).is_err());
    assert!(before == bytes(&workshop.path("out/last/findings.safetensors")));
    fs::remove_file(workshop.path("out/last.partial")).unwrap();
    assert_eq!(
        workshop.run("out", true, 2).unwrap(),
        TrainingOutcome::Interrupted
    );
}
