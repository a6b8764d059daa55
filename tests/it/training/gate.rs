//! `train gate`: resumed as if never interrupted, and weights that the gate loads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use candle_core::Device;
use radialog_models::input_gate::{InputGate, THRESHOLD};
use radialog_training::TrainingError;
use radialog_training::data::gate_images::GateSides;
use radialog_training::data::gate_pictures::GateImages;
use radialog_training::evaluation::gate;
use radialog_training::recipe::GateRecipe;
use radialog_training::trainers::{GateTrainer, Training};

use super::fixture::{RECIPE, TrainingFixture};

const EPOCHS: u64 = 2;

/// Ten frontal images to learn from, a lateral and another one, and two to validate.
fn fixture() -> TrainingFixture<GateTrainer> {
    let start = |recipe: &Path, out: &Path, resume| {
        Training::gate(GateRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    let fixture = TrainingFixture::new(start, Some(4 * EPOCHS));
    let names = fixture.copy_images("images");
    assert!(names.len() >= 14);
    let mut table = "image,split,view\n".to_owned();
    for (index, name) in names.iter().take(14).enumerate() {
        let split = if index < 12 { "train" } else { "validate" };
        let view = ["PA", "AP", "frontal", "lateral", "other"][match index {
            10 => 3,
            11 => 4,
            _ => index % 3,
        }];
        table += &format!("{name},{split},{view}\n");
    }
    fixture.write("images.csv", &table);
    let recipe = format!(
        "epochs = {EPOCHS}\nbatch_size = 8\nrate = 1e-3\n[[tables]]\ntable = \"images.csv\"\nimages = \"images\"\n"
    );
    fixture.write(RECIPE, &recipe);
    fixture
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes_as_an_uninterrupted_one() {
    let fixture = fixture();
    let whole = fixture.run_whole("whole");
    let parts = fixture.run_in_parts("parts", &[2, 5]);
    assert_eq!(whole, parts);
    fixture.assert_same_folders("whole", "parts");
    let last = whole.last().unwrap();
    let threshold = last.get("threshold").unwrap();
    let stored = &fixture.tensors("whole/last/weights.safetensors")[THRESHOLD];
    assert_eq!(stored.to_vec1::<f32>().unwrap(), [threshold as f32]);
}

#[test]
fn weights_of_a_training_are_measured_by_group() {
    let fixture = fixture();
    fixture.run_whole("out");
    let gate = InputGate::from_bytes(&fixture.bytes("out/best/weights.safetensors")).unwrap();
    let recipe = GateRecipe::read(&fixture.path(RECIPE)).unwrap().recipe;
    let sides = GateSides::read(&recipe.tables, &["train"]).unwrap();
    assert!(sides.validate.is_empty() && sides.test.is_empty());
    let pool = GateImages::of(sides.train, "train").unwrap();
    assert_eq!(pool.counts(), [10, 1, 1]);
    let groups = gate::counts(&gate, &pool.measured(1)).unwrap();
    let of = |name: &str| &groups[name];
    assert_eq!(groups["inverted"].pictures, 10);
    assert_eq!(of("turned by a half").pictures, 10);
    let frontal: Vec<_> = groups.values().filter(|group| group.are_frontal).collect();
    assert_eq!((frontal.len(), frontal[0].pictures), (1, 10));
    for group in groups.values() {
        let right = match group.are_frontal {
            true => group.pictures - group.warned,
            false => group.warned,
        };
        assert_eq!(right + group.wrong.len(), group.pictures);
    }
}

#[test]
fn each_side_is_measured_by_drawings_of_its_own() {
    let fixture = fixture();
    let recipe = GateRecipe::read(&fixture.path(RECIPE)).unwrap().recipe;
    let drawings = |side: &str| -> Vec<Vec<f32>> {
        let sides = GateSides::read(&recipe.tables, &["train"]).unwrap();
        let pictures = GateImages::of(sides.train, side).unwrap().measured(1);
        let drawn = pictures
            .into_iter()
            .filter(|picture| picture.group == "drawn");
        drawn.map(|picture| picture.levels).collect()
    };
    let test = drawings("test");
    assert!(test == drawings("test") && test != drawings("validate"));
}

#[test]
fn a_view_that_is_none_is_told_with_its_line_and_a_bundle_to_start_from_is_refused() {
    let fixture = fixture();
    let table = fixture.text("images.csv").replacen(",PA\n", ",obliq\n", 1);
    fixture.write("images.csv", &table);
    let error = fixture.training("out", false).err().unwrap().to_string();
    assert!(error.contains("line 2: 'obliq' is no view"), "{error}");
    fixture.write("images.csv", &table.replacen(",obliq\n", ",\n", 1));
    let error = fixture.training("out", false).err().unwrap().to_string();
    assert!(error.contains("line 2: '' is no view"), "{error}");
    fixture.change_recipe("epochs", "start = \"demo\"\nepochs");
    let error = fixture.training("out", false).err().unwrap();
    assert!(matches!(error, TrainingError::Recipe { .. }), "{error}");
}

#[test]
fn the_recipes_scripts_take_the_binary_by_its_path_from_where_they_are_called() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/training/recipes");
    for (script, folders) in [
        ("demo/train.sh", &["data", "out"][..]),
        ("gate/train.sh", &["data", "others", "out"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("radialog");
        fs::write(
            &binary,
            "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/calls\"\n",
        )
        .unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in &folders[..folders.len() - 1] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let output = Command::new("sh")
            .arg(recipes.join(script))
            .args(folders)
            .env("RADIALOG", "./radialog")
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert!(calls.contains("train "), "{script}: {calls}");
    }
}
