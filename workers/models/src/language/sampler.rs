//! From logits to the next token: greedy, or drawn with a temperature from the most probable tokens.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_transformers::generation::LogitsProcessor;
use radialog_schemas::Generation;

/// The way in which tokens are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// None, or next to 0, is greedy.
    pub temperature: Option<f64>,
    /// Draws from the smallest set of tokens with this probability together; only with a temperature.
    pub top_p: Option<f64>,
    /// The seed: with the same seed, the same logits give the same tokens.
    pub seed: u64,
}

impl From<&Generation> for Sampling {
    fn from(generation: &Generation) -> Self {
        Self {
            temperature: generation.temperature,
            top_p: generation.top_p,
            seed: generation.seed,
        }
    }
}

/// A temperature below it is greedy.
const NEXT_TO_ZERO: f64 = 1e-7;

/// The choice of one sequence's tokens, with a random stream of its own.
pub struct Sampler {
    processor: LogitsProcessor,
    vocabulary: usize,
    greedy: bool,
}

/// What a token is chosen from.
#[derive(Clone, Debug)]
pub(super) enum Candidates {
    /// All tokens, by their logits `[vocab]`.
    Logits(Tensor),
    /// The one that greedy decoding takes, found beside those of other sequences.
    Greatest {
        /// Its id.
        token: u32,
        /// Its logit.
        logit: f32,
    },
}

impl Sampler {
    /// A sampler that only chooses ids below `vocabulary`: behind it may lie the row of `<IMG>`, which nobody trained.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Self {
        let greedy = sampling
            .temperature
            .is_none_or(|temperature| temperature < NEXT_TO_ZERO);
        let temperature = sampling.temperature.filter(|_| !greedy);
        let processor = LogitsProcessor::new(sampling.seed, temperature, sampling.top_p);
        Self {
            processor,
            vocabulary,
            greedy,
        }
    }

    /// Whether it takes the greatest logit, and draws nothing.
    pub(super) fn is_greedy(&self) -> bool {
        self.greedy
    }

    /// Chooses from what there is of the logits: of the greatest alone only where it is greedy.
    pub(super) fn choose(&mut self, candidates: &Candidates) -> Result<u32> {
        match candidates {
            Candidates::Logits(logits) => self.next(logits),
            Candidates::Greatest { token, logit } => finite(*token, *logit),
        }
    }

    /// Makes the draws of so many tokens that were chosen elsewhere, so that the next one is drawn as it would have been
    /// there. A draw takes the same from the random stream whatever it chooses from.
    ///
    /// # Errors
    /// None that is known.
    pub fn skip(&mut self, tokens: usize) -> Result<()> {
        let any = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        (0..tokens).try_for_each(|_| self.processor.sample(&any).map(|_| ()))
    }

    /// Chooses from logits `[vocab]`. Greedy decoding takes the first of equal maxima.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn next(&mut self, logits: &Tensor) -> Result<u32> {
        let rows = logits.dim(0)?.min(self.vocabulary);
        let logits = logits.narrow(0, 0, rows)?;
        let token = self.processor.sample(&logits)?;
        finite(token, logits.get(token as usize)?.to_scalar()?)
    }
}

/// A chosen token whose logit is a number.
fn finite(token: u32, logit: f32) -> Result<u32> {
    if !logit.is_finite() {
        bail!("its logits are not numbers: the weights are damaged, or overflow in their type");
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits() -> Tensor {
        Tensor::new(&[0.0f32, 2.0, 2.0, 1.0, 9.0], &Device::Cpu).unwrap()
    }

    #[test]
    fn greedy_takes_the_first_maximum_and_never_an_id_outside_the_vocabulary() {
        assert_eq!(
            Sampler::new(Sampling::default(), 4)
                .next(&logits())
                .unwrap(),
            1
        );
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error() {
        let logits = Tensor::new(&[f32::NAN, f32::NAN], &Device::Cpu).unwrap();
        assert!(Sampler::new(Sampling::default(), 2).next(&logits).is_err());
    }

    #[test]
    fn skipped_tokens_leave_the_stream_where_chosen_ones_would() {
        for top_p in [None, Some(0.9), Some(0.1)] {
            let sampling = Sampling {
                temperature: Some(1.5),
                top_p,
                seed: 11,
            };
            let mut whole = Sampler::new(sampling, 5);
            let all: Vec<_> = (0..30).map(|_| whole.next(&logits()).unwrap()).collect();
            for cut in [1, 7, 29] {
                let mut rest = Sampler::new(sampling, 5);
                rest.skip(cut).unwrap();
                let rest: Vec<_> = (cut..30).map(|_| rest.next(&logits()).unwrap()).collect();
                assert_eq!(rest, all[cut..], "{top_p:?}");
            }
        }
    }

    #[test]
    fn a_seed_repeats_its_tokens_and_top_p_keeps_to_the_likely_ones() {
        let sampling = Sampling {
            temperature: Some(1.0),
            top_p: Some(0.5),
            seed: 3,
        };
        let draw = |sampling| {
            let mut sampler = Sampler::new(sampling, 4);
            (0..20)
                .map(|_| sampler.next(&logits()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(sampling), draw(sampling));
        assert_ne!(
            draw(sampling),
            draw(Sampling {
                seed: 4,
                ..sampling
            })
        );
        assert!(draw(sampling).iter().all(|id| [1, 2].contains(id)));
    }
}
