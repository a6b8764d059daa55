//! Caches of turns that have ended, and of prompts that others begin like. The next turn of the conversation begins with the same prompt, so that only what is
//! new has to be computed. Prompts are compared by their ids: whatever changed in between, an edited answer or dropped
//! turns, the part that did not change is used and the rest is computed.

use candle_core::Result;

use crate::language::cache::KvCache;

/// The cache of a turn that has ended.
pub(super) struct CachedTurn {
    /// The name of the prompt's images.
    pub(super) images: String,
    /// Ids of the positions that the cache holds.
    pub(super) ids: Vec<u32>,
    /// The number of them that are the prompt.
    pub(super) prompt: usize,
    pub(super) cache: KvCache,
}

/// The kept caches, the most recently used first, within a limit.
pub(super) struct TurnCaches {
    limit: usize,
    caches: Vec<CachedTurn>,
}

impl TurnCaches {
    /// Keeps caches of at most `limit` tokens together.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            caches: Vec::new(),
        }
    }

    /// Fills an empty cache with the longest beginning of `ids` that its adapter knows, which have the images of this
    /// name, and returns its length. At least one id stays to be computed, and no image is cut.
    pub(super) fn recall(
        &mut self,
        images: &str,
        ids: &[u32],
        image: u32,
        cache: &mut KvCache,
    ) -> Result<usize> {
        let known = |kept: &CachedTurn| {
            let common = common(&kept.ids, ids).min(ids.len() - 1);
            if ids[common] == image {
                ids[..common]
                    .iter()
                    .rposition(|&id| id != image)
                    .map_or(0, |at| at + 1)
            } else {
                common
            }
        };
        let same =
            self.caches.iter().enumerate().filter(|(_, kept)| {
                kept.images == images && kept.cache.adapter() == cache.adapter()
            });
        let Some((index, len)) = same
            .map(|(index, kept)| (index, known(kept)))
            .max_by_key(|&(_, len)| len)
        else {
            return Ok(0);
        };
        if len > 0 {
            cache.copy_from(&self.caches[index].cache, len)?;
            self.caches[..=index].rotate_right(1);
        }
        Ok(len)
    }

    /// The number of caches that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.caches.len()
    }

    /// Keeps a turn's cache. It takes the place of those whose prompt it begins with.
    fn keep(&mut self, new: CachedTurn) {
        self.caches.retain(|kept| {
            kept.images != new.images
                || kept.cache.adapter() != new.cache.adapter()
                || common(&kept.ids, &new.ids) < kept.prompt
        });
        self.caches.insert(0, new);
        let mut tokens = 0;
        self.caches.retain(|kept| {
            tokens += kept.cache.held();
            tokens <= self.limit
        });
    }
}

impl Extend<CachedTurn> for TurnCaches {
    fn extend<T: IntoIterator<Item = CachedTurn>>(&mut self, kept: T) {
        kept.into_iter().for_each(|kept| self.keep(kept));
    }
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
