//! Intervals of all scores at once: patients are drawn with replacement, and what their studies came to is summed up again.

use super::ranking::Ranking;
use super::{Estimate, MetricSet, ScoreOptions, StudyScores, Totals};
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::corpus::Corpus;

/// The value and the 95 % interval of each score.
pub(super) fn estimates(
    corpus: &Corpus,
    studies: &[StudyScores],
    set: &MetricSet,
    options: &ScoreOptions,
) -> Vec<Option<Estimate>> {
    let ranking = Ranking::of(studies);
    // Each study as often as its weight says.
    let values = |weights: &[u32]| {
        let mut totals = Totals::default();
        for (study, &weight) in studies.iter().zip(weights) {
            (0..weight).for_each(|_| totals.add(study));
        }
        let mut values = set.values(&totals);
        if set.has_findings() {
            values.extend(ranking.values(weights));
        }
        values
    };
    let patients: Vec<u32> = corpus.studies.iter().map(|study| study.patient).collect();
    Bootstrap::of_streams(&patients, options.resampling).estimates(values)
}
