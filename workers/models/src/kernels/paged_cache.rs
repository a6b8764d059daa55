//! Keys and values of a sequence, in half precision or in f32, in pages that are taken as positions are written. Sequences
//! with a common beginning share its pages.

use std::sync::Arc;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub(crate) use attention::{Attended, attend};

mod attention;

/// Positions of a page.
pub(crate) const PAGE: usize = 32;

/// What is kept for a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    /// Heads of keys and values.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) width: usize,
}

/// What keys and values are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Numbers in f16.
    Halves,
    /// Numbers in f32.
    Floats,
}

/// Keys and values of some positions of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct PagedCache {
    shape: CacheShape,
    numbers: Numbers,
    pages: Vec<Arc<Page>>,
}

/// For each layer its keys, then its values: of each head keys `[width, PAGE]`, so that one instruction works on many
/// positions, and values `[PAGE, width]`.
#[derive(Clone, Debug)]
enum Page {
    /// As the bits of f16.
    Halves(Vec<u16>),
    Floats(Vec<f32>),
}

/// Keys or values of a head on a page.
#[derive(Clone, Copy, Debug)]
enum Block<'a> {
    /// As the bits of f16.
    Halves(&'a [u16]),
    Floats(&'a [f32]),
}

impl PagedCache {
    pub(crate) fn new(shape: CacheShape, numbers: Numbers) -> Self {
        Self {
            shape,
            numbers,
            pages: Vec::new(),
        }
    }

    /// The first `len` positions, in the same memory until either cache is written there.
    pub(crate) fn beginning(&self, len: usize) -> Self {
        Self {
            shape: self.shape,
            numbers: self.numbers,
            pages: self.pages[..len.div_ceil(PAGE)].to_vec(),
        }
    }

    /// Positions that there are pages for.
    pub(crate) fn room(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Writes keys and values `[new, heads, width]` of a layer from position `start` on.
    pub(crate) fn write(&mut self, layer: usize, start: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        let row = shape.heads * shape.width;
        let new = keys.len() / row;
        while self.room() < start + new {
            self.pages.push(Arc::new(Page::new(shape, self.numbers)));
        }
        let mut halves = [vec![0u16; row], vec![0u16; row]];
        let rows = keys.chunks_exact(row).zip(values.chunks_exact(row));
        for (position, (keys, values)) in (start..).zip(rows) {
            let at = position % PAGE;
            match Arc::make_mut(&mut self.pages[position / PAGE]) {
                Page::Halves(page) => {
                    for (halves, floats) in halves.iter_mut().zip([keys, values]) {
                        let halves = halves.reinterpret_cast_mut::<f16>();
                        halves.convert_from_f32_slice(floats);
                    }
                    let [keys, values] = &halves;
                    shape.put(page, layer, at, keys, values);
                }
                Page::Floats(page) => shape.put(page, layer, at, keys, values),
            }
        }
    }

    /// Keys `[width, PAGE]` or values `[PAGE, width]` of a head on a page.
    fn block(&self, page: usize, layer: usize, which: Which, head: usize) -> Block<'_> {
        let start = self.shape.place(layer, which, head);
        let range = start..start + PAGE * self.shape.width;
        match &*self.pages[page] {
            Page::Halves(page) => Block::Halves(&page[range]),
            Page::Floats(page) => Block::Floats(&page[range]),
        }
    }
}

impl Page {
    fn new(shape: CacheShape, numbers: Numbers) -> Self {
        let size = 2 * shape.layers * shape.heads * shape.width * PAGE;
        match numbers {
            Numbers::Halves => Self::Halves(vec![0; size]),
            Numbers::Floats => Self::Floats(vec![0.0; size]),
        }
    }
}

impl Numbers {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Halves => size_of::<f16>(),
            Self::Floats => size_of::<f32>(),
        }
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

    /// Writes keys and values `[heads, width]` of a layer to place `at` of a page.
    fn put<T: Copy>(&self, page: &mut [T], layer: usize, at: usize, keys: &[T], values: &[T]) {
        let width = self.width;
        for (head, from) in keys.chunks_exact(width).enumerate() {
            let to = &mut page[self.place(layer, Which::Keys, head)..][..PAGE * width];
            for (to, from) in to.chunks_exact_mut(PAGE).zip(from) {
                to[at] = *from;
            }
        }
        for (head, from) in values.chunks_exact(width).enumerate() {
            let place = self.place(layer, Which::Values, head) + at * width;
            page[place..][..width].copy_from_slice(from);
        }
    }
}
