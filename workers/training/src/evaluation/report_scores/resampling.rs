//! Intervals of all scores at once: patients are drawn with replacement, and what their studies came to is summed up again.

use rayon::prelude::*;

use super::ranking::Ranking;
use super::{Estimate, MetricSet, ScoreOptions, StudyScores, Totals};
use crate::evaluation::corpus::Corpus;
use crate::evaluation::quality::bootstrap::quantile;
use crate::random::Random;

/// Share of the resamples that an interval leaves out on each side.
const TAIL: f64 = 0.025;

/// The studies of each patient.
pub(super) fn patients(corpus: &Corpus) -> Vec<Vec<usize>> {
    let count = corpus
        .studies
        .iter()
        .map(|study| study.patient as usize + 1)
        .max();
    let mut patients = vec![Vec::new(); count.unwrap_or_default()];
    for (place, study) in corpus.studies.iter().enumerate() {
        patients[study.patient as usize].push(place);
    }
    // A selection may have left a patient without studies.
    patients.retain(|studies| !studies.is_empty());
    patients
}

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
    let all = values(&vec![1; studies.len()]);
    let patients = patients(corpus);
    // A stream for each resample: the same numbers whatever thread draws them, and none of them kept.
    let resamples: Vec<Vec<f64>> = (0..options.repeats)
        .into_par_iter()
        .map(|resample| {
            let mut random = Random::stream(options.seed, &format!("resample {resample}"));
            let mut weights = vec![0; studies.len()];
            for _ in 0..patients.len() {
                for &study in random.pick(&patients) {
                    weights[study] += 1;
                }
            }
            values(&weights)
        })
        .collect();
    let estimate = |(place, value): (usize, f64)| {
        if value.is_nan() {
            return None;
        }
        // A resample may lack what a score needs, e.g. any image with the finding.
        let drawn = resamples.iter().map(|values| values[place]);
        let mut drawn: Vec<f64> = drawn.filter(|value| !value.is_nan()).collect();
        drawn.sort_by(f64::total_cmp);
        let at = |share| quantile(&drawn, share).unwrap_or(value);
        Some(Estimate {
            value,
            low: at(TAIL),
            high: at(1.0 - TAIL),
        })
    };
    all.into_iter().enumerate().map(estimate).collect()
}
