//! What comes before the first image of a prompt: the same for all prompts of one wording and adapter, so it is computed once.

use candle_core::Result;

use crate::language::cache::KvCache;

/// Beginnings that are kept: one for each wording and adapter in use.
const MOST: usize = 4;

/// The kept beginnings, the most recently used first.
#[derive(Default)]
pub(super) struct SharedPrefixes(Vec<SharedPrefix>);

struct SharedPrefix {
    ids: Vec<u32>,
    cache: KvCache,
}

impl SharedPrefixes {
    /// Fills an empty cache with this beginning, where it is known for the cache's adapter.
    pub(super) fn recall(&mut self, ids: &[u32], cache: &mut KvCache) -> Result<bool> {
        let Self(kept) = self;
        let known = kept
            .iter()
            .position(|prefix| prefix.ids == ids && prefix.cache.adapter() == cache.adapter());
        let Some(index) = known else {
            return Ok(false);
        };
        kept[..=index].rotate_right(1);
        cache.copy_from(&kept[0].cache, ids.len())?;
        Ok(true)
    }

    /// Keeps a beginning, whose keys and values `cache` holds.
    pub(super) fn keep(&mut self, ids: &[u32], cache: KvCache) {
        let ids = ids.to_vec();
        self.0.insert(0, SharedPrefix { ids, cache });
        self.0.truncate(MOST);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
