//! Scores of sets of labels beside other sets of labels, over any selection of the studies, so that they can be
//! resampled.

use radialog_schemas::{Finding, Label};

use super::score_table::ScoreCell;
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::classification::few_words;
use crate::prepare::FindingLabels;

/// Number of findings.
pub(super) const CLASSES: usize = Finding::ALL.len();

/// Five findings that are reported most, as in the CheXpert competition.
pub(super) const COMMON: [Finding; 5] = [
    Finding::Atelectasis,
    Finding::Cardiomegaly,
    Finding::Consolidation,
    Finding::Edema,
    Finding::PleuralEffusion,
];

/// Tells for each finding, in the published order, whether it is there.
pub(super) type Flags = [bool; CLASSES];

/// The certain positives: uncertain, denied and not mentioned are all not there.
pub(super) fn present(labels: &FindingLabels) -> Flags {
    labels.map(|label| label == Label::Positive)
}

/// The findings of flags, in the published order.
pub(super) fn findings(flags: &Flags) -> Vec<Finding> {
    Finding::ALL
        .into_iter()
        .zip(flags)
        .filter(|(_, there)| **there)
        .map(|(finding, _)| finding)
        .collect()
}

/// What is true of a study, where it is known, and what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelPair {
    pub(super) truth: [Option<bool>; CLASSES],
    pub(super) prediction: Flags,
}

impl LabelPair {
    /// A study of which all is known.
    pub(super) fn known(truth: Flags, prediction: Flags) -> Self {
        Self {
            truth: truth.map(Some),
            prediction,
        }
    }
}

/// A score of the pairs at some places, of some findings; none where it is not defined.
pub(super) type ScoreFunction = fn(&[LabelPair], &[usize], &[Finding]) -> Option<f64>;

/// A score of all pairs, of some findings, with its interval.
pub(super) type MeasuredScore = fn(&[LabelPair], &[Finding], &Bootstrap) -> ScoreCell;

/// Right and wrong answers about some findings.
#[derive(Clone, Copy, Debug, Default)]
struct ConfusionCounts {
    true_positive: u64,
    false_positive: u64,
    false_negative: u64,
    true_negative: u64,
}

impl ConfusionCounts {
    fn of(pairs: &[LabelPair], at: &[usize], class: usize) -> Self {
        let mut counts = Self::default();
        for &study in at {
            counts.add(pairs[study].truth[class], pairs[study].prediction[class]);
        }
        counts
    }

    fn add(&mut self, truth: Option<bool>, prediction: bool) {
        match (truth, prediction) {
            (Some(true), true) => self.true_positive += 1,
            (Some(false), true) => self.false_positive += 1,
            (Some(true), false) => self.false_negative += 1,
            (Some(false), false) => self.true_negative += 1,
            (None, _) => {}
        }
    }

    /// None where nothing is there to be said.
    fn f1(self) -> Option<f64> {
        let there = self.true_positive + self.false_negative;
        let whole = there + self.true_positive + self.false_positive;
        (there > 0).then(|| (2 * self.true_positive) as f64 / whole as f64)
    }

    fn balanced_accuracy(self) -> Option<f64> {
        let share =
            |part: u64, rest: u64| (part + rest > 0).then(|| part as f64 / (part + rest) as f64);
        let recall = share(self.true_positive, self.false_negative)?;
        Some((recall + share(self.true_negative, self.false_positive)?) / 2.0)
    }
}

/// F1 of one finding. None where no study has it, as the area under the ROC curve has none: in a resample without the finding
/// nobody could have been right, and a 0 would widen the interval to 0 however good the answers are.
pub(super) fn f1(pairs: &[LabelPair], at: &[usize], finding: Finding) -> Option<f64> {
    ConfusionCounts::of(pairs, at, finding as usize).f1()
}

/// The number of patients with a study that has this answer to a finding.
fn patients(pairs: &[LabelPair], finding: Finding, answer: bool, resamples: &Bootstrap) -> usize {
    resamples.groups_with(|study| pairs[study].truth[finding as usize] == Some(answer))
}

/// The same of the answer that fewer patients have; 0 where a finding has one answer only, or none.
pub(super) fn fewest_patients(
    pairs: &[LabelPair],
    finding: Finding,
    resamples: &Bootstrap,
) -> usize {
    let of = |answer| patients(pairs, finding, answer, resamples);
    of(true).min(of(false))
}

/// Whether several patients have one of the findings: where none has, resamples do not vary in its F1.
pub(super) fn several_have_one(
    pairs: &[LabelPair],
    findings: &[Finding],
    resamples: &Bootstrap,
) -> bool {
    let mut each = findings.iter();
    each.any(|finding| patients(pairs, *finding, true, resamples) > 1)
}

/// Whether several patients have one of the findings, and several have it not: the same for scores that need both.
pub(super) fn several_on_both_sides(
    pairs: &[LabelPair],
    findings: &[Finding],
    resamples: &Bootstrap,
) -> bool {
    let mut each = findings.iter();
    each.any(|finding| fewest_patients(pairs, *finding, resamples) > 1)
}

/// Names the findings with both answers of which there is too little for a figure that means much.
pub(super) fn few(name: &str, pairs: &[LabelPair], resamples: &Bootstrap) -> Option<String> {
    let fewest = Finding::ALL.map(|finding| (finding, fewest_patients(pairs, finding, resamples)));
    let with_both = fewest.into_iter().filter(|(_, patients)| *patients > 0);
    few_words(with_both).map(|words| format!("{name}: {words}"))
}

/// F1 of one finding of all pairs, with its interval; without one where a single patient has the finding, since all resamples
/// that define it have that one.
pub(super) fn measured_f1(
    pairs: &[LabelPair],
    finding: Finding,
    resamples: &Bootstrap,
) -> ScoreCell {
    let varies = several_have_one(pairs, &[finding], resamples);
    ScoreCell::measured(resamples, varies, |at| f1(pairs, at, finding))
}

/// Mean F1 of those of the findings that some of all pairs have; none without such a finding.
pub(super) fn macro_f1(pairs: &[LabelPair], at: &[usize], findings: &[Finding]) -> Option<f64> {
    mean_of_findings(findings, at, pairs.len(), |at, finding| {
        f1(pairs, at, finding)
    })
}

/// [`macro_f1`] of all pairs, with its interval; without one where none of the findings has one.
pub(super) fn measured_macro_f1(
    pairs: &[LabelPair],
    findings: &[Finding],
    resamples: &Bootstrap,
) -> ScoreCell {
    let varies = several_have_one(pairs, findings, resamples);
    ScoreCell::measured(resamples, varies, |at| macro_f1(pairs, at, findings))
}

/// Mean over the findings of a score of the studies at these places, of so many in all. For a finding whose score is not
/// defined there, that of all studies stands in: means of resamples are over the same findings, while without the rare ones,
/// which are said worst, they would lie above the value.
pub(super) fn mean_of_findings(
    findings: &[Finding],
    at: &[usize],
    studies: usize,
    score: impl Fn(&[usize], Finding) -> Option<f64>,
) -> Option<f64> {
    let all: Vec<usize> = (0..studies).collect();
    let of = |&finding: &Finding| score(at, finding).or_else(|| score(&all, finding));
    mean(findings.iter().filter_map(of))
}

/// F1 of all cells of some findings together; none where no study has any of them.
pub(super) fn micro_f1(pairs: &[LabelPair], at: &[usize], findings: &[Finding]) -> Option<f64> {
    let mut counts = ConfusionCounts::default();
    for &study in at {
        for &finding in findings {
            counts.add(
                pairs[study].truth[finding as usize],
                pairs[study].prediction[finding as usize],
            );
        }
    }
    counts.f1()
}

/// [`micro_f1`] of all pairs, with its interval; without one where a single patient has any of the findings.
pub(super) fn measured_micro_f1(
    pairs: &[LabelPair],
    findings: &[Finding],
    resamples: &Bootstrap,
) -> ScoreCell {
    let has_one = |study: usize| {
        let mut each = findings.iter();
        each.any(|finding| pairs[study].truth[*finding as usize] == Some(true))
    };
    let varies = resamples.groups_with(has_one) > 1;
    ScoreCell::measured(resamples, varies, |at| micro_f1(pairs, at, findings))
}

/// Mean of sensitivity and specificity of one finding; none where it has not both answers. One half where what is said does not
/// depend on the truth, however often it is said.
pub(super) fn balanced_accuracy(
    pairs: &[LabelPair],
    at: &[usize],
    finding: Finding,
) -> Option<f64> {
    ConfusionCounts::of(pairs, at, finding as usize).balanced_accuracy()
}

/// Mean of [`balanced_accuracy`] over the findings that have both answers.
pub(super) fn macro_balanced_accuracy(
    pairs: &[LabelPair],
    at: &[usize],
    findings: &[Finding],
) -> Option<f64> {
    mean_of_findings(findings, at, pairs.len(), |at, finding| {
        balanced_accuracy(pairs, at, finding)
    })
}

/// Mean F1 of the studies' sets of labels; 1 where both sets are empty.
pub(super) fn study_f1(pairs: &[LabelPair], at: &[usize], findings: &[Finding]) -> Option<f64> {
    mean(at.iter().map(|&study| {
        let mut counts = ConfusionCounts::default();
        for &finding in findings {
            counts.add(
                pairs[study].truth[finding as usize],
                pairs[study].prediction[finding as usize],
            );
        }
        let nothing = counts.true_positive + counts.false_positive + counts.false_negative == 0;
        if nothing {
            1.0
        } else {
            counts.f1().unwrap_or(0.0)
        }
    }))
}

/// The findings that some studies have and others do not.
pub(super) fn with_both_answers(truths: &[[Option<bool>; CLASSES]]) -> Vec<Finding> {
    let has = |finding: Finding, answer: bool| {
        truths
            .iter()
            .any(|truth| truth[finding as usize] == Some(answer))
    };
    Finding::ALL
        .into_iter()
        .filter(|&finding| has(finding, true) && has(finding, false))
        .collect()
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(truth: &[Finding], prediction: &[Finding]) -> LabelPair {
        let flags = |findings: &[Finding]| Finding::ALL.map(|finding| findings.contains(&finding));
        LabelPair::known(flags(truth), flags(prediction))
    }

    #[test]
    fn scores_of_a_handful_of_studies_are_those_by_hand() {
        use Finding::{Edema, Fracture, NoFinding};
        let pairs = [
            pair(&[Edema], &[Edema]),
            pair(&[Edema], &[]),
            pair(&[], &[Fracture]),
            pair(&[NoFinding], &[NoFinding]),
        ];
        let all = [0, 1, 2, 3];
        let f1_of_edema = f1(&pairs, &all, Edema).unwrap();
        assert!((f1_of_edema - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(f1(&pairs, &all, Fracture), None, "nobody has one");
        let of_both = macro_f1(&pairs, &all, &[NoFinding, Edema]).unwrap();
        assert!((of_both - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(macro_f1(&pairs, &all, &[NoFinding, Fracture]), Some(1.0));
        assert_eq!(macro_f1(&pairs, &all, &[Fracture]), None);
        // 2 right, 1 missed, 1 wrong
        let together = micro_f1(&pairs, &all, &Finding::ALL).unwrap();
        assert!((together - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(micro_f1(&pairs, &all, &[Fracture]), None);
        assert_eq!(balanced_accuracy(&pairs, &all, Edema), Some(0.75));
        assert_eq!(balanced_accuracy(&pairs, &all, Fracture), None);
        assert_eq!(study_f1(&pairs, &all, &Finding::ALL), Some(0.5));
        assert_eq!(
            study_f1(&pairs, &all, &[Edema]),
            Some(0.75),
            "nothing on both sides agrees"
        );
    }

    /// Three of forty studies have the finding: about one resample in twenty has none of them.
    #[test]
    fn a_resample_without_the_finding_is_not_in_the_interval_of_its_f1() {
        let study = |number: usize| match number {
            0..3 => pair(&[Finding::Edema], &[Finding::Edema]),
            _ => pair(&[], &[]),
        };
        let studies = |count: usize| (0..count).map(study).collect::<Vec<_>>();
        let pairs = studies(40);
        let patients: Vec<usize> = (0..pairs.len()).collect();
        let resamples = Bootstrap::new(&patients, 1, "test");
        let interval = |score: &(dyn Fn(&[usize]) -> Option<f64> + Sync)| {
            resamples.measure(score).unwrap().interval()
        };
        let certain = Some([1.0, 1.0]);
        assert_eq!(interval(&|at| f1(&pairs, at, Finding::Edema)), certain);
        assert_eq!(interval(&|at| macro_f1(&pairs, at, &Finding::ALL)), certain);
        assert_eq!(interval(&|at| micro_f1(&pairs, at, &Finding::ALL)), certain);
        // All resamples that define the F1 of a single study have that one.
        let one = studies(40).split_off(2);
        let resamples = Bootstrap::new(&patients[2..], 1, "test");
        let cell = measured_f1(&one, Finding::Edema, &resamples);
        assert_eq!(cell, ScoreCell::Fixed(1.0));
        let none = measured_f1(&one, Finding::Fracture, &resamples);
        assert_eq!(none, ScoreCell::Undefined);
    }

    /// One finding that is always right, and five that one study each has and nobody says.
    #[test]
    fn the_mean_f1_of_resamples_lies_around_that_of_all_studies() {
        let rare = [
            Finding::Edema,
            Finding::Fracture,
            Finding::Pneumonia,
            Finding::Atelectasis,
            Finding::LungLesion,
        ];
        let common = Finding::NoFinding;
        let study = |number: usize| match rare.get(number) {
            Some(finding) => pair(&[*finding], &[]),
            None if number.is_multiple_of(2) => pair(&[common], &[common]),
            None => pair(&[], &[]),
        };
        let pairs: Vec<LabelPair> = (0..40).map(study).collect();
        let patients: Vec<usize> = (0..pairs.len()).collect();
        let resamples = Bootstrap::new(&patients, 1, "test");
        let found = resamples
            .measure(|at| macro_f1(&pairs, at, &Finding::ALL))
            .unwrap();
        assert_eq!(found.interval(), Some([1.0 / 6.0; 2]));
        let sure = macro_balanced_accuracy(&pairs, &[7, 8], &Finding::ALL);
        let sure = sure.unwrap();
        assert!((sure - 3.5 / 6.0).abs() < 1e-12, "{sure}");
    }

    /// Edema in three studies of one patient, and pneumonia in one of another's, of forty patients.
    #[test]
    fn what_one_patient_has_has_no_interval_and_is_named() {
        let study = |number: usize| match number {
            0..3 => pair(&[Finding::Edema], &[Finding::Edema]),
            3 => pair(&[Finding::Pneumonia], &[]),
            4..24 => pair(&[Finding::NoFinding], &[Finding::NoFinding]),
            _ => pair(&[], &[]),
        };
        let pairs: Vec<LabelPair> = (0..42).map(study).collect();
        let patients: Vec<usize> = (0..42_usize).map(|study| study.saturating_sub(2)).collect();
        let resamples = Bootstrap::new(&patients, 1, "test");
        let rare = [Finding::Edema, Finding::Pneumonia];
        let cell = measured_f1(&pairs, Finding::Edema, &resamples);
        assert_eq!(cell, ScoreCell::Fixed(1.0));
        let cell = measured_macro_f1(&pairs, &rare, &resamples);
        assert_eq!(cell, ScoreCell::Fixed(0.5));
        let cell = measured_micro_f1(&pairs, &rare[..1], &resamples);
        assert_eq!(cell, ScoreCell::Fixed(1.0));
        let with_others = [Finding::Edema, Finding::Pneumonia, Finding::NoFinding];
        let cell = measured_macro_f1(&pairs, &with_others, &resamples);
        assert!(matches!(cell, ScoreCell::Measured(_)), "{cell:?}");
        let words = few("labels", &pairs, &resamples).unwrap();
        let named = "labels: fewer than 10 patients with, or without, Edema (1), Pneumonia (1): ";
        assert!(
            words.starts_with(named) && words.contains("means that they are in"),
            "{words}"
        );
        let certain: Vec<LabelPair> = pairs[4..].to_vec();
        let patients: Vec<usize> = (0..certain.len()).collect();
        let resamples = Bootstrap::new(&patients, 1, "test");
        assert_eq!(few("labels", &certain, &resamples), None);
    }

    #[test]
    fn unknown_labels_do_not_count() {
        let mut unknown = pair(&[Finding::Edema], &[Finding::Edema]);
        unknown.truth[Finding::Edema as usize] = None;
        assert_eq!(f1(&[unknown], &[0], Finding::Edema), None);
        assert!(with_both_answers(&[unknown.truth]).is_empty());
        let (with, without) = (pair(&[Finding::Edema], &[]), pair(&[], &[]));
        assert_eq!(
            with_both_answers(&[with.truth, without.truth]),
            [Finding::Edema]
        );
    }
}
