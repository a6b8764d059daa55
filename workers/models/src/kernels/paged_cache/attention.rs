//! Causal attention over keys and values that are kept in pages, for the new positions of several sequences.
//!
//! A position's output is the same sum in the same order alone and with others, whatever the pages are shared with, and with
//! any instructions.

#![expect(
    unsafe_code,
    reason = "kernels read blocks of pages, queries and scores through pointers within what they were given, and use \
              instructions that were found first"
)]

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

use super::{Block, CacheShape, Numbers, PAGE, PagedCache, Which};
use crate::kernels::cpu::Features;
use crate::kernels::lanes::{self, Lanes};

/// Numbers that one instruction works on.
const LANES: usize = 16;
/// Sums that a product has, each over every eighth value of a head.
const STRIDED: usize = 8;
/// Registers of values that are mixed together.
const MIXED: usize = 4;
/// Products below which waking other threads costs more than it saves.
const PARALLEL: usize = 1 << 17;
/// New positions of a sequence that one thread takes at a time, for one head of keys.
const POSITIONS: usize = 16;
/// More rows than these are worth widening a block for.
const FEW: usize = 4;

/// The new positions of a sequence.
pub(crate) struct Attended<'a> {
    pub(crate) cache: &'a PagedCache,
    /// Positions, the new ones among them.
    pub(crate) all: usize,
    /// Queries `[new, query heads, width]`.
    pub(crate) queries: &'a [f32],
}

/// Some new positions of a sequence and the query heads of one head of keys.
#[derive(Clone, Copy)]
struct Part<'a> {
    sequence: &'a Attended<'a>,
    layer: usize,
    head: usize,
    /// Query heads of the head of keys.
    group: usize,
    /// The first of the new positions, and how many.
    first: usize,
    count: usize,
}

/// Attention of the new positions of sequences over their caches; each group of query heads shares a head of keys. Returns
/// `[new positions of all, query heads · width]`.
pub(crate) fn attend(layer: usize, sequences: &[Attended<'_>], query_heads: usize) -> Vec<f32> {
    attend_with(Features::detected(), layer, sequences, query_heads)
}

fn attend_with(
    features: Features,
    layer: usize,
    sequences: &[Attended<'_>],
    query_heads: usize,
) -> Vec<f32> {
    let output = |part: &Part<'_>| part.output(features);
    let Some(first) = sequences.first() else {
        return Vec::new();
    };
    let CacheShape { heads, width, .. } = first.cache.shape;
    let (group, row) = (query_heads / heads, query_heads * width);
    let mut parts = Vec::new();
    for sequence in sequences {
        let new = sequence.queries.len() / row;
        for first in (0..new).step_by(POSITIONS) {
            let count = POSITIONS.min(new - first);
            parts.extend((0..heads).map(|head| Part {
                sequence,
                layer,
                head,
                group,
                first,
                count,
            }));
        }
    }
    let work = sequences.iter().map(|one| one.queries.len() * one.all);
    let outputs: Vec<Vec<f32>> = match work.sum::<usize>() < PARALLEL {
        true => parts.iter().map(output).collect(),
        false => parts.par_iter().map(output).collect(),
    };
    let total: usize = sequences.iter().map(|one| one.queries.len()).sum();
    let mut out = vec![0f32; total];
    let mut rest = out.as_mut_slice();
    for (part, output) in parts.iter().zip(&outputs) {
        let rows = output.chunks_exact(group * width);
        for (to, own) in rest.chunks_exact_mut(row).zip(rows) {
            to[part.head * group * width..][..group * width].copy_from_slice(own);
        }
        if part.head + 1 == heads {
            rest = std::mem::take(&mut rest).split_at_mut(part.count * row).1;
        }
    }
    out
}

impl Part<'_> {
    /// `[count, group, width]`.
    fn output(&self, features: Features) -> Vec<f32> {
        #[cfg(target_arch = "x86_64")]
        {
            if features.avx512_vnni {
                // SAFETY: these instructions were found.
                return unsafe { self.output_avx512() };
            }
            if features.avx2 {
                // SAFETY: these instructions were found.
                return unsafe { self.output_avx2() };
            }
        }
        let _ = features;
        // SAFETY: any processor will do.
        unsafe { self.output_by::<lanes::Portable>() }
    }

    /// [`Part::output_by`] with AVX-512.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    unsafe fn output_avx512(&self) -> Vec<f32> {
        // SAFETY: as the caller says, with the instructions that this function was asked for with.
        unsafe { self.output_by::<lanes::Avx512>() }
    }

    /// [`Part::output_by`] with AVX2.
    ///
    /// # Safety
    /// As there.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn output_avx2(&self) -> Vec<f32> {
        // SAFETY: as the caller says, with the instructions that this function was asked for with.
        unsafe { self.output_by::<lanes::Avx2>() }
    }

    /// Positions that a row sees: itself and all before it.
    fn visible(&self, row: usize) -> usize {
        let new = self.sequence.queries.len() / self.row();
        self.sequence.all - new + self.first + row / self.group + 1
    }

    /// Values of a position's queries.
    fn row(&self) -> usize {
        let CacheShape { heads, width, .. } = self.sequence.cache.shape;
        heads * self.group * width
    }

    /// The output: rows are the query heads of the first position, then of the second.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn output_by<L: Lanes>(&self) -> Vec<f32> {
        let (cache, group) = (self.sequence.cache, self.group);
        let width = cache.shape.width;
        let rows = self.count * group;
        let pages = self.visible(rows - 1).div_ceil(PAGE);
        let queries = |row: usize| {
            let position = (self.first + row / group) * self.row();
            let start = position + (self.head * group + row % group) * width;
            &self.sequence.queries[start..][..width]
        };
        // Halves are widened once for many rows; few widen what they read.
        let numbers = cache.numbers;
        let widens = numbers == Numbers::Halves && rows > FEW;
        let mut widened = vec![0f32; if widens { PAGE * width } else { 0 }];
        let mut scores = vec![0f32; rows * pages * PAGE];
        for page in 0..pages {
            let block = cache.block(page, self.layer, Which::Keys, self.head);
            let block = block.widened(&mut widened);
            let mut row = 0;
            while row < rows {
                let to = |r: usize| (row + r) * pages * PAGE + page * PAGE;
                // SAFETY: the block has a page of keys of the queries' width, and the scores of each row end with the page.
                row += unsafe {
                    match L::MANY && rows - row >= 3 {
                        true => score::<L, 3>(
                            block,
                            [0, 1, 2].map(|r| queries(row + r)),
                            [0, 1, 2].map(to),
                            &mut scores,
                        ),
                        false => score::<L, 1>(block, [queries(row)], [to(0)], &mut scores),
                    }
                };
            }
        }
        for (row, scores) in scores.chunks_exact_mut(pages * PAGE).enumerate() {
            let scores = &mut scores[..self.visible(row)];
            softmax(scores, (width as f32).sqrt(), numbers);
        }
        let mut out = vec![0f32; rows * width];
        for page in 0..pages {
            let block = cache.block(page, self.layer, Which::Values, self.head);
            let block = block.widened(&mut widened);
            let count = |row: usize| self.visible(row).saturating_sub(page * PAGE).min(PAGE);
            let weights = |row: usize| &scores[row * pages * PAGE + page * PAGE..][..count(row)];
            let mut row = 0;
            while row < rows {
                let to = &mut out[row * width..];
                // SAFETY: the block has as many values as there are weights, of the outputs' width.
                row += unsafe {
                    match L::MANY && rows - row >= 4 {
                        true => {
                            mix::<L, 4>(block, width, [0, 1, 2, 3].map(|r| weights(row + r)), to)
                        }
                        false => mix::<L, 1>(block, width, [weights(row)], to),
                    }
                };
            }
        }
        out
    }
}

impl<'a> Block<'a> {
    /// The block, its halves widened where there is room for that.
    fn widened(self, room: &'a mut [f32]) -> Self {
        match self {
            Self::Halves(halves) if room.len() == halves.len() => {
                halves.reinterpret_cast::<f16>().convert_to_f32_slice(room);
                Self::Floats(room)
            }
            block => block,
        }
    }
}

/// Calls a function with a way to read sixteen numbers of a block.
macro_rules! with_reader {
    ($block:expr, $lanes:ident, |$read:ident| $work:expr) => {
        match $block {
            Block::Halves(halves) => {
                let $read = |at: usize| $lanes::load_halves(halves.as_ptr().add(at).cast());
                $work
            }
            Block::Floats(floats) => {
                let $read = |at: usize| $lanes::load_float(floats.as_ptr().add(at));
                $work
            }
        }
    };
}

/// Writes the products of queries with the keys of a page, and returns how many queries there were.
///
/// # Safety
/// `keys` are `[width, PAGE]` of the queries' width, `scores` has a page behind each of `to`, and the processor has the
/// instructions of `L`.
#[inline(always)]
unsafe fn score<L: Lanes, const R: usize>(
    keys: Block<'_>,
    queries: [&[f32]; R],
    to: [usize; R],
    scores: &mut [f32],
) -> usize {
    unsafe {
        for first in (0..PAGE).step_by(LANES) {
            let found = with_reader!(keys, L, |read| products::<L, R>(queries, |at| read(
                at * PAGE + first
            )));
            for r in 0..R {
                L::store_float(scores.as_mut_ptr().add(to[r] + first), found[r]);
            }
        }
    }
    R
}

/// The products of queries with sixteen keys, each summed in eight strided parts, then over the parts, then over the rest.
///
/// # Safety
/// The processor has the instructions of `L`.
#[expect(
    clippy::needless_range_loop,
    reason = "rows and columns of registers are counted, so that the loops unroll"
)]
#[inline(always)]
unsafe fn products<L: Lanes, const R: usize>(
    queries: [&[f32]; R],
    keys: impl Fn(usize) -> L::Float,
) -> [L::Float; R] {
    unsafe {
        let mut sums = [[L::splat_float(0.0); STRIDED]; R];
        let parts = queries.map(|query| query.as_chunks::<STRIDED>());
        let chunks = parts[0].0.len();
        for chunk in 0..chunks {
            for at in 0..STRIDED {
                let key = keys(chunk * STRIDED + at);
                for r in 0..R {
                    let query = L::splat_float(parts[r].0.get_unchecked(chunk)[at]);
                    sums[r][at] = L::mul_add(query, key, sums[r][at]);
                }
            }
        }
        let mut products = [L::splat_float(0.0); R];
        for r in 0..R {
            let [s0, s1, s2, s3, s4, s5, s6, s7] = sums[r];
            let even = L::add_float(L::add_float(s0, s4), L::add_float(s2, s6));
            let odd = L::add_float(L::add_float(s1, s5), L::add_float(s3, s7));
            products[r] = L::add_float(even, odd);
            for (at, query) in parts[r].1.iter().enumerate() {
                let key = keys(chunks * STRIDED + at);
                products[r] = L::mul_add(L::splat_float(*query), key, products[r]);
            }
        }
        products
    }
}

/// Adds the values of a page, weighted, in their order to rows of `width`, and returns how many rows there were.
///
/// # Safety
/// `values` are `[PAGE, width]`, of which as many count as there are weights; `to` begins with the rows; and the processor has
/// the instructions of `L`.
#[inline(always)]
unsafe fn mix<L: Lanes, const R: usize>(
    values: Block<'_>,
    width: usize,
    weights: [&[f32]; R],
    to: &mut [f32],
) -> usize {
    // What all rows see they read together.
    let together = weights
        .iter()
        .map(|weights| weights.len())
        .min()
        .unwrap_or(0);
    unsafe {
        let mut column = 0;
        while column < width {
            let part = match width - column {
                64.. => MIXED * LANES,
                16.. => LANES,
                _ => break,
            };
            let read = |at: usize| at * width + column;
            with_reader!(values, L, |number| {
                let values = |position: usize, at: usize| number(read(position) + at * LANES);
                let place = to.as_mut_ptr().add(column);
                match part {
                    LANES => {
                        add::<L, R, 1>(values, weights.map(|own| &own[..together]), 0, place, width)
                    }
                    _ => add::<L, R, MIXED>(
                        values,
                        weights.map(|own| &own[..together]),
                        0,
                        place,
                        width,
                    ),
                }
                for (r, own) in weights
                    .iter()
                    .enumerate()
                    .filter(|(_, own)| own.len() > together)
                {
                    let place = place.add(r * width);
                    match part {
                        LANES => add::<L, 1, 1>(values, [&own[together..]], together, place, width),
                        _ => add::<L, 1, MIXED>(values, [&own[together..]], together, place, width),
                    }
                }
            });
            column += part;
        }
        for (own, to) in weights.iter().zip(to.chunks_exact_mut(width)) {
            for (position, weight) in own.iter().enumerate() {
                for (at, sum) in (column..width).zip(&mut to[column..]) {
                    let value = match values {
                        Block::Halves(halves) => {
                            f16::from_bits(halves[position * width + at]).to_f32()
                        }
                        Block::Floats(floats) => floats[position * width + at],
                    };
                    *sum = weight.mul_add(value, *sum);
                }
            }
        }
    }
    R
}

/// Adds weighted values from position `first` on to `C` registers of rows that lie `apart`.
///
/// # Safety
/// The rows are there, each row has as many weights, and the processor has the instructions of `L`.
#[expect(
    clippy::needless_range_loop,
    reason = "rows and columns of registers are counted, so that the loops unroll"
)]
#[inline(always)]
unsafe fn add<L: Lanes, const R: usize, const C: usize>(
    values: impl Fn(usize, usize) -> L::Float,
    weights: [&[f32]; R],
    first: usize,
    to: *mut f32,
    apart: usize,
) {
    unsafe {
        let place = |r: usize, c: usize| to.add(r * apart + c * LANES);
        let mut sums = [[L::splat_float(0.0); C]; R];
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = L::load_float(place(r, c));
            }
        }
        for at in 0..weights[0].len() {
            let mut loaded = [L::splat_float(0.0); C];
            for c in 0..C {
                loaded[c] = values(first + at, c);
            }
            for r in 0..R {
                let weight = L::splat_float(*weights[r].get_unchecked(at));
                for c in 0..C {
                    sums[r][c] = L::mul_add(weight, loaded[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                L::store_float(place(r, c), sums[r][c]);
            }
        }
    }
}

/// Softmax of `scores / divisor`. Weights of values in f32 are divided by their sum, those of halves are multiplied by its
/// inverse: outputs of both are kept in stores, and merging the two would change the bits of one.
fn softmax(scores: &mut [f32], divisor: f32, numbers: Numbers) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = ((*score - max) / divisor).exp();
        sum += *score;
    }
    match numbers {
        Numbers::Halves => {
            let scale = 1.0 / sum;
            scores.iter_mut().for_each(|score| *score *= scale);
        }
        Numbers::Floats => scores.iter_mut().for_each(|score| *score /= sum),
    }
}

#[cfg(test)]
mod tests;
