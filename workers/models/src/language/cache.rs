//! Keys and values of one sequence. Its size is fixed when the sequence starts, so an engine knows before it admits a
//! sequence what it will need at most: [`LlamaConfig::cache_bytes_per_token`] for each token of prompt and answer.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::adapter_id::AdapterId;
use super::config::LlamaConfig;

/// Keys and values of all layers for one sequence, as one adapter makes them.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values `[kv_heads, capacity, head_dim]` of each layer.
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
    adapter: AdapterId,
}

impl KvCache {
    /// An empty cache for at most `capacity` positions. Memory is taken as positions are written.
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
        Ok(Self {
            layers,
            len: 0,
            capacity,
            adapter: AdapterId::default(),
        })
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

    /// Starts as a copy of the first `len` positions of another cache.
    ///
    /// # Errors
    /// The other one holds fewer, is another adapter's, or that is more than fits.
    pub fn copy_from(&mut self, other: &KvCache, len: usize) -> Result<()> {
        if self.adapter != other.adapter {
            bail!("keys and values of one adapter mean nothing to another");
        }
        for ((keys, values), (other_keys, other_values)) in self.layers.iter().zip(&other.layers) {
            keys.slice_set(&other_keys.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            values.slice_set(&other_values.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
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
        let (all_keys, all_values) = &self.layers[layer];
        all_keys.slice_set(&keys.contiguous()?, 1, self.len)?;
        all_values.slice_set(&values.contiguous()?, 1, self.len)?;
        let len = self.len + keys.dim(1)?;
        Ok((all_keys.narrow(1, 0, len)?, all_values.narrow(1, 0, len)?))
    }

    pub(super) fn advance(&mut self, new: usize) {
        self.len += new;
    }
}
