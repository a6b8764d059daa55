//! Left matrices of products in f32.

use std::ops::Range;

use super::Left;

/// Rows this many numbers apart all lie in the same few places of the first-level cache, and push each other out.
const CROWDED: usize = 1024;

/// The left matrix of a product, whose rows are made when they are needed.
///
/// # Safety
/// What [`Source::direct`] says lies in memory, for all of [`Source::rows`] and as long as the source is borrowed, and is not
/// written meanwhile.
#[expect(unsafe_code, reason = "kernels read rows by pointers")]
pub(crate) unsafe trait Source: Sync {
    /// The number of rows.
    fn rows(&self) -> usize;

    /// Some entries of rows from `first` on as they lie in memory; none where they must be packed.
    fn direct(&self, _first: usize, _entries: Range<usize>) -> Option<Left> {
        None
    }

    /// Rows are evenly apart within so many, where [`Source::direct`] has any.
    fn even(&self) -> usize {
        usize::MAX
    }

    /// What is read for these rows, where it is in one piece.
    fn region(&self, _first: usize, _rows: usize) -> Option<&[f32]> {
        None
    }

    /// Writes entries `depth` of consecutive rows from `first` on, each row `stride` behind the one before.
    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    );
}

/// A matrix that lies in memory row by row.
pub(crate) struct Dense<'a> {
    pub(crate) values: &'a [f32],
    /// Numbers of a row.
    pub(crate) depth: usize,
}

impl Dense<'_> {
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.depth.max(1)
    }
}

#[expect(unsafe_code, reason = "as the trait says")]
// SAFETY: rows lie one behind the other in the values.
unsafe impl Source for Dense<'_> {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn direct(&self, first: usize, entries: Range<usize>) -> Option<Left> {
        let crowded = self.depth.is_multiple_of(CROWDED);
        let rows = || &self.values[first * self.depth + entries.start..];
        (!crowded).then(|| Left::whole(rows(), self.depth))
    }

    fn region(&self, first: usize, rows: usize) -> Option<&[f32]> {
        Some(&self.values[first * self.depth..][..rows * self.depth])
    }

    fn pack(
        &self,
        first: usize,
        rows: usize,
        depth: Range<usize>,
        panel: &mut [f32],
        stride: usize,
    ) {
        for (row, target) in (first..first + rows).zip(panel.chunks_mut(stride)) {
            let start = row * self.depth;
            target[..depth.len()]
                .copy_from_slice(&self.values[start + depth.start..start + depth.end]);
        }
    }
}
