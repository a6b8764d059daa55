//! The selection of the original's `--strat_eval`, of studies whose truth is known.

use std::collections::HashSet;

use radialog_schemas::Finding;

use super::Truth;
use crate::evaluation::corpus::selection::kept_without;

/// All studies with a finding, and the first ones without: about a thirteenth as many.
#[derive(Clone, Debug, Default)]
pub struct StratifiedSelection {
    with: u64,
    /// Ids of studies without a finding, in order.
    without: Vec<String>,
    kept: HashSet<String>,
}

impl StratifiedSelection {
    /// Looks at a study; all are, in their order, before one is selected.
    pub fn add(&mut self, study: &str, truth: &Truth) {
        match has_finding(truth) {
            true => self.with += 1,
            false => self.without.push(study.to_owned()),
        }
    }

    /// Says which studies without a finding stay.
    #[must_use]
    pub fn finish(mut self) -> Self {
        let kept = kept_without(self.with) as usize;
        self.kept = std::mem::take(&mut self.without)
            .into_iter()
            .take(kept)
            .collect();
        self
    }

    /// Whether a study is selected.
    pub fn has(&self, study: &str, truth: &Truth) -> bool {
        has_finding(truth) || self.kept.contains(study)
    }
}

/// Whether anything is there, and it is not said that nothing is.
fn has_finding(truth: &Truth) -> bool {
    truth[Finding::NoFinding as usize] != Some(true) && truth.contains(&Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_studies_with_a_finding_stay_and_a_thirteenth_as_many_without() {
        let mut truth: Truth = [Some(false); 14];
        truth[Finding::Edema as usize] = Some(true);
        let mut nothing: Truth = [None; 14];
        nothing[Finding::NoFinding as usize] = Some(true);
        let mut selection = StratifiedSelection::default();
        // int(27 * 14 / 13 / 14) = 2 without follow.
        for study in 0..60 {
            let truth = if study % 2 == 0 && study < 54 {
                &truth
            } else {
                &nothing
            };
            selection.add(&study.to_string(), truth);
        }
        let selection = selection.finish();
        assert!(selection.has("0", &truth));
        let kept = (0..60).filter(|study| selection.has(&study.to_string(), &nothing));
        assert_eq!(kept.collect::<Vec<_>>(), [1, 3]);
    }
}
