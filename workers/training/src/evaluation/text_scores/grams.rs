//! Words and runs of words as numbers, which are counted and compared faster than texts.

use foldhash::fast::RandomState;

/// A map whose keys are hashed fast: scores look up some hundred times a text.
pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// Longest n-gram that counts.
pub(super) const ORDERS: usize = 4;
/// Bits of a word's number; numbers begin with 1.
const BITS: u32 = u128::BITS / ORDERS as u32;

/// An n-gram: the numbers of its words side by side.
pub(super) type Gram = u128;

/// The n-grams of a text, short ones first, each with how often it occurs.
pub(super) struct Grams(pub(super) Vec<(Gram, u32)>);

impl Grams {
    pub(super) fn of(words: &[u32]) -> Self {
        let runs = |order| words.windows(order).map(gram);
        let mut all: Vec<Gram> = (1..=ORDERS).flat_map(runs).collect();
        all.sort_unstable();
        let mut counted: Vec<(Gram, u32)> = Vec::with_capacity(all.len());
        for gram in all {
            match counted.last_mut() {
                Some((last, count)) if *last == gram => *count += 1,
                _ => counted.push((gram, 1)),
            }
        }
        Self(counted)
    }

    /// Calls back with each n-gram that both texts have, and the places where they have it.
    pub(super) fn each_common(&self, other: &Self, mut found: impl FnMut(usize, usize)) {
        let mut theirs = other.0.iter().enumerate().peekable();
        for (own, (gram, _)) in self.0.iter().enumerate() {
            while theirs.next_if(|(_, (their, _))| their < gram).is_some() {}
            if let Some((place, _)) = theirs.next_if(|(_, (their, _))| their == gram) {
                found(own, place);
            }
        }
    }
}

fn gram(words: &[u32]) -> Gram {
    let push = |gram: Gram, word: &u32| gram << BITS | Gram::from(*word);
    words.iter().fold(0, push)
}

/// The number of words of an n-gram, less one.
pub(super) fn order(gram: Gram) -> usize {
    ORDERS - 1 - (gram.leading_zeros() / BITS) as usize
}

/// Numbers for the words of two texts, equal where the words are.
pub(super) fn numbered<S: AsRef<str>>(first: &[S], second: &[S]) -> [Vec<u32>; 2] {
    let mut numbers: HashMap<&str, u32> = HashMap::default();
    let mut of = |words| number_all(words, &mut numbers);
    [of(first), of(second)]
}

fn number_all<'a, S: AsRef<str>>(words: &'a [S], numbers: &mut HashMap<&'a str, u32>) -> Vec<u32> {
    let of = |word: &'a S| {
        let next = numbers.len() as u32 + 1;
        *numbers.entry(word.as_ref()).or_insert(next)
    };
    words.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_words_are_counted_and_found_in_another_text() {
        let [first, second] = numbered(&["a", "b", "a", "b"], &["b", "a", "b", "c"]);
        let (first, second) = (Grams::of(&first), Grams::of(&second));
        // a, b, ab, ba, aba, bab, abab
        assert_eq!(first.0.len(), 7);
        let orders: Vec<usize> = first.0.iter().map(|(gram, _)| order(*gram)).collect();
        assert_eq!(orders, [0, 0, 1, 1, 2, 2, 3]);
        let mut common = Vec::new();
        first.each_common(&second, |own, theirs| {
            common.push((first.0[own].1, second.0[theirs].1));
        });
        // a 2:1, b 2:2, ab 2:1, ba 1:1, bab 1:1
        assert_eq!(common, [(2, 1), (2, 2), (2, 1), (1, 1), (1, 1)]);
    }
}
