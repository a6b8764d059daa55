//! The language model's loss: the next token, where it is learned.

use candle_core::{Result, Tensor};

use super::cross_entropy;

/// The positions of some sequences, one after the other, whose next token is learned. Only their hidden states go through
/// the output head: prompts are long, and the head is as wide as the vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextTokenTargets {
    positions: Vec<u32>,
    tokens: Vec<u32>,
}

impl NextTokenTargets {
    /// Finds the positions of sequences whose tokens are `targets`; tokens that are `None` are not learned.
    pub fn of(targets: &[Vec<Option<u32>>]) -> Self {
        let next = |row: &Vec<Option<u32>>| {
            row.iter()
                .skip(1)
                .copied()
                .chain([None])
                .collect::<Vec<_>>()
        };
        let next = targets.iter().flat_map(next);
        let (positions, tokens) = (0..)
            .zip(next)
            .filter_map(|(at, token)| token.map(|token| (at, token)))
            .unzip();
        Self { positions, tokens }
    }

    /// Returns the number of tokens that are learned.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns whether nothing is learned.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Selects the rows of `hidden [positions, width]` at the positions, as `[learned, width]`.
    ///
    /// # Errors
    /// Fewer positions than the sequences have, or nothing to learn: its mean would not be a number.
    pub fn rows(&self, hidden: &Tensor) -> Result<Tensor> {
        if self.is_empty() {
            candle_core::bail!(
                "a batch without any target: leave out samples whose prompt fills the cutoff"
            );
        }
        hidden.index_select(&Tensor::new(self.positions.as_slice(), hidden.device())?, 0)
    }

    /// Computes the mean cross entropy of `logits [learned, vocab]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        cross_entropy(
            logits,
            &Tensor::new(self.tokens.as_slice(), logits.device())?,
            0.0,
        )
    }

    /// Counts the tokens that have the largest logit.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn correct(&self, logits: &Tensor) -> Result<usize> {
        let largest = logits.argmax(1)?.to_vec1::<u32>()?;
        Ok(largest
            .iter()
            .zip(&self.tokens)
            .filter(|(largest, token)| largest == token)
            .count())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn each_position_predicts_the_token_behind_it_and_sequences_do_not_run_into_each_other() {
        let learned =
            NextTokenTargets::of(&[vec![None, None, Some(7), Some(2)], vec![Some(5), Some(6)]]);
        assert_eq!(
            learned,
            NextTokenTargets {
                positions: vec![1, 2, 4],
                tokens: vec![7, 2, 6]
            }
        );
        let hidden = Tensor::arange(0f32, 6.0, &Device::Cpu)
            .unwrap()
            .reshape((6, 1))
            .unwrap();
        let rows: Vec<f32> = learned
            .rows(&hidden)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(rows, [1.0, 2.0, 4.0]);
    }

    #[test]
    fn nothing_to_learn_is_an_error_and_not_a_loss_of_nan() {
        let learned = NextTokenTargets::of(&[vec![None, None]]);
        let hidden = Tensor::zeros((2, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(
            learned
                .rows(&hidden)
                .unwrap_err()
                .to_string()
                .contains("cutoff")
        );
    }
}
