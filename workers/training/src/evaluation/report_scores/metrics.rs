//! The scores by name: what each is of, by which protocol, which way is better.

use radialog_schemas::Finding;
use serde::Serialize;

use super::ranking::brier;
use super::{Better, CLASSES, Estimate, ScoreOptions, ScoredPatients, TextScorer, Totals};
use crate::evaluation::clinical::{ClinicalScores, LabelCounts, Rates, UncertainAs};
use crate::evaluation::label_source::LabelSources;
use crate::evaluation::radgraph::{INVERSE_RADCLIQ, inverse_of};
use crate::evaluation::text_scores::protocol::TextScore;

/// The name of the mean distance between probabilities and what is true.
pub const CALIBRATION_ERROR: &str = "expected calibration error";

/// The name of the area under the curve of a finding.
const AUC: &str = "AUC";

/// The name of the mean of the areas under the curve.
const MACRO_AUC: &str = "macro AUC";

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
    /// What the report says of earlier images.
    Comparisons,
}

impl MetricGroup {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Text, Self::Labels, Self::Findings, Self::Comparisons];

    /// What the scores are of, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Text => "Words of the reports",
            Self::Labels => "Labels of the reports",
            Self::Findings => "Findings of the images",
            Self::Comparisons => "Comparisons with earlier images",
        }
    }

    /// Whether each finding is scored, too.
    pub fn has_findings(self) -> bool {
        matches!(self, Self::Labels | Self::Findings)
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
    has_labels: bool,
    has_findings: bool,
    has_comparisons: bool,
    has_radgraph: bool,
    has_radcliq: bool,
    /// Text scores by name, as far as there are any.
    text: Vec<TextScore>,
    scorer: TextScorer,
    /// By which rules labels, findings and their ranking are scored.
    labels: String,
    findings: String,
    ranking: String,
    severity: String,
}

impl MetricSet {
    /// The scores of what is there.
    pub fn of(totals: &Totals, options: &ScoreOptions, sources: &LabelSources) -> Self {
        let uncertain = match options.uncertain {
            UncertainAs::Negative => "negative",
            UncertainAs::Positive => "positive",
        };
        let (reports, truth) = (sources.report_words(), sources.truth_words());
        let of_findings = |counts: &LabelCounts| {
            let words = counts.findings_words();
            words.map_or_else(String::new, |words| format!("; {words}"))
        };
        let (of_reports, of_images) = (of_findings(&totals.reports), of_findings(&totals.findings));
        Self {
            has_labels: totals.labelled > 0,
            has_findings: totals.classified > 0,
            has_radgraph: totals.radgraph_f1.0 > 0,
            has_radcliq: totals.radcliq_v1.0 > 0,
            has_comparisons: totals.comparisons.reports > 0,
            text: options.scorer.scores(&totals.text),
            scorer: options.scorer.clone(),
            labels: format!("{reports}; truth: {truth}; uncertain as {uncertain}{of_reports}"),
            findings: format!(
                "classifier, probability over its threshold (0.5 unless the bundle has another); truth: {truth}; uncertain as {uncertain}{of_images}"
            ),
            ranking: format!(
                "classifier's probabilities; truth: {truth}; uncertain as {uncertain}{of_images}"
            ),
            severity: format!("weights of this project, not validated; truth: {truth}"),
        }
    }

    /// The scores that two systems both have.
    pub(super) fn of_both(
        [first, second]: [&Totals; 2],
        options: &ScoreOptions,
        sources: &LabelSources,
    ) -> Self {
        let [mut set, other] = [first, second].map(|totals| Self::of(totals, options, sources));
        set.has_labels &= other.has_labels;
        set.has_findings &= other.has_findings;
        set.has_comparisons &= other.has_comparisons;
        set.has_radgraph &= other.has_radgraph;
        set.has_radcliq &= other.has_radcliq;
        if other.text.is_empty() {
            set.text.clear();
        }
        set
    }

    /// Every score of these studies that is a sum over them, in the order of [`MetricSet::names`]; NaN where a selection has
    /// nothing that a score is of.
    pub(super) fn values(&self, totals: &Totals) -> Vec<f64> {
        let mut values = Vec::new();
        if !self.text.is_empty() {
            let scores = self.scorer.scores(&totals.text);
            values.extend(scores.iter().map(|score| score.value));
            values.resize(self.text.len(), f64::NAN);
        }
        // NaN where a selection has none.
        let mean = |(reports, sum): (u64, f64)| sum / reports as f64;
        if self.has_radgraph {
            values.push(mean(totals.radgraph_f1));
        }
        if self.has_radcliq {
            let radcliq = mean(totals.radcliq_v1);
            values.extend([radcliq, 1.0 / radcliq]);
        }
        let or_nan = |value: f64, of: u64| if of == 0 { f64::NAN } else { value };
        if self.has_labels {
            clinical_values(&totals.reports, totals.labelled, &mut values);
            let severity = &totals.severity;
            values.push(or_nan(severity.mean(), severity.reports));
        }
        if self.has_findings {
            clinical_values(&totals.findings, totals.classified, &mut values);
        }
        if self.has_comparisons {
            let comparisons = &totals.comparisons;
            values.push(or_nan(comparisons.reports_share(), comparisons.reports));
            values.push(or_nan(comparisons.sentences_share(), comparisons.sentences));
        }
        values
    }

    /// The same with the scores of the classifier's probabilities, in the order of [`MetricSet::all_names`]: `aucs` are the mean of
    /// the areas under the curve, and each finding's.
    pub(super) fn values_with_ranking(
        &self,
        totals: &Totals,
        (mean, each): &(f64, [f64; CLASSES]),
    ) -> Vec<f64> {
        let mut values = self.values(totals);
        let calibration = totals.calibration.clone().finish();
        values.extend([*mean, brier(totals), calibration.expected_error]);
        values.extend(each);
        values
    }

    /// The scores with their values, in order; without an interval where all resamples that define a score have the same patient.
    pub(super) fn metrics(
        &self,
        totals: &Totals,
        patients: &ScoredPatients,
        estimates: Vec<Option<Estimate>>,
    ) -> Vec<Metric> {
        let mut metrics = self.all_names();
        for (metric, estimate) in metrics.iter_mut().zip(estimates) {
            metric.estimate = estimate.filter(|_| is_defined(metric, totals));
            if rests_on_one(metric, patients) {
                metric.estimate = metric.estimate.map(Estimate::without_interval);
            }
        }
        let is_inverse = |metric: &Metric| metric.name == INVERSE_RADCLIQ;
        if let Some(place) = metrics.iter().position(is_inverse) {
            // It follows what it is the inverse of.
            let radcliq = metrics[place - 1].estimate;
            metrics[place].estimate = inverse_of(radcliq, metrics[place].estimate);
        }
        metrics
    }

    /// The scores that are sums over studies, without values.
    pub(super) fn names(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |group, protocol: &str, name: &str, better, finding| {
            metrics.push(Metric {
                group,
                name: name.to_owned(),
                finding,
                protocol: protocol.to_owned(),
                better,
                estimate: None,
            });
        };
        for score in &self.text {
            let protocol = self.scorer.protocol().name();
            add(MetricGroup::Text, protocol, score.name, score.better, None);
        }
        let annotations = "annotations of others";
        if self.has_radgraph {
            add(
                MetricGroup::Text,
                annotations,
                "RadGraph F1",
                Better::Higher,
                None,
            );
        }
        if self.has_radcliq {
            add(
                MetricGroup::Text,
                annotations,
                "RadCliQ-v1",
                Better::Lower,
                None,
            );
            add(
                MetricGroup::Text,
                annotations,
                INVERSE_RADCLIQ,
                Better::Higher,
                None,
            );
        }
        if self.has_labels {
            clinical_names(MetricGroup::Labels, &self.labels, &mut add);
            let name = "severity-weighted errors of a report";
            add(
                MetricGroup::Labels,
                &self.severity,
                name,
                Better::Lower,
                None,
            );
        }
        if self.has_findings {
            clinical_names(MetricGroup::Findings, &self.findings, &mut add);
        }
        if self.has_comparisons {
            for name in ["reports that compare", "sentences that compare"] {
                let protocol = "phrases of this project, not validated";
                add(
                    MetricGroup::Comparisons,
                    protocol,
                    name,
                    Better::Lower,
                    None,
                );
            }
        }
        metrics
    }

    /// All scores, those of the classifier's probabilities among them, without values.
    pub(super) fn all_names(&self) -> Vec<Metric> {
        let mut metrics = self.names();
        if self.has_findings() {
            metrics.extend(self.ranking_names());
        }
        metrics
    }

    /// Whether findings of images are scored, too.
    pub(super) fn has_findings(&self) -> bool {
        self.has_findings
    }

    /// The scores of the classifier's probabilities.
    fn ranking_names(&self) -> Vec<Metric> {
        let metric = |name: &str, better, finding| Metric {
            group: MetricGroup::Findings,
            name: name.to_owned(),
            finding,
            protocol: self.ranking.clone(),
            better,
            estimate: None,
        };
        let mut metrics = vec![
            metric(MACRO_AUC, Better::Higher, None),
            metric("Brier score", Better::Lower, None),
            metric(CALIBRATION_ERROR, Better::Lower, None),
        ];
        let each = Finding::ALL.map(|finding| metric(AUC, Better::Higher, Some(finding)));
        metrics.extend(each);
        metrics
    }
}

/// Whether a score can say anything: one of a finding that no study has cannot, though the means count it as 0, as the original does.
pub(super) fn is_defined(metric: &Metric, totals: &Totals) -> bool {
    let counts = match metric.group {
        MetricGroup::Findings => &totals.findings,
        _ => &totals.reports,
    };
    let finding = metric.finding;
    finding.is_none_or(|finding| counts.positives(finding) > 0)
}

/// Whether a score rests on a single patient: one of a finding on who has it, its AUC on who has it not as well, and the mean AUC
/// on one where that is so of each finding.
fn rests_on_one(metric: &Metric, patients: &ScoredPatients) -> bool {
    let is_of_one = |finding: Finding| patients.fewest(metric.group, finding) < 2;
    match metric.finding {
        Some(finding) if metric.name == AUC => patients.fewest(metric.group, finding) == 1,
        Some(finding) => patients.with(metric.group, finding) == 1,
        None => metric.name == MACRO_AUC && Finding::ALL.into_iter().all(is_of_one),
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
/// Scores of each finding.
const RATES: [&str; 3] = ["precision", "recall", "F1"];

fn clinical_names(
    group: MetricGroup,
    protocol: &str,
    add: &mut impl FnMut(MetricGroup, &str, &str, Better, Option<Finding>),
) {
    for name in CLINICAL {
        add(group, protocol, name, Better::Higher, None);
    }
    for finding in Finding::ALL {
        for name in RATES {
            add(group, protocol, name, Better::Higher, Some(finding));
        }
    }
}

fn clinical_values(counts: &LabelCounts, studies: u64, values: &mut Vec<f64>) {
    if studies == 0 {
        let scores = CLINICAL.len() + RATES.len() * Finding::ALL.len();
        values.extend(std::iter::repeat_n(f64::NAN, scores));
        return;
    }
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
    for (finding, label) in &scores.labels {
        match counts.known(*finding) {
            // No reference says anything of it: 0 would be a score.
            0 => values.extend([f64::NAN; RATES.len()]),
            _ => values.extend([label.precision, label.recall, label.f1]),
        }
    }
}
