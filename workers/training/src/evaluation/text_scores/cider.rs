//! CIDEr as the caption toolkit computes it (pycocoevalcap 1.2; Vedantam et al. 2015, with the toolkit's clipping and length
//! penalty): cosine of tf-idf weighted n-grams, where an n-gram weighs less the more references have it. Higher is better.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::grams::{Gram, Grams, HashMap, ORDERS, order};

/// Width of the penalty on a difference in length, in bigrams.
const SIGMA: f64 = 6.0;
/// What a perfect text scores.
const SCALE: f64 = 10.0;

/// How many references of a corpus have each n-gram. It has to be complete before any text is scored, and it is all that CIDEr
/// keeps of a corpus: a number for each different n-gram of the references.
#[derive(Default)]
pub struct DocumentFrequencies {
    words: HashMap<String, u32>,
    /// By the n-gram's bytes, which lie closer than numbers of 16 bytes do.
    references: HashMap<[u8; 16], u32>,
    texts: u64,
    /// Of all references, in their order.
    hash: Sha256,
}

/// A corpus in memory: its texts and references reduced to counts.
#[derive(Default)]
pub struct Cider {
    frequencies: DocumentFrequencies,
    pairs: Vec<(Grams, Grams)>,
}

/// The weights of a text's n-grams, in their order, and the norms of each length.
struct Weights {
    grams: Vec<f64>,
    norms: [f64; ORDERS],
    bigrams: f64,
}

impl DocumentFrequencies {
    /// Adds a reference, as words.
    pub fn add<S: AsRef<str>>(&mut self, reference: &[S]) {
        for word in reference {
            self.hash.update(word.as_ref());
            // No word has one.
            self.hash.update(b" ");
        }
        self.hash.update(b"\n");
        let reference = self.learned(reference);
        self.add_grams(&Grams::of(&reference));
    }

    /// What scores depend on besides their own texts: that of other references, or of these in another order, is another.
    pub fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    fn add_grams(&mut self, reference: &Grams) {
        for (gram, _) in &reference.0 {
            *self.references.entry(gram.to_ne_bytes()).or_insert(0) += 1;
        }
        self.texts += 1;
    }

    /// Numbers for words; new ones get the next.
    fn learned<S: AsRef<str>>(&mut self, words: &[S]) -> Vec<u32> {
        let mut number = |word: &S| {
            if let Some(number) = self.words.get(word.as_ref()) {
                return *number;
            }
            let next = self.words.len() as u32 + 1;
            self.words.insert(word.as_ref().to_owned(), next);
            next
        };
        words.iter().map(&mut number).collect()
    }

    /// Computes CIDEr of one text, 0 to 10; the corpus' score is the mean. `reference` is among those that were added. A corpus
    /// of one text scores 0, since every n-gram is in every reference.
    pub fn score<S: AsRef<str>>(&self, candidate: &[S], reference: &[S]) -> f64 {
        // Words that no reference has are numbered for this text only.
        let mut others: HashMap<&str, u32> = HashMap::default();
        let [candidate, reference] = [candidate, reference].map(|words| {
            let mut numbers = Vec::with_capacity(words.len());
            for word in words {
                let next = (self.words.len() + others.len()) as u32 + 1;
                numbers.push(match self.words.get(word.as_ref()) {
                    Some(number) => *number,
                    None => *others.entry(word.as_ref()).or_insert(next),
                });
            }
            Grams::of(&numbers)
        });
        self.similarity(&candidate, &reference)
    }

    fn weights(&self, grams: &Grams) -> Weights {
        let corpus = (self.texts as f64).ln();
        let mut weights = Weights {
            grams: Vec::with_capacity(grams.0.len()),
            norms: [0.0; ORDERS],
            bigrams: 0.0,
        };
        for (gram, count) in &grams.0 {
            let weight = f64::from(*count) * (corpus - self.log_frequency(*gram));
            let order = order(*gram);
            weights.norms[order] += weight * weight;
            weights.grams.push(weight);
            if order == 1 {
                weights.bigrams += f64::from(*count);
            }
        }
        weights.norms = weights.norms.map(f64::sqrt);
        weights
    }

    /// An n-gram that no reference has counts as if one had it.
    fn log_frequency(&self, gram: Gram) -> f64 {
        match self.references.get(&gram.to_ne_bytes()) {
            None | Some(1) => 0.0,
            Some(references) => f64::from(*references).ln(),
        }
    }

    fn similarity(&self, candidate: &Grams, reference: &Grams) -> f64 {
        let (ours, theirs) = (self.weights(candidate), self.weights(reference));
        let mut common = [0.0; ORDERS];
        candidate.each_common(reference, |own, their| {
            let (weight, other) = (ours.grams[own], theirs.grams[their]);
            common[order(candidate.0[own].0)] += weight.min(other) * other;
        });
        let difference = ours.bigrams - theirs.bigrams;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        let cosine = |order: usize| {
            let norm = ours.norms[order] * theirs.norms[order];
            if norm == 0.0 {
                common[order]
            } else {
                common[order] / norm
            }
        };
        (0..ORDERS).map(cosine).sum::<f64>() / ORDERS as f64 * penalty * SCALE
    }
}

impl Cider {
    /// Adds a text beside its reference, both as words.
    pub fn add<S: AsRef<str>>(&mut self, candidate: &[S], reference: &[S]) {
        let [candidate, reference] =
            [candidate, reference].map(|words| Grams::of(&self.frequencies.learned(words)));
        self.frequencies.add_grams(&reference);
        self.pairs.push((candidate, reference));
    }

    /// Computes CIDEr of each text, 0 to 10, in the order in which they were added. The corpus' score is their mean. A corpus of
    /// one text scores 0, since every n-gram is in every reference.
    pub fn scores(&self) -> Vec<f64> {
        let score = |(candidate, reference): &(Grams, Grams)| {
            self.frequencies.similarity(candidate, reference)
        };
        self.pairs.par_iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(pairs: &[(&str, &str)]) -> Vec<f64> {
        let mut cider = Cider::default();
        let mut frequencies = DocumentFrequencies::default();
        let split = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (candidate, reference) in pairs {
            cider.add(&split(candidate), &split(reference));
            frequencies.add(&split(reference));
        }
        let scores = cider.scores();
        for ((candidate, reference), score) in pairs.iter().zip(&scores) {
            let alone = frequencies.score(&split(candidate), &split(reference));
            assert_eq!(alone, *score, "{candidate}");
        }
        scores
    }

    #[test]
    fn an_equal_text_scores_ten_and_one_with_nothing_in_common_zero() {
        let scores = corpus(&[("a b c d e", "a b c d e"), ("x y z", "f g h i")]);
        assert!((scores[0] - 10.0).abs() < 1e-9, "{scores:?}");
        assert_eq!(scores[1], 0.0);
    }

    #[test]
    fn words_that_every_reference_has_weigh_nothing() {
        assert_eq!(corpus(&[("a", "a"), ("a", "a")]), [0.0, 0.0]);
    }
}
