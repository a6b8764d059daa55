//! How sure a figure is: percentile bootstrap over patients, and permutation tests. Both are drawn from named streams, so
//! that the same seed gives the same figures whatever else is computed.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::random::Random;

/// Resamples of a bootstrap, and permutations of a test.
pub const REPEATS: usize = 1000;
/// Share of the resamples that an interval leaves out on each side.
const TAIL: f64 = 0.025;

/// A figure with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure over all items.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The resamples of a percentile bootstrap, which draws groups (patients) with all of their items.
pub struct Bootstrap {
    items: usize,
    draws: Vec<Vec<usize>>,
}

impl Bootstrap {
    /// Draws as many groups as there are, with replacement, [`REPEATS`] times; each brings all of its items.
    pub fn new<G: Ord>(groups: &[G], seed: u64, name: &str) -> Self {
        let mut members: BTreeMap<&G, Vec<usize>> = BTreeMap::new();
        for (item, group) in groups.iter().enumerate() {
            members.entry(group).or_default().push(item);
        }
        let members: Vec<Vec<usize>> = members.into_values().collect();
        let mut random = Random::stream(seed, &format!("bootstrap {name}"));
        let mut draw = || {
            (0..members.len())
                .flat_map(|_| random.pick(&members).clone())
                .collect()
        };
        let draws = if members.is_empty() {
            Vec::new()
        } else {
            (0..REPEATS).map(|_| draw()).collect()
        };
        Self {
            items: groups.len(),
            draws,
        }
    }

    /// Computes a statistic of the items at the given places, with its interval. Resamples in which it is not defined are left
    /// out; none where it is not defined at all.
    pub fn measure(&self, statistic: impl Fn(&[usize]) -> Option<f64> + Sync) -> Option<Estimate> {
        let all: Vec<usize> = (0..self.items).collect();
        let value = statistic(&all)?;
        let mut values: Vec<f64> = self
            .draws
            .par_iter()
            .filter_map(|draw| statistic(draw))
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&values, share).unwrap_or(value);
        Some(Estimate {
            value,
            low: at(TAIL),
            high: at(1.0 - TAIL),
        })
    }
}

/// Interpolated between the two nearest values, which are sorted.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
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
pub fn permutation_test<G: Ord>(
    strata: &[G],
    seed: u64,
    name: &str,
    statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Option<Permutation> {
    let order: Vec<usize> = (0..strata.len()).collect();
    let real = statistic(&order)?;
    let mut random = Random::stream(seed, &format!("permutation {name}"));
    let shuffles: Vec<Vec<usize>> = (0..REPEATS)
        .map(|_| shuffled(strata, &order, &mut random))
        .collect();
    let values: Vec<f64> = shuffles
        .par_iter()
        .filter_map(|partners| statistic(partners))
        .collect();
    let reached = values
        .iter()
        .filter(|&&value| value >= real - f64::EPSILON)
        .count();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    Some(Permutation {
        shuffled: mean,
        p: (reached + 1) as f64 / (values.len() + 1) as f64,
    })
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
