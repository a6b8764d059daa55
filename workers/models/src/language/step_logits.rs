//! What the sequences of a step choose their next tokens from. On a device the greatest logits of all rows are found
//! together, and only these come to the host; of a sequence that draws, its whole row.

use candle_core::{D, DType, Device, Error, Result, Tensor, bail};

use super::sampler::Candidates;

/// The logits of a step, row by row.
pub(super) enum StepLogits {
    /// `[rows, vocab]` in main memory, where each row is looked at by itself.
    Rows(Tensor),
    /// What has come from a device.
    Fetched(Vec<Candidates>),
}

impl StepLogits {
    /// Fetches what is needed of logits `[rows, vocab]`, of which only ids below `vocabulary` may be chosen: in one transfer for
    /// all rows that are greedy, and one for all that are drawn from.
    ///
    /// # Errors
    /// Fewer rows of logits than are asked for.
    pub(super) fn fetch(logits: &Tensor, vocabulary: usize, greedy: &[bool]) -> Result<Self> {
        let drawn = (0..).zip(greedy).filter(|&(_, &greedy)| !greedy);
        let drawn: Vec<u32> = drawn.map(|(row, _)| row).collect();
        let greatest = match drawn.len() < greedy.len() {
            true => greatest_of(logits, vocabulary)?,
            false => Vec::new(),
        };
        let rows = match drawn.is_empty() {
            true => Vec::new(),
            false => rows_of(logits, drawn)?,
        };
        let (mut greatest, mut rows) = (greatest.into_iter(), rows.into_iter());
        let candidates = greedy.iter().map(|&greedy| {
            let greatest = greatest.next();
            match greedy {
                true => greatest.map(|(token, logit)| Candidates::Greatest { token, logit }),
                false => rows.next().map(Candidates::Logits),
            }
        });
        let candidates: Option<Vec<_>> = candidates.collect();
        candidates
            .map(Self::Fetched)
            .ok_or_else(|| Error::msg("a step has fewer logits than rows"))
    }

    /// What the token behind a row is chosen from.
    ///
    /// # Errors
    /// A row that is not there.
    pub(super) fn row(&self, row: usize) -> Result<Candidates> {
        match self {
            StepLogits::Rows(logits) => logits.get(row).map(Candidates::Logits),
            StepLogits::Fetched(candidates) => match candidates.get(row) {
                Some(candidates) => Ok(candidates.clone()),
                None => bail!("{row} is no row of {}", candidates.len()),
            },
        }
    }
}

/// Of each row the id that greedy decoding takes, the first of equal logits, and its logit. Where a device's own search for the
/// greatest meets equal ones, it takes any of them; so the smallest of their ids is looked for.
fn greatest_of(logits: &Tensor, vocabulary: usize) -> Result<Vec<(u32, f32)>> {
    let (rows, columns) = logits.dims2()?;
    let columns = columns.min(vocabulary);
    let chosen = logits.narrow(1, 0, columns)?;
    let is_greatest = chosen.broadcast_eq(&chosen.max_keepdim(D::Minus1)?)?;
    let ids = Tensor::arange(0, columns as u32, logits.device())?.reshape((1, columns))?;
    let none = Tensor::full(columns as u32, (rows, columns), logits.device())?;
    let tokens = is_greatest
        .where_cond(&ids.broadcast_as((rows, columns))?, &none)?
        .min_keepdim(D::Minus1)?;
    // No logit equals the greatest of a row without numbers. Any of them says so.
    let is_found = tokens.lt(&none.narrow(1, 0, 1)?)?;
    let tokens = is_found.where_cond(&tokens, &tokens.zeros_like()?)?;
    // The logit of what was chosen, not the greatest: where not all are numbers, they may differ.
    let greatest = logits.gather(&tokens, 1)?;
    // f64 holds ids and logits as they are, so that both come in one transfer.
    let both = [tokens.to_dtype(DType::F64)?, greatest.to_dtype(DType::F64)?];
    let both = Tensor::cat(&both, 0)?.flatten_all()?.to_vec1::<f64>()?;
    let (tokens, greatest) = both.split_at(rows);
    let each = tokens.iter().zip(greatest);
    Ok(each
        .map(|(token, logit)| (*token as u32, *logit as f32))
        .collect())
}

/// These rows, in main memory.
fn rows_of(logits: &Tensor, rows: Vec<u32>) -> Result<Vec<Tensor>> {
    let count = rows.len();
    let rows = logits.index_select(&Tensor::new(rows, logits.device())?, 0)?;
    let rows = rows.to_device(&Device::Cpu)?;
    (0..count).map(|row| rows.get(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::sampler::{Sampler, Sampling};

    const VOCABULARY: usize = 5;

    fn sampling(drawn: bool) -> Sampling {
        Sampling {
            temperature: drawn.then_some(1.1),
            top_p: Some(0.8),
            seed: 5,
        }
    }

    /// What a sampler chooses from a row of these logits, from what was fetched of all, and from the row itself.
    fn chosen(logits: &Tensor, drawn: &[bool]) -> [Vec<Option<u32>>; 2] {
        let mut samplers: Vec<_> = drawn
            .iter()
            .map(|&drawn| Sampler::new(sampling(drawn), VOCABULARY))
            .collect();
        let greedy: Vec<_> = samplers.iter().map(Sampler::is_greedy).collect();
        let fetched = StepLogits::fetch(logits, VOCABULARY, &greedy).unwrap();
        [fetched, StepLogits::Rows(logits.clone())].map(|logits| {
            let rows = samplers.iter_mut().enumerate();
            let chosen = rows.map(|(row, sampler)| {
                // Both choices are the first of a sampler with this seed.
                *sampler = Sampler::new(sampling(drawn[row]), VOCABULARY);
                sampler.choose(&logits.row(row).unwrap()).ok()
            });
            chosen.collect()
        })
    }

    fn logits() -> Tensor {
        let row = |row: usize| (0..VOCABULARY + 1).map(move |id| ((row * 7 + id * 3) as f32).sin());
        let mut values: Vec<f32> = (0..6).flat_map(row).collect();
        // The last id is not in the vocabulary, and has the greatest logit; the first of equal ones is taken.
        values[VOCABULARY] = 9.0;
        values[2] = 4.0;
        values[3] = 4.0;
        Tensor::from_vec(values, (6, VOCABULARY + 1), &Device::Cpu).unwrap()
    }

    #[test]
    fn what_is_fetched_of_all_rows_gives_the_tokens_that_each_row_gives() {
        for drawn in [
            [false; 6],
            [true; 6],
            [false, true, false, false, true, true],
        ] {
            let [fetched, own] = chosen(&logits(), &drawn);
            assert_eq!(fetched, own);
            assert!(fetched.iter().all(Option::is_some));
            assert!(drawn[0] || fetched[0] == Some(2));
        }
    }

    #[test]
    fn of_equal_logits_the_first_is_taken_wherever_the_others_stand() {
        // A device shares a row out to 1024 threads: the second tie is in the hands of the first of them.
        for ties in [[5, 1024], [1023, 1025], [0, 1999]] {
            let mut values = vec![-1f32; 2048];
            for tie in ties {
                values[tie] = 3.0;
            }
            // Behind the vocabulary.
            values[2000] = 9.0;
            let logits = Tensor::from_vec(values, (1, 2048), &Device::Cpu).unwrap();
            let fetched = StepLogits::fetch(&logits, 2000, &[true]).unwrap();
            let candidates = fetched.row(0).unwrap();
            let mut sampler = Sampler::new(sampling(false), 2000);
            assert_eq!(sampler.choose(&candidates).unwrap(), ties[0] as u32);
        }
    }

    #[test]
    fn a_row_whose_logits_are_not_numbers_fails_alone() {
        let width = VOCABULARY + 1;
        let values = [f32::NAN, 1.0, f32::INFINITY].map(|value| vec![value; width]);
        let logits = Tensor::from_vec(values.concat(), (3, width), &Device::Cpu).unwrap();
        let [fetched, own] = chosen(&logits, &[false; 3]);
        assert_eq!(fetched, [None, Some(0), None]);
        assert_eq!(fetched, own);
        let fetched = StepLogits::fetch(&logits, VOCABULARY, &[true; 3]).unwrap();
        assert!(fetched.row(2).is_ok() && fetched.row(3).is_err());
        assert!(StepLogits::fetch(&logits, VOCABULARY, &[true; 4]).is_err());
    }
}
