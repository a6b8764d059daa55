//! What is kept of a scored study, and the sum of several.

use super::ranking::ReliabilityBins;
use super::{CLASSES, Truths};
use crate::evaluation::clinical::LabelCounts;
use crate::evaluation::comparisons::ComparisonCounts;
use crate::evaluation::corpus::MatchedStudy;
use crate::evaluation::radgraph::{RadcliqParts, radcliq_v1};
use crate::evaluation::severity::SeverityErrors;
use crate::evaluation::study_answers;
use crate::evaluation::text_scores::protocol::{TextCounts, TextProtocol};

/// What is true of a study's findings, as far as it is known, and what was said.
type Answers = ([Option<bool>; CLASSES], [bool; CLASSES]);

/// The scores of one study; its texts are not kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyScores {
    /// The report's words beside the reference's, where there is a reference text.
    pub text: Option<TextCounts>,
    /// The report's labels beside the reference's.
    pub report: Option<Answers>,
    /// The report's wrong labels by what they weigh.
    pub severity: Option<SeverityErrors>,
    /// Sentences of the report that compare with an earlier image.
    pub comparisons: Option<ComparisonCounts>,
    /// RadGraph F1, from annotations of others.
    pub radgraph_f1: Option<f64>,
    /// RadCliQ-v1, from annotations and scores of others.
    pub radcliq_v1: Option<f64>,
    /// The classifier's answers beside the reference's labels, as far as it assesses them.
    pub findings: Option<Answers>,
    /// The classifier's probabilities; none where findings were given as yes and no. What it does not assess has no truth in
    /// `findings`, and 0 here.
    pub probabilities: Option<[f32; CLASSES]>,
    /// Findings that the classifier sees and the report does not state, and the other way round.
    pub disagreement: Option<([bool; CLASSES], [bool; CLASSES])>,
    /// How far sampled reports agree with the report, 0 to 1, where the run has sampled some.
    pub agreement: Option<f64>,
}

/// The sum of some studies' scores. Its size does not depend on their number.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Words of reports beside words of references.
    pub text: TextCounts,
    /// The number of reports with a RadGraph F1, and its sum.
    pub radgraph_f1: (u64, f64),
    /// The number of reports with a RadCliQ-v1, and its sum.
    pub radcliq_v1: (u64, f64),
    /// Labels of reports.
    pub reports: LabelCounts,
    /// The number of reports whose labels were scored.
    pub labelled: u64,
    /// Wrong labels of reports by what they weigh.
    pub severity: SeverityErrors,
    /// Comparisons with earlier images.
    pub comparisons: ComparisonCounts,
    /// The classifier's answers.
    pub findings: LabelCounts,
    /// The number of images whose findings were scored.
    pub classified: u64,
    /// The squared distances of the classifier's probabilities from what is true, and the number of these answers.
    pub(super) distances: (f64, u64),
    /// How often findings of a probability are there, as sums.
    pub(super) calibration: ReliabilityBins,
}

impl StudyScores {
    pub(super) fn of(
        study: &MatchedStudy,
        prediction: Option<&str>,
        text: Option<TextCounts>,
        truths: &Truths,
    ) -> Self {
        let mut scores = Self {
            comparisons: prediction.map(ComparisonCounts::of),
            probabilities: study
                .probabilities
                .filter(|_| !study.findings_are_given)
                .map(|all| all.map(Option::unwrap_or_default)),
            agreement: study.agreement,
            radgraph_f1: study.radgraph_f1,
            text,
            ..Self::default()
        };
        if let (Some(text), Some(radgraph_f1), Some([bertscore, chexbert_similarity])) =
            (text, study.radgraph_f1, study.similarities)
        {
            scores.radcliq_v1 = Some(radcliq_v1(&RadcliqParts {
                radgraph_f1,
                bertscore,
                chexbert_similarity,
                bleu_2: text.smoothed_bleu_2,
            }));
        }
        let assessed = study.probabilities.unwrap_or_default();
        let assessed = assessed.map(|probability| probability.is_some());
        if let Some(labels) = &study.reference_labels {
            let truth = truths.truth(labels, study.is_of_table);
            let said = study.labels.as_ref().map(|said| truths.present(said));
            scores.report = said.map(|said| (truth, said));
            scores.severity = said.map(|said| SeverityErrors::of(&truth, &said));
            let truth = std::array::from_fn(|class| truth[class].filter(|_| assessed[class]));
            scores.findings = study.present.map(|seen| (truth, seen));
        }
        if let (Some(labels), Some(seen)) = (&study.labels, study.present) {
            let stated = truths.present(labels);
            let only = |a: &[bool; CLASSES], b: &[bool; CLASSES]| {
                std::array::from_fn(|class| assessed[class] && a[class] && !b[class])
            };
            scores.disagreement = Some((only(&seen, &stated), only(&stated, &seen)));
        }
        scores
    }

    /// F1 of the report's findings, as far as they are known; none where neither side has any.
    pub fn label_f1(&self) -> Option<f64> {
        let (truth, said) = self.report.as_ref()?;
        study_answers::label_f1(truth, said)
    }

    /// What the wording of one report is worth, 0 to 1: ROUGE-L, or under ReXrank's protocol BLEU-2.
    pub fn wording(&self, protocol: TextProtocol) -> Option<f64> {
        let text = self.text.as_ref()?;
        Some(match protocol {
            TextProtocol::Rexrank => text.smoothed_bleu_2,
            TextProtocol::Radialog2023 | TextProtocol::CocoCaption => text.rouge_l,
        })
    }
}

impl Totals {
    /// Adds a study.
    pub fn add(&mut self, study: &StudyScores) {
        if let Some(text) = &study.text {
            self.text.add(text);
        }
        for (of, sum) in [
            (study.radgraph_f1, &mut self.radgraph_f1),
            (study.radcliq_v1, &mut self.radcliq_v1),
        ] {
            if let Some(value) = of {
                sum.0 += 1;
                sum.1 += value;
            }
        }
        if let Some((truth, said)) = &study.report {
            self.labelled += 1;
            self.reports.add_known(truth, said);
        }
        if let Some(severity) = &study.severity {
            self.severity.add(severity);
        }
        if let Some(comparisons) = &study.comparisons {
            self.comparisons.add(comparisons);
        }
        self.calibration.add(study);
        if let Some((truth, said)) = &study.findings {
            self.classified += 1;
            self.findings.add_known(truth, said);
            for (class, truth) in truth.iter().enumerate() {
                let (Some(truth), Some(probabilities)) = (*truth, study.probabilities) else {
                    continue;
                };
                let probability = probabilities[class];
                let distance = f64::from(probability) - f64::from(u8::from(truth));
                self.distances.0 += distance * distance;
                self.distances.1 += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Finding;
    use serde_json::{Value, json};

    use super::*;
    use crate::evaluation::bootstrap::Resampling;
    use crate::evaluation::clinical::UncertainAs;
    use crate::evaluation::corpus::{
        Corpus, MatchOptions, PredictionFile, ReferenceSection, References, TextStore,
    };
    use crate::evaluation::report_scores::{BlankAs, ReportScores, ScoreOptions, score};
    use crate::evaluation::text_scores::meteor::Meteor;
    use crate::evaluation::text_scores::protocol::TextScorer;

    /// The scores of two studies, of which the first has all findings and the second none; the report of both states a fracture.
    fn scores(probability: impl Fn(Finding, f64) -> Value) -> (Vec<String>, ReportScores) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = String::new();
        let mut table = format!("study_id,{}\n", Finding::ALL.map(Finding::name).join(","));
        for (study, of, label) in [("a", 0.75, "1"), ("b", 0.25, "0")] {
            let findings = Finding::ALL.map(|finding| {
                let probability = probability(finding, of);
                let present = probability.as_f64().is_some_and(|of| of > 0.5);
                json!({"finding": finding, "probability": probability, "present": present})
            });
            let record = json!({
                "study_id": study, "file": format!("{study}.png"), "status": "done", "report": "Fracture.",
                "findings": findings.to_vec(), "report_labels": {"Fracture": "positive"},
                "bundle": "0".repeat(64), "timings": {},
            });
            lines += &format!("{record}\n");
            table += &format!("{study},{}\n", [label; CLASSES].join(","));
        }
        let [run, labels] =
            [("results.jsonl", &lines), ("labels.csv", &table)].map(|(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            });
        let mut store = TextStore::new().unwrap();
        let predictions = PredictionFile::read(&run, &mut store).unwrap();
        let section = ReferenceSection::Findings;
        let wanted = || predictions.names();
        let references = References::read(&[labels], section, wanted, &mut store).unwrap();
        let corpus = Corpus::of(predictions, Some(references), &MatchOptions::default()).unwrap();
        let options = ScoreOptions {
            scorer: TextScorer::new(TextProtocol::Radialog2023, Meteor::new(None)),
            uncertain: UncertainAs::Negative,
            blank: BlankAs::Auto,
            resampling: Resampling {
                seed: 1,
                repeats: 10,
            },
            counts: None,
        };
        let texts = store.finish().unwrap();
        let scores = score(&corpus, &texts, None, &options, &|_| {}).unwrap();
        (corpus.notes, scores)
    }

    #[test]
    fn a_finding_that_is_not_assessed_is_no_wrong_answer_and_no_disagreement() {
        let (notes, scores) = scores(|finding, probability| match finding {
            Finding::Fracture => Value::Null,
            _ => probability.into(),
        });
        let totals = &scores.totals;
        assert_eq!(totals.classified, 2);
        assert_eq!(totals.findings.known(Finding::Fracture), 0);
        assert_eq!(totals.findings.known(Finding::Edema), 2);
        // 13 findings in two studies, each a quarter off.
        assert_eq!(totals.distances, (26.0 * 0.0625, 26));
        assert_eq!(totals.findings.scores().macro_f1, 1.0);
        let class = Finding::Fracture as usize;
        for study in scores.studies.iter() {
            let (seen, stated) = study.unwrap().disagreement.unwrap();
            assert!(!seen[class] && !stated[class]);
        }
        let note = "not assessed by the run's classifier: Fracture (2 studies)";
        assert!(notes.iter().any(|of| of.starts_with(note)), "{notes:?}");
    }

    #[test]
    fn a_run_that_assesses_nothing_has_no_scores_of_a_classifier() {
        let (_, scores) = scores(|_, _| Value::Null);
        assert_eq!(
            (scores.totals.classified, scores.totals.distances.1),
            (0, 0)
        );
        assert!(scores.calibration.is_empty());
        let first = scores.studies.get(0).unwrap();
        assert_eq!((first.findings, first.disagreement), (None, None));
    }
}
