//! Two systems on the same studies: paired randomisation test (Noreen 1989, as Yeh 2000 has it for F1): were the systems alike,
//! their reports could be exchanged, patient by patient, without a difference.

use std::collections::HashMap;
use std::io;

use rayon::prelude::*;
use serde::Serialize;

use super::stored_scores::{ScoresWriter, StoredScores};
use super::{Metric, MetricSet, ReportScores, ScoreOptions, StudyScores, Totals};
use crate::error::TrainingError;
use crate::evaluation::corpus::{Corpus, comparable};
use crate::evaluation::id_digest::IdDigest;
use crate::evaluation::stored_rows::temporary;
use crate::random::Random;

/// Exchanges that one pass over the studies serves.
const BLOCK: usize = 16;

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

/// The scores of the studies that both systems have, those of a patient side by side.
struct Pairs {
    first: StoredScores,
    second: StoredScores,
    /// Whether a study is of another patient than the one before.
    begins_patient: Vec<bool>,
}

/// Compares two systems, of which the other one has this name; none where they have no study in common.
///
/// # Errors
/// What is stored cannot be read, or there is no room.
pub fn compare(
    name: &str,
    ours: (&Corpus, &ReportScores),
    other: (&Corpus, &ReportScores),
    options: &ScoreOptions,
) -> Result<Option<Comparison>, TrainingError> {
    let pairs = Pairs::of(ours, other).map_err(temporary)?;
    let common = pairs.begins_patient.len() as u64;
    if common == 0 {
        return Ok(None);
    }
    let [first, second] = pairs.totals(vec![None]).map_err(temporary)?.swap_remove(0);
    let sources = ours.1.sources.or(&other.1.sources);
    // Only what both have can be compared.
    let set = MetricSet::of_both([&first, &second], options, &sources);
    let (mine, others) = (set.values(&first), set.values(&second));
    let real: Vec<f64> = mine
        .iter()
        .zip(&others)
        .map(|(a, b)| (a - b).abs())
        .collect();
    let exchanges: Vec<usize> = (0..options.resampling.repeats).collect();
    let reached = exchanges.par_chunks(BLOCK).map(|exchanges| {
        let seed = options.resampling.seed;
        let stream = |exchange| Some(Random::stream(seed, &format!("exchange {exchange}")));
        let mut reached = vec![0_u64; real.len()];
        for [first, second] in pairs.totals(exchanges.iter().map(stream).collect())? {
            let values = set.values(&first).into_iter().zip(set.values(&second));
            for (((a, b), real), reached) in values.zip(&real).zip(&mut reached) {
                // Sums in another order are off by their last digits.
                *reached += u64::from((a - b).abs() >= real * (1.0 - 1e-9) - 1e-12);
            }
        }
        io::Result::Ok(reached)
    });
    let reached = reached.try_reduce(
        || vec![0; real.len()],
        |a, b| Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect()),
    );
    let reached = reached.map_err(temporary)?;
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
    Ok(Some(Comparison {
        name: name.to_owned(),
        studies: common,
        only: (
            ours.0.studies.len() as u64 - common,
            other.0.studies.len() as u64 - common,
        ),
        exchanges: options.resampling.repeats as u64,
        metrics,
    }))
}

/// Takes away what only one of the two has: means of different studies cannot be compared, and a failure would be a gain.
fn keep_common(one: &mut StudyScores, other: &mut StudyScores) {
    fn keep<T>(one: &mut Option<T>, other: &mut Option<T>) {
        if one.is_none() || other.is_none() {
            (*one, *other) = (None, None);
        }
    }
    keep(&mut one.text, &mut other.text);
    keep(&mut one.report, &mut other.report);
    keep(&mut one.severity, &mut other.severity);
    keep(&mut one.comparisons, &mut other.comparisons);
    keep(&mut one.radgraph_f1, &mut other.radgraph_f1);
    keep(&mut one.radcliq_v1, &mut other.radcliq_v1);
    keep(&mut one.findings, &mut other.findings);
    keep(&mut one.probabilities, &mut other.probabilities);
}

impl Pairs {
    fn of(
        (our_corpus, our_scores): (&Corpus, &ReportScores),
        (other_corpus, other_scores): (&Corpus, &ReportScores),
    ) -> io::Result<Self> {
        let mut places: HashMap<IdDigest, u32> = HashMap::new();
        for (place, study) in other_corpus.studies.iter().enumerate() {
            places.insert(IdDigest::of(comparable(&study?.id)), place as u32);
        }
        let mut common: Vec<(u32, u32, u32)> = Vec::new();
        for (place, study) in our_corpus.studies.iter().enumerate() {
            let study = study?;
            if let Some(other) = places.get(&IdDigest::of(comparable(&study.id))) {
                common.push((study.patient, place as u32, *other));
            }
        }
        common.sort_unstable();
        let (mut first, mut second) = (ScoresWriter::new()?, ScoresWriter::new()?);
        let mut begins_patient = Vec::with_capacity(common.len());
        let mut before = None;
        for (patient, ours, other) in common {
            let mut ours = our_scores.studies.get(ours as usize)?;
            let mut other = other_scores.studies.get(other as usize)?;
            keep_common(&mut ours, &mut other);
            first.add(&ours)?;
            second.add(&other)?;
            begins_patient.push(before.replace(patient) != Some(patient));
        }
        Ok(Self {
            first: first.finish()?,
            second: second.finish()?,
            begins_patient,
        })
    }

    /// The sums of both sides for each of these streams, which say patient by patient whether their reports are exchanged; none are
    /// where there is no stream.
    fn totals(&self, streams: Vec<Option<Random>>) -> io::Result<Vec<[Totals; 2]>> {
        let mut sides: Vec<(Option<Random>, bool, [Totals; 2])> = streams
            .into_iter()
            .map(|random| (random, false, Default::default()))
            .collect();
        let pairs = self.first.iter().zip(self.second.iter());
        for ((a, b), begins) in pairs.zip(&self.begins_patient) {
            let (a, b) = (a?, b?);
            for (random, exchanged, [first, second]) in &mut sides {
                if *begins {
                    *exchanged = random
                        .as_mut()
                        .is_some_and(|random| random.bits() >> 63 == 1);
                }
                let (a, b) = if *exchanged { (&b, &a) } else { (&a, &b) };
                first.add(a);
                second.add(b);
            }
        }
        Ok(sides.into_iter().map(|(.., totals)| totals).collect())
    }
}
