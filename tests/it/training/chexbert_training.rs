//! `train chexbert` from a recipe to checkpoints.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use radialog_models::bundle::RandomBundle;
use radialog_models::bundle::components::ReportLabeler;
use radialog_schemas::{Finding, Label, Stage};
use radialog_training::recipe::ChexbertRecipe;
use radialog_training::trainers::{ChexbertTrainer, Training};

use super::fixture::{RECIPE, TrainingFixture};

const EPOCHS: u64 = 6;

/// 24 training and 8 validation reports about edema, there or denied.
fn fixture() -> TrainingFixture<ChexbertTrainer> {
    let start = |recipe: &Path, out: &Path, resume| {
        Training::chexbert(ChexbertRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    // 24 reports are five batches.
    let fixture = TrainingFixture::new(start, Some(5 * EPOCHS));
    RandomBundle::tiny(7).write(&fixture.path("start")).unwrap();
    let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
    let mut table = format!("split,findings,{}\n", names.join(","));
    for index in 0..32 {
        let (text, label) = if index % 2 == 0 {
            ("There is edema", "1")
        } else {
            ("No edema is seen", "0")
        };
        let split = if index < 24 { "train" } else { "validate" };
        let cells = Finding::ALL.map(|finding| if finding == Finding::Edema { label } else { "" });
        table += &format!("{split},{text} in study {index}.,{}\n", cells.join(","));
    }
    table += &format!("train,,{}\n", ",".repeat(13));
    fixture.write("reports.csv", &table);
    fixture.write(
        RECIPE,
        &format!(
            "reports = \"reports.csv\"\nstart = \"start\"\nepochs = {EPOCHS}\nbatch_size = 5\nrate = 1e-3\nclip = 1.0\n"
        ),
    );
    fixture
}

#[test]
fn dropout_goes_on_where_it_was_so_that_a_resumed_training_ends_with_the_same_bytes() {
    let fixture = fixture();
    fixture.run_whole("whole");
    fixture.run_in_parts("parts", &[7]);
    fixture.assert_same_bytes(
        "whole",
        "parts",
        &["scoring.safetensors", "optimizer.safetensors"],
    );
}

#[test]
fn reports_without_a_text_or_a_label_are_counted() {
    let fixture = fixture();
    let blank = ",".repeat(13);
    let table = fixture.text("reports.csv");
    // Of a side that nothing reads, and one of validation without a label.
    let table = format!("{table}test,,{blank}\nvalidate,No edema is seen.,{blank}\n");
    fixture.write("reports.csv", &table);
    let notes = || fixture.training("out", false).unwrap().notes();
    let without_text = "1 row of train and validate has no text: not read";
    assert_eq!(notes(), [without_text]);
    fixture.change_recipe("epochs", "zero = \"blank\"\nepochs");
    let without_label = "1 row of train and validate has no label: not read";
    assert_eq!(notes(), [without_label, without_text]);
}

#[test]
fn the_labeler_learns_to_tell_a_finding_from_its_denial_and_is_served_from_its_checkpoint() {
    let fixture = fixture();
    let rows = fixture.run_whole("out");
    let loss = |row: usize| rows[row].get("train_loss").unwrap();
    assert!(
        loss(rows.len() - 1) < 0.5 * loss(0),
        "{} then {}",
        loss(0),
        loss(rows.len() - 1)
    );
    let bundle = fixture.bundle("out/best", Stage::Scoring);
    let labeler = ReportLabeler::load(&bundle, &Device::Cpu).unwrap();
    let label =
        |text: &str| labeler.label(&[labeler.encode(text).unwrap()]).unwrap()[0][&Finding::Edema];
    assert_eq!(label("There is edema in study 28."), Label::Positive);
    assert_eq!(label("No edema is seen in study 29."), Label::Negative);
}

#[test]
fn findings_that_a_labeler_has_read_are_learned_and_not_scored() {
    let fixture = fixture();
    let (recipe, table) = (fixture.text(RECIPE), fixture.text("reports.csv"));
    let measured = |read: &str| -> HashMap<&'static str, Option<f64>> {
        fixture.write(RECIPE, &format!("read = {read}\n{recipe}"));
        let training = fixture.training("out", false).unwrap();
        training.validate().unwrap().into_iter().collect()
    };
    let edema = measured("[]");
    // What the start has read: a fracture in every third report.
    let column = 2 + Finding::Fracture as usize;
    let rows = table.lines().enumerate().map(|(line, row)| {
        let mut cells: Vec<&str> = row.split(',').collect();
        if line > 0 {
            cells[column] = ["1", "0", "0"][line % 3];
        }
        cells.join(",") + "\n"
    });
    fixture.write("reports.csv", &rows.collect::<String>());
    let both = measured("[]");
    let alone = measured("[\"Fracture\"]");
    assert_eq!(alone["macro_f1"], edema["macro_f1"]);
    assert_eq!(alone["validation_loss"], both["validation_loss"]);
    assert_ne!(alone["validation_loss"], edema["validation_loss"]);
    // Of no third finding there are both answers.
    assert!(both["macro_f1"].is_some());
    let none = measured("[\"Edema\", \"Fracture\"]");
    assert_eq!(none["macro_f1"], None);
}
