//! Byte-pair merges (Sennrich et al., 2016) learned from counted words. The library that encodes has a trainer too; its
//! order follows a hash that differs from run to run, so that the same texts would give another vocabulary each time.

use std::collections::BTreeMap;

/// Merges that are seen less often are not worth an id.
const LEAST: u64 = 2;

/// Words as their pieces, with how often each stands in the texts.
pub(super) struct CountedWords(Vec<(Vec<String>, u64)>);

impl CountedWords {
    /// `pieces` cuts a word into the pieces that merging starts from.
    pub(super) fn of(counts: BTreeMap<String, u64>, pieces: impl Fn(&str) -> Vec<String>) -> Self {
        Self(
            counts
                .into_iter()
                .map(|(word, count)| (pieces(&word), count))
                .collect(),
        )
    }

    /// Joins the commonest pair of neighbours, over and over, until `wanted` pieces are new or none stands twice; `join`
    /// writes two pieces as one. Of equally common pairs the first in the alphabet wins. Returns pairs and what they became.
    pub(super) fn learn(
        mut self,
        wanted: usize,
        join: impl Fn(&str, &str) -> String,
    ) -> Vec<((String, String), String)> {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (pieces, count) in &self.0 {
            count_pairs(&mut counts, pieces, *count, true);
        }
        let mut known = std::collections::BTreeSet::new();
        let mut merges = Vec::new();
        while known.len() < wanted {
            let best = counts
                .iter()
                .max_by(|one, other| one.1.cmp(other.1).then_with(|| other.0.cmp(one.0)));
            let Some((pair, _)) = best.filter(|(_, count)| **count >= LEAST) else {
                break;
            };
            let pair = pair.clone();
            let joined = join(&pair.0, &pair.1);
            for (pieces, count) in &mut self.0 {
                if pieces
                    .windows(2)
                    .any(|two| two[0] == pair.0 && two[1] == pair.1)
                {
                    count_pairs(&mut counts, pieces, *count, false);
                    *pieces = merged(pieces, &pair, &joined);
                    count_pairs(&mut counts, pieces, *count, true);
                }
            }
            counts.remove(&pair);
            known.insert(joined.clone());
            merges.push((pair, joined));
        }
        merges
    }
}

fn count_pairs(
    counts: &mut BTreeMap<(String, String), u64>,
    pieces: &[String],
    count: u64,
    add: bool,
) {
    for two in pieces.windows(2) {
        let sum = counts.entry((two[0].clone(), two[1].clone())).or_default();
        *sum = if add {
            *sum + count
        } else {
            sum.saturating_sub(count)
        };
    }
}

fn merged(pieces: &[String], pair: &(String, String), joined: &str) -> Vec<String> {
    let mut merged = Vec::with_capacity(pieces.len());
    let mut rest = pieces;
    while let [first, tail @ ..] = rest {
        match tail.split_first() {
            Some((second, behind)) if *first == pair.0 && *second == pair.1 => {
                merged.push(joined.to_owned());
                rest = behind;
            }
            _ => {
                merged.push(first.clone());
                rest = tail;
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(words: &[(&str, u64)], wanted: usize) -> Vec<String> {
        let counts = words
            .iter()
            .map(|(word, count)| ((*word).to_owned(), *count))
            .collect();
        let words = CountedWords::of(counts, |word| word.chars().map(String::from).collect());
        words
            .learn(wanted, |one, other| format!("{one}{other}"))
            .into_iter()
            .map(|(_, joined)| joined)
            .collect()
    }

    #[test]
    fn the_commonest_neighbours_are_joined_first() {
        assert_eq!(
            learn(&[("lung", 5), ("lungs", 5), ("ng", 1)], 3),
            ["ng", "lu", "lung"]
        );
    }

    #[test]
    fn pairs_that_stand_once_are_not_joined() {
        assert!(learn(&[("lung", 1)], 3).is_empty());
    }

    #[test]
    fn a_piece_that_repeats_is_joined_from_the_left() {
        assert_eq!(learn(&[("aaa", 2)], 2), ["aa", "aaa"]);
    }
}
