//! `radialog evaluate text` and `radialog rexrank` on files: what is printed, what is refused and how.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[allow(unreachable_pub, reason = "a module of a library, too")]
#[path = "../../../tests/src/patience.rs"]
mod patience;

use patience::InTime;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn radialog(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
    for service in ["AMQP_URL", "S3_URL", "REDIS_URL", "CONFIG"] {
        command.env_remove(format!("RADIALOG_{service}"));
    }
    command.args(arguments).output_in_time().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn score(hypotheses: &str, references: &str, more: &[&str]) -> Output {
    let files = ["--hypotheses", hypotheses, "--references", references];
    radialog(&[&["evaluate", "text"][..], &files, more].concat())
}

fn value(scores: &Value, name: &str) -> f64 {
    let scores = scores["scores"].as_array().unwrap();
    let score = scores.iter().find(|score| score["name"] == name);
    score.unwrap()["value"].as_f64().unwrap()
}

#[test]
fn texts_are_scored_into_one_json_object_that_names_empty_rows_by_their_lines() {
    let folder = Folder::new();
    let hypotheses = folder.write("h.csv", "\"No effusion.\nClear.\"\nnan\nx\nNo edema.\n");
    let references = folder.write(
        "r.csv",
        "\"No effusion.\nClear.\"\nClear.\n\"\"\nNo edema.\n",
    );
    let output = score(&hypotheses, &references, &["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["scored", "empty_hypotheses", "skipped"].map(|name| scores[name].as_u64());
    assert_eq!(counts, [Some(3), Some(1), Some(1)]);
    let lines: Vec<(u64, u64)> = scores["remarks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| ["hypothesis_line", "reference_line"].map(|line| r[line].as_u64().unwrap()))
        .map(|[hypothesis, reference]| (hypothesis, reference))
        .collect();
    assert_eq!(lines, [(3, 3), (4, 4)]);
    assert!(
        (value(&scores, "ROUGE-L") - 2.0 / 3.0).abs() < 1e-9,
        "{scores}"
    );
    // The words of the reference whose hypothesis is empty are not found.
    let meteor = value(&scores, "METEOR (exact, stem; no function words)");
    assert!(meteor > 0.5 && meteor < 1.0, "{meteor}");
    let all_better = scores["scores"].as_array().unwrap();
    assert!(all_better.iter().all(|score| score["better"] == "higher"));
}

#[test]
fn files_that_do_not_fit_each_other_or_no_rows_are_refused_with_what_to_do() {
    let folder = Folder::new();
    let (two, three) = (
        folder.write("2.csv", "a\nb\n"),
        folder.write("3.csv", "a\nb\nc\n"),
    );
    let (blank, cells) = (
        folder.write("b.csv", "a\n\nb\n"),
        folder.write("c.csv", "a\nb, c\n"),
    );
    let nothing = folder.write("n.csv", "nan\n\"\"\n");
    for (hypotheses, references, code, expected) in [
        (&two, &three, 64, "2 rows and"),
        (&three, &two, 64, "has 2"),
        (&blank, &two, 64, "line 2 is blank"),
        (&two, &cells, 64, "line 2 has more than one cell"),
        (&two, &nothing, 64, "none of the 2 rows has a reference"),
    ] {
        for protocol in ["radialog-2023", "coco-caption"] {
            let output = score(hypotheses, references, &["--protocol", protocol]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{error}");
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
    let output = score(&two, &two, &["--protocol", "rexrank", "--meteor", "x"]);
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn every_score_of_plain_files_has_an_interval_that_its_seed_determines() {
    let folder = Folder::new();
    let (mut hypotheses, mut references) = (String::new(), String::new());
    for row in 0..40 {
        // Two kinds: what every reference says has no weight in CIDEr.
        let said = ["The heart is large", "The lungs are clear"][row % 2];
        references += &format!("{said} in study {row}.\n");
        hypotheses += &match row % 3 {
            0 => "Nothing.\n".to_owned(),
            _ => format!("{said}{}.\n", " and so on".repeat(row % 7)),
        };
    }
    let (hypotheses, references) = (
        folder.write("h.csv", &hypotheses),
        folder.write("r.csv", &references),
    );
    let scores = |more: &[&str]| -> Value {
        let protocol = ["--protocol", "coco-caption", "--json"];
        let output = score(&hypotheses, &references, &[&protocol[..], more].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let first = scores(&[]);
    for of in first["scores"].as_array().unwrap() {
        let [low, value, high] = ["low", "value", "high"].map(|name| of[name].as_f64().unwrap());
        assert!(low < value && value < high, "{of}");
    }
    assert_eq!(first["scores"].as_array().unwrap().len(), 7);
    assert_eq!(first, scores(&["--seed", "42", "--resamples", "1000"]));
    let other = scores(&["--seed", "1"]);
    assert_ne!(first["scores"], other["scores"]);
    assert_eq!(first["scores"][0]["value"], other["scores"][0]["value"]);
    let output = score(&hypotheses, &references, &[]);
    let printed = text(&output.stdout);
    assert!(
        printed.contains("bootstrap of 1000 resamples over texts") && printed.contains("] "),
        "{printed}"
    );
}

#[test]
fn a_header_another_encoding_or_a_file_that_is_not_there_is_named_and_long_texts_are_skipped() {
    let folder = Folder::new();
    let two = folder.write("2.csv", "a\nb\n");
    let write = |name: &str, content: &[u8]| {
        fs::write(folder.path(name), content).unwrap();
        folder.path(name)
    };
    let utf_16: Vec<u8> = "a\nb\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (file, code, expected) in [
        (
            folder.write("h.csv", "report\na\n"),
            64,
            "line 1 is the header 'report'",
        ),
        (
            folder.write("i.csv", "id,report\n1,a\n"),
            64,
            "line 1 is the header 'id,report'",
        ),
        (write("16.csv", &utf_16), 64, "UTF-16"),
        (
            write("l1.csv", b"a\nDegr\xe9\n"),
            64,
            "line 2 cannot be read: it is not UTF-8",
        ),
        (folder.path("nowhere.csv"), 64, "there is no '"),
    ] {
        for [hypotheses, references] in [[&file, &two], [&two, &file]] {
            let output = score(hypotheses, references, &[]);
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{error}");
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
    let output = score(&two, &two, &["--meteor", &folder.path("nowhere.jar")]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    let long = folder.write("l.csv", &format!("{}\nb\n", "effusion ".repeat(20_000)));
    for protocol in ["radialog-2023", "coco-caption"] {
        let output = score(&long, &long, &["--protocol", protocol, "--json"]);
        let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!([&scores["scored"], &scores["skipped"]], [1, 1], "{scores}");
        assert!(
            scores["remarks"][0]["remark"]
                .to_string()
                .contains("too long")
        );
        assert_eq!(value(&scores, "ROUGE-L"), 1.0);
    }
}

#[test]
fn pipes_are_read_where_once_is_enough_and_refused_where_it_is_not() {
    let folder = Folder::new();
    let file = folder.write("t.csv", "Clear.\nSmall effusion.\n");
    let piped = |protocol: &str, references: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_radialog"));
        let mut child = command
            .args(["evaluate", "text", "--hypotheses", "/dev/stdin"])
            .args(["--references", references, "--protocol", protocol])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // One that refuses the pipe does not read it.
        let _ = stdin.write_all(&fs::read(&file).unwrap());
        drop(stdin);
        child.output_in_time().unwrap()
    };
    let output = piped("radialog-2023", &file);
    assert!(
        text(&output.stdout).starts_with("2 texts scored"),
        "{output:?}"
    );
    for (protocol, references, expected) in [
        ("coco-caption", file.as_str(), "'/dev/stdin' is a pipe"),
        ("radialog-2023", "/dev/stdin", "are one pipe"),
        ("radialog-2023", "/dev/fd/0", "are one pipe"),
    ] {
        let output = piped(protocol, references);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn rexranks_scores_come_from_annotations_and_what_has_none_is_named() {
    let folder = Folder::new();
    let texts = folder.write("t.csv", "Small effusion.\nClear.\n");
    let graph = r#"{"entities": {"1": {"tokens": "effusion", "label": "OBS-DP", "relations": [["modify", "2"]]},
        "2": {"tokens": "small", "label": "OBS-DP", "relations": []}}}"#;
    let graphs = folder.write("g.json", &format!(r#"{{"0": {graph}, "1": {graph}}}"#));
    let parts = folder.write("s.csv", "bertscore,semb_score\n1,1\n1,1\n");
    let protocol = ["--protocol", "rexrank", "--json"];
    let plain = score(&texts, &texts, &protocol);
    let plain: Value = serde_json::from_slice(&plain.stdout).unwrap();
    assert_eq!(value(&plain, "BLEU-2 (mean of texts)"), 1.0);
    let missing = plain["not_computed"].to_string();
    for name in ["RadGraph F1", "RadCliQ-v1", "BERTScore", "GREEN"] {
        assert!(missing.contains(name), "{name}: {missing}");
    }
    let files = [
        "--radgraph-hypotheses",
        &graphs,
        "--radgraph-references",
        &graphs,
    ];
    let parts = ["--report-scores", &parts];
    let scored = score(&texts, &texts, &[&protocol[..], &files, &parts].concat());
    let scored: Value = serde_json::from_slice(&scored.stdout).unwrap();
    assert_eq!(value(&scored, "RadGraph F1"), 1.0);
    assert!(
        (value(&scored, "RadCliQ-v1") + 1.440_69).abs() < 1e-4,
        "{scored}"
    );
    assert!(scored["scores"].to_string().contains("lower"), "{scored}");

    // A row without a reference is not scored, and needs no number; a row too many is of other texts.
    let (blank, rows) = (
        folder.write("b.csv", "Small effusion.\nnan\n"),
        folder.write("n.csv", "bertscore,semb_score\n1,1\nNaN,\n"),
    );
    let rows = ["--report-scores", &rows];
    let output = score(&texts, &blank, &[&protocol[..], &files, &rows].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = score(&texts, &texts, &[&protocol[..], &files, &rows].concat());
    let error = text(&output.stderr);
    assert!(error.contains("line 3: \"NaN\" is no number"), "{error}");
    let rows = folder.write("m.csv", "bertscore,semb_score\n1,1\n1,1\n1,1\n");
    let more = ["--report-scores", &rows];
    let output = score(&texts, &texts, &[&protocol[..], &files, &more].concat());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(
        error.contains("has 3 rows, and there are 2 texts"),
        "{error}"
    );

    // Nothing is in an empty text: CXR-Report-Metric does not annotate it, and counts no match.
    let few = folder.write("f.json", &format!(r#"[{graph}]"#));
    let blank = folder.write("e.csv", "Small effusion.\n\"\"\n");
    let half = [
        "--radgraph-hypotheses",
        &few,
        "--radgraph-references",
        &graphs,
    ];
    let scored = score(&blank, &texts, &[&protocol[..], &half].concat());
    let scored: Value = serde_json::from_slice(&scored.stdout).unwrap();
    assert_eq!(value(&scored, "RadGraph F1"), 0.5);
    let others = graph.replace("OBS-DP", "Observation::definitely present");
    let others = folder.write("o.json", &format!("[{others}, {others}]"));
    let mut mixed = half;
    mixed[3] = &others;
    let output = score(&blank, &texts, &[&protocol[..], &mixed].concat());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(
        error.contains("annotate both with the same RadGraph"),
        "{error}"
    );
    let files = [
        "--radgraph-hypotheses",
        &few,
        "--radgraph-references",
        &graphs,
    ];
    // So it does with a text that has none, which is said; a reference without one leaves its row out.
    let scored = score(&texts, &texts, &[&protocol[..], &files, &parts].concat());
    let scored: Value = serde_json::from_slice(&scored.stdout).unwrap();
    assert_eq!(value(&scored, "RadGraph F1"), 0.5);
    // The second: (0 - 0.53792) / 0.30283 * -0.37708, in place of (1 - 0.53792) / 0.30283 * -0.37708.
    let radcliq = -1.440_69 + 1.245_22 / 2.0;
    assert!(
        (value(&scored, "RadCliQ-v1") - radcliq).abs() < 1e-4,
        "{scored}"
    );
    let remark = &scored["remarks"][0];
    assert!(
        remark["hypothesis_line"] == 2 && remark["remark"].to_string().contains("found nothing"),
        "{scored}"
    );
    let files = [
        "--radgraph-hypotheses",
        &graphs,
        "--radgraph-references",
        &few,
    ];
    let scored = score(&texts, &texts, &[&protocol[..], &files].concat());
    let scored: Value = serde_json::from_slice(&scored.stdout).unwrap();
    assert_eq!(value(&scored, "RadGraph F1"), 1.0);
    assert!(
        scored["remarks"].to_string().contains("has no RadGraph F1"),
        "{scored}"
    );
    // Annotations of no row are of other texts.
    let others = folder.write("x.json", &format!(r#"{{"a": {graph}}}"#));
    let files = [
        "--radgraph-hypotheses",
        &others,
        "--radgraph-references",
        &graphs,
    ];
    let output = score(&texts, &texts, &[&protocol[..], &files].concat());
    assert_eq!(output.status.code(), Some(64));
    let error = text(&output.stderr);
    assert!(
        error.contains("annotation of none of the reports"),
        "{error}"
    );
}

#[test]
fn rexrank_ends_as_its_batch_where_an_image_cannot_be_looked_at_again() {
    let folder = Folder::new();
    let (bundle, images) = (folder.path("bundle"), folder.path("images"));
    let made = radialog(&["bundle", "random", &bundle, "--seed", "7"]);
    assert!(made.status.success());
    let xray = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/xrays/00001300_000.jpg"
    );
    std::fs::create_dir(&images).unwrap();
    let image = folder.path("images/a.jpg");
    std::fs::copy(xray, &image).unwrap();
    let input = folder.write("in.json", r#"{"p1_s1": {"image_path": ["a.jpg"]}}"#);
    let out = folder.path("out.json");
    let run = || {
        let line = [
            "rexrank",
            "--input_json_file",
            &input,
            "--save_json_file",
            &out,
            "--img_root_dir",
            &images,
        ];
        let batch = ["--bundle", &bundle, "--max-new-tokens", "4"];
        let output = radialog(&[&line[..], &batch, &["--progress", "off"]].concat());
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let (code, said) = run();
    assert_eq!(code, Some(0), "{said}");
    let before = folder.read("out.json");
    std::fs::rename(&image, folder.path("away.jpg")).unwrap();
    let (code, said) = run();
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("1 study could not be compared"), "{said}");
    assert_eq!(folder.read("out.json"), before);
}

#[test]
fn rexranks_command_line_writes_a_prediction_into_every_study_and_names_those_without_a_report() {
    let folder = Folder::new();
    let bundle = folder.path("bundle");
    assert!(
        radialog(&["bundle", "random", &bundle, "--seed", "7"])
            .status
            .success()
    );
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/xrays");
    let input = folder.write(
        "in.json",
        r#"{"p1_s1": {"image_path": ["00001300_000.jpg"], "report": "Clear.", "age": NaN},
            "a_s2": {"key_image_path": "00001680_000.jpg", "image_path": ["none.jpg"], "split": "test"},
            "b_s3": {"image_path": ["none.jpg"]}, "c_s4": {"image_path": ["../xrays/00001300_000.jpg"]},
            "d_s5": {}, "nan": {"image_path": ["00001300_000.jpg"]}}"#,
    );
    let out = folder.path("out.json");
    let line = [
        "rexrank",
        "--input_json_file",
        &input,
        "--save_json_file",
        &out,
        "--img_root_dir",
        images,
    ];
    let batch = [
        "--bundle",
        &bundle,
        "--max-new-tokens",
        "4",
        "--progress",
        "off",
    ];
    let output = radialog(&[&line[..], &batch].concat());
    let (printed, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(65), "{printed}{error}");
    for words in [
        "4 of 6 studies have no report",
        "  b_s3: image_missing",
        "  c_s4: has the image ../xrays/00001300_000.jpg, which is not below --img_root_dir",
        "  d_s5: names no image",
        "  nan: has an id that",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    let written = folder.read("out.json");
    assert_eq!(written["p1_s1"]["report"], "Clear.");
    assert_eq!(written["a_s2"]["split"], "test");
    for (study, has_report) in [
        ("p1_s1", true),
        ("a_s2", true),
        ("b_s3", false),
        ("c_s4", false),
        ("d_s5", false),
        ("nan", false),
    ] {
        let report = written[study]["model_prediction"].as_str().unwrap();
        assert_eq!(!report.is_empty(), has_report, "{study}");
        assert_eq!(report, report.trim(), "{study}");
    }

    // Other images under the same ids are another run, and a dry run has no reports.
    let before = folder.read("out.json");
    let same_ids = std::fs::read_to_string(&input)
        .unwrap()
        .replace("00001300_000.jpg", "00001680_000.jpg");
    let other = folder.write("other.json", &same_ids);
    let mut others = line;
    others[2] = &other;
    let output = radialog(&[&others[..], &batch].concat());
    let error = text(&output.stderr);
    assert!(
        !output.status.success() && error.contains("--work"),
        "{error}"
    );
    let output = radialog(&[&line[..], &batch, &["--dry-run"]].concat());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("--dry-run"), "{error}");
    assert_eq!(folder.read("out.json"), before);
    // Nor is anything touched where nobody can say of what the run is.
    let run = folder.path("out.json.run/run.json");
    let content = std::fs::read(&run).unwrap();
    std::fs::write(&run, "{").unwrap();
    let output = radialog(&[&line[..], &batch].concat());
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("--work"), "{error}");
    assert_eq!(folder.read("out.json"), before);
    std::fs::write(&run, content).unwrap();

    for (json, expected) in [
        (
            r#"{"a": {"image_path": ["../x.jpg"]}}"#,
            "not below --img_root_dir",
        ),
        (r#"{"a": {}}"#, "names no image"),
        (
            r#"{"a": {"image_path": ["x"]}, "a": {"image_path": ["x"]}}"#,
            "twice",
        ),
        ("[]", "no JSON of ReXrank"),
    ] {
        folder.write("in.json", json);
        let output = radialog(&[&line[..], &batch].concat());
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(expected),
            "{expected}: {error}"
        );
    }
    // JSON is no CSV, whatever its encoding.
    let utf_16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&input, utf_16).unwrap();
    let error = text(&radialog(&line).stderr);
    assert!(
        error.contains("it is UTF-16: save the file in UTF-8"),
        "{error}"
    );
    folder.write("in.json", r#"{"a": {"image_path": ["x"]}}"#);
    for (place, value, more, expected) in [
        (
            4,
            input.as_str(),
            &[][..],
            "is read, and would be overwritten",
        ),
        (4, bundle.as_str(), &[], "it is a folder"),
        (6, input.as_str(), &[], "is no folder"),
        (
            4,
            out.as_str(),
            &["--max-new-tokens", "4", "--work", "w"],
            "before those of",
        ),
    ] {
        let mut line = line.to_vec();
        line[place] = value;
        let output = radialog(&[&line, more].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // What is refused leaves nothing beside the result's place.
    let beside = folder.path("bundle.run");
    assert!(!std::path::Path::new(&beside).exists());
    // An interrupted or failed run leaves no result of another one.
    folder.write("in.json", r#"{"a": {"image_path": ["x"]}}"#);
    let broken = [
        "--work",
        &folder.path("w2"),
        "--bundle",
        &folder.path("nowhere"),
    ];
    let output = radialog(&[&line[..], &broken].concat());
    assert!(!output.status.success());
    assert!(
        !std::path::Path::new(&out).exists(),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(folder.read("out.json.old"), before);
    let output = radialog(&[&line[..], &["--no-such-option"]].concat());
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
}
