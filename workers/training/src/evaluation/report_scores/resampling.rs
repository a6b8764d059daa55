//! Intervals of all scores at once: patients are drawn with replacement, and what their studies came to is summed up again.

use std::io;

use super::ranking::Ranking;
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
    // Each study as often as its weight says.
    let values = |weights: &[Vec<u32>]| -> io::Result<Vec<Vec<f64>>> {
        let mut totals = vec![Totals::default(); weights.len()];
        for (place, study) in studies.iter().enumerate() {
            let study = study?;
            for (totals, weights) in totals.iter_mut().zip(weights) {
                (0..weights[place]).for_each(|_| totals.add(&study));
            }
        }
        let Some(ranking) = &ranking else {
            return Ok(totals.iter().map(|totals| set.values(totals)).collect());
        };
        let aucs = ranking.aucs(weights)?;
        let values = totals.iter().zip(&aucs);
        Ok(values
            .map(|(totals, aucs)| set.values_with_ranking(totals, aucs))
            .collect())
    };
    Bootstrap::of_streams(patients, options.resampling).estimates_of_blocks(values)
}
