//! Keys and values of a sequence in half precision, in pages that are taken as positions are written. Sequences with a
//! common beginning share its pages.

use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub(crate) use attention::{Attended, attend};

mod attention;

/// Positions of a page.
pub(crate) const PAGE: usize = 32;

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

/// For each layer its keys, then its values, as the bits of f16: of each head keys `[width, PAGE]`, so that one instruction
/// works on many positions, and values `[PAGE, width]`.
#[derive(Clone, Debug)]
struct Page(Vec<u16>);

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
        let mut halves = vec![f16::ZERO; row];
        let rows = keys.chunks_exact(row).zip(values.chunks_exact(row));
        for (position, (keys, values)) in (start..).zip(rows) {
            let page = Arc::make_mut(&mut self.pages[position / PAGE]);
            let at = position % PAGE;
            halves.convert_from_f32_slice(keys);
            for (head, from) in halves.chunks_exact(width).enumerate() {
                let to = &mut page.0[self.shape.place(layer, Which::Keys, head)..][..PAGE * width];
                for (to, from) in to.chunks_exact_mut(PAGE).zip(from) {
                    to[at] = from.to_bits();
                }
            }
            for (head, from) in values.chunks_exact(width).enumerate() {
                let place = self.shape.place(layer, Which::Values, head) + at * width;
                let to = page.0[place..][..width].reinterpret_cast_mut::<f16>();
                to.convert_from_f32_slice(from);
            }
        }
    }

    /// Keys `[width, PAGE]` or values `[PAGE, width]` of a head on a page, as the bits of f16.
    fn block(&self, page: usize, layer: usize, which: Which, head: usize) -> &[u16] {
        let at = self.shape.place(layer, which, head);
        &self.pages[page].0[at..][..PAGE * self.shape.width]
    }
}

/// What a page has of each head.
#[derive(Clone, Copy, Debug)]
enum Which {
    Keys,
    Values,
}

impl CacheShape {
    /// Where a head's block begins on a page.
    fn place(&self, layer: usize, which: Which, head: usize) -> usize {
        ((layer * 2 + which as usize) * self.heads + head) * PAGE * self.width
    }
}
