//! Keys and values of a sequence in half precision, in pages that are taken as positions are written, and attention over
//! them. Sequences with a common beginning share its pages.
//!
//! A position's output is the same sum in the same order alone and with others, whatever the pages are shared with.

use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

/// Positions of a page.
pub(crate) const PAGE: usize = 32;
/// f32 values in one vector register of x86-64-v3.
const LANES: usize = 8;
/// Products below which waking other threads costs more than it saves.
const PARALLEL: usize = 1 << 17;

/// Sizes of what is kept for a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    /// Heads of keys and values.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) width: usize,
}

/// Keys and values of some positions of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct PagedCache {
    shape: CacheShape,
    pages: Vec<Arc<Page>>,
}

/// For each layer its keys, then its values; of each head `[PAGE, width]`, as the bits of f16.
#[derive(Clone, Debug)]
struct Page(Vec<u16>);

/// The new positions of a sequence.
pub(crate) struct Attended<'a> {
    pub(crate) cache: &'a PagedCache,
    /// Positions, the new ones among them.
    pub(crate) all: usize,
    /// Queries `[new, query heads, width]`.
    pub(crate) queries: &'a [f32],
}

impl PagedCache {
    pub(crate) fn new(shape: CacheShape) -> Self {
        Self {
            shape,
            pages: Vec::new(),
        }
    }

    /// The first `len` positions, in the same memory until either cache is written there.
    pub(crate) fn beginning(&self, len: usize) -> Self {
        Self {
            shape: self.shape,
            pages: self.pages[..len.div_ceil(PAGE)].to_vec(),
        }
    }

    /// Positions that there are pages for.
    pub(crate) fn room(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Writes keys and values `[new, heads, width]` of a layer from position `start` on.
    pub(crate) fn write(&mut self, layer: usize, start: usize, keys: &[f32], values: &[f32]) {
        let CacheShape { heads, width, .. } = self.shape;
        let row = heads * width;
        let size = 2 * self.shape.layers * row * PAGE;
        let new = keys.len() / row;
        while self.room() < start + new {
            self.pages.push(Arc::new(Page(vec![0; size])));
        }
        for position in start..start + new {
            let page = Arc::make_mut(&mut self.pages[position / PAGE]);
            for (which, from) in [keys, values].into_iter().enumerate() {
                let from = &from[(position - start) * row..][..row];
                for (head, from) in from.chunks_exact(width).enumerate() {
                    let at = self.shape.place(layer, which, head) + position % PAGE * width;
                    let to = page.0[at..][..width].reinterpret_cast_mut::<f16>();
                    to.convert_from_f32_slice(from);
                }
            }
        }
    }

    /// Keys (0) or values (1) of a head on a page as f32.
    fn read(&self, page: usize, (layer, which, head): (usize, usize, usize), to: &mut [f32]) {
        let at = self.shape.place(layer, which, head);
        let from = &self.pages[page].0[at..][..PAGE * self.shape.width];
        from.reinterpret_cast::<f16>().convert_to_f32_slice(to);
    }
}

impl CacheShape {
    /// Where a head's block begins on a page.
    fn place(&self, layer: usize, which: usize, head: usize) -> usize {
        ((layer * 2 + which) * self.heads + head) * PAGE * self.width
    }
}

/// Causal attention of the new positions of sequences over their caches; each group of query heads shares a head of keys.
/// Returns `[new positions of all, query heads · width]`.
pub(crate) fn attend(layer: usize, sequences: &[Attended<'_>], query_heads: usize) -> Vec<f32> {
    let Some(first) = sequences.first() else {
        return Vec::new();
    };
    let CacheShape { heads, width, .. } = first.cache.shape;
    let (group, row) = (query_heads / heads, query_heads * width);
    let work = sequences.iter().map(|one| one.queries.len() * one.all);
    let one = |at: usize| head_of(&sequences[at / heads], layer, at % heads, group);
    let count = sequences.len() * heads;
    let parts: Vec<Vec<f32>> = match work.sum::<usize>() < PARALLEL {
        true => (0..count).map(one).collect(),
        false => (0..count).into_par_iter().map(one).collect(),
    };
    let total: usize = sequences.iter().map(|one| one.queries.len()).sum();
    let mut out = vec![0f32; total];
    let mut rest = out.as_mut_slice();
    for (sequence, parts) in sequences.iter().zip(parts.chunks_exact(heads)) {
        let (own, others) = rest.split_at_mut(sequence.queries.len());
        rest = others;
        for (head, part) in parts.iter().enumerate() {
            let rows = part.chunks_exact(group * width);
            for (to, part) in own.chunks_exact_mut(row).zip(rows) {
                to[head * group * width..][..group * width].copy_from_slice(part);
            }
        }
    }
    out
}

/// The output of one head of keys: `[new, group, width]`.
fn head_of(sequence: &Attended<'_>, layer: usize, head: usize, group: usize) -> Vec<f32> {
    let (cache, all) = (sequence.cache, sequence.all);
    let CacheShape { heads, width, .. } = cache.shape;
    let row = heads * group * width;
    let new = sequence.queries.len() / row;
    let rows = new * group;
    let query = |at: usize| {
        let start = at / group * row + (head * group + at % group) * width;
        &sequence.queries[start..][..width]
    };
    let visible = |at: usize| all - new + at / group + 1;
    let mut block = vec![0f32; PAGE * width];
    let mut scores = vec![0f32; rows * all];
    let pages = all.div_ceil(PAGE);
    for page in 0..pages {
        cache.read(page, (layer, 0, head), &mut block);
        let first = page * PAGE;
        for at in 0..rows {
            let count = visible(at).saturating_sub(first).min(PAGE);
            let scores = &mut scores[at * all..][..all];
            if count > 0 {
                dots(query(at), &block, &mut scores[first..first + count]);
            }
        }
    }
    for at in 0..rows {
        softmax(
            &mut scores[at * all..][..visible(at)],
            (width as f32).sqrt(),
        );
    }
    let mut out = vec![0f32; rows * width];
    for page in 0..pages {
        cache.read(page, (layer, 1, head), &mut block);
        let first = page * PAGE;
        for (at, out) in out.chunks_exact_mut(width).enumerate() {
            let count = visible(at).saturating_sub(first).min(PAGE);
            mix(&scores[at * all..][..all], first, count, &block, out);
        }
    }
    out
}

/// The products of a query with as many keys as there are scores, summed in eight strided parts.
fn dots(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    /// Keys at a time: enough sums to hide the latency of a multiply-add.
    const KEYS: usize = 4;
    let width = query.len();
    let mut done = 0;
    while done + KEYS <= scores.len() {
        let sums: [f32; KEYS] = dot::<KEYS>(query, &keys[done * width..]);
        scores[done..done + KEYS].copy_from_slice(&sums);
        done += KEYS;
    }
    for at in done..scores.len() {
        [scores[at]] = dot::<1>(query, &keys[at * width..]);
    }
}

#[inline(always)]
fn dot<const N: usize>(query: &[f32], keys: &[f32]) -> [f32; N] {
    let width = query.len();
    let keys: [&[f32]; N] = std::array::from_fn(|n| &keys[n * width..][..width]);
    let (chunks, rest) = query.as_chunks::<LANES>();
    let key_chunks = keys.map(|key| key.as_chunks::<LANES>().0);
    let mut sums = [[0f32; LANES]; N];
    for (at, query) in chunks.iter().enumerate() {
        for n in 0..N {
            for lane in 0..LANES {
                sums[n][lane] = query[lane].mul_add(key_chunks[n][at][lane], sums[n][lane]);
            }
        }
    }
    std::array::from_fn(|n| {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = sums[n];
        let sum = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7));
        let tail = rest.iter().zip(&keys[n][width - rest.len()..]);
        tail.fold(sum, |sum, (query, key)| query.mul_add(*key, sum))
    })
}

/// Adds `count` values, weighted, in their order.
fn mix(weights: &[f32], first: usize, count: usize, values: &[f32], out: &mut [f32]) {
    /// Values that stay in registers.
    const PART: usize = 64;
    let width = out.len();
    let (parts, rest) = out.as_chunks_mut::<PART>();
    let done = parts.len() * PART;
    for (at, part) in parts.iter_mut().enumerate() {
        let mut sums = *part;
        for position in 0..count {
            let weight = weights[first + position];
            let values = &values[position * width + at * PART..][..PART];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
        *part = sums;
    }
    for position in 0..count {
        let weight = weights[first + position];
        let values = &values[position * width + done..][..rest.len()];
        for (sum, value) in rest.iter_mut().zip(values) {
            *sum = weight.mul_add(*value, *sum);
        }
    }
}

/// Softmax of `scores / divisor`.
fn softmax(scores: &mut [f32], divisor: f32) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = ((*score - max) / divisor).exp();
        sum += *score;
    }
    let scale = 1.0 / sum;
    scores.iter_mut().for_each(|score| *score *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape {
        layers: 2,
        heads: 2,
        width: 16,
    };

    fn wave(count: usize, phase: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.7 + phase).sin()).collect()
    }

    fn written(all: usize) -> PagedCache {
        let mut cache = PagedCache::new(SHAPE);
        cache.write(1, 0, &wave(all * 32, 1.0), &wave(all * 32, 2.0));
        cache
    }

    #[test]
    fn attention_is_the_textbook_form_of_what_half_precision_keeps() {
        let (all, new) = (45, 7);
        let (cache, queries) = (written(all), wave(new * 64, 0.0));
        let (keys, values) = (wave(all * 32, 1.0), wave(all * 32, 2.0));
        let half = |value: f32| f64::from(f16::from_f32(value).to_f32());
        let sequence = Attended {
            cache: &cache,
            all,
            queries: &queries,
        };
        let found = attend(1, &[sequence], 4);
        for row in 0..new {
            for head in 0..4 {
                let at = |of: &[f32], position: usize, i: usize| {
                    half(of[position * 32 + head / 2 * 16 + i])
                };
                let query = |i: usize| f64::from(queries[row * 64 + head * 16 + i]);
                let weights: Vec<f64> = (0..all - new + row + 1)
                    .map(|p| (0..16).map(|i| query(i) * at(&keys, p, i)).sum::<f64>() / 4.0)
                    .map(f64::exp)
                    .collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..16 {
                    let pairs = weights.iter().enumerate();
                    let expected: f64 = pairs.map(|(p, w)| w / sum * at(&values, p, i)).sum();
                    let found = f64::from(found[row * 64 + head * 16 + i]);
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_position_has_the_same_bits_alone_and_with_others_and_on_shared_pages() {
        let (all, new) = (70, 9);
        let (cache, queries) = (written(all), wave(new * 64, 0.0));
        let whole = |cache, all, queries| Attended {
            cache,
            all,
            queries,
        };
        let together = attend(1, &[whole(&cache, all, &queries)], 4);
        let mut other = cache.beginning(66);
        other.write(1, 66, &wave(4 * 32, 9.0), &wave(4 * 32, 8.0));
        for row in 0..new {
            let own = &queries[row * 64..][..64];
            let parts = [
                whole(&other, 70, own),
                whole(&cache, all - new + row + 1, own),
            ];
            let found = attend(1, &parts, 4);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found[64..]), bits(&together[row * 64..][..64]));
        }
    }
}
