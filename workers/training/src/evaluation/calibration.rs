//! What a classifier's logits mean, fitted on images that it did not learn from: Platt's sigmoid of each finding (Platt, 1999; with
//! the iteration of Lin, Lin and Weng, 2007), and the threshold over which the finding counts as present.

use radialog_models::findings::{Calibration, FindingCalibration, ThresholdRule};
use radialog_schemas::Finding;

/// Number of findings.
const CLASSES: usize = Finding::ALL.len();
/// A finding is fitted by itself from so many images with it, and so many without, on; below, it has the slope and the threshold
/// of all findings together, and an intercept of its own.
pub const OWN: usize = 10;
/// Steps of the iteration; some ten are enough where the data is not odd.
const STEPS: usize = 100;
/// The iteration ends where no part of the gradient is larger.
const FLAT: f64 = 1e-5;

/// A finding's logits, and whether the finding is there; what is not known is left out.
pub type Answers = Vec<(f32, bool)>;

/// The answers about each finding, in the published order.
#[derive(Clone, Debug, Default)]
pub struct CalibrationData(pub [Answers; CLASSES]);

impl CalibrationData {
    /// Adds an image: its logits, and what is known of it.
    pub fn add(&mut self, logits: &[f32], truths: &[Option<bool>; CLASSES]) {
        for ((answers, logit), truth) in self.0.iter_mut().zip(logits).zip(truths) {
            answers.extend(truth.map(|truth| (*logit, truth)));
        }
    }

    /// Forgets the answers about all findings but these.
    pub fn keep(&mut self, findings: &[Finding]) {
        for (finding, answers) in Finding::ALL.into_iter().zip(&mut self.0) {
            if !findings.contains(&finding) {
                answers.clear();
            }
        }
    }

    /// Fits slopes, intercepts and thresholds; none where all findings together have too few answers of either kind, or the logits
    /// do not rise with what is true.
    pub fn fit(&self, rule: ThresholdRule) -> Option<Calibration> {
        let all: Answers = self.0.iter().flatten().copied().collect();
        let shared = sigmoid(&all).filter(|_| is_enough(&all))?;
        let mut together = Vec::new();
        let mut own = Vec::new();
        let mut findings: Vec<(Finding, FindingCalibration)> = Vec::new();
        for (finding, answers) in Finding::ALL.into_iter().zip(&self.0) {
            if answers.is_empty() {
                continue;
            }
            let fitted = sigmoid(answers).filter(|_| is_enough(answers));
            let (slope, intercept) =
                fitted.unwrap_or_else(|| (shared.0, intercept(answers, shared.0)));
            let of = FindingCalibration {
                slope,
                intercept,
                threshold: 0.5,
            };
            let probabilities = answers
                .iter()
                .map(|&(logit, truth)| (of.probability(f64::from(logit)), truth));
            together.extend(probabilities);
            own.extend(fitted.is_some().then_some(finding));
            findings.push((finding, of));
        }
        let common = threshold(&mut together);
        for (finding, of) in &mut findings {
            let answers = self.0[*finding as usize].iter();
            let mut answers: Vec<_> = answers
                .map(|&(logit, truth)| (of.probability(f64::from(logit)), truth))
                .collect();
            of.threshold = match rule {
                // Counting needs no more than there are.
                ThresholdRule::AsMany => as_many(&mut answers),
                ThresholdRule::LargestF1 if own.contains(finding) => threshold(&mut answers),
                ThresholdRule::LargestF1 => common,
            };
        }
        let shown = |of: bool| {
            let names = findings
                .iter()
                .filter(|(finding, _)| own.contains(finding) == of);
            let names: Vec<&str> = names.map(|(finding, _)| finding.name()).collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        let words = match rule {
            ThresholdRule::LargestF1 => format!(
                "Platt's sigmoid on the validation images, and the threshold of the largest F1 there. By themselves, of {OWN} images \
                 with the finding and {OWN} without on: {}. With the slope and the threshold of all findings together and an intercept \
                 of their own: {}. All others as published.",
                shown(true),
                shown(false)
            ),
            ThresholdRule::AsMany => format!(
                "Platt's sigmoid on the validation images, and the threshold over which as many of them are called as have the \
                 finding. By themselves, of {OWN} images with the finding and {OWN} without on: {}. With the slope of all findings \
                 together and an intercept of their own: {}. All others as published.",
                shown(true),
                shown(false)
            ),
        };
        Some(Calibration {
            findings: findings.into_iter().collect(),
            rule: words,
            thresholds: Some(rule),
        })
    }
}

/// Whether there are enough answers of both kinds to fit two numbers.
fn is_enough(answers: &[(f32, bool)]) -> bool {
    let with = answers.iter().filter(|(_, truth)| *truth).count();
    with >= OWN && answers.len() - with >= OWN
}

/// What each answer is taken for, so that no probability is driven to 0 or 1: Platt's.
fn targets(answers: &[(f32, bool)]) -> (f64, f64) {
    let with = answers.iter().filter(|(_, truth)| *truth).count() as f64;
    let without = answers.len() as f64 - with;
    ((with + 1.0) / (with + 2.0), 1.0 / (without + 2.0))
}

/// Slope and intercept of the sigmoid that makes the answers likeliest; none where it would not rise.
fn sigmoid(answers: &[(f32, bool)]) -> Option<(f64, f64)> {
    if answers.is_empty() {
        return None;
    }
    let (positive, negative) = targets(answers);
    let target = |truth: bool| if truth { positive } else { negative };
    let loss = |slope: f64, intercept: f64| -> f64 {
        let cell = |&(logit, truth): &(f32, bool)| {
            let x = slope * f64::from(logit) + intercept;
            // As torch computes it: never the exponential of a large number.
            x.max(0.0) - x * target(truth) + (-x.abs()).exp().ln_1p()
        };
        answers.iter().map(cell).sum()
    };
    let (mut slope, mut intercept) = (0.0, (positive / negative).ln().clamp(-1.0, 1.0));
    let mut now = loss(slope, intercept);
    for _ in 0..STEPS {
        // Newton's step, a little damped, and halved until it brings something.
        let (mut ga, mut gb) = (0.0, 0.0);
        let (mut haa, mut hab, mut hbb) = (1e-12, 0.0, 1e-12);
        for &(logit, truth) in answers {
            let x = f64::from(logit);
            let p = 1.0 / (1.0 + (-(slope * x + intercept)).exp());
            let (d, w) = (p - target(truth), p * (1.0 - p));
            (ga, gb) = (ga + d * x, gb + d);
            (haa, hab, hbb) = (haa + w * x * x, hab + w * x, hbb + w);
        }
        if ga.abs() < FLAT && gb.abs() < FLAT {
            break;
        }
        let determinant = haa * hbb - hab * hab;
        if determinant.abs() < 1e-18 {
            break;
        }
        let (da, db) = (
            -(hbb * ga - hab * gb) / determinant,
            -(haa * gb - hab * ga) / determinant,
        );
        let slant = ga * da + gb * db;
        let mut length = 1.0;
        let found = loop {
            let (a, b) = (slope + length * da, intercept + length * db);
            let next = loss(a, b);
            if next < now + 1e-4 * length * slant {
                break Some((a, b, next));
            }
            length /= 2.0;
            if length < 1e-10 {
                break None;
            }
        };
        let Some((a, b, next)) = found else {
            break;
        };
        (slope, intercept, now) = (a, b, next);
    }
    (slope > 0.0 && slope.is_finite() && intercept.is_finite()).then_some((slope, intercept))
}

/// The intercept beside a slope that stays: the mean probability is the share of answers, each kind counted once more.
fn intercept(answers: &[(f32, bool)], slope: f64) -> f64 {
    let with = answers.iter().filter(|(_, truth)| *truth).count() as f64;
    let share = (with + 1.0) / (answers.len() as f64 + 2.0);
    let mean = |intercept: f64| {
        let of = FindingCalibration {
            slope,
            intercept,
            threshold: 0.5,
        };
        let sum: f64 = answers
            .iter()
            .map(|(logit, _)| of.probability(f64::from(*logit)))
            .sum();
        sum / answers.len() as f64
    };
    // The mean rises with the intercept: halved until nothing is left to tell.
    let furthest = answers
        .iter()
        .map(|(logit, _)| (slope * f64::from(*logit)).abs())
        .fold(0.0, f64::max);
    let (mut low, mut high) = (-furthest - 40.0, furthest + 40.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        match mean(middle) < share {
            true => low = middle,
            false => high = middle,
        }
    }
    f64::midpoint(low, high)
}

/// The threshold over which a call has the largest F1, midway between two probabilities; of several, the one that is nearest to one
/// half. One half where nothing is there. To call everything present is no threshold, though its F1 may be the largest.
fn threshold(answers: &mut [(f64, bool)]) -> f64 {
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    let with = answers.iter().filter(|(_, truth)| *truth).count();
    let (mut right, mut best) = (0, (0.0, 0.5));
    for (called, pair) in (1..).zip(answers.windows(2)) {
        right += usize::from(pair[0].1);
        if pair[0].0 == pair[1].0 {
            continue;
        }
        let f1 = 2.0 * right as f64 / (called + with) as f64;
        let middle = f64::midpoint(pair[0].0, pair[1].0);
        let is_nearer = (middle - 0.5).abs() < (best.1 - 0.5_f64).abs();
        if f1 > best.0 || (f1 == best.0 && is_nearer) {
            best = (f1, middle);
        }
    }
    best.1
}

/// The threshold over which as many answers are called as are true, midway between two probabilities.
fn as_many(answers: &mut [(f64, bool)]) -> f64 {
    answers.sort_by(|a, b| b.0.total_cmp(&a.0));
    let with = answers.iter().filter(|(_, truth)| *truth).count();
    let at = |place: usize, beyond: f64| answers.get(place).map_or(beyond, |(p, _)| *p);
    let above = if with == 0 { 1.0 } else { at(with - 1, 1.0) };
    f64::midpoint(above, at(with, 0.0))
}

/// The mean squared distance of probabilities from what is true (Brier, 1950); lower is better. None without answers.
pub fn brier(answers: impl Iterator<Item = (f64, bool)>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    for (probability, truth) in answers {
        let distance = probability - f64::from(u8::from(truth));
        sum += distance * distance;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Answers that are true as often as the sigmoid of `slope * logit + intercept` says.
    fn drawn(count: usize, slope: f64, intercept: f64) -> Answers {
        let mut random = Random::stream(7, "calibration");
        let mut answer = |_| {
            let logit = random.between(-4.0, 4.0);
            let p = 1.0 / (1.0 + (-(slope * logit + intercept)).exp());
            (logit as f32, random.between(0.0, 1.0) < p)
        };
        (0..count).map(&mut answer).collect()
    }

    #[test]
    fn the_sigmoid_that_made_the_answers_is_found() {
        let (slope, intercept) = sigmoid(&drawn(20_000, 0.5, -1.0)).unwrap();
        assert!(
            (slope - 0.5).abs() < 0.03 && (intercept + 1.0).abs() < 0.06,
            "{slope} {intercept}"
        );
        let falling: Answers = drawn(500, -0.5, 0.0);
        assert_eq!(
            sigmoid(&falling),
            None,
            "a classifier that is wrong is not turned round"
        );
    }

    /// Recorded with `_SigmoidCalibration` of scikit-learn 1.9.1.
    #[test]
    fn slope_and_intercept_are_those_of_scikit_learn_ties_and_all() {
        let answers: Answers = (0..40_i32)
            .map(|at| {
                let logit = f64::from(at * 7 % 11 - 5) / 2.0;
                (logit as f32, f64::from(at * 5 % 8) + 2.0 * logit > 4.0)
            })
            .collect();
        let (slope, intercept) = sigmoid(&answers).unwrap();
        assert!((slope - 1.520_325).abs() < 1e-5, "{slope}");
        assert!((intercept + 0.926_758).abs() < 1e-5, "{intercept}");
    }

    #[test]
    fn calibrated_probabilities_have_a_lower_brier_score_on_answers_that_they_were_not_fitted_on() {
        let mut answers = drawn(2_000, 0.5, -1.5);
        let mut data = CalibrationData::default();
        data.0[Finding::Edema as usize] = answers.split_off(1_000);
        let calibration = data.fit(ThresholdRule::default()).unwrap();
        let of = calibration.findings[&Finding::Edema];
        let plain = FindingCalibration::PUBLISHED;
        let score = |of: FindingCalibration| {
            let cells = answers.iter();
            brier(cells.map(|&(logit, truth)| (of.probability(f64::from(logit)), truth))).unwrap()
        };
        assert!(
            score(of) < score(plain) - 0.02,
            "{} {}",
            score(of),
            score(plain)
        );
        assert!(of.threshold < 0.5, "rarer than one half: {}", of.threshold);
    }

    #[test]
    fn a_rare_finding_has_the_slope_of_all_and_its_own_frequency_and_one_without_answers_stays_as_published()
     {
        let mut data = CalibrationData::default();
        data.0[Finding::Edema as usize] = drawn(400, 0.8, 0.0);
        data.0[Finding::Fracture as usize] = drawn(98, 0.8, 0.0);
        let rare = &mut data.0[Finding::Fracture as usize];
        rare.iter_mut()
            .enumerate()
            .for_each(|(at, answer)| answer.1 = at < 3);
        let calibration = data.fit(ThresholdRule::default()).unwrap();
        assert_eq!(calibration.findings.len(), 2);
        let of = calibration.findings[&Finding::Fracture];
        let rare = &data.0[Finding::Fracture as usize];
        let mean: f64 = rare
            .iter()
            .map(|(logit, _)| of.probability(f64::from(*logit)))
            .sum();
        assert!((mean / 98.0 - 4.0 / 100.0).abs() < 1e-6, "{mean}");
        let common = calibration.findings[&Finding::Edema];
        assert_ne!(of.slope, common.slope);
        assert!(
            calibration.rule.contains("Fracture"),
            "{}",
            calibration.rule
        );
        calibration.check().unwrap();
        // What was not learned is not fitted, and has no part in what all have.
        data.keep(&[Finding::Edema]);
        let findings = data.fit(ThresholdRule::default()).unwrap().findings;
        assert_eq!(findings.into_keys().collect::<Vec<_>>(), [Finding::Edema]);
    }

    #[test]
    fn too_few_answers_are_not_fitted() {
        let mut data = CalibrationData::default();
        data.0[0] = drawn(12, 1.0, 0.0);
        assert_eq!(data.fit(ThresholdRule::default()), None);
        assert_eq!(
            CalibrationData::default().fit(ThresholdRule::default()),
            None
        );
        assert_eq!(brier(std::iter::empty()), None);
    }

    #[test]
    fn the_threshold_has_the_largest_f1_and_is_nearest_to_one_half() {
        let mut answers = [(0.9, true), (0.7, true), (0.3, false), (0.1, false)];
        assert!((threshold(&mut answers) - 0.5).abs() < 1e-12);
        let mut answers = [(0.4, true), (0.3, true), (0.2, false), (0.1, false)];
        assert!((threshold(&mut answers) - 0.25).abs() < 1e-12);
        assert_eq!(threshold(&mut []), 0.5);
        // To call all of them has an F1 of 0.8, the best cut one of 2 / 3.
        let mut answers = [(0.9, true), (0.5, false), (0.1, true)];
        assert!((threshold(&mut answers) - 0.7).abs() < 1e-12);
    }

    #[test]
    fn as_many_are_called_as_have_the_finding() {
        let mut answers = [
            (0.2, false),
            (0.4, true),
            (0.3, false),
            (0.1, true),
            (0.6, false),
        ];
        let over = as_many(&mut answers);
        assert!((over - 0.35).abs() < 1e-12, "{over}");
        assert!(
            as_many(&mut [(0.2, false), (0.4, false)]) > 0.4,
            "none has it"
        );
        assert!(as_many(&mut [(0.2, true)]) < 0.2, "all have it");
        let mut data = CalibrationData::default();
        data.0[Finding::Edema as usize] = drawn(400, 0.8, -1.0);
        let of = data.fit(ThresholdRule::AsMany).unwrap().findings[&Finding::Edema];
        let answers = &data.0[Finding::Edema as usize];
        let count = |is_one: &dyn Fn(&(f32, bool)) -> bool| {
            answers.iter().filter(|answer| is_one(answer)).count()
        };
        let called = count(&|(logit, _)| of.probability(f64::from(*logit)) > of.threshold);
        assert_eq!(called, count(&|(_, truth)| *truth));
    }
}
