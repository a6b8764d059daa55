//! `train findings` from a recipe to checkpoints: resumed as if never interrupted, served at once, refused where it must be.

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use radialog_models::bundle::components::FindingsPredictor;
use radialog_schemas::{Finding, Stage};
use radialog_training::TrainingError;
use radialog_training::recipe::FindingsRecipe;
use radialog_training::trainers::{FindingsTrainer, Training, TrainingOutcome};

use super::fixture::{RECIPE, TrainingFixture};

const SIDE: usize = 96;
const EPOCHS: u64 = 2;

/// Twelve training and two validation images, every other one with an effusion.
fn fixture(more: &str) -> TrainingFixture<FindingsTrainer> {
    let start = |recipe: &Path, out: &Path, resume| {
        Training::findings(FindingsRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    let fixture = TrainingFixture::new(start, Some(3 * EPOCHS));
    let names = fixture.copy_images("images");
    assert!(names.len() >= 14);
    let findings: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
    let mut labels = format!("image,split,{}\n", findings.join(","));
    for (index, name) in names.iter().take(14).enumerate() {
        let split = if index < 12 { "train" } else { "validate" };
        let cells = Finding::ALL.map(|finding| match finding {
            Finding::PleuralEffusion => (index % 2).to_string(),
            Finding::Fracture => String::new(),
            _ => "0".to_owned(),
        });
        labels += &format!("{name},{split},{}\n", cells.join(","));
    }
    fixture.write("labels.csv", &labels);
    let recipe = format!(
        "epochs = {EPOCHS}\nbatch_size = 4\nrate = 1e-3\naugment = true\n{more}\n[[tables]]\nlabels = \"labels.csv\"\nimages = \
         \"images\"\n[geometry]\nimage_size = {SIDE}\nstem_width = 4\nvit_dim = 8\njoint_feature_size = 8\npool = \
         1\nfc_hidden = 16\n"
    );
    fixture.write(RECIPE, &recipe);
    fixture
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes_as_an_uninterrupted_one() {
    let fixture = fixture("");
    let whole = fixture.run_whole("whole");
    // Once inside each epoch.
    let parts = fixture.run_in_parts("parts", &[2, 4]);
    assert_eq!(whole, parts);
    fixture.assert_same_folders("whole", "parts");
    assert_eq!(
        fixture.text("parts/times.csv").lines().count() as u64,
        1 + EPOCHS
    );
    let csv = fixture.text("parts/metrics.csv");
    assert_eq!(csv.lines().count() as u64, 1 + EPOCHS, "{csv}");
    let html = fixture.text("parts/curves.html");
    assert!(
        html.contains("<polyline") && !html.contains("src="),
        "the curves need nothing else"
    );
}

#[test]
fn both_checkpoints_are_bundles_that_predict() {
    let fixture = fixture("");
    fixture.run_whole("out");
    for checkpoint in ["last", "best"] {
        let bundle = fixture.bundle(&format!("out/{checkpoint}"), Stage::Findings);
        let predictor = FindingsPredictor::load(&bundle, &Device::Cpu).unwrap();
        assert_eq!(predictor.input().side, SIDE);
        let image = Tensor::full(0.5f32, (1, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let report = predictor.predict(&image).unwrap().remove(0);
        for predicted in &report.findings {
            // Only of effusions there are images with and without: all else is not assessed, whatever the weights were drawn as.
            let is_learned = predicted.finding == Finding::PleuralEffusion;
            assert_eq!(predicted.is_assessed(), is_learned, "{predicted:?}");
            assert!(predicted.probability.is_none_or(f32::is_finite));
        }
        // And fractures, of which nothing is known, have the output of what nobody has seen.
        let logits = predictor.logits(&image).unwrap().flatten_all().unwrap();
        let logits: Vec<f32> = logits.to_vec1().unwrap();
        let fracture = logits[Finding::Fracture as usize];
        assert!(fracture < -3.47, "{fracture}");
    }
}

#[test]
fn what_uncertain_labels_count_as_is_said_and_follows_the_recipe() {
    for (key, said) in [
        (
            "",
            "14 labels of -1 are taken as absent: uncertain = \"zero\"",
        ),
        ("uncertain = \"one\"", "are taken as present"),
        ("uncertain = \"ignore\"", "are left out"),
    ] {
        let fixture = fixture(key);
        let labels = fixture.text("labels.csv");
        let changed = labels.lines().map(|line| match line.strip_suffix(",0") {
            Some(row) => format!("{row},-1\n"),
            None => format!("{line}\n"),
        });
        fixture.write("labels.csv", &changed.collect::<String>());
        let notes = fixture.training("out", false).unwrap().notes();
        assert!(notes.iter().any(|note| note.contains(said)), "{notes:?}");
    }
}

#[test]
fn a_score_that_no_validation_image_defines_is_empty_and_the_last_epoch_is_the_best() {
    let fixture = fixture("");
    let labels = fixture.text("labels.csv");
    let changed = labels
        .lines()
        .map(|line| match line.contains(",validate,") {
            true => line.replace(",1", ",0") + "\n",
            false => format!("{line}\n"),
        });
    fixture.write("labels.csv", &changed.collect::<String>());
    let notes = fixture.training("out", false).unwrap().notes();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("the last epoch counts as the best")),
        "{notes:?}"
    );
    let rows = fixture.run_whole("out");
    assert_eq!(
        (rows[1].get("macro_auc"), rows[1].get("macro_f1")),
        (None, None)
    );
    let csv = fixture.text("out/metrics.csv");
    let names: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let last: Vec<&str> = csv.lines().last().unwrap().split(',').collect();
    let place = names.iter().position(|name| *name == "macro_auc").unwrap();
    assert_eq!(last[place], "", "{csv}");
    let weights = |run: &str| fixture.bytes(&format!("out/{run}/findings.safetensors"));
    assert!(weights("best") == weights("last"));
}

#[test]
fn a_table_with_faults_stops_before_the_first_step() {
    let fixture = fixture("");
    let labels = fixture.text("labels.csv");
    let first = labels
        .lines()
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    let second = labels
        .lines()
        .nth(2)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    let changed = labels
        .replace(&first, "gone.png")
        .replace(&second, "lost.png");
    fixture.write("labels.csv", &changed);
    let error = fixture.training("out", false).err().unwrap().to_string();
    assert!(
        error.contains("gone.png") && error.contains("lost.png") && error.contains("line 3"),
        "{error}"
    );
    assert!(!fixture.path("out").exists(), "nothing was begun");
}

#[test]
fn the_loss_of_the_training_images_falls() {
    let fixture = fixture("");
    fixture.change_recipe("augment = true", "augment = false");
    let rows = fixture.run_whole("out");
    let loss = |row: usize| rows[row].get("train_loss").unwrap();
    let (first, last) = (loss(0), loss(1));
    assert!(last < first, "{first} then {last}");
}

#[test]
fn another_recipe_a_second_start_and_nothing_to_resume_are_refused() {
    let fixture = fixture("");
    let refusal = |out, resume| {
        fixture
            .training(out, resume)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal("out", true).contains("without --resume"));
    assert_eq!(
        fixture.run("out", false, 1).unwrap(),
        TrainingOutcome::Interrupted
    );
    assert!(refusal("out", false).contains("--resume"));
    fixture.change_recipe("rate = 1e-3", "rate = 1e-4");
    assert!(refusal("out", true).contains("another recipe"));
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_images_of_its_batch_and_keeps_the_checkpoint() {
    let fixture = fixture("checkpoint_steps = 1");
    fixture.change_recipe("rate = 1e-3", "rate = 1e30");
    let error = fixture.run("out", false, u64::MAX).unwrap_err();
    let TrainingError::NotANumber { step, samples } = &error else {
        panic!("{error}")
    };
    assert!(
        *step > 1 && samples.len() == 4 && samples[0].ends_with(".png"),
        "{error}"
    );
    assert!(
        fixture.training("out", true).is_ok(),
        "the checkpoint before is whole"
    );
}

#[test]
fn an_image_that_cannot_be_read_is_named() {
    let fixture = fixture("");
    fixture.write("images/binary.png", "not an image");
    let error = fixture.run("out", false, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("binary.png"), "{error}");
}

#[test]
fn a_save_that_fails_leaves_the_checkpoint_before() {
    let fixture = fixture("");
    assert_eq!(
        fixture.run("out", false, 1).unwrap(),
        TrainingOutcome::Interrupted
    );
    let before = fixture.bytes("out/last/findings.safetensors");
    // A file where the next checkpoint is written first.
    fixture.write("out/last.next", "in the way");
    assert!(fixture.run("out", true, 2).is_err());
    assert!(before == fixture.bytes("out/last/findings.safetensors"));
    fs::remove_file(fixture.path("out/last.next")).unwrap();
    assert_eq!(
        fixture.run("out", true, 2).unwrap(),
        TrainingOutcome::Interrupted
    );
}
