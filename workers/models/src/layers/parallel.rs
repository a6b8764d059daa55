//! Work on the rows of tensors, shared out to all cores in parts of a fixed size, so that no result and no order of sums
//! depends on the number of threads.

use rayon::prelude::*;

use crate::kernels::buffer::zeros;

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
    let (mut result, length) = (zeros(first.len()), part_length(width));
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

/// The sum of each of `width` columns.
pub(crate) fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    let sums: Vec<Vec<f32>> = values
        .par_chunks(part_length(width))
        .map(|rows| {
            let mut sums = vec![0f32; width];
            for row in rows.chunks_exact(width) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            sums
        })
        .collect();
    let total = added(sums.iter(), width).into_iter();
    total.map(|sum| sum as f32).collect()
}

/// Sums over chunks, always in their order.
pub(crate) fn added<'a>(sums: impl Iterator<Item = &'a Vec<f32>>, width: usize) -> Vec<f64> {
    let mut total = vec![0f64; width];
    sums.for_each(|sums| {
        total
            .iter_mut()
            .zip(sums)
            .for_each(|(total, sum)| *total += f64::from(*sum))
    });
    total
}
