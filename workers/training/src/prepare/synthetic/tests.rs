use super::*;

const WORDINGS: &str = r#"
normal = ["the lungs are clear"]
abnormal = ["the aorta is (tortuous|calcified)"]
no_finding = ["normal chest"]

[one]
stated = ["there {is1} {a1} {at1}", "{d1} {has1} increased"]
denied = ["no {n1}"]
doubted = ["possible {d1}"]
past = ["the {n1} {has1} resolved"]

[[several]]
says = ["stated", "doubted"]
texts = ["{a1} , which may be {d2}"]

[[finding]]
name = "Pleural Effusion"
singular = ["effusion"]
plural = ["effusions"]
places = ["on the left"]
[[finding]]
name = "Edema"
mass = ["edema"]
adjectives = ["mild"]
own.denied = ["the vessels are not congested"]
"#;

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("wordings.toml"), WORDINGS).unwrap();
        Self(dir)
    }

    fn reports(&self) -> SyntheticReports {
        SyntheticReports {
            wordings: self.0.path().join("wordings.toml"),
            reports: 1500,
            sentences: Vec::new(),
            held_out: None,
            seed: 1,
        }
    }
}

fn texts(rows: &[ReportRow]) -> HashSet<&str> {
    rows.iter().map(|row| row.findings.as_str()).collect()
}

fn joined(rows: &[ReportRow]) -> String {
    let texts: Vec<&str> = rows.iter().map(|row| row.findings.as_str()).collect();
    texts.join(" ")
}

/// The labels of the report that says this and nothing else.
fn labels_of(rows: &[ReportRow], text: &str) -> [Label; 3] {
    let row = rows.iter().find(|row| row.findings == text);
    let labels = row
        .unwrap_or_else(|| panic!("no report says '{text}'"))
        .labels;
    [Finding::PleuralEffusion, Finding::Edema, Finding::NoFinding]
        .map(|finding| labels[finding as usize])
}

#[test]
fn a_report_is_labelled_as_it_was_put_together() {
    let rows = Fixture::new().reports().rows().unwrap();
    let (positive, uncertain) = (Label::Positive, Label::Uncertain);
    let (negative, blank) = (Label::Negative, Label::Blank);
    for (text, labels) in [
        (
            "There is an effusion on the left.",
            [positive, blank, blank],
        ),
        ("There are effusions.", [positive, blank, blank]),
        ("Mild edema has increased.", [blank, positive, blank]),
        ("No edema.", [blank, negative, positive]),
        (
            "The vessels are not congested.",
            [blank, negative, positive],
        ),
        ("Possible mild edema.", [blank, uncertain, blank]),
        ("The effusions have resolved.", [negative, blank, positive]),
        (
            "An effusion, which may be edema.",
            [positive, uncertain, blank],
        ),
        ("The aorta is tortuous.", [blank, blank, blank]),
        ("Normal chest.", [blank, blank, positive]),
    ] {
        assert_eq!(labels_of(&rows, text), labels, "{text}");
    }
    assert!(
        rows.iter()
            .all(|row| row.split == "train" && !row.findings.contains('{'))
    );
}

#[test]
fn the_same_seed_gives_the_same_reports_and_another_one_others() {
    let fixture = Fixture::new();
    let rows = fixture.reports().rows().unwrap();
    assert_eq!(rows, fixture.reports().rows().unwrap());
    let other = SyntheticReports {
        seed: 2,
        ..fixture.reports()
    };
    assert_ne!(rows, other.rows().unwrap());
}

#[test]
fn what_is_held_out_is_never_written() {
    let fixture = Fixture::new();
    let path = fixture.0.path().join("held-out.csv");
    std::fs::write(&path, "sentence\nno  EDEMA\nNormal chest!\n").unwrap();
    let rows = fixture.reports().rows().unwrap();
    assert!(texts(&rows).contains("No edema."));
    let held_out = Some((path, "sentence".to_owned()));
    let rows = SyntheticReports {
        held_out,
        ..fixture.reports()
    }
    .rows()
    .unwrap();
    let all = joined(&rows);
    assert!(!all.contains("No edema.") && !all.contains("Normal chest."));
    assert!(all.contains("No effusion."));
}

#[test]
fn real_sentences_stand_between_where_the_rule_and_the_labels_agree() {
    let fixture = Fixture::new();
    let path = fixture.0.path().join("reports.csv");
    let mut labels = [Label::Blank; Finding::ALL.len()];
    labels[Finding::Cardiomegaly as usize] = Label::Positive;
    let row = |study, split, findings| ReportRow::of_findings(study, split, findings, labels);
    let train = "Heart size is enlarged. There is a rib fracture. Tube ends ___ cm high. Cut off";
    let rows = [
        row("1", "train", train),
        row("2", "test", "Pneumonia is not seen."),
    ];
    crate::prepare::write_report_table(&path, &rows).unwrap();
    let rows = SyntheticReports {
        sentences: vec![path],
        ..fixture.reports()
    }
    .rows()
    .unwrap();
    let all = joined(&rows);
    assert!(all.contains("Heart size is enlarged."));
    for other in ["rib fracture", "Tube", "Cut off", "Pneumonia"] {
        assert!(!all.contains(other), "{other}");
    }
    let row = rows
        .iter()
        .find(|row| row.findings == "Heart size is enlarged.")
        .unwrap();
    assert_eq!(row.labels[Finding::Cardiomegaly as usize], Label::Positive);
}

#[test]
fn wordings_without_a_way_of_saying_are_refused() {
    let fixture = Fixture::new();
    let refused = |text: &str| {
        std::fs::write(fixture.0.path().join("wordings.toml"), text).unwrap();
        fixture.reports().rows().unwrap_err().to_string()
    };
    let error = refused(&WORDINGS.replace("past = [\"the {n1} {has1} resolved\"]", ""));
    assert!(
        error.contains("wordings.toml") && error.contains("Past"),
        "{error}"
    );
    let error = refused(&WORDINGS.replace("mass = [\"edema\"]", ""));
    assert!(error.contains("Edema has no noun"), "{error}");
    let error = refused(&WORDINGS.replace("(tortuous|calcified)", "(tortuous"));
    assert!(error.contains("bracket"), "{error}");
}
