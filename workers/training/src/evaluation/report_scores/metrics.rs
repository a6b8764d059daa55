//! The scores by name: what each is of, by which protocol, which way is better.

use radialog_schemas::Finding;
use serde::Serialize;

use super::{Better, Estimate, ScoreOptions, Totals};
use crate::evaluation::clinical::{ClinicalScores, LabelCounts, Rates, UncertainAs};
use crate::evaluation::text_scores::protocol::TextProtocol;

/// What a score is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricGroup {
    /// Words of the report beside words of the reference.
    Text,
    /// Labels of the report beside labels of the reference.
    Labels,
    /// Findings of the image's classifier beside labels of the reference.
    Findings,
}

impl MetricGroup {
    /// What the scores are of, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Text => "Words of the reports",
            Self::Labels => "Labels of the reports",
            Self::Findings => "Findings of the images",
        }
    }
}

/// One score of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// What it is of.
    pub group: MetricGroup,
    /// Its name, which says what was computed.
    pub name: String,
    /// The one finding that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// The rules by which it was computed.
    pub protocol: String,
    /// Which values are good.
    pub better: Better,
    /// The value with its 95 % interval; none where it is not defined.
    #[serde(flatten)]
    pub estimate: Option<Estimate>,
}

/// The scores that a corpus has.
pub struct MetricSet {
    has: [bool; 3],
    meteor: &'static str,
    protocol: TextProtocol,
    clinical: String,
}

impl MetricSet {
    /// The scores of what is there.
    pub fn of(totals: &Totals, options: &ScoreOptions) -> Self {
        let uncertain = match options.uncertain {
            UncertainAs::Negative => "negative",
            UncertainAs::Positive => "positive",
        };
        Self {
            has: [totals.texts > 0, totals.labelled > 0, totals.classified > 0],
            meteor: options.meteor.name(),
            protocol: options.protocol,
            clinical: format!("CheXbert labels, uncertain as {uncertain}"),
        }
    }

    /// The scores that two systems both have.
    pub(super) fn of_both(first: &Totals, second: &Totals, options: &ScoreOptions) -> Self {
        let (mut set, other) = (Self::of(first, options), Self::of(second, options));
        for (has, other) in set.has.iter_mut().zip(other.has) {
            *has &= other;
        }
        set
    }

    /// Every score of these studies that is a sum over them, in the order of [`MetricSet::names`].
    pub(super) fn values(&self, totals: &Totals) -> Vec<f64> {
        let mut values = Vec::new();
        if self.has[0] {
            let texts = totals.texts.max(1) as f64;
            values.extend(totals.bleu.scores());
            values.push(totals.meteor.score());
            values.push(totals.rouge / texts);
            if self.protocol == TextProtocol::CocoCaption {
                values.push(totals.cider / texts);
            }
        }
        for (has, counts) in [
            (self.has[1], &totals.reports),
            (self.has[2], &totals.findings),
        ] {
            if has {
                clinical_values(counts, &mut values);
            }
        }
        values
    }

    /// The scores with their values, in order.
    pub(super) fn metrics(&self, estimates: Vec<Option<Estimate>>) -> Vec<Metric> {
        let mut metrics = self.names();
        if self.has_findings() {
            metrics.extend(self.ranking_names());
        }
        for (metric, estimate) in metrics.iter_mut().zip(estimates) {
            metric.estimate = estimate;
        }
        metrics
    }

    /// The scores that are sums over studies, without values.
    pub(super) fn names(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |group, protocol: &str, name: &str, finding| {
            metrics.push(Metric {
                group,
                name: name.to_owned(),
                finding,
                protocol: protocol.to_owned(),
                better: Better::Higher,
                estimate: None,
            });
        };
        if self.has[0] {
            let protocol = self.protocol.name();
            let cider = (self.protocol == TextProtocol::CocoCaption).then_some("CIDEr");
            let names = [
                "BLEU-1",
                "BLEU-2",
                "BLEU-3",
                "BLEU-4",
                self.meteor,
                "ROUGE-L",
            ];
            for name in names.into_iter().chain(cider) {
                add(MetricGroup::Text, protocol, name, None);
            }
        }
        let groups = [
            (self.has[1], MetricGroup::Labels, self.clinical.as_str()),
            (
                self.has[2],
                MetricGroup::Findings,
                "classifier, probability over 0.5",
            ),
        ];
        for (_, group, protocol) in groups.into_iter().filter(|(has, _, _)| *has) {
            for name in CLINICAL {
                add(group, protocol, name, None);
            }
            for finding in Finding::ALL {
                for name in ["precision", "recall", "F1"] {
                    add(group, protocol, name, Some(finding));
                }
            }
        }
        metrics
    }

    /// Whether findings of images are scored, too.
    pub(super) fn has_findings(&self) -> bool {
        self.has[2]
    }

    /// The scores of the classifier's probabilities.
    fn ranking_names(&self) -> Vec<Metric> {
        let metric = |name: &str, better, finding| Metric {
            group: MetricGroup::Findings,
            name: name.to_owned(),
            finding,
            protocol: "classifier's probabilities".to_owned(),
            better,
            estimate: None,
        };
        let mut metrics = vec![
            metric("macro AUC", Better::Higher, None),
            metric("Brier score", Better::Lower, None),
        ];
        let each = Finding::ALL.map(|finding| metric("AUC", Better::Higher, Some(finding)));
        metrics.extend(each);
        metrics
    }
}

/// Scores of labels, in the order of [`clinical_values`].
const CLINICAL: [&str; 14] = [
    "macro F1",
    "macro precision",
    "macro recall",
    "sample F1",
    "accuracy",
    "micro precision",
    "micro recall",
    "micro F1",
    "macro precision of 5",
    "macro recall of 5",
    "macro F1 of 5",
    "micro precision of 5",
    "micro recall of 5",
    "micro F1 of 5",
];

fn clinical_values(counts: &LabelCounts, values: &mut Vec<f64>) {
    let scores: ClinicalScores = counts.scores();
    values.extend([
        scores.macro_f1,
        scores.macro_precision,
        scores.macro_recall,
        scores.sample_f1,
        scores.accuracy,
    ]);
    let mut rates = |rates: &Rates| values.extend([rates.precision, rates.recall, rates.f1]);
    for all in [&scores.micro, &scores.five_macro, &scores.five_micro] {
        rates(all);
    }
    for (_, label) in &scores.labels {
        rates(label);
    }
}
