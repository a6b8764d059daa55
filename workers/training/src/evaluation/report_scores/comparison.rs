//! Two systems on the same studies: paired randomisation test (Noreen 1989, as Yeh 2000 has it for F1): were the systems alike,
//! their reports could be exchanged, patient by patient, without a difference.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::{Metric, MetricSet, ReportScores, ScoreOptions, StudyScores, Totals};
use crate::evaluation::corpus::{Corpus, comparable};
use crate::random::Random;

/// A score of two systems.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedMetric {
    /// The score; its value is the first system's on the studies that both have.
    pub metric: Metric,
    /// The first system.
    pub ours: f64,
    /// The other one.
    pub other: f64,
    /// How often systems that are alike would differ as much, two-sided.
    pub p: f64,
}

/// Two systems on the studies that both have.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The other system.
    pub name: String,
    /// The number of studies that both have.
    pub studies: u64,
    /// Studies that only the first has, and only the other.
    pub only: (u64, u64),
    /// The number of exchanges that were drawn.
    pub exchanges: u64,
    /// Each score of both.
    pub metrics: Vec<ComparedMetric>,
}

/// Compares two systems, of which the other one has this name; none where they have no study in common.
pub fn compare(
    name: &str,
    ours: (&Corpus, &ReportScores),
    other: (&Corpus, &ReportScores),
    options: &ScoreOptions,
) -> Option<Comparison> {
    let places: HashMap<&str, usize> = other
        .0
        .studies
        .iter()
        .enumerate()
        .map(|(place, study)| (comparable(&study.id), place))
        .collect();
    let mut patients: HashMap<u32, Vec<(&StudyScores, &StudyScores)>> = HashMap::new();
    let (mut order, mut common) = (Vec::new(), 0_u64);
    for (study, scores) in ours.0.studies.iter().zip(&ours.1.studies) {
        let Some(&place) = places.get(comparable(&study.id)) else {
            continue;
        };
        common += 1;
        let pairs = patients.entry(study.patient).or_insert_with(|| {
            order.push(study.patient);
            Vec::new()
        });
        pairs.push((scores, &other.1.studies[place]));
    }
    if common == 0 {
        return None;
    }
    let pairs: Vec<Vec<(&StudyScores, &StudyScores)>> = order
        .iter()
        .filter_map(|patient| patients.remove(patient))
        .collect();
    let totals = |mut exchanged: Box<dyn FnMut() -> bool>| {
        let (mut first, mut second) = (Totals::default(), Totals::default());
        for patient in &pairs {
            let exchanged = exchanged();
            for (a, b) in patient {
                let (a, b) = if exchanged { (b, a) } else { (a, b) };
                first.add(a);
                second.add(b);
            }
        }
        (first, second)
    };
    let (first, second) = totals(Box::new(|| false));
    let sources = ours.1.sources.or(&other.1.sources);
    // Only what both have can be compared.
    let set = MetricSet::of_both([&first, &second], options, &sources);
    let (mine, others) = (set.values(&first), set.values(&second));
    let real: Vec<f64> = mine
        .iter()
        .zip(&others)
        .map(|(a, b)| (a - b).abs())
        .collect();
    let reached: Vec<u64> = (0..options.resampling.repeats)
        .into_par_iter()
        .map(|exchange| {
            let mut random =
                Random::stream(options.resampling.seed, &format!("exchange {exchange}"));
            let (first, second) = totals(Box::new(move || random.bits() >> 63 == 1));
            let values = set.values(&first).into_iter().zip(set.values(&second));
            let reached = values
                .zip(&real)
                .map(|((a, b), real)| u64::from((a - b).abs() >= real - f64::EPSILON));
            reached.collect::<Vec<u64>>()
        })
        .reduce(
            || vec![0; real.len()],
            |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect(),
        );
    let metrics = set
        .names()
        .into_iter()
        .zip(mine.into_iter().zip(others))
        .zip(reached)
        .filter(|((_, (ours, other)), _)| !ours.is_nan() && !other.is_nan())
        .map(|((metric, (ours, other)), reached)| ComparedMetric {
            metric,
            ours,
            other,
            p: (reached + 1) as f64 / (options.resampling.repeats + 1) as f64,
        })
        .collect();
    Some(Comparison {
        name: name.to_owned(),
        studies: common,
        only: (
            ours.0.studies.len() as u64 - common,
            other.0.studies.len() as u64 - common,
        ),
        exchanges: options.resampling.repeats as u64,
        metrics,
    })
}
