//! Attention over keys and values that are kept in pages, for the new positions of several sequences.

use candle_core::Result;

use super::SequenceChunk;
use crate::kernels::paged_cache::{self, Attended};
use crate::language::config::LlamaConfig;

/// Writes keys and values `[positions, kv_heads, head_dim]` of new positions to the pages of their sequences, and attends
/// over these with queries `[positions, heads, head_dim]`. Returns `[positions, heads · head_dim]`.
///
/// # Errors
/// A cache without pages, or more positions than it may hold.
pub(super) fn attend(
    config: &LlamaConfig,
    layer: usize,
    [queries, keys, values]: [&[f32]; 3],
    spans: &mut [SequenceChunk],
) -> Result<Vec<f32>> {
    let (heads, width) = (config.num_attention_heads, config.head_dim());
    let row = config.kv_heads() * width;
    let mut start = 0;
    for span in spans.iter_mut() {
        let new = start * row..(start + span.len) * row;
        let (keys, values) = (&keys[new.clone()], &values[new]);
        span.cache.write_pages(layer, span.len, keys, values)?;
        start += span.len;
    }
    let mut rest = queries;
    let attended = spans.iter().filter_map(|span| {
        let (queries, others) = rest.split_at(span.len * heads * width);
        rest = others;
        Some(Attended {
            cache: span.cache.pages()?,
            all: span.cache.len() + span.len,
            queries,
        })
    });
    let attended: Vec<_> = attended.collect();
    Ok(paged_cache::attend(layer, &attended, heads))
}
