//! CIDEr as the caption toolkit computes it (pycocoevalcap 1.2; Vedantam et al. 2015, with the toolkit's clipping and length
//! penalty): cosine of tf-idf weighted n-grams, where an n-gram weighs less the more references have it.

use std::collections::HashMap;

/// Longest n-gram that counts.
const ORDERS: usize = 4;
/// Width of the penalty on a difference in length, in bigrams.
const SIGMA: f64 = 6.0;
/// What a perfect text scores.
const SCALE: f64 = 10.0;

/// How often each n-gram of a text occurs, by its words.
type Grams = HashMap<Vec<u32>, u32>;

/// The texts of a corpus and their references, reduced to counts; the whole corpus is needed before any text has a score.
#[derive(Default)]
pub struct Cider {
    words: HashMap<String, u32>,
    pairs: Vec<(Grams, Grams)>,
}

/// A text's weights for each length of n-gram, their norms, and how many bigrams it has.
struct Weights {
    grams: [HashMap<Vec<u32>, f64>; ORDERS],
    norms: [f64; ORDERS],
    bigrams: u32,
}

impl Cider {
    /// Adds a text beside its reference, both as words.
    pub fn add<S: AsRef<str>>(&mut self, candidate: &[S], reference: &[S]) {
        let pair = (self.grams(candidate), self.grams(reference));
        self.pairs.push(pair);
    }

    fn grams<S: AsRef<str>>(&mut self, words: &[S]) -> Grams {
        let ids: Vec<u32> = words.iter().map(|word| self.id(word.as_ref())).collect();
        let mut grams = Grams::new();
        for order in 1..=ORDERS {
            for window in ids.windows(order) {
                *grams.entry(window.to_vec()).or_insert(0) += 1;
            }
        }
        grams
    }

    fn id(&mut self, word: &str) -> u32 {
        if let Some(id) = self.words.get(word) {
            return *id;
        }
        let id = self.words.len() as u32;
        self.words.insert(word.to_owned(), id);
        id
    }

    /// Computes CIDEr of each text, 0 to 10, in the order in which they were added. The corpus' score is their mean. A corpus of
    /// one text scores 0, since every n-gram is in every reference.
    pub fn scores(&self) -> Vec<f64> {
        let mut documents: HashMap<&[u32], u32> = HashMap::new();
        for (_, reference) in &self.pairs {
            for gram in reference.keys() {
                *documents.entry(gram).or_insert(0) += 1;
            }
        }
        let corpus = (self.pairs.len() as f64).ln();
        let score = |(candidate, reference): &(Grams, Grams)| {
            let candidate = weights(candidate, &documents, corpus);
            similarity(&candidate, &weights(reference, &documents, corpus))
        };
        self.pairs.iter().map(score).collect()
    }
}

fn weights(grams: &Grams, documents: &HashMap<&[u32], u32>, corpus: f64) -> Weights {
    let mut weights = Weights {
        grams: Default::default(),
        norms: [0.0; ORDERS],
        bigrams: 0,
    };
    for (gram, count) in grams {
        let there = documents.get(gram.as_slice()).copied().unwrap_or(0).max(1);
        let weight = f64::from(*count) * (corpus - f64::from(there).ln());
        let order = gram.len() - 1;
        weights.norms[order] += weight * weight;
        weights.grams[order].insert(gram.clone(), weight);
        if order == 1 {
            weights.bigrams += count;
        }
    }
    weights.norms = weights.norms.map(f64::sqrt);
    weights
}

fn similarity(candidate: &Weights, reference: &Weights) -> f64 {
    let difference = f64::from(candidate.bigrams) - f64::from(reference.bigrams);
    let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
    let cosine = |order: usize| {
        let there = &reference.grams[order];
        let common = candidate.grams[order].iter().map(|(gram, weight)| {
            let other = there.get(gram).copied().unwrap_or(0.0);
            weight.min(other) * other
        });
        let norm = candidate.norms[order] * reference.norms[order];
        let common: f64 = common.sum();
        if norm == 0.0 { common } else { common / norm }
    };
    (0..ORDERS).map(cosine).sum::<f64>() / ORDERS as f64 * penalty * SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(pairs: &[(&str, &str)]) -> Vec<f64> {
        let mut cider = Cider::default();
        for (candidate, reference) in pairs {
            let split = |text: &'static str| text.split(' ').collect::<Vec<_>>();
            cider.add(
                &split(Box::leak(candidate.to_string().into_boxed_str())),
                &split(Box::leak(reference.to_string().into_boxed_str())),
            );
        }
        cider.scores()
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
