//! Keys and values of one sequence. The most that it may hold is fixed when the sequence starts, so an engine knows before it
//! admits a sequence what it will need: [`super::LanguageModel::cache_bytes_per_token`] for each token of prompt and answer.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::adapter_id::AdapterId;
use super::config::LlamaConfig;
use super::device_cache::{PagePool, PooledPages};
use crate::kernels::paged_cache::{CacheShape, PagedCache};

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
    /// Keys and values `[kv_heads, capacity, head_dim]` of each layer, in the type that the model computes in.
    Tensors(Vec<(Tensor, Tensor)>),
    /// In half precision, on a CPU.
    Pages(PagedCache),
    /// In the type that the model computes in, among the pages of all sequences on a device.
    Pooled(PooledPages),
}

impl KvCache {
    /// An empty cache for at most `capacity` positions, with room for all of them from the start. Beside quantised weights,
    /// and on other devices than a CPU, a model makes caches of pages instead, which take memory as positions are written.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(
        config: &LlamaConfig,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (config.kv_heads(), capacity, config.head_dim());
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layers = (0..config.num_hidden_layers)
            .map(|_| Ok((zeros()?, zeros()?)))
            .collect::<Result<_>>()?;
        Ok(Self::holding(Stored::Tensors(layers), capacity))
    }

    /// An empty cache for at most `capacity` positions in half precision, for a model on a CPU.
    pub(super) fn paged(config: &LlamaConfig, capacity: usize) -> Self {
        let shape = CacheShape {
            layers: config.num_hidden_layers,
            heads: config.kv_heads(),
            width: config.head_dim(),
        };
        Self::holding(Stored::Pages(PagedCache::new(shape)), capacity)
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

    /// Positions that memory is taken for: whole pages of what is held, or the capacity where the cache has no pages.
    pub(super) fn held(&self) -> usize {
        match &self.stored {
            Stored::Tensors(_) => self.capacity,
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
            (Stored::Tensors(layers), Stored::Tensors(others)) => {
                for ((keys, values), (other_keys, other_values)) in layers.iter().zip(others) {
                    keys.slice_set(&other_keys.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
                    values.slice_set(&other_values.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
                }
            }
            (Stored::Pages(pages), Stored::Pages(others)) => *pages = others.beginning(len),
            (Stored::Pooled(pages), Stored::Pooled(others)) if pages.shares_pool(others) => {
                *pages = others.beginning(len);
            }
            _ => bail!("caches of two models"),
        }
        self.len = len;
        Ok(())
    }

    /// Writes new keys and values `[kv_heads, new, head_dim]` of one layer behind what is held, and returns all of that
    /// layer, `[kv_heads, len + new, head_dim]`. The length changes by [`KvCache::advance`] once all layers are written.
    pub(super) fn write(
        &self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let Stored::Tensors(layers) = &self.stored else {
            bail!("a paged cache is written by its own kernel");
        };
        let (all_keys, all_values) = &layers[layer];
        all_keys.slice_set(&keys.contiguous()?, 1, self.len)?;
        all_values.slice_set(&values.contiguous()?, 1, self.len)?;
        let len = self.len + keys.dim(1)?;
        Ok((all_keys.narrow(1, 0, len)?, all_values.narrow(1, 0, len)?))
    }

    /// The pages, where keys and values are kept so.
    pub(super) fn pages(&self) -> Option<&PagedCache> {
        match &self.stored {
            Stored::Pages(pages) => Some(pages),
            Stored::Tensors(_) | Stored::Pooled(_) => None,
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
            Stored::Tensors(_) | Stored::Pooled(_) => bail!("a cache without pages on a CPU"),
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
            Stored::Tensors(_) | Stored::Pages(_) => bail!("a cache without pages on a device"),
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
