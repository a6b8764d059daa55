//! Work on the rows of tensors, shared out to all cores in parts of a fixed size, so that no result and no order of sums
//! depends on the number of threads.

use rayon::prelude::*;

/// Values that a thread works on at a time: enough to repay waking it.
pub(crate) const PART: usize = 1 << 15;

/// Values of the whole rows of `width` that make about a [`PART`].
pub(crate) fn part_length(width: usize) -> usize {
    (PART / width.max(1)).max(1) * width.max(1)
}

/// Computes each row of the result from the row of `width` values at its place.
pub(crate) fn each_row(
    values: &[f32],
    width: usize,
    work: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    each_pair((values, values), width, |row, _, result| work(row, result))
}

/// Computes each row of the result from two rows of `width` values at its place.
pub(crate) fn each_pair(
    pair: (&[f32], &[f32]),
    width: usize,
    work: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    each_part(pair, width, |first, second, result| {
        let rows = result
            .chunks_exact_mut(width)
            .zip(first.chunks_exact(width))
            .zip(second.chunks_exact(width));
        rows.for_each(|((result, first), second)| work(first, second, result));
    })
}

/// Computes each part of the result from the values at its place: whole rows of `width`, several at a time.
pub(crate) fn each_part(
    (first, second): (&[f32], &[f32]),
    width: usize,
    work: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (mut result, length) = (vec![0f32; first.len()], part_length(width));
    if first.len() <= length {
        work(first, second, &mut result);
        return result;
    }
    let parts = result
        .par_chunks_mut(length)
        .zip(first.par_chunks(length))
        .zip(second.par_chunks(length));
    parts.for_each(|((result, first), second)| work(first, second, result));
    result
}
