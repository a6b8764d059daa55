//! Keys and values of one sequence. The most that it may hold is fixed when the sequence starts, so an engine knows before it
//! admits a sequence what it will need: [`super::LanguageModel::cache_bytes_per_token`] for each token of prompt and answer.

use std::sync::Arc;

use candle_core::{Result, bail};

use super::adapter_id::AdapterId;
use super::config::LlamaConfig;
use super::device_cache::{PagePool, PooledPages};
use crate::kernels::paged_cache::{CacheShape, Numbers, PagedCache};

/// Keys and values of all layers for one sequence, as one adapter makes them.
#[derive(Debug)]
pub struct KvCache {
    stored: Stored,
    len: usize,
    capacity: usize,
    adapter: AdapterId,
}

#[derive(Debug)]
enum Stored {
    /// On a CPU.
    Pages(PagedCache),
    /// In the type that the model computes in, among the pages of all sequences on a device.
    Pooled(PooledPages),
}

impl KvCache {
    /// An empty cache for at most `capacity` positions in pages of such numbers, for a model on a CPU.
    pub(super) fn paged(config: &LlamaConfig, capacity: usize, numbers: Numbers) -> Self {
        let shape = CacheShape {
            layers: config.num_hidden_layers,
            heads: config.kv_heads(),
            width: config.head_dim(),
        };
        Self::holding(Stored::Pages(PagedCache::new(shape, numbers)), capacity)
    }

    /// An empty cache for at most `capacity` positions among the pages of a device.
    pub(super) fn pooled(pool: &Arc<PagePool>, capacity: usize) -> Self {
        Self::holding(Stored::Pooled(PooledPages::new(pool)), capacity)
    }

    fn holding(stored: Stored, capacity: usize) -> Self {
        Self {
            stored,
            len: 0,
            capacity,
            adapter: AdapterId::default(),
        }
    }

    /// An empty cache for a sequence of this adapter.
    pub(super) fn of(self, adapter: AdapterId) -> Self {
        Self { adapter, ..self }
    }

    /// The adapter whose keys and values these are.
    pub fn adapter(&self) -> AdapterId {
        self.adapter
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions that memory is taken for: whole pages of what is held.
    pub(super) fn held(&self) -> usize {
        match &self.stored {
            Stored::Pages(pages) => pages.room(),
            Stored::Pooled(pages) => pages.room(),
        }
    }

    /// Starts as a copy of the first `len` positions of another cache.
    ///
    /// # Errors
    /// The other one holds fewer, is another adapter's, or that is more than fits.
    pub fn copy_from(&mut self, other: &KvCache, len: usize) -> Result<()> {
        if self.adapter != other.adapter {
            bail!("keys and values of one adapter mean nothing to another");
        }
        if len > other.len || len > self.capacity {
            bail!(
                "{len} positions of a cache of {}, into one of {}",
                other.len,
                self.capacity
            );
        }
        match (&mut self.stored, &other.stored) {
            (Stored::Pages(pages), Stored::Pages(others)) => *pages = others.beginning(len),
            (Stored::Pooled(pages), Stored::Pooled(others)) if pages.shares_pool(others) => {
                *pages = others.beginning(len);
            }
            _ => bail!("caches of two models"),
        }
        self.len = len;
        Ok(())
    }

    /// The pages, where keys and values are kept so.
    pub(super) fn pages(&self) -> Option<&PagedCache> {
        match &self.stored {
            Stored::Pages(pages) => Some(pages),
            Stored::Pooled(_) => None,
        }
    }

    /// Writes new keys and values `[new, kv_heads, head_dim]` of one layer to the pages behind what is held.
    ///
    /// # Errors
    /// A cache without pages, or more positions than it may hold.
    pub(super) fn write_pages(
        &mut self,
        layer: usize,
        new: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<()> {
        self.check_room(new)?;
        match &mut self.stored {
            Stored::Pages(pages) => pages.write(layer, self.len, keys, values),
            Stored::Pooled(_) => bail!("a cache without pages on a CPU"),
        }
        Ok(())
    }

    /// The pages on a device, of a sequence that has room for `new` more positions.
    ///
    /// # Errors
    /// A cache elsewhere, or more positions than it may hold.
    pub(super) fn pages_for(&mut self, new: usize) -> Result<&mut PooledPages> {
        self.check_room(new)?;
        match &mut self.stored {
            Stored::Pooled(pages) => Ok(pages),
            Stored::Pages(_) => bail!("a cache without pages on a device"),
        }
    }

    fn check_room(&self, new: usize) -> Result<()> {
        if self.len + new > self.capacity {
            bail!(
                "{} positions in a cache of {}",
                self.len + new,
                self.capacity
            );
        }
        Ok(())
    }

    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }

    /// Forgets all positions from `len` on; the next ones are written over them.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
