//! Probabilities that are right as often as they say, and the thresholds over which findings count as present: what a bundle says
//! of its classifier beside the weights, fitted on images that it did not learn from.

use std::collections::BTreeMap;

use radialog_schemas::Finding;
use serde::{Deserialize, Serialize};

/// The rule by which the threshold of a finding follows from its probabilities and what is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdRule {
    /// The threshold of the largest F1. Where a finding is rare or hardly learned, that calls most images.
    #[default]
    LargestF1,
    /// The threshold over which as many images are called as have the finding.
    AsMany,
}

/// How the logits of a classifier become probabilities and findings. A finding that is not named has the sigmoid of its logit, and
/// is present over one half, as published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What each finding's logit means.
    pub findings: BTreeMap<Finding, FindingCalibration>,
    /// How they were chosen, for people.
    pub rule: String,
    /// The rule of the thresholds, by which they are chosen anew unless another is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ThresholdRule>,
}

/// What a finding's logit `x` means: the probability `1 / (1 + exp(-(slope * x + intercept)))` (Platt, 1999), present over the
/// threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingCalibration {
    /// Over 0, so that images keep their order.
    pub slope: f64,
    /// Moves all probabilities up or down.
    pub intercept: f64,
    /// The probability over which the finding counts as present, 0 to 1.
    pub threshold: f64,
}

impl FindingCalibration {
    /// As published: the sigmoid of the logit, present over one half.
    pub const PUBLISHED: Self = Self {
        slope: 1.0,
        intercept: 0.0,
        threshold: 0.5,
    };

    /// The probability of a logit.
    pub fn probability(self, logit: f64) -> f64 {
        1.0 / (1.0 + (-(self.slope * logit + self.intercept)).exp())
    }
}

impl Calibration {
    /// What the finding's logit means.
    pub fn of(&self, finding: Finding) -> FindingCalibration {
        let own = self.findings.get(&finding).copied();
        own.unwrap_or(FindingCalibration::PUBLISHED)
    }

    /// Checks that every number can be meant.
    ///
    /// # Errors
    /// The first finding whose numbers cannot be.
    pub fn check(&self) -> Result<(), String> {
        let is_good = |of: &FindingCalibration| {
            of.slope.is_finite()
                && of.slope > 0.0
                && of.intercept.is_finite()
                && (0.0..=1.0).contains(&of.threshold)
        };
        match self.findings.iter().find(|(_, of)| !is_good(of)) {
            None => Ok(()),
            Some((finding, of)) => Err(format!(
                "calibration of {finding}: slope {}, intercept {}, threshold {}: a slope is over 0, a threshold from 0 to 1",
                of.slope, of.intercept, of.threshold
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_cannot_be_meant_are_named() {
        let of = |slope, threshold| Calibration {
            findings: [(
                Finding::Edema,
                FindingCalibration {
                    slope,
                    intercept: 0.0,
                    threshold,
                },
            )]
            .into(),
            rule: String::new(),
            thresholds: None,
        };
        assert_eq!(of(1.0, 0.5).check(), Ok(()));
        for (slope, threshold) in [(0.0, 0.5), (f64::NAN, 0.5), (1.0, 1.5)] {
            assert!(of(slope, threshold).check().unwrap_err().contains("Edema"));
        }
    }
}
