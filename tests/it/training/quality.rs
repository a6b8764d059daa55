//! The quality of a bundle of noise on a handful of studies: every part runs, repeats, and reads test rows only.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use candle_core::Device;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle, System};
use radialog_schemas::Finding;
use radialog_tests::fixtures::preprocessing_images;
use radialog_training::TrainingError;
use radialog_training::evaluation::quality::score_table::ScoreCell;
use radialog_training::evaluation::quality::{QualityEvaluation, QualityPart};
use radialog_training::recipe::ImageTable;

const TESTED: usize = 4;

struct QualityFixture {
    dir: tempfile::TempDir,
}

impl QualityFixture {
    /// Four reports and images to test on. Training has reports, and images that cannot be read.
    fn new() -> Self {
        Self::of(System::V1)
    }

    /// The same with a bundle of this system.
    fn of(system: System) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = RandomBundle {
            system,
            ..RandomBundle::tiny(7)
        };
        bundle.write(&dir.path().join("bundle")).unwrap();
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let labels = |positive: usize| {
            Finding::ALL
                .map(|finding| {
                    if finding as usize == positive {
                        "1"
                    } else {
                        "0"
                    }
                })
                .join(",")
        };
        let mut reports = format!("study_id,split,findings,{}\n", names.join(","));
        let mut images = format!("image,patient_id,split,{}\n", names.join(","));
        let source = preprocessing_images();
        for (index, name) in ["binary.png", "noise_tiny.png", "rgb.png", "gray16.png"]
            .into_iter()
            .enumerate()
        {
            fs::copy(source.join(name), dir.path().join(name)).unwrap();
            let labels = labels(index % 2);
            reports +=
                &format!("t{index},test,The heart is large. No effusion {index}.,{labels}\n");
            images += &format!("{name},p{},test,{labels}\n", index / 2);
            reports += &format!("trained-{index},train,Clear lungs.,{labels}\n");
            let damaged = format!("damaged-{index}.png");
            fs::write(dir.path().join(&damaged), "no image").unwrap();
            images += &format!("{damaged},q{index},train,{labels}\n");
        }
        fs::write(dir.path().join("reports.csv"), reports).unwrap();
        let pairs = images.lines().enumerate().map(|(index, line)| match index {
            0 => format!("{},study_id,findings\n", line.trim()),
            _ => format!("{line},s{index},The heart is large.\n"),
        });
        fs::write(dir.path().join("pairs.csv"), pairs.collect::<String>()).unwrap();
        fs::write(dir.path().join("labels.csv"), images).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn quality(&self, parts: &[QualityPart]) -> QualityEvaluation {
        QualityEvaluation {
            reports: Some(self.path("reports.csv")),
            images: vec![ImageTable {
                labels: self.path("labels.csv"),
                images: self.dir.path().to_owned(),
                ..ImageTable::default()
            }],
            pairs: Some(ImageTable {
                labels: self.path("pairs.csv"),
                images: self.dir.path().to_owned(),
                ..ImageTable::default()
            }),
            parts: parts.to_vec(),
            split: "test".into(),
            seed: 5,
            limit: None,
            lower_case_names: false,
            device: Device::Cpu,
        }
    }

    fn bundle(&self, quality: &QualityEvaluation) -> Bundle {
        Bundle::open_with(
            &self.path("bundle"),
            &quality.stages(),
            &HashCache::at(self.path("hashes")),
        )
        .unwrap()
    }
}

#[test]
fn every_part_is_measured_on_test_rows_only_and_alike_each_time() {
    let fixture = QualityFixture::new();
    let quality = fixture.quality(&QualityPart::ALL);
    let bundle = fixture.bundle(&quality);
    let told = Mutex::new(Vec::new());
    let tell = |what: &str, done: u64, total: u64| {
        if done == total {
            told.lock().unwrap().push(what.to_owned());
        }
    };
    let (report, texts) = quality.measure(&bundle, &tell).unwrap();
    assert!(report.random_weights);
    assert_eq!(
        report.parts.keys().copied().collect::<Vec<_>>(),
        QualityPart::ALL
    );
    let tables = |part: QualityPart| &report.parts[&part].tables;
    assert_eq!(
        tables(QualityPart::Findings)[0].rows[0].scores["images"],
        ScoreCell::Count(TESTED as u64)
    );
    assert_eq!(
        tables(QualityPart::Findings)[0].rows[0].scores["patients"],
        ScoreCell::Count(2)
    );
    assert!(matches!(
        tables(QualityPart::Findings)[0].rows[0].scores["macro AUC"],
        ScoreCell::Measured(_)
    ));
    assert!(
        tables(QualityPart::Chexbert)[0]
            .title
            .starts_with("4 reports")
    );
    assert_eq!(
        tables(QualityPart::Report)[0].rows.len(),
        3,
        "the bundle and two baselines"
    );
    let pairs = &tables(QualityPart::Pairs)[0].rows;
    assert_eq!(pairs.len(), 2, "the bundle and one baseline");
    assert!(matches!(pairs[0].scores["BLEU-4"], ScoreCell::Measured(_)));
    for part in [QualityPart::Report, QualityPart::Pairs, QualityPart::Image] {
        let mut tables = tables(part).iter();
        let stated = tables.find(|table| table.title.contains("by word rules"));
        let scores = &stated.unwrap().rows[0].scores;
        let count = |name: &str| match scores[name] {
            ScoreCell::Count(count) => count,
            other => panic!("{part:?}, {name}: {other:?}"),
        };
        assert!(count("stated") <= count("asked for"), "{scores:?}");
    }
    assert!(
        tables(QualityPart::Image)[0]
            .rows
            .iter()
            .all(|row| row.scores.len() == 4)
    );
    let turns = &tables(QualityPart::Dialog)[0].rows[0].scores;
    assert!(matches!(turns["right by word rules"], ScoreCell::Count(_)));
    let written = |part: QualityPart| texts.iter().filter(|text| text.part == part).count();
    assert_eq!(
        (written(QualityPart::Report), written(QualityPart::Image)),
        (TESTED, TESTED)
    );
    assert!(
        texts
            .iter()
            .all(|text| !text.id.starts_with("trained") && !text.id.starts_with("damaged"))
    );
    assert!(
        texts
            .iter()
            .filter(|text| text.part == QualityPart::Dialog)
            .all(|text| text.right.is_some())
    );
    let told = told.into_inner().unwrap();
    assert_eq!(
        told.iter()
            .filter(|what| *what == "reports from labels")
            .count(),
        1,
        "written once: {told:?}"
    );

    let (again, _) = quality.measure(&bundle, &|_, _, _| {}).unwrap();
    assert_eq!(
        serde_json::to_value(&again).unwrap(),
        serde_json::to_value(&report).unwrap()
    );
}

#[test]
fn tables_without_training_rows_are_measured_without_baselines_and_too_few_images_are_told() {
    let fixture = QualityFixture::new();
    for name in ["reports.csv", "labels.csv"] {
        let text = fs::read_to_string(fixture.path(name)).unwrap();
        let kept = text.lines().filter(|line| !line.contains(",train,"));
        fs::write(fixture.path(name), kept.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let quality = fixture.quality(&QualityPart::ALL);
    let (report, _) = quality
        .measure(&fixture.bundle(&quality), &|_, _, _| {})
        .unwrap();
    let findings = &report.parts[&QualityPart::Findings];
    let says = |part: &str| findings.notes.iter().any(|note| note.contains(part));
    assert!(says("there is no prior"), "{:?}", findings.notes);
    let cautions = &findings.cautions;
    let few = cautions
        .iter()
        .any(|caution| caution.contains("fewer than 10 patients"));
    assert!(few, "{cautions:?}");
    for part in [
        QualityPart::Chexbert,
        QualityPart::Report,
        QualityPart::Image,
        QualityPart::Pairs,
    ] {
        let cautions = &report.parts[&part].cautions;
        let mut few = cautions.iter();
        assert!(
            few.any(|caution| caution.contains("No Finding (2)")),
            "{part:?}: {cautions:?}"
        );
    }
    assert_eq!(report.parts[&QualityPart::Report].tables[0].rows.len(), 1);
}

#[test]
fn one_image_has_no_interval_and_a_patient_who_was_trained_on_is_told() {
    let fixture = QualityFixture::new();
    let labels = fs::read_to_string(fixture.path("labels.csv")).unwrap();
    // Only the first image has "No Finding", and its patient has a training image.
    let labels = labels
        .replace("rgb.png,p1,test,1", "rgb.png,p1,test,0")
        .replace(",q1,train", ",p0,train");
    fs::write(fixture.path("labels.csv"), labels).unwrap();
    let quality = fixture.quality(&[QualityPart::Findings]);
    let (report, _) = quality
        .measure(&fixture.bundle(&quality), &|_, _, _| {})
        .unwrap();
    let findings = &report.parts[&QualityPart::Findings];
    let row = findings.tables[1].rows.iter();
    let row = row.clone().find(|row| row.name == "No Finding").unwrap();
    assert_eq!(row.scores["positive"], ScoreCell::Count(1));
    assert!(
        matches!(row.scores["AUC"], ScoreCell::Fixed(_)),
        "{:?}",
        row.scores["AUC"]
    );
    let cautions = &findings.cautions;
    let is_told =
        |caution: &String| caution.contains("1 patient of this split has training images");
    assert!(cautions.iter().any(is_told), "{cautions:?}");
}

#[test]
fn subgroups_have_scores_of_their_own_and_every_score_its_constants() {
    let fixture = QualityFixture::new();
    let labels = fs::read_to_string(fixture.path("labels.csv")).unwrap();
    let lines = labels.lines().enumerate().map(|(line, text)| match line {
        0 => format!("{text},sex,age,ViewPosition\n"),
        1 => format!("{}-1,F,35,PA\n", text.trim_end_matches(|c: char| c != ',')),
        5 => format!("{text},M,55,AP\n"),
        line => format!("{text},F,{},AP\n", 30 + 5 * line),
    });
    let lines = lines.collect::<String>();
    fs::write(fixture.path("labels.csv"), lines).unwrap();
    let quality = fixture.quality(&[QualityPart::Findings]);
    let (report, _) = quality
        .measure(&fixture.bundle(&quality), &|_, _, _| {})
        .unwrap();
    let findings = &report.parts[&QualityPart::Findings];
    let says = |part: &str| findings.notes.iter().any(|note| note.contains(part));
    assert!(says("1 label of -1 is left out"), "{:?}", findings.notes);
    let table = |title: &str| {
        let mut tables = findings.tables.iter();
        tables.find(|table| table.title.contains(title)).unwrap()
    };
    let groups: Vec<&str> = table("subgroups")
        .rows
        .iter()
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(
        groups,
        [
            "age under 40",
            "age 40 to 59",
            "age 60 to 79",
            "sex F",
            "sex M",
            "view AP",
            "view PA"
        ]
    );
    let of = |name: &str| {
        &table("subgroups")
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap()
            .scores
    };
    assert_eq!(of("view AP")["images"], ScoreCell::Count(3));
    assert!(matches!(of("view AP")["Brier"], ScoreCell::Measured(_)));
    assert_eq!(
        of("view PA")["macro AUC"],
        ScoreCell::Undefined,
        "one image has no order"
    );
    let cautions = &findings.cautions;
    let is_of_groups = |caution: &&String| caution.contains("the means of these subgroups");
    let of_groups = cautions.iter().find(is_of_groups).unwrap();
    assert!(
        of_groups.contains("view AP") && !of_groups.contains("view PA"),
        "{of_groups}"
    );
    let overview = &table("all findings").rows;
    let brier: Vec<_> = overview.iter().map(|row| row.scores["Brier"]).collect();
    assert!(
        matches!(brier[..2], [ScoreCell::Measured(_), ScoreCell::Measured(_)]),
        "{brier:?}"
    );
    let answers: u64 = findings.reliability[0]
        .calibration
        .bins
        .iter()
        .map(|bin| bin.answers)
        .sum();
    assert_eq!(answers, (TESTED * Finding::ALL.len()) as u64 - 1);
}

#[test]
fn a_bundle_of_v2_is_measured_in_every_part_too() {
    let fixture = QualityFixture::of(System::V2);
    let quality = fixture.quality(&QualityPart::ALL);
    let (report, texts) = quality
        .measure(&fixture.bundle(&quality), &|_, _, _| {})
        .unwrap();
    assert_eq!(report.parts.len(), QualityPart::ALL.len());
    let of_images = texts.iter().filter(|text| text.part == QualityPart::Image);
    assert_eq!(of_images.count(), TESTED);
    assert!(texts.iter().all(|text| text.text.trim() == text.text));
}

#[test]
fn a_part_needs_its_table_and_a_split_its_rows() {
    let fixture = QualityFixture::new();
    let measure = |quality: &QualityEvaluation| {
        quality
            .measure(&fixture.bundle(quality), &|_, _, _| {})
            .unwrap_err()
    };
    let without = QualityEvaluation {
        images: Vec::new(),
        ..fixture.quality(&[QualityPart::Findings])
    };
    assert!(
        measure(&without)
            .to_string()
            .contains("give a table of images")
    );
    let other = QualityEvaluation {
        split: "validate".into(),
        ..fixture.quality(&[QualityPart::Chexbert])
    };
    let error = measure(&other);
    assert!(
        matches!(error, TrainingError::Empty(_)) && error.to_string().contains("'validate'"),
        "{error}"
    );
}
