//! From a table of one's own to a bundle, by the command line: a tiny bundle, tiny trainings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::patience::InTime;
use super::{radialog, text};

/// How long a training of seconds may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Images of the table.
const IMAGES: usize = 14;

/// A folder with a tiny bundle, images and a table of them in a hospital's own words.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Self { dir };
        let random = ["bundle", "random", &fixture.name("start"), "--seed", "7"];
        assert!(radialog(&random).status.success());
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/golden/01_preprocess/images");
        fs::create_dir(fixture.path("xrays")).unwrap();
        let entries = fs::read_dir(&source).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".png")).collect();
        names.sort();
        assert!(names.len() >= IMAGES);
        let mut table = "Subject,Bild,Befund,oedema,effusion\n".to_owned();
        for (index, name) in names.iter().take(IMAGES).enumerate() {
            fs::copy(source.join(name), fixture.path("xrays").join(name)).unwrap();
            let (edema, heart) = (["yes", "no"][index % 2], ["large", "normal"][index % 3 % 2]);
            let effusion = ["1", "0", "-1", "", "nan"][index % 5];
            table += &format!(
                "p{},{name},\"The heart is {heart}, edema: {edema}.\",{edema},{effusion}\n",
                index / 2
            );
        }
        fs::write(fixture.path("mine.csv"), table).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let own = [
            "finetune",
            &self.name("mine.csv"),
            "--images",
            &self.name("xrays"),
            "--out",
            &self.name(out),
            "--bundle",
            &self.name("start"),
            "--image",
            "Bild",
            "--report",
            "Befund",
            "--finding",
            "Edema=oedema",
        ];
        own.iter()
            .chain(more)
            .map(|&argument| argument.to_owned())
            .collect()
    }

    fn finetune(&self, out: &str, more: &[&str]) -> Output {
        let arguments = self.arguments(out, more);
        radialog(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn manifest(&self, out: &str) -> String {
        fs::read_to_string(self.path(out).join("bundle/bundle.json")).unwrap()
    }
}

#[test]
fn a_table_becomes_a_bundle_and_a_model_card_and_the_same_command_goes_on_after_an_interruption() {
    let fixture = Fixture::new();
    let more = ["--epochs", "1"];
    let done = fixture.finetune("whole", &more);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}{}", text(&done.stderr));
    for part in [
        "image = Bild, report = Befund, patient = Subject, 2 columns of single findings",
        "the table has no split 'test': 1 patient drawn",
        "no row has a label of No Finding, Enlarged Cardiomediastinum, Cardiomegaly",
        "14 images with labels of the table",
        "findings: validation_loss on the validation rows",
        "language: validation_loss on the validation rows",
        "calibration: not fitted: too few",
        "on the test rows, with 95 % intervals over patients",
        "findings: Brier score (lower is better)",
        "only 1 patient is held out: no figure of so few says much",
        "reports of images: BLEU-4",
        "radialog serve --bundle",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    let verified = radialog(&["bundle", "verify", &fixture.name("whole/bundle")]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    for part in ["findings", "language"] {
        let recipe = format!("whole/recipes/{part}.toml");
        let recipe = fs::read_to_string(fixture.path(&recipe)).unwrap();
        for line in [
            "batch_size = 2",
            "accumulation = 1",
            "epochs = 1",
            "patience = 5",
        ] {
            let is_there = recipe.lines().any(|of| of == line);
            assert!(is_there, "{part}: {line}:\n{recipe}");
        }
    }
    let card = fs::read_to_string(fixture.path("whole/MODEL_CARD.md")).unwrap();
    for part in [
        "Research software",
        "| test | 2 | 1 |",
        "- the table has no split 'test': 1 patient drawn",
        "- 14 images with labels of the table",
        "| score | before | after |",
    ] {
        assert!(card.contains(part), "{part}:\n{card}");
    }

    // Again: nothing is trained anew. With other options it is another one.
    let again = fixture.finetune("whole", &more);
    assert!(again.status.success());
    assert!(
        !text(&again.stderr).contains("training samples"),
        "{}",
        text(&again.stderr)
    );
    let other = fixture.finetune("whole", &["--epochs", "3"]);
    assert_eq!(other.status.code(), Some(64));
    assert!(
        text(&other.stderr).contains("another options"),
        "{}",
        text(&other.stderr)
    );

    // Interrupted in the first training, and gone on with, it gives the same bundle.
    let arguments = fixture.arguments("parts", &more);
    let child = Command::new(env!("CARGO_BIN_EXE_radialog"))
        .args(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !fixture.path("parts/findings/start.json").exists() {
        assert!(begun.elapsed() < PATIENCE, "no training begins");
        thread::sleep(Duration::from_millis(5));
    }
    let told = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    // It may have come to its end just before.
    let code = child.output_in_time().unwrap().status.code();
    assert!(matches!(code, Some(130 | 0)), "{code:?}");
    let rest = fixture.finetune("parts", &more);
    assert!(rest.status.success(), "{}", text(&rest.stderr));
    assert_eq!(fixture.manifest("whole"), fixture.manifest("parts"));

    // Killed while it measures the start of its second training, it leaves nothing behind that is in the way.
    let arguments = fixture.arguments("killed", &more);
    let mut child = Command::new(env!("CARGO_BIN_EXE_radialog"))
        .args(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !fixture.path("killed/recipes/language.toml").exists() {
        assert!(begun.elapsed() < PATIENCE, "no second training begins");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = fixture.finetune("killed", &more);
    assert!(rest.status.success(), "{}", text(&rest.stderr));
    assert_eq!(fixture.manifest("whole"), fixture.manifest("killed"));
    let left = fs::read_dir(fixture.path("killed")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with(".start")).collect();
    assert!(left.is_empty(), "{left:?}");

    // Other images, or another name, are another fine-tuning.
    fs::rename(fixture.path("xrays"), fixture.path("moved")).unwrap();
    let moved = fixture.name("moved");
    let mut other = fixture.arguments("whole", &more);
    for argument in &mut other {
        if *argument == fixture.name("xrays") {
            argument.clone_from(&moved);
        }
    }
    other.extend(["--name", "mine"].map(str::to_owned));
    let other = radialog(&other.iter().map(String::as_str).collect::<Vec<_>>());
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(64), "{said}");
    assert!(said.contains("another folder of images and name"), "{said}");
}

#[test]
fn all_faults_of_a_table_are_told_at_once_with_their_lines() {
    let fixture = Fixture::new();
    let table = fs::read_to_string(fixture.path("mine.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    let image = |line: usize| lines[line].split(',').nth(1).unwrap();
    fs::write(fixture.path("xrays").join(image(2)), "no image").unwrap();
    fs::remove_file(fixture.path("xrays").join(image(3))).unwrap();
    let changed: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| match number {
            0 => format!("{line},fold"),
            1 => format!("{line},val"),
            2 => format!("{line},train"),
            4 => format!(
                "{}perhaps,train",
                line.trim_end_matches(|letter| letter != ',')
            ),
            5 => format!("{line},third"),
            6 => format!("{},train", line.replace(image(6), image(7))),
            _ => format!("{line},train"),
        })
        .collect();
    fs::write(
        fixture.path("mine.csv"),
        changed.join("\n") + "\nshort,row\n",
    )
    .unwrap();
    let refused = fixture.finetune("out", &["--split", "fold"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(64), "{said}");
    for part in [
        "line 3: patient 'p0' is on two sides: train here, validate in line 2",
        "line 3: '",
        "line 4: there is no image",
        "line 5: Pleural Effusion: 'perhaps' is not a label",
        "line 6: split 'third' (1 row) is none of train, validate, test",
        "line 8: image '",
        "line 16: 2 values under 6 names",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    assert!(!fixture.path("out").exists(), "nothing was begun");
    let none = fixture.finetune("out", &["--finding", "Oedema=x"]);
    assert_eq!(none.status.code(), Some(64));
    let columns = fixture.finetune("out", &["--patient", "pid", "--labels", "l"]);
    let said = text(&columns.stderr);
    assert!(
        said.contains("no column 'pid'") && said.contains("no column 'l'"),
        "{said}"
    );
}

#[test]
fn a_check_says_what_would_be_trained_and_of_which_findings_there_is_too_little() {
    let fixture = Fixture::new();
    let checked = fixture.finetune("out", &["--check", "--labeler"]);
    let said = text(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", text(&checked.stderr));
    for part in [
        "findings: 10 labelled images to train on, 2 to choose the best by",
        "findings: fewer than 10 training images with, or without, Edema (",
        "labeler: 10 reports with labels of the table to train on",
        "language: 10 images with reports to train on, 2 to choose the best by",
        "of them -1, which are left out",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    assert!(!fixture.path("out").exists());

    // A place that others have is refused as the training would refuse it.
    fs::create_dir(fixture.path("results")).unwrap();
    fs::write(fixture.path("results/results.jsonl"), "").unwrap();
    for (place, what) in [
        ("mine.csv", "is no folder"),
        ("results", "has the results of a run"),
    ] {
        let refused = fixture.finetune(place, &["--check"]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(said.contains(what), "{said}");
    }

    // A column of names knows nothing of what it never names.
    let table = fs::read_to_string(fixture.path("mine.csv")).unwrap();
    let named = table.lines().enumerate().map(|(line, text)| match line {
        0 => "Subject,Bild,Befunde\n".to_owned(),
        line => {
            let cells: Vec<&str> = text.split(',').collect();
            let found = ["Edema|Cardiomegaly", "No Finding", "Effusion"][line % 3];
            format!("{},{},{found}\n", cells[0], cells[1])
        }
    });
    fs::write(fixture.path("named.csv"), named.collect::<String>()).unwrap();
    let own = [
        "finetune",
        &fixture.name("named.csv"),
        "--images",
        &fixture.name("xrays"),
        "--image",
        "Bild",
    ];
    let more = [
        "--labels",
        "Befunde",
        "--out",
        &fixture.name("out"),
        "--bundle",
        &fixture.name("start"),
        "--check",
    ];
    let checked = radialog(&[&own[..], &more].concat());
    let said = text(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", text(&checked.stderr));
    assert!(
        said.contains("no row names Enlarged Cardiomediastinum, Lung Opacity"),
        "{said}"
    );
    assert!(!said.contains("no training image has"), "{said}");

    // Where nothing can be trained, nothing is begun.
    let constant = table.lines().enumerate().map(|(line, text)| match line {
        0 => "Subject,Bild,Edema\n".to_owned(),
        _ => {
            let cells: Vec<&str> = text.split(',').collect();
            format!("{},{},1\n", cells[0], cells[1])
        }
    });
    fs::write(fixture.path("constant.csv"), constant.collect::<String>()).unwrap();
    for check in [&["--check"][..], &[]] {
        let (table, images, out) = (
            fixture.name("constant.csv"),
            fixture.name("xrays"),
            fixture.name("out"),
        );
        let start = fixture.name("start");
        let own = ["finetune", &table, "--images", &images, "--image", "Bild"];
        let more = ["--out", &out, "--bundle", &start];
        let refused = radialog(&[&own[..], &more, check].concat());
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(
            said.contains("the table allows no training: findings: would not be trained"),
            "{said}"
        );
        assert!(!fixture.path("out").exists());
    }

    // A folder that was forgotten is one fault.
    let source = fixture.path("xrays");
    fs::rename(&source, fixture.path("elsewhere")).unwrap();
    fs::create_dir(&source).unwrap();
    let refused = fixture.finetune("out", &["--check"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(
        said.contains("none of the 14 images is there") && said.contains("--images"),
        "{said}"
    );
    assert_eq!(said.matches("mine.csv' line").count(), 1, "{said}");
}

#[test]
fn a_table_of_reports_alone_is_labelled_by_chexbert_and_can_be_checked_first() {
    let fixture = Fixture::new();
    let table = fs::read_to_string(fixture.path("mine.csv")).unwrap();
    let kept = table.lines().map(|line| {
        let (kept, _) = line.rsplit_once(',').unwrap();
        kept.rsplit_once(',').unwrap().0.to_owned()
    });
    fs::write(
        fixture.path("mine.csv"),
        kept.collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    let run = |more: &[&str]| {
        let own = [
            "finetune",
            &fixture.name("mine.csv"),
            "--images",
            &fixture.name("xrays"),
            "--out",
            &fixture.name("out"),
            "--bundle",
            &fixture.name("start"),
            "--image",
            "Bild",
            "--report",
            "Befund",
        ];
        let done = radialog(&[&own, more].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        text(&done.stdout)
    };
    let checked = run(&["--check"]);
    for part in [
        "no fault found; it has reports",
        "14 images whose reports CheXbert would label",
        "language: ",
    ] {
        assert!(checked.contains(part), "{part}:\n{checked}");
    }
    assert!(!fixture.path("out").exists());
    let said = run(&["--epochs", "1", "--only", "language"]);
    let card = fs::read_to_string(fixture.path("out/MODEL_CARD.md")).unwrap();
    let read = "14 images with labels that the start's CheXbert read from their report";
    let of_test = "2 of 2 labelled test images have the labels that the start's CheXbert read";
    for (part, told) in [
        (read, &said),
        (read, &card),
        (of_test, &said),
        (of_test, &card),
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    assert!(
        !fixture.path("out/findings").exists(),
        "only the language model was asked for"
    );
}

#[test]
fn the_labeler_alone_is_trained_where_it_alone_is_asked_for() {
    let fixture = Fixture::new();
    let done = fixture.finetune("out", &["--only", "labeler", "--epochs", "1"]);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}{}", text(&done.stderr));
    let result = said.lines().find(|line| line.starts_with("labeler: "));
    let result = result.expect(&said);
    assert!(result.contains("on the validation rows") && result.contains("(1 epochs)"));
    for file in [
        "recipes/labeler.toml",
        "labeler/best",
        "labeler/finetuned.json",
    ] {
        assert!(fixture.path("out").join(file).exists(), "{file}");
    }
    for part in ["findings", "language"] {
        assert!(!fixture.path("out").join(part).exists(), "{part}");
    }
    let verified = radialog(&["bundle", "verify", &fixture.name("out/bundle")]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}
