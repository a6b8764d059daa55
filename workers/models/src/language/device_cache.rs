//! Keys and values of sequences on a device: of each layer one pool of rows, in the type that the model computes in. A
//! sequence takes pages of it as its positions are written. Sequences with a common beginning share its pages; a page can be
//! taken again when the last cache that holds it is dropped.
//!
//! Which pages a sequence has is known to the host alone, as plain numbers. The same number is the same page in all layers.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::kernels::paged_cache::{CacheShape, PAGE};

/// A pool that is full grows by one page for so many that it has,
const PAGES_OVER_GROWTH: usize = 8;
/// and by so many at least.
const LEAST_GROWTH: usize = 32;

/// The keys and values of all sequences of a model. It grows as they need it, and keeps what it has.
#[derive(Debug)]
pub(super) struct PagePool {
    shape: CacheShape,
    dtype: DType,
    device: Device,
    rows: Mutex<PoolRows>,
    free: Arc<FreePages>,
}

#[derive(Debug, Default)]
struct PoolRows {
    pages: usize,
    /// Of each layer its keys, then its values, `[pages · PAGE, kv_heads · head_dim]`; nothing before the first page is taken.
    tensors: Vec<Tensor>,
}

/// Numbers of the pages that nobody holds.
#[derive(Debug, Default)]
struct FreePages(Mutex<Vec<u32>>);

/// A page that somebody holds.
#[derive(Debug)]
struct Page {
    number: u32,
    free: Arc<FreePages>,
}

/// A pool while one pass writes and reads it. Another pass waits: a pool that grows would lose what it writes.
pub(super) struct OpenPool<'a> {
    pool: &'a PagePool,
    rows: MutexGuard<'a, PoolRows>,
}

/// The pages of one sequence, in the order of its positions.
#[derive(Debug)]
pub(super) struct PooledPages {
    pool: Arc<PagePool>,
    pages: Vec<Arc<Page>>,
}

/// Pages whose rows have to be copied to others before anything is written: from, to.
pub(super) type PageCopies = Vec<(u32, u32)>;

impl PagePool {
    /// A pool that has taken no memory yet.
    pub(super) fn new(shape: CacheShape, dtype: DType, device: &Device) -> Self {
        Self {
            shape,
            dtype,
            device: device.clone(),
            rows: Mutex::default(),
            free: Arc::default(),
        }
    }

    /// Sizes of what is kept for a position.
    pub(super) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Where the rows are.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Opens the pool for one pass.
    pub(super) fn open(&self) -> OpenPool<'_> {
        OpenPool {
            pool: self,
            rows: self.rows.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The number of pages, and of those that nobody holds.
    #[cfg(test)]
    pub(super) fn pages(&self) -> (usize, usize) {
        (self.open().rows.pages, self.free.numbers().len())
    }
}

impl FreePages {
    fn numbers(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.free.numbers().push(self.number);
    }
}

impl OpenPool<'_> {
    fn take(&mut self) -> Result<Arc<Page>> {
        loop {
            // The list is not held while the pool grows.
            let number = self.pool.free.numbers().pop();
            if let Some(number) = number {
                let free = Arc::clone(&self.pool.free);
                return Ok(Arc::new(Page { number, free }));
            }
            self.grow()?;
        }
    }

    /// Makes the pool larger, one tensor after another: beside the new rows of each stand only its own old ones.
    fn grow(&mut self) -> Result<()> {
        let (before, row) = (self.rows.pages, self.row());
        let pages = before + (before / PAGES_OVER_GROWTH).max(LEAST_GROWTH);
        // The device's kernels count the numbers of a tensor in 32 bits.
        if pages * PAGE * row > u32::MAX as usize {
            bail!(
                "a cache of {} positions is more than one tensor can hold: give the language stage less (--cache-gib)",
                pages * PAGE
            );
        }
        let stored = &mut *self.rows;
        for index in 0..2 * self.pool.shape.layers {
            let rows = Tensor::zeros((pages * PAGE, row), self.pool.dtype, &self.pool.device)?;
            match stored.tensors.get_mut(index) {
                Some(old) => {
                    rows.slice_set(old, 0, 0)?;
                    *old = rows;
                }
                None => stored.tensors.push(rows),
            }
        }
        stored.pages = pages;
        let new = (before as u32..pages as u32).rev();
        self.pool.free.numbers().extend(new);
        Ok(())
    }

    /// Values of a position: keys, or values, of all heads.
    fn row(&self) -> usize {
        let CacheShape { heads, width, .. } = self.pool.shape;
        heads * width
    }

    /// Copies whole pages, in all layers. No page is copied to that another copy still has to be read from: all are read first.
    pub(super) fn copy(&self, copies: &[(u32, u32)]) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let (count, page) = (copies.len(), PAGE * self.row());
        let (from, to): (Vec<u32>, Vec<u32>) = copies.iter().copied().unzip();
        let from = Tensor::new(from, &self.pool.device)?;
        let to = Tensor::new(to, &self.pool.device)?.reshape((count, 1))?;
        let to = to.broadcast_as((count, page))?.contiguous()?;
        for rows in &self.rows.tensors {
            let pages = rows.reshape((rows.dim(0)? / PAGE, page))?;
            pages.scatter_set(&to, &pages.index_select(&from, 0)?, 0)?;
        }
        Ok(())
    }

    /// Where keys or values of new positions are written: for each of their numbers its row,
    /// `[positions, kv_heads · head_dim]`, of the rows of these positions, `[positions]`.
    pub(super) fn places(&self, rows: &Tensor) -> Result<Tensor> {
        let positions = rows.dim(0)?;
        let places = rows.reshape((positions, 1))?;
        places.broadcast_as((positions, self.row()))?.contiguous()
    }

    /// Writes keys and values `[positions, kv_heads, head_dim]` of one layer to these places, each with one operation.
    pub(super) fn write(
        &self,
        layer: usize,
        places: &Tensor,
        [keys, values]: [&Tensor; 2],
    ) -> Result<()> {
        for (all, new) in self.of_layer(layer).iter().zip([keys, values]) {
            all.scatter_set(places, &new.flatten_from(1)?.contiguous()?, 0)?;
        }
        Ok(())
    }

    /// Keys and values of one layer, `[rows · kv_heads, head_dim]`: of each row its heads.
    pub(super) fn heads(&self, layer: usize) -> Result<[Tensor; 2]> {
        let CacheShape { heads, width, .. } = self.pool.shape;
        let [keys, values] = self.of_layer(layer);
        let heads_of = |rows: &Tensor| rows.reshape((rows.dim(0)? * heads, width));
        Ok([heads_of(keys)?, heads_of(values)?])
    }

    fn of_layer(&self, layer: usize) -> &[Tensor; 2] {
        &self.rows.tensors.as_chunks::<2>().0[layer]
    }
}

impl PooledPages {
    /// No pages yet.
    pub(super) fn new(pool: &Arc<PagePool>) -> Self {
        Self {
            pool: Arc::clone(pool),
            pages: Vec::new(),
        }
    }

    /// The pages of the first `len` positions, held by both.
    pub(super) fn beginning(&self, len: usize) -> Self {
        Self {
            pool: Arc::clone(&self.pool),
            pages: self.pages[..len.div_ceil(PAGE)].to_vec(),
        }
    }

    /// Whether both have pages of the same pool.
    pub(super) fn shares_pool(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pool, &other.pool)
    }

    /// Positions that there are pages for.
    pub(super) fn room(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Takes pages for these positions, of which all before are held, and gives the numbers of all pages up to them. A page
    /// that somebody else holds, too, is no longer this sequence's: it gets one of its own, and `copies` says from where to
    /// copy what it has written.
    ///
    /// # Errors
    /// Out of device memory, and another model's pool.
    pub(super) fn take(
        &mut self,
        open: &mut OpenPool<'_>,
        positions: Range<usize>,
        copies: &mut PageCopies,
    ) -> Result<Vec<u32>> {
        if !std::ptr::eq(&*self.pool, open.pool) {
            bail!("keys and values of one model mean nothing to another");
        }
        let end = positions.end.div_ceil(PAGE);
        for index in positions.start / PAGE..end {
            match self.pages.get_mut(index) {
                None => self.pages.push(open.take()?),
                Some(page) if Arc::strong_count(page) > 1 => {
                    let own = open.take()?;
                    if index * PAGE < positions.start {
                        copies.push((page.number, own.number));
                    }
                    *page = own;
                }
                Some(_) => {}
            }
        }
        Ok(self.pages[..end].iter().map(|page| page.number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Arc<PagePool> {
        let shape = CacheShape {
            layers: 2,
            heads: 2,
            width: 3,
        };
        Arc::new(PagePool::new(shape, DType::F32, &Device::Cpu))
    }

    /// Writes a number to all rows of these positions, in all layers.
    fn write(pool: &PagePool, pages: &mut PooledPages, positions: Range<usize>, number: f32) {
        let mut open = pool.open();
        let mut copies = Vec::new();
        let numbers = pages
            .take(&mut open, positions.clone(), &mut copies)
            .unwrap();
        open.copy(&copies).unwrap();
        let rows: Vec<u32> = positions
            .map(|position| numbers[position / PAGE] * PAGE as u32 + (position % PAGE) as u32)
            .collect();
        let heads = (Tensor::ones((rows.len(), 2, 3), DType::F32, &Device::Cpu).unwrap()
            * f64::from(number))
        .unwrap();
        let places = open
            .places(&Tensor::new(rows, &Device::Cpu).unwrap())
            .unwrap();
        for layer in 0..2 {
            open.write(layer, &places, [&heads, &(&heads + 0.5).unwrap()])
                .unwrap();
        }
    }

    /// The keys that a sequence holds in the last layer, one number a position.
    fn keys(pool: &PagePool, pages: &PooledPages, len: usize) -> Vec<f32> {
        let [keys, values] = pool.open().heads(1).unwrap();
        let (keys, values) = (
            keys.to_vec2::<f32>().unwrap(),
            values.to_vec2::<f32>().unwrap(),
        );
        let key = |position: usize| {
            let row = pages.pages[position / PAGE].number as usize * PAGE + position % PAGE;
            for head in [row * 2, row * 2 + 1] {
                assert_eq!(keys[head], [keys[row * 2][0]; 3]);
                assert_eq!(values[head], [keys[row * 2][0] + 0.5; 3]);
            }
            keys[row * 2][0]
        };
        (0..len).map(key).collect()
    }

    #[test]
    fn a_pool_grows_with_what_is_written_and_keeps_it() {
        let pool = pool();
        let mut first = PooledPages::new(&pool);
        assert_eq!((pool.pages(), first.room()), ((0, 0), 0));
        write(&pool, &mut first, 0..5, 1.0);
        assert_eq!((pool.pages(), first.room()), ((32, 31), PAGE));
        let mut second = PooledPages::new(&pool);
        write(&pool, &mut second, 0..40 * PAGE, 2.0);
        assert_eq!(pool.pages(), (64, 23));
        write(&pool, &mut first, 5..7, 3.0);
        assert_eq!(keys(&pool, &first, 7), [1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0]);
        assert_eq!(keys(&pool, &second, 40 * PAGE), vec![2.0; 40 * PAGE]);
        drop((first, second));
        assert_eq!(pool.pages(), (64, 64));
    }

    #[test]
    fn beginnings_are_shared_until_one_of_those_that_hold_them_is_written() {
        let pool = pool();
        let mut whole = PooledPages::new(&pool);
        write(&pool, &mut whole, 0..PAGE + 10, 1.0);
        let mut copies = [PAGE + 10, PAGE + 4, PAGE].map(|len| whole.beginning(len));
        assert_eq!(pool.pages(), (32, 30));
        // The first two write in the middle of a page that others hold; the third only behind what it shares.
        write(&pool, &mut copies[0], PAGE + 10..PAGE + 12, 2.0);
        write(&pool, &mut copies[1], PAGE + 4..PAGE + 6, 3.0);
        write(&pool, &mut copies[2], PAGE..PAGE + 1, 4.0);
        assert_eq!(pool.pages(), (32, 27));
        write(&pool, &mut whole, PAGE + 10..PAGE + 11, 5.0);
        assert_eq!(pool.pages(), (32, 27), "nobody else holds it any more");
        let ends = |pages: &PooledPages, len: usize| keys(&pool, pages, len)[PAGE - 1..].to_vec();
        assert_eq!(ends(&whole, PAGE + 11)[..11], [1.0; 11]);
        assert_eq!(ends(&whole, PAGE + 11)[11], 5.0);
        assert_eq!(ends(&copies[0], PAGE + 12)[..11], [1.0; 11]);
        assert_eq!(ends(&copies[0], PAGE + 12)[11..], [2.0; 2]);
        assert_eq!(
            ends(&copies[1], PAGE + 6),
            [1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0]
        );
        assert_eq!(ends(&copies[2], PAGE + 1), [1.0, 4.0]);
        drop(whole);
        assert_eq!(keys(&pool, &copies[2], PAGE), [1.0; PAGE]);
        drop(copies);
        assert_eq!(pool.pages(), (32, 32));
    }

    #[test]
    fn pages_of_another_pool_are_refused() {
        let (ours, other) = (pool(), pool());
        let mut pages = PooledPages::new(&other);
        let taken = pages.take(&mut ours.open(), 0..1, &mut Vec::new());
        assert!(taken.is_err());
    }
}
