use std::path::Path;

use super::*;
use crate::evaluation::bootstrap::Resampling;
use crate::evaluation::clinical::UncertainAs;
use crate::evaluation::corpus::{
    MatchOptions, PredictionFile, ReferenceSection, References, StoredTexts, TextStore,
};
use crate::evaluation::report_scores::{BlankAs, score};
use crate::evaluation::text_scores::meteor::Meteor;
use crate::evaluation::text_scores::protocol::{TextProtocol, TextScorer};

fn options(protocol: TextProtocol) -> ScoreOptions {
    ScoreOptions {
        scorer: TextScorer::new(protocol, Meteor::new(None)),
        uncertain: UncertainAs::Negative,
        blank: BlankAs::Auto,
        resampling: Resampling {
            seed: 1,
            repeats: 50,
        },
        counts: None,
    }
}

fn corpus(folder: &Path, predictions: &str, references: &str) -> (Corpus, StoredTexts) {
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let predictions = write("predictions.csv", predictions);
    let references = write("references.csv", references);
    let mut store = TextStore::new().unwrap();
    let predictions = PredictionFile::read(&predictions, &mut store).unwrap();
    let section = ReferenceSection::Findings;
    let wanted = || predictions.names();
    let references = References::read(&[references], section, wanted, &mut store).unwrap();
    let corpus = Corpus::of(predictions, Some(references), &MatchOptions::default()).unwrap();
    (corpus, store.finish().unwrap())
}

fn compared(protocol: TextProtocol, ours: &str, other: &str, references: &str) -> Comparison {
    let folder = tempfile::tempdir().unwrap();
    let options = options(protocol);
    let [mut ours, mut other] =
        [ours, other].map(|predictions| corpus(folder.path(), predictions, references));
    for (corpus, texts) in [&mut ours, &mut other] {
        corpus.drop_long_texts(texts, protocol).unwrap();
    }
    let of_ours = score(&ours.0, &ours.1, None, &options, &|_| {}).unwrap();
    let beside = Some((&ours.0, &ours.1));
    let of_other = score(&other.0, &other.1, beside, &options, &|_| {}).unwrap();
    compare(
        "other",
        (&ours.0, &of_ours),
        (&other.0, &of_other),
        &options,
    )
    .unwrap()
    .unwrap()
}

fn at<'a>(comparison: &'a Comparison, name: &str) -> &'a ComparedMetric {
    let mut metrics = comparison.metrics.iter();
    metrics.find(|of| of.metric.name == name).unwrap()
}

#[test]
fn a_score_that_only_one_system_has_of_a_study_counts_on_neither_side() {
    let mut references = format!("id,findings\ni0,{}\n", "lung ".repeat(2000));
    let mut rest = String::new();
    for study in 1..6 {
        references += &format!("i{study},Clear lungs and heart {study}.\n");
        rest += &format!("i{study},Clear lungs and heart {study}.\n");
    }
    let ours = format!("id,report\ni0,{}\n{rest}", "effusion ".repeat(3000));
    let other = format!("id,report\ni0,effusion small\n{rest}");
    let of = compared(TextProtocol::Radialog2023, &ours, &other, &references);
    for metric in &of.metrics {
        assert_eq!((metric.ours, metric.p), (metric.other, 1.0), "{metric:?}");
    }
    assert_eq!(at(&of, "ROUGE-L").other, 1.0);
    assert_eq!(of.studies, 6);
    let unpaired = [Unpaired {
        scores: "words",
        studies: 1,
    }];
    assert_eq!(of.unpaired, unpaired);
    assert!(of.unpaired_words().unwrap().contains("words: 1 study"));
}

#[test]
fn equal_texts_have_equal_scores_whatever_else_a_system_has_written() {
    let (mut references, mut ours, mut other) = (
        "id,findings\n".to_owned(),
        "id,report\n".to_owned(),
        "id,report\n".to_owned(),
    );
    for study in 0..20 {
        let part = ["left lung", "right lung", "heart", "mediastinum"][study % 4];
        references += &format!("i{study},The {part} is clear in view {study}.\n");
        let row = format!("i{study},The {part} is clear.\n");
        ours += &row;
        if study < 10 {
            other += &row;
        }
    }
    for (first, second) in [(&ours, &other), (&other, &ours)] {
        let of = compared(TextProtocol::CocoCaption, first, second, &references);
        let cider = at(&of, "CIDEr");
        assert_eq!((cider.ours, cider.p), (cider.other, 1.0));
        assert!(cider.ours > 0.0 && of.studies == 10);
        assert_eq!(of.unpaired_words(), None);
    }
}

#[test]
fn exchanged_probabilities_rank_as_those_of_the_system_that_they_went_to() {
    use crate::evaluation::report_scores::stored_scores::stored;

    let of = |probability: f32, truth: bool| StudyScores {
        findings: Some(([Some(truth); 14], [probability > 0.5; 14])),
        probabilities: Some([probability; 14]),
        ..StudyScores::default()
    };
    let first = [of(0.9, true), of(0.2, false), of(0.6, true)];
    let second = [of(0.1, true), of(0.8, false), of(0.7, true)];
    let pairs = Pairs {
        first: stored(&first),
        second: stored(&second),
        begins_patient: vec![true; 3],
        unpaired: [0; KINDS.len()],
    };
    let ranking = Ranking::of(&[&pairs.first, &pairs.second]).unwrap();
    let options = options(TextProtocol::Radialog2023);
    let exchanges = [vec![false; 3], vec![true, false, false]];
    let totals = pairs.totals(&exchanges).unwrap();
    let [a, b] = &totals[0];
    let set = MetricSet::of_both([a, b], &options, &Default::default());
    let names = set.all_names();
    let values = pairs.values(&set, Some(&ranking), &exchanges).unwrap();
    let at = |exchange: usize, name: &str| {
        let place = names.iter().position(|metric| metric.name == name).unwrap();
        [0, 1].map(|side: usize| values[exchange][side][place])
    };
    assert_eq!(at(0, "macro AUC"), [1.0, 0.0]);
    // 0.1 and 0.6 beside 0.2; 0.9 and 0.7 beside 0.8.
    assert_eq!(at(1, "macro AUC"), [0.5, 0.5]);
    let [ours, other] = at(0, "Brier score");
    assert!((ours - (0.01 + 0.04 + 0.16) / 3.0).abs() < 1e-6 && other > 0.5);
    let [exchanged, _] = at(1, "Brier score");
    assert!((exchanged - (0.81 + 0.04 + 0.16) / 3.0).abs() < 1e-6);
    assert!(at(0, "expected calibration error")[0] < at(0, "expected calibration error")[1]);
}
