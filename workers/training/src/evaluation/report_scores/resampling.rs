//! Intervals of all scores at once: patients are drawn with replacement, and what their studies came to is summed up again.

use std::io;

use super::ranking::{Ranking, mean_auc};
use super::stored_scores::StoredScores;
use super::{Estimate, MetricSet, ScoreOptions, Totals};
use crate::evaluation::bootstrap::Bootstrap;

/// The value and the 95 % interval of each score; `patients` has the number of each study's patient.
pub(super) fn estimates(
    patients: &[u32],
    studies: &StoredScores,
    set: &MetricSet,
    options: &ScoreOptions,
) -> io::Result<Vec<Option<Estimate>>> {
    let ranking = match set.has_findings() {
        true => Some(Ranking::of(&[studies])?),
        false => None,
    };
    let of_all = match &ranking {
        Some(ranking) => ranking.aucs(&[vec![1; studies.len()]])?.pop(),
        None => None,
    };
    // Each study as often as its weight says.
    let values = |weights: &[Vec<u32>]| -> io::Result<Vec<Vec<f64>>> {
        let mut totals = vec![Totals::default(); weights.len()];
        for (place, study) in studies.iter().enumerate() {
            let study = study?;
            for (totals, weights) in totals.iter_mut().zip(weights) {
                (0..weights[place]).for_each(|_| totals.add(&study));
            }
        }
        let (Some(ranking), Some((_, of_all))) = (&ranking, &of_all) else {
            return Ok(totals.iter().map(|totals| set.values(totals)).collect());
        };
        let mut aucs = ranking.aucs(weights)?;
        for (mean, each) in &mut aucs {
            *mean = mean_auc(each, of_all);
        }
        let values = totals.iter().zip(&aucs);
        Ok(values
            .map(|(totals, aucs)| set.values_with_ranking(totals, aucs))
            .collect())
    };
    Bootstrap::of_streams(patients, options.resampling).estimates_of_blocks(values)
}
