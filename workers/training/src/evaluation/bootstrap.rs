//! How sure a figure is: percentile bootstrap over patients, and permutation tests. All intervals of all evaluations are drawn here.
//! Draws are those of named streams, so that the same seed gives the same figures whatever else is computed, and none of them is
//! kept: a resample is drawn again by whoever needs it.

use std::collections::{BTreeMap, BTreeSet};

use radialog_schemas::counted;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};

use super::text_scores::protocol::Better;
use crate::random::Random;

/// Resamples of a bootstrap, and permutations of a test.
pub const REPEATS: usize = 1000;
/// The seed where nobody names one.
pub const SEED: u64 = 42;
/// Resamples that one pass over stored items serves, as long as their weights stay small.
const BLOCK: usize = 16;
/// Weights that are in memory at a time on a core.
const WEIGHTS: usize = 1 << 20;
/// Share of the resamples that an interval leaves out on each side.
const TAIL: f64 = 0.025;

/// A figure with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure over all items.
    pub value: f64,
    /// Lower end of the interval; NaN where nothing is known of the spread ([`Estimate::interval`]), which JSON writes as `null`.
    #[serde(deserialize_with = "or_nan")]
    pub low: f64,
    /// Upper end of the interval, or NaN.
    #[serde(deserialize_with = "or_nan")]
    pub high: f64,
}

/// A number with four digits behind the point; none is "-0.0000".
pub fn four_digits(number: f64) -> String {
    match number.abs() < 5e-5 {
        true => "0.0000".to_owned(),
        false => format!("{number:.4}"),
    }
}

fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|end| end.unwrap_or(f64::NAN))
}

impl Estimate {
    /// The interval; none of fewer than two patients (or items), where no resample has what the figure needs, or where all that
    /// have it have the same patient.
    pub fn interval(&self) -> Option<[f64; 2]> {
        (!self.low.is_nan() && !self.high.is_nan()).then_some([self.low, self.high])
    }

    /// The figure alone.
    pub(super) fn without_interval(self) -> Self {
        Self {
            low: f64::NAN,
            high: f64::NAN,
            ..self
        }
    }

    /// The interval as tables show it; a dash where there is none.
    pub(super) fn interval_words(&self) -> String {
        match self.interval() {
            Some([low, high]) => format!("{} to {}", four_digits(low), four_digits(high)),
            None => "-".to_owned(),
        }
    }
}

/// One score of a corpus with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreEstimate {
    /// Its name, which says what was computed.
    pub name: String,
    /// Which values are good.
    pub better: Better,
    /// The value with its 95 % interval; none where it is not defined.
    #[serde(flatten)]
    pub estimate: Option<Estimate>,
}

/// How many resamples are drawn, and by which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resampling {
    /// Determines all draws.
    pub seed: u64,
    /// The number of resamples, and of exchanges of a comparison.
    pub repeats: usize,
}

/// The resamples of a percentile bootstrap, which draws groups (patients) with all of their items. It holds the items' groups and a
/// number for each resample.
pub struct Bootstrap {
    /// The items, those of a group side by side.
    items: Vec<u32>,
    /// Where each group ends in `items`.
    ends: Vec<u32>,
    /// The generator as it is before each resample.
    starts: Vec<Random>,
}

impl Default for Resampling {
    fn default() -> Self {
        Self {
            seed: SEED,
            repeats: REPEATS,
        }
    }
}

impl Resampling {
    /// How intervals were made: over patients, of whom so many are named, and so many items are of others; or over the items that are
    /// called so.
    pub fn words(self, items: &str, named: u64, others: u64) -> String {
        let Self { seed, repeats } = self;
        let drawn = match (named, others) {
            (0, _) => format!("{items}, since no patient is named"),
            (named, 0) => counted(named, "patient", "patients"),
            (named, others) => format!(
                "patients ({named} are named; {others} {items} without a name count as one each)"
            ),
        };
        format!("95 % intervals: bootstrap of {repeats} resamples over {drawn}, seed {seed}")
    }
}

impl Bootstrap {
    /// Will draw as many groups as there are, with replacement, [`REPEATS`] times; each brings all of its items. One stream of this
    /// name gives all resamples, one after the other.
    pub fn new<G: Ord>(groups: &[G], seed: u64, name: &str) -> Self {
        let mut bootstrap = Self::grouped(groups);
        let mut random = Random::stream(seed, &format!("bootstrap {name}"));
        let draws = bootstrap.ends.len() as u64;
        bootstrap.starts = std::iter::repeat_with(|| {
            let start = random.clone();
            random.skip(draws);
            start
        })
        .take(match bootstrap.has_spread() {
            true => REPEATS,
            false => 0,
        })
        .collect();
        bootstrap
    }

    /// Will draw as many groups as there are, with replacement; each brings all of its items. Each resample has a stream of its own,
    /// so that more of them change none of the others.
    pub fn of_streams<G: Ord>(groups: &[G], resampling: Resampling) -> Self {
        let stream = |resample| Random::stream(resampling.seed, &format!("resample {resample}"));
        let mut bootstrap = Self::grouped(groups);
        if bootstrap.has_spread() {
            bootstrap.starts = (0..resampling.repeats).map(stream).collect();
        }
        bootstrap
    }

    /// Whether resamples can differ: one group is drawn as it is, always, and would look certain.
    fn has_spread(&self) -> bool {
        self.ends.len() > 1
    }

    fn grouped<G: Ord>(groups: &[G]) -> Self {
        let mut items: Vec<u32> = (0..groups.len() as u32).collect();
        // Stable: the items of a group stay in their order.
        items.sort_by(|a, b| groups[*a as usize].cmp(&groups[*b as usize]));
        let mut ends: Vec<u32> = Vec::new();
        let mut end = 0;
        for group in items.chunk_by(|a, b| groups[*a as usize] == groups[*b as usize]) {
            end += group.len() as u32;
            ends.push(end);
        }
        Self {
            items,
            ends,
            starts: Vec::new(),
        }
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// The number of groups that have one of these items.
    pub(super) fn groups_with(&self, is_one: impl Fn(usize) -> bool) -> usize {
        let mut begin = 0;
        let has_one = |end: &&u32| {
            let items = &self.items[begin..**end as usize];
            begin = **end as usize;
            items.iter().any(|item| is_one(*item as usize))
        };
        self.ends.iter().filter(has_one).count()
    }

    /// The items of a resample, as often as they are drawn.
    fn draw(&self, start: &Random) -> impl Iterator<Item = usize> {
        let groups = self.ends.len();
        let mut random = start.clone();
        let picked = (0..groups).flat_map(move |_| {
            let group = random.below(groups);
            let begin = group.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.items[begin as usize..self.ends[group] as usize]
        });
        picked.map(|item| *item as usize)
    }

    /// Computes a statistic of the items at the given places, with its interval. Resamples in which it is not defined are left
    /// out; none where it is not defined at all.
    pub fn measure(&self, statistic: impl Fn(&[usize]) -> Option<f64> + Sync) -> Option<Estimate> {
        let all: Vec<usize> = (0..self.items.len()).collect();
        let value = statistic(&all)?;
        let resample = |start| statistic(&self.draw(start).collect::<Vec<usize>>());
        Some(estimate(
            value,
            self.starts.par_iter().filter_map(resample).collect(),
        ))
    }

    /// Computes several scores of all items, each of which counts as often as its weight says, with their intervals; the scores are
    /// always as many. One that is NaN is not defined: none where it is so for all items, and such resamples are left out.
    pub fn estimates(&self, scores: impl Fn(&[u32]) -> Vec<f64> + Sync) -> Vec<Option<Estimate>> {
        let all = scores(&vec![1; self.items.len()]);
        let resample = |start| scores(&self.weights(start));
        let resamples: Vec<Vec<f64>> = self.starts.par_iter().map(resample).collect();
        estimates_of(all, &resamples)
    }

    /// As [`Bootstrap::estimates`], for items that are read from elsewhere: `scores` is given the weights of several resamples at a
    /// time, so that a pass over the items serves all of them.
    ///
    /// # Errors
    /// An error of `scores`.
    pub fn estimates_of_blocks<E: Send>(
        &self,
        scores: impl Fn(&[Vec<u32>]) -> Result<Vec<Vec<f64>>, E> + Sync,
    ) -> Result<Vec<Option<Estimate>>, E> {
        let all = scores(&[vec![1; self.items.len()]])?.pop();
        let block = weights_at_a_time(self.items());
        let blocks = self.starts.par_chunks(block).map(|starts| {
            let weights: Vec<Vec<u32>> = starts.iter().map(|start| self.weights(start)).collect();
            scores(&weights)
        });
        let resamples: Result<Vec<Vec<Vec<f64>>>, E> = blocks.collect();
        Ok(estimates_of(all.unwrap_or_default(), &resamples?.concat()))
    }

    /// How often a resample has each item.
    fn weights(&self, start: &Random) -> Vec<u32> {
        let mut weights = vec![0; self.items.len()];
        for item in self.draw(start) {
            weights[item] += 1;
        }
        weights
    }
}

/// How many resamples of so many weights one pass serves, so that their weights stay small.
pub(super) fn weights_at_a_time(weights: usize) -> usize {
    (WEIGHTS / weights.max(1)).clamp(1, BLOCK)
}

fn estimates_of(all: Vec<f64>, resamples: &[Vec<f64>]) -> Vec<Option<Estimate>> {
    let of_score = |(place, value): (usize, f64)| {
        if value.is_nan() {
            return None;
        }
        // A resample may lack what a score needs, e.g. any image with the finding.
        let drawn = resamples.iter().map(|values| values[place]);
        let drawn = drawn.filter(|value| !value.is_nan()).collect();
        Some(estimate(value, drawn))
    };
    all.into_iter().enumerate().map(of_score).collect()
}

/// The interval between the tails of what was drawn; none where nothing was.
fn estimate(value: f64, mut drawn: Vec<f64>) -> Estimate {
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| quantile(&drawn, share).unwrap_or(f64::NAN);
    Estimate {
        value,
        low: at(TAIL),
        high: at(1.0 - TAIL),
    }
}

/// Interpolated between the two nearest values, which are sorted.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    Some(below + (above - below) * place.fract())
}

/// The result of a permutation test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Permutation {
    /// Mean of the statistic over the permutations.
    pub shuffled: f64,
    /// Share of the permutations, and of the real order, that reach the real statistic: one-sided.
    pub p: f64,
}

/// Compares a statistic of pairs with itself where partners are exchanged at random within each stratum. The statistic
/// is given the partner of each item; that of the real order is `0, 1, 2, …`. None where it is not defined there.
pub fn permutation_test<G: Ord + Sync>(
    strata: &[G],
    seed: u64,
    name: &str,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Option<Permutation> {
    let order: Vec<usize> = (0..strata.len()).collect();
    let real = statistic(&order)?;
    let mut random = Random::stream(seed, &format!("permutation {name}"));
    // A stratum of n items takes n - 1 draws.
    let draws = strata.len() - strata.iter().collect::<BTreeSet<&G>>().len();
    let starts: Vec<Random> = std::iter::repeat_with(|| {
        let start = random.clone();
        random.skip(draws as u64);
        start
    })
    .take(REPEATS)
    .collect();
    let values: Vec<f64> = starts
        .into_par_iter()
        .filter_map(|mut start| statistic(&shuffled(strata, &order, &mut start)))
        .collect();
    let reached = values.iter().filter(|&&value| reaches(value, real)).count();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    Some(Permutation {
        shuffled: mean,
        p: (reached + 1) as f64 / (values.len() + 1) as f64,
    })
}

/// Whether a statistic of exchanged items reaches the real one. Equal ones differ by what their sums, in another order, are rounded by:
/// a billionth, and a little more near 0. One that is not defined counts as reaching it, which makes no difference look more certain.
pub(super) fn reaches(value: f64, real: f64) -> bool {
    let tolerance = real.abs() * 1e-9 + 1e-12;
    value.is_nan() || value >= real - tolerance
}

/// Returns the items with partners exchanged within the strata of their places.
pub fn shuffled<G: Ord>(strata: &[G], items: &[usize], random: &mut Random) -> Vec<usize> {
    let mut places: BTreeMap<&G, Vec<usize>> = BTreeMap::new();
    for (place, &item) in items.iter().enumerate() {
        places.entry(&strata[item]).or_default().push(place);
    }
    let mut partners = items.to_vec();
    for places in places.into_values() {
        let mut of_stratum: Vec<usize> = places.iter().map(|&place| items[place]).collect();
        random.shuffle(&mut of_stratum);
        for (place, item) in places.into_iter().zip(of_stratum) {
            partners[place] = item;
        }
    }
    partners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> impl Fn(&[usize]) -> Option<f64> + Sync + '_ {
        |at| Some(at.iter().map(|&item| values[item]).sum::<f64>() / at.len() as f64)
    }

    #[test]
    fn a_bootstrap_repeats_with_its_seed_and_holds_the_mean() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let groups: Vec<usize> = (0..100).collect();
        let of = |seed| {
            Bootstrap::new(&groups, seed, "x")
                .measure(mean(&values))
                .unwrap()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let Estimate { value, low, high } = of(1);
        assert_eq!(value, 4.5);
        // The standard error is 0.287.
        assert!(
            (3.8..4.1).contains(&low) && (4.9..5.2).contains(&high),
            "{low} {high}"
        );
    }

    #[test]
    fn resamples_are_those_of_one_stream_and_each_is_drawn_alone() {
        let groups = [1, 0, 1, 2, 0];
        let bootstrap = Bootstrap::new(&groups, 7, "x");
        let members = [[1, 4].as_slice(), &[0, 2], &[3]];
        let mut random = Random::stream(7, "bootstrap x");
        for start in &bootstrap.starts {
            let expected: Vec<usize> = (0..3)
                .flat_map(|_| random.pick(&members).to_vec())
                .collect();
            assert_eq!(bootstrap.draw(start).collect::<Vec<usize>>(), expected);
        }
        assert_eq!(bootstrap.starts.len(), REPEATS);
        let with = |items: &[usize]| bootstrap.groups_with(|item| items.contains(&item));
        assert_eq!([with(&[0, 2]), with(&[2, 3, 4]), with(&[])], [1, 3, 0]);
    }

    #[test]
    fn scores_of_weights_and_of_blocks_of_them_are_those_of_the_items() {
        let values: Vec<f64> = (0..40).map(f64::from).collect();
        let groups: Vec<u32> = (0..40).map(|item| item / 3).collect();
        let bootstrap = Bootstrap::of_streams(&groups, Resampling::default());
        let of = |weights: &[u32]| -> Vec<f64> {
            let drawn: u32 = weights.iter().sum();
            let sum = weights
                .iter()
                .zip(&values)
                .map(|(w, value)| f64::from(*w) * value);
            vec![sum.sum::<f64>() / f64::from(drawn), f64::NAN]
        };
        let estimates = bootstrap.estimates(of);
        let of_blocks = bootstrap.estimates_of_blocks::<()>(|weights| {
            Ok(weights.iter().map(|weights| of(weights)).collect())
        });
        assert_eq!(of_blocks, Ok(estimates.clone()));
        assert_eq!(estimates[1], None);
        let measured = bootstrap.measure(mean(&values));
        let (one, other) = (estimates[0].unwrap(), measured.unwrap());
        assert!((one.low - other.low).abs() < 1e-9 && (one.high - other.high).abs() < 1e-9);
        assert!(one.low < one.value && one.value < one.high);
        let none = Bootstrap::of_streams::<u32>(&[], Resampling::default());
        assert_eq!(none.estimates(|_| vec![f64::NAN]), [None]);
    }

    #[test]
    fn what_nothing_was_drawn_of_has_no_interval() {
        let one = Bootstrap::of_streams(&[7, 7], Resampling::default());
        let of_one = one.measure(mean(&[0.25, 0.75])).unwrap();
        assert_eq!((of_one.value, of_one.interval()), (0.5, None));
        let of_weights = one.estimates(|_| vec![0.5])[0].unwrap();
        assert_eq!(of_weights.interval(), None);
        let of_named = Bootstrap::new(&[7], 1, "x").measure(mean(&[0.5])).unwrap();
        assert_eq!(of_named.interval(), None);
        // Defined of all items alone.
        let two = Bootstrap::of_streams(&[0, 1], Resampling::default());
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let estimates = two.estimates(|_| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            vec![if call == 0 { 0.5 } else { f64::NAN }]
        });
        assert_eq!(estimates[0].unwrap().interval(), None);
        let written = serde_json::to_value(of_one).unwrap();
        assert!(written["low"].is_null() && written["high"].is_null());
        let read: Estimate = serde_json::from_value(written).unwrap();
        assert_eq!((read.value, read.interval()), (0.5, None));
    }

    #[test]
    fn a_tie_is_a_tie_however_its_sum_was_rounded() {
        let step: f64 = 2.0 / 3.0;
        // Three equal steps for us and two against; exchanged, one more or less: never below one step.
        let sums = [295.0 * 0.7 + 3.0 * step, 295.0 * 0.7 + 2.0 * step];
        let real = (sums[0] - sums[1]) / 300.0;
        let other = (2.0 * step - 3.0 * step).abs() / 300.0;
        assert!(reaches(other, real) && reaches(real, other));
        assert!(!reaches(0.9999, 1.0) && !reaches(0.0, 1e-6) && reaches(f64::NAN, 1.0));
    }

    #[test]
    fn items_of_one_patient_are_drawn_together_and_widen_the_interval() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i / 10)).collect();
        let patients: Vec<usize> = (0..100).map(|i| i / 10).collect();
        let each: Vec<usize> = (0..100).collect();
        let width = |groups: &[usize]| {
            let Estimate { low, high, .. } = Bootstrap::new(groups, 1, "x")
                .measure(mean(&values))
                .unwrap();
            high - low
        };
        assert!(width(&patients) > 2.0 * width(&each));
    }

    #[test]
    fn a_permutation_test_finds_what_depends_on_the_pairing_and_nothing_else() {
        let strata = vec![0; 40];
        let linked: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
        let agree = |partners: &[usize]| {
            let agree = partners
                .iter()
                .enumerate()
                .filter(|&(item, &other)| linked[item] == linked[other]);
            Some(agree.count() as f64 / 40.0)
        };
        let found = permutation_test(&strata, 3, "x", agree).unwrap();
        assert!(
            found.p < 0.002 && (found.shuffled - 0.5).abs() < 0.05,
            "{found:?}"
        );
        let constant = permutation_test(&strata, 3, "x", |_| Some(0.7)).unwrap();
        assert_eq!(constant.p, 1.0);
        // Where every stratum is of one kind, exchanging within it changes nothing.
        let kinds: Vec<usize> = (0..40).map(|i| i % 2).collect();
        assert_eq!(permutation_test(&kinds, 3, "x", agree).unwrap().p, 1.0);
    }
}
