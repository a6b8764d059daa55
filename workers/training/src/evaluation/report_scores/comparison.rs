//! Two systems on the same studies: paired randomisation test (Noreen 1989, as Yeh 2000 has it for F1): were the systems alike,
//! their reports could be exchanged, patient by patient, without a difference.

use std::collections::HashMap;
use std::io;

use radialog_schemas::counted;
use rayon::prelude::*;
use serde::Serialize;

use super::metrics::is_defined;
use super::ranking::Ranking;
use super::stored_scores::{ScoresWriter, StoredScores};
use super::{Metric, MetricSet, ReportScores, ScoreOptions, StudyScores, Totals};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::{reaches, weights_at_a_time};
use crate::evaluation::corpus::{Corpus, comparable};
use crate::evaluation::id_digest::IdDigest;
use crate::evaluation::stored_rows::temporary;
use crate::random::Random;

/// What scores of a study are of, in the order in which [`keep_common`] looks at them.
const KINDS: [&str; 6] = [
    "words",
    "labels",
    "findings",
    "comparisons",
    "RadGraph F1",
    "RadCliQ-v1",
];

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
    /// Scores that one side lacks of studies that both have: those studies count for these scores on neither side.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpaired: Vec<Unpaired>,
    /// The number of exchanges that were drawn.
    pub exchanges: u64,
    /// Each score of both.
    pub metrics: Vec<ComparedMetric>,
}

/// Scores that only one of two systems has, of some studies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unpaired {
    /// What the scores are of.
    pub scores: &'static str,
    /// The number of studies.
    pub studies: u64,
}

impl Comparison {
    /// What is left out on both sides, in words; none where nothing is.
    pub fn unpaired_words(&self) -> Option<String> {
        let each = self.unpaired.iter();
        let words: Vec<String> = each
            .map(|Unpaired { scores, studies }| {
                format!("{scores}: {}", counted(*studies, "study", "studies"))
            })
            .collect();
        let words = words.join(", ");
        (!words.is_empty())
            .then(|| format!("left out on both sides, since only one has a score: {words}"))
    }
}

/// The scores of the studies that both systems have, those of a patient side by side.
struct Pairs {
    first: StoredScores,
    second: StoredScores,
    /// Whether a study is of another patient than the one before.
    begins_patient: Vec<bool>,
    unpaired: [u64; KINDS.len()],
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
    let nothing = || vec![vec![false; pairs.begins_patient.len()]];
    let [first, second] = pairs.totals(&nothing()).map_err(temporary)?.swap_remove(0);
    let sources = ours.1.sources.or(&other.1.sources);
    // Only what both have can be compared.
    let set = MetricSet::of_both([&first, &second], options, &sources);
    let ranking = match set.has_findings() {
        true => Some(Ranking::of(&[&pairs.first, &pairs.second]).map_err(temporary)?),
        false => None,
    };
    let values = |exchanged: &[Vec<bool>]| pairs.values(&set, ranking.as_ref(), exchanged);
    let [mine, others] = values(&nothing()).map_err(temporary)?.swap_remove(0);
    let real: Vec<f64> = mine
        .iter()
        .zip(&others)
        .map(|(a, b)| (a - b).abs())
        .collect();
    let exchanges: Vec<usize> = (0..options.resampling.repeats).collect();
    // An exchange is a weight of each study on each side.
    let block = weights_at_a_time(4 * pairs.begins_patient.len());
    let reached = exchanges.par_chunks(block).map(|exchanges| {
        let seed = options.resampling.seed;
        let exchanged = |exchange: &usize| {
            pairs.exchanged(Random::stream(seed, &format!("exchange {exchange}")))
        };
        let exchanged: Vec<Vec<bool>> = exchanges.iter().map(exchanged).collect();
        let mut reached = vec![0_u64; real.len()];
        for [first, second] in values(&exchanged)? {
            for (((a, b), real), reached) in first.iter().zip(second).zip(&real).zip(&mut reached) {
                *reached += u64::from(reaches((a - b).abs(), *real));
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
        .all_names()
        .into_iter()
        .zip(mine.into_iter().zip(others))
        .zip(reached)
        .filter(|((_, (ours, other)), _)| !ours.is_nan() && !other.is_nan())
        .filter(|((metric, _), _)| is_defined(metric, &first))
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
        unpaired: pairs.unpaired(),
        exchanges: options.resampling.repeats as u64,
        metrics,
    }))
}

/// Takes away what only one of the two has, and counts it by kind: means of different studies cannot be compared, and a failure
/// would be a gain.
fn keep_common(one: &mut StudyScores, other: &mut StudyScores, unpaired: &mut [u64; KINDS.len()]) {
    fn keep<T>(one: &mut Option<T>, other: &mut Option<T>, count: &mut u64) {
        if one.is_some() != other.is_some() {
            *count += 1;
            (*one, *other) = (None, None);
        }
    }
    let [words, labels, findings, comparisons, radgraph, radcliq] = unpaired;
    keep(&mut one.text, &mut other.text, words);
    keep(&mut one.report, &mut other.report, labels);
    keep(&mut one.findings, &mut other.findings, findings);
    // Means of other findings cannot be compared either: what one of the two does not assess counts on neither side.
    if let (Some((one, _)), Some((other, _))) = (&mut one.findings, &mut other.findings) {
        for (one, other) in one.iter_mut().zip(other) {
            if one.is_some() != other.is_some() {
                (*one, *other) = (None, None);
            }
        }
    }
    keep(&mut one.comparisons, &mut other.comparisons, comparisons);
    keep(&mut one.radgraph_f1, &mut other.radgraph_f1, radgraph);
    keep(&mut one.radcliq_v1, &mut other.radcliq_v1, radcliq);
    // They go with labels and findings, which are counted.
    let mut uncounted = 0;
    keep(&mut one.severity, &mut other.severity, &mut uncounted);
    let (one, other) = (&mut one.probabilities, &mut other.probabilities);
    keep(one, other, &mut uncounted);
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
        let (mut before, mut unpaired) = (None, [0; KINDS.len()]);
        for (patient, ours, other) in common {
            let mut ours = our_scores.studies.get(ours as usize)?;
            let mut other = other_scores.studies.get(other as usize)?;
            keep_common(&mut ours, &mut other, &mut unpaired);
            first.add(&ours)?;
            second.add(&other)?;
            begins_patient.push(before.replace(patient) != Some(patient));
        }
        Ok(Self {
            first: first.finish()?,
            second: second.finish()?,
            begins_patient,
            unpaired,
        })
    }

    /// What only one side has, as far as there is something.
    fn unpaired(&self) -> Vec<Unpaired> {
        let counts = KINDS.into_iter().zip(self.unpaired);
        let counts = counts.filter(|(_, studies)| *studies > 0);
        counts
            .map(|(scores, studies)| Unpaired { scores, studies })
            .collect()
    }

    /// Says of each study whether its reports are exchanged, patient by patient.
    fn exchanged(&self, mut random: Random) -> Vec<bool> {
        let mut exchanged = false;
        let each = self.begins_patient.iter().map(|begins| {
            if *begins {
                exchanged = random.bits() >> 63 == 1;
            }
            exchanged
        });
        each.collect()
    }

    /// The values of both sides for each of these exchanges, in the order of [`MetricSet::all_names`].
    fn values(
        &self,
        set: &MetricSet,
        ranking: Option<&Ranking>,
        exchanged: &[Vec<bool>],
    ) -> io::Result<Vec<[Vec<f64>; 2]>> {
        let totals = self.totals(exchanged)?;
        let Some(ranking) = ranking else {
            let sides = totals.iter().map(|sides| sides.each_ref());
            return Ok(sides
                .map(|sides| sides.map(|side| set.values(side)))
                .collect());
        };
        // The images of the first system, then those of the other: each counts on one of the two sides.
        let weights = |side: bool| {
            exchanged.iter().map(move |exchanged| {
                let of_first = exchanged.iter().map(move |flag| u32::from(*flag == side));
                let of_second = exchanged.iter().map(move |flag| u32::from(*flag != side));
                of_first.chain(of_second).collect::<Vec<u32>>()
            })
        };
        let weights: Vec<Vec<u32>> = weights(false).chain(weights(true)).collect();
        let mut firsts = ranking.aucs(&weights)?;
        let seconds = firsts.split_off(exchanged.len());
        let aucs = firsts.iter().zip(&seconds);
        let values = totals.iter().zip(aucs).map(|([first, second], (a, b))| {
            [
                set.values_with_ranking(first, a),
                set.values_with_ranking(second, b),
            ]
        });
        Ok(values.collect())
    }

    /// The sums of both sides for each of these exchanges.
    fn totals(&self, exchanged: &[Vec<bool>]) -> io::Result<Vec<[Totals; 2]>> {
        let mut sides: Vec<[Totals; 2]> = exchanged.iter().map(|_| Default::default()).collect();
        let pairs = self.first.iter().zip(self.second.iter());
        for (place, (a, b)) in pairs.enumerate() {
            let (a, b) = (a?, b?);
            for (exchanged, [first, second]) in exchanged.iter().zip(&mut sides) {
                let (a, b) = if exchanged[place] { (&b, &a) } else { (&a, &b) };
                first.add(a);
                second.add(b);
            }
        }
        Ok(sides)
    }
}

#[cfg(test)]
mod tests;
