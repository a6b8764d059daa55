//! The order of samples in an epoch: it follows from seed and epoch alone, so that a resume finds it again.

use crate::data::tokenized_dataset::TokenizedDataset;
use crate::random::Random;

/// The rows of an epoch. With a `balance` that share of them asks for reports, and as many rows as there are come in all:
/// each kind is gone through in a random order, and again where it is too small.
pub(super) fn epoch(
    samples: &TokenizedDataset,
    rows: &[usize],
    balance: Option<f64>,
    seed: u64,
    epoch: u64,
) -> Vec<usize> {
    let mut random = Random::stream(seed, &format!("order {epoch}"));
    let mut order = match balance {
        None => rows.to_vec(),
        Some(share) => {
            let (reports, others): (Vec<usize>, Vec<usize>) =
                rows.iter().partition(|&&row| samples.is_report(row));
            balanced([reports, others], share, &mut random)
        }
    };
    random.shuffle(&mut order);
    order
}

fn balanced(kinds: [Vec<usize>; 2], share: f64, random: &mut Random) -> Vec<usize> {
    let total = kinds.iter().map(Vec::len).sum::<usize>();
    // Where one kind is missing, the other is all there is.
    let first = match &kinds {
        [reports, _] if reports.is_empty() => 0,
        [_, others] if others.is_empty() => total,
        _ => (share * total as f64).round() as usize,
    };
    let mut order = Vec::with_capacity(total);
    for (mut kind, count) in kinds.into_iter().zip([first, total - first]) {
        let mut left = count;
        while left > 0 {
            random.shuffle(&mut kind);
            let taken = left.min(kind.len());
            order.extend_from_slice(&kind[..taken]);
            left -= taken;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balanced_epoch_has_the_share_and_repeats_the_smaller_kind_evenly() {
        let kinds = [(0..10).collect::<Vec<usize>>(), (10..100).collect()];
        let order = balanced(kinds, 0.5, &mut Random::stream(1, "order"));
        assert_eq!(order.len(), 100);
        let times = |row: usize| order.iter().filter(|&&taken| taken == row).count();
        assert!(
            (0..10).all(|row| times(row) == 5),
            "ten reports fill fifty places"
        );
        assert!((10..100).all(|row| times(row) <= 1));
    }

    #[test]
    fn one_kind_alone_fills_the_epoch() {
        for kinds in [[vec![], vec![1, 2, 3]], [vec![1, 2, 3], vec![]]] {
            let mut order = balanced(kinds, 0.4, &mut Random::stream(1, "order"));
            order.sort_unstable();
            assert_eq!(order, [1, 2, 3]);
        }
    }
}
