//! Learning from the demo bundle by its name, and probabilities that are right as often as they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::patience::InTime;
use super::{radialog, text};

/// A folder with images of which every second one has a finding.
struct Fixture {
    dir: tempfile::TempDir,
    names: Vec<String>,
}

/// What a command has said, after it succeeded.
fn succeeded(arguments: &[&str]) -> String {
    let done = radialog(arguments);
    let said = text(&done.stdout) + &text(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {said}");
    said
}

impl Fixture {
    /// Each of the fixtures' images so many times, by another name each.
    fn new(times: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/golden/01_preprocess/images");
        let entries = fs::read_dir(&source).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut originals: Vec<String> = names.filter(|name| name.ends_with(".png")).collect();
        originals.sort();
        let mut names = Vec::new();
        for time in 0..times {
            for original in &originals {
                let name = format!("{time}-{original}");
                fs::copy(source.join(original), dir.path().join(&name)).unwrap();
                names.push(name);
            }
        }
        Self { dir, names }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a table of all images: the split and the label of Edema of each.
    fn write_table(&self, of: impl Fn(usize, &str) -> (&'static str, bool)) {
        let mut table = "image,study_id,split,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,\
                         Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
            .to_owned();
        for (index, name) in self.names.iter().enumerate() {
            let (split, edema) = of(index, name);
            table += &format!(
                "{name},s{index},{split},,,,,,{}{}\n",
                u8::from(edema),
                ",".repeat(8)
            );
        }
        fs::write(self.path("labels.csv"), table).unwrap();
    }
}

#[test]
fn a_training_starts_from_the_demo_bundle_by_its_name_and_its_terms_go_with_what_comes_of_it() {
    let fixture = Fixture::new(1);
    fixture.write_table(|index, _| (["train", "train", "validate"][index % 3], index % 2 == 0));
    // Fractures, too, which the demo bundle does not assess.
    let table = fs::read_to_string(fixture.path("labels.csv")).unwrap();
    let rows = table.lines().enumerate().map(|(number, row)| match number {
        0 => format!("{row}\n"),
        _ => {
            let edema = row.split(',').nth(8).unwrap();
            format!("{}{edema},\n", row.strip_suffix(',').unwrap())
        }
    });
    fs::write(fixture.path("labels.csv"), rows.collect::<String>()).unwrap();
    let recipe = fixture.name("recipe.toml");
    let text_of_recipe = "start = \"demo\"\nepochs = 1\nbatch_size = 4\n[[tables]]\nlabels = \"labels.csv\"\nimages = \".\"\n";
    fs::write(&recipe, text_of_recipe).unwrap();
    let out = fixture.name("run");
    succeeded(&["train", "findings", &recipe, "--out", &out]);
    let manifest = |dir: &str| -> serde_json::Value {
        let manifest = fs::read_to_string(fixture.path(dir).join("bundle.json")).unwrap();
        serde_json::from_str(&manifest).unwrap()
    };
    let license = |dir: &str| manifest(dir)["license"].as_str().unwrap().to_owned();
    let assessed = manifest("run/best")["components"]["findings"]["config"]["assessed"].clone();
    let assessed: Vec<String> = serde_json::from_value(assessed).unwrap();
    assert_eq!(assessed.len(), 12, "eleven of the demo's: {assessed:?}");
    assert_eq!(assessed[11], "Fracture");
    let terms = license("run/best");
    assert!(terms.contains("CC BY-NC-ND 4.0"), "{terms}");
    let (best, mine) = (fixture.name("run/best"), fixture.name("mine"));
    let demo = [
        "--embedding",
        "demo",
        "--language",
        "demo",
        "--scoring",
        "demo",
    ];
    let own = [
        "bundle",
        "assemble",
        &mine,
        "--findings",
        &best,
        "--name",
        "mine",
    ];
    succeeded(&[&own[..], &demo].concat());
    assert_eq!(license("mine"), terms, "each term once");
    assert!(succeeded(&["bundle", "verify", &mine]).contains("is whole"));
    assert!(succeeded(&["bundle", "show", "demo"]).contains("bundle 'demo'"));
    let image = fixture.name(&fixture.names[0]);
    let options = ["--json", "--max-new-tokens", "1"];
    let record = succeeded(&[&["report", &image, "--bundle", &mine], &options[..]].concat());
    let record: serde_json::Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    let probability = |finding: &str| {
        let all = record["findings"].as_array().unwrap();
        let of = all.iter().find(|each| each["finding"] == finding);
        of.unwrap()["probability"].clone()
    };
    assert!(probability("Fracture").is_number(), "{record}");
    assert!(probability("Support Devices").is_null(), "{record}");

    // A folder of that name may be meant as well.
    let here = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        command
            .args(arguments)
            .current_dir(fixture.dir.path())
            .output_in_time()
            .unwrap()
    };
    fs::rename(&mine, fixture.path("demo")).unwrap();
    for arguments in [
        &["bundle", "show", "demo"][..],
        &["train", "findings", "recipe.toml", "--out", "other"],
        &[
            "evaluate",
            "bundle",
            "--bundle",
            "demo",
            "--nih",
            "labels.csv",
            ".",
            "--split",
            "validate",
            "--out",
            "q.json",
        ],
    ] {
        let refused = here(arguments);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}: {said}");
        assert!(said.contains("./demo"), "{said}");
    }
    let shown = here(&["bundle", "show", "./demo"]);
    assert!(text(&shown.stdout).contains("bundle 'mine'"));
}

#[test]
fn probabilities_are_calibrated_and_thresholds_kept_in_the_bundle() {
    let fixture = Fixture::new(3);
    let (start, out) = (fixture.name("start"), fixture.name("calibrated"));
    succeeded(&["bundle", "random", &start, "--seed", "7"]);
    let predict = |bundle: &str, name: &str| -> (Vec<Vec<String>>, Vec<f32>) {
        let (json, tensors) = (
            fixture.name(&format!("{name}.json")),
            fixture.name(&format!("{name}.safetensors")),
        );
        let own = [
            "prepare",
            "findings",
            "--images",
            &fixture.name("labels.csv"),
            "--bundle",
            bundle,
        ];
        succeeded(&[&own[..], &["--out", &json, "--probabilities", &tensors]].concat());
        let listed: std::collections::BTreeMap<String, Vec<String>> =
            serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        let content = fs::read(&tensors).unwrap();
        let length = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&content[8..8 + length]).unwrap();
        let edema = |index: usize| {
            let begin = header[format!("s{index}")]["data_offsets"][0]
                .as_u64()
                .unwrap() as usize;
            let at = 8 + length + begin + 4 * 5;
            f32::from_le_bytes(content[at..at + 4].try_into().unwrap())
        };
        let listed = (0..fixture.names.len()).map(|index| listed[&format!("s{index}")].clone());
        (
            listed.collect(),
            (0..fixture.names.len()).map(edema).collect(),
        )
    };
    fixture.write_table(|_, _| ("validate", false));
    let (_, before) = predict(&start, "before");
    let mut sorted = before.clone();
    sorted.sort_by(f32::total_cmp);
    // A third of the images have it: those of the largest probabilities, whatever these are.
    let from = sorted[sorted.len() * 2 / 3];
    fixture.write_table(|index, _| ("validate", before[index] >= from));
    let table = [fixture.name("labels.csv"), fixture.name("")];
    let said = succeeded(&[
        "bundle",
        "calibrate",
        &start,
        &out,
        "--images",
        &table[0],
        &table[1],
    ]);
    assert!(
        said.contains("Edema") && said.contains("Brier score"),
        "{said}"
    );
    assert!(!said.contains("have training images"), "{said}");
    assert!(succeeded(&["bundle", "verify", &out]).contains("is whole"));
    let page = fs::read_to_string(fixture.path("calibrated/reliability.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "before and after");

    let (listed, after) = predict(&out, "after");
    for ((listed, before), after) in listed.iter().zip(&before).zip(&after) {
        let is_there = *before >= from;
        assert_eq!(
            listed.iter().any(|name| name == "Edema"),
            is_there,
            "{before} became {after}"
        );
    }
    let mean = |of: &dyn Fn(usize) -> bool| {
        let chosen: Vec<f32> = (0..after.len())
            .filter(|&index| of(index))
            .map(|index| after[index])
            .collect();
        chosen.iter().sum::<f32>() / chosen.len() as f32
    };
    let (with, without) = (
        mean(&|index| before[index] >= from),
        mean(&|index| before[index] < from),
    );
    assert!(with > 0.7 && without < 0.2, "{with} {without}");

    // In this table, an image of another one is a patient who trains.
    let names = &fixture.names;
    let labels = fs::read_to_string(fixture.path("labels.csv")).unwrap();
    let (header, _) = labels.split_once('\n').unwrap();
    let blank = ",".repeat(14);
    let rows = format!(
        "{},other,validate{blank}\n{},{},train{blank}\n",
        names[0], names[1], names[0]
    );
    let header = header.replace("study_id", "patient_id");
    fs::write(fixture.path("trained.csv"), format!("{header}\n{rows}")).unwrap();
    let said = succeeded(&[
        "bundle",
        "calibrate",
        &start,
        &fixture.name("again"),
        "--images",
        &table[0],
        &table[1],
        "--images",
        &fixture.name("trained.csv"),
        &table[1],
    ]);
    let caution = "1 patient of this split has training images in these tables";
    assert!(said.contains(caution), "{said}");

    // Too few to fit anything on.
    fixture.write_table(|index, _| ("validate", index == 0));
    let few = radialog(&[
        "bundle",
        "calibrate",
        &start,
        &fixture.name("none"),
        "--images",
        &table[0],
        &table[1],
    ]);
    assert_eq!(few.status.code(), Some(64));
    assert!(
        text(&few.stderr).contains("too few"),
        "{}",
        text(&few.stderr)
    );
    assert!(!fixture.path("none").exists());
}
