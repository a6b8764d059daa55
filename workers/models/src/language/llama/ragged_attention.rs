//! Attention of the new positions of many sequences of different lengths, each over its own pages of a device's cache. Sequences
//! of like length are one batch, padded to the longest: each operation of a layer is launched once for all of it.
//!
//! What depends on the lengths, the rows that are read and written and the mask, is made once a step and used by all layers. It
//! follows from one tensor of plain numbers that goes to the device; nothing comes back from there.
//!
//! A padded position is read as zeros. Nothing that another sequence has left in a page, not a number perhaps, is multiplied by a
//! weight of zero.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::SequenceChunk;
use crate::kernels::paged_cache::{CacheShape, PAGE};
use crate::language::cache::KvCache;
use crate::language::config::LlamaConfig;
use crate::language::device_cache::{OpenPool, PagePool};

/// What is added to the scores of hidden positions: their weights are exactly 0.
const HIDDEN: f64 = -1e30;
/// A batch, padded, is at most so many times the work of its sequences.
const MOST_PADDING: usize = 2;

/// The cache of a model on a device, and what its attention needs there whatever the sequences are.
#[derive(Debug)]
pub(super) struct RaggedAttention {
    pool: Arc<PagePool>,
    /// Heads of queries.
    heads: usize,
    context: usize,
    /// The rows of a page's heads and positions, from its first one on, `[1, kv_heads, 1, PAGE]`.
    page: Tensor,
    /// Positions, whole pages of them, `[1, 1, positions]`.
    positions: Tensor,
    /// The row of padded positions, which is read as zeros, `[1, 1, 1]`.
    nowhere: Tensor,
}

/// One pass: what its layers share. The cache is this pass's alone.
pub(super) struct RaggedStep<'a> {
    pool: OpenPool<'a>,
    /// Where keys and values of new positions are written, `[positions, kv_heads · head_dim]`.
    written: Tensor,
    batches: Vec<RaggedBatch>,
    /// For each position and head its row among those of the batches one after the other; none where they are in this order.
    order: Option<Tensor>,
}

/// Sequences that are computed together.
struct RaggedBatch {
    shape: BatchShape,
    /// Rows of queries, of each sequence its heads, of each head its new positions; none where these are all and in this order.
    queries: Option<Tensor>,
    /// Rows of keys and values, of each sequence its heads, of each head its positions.
    keys: Tensor,
    /// What is added to scores, `[sequences, 1, new, all]`.
    mask: Tensor,
}

#[derive(Clone, Copy)]
struct BatchShape {
    sequences: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    /// New positions of each sequence.
    new: usize,
    /// All positions of each sequence, whole pages of them.
    all: usize,
}

/// The new positions of a sequence.
struct NewPositions {
    /// The row of the first of them in the pass's input.
    row: usize,
    start: usize,
    new: usize,
    /// Numbers of the pages of all positions.
    pages: Vec<u32>,
}

/// The numbers of a step, which go to the device together.
#[derive(Default)]
struct StepNumbers(Vec<u32>);

/// The same as [`RaggedBatch`], by the places of its numbers.
struct BatchNumbers {
    shape: BatchShape,
    queries: Option<Range<usize>>,
    /// The last position that each new one sees.
    last_seen: Range<usize>,
    /// The first row of each page.
    pages: Range<usize>,
}

impl RaggedAttention {
    /// The attention of a model, whose cache is empty.
    pub(super) fn new(config: &LlamaConfig, dtype: DType, device: &Device) -> Result<Self> {
        let shape = CacheShape {
            layers: config.num_hidden_layers,
            heads: config.kv_heads(),
            width: config.head_dim(),
        };
        let context = config.max_position_embeddings;
        let rows = (0..shape.heads).flat_map(|head| (0..PAGE).map(move |at| (head, at)));
        let rows: Vec<u32> = rows
            .map(|(head, at)| (at * shape.heads + head) as u32)
            .collect();
        let positions = context.next_multiple_of(PAGE);
        Ok(Self {
            pool: Arc::new(PagePool::new(shape, dtype, device)),
            heads: config.num_attention_heads,
            context,
            page: Tensor::new(rows, device)?.reshape((1, shape.heads, 1, PAGE))?,
            positions: Tensor::arange(0, positions as u32, device)?.reshape((1, 1, positions))?,
            nowhere: Tensor::new(&[u32::MAX], device)?.reshape((1, 1, 1))?,
        })
    }

    /// An empty cache for at most `capacity` positions. It takes pages as they are written.
    pub(super) fn cache(&self, capacity: usize) -> KvCache {
        KvCache::pooled(&self.pool, capacity)
    }

    /// Takes pages for the new positions of these sequences, and prepares the pass over all layers.
    ///
    /// # Errors
    /// More positions than a cache or the context holds, a cache of another model, and out of device memory.
    pub(super) fn step(&self, spans: &mut [SequenceChunk<'_>]) -> Result<RaggedStep<'_>> {
        let mut pool = self.pool.open();
        let mut copies = Vec::new();
        let mut sequences = Vec::with_capacity(spans.len());
        let mut row = 0;
        let taken = spans.iter_mut().try_for_each(|span| {
            let (start, new) = (span.cache.len(), span.len);
            if start + new > self.context {
                bail!(
                    "{} positions, and the model's context is {}",
                    start + new,
                    self.context
                );
            }
            let pages = span.cache.pages_for(new)?;
            let pages = pages.take(&mut pool, start..start + new, &mut copies)?;
            sequences.push(NewPositions {
                row,
                start,
                new,
                pages,
            });
            row += new;
            Ok(())
        });
        // Those that have got a page of their own need what was written before, even where another one gets none.
        pool.copy(&copies)?;
        taken?;
        sequences.retain(|sequence| sequence.new > 0);
        self.prepare(pool, &sequences, row)
    }

    fn prepare<'a>(
        &self,
        pool: OpenPool<'a>,
        sequences: &[NewPositions],
        positions: usize,
    ) -> Result<RaggedStep<'a>> {
        let heads = self.heads;
        let sizes = sequences.iter().map(|one| (one.new, one.pages.len()));
        let batches = batches(&sizes.collect::<Vec<_>>());
        // One new position of each sequence, in one batch: queries and outputs are in order as they come.
        let in_order = batches.len() == 1 && sequences.iter().all(|one| one.new == 1);
        let mut numbers = StepNumbers::default();
        let written = numbers.add(sequences.iter().flat_map(NewPositions::rows));
        let mut order = vec![0; positions * heads];
        let mut first = 0;
        let mut planned = Vec::with_capacity(batches.len());
        for batch in &batches {
            let batch: Vec<_> = batch.iter().map(|&index| &sequences[index]).collect();
            let shape = self.shape(&batch);
            for (index, one) in batch.iter().enumerate() {
                for (position, head) in each_head(one.new, heads) {
                    let row = (index * heads + head) * shape.new + position;
                    order[(one.row + position) * heads + head] = first + row;
                }
            }
            first += batch.len() * heads * shape.new;
            planned.push(numbers.add_batch(&batch, shape, in_order));
        }
        let order = (!in_order).then(|| numbers.add(order));
        let StepNumbers(numbers) = numbers;
        let numbers = Tensor::new(numbers, self.pool.device())?;
        let part = |range: &Range<usize>| numbers.narrow(0, range.start, range.len());
        let batches = planned
            .iter()
            .map(|planned| self.batch(planned, part))
            .collect::<Result<_>>()?;
        Ok(RaggedStep {
            written: pool.places(&part(&written)?)?,
            batches,
            order: order.as_ref().map(part).transpose()?,
            pool,
        })
    }

    fn shape(&self, batch: &[&NewPositions]) -> BatchShape {
        let CacheShape { heads, width, .. } = self.pool.shape();
        let pages = batch.iter().map(|one| one.pages.len()).max();
        BatchShape {
            sequences: batch.len(),
            heads: self.heads,
            kv_heads: heads,
            width,
            new: batch.iter().map(|one| one.new).max().unwrap_or(0),
            all: pages.unwrap_or(0) * PAGE,
        }
    }

    fn batch(
        &self,
        planned: &BatchNumbers,
        part: impl Fn(&Range<usize>) -> Result<Tensor>,
    ) -> Result<RaggedBatch> {
        let shape = planned.shape;
        let BatchShape {
            sequences,
            kv_heads,
            new,
            all,
            ..
        } = shape;
        let last_seen = part(&planned.last_seen)?.reshape((sequences, new, 1))?;
        let seen = self.positions.narrow(2, 0, all)?;
        let seen = seen.broadcast_le(&last_seen)?;
        // The last of the new positions sees all of them.
        let held = seen
            .narrow(1, new - 1, 1)?
            .broadcast_as((sequences, kv_heads, all))?;
        let pages = part(&planned.pages)?.reshape((sequences, 1, all / PAGE, 1))?;
        let rows = pages
            .broadcast_add(&self.page)?
            .reshape((sequences, kv_heads, all))?;
        let nowhere = self.nowhere.broadcast_as((sequences, kv_heads, all))?;
        Ok(RaggedBatch {
            shape,
            queries: planned.queries.as_ref().map(&part).transpose()?,
            keys: held.where_cond(&rows, &nowhere)?.flatten_all()?,
            mask: seen
                .to_dtype(DType::F32)?
                .affine(-HIDDEN, HIDDEN)?
                .reshape((sequences, 1, new, all))?,
        })
    }

    /// The number of the cache's pages, and of those that no sequence holds.
    #[cfg(test)]
    pub(super) fn pages(&self) -> (usize, usize) {
        self.pool.pages()
    }
}

impl NewPositions {
    /// The rows of the pool that they are written to.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let places = self.start..self.start + self.new;
        places.map(move |place| self.pages[place / PAGE] as usize * PAGE + place % PAGE)
    }

    /// One of so many positions that it is padded to: where it has no more, its last one once more.
    fn padded(&self, position: usize) -> usize {
        position.min(self.new - 1)
    }
}

impl StepNumbers {
    fn add(&mut self, numbers: impl IntoIterator<Item = usize>) -> Range<usize> {
        let Self(all) = self;
        let start = all.len();
        all.extend(numbers.into_iter().map(|number| number as u32));
        start..all.len()
    }

    fn add_batch(
        &mut self,
        batch: &[&NewPositions],
        shape: BatchShape,
        in_order: bool,
    ) -> BatchNumbers {
        let BatchShape {
            heads,
            kv_heads,
            new,
            all,
            ..
        } = shape;
        let queries = batch.iter().flat_map(|one| {
            let row = move |position: usize| one.row + one.padded(position);
            each_head(new, heads).map(move |(position, head)| row(position) * heads + head)
        });
        let last_seen = batch
            .iter()
            .flat_map(|one| (0..new).map(move |position| one.start + one.padded(position)));
        // Behind its last page a sequence has only positions that are padded.
        let pages = batch.iter().flat_map(|one| {
            let page = move |index: usize| one.pages.get(index).copied().unwrap_or(0) as usize;
            (0..all / PAGE).map(move |index| page(index) * PAGE * kv_heads)
        });
        BatchNumbers {
            shape,
            queries: (!in_order).then(|| self.add(queries)),
            last_seen: self.add(last_seen),
            pages: self.add(pages),
        }
    }
}

impl RaggedStep<'_> {
    /// Writes keys and values `[positions, kv_heads, head_dim]` of new positions in one layer, and attends over all that each
    /// sequence has there with queries `[positions, heads, head_dim]`. Returns `[positions, heads · head_dim]`.
    pub(super) fn attend(
        &self,
        layer: usize,
        [queries, keys, values]: [&Tensor; 3],
    ) -> Result<Tensor> {
        self.pool.write(layer, &self.written, [keys, values])?;
        let (positions, heads, width) = queries.dims3()?;
        let queries = queries.reshape((positions * heads, width))?;
        let [keys, values] = self.pool.heads(layer)?;
        let mixed = self
            .batches
            .iter()
            .map(|batch| batch.attend([&queries, &keys, &values]))
            .collect::<Result<Vec<_>>>()?;
        let mixed = match mixed.as_slice() {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        let mixed = match &self.order {
            Some(rows) => mixed.index_select(rows, 0)?,
            None => mixed,
        };
        mixed.reshape((positions, heads * width))
    }
}

impl RaggedBatch {
    /// Rows `[.., head_dim]` of the queries of a pass and of the keys and values of a layer, to those of this batch: of each
    /// sequence its heads, of each head its new positions.
    fn attend(&self, [queries, keys, values]: [&Tensor; 3]) -> Result<Tensor> {
        let BatchShape {
            sequences,
            heads,
            kv_heads,
            width,
            new,
            all,
        } = self.shape;
        let queries = match &self.queries {
            Some(rows) => queries.index_select(rows, 0)?,
            None => queries.clone(),
        };
        // Each head of keys has its queries' heads, one after the other.
        let (groups, rows) = (sequences * kv_heads, heads / kv_heads * new);
        let read = |rows: &Tensor| {
            let rows = rows.index_select(&self.keys, 0)?;
            rows.reshape((groups, all, width))
        };
        let scores = queries
            .reshape((groups, rows, width))?
            .matmul(&read(keys)?.t()?)?;
        let scores = (scores.to_dtype(DType::F32)? / (width as f64).sqrt())?;
        let scores = scores
            .reshape((sequences, heads, new, all))?
            .broadcast_add(&self.mask)?;
        let weights = crate::layers::softmax(&scores)?.to_dtype(queries.dtype())?;
        weights
            .reshape((groups, rows, all))?
            .matmul(&read(values)?)?
            .reshape((groups * rows, width))
    }
}

/// New positions of each head, one head after another: position, head.
fn each_head(new: usize, heads: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..heads).flat_map(move |head| (0..new).map(move |position| (position, head)))
}

/// Divides sequences, by their numbers of new positions and of pages, into those that are computed together.
fn batches(sizes: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut largest_first: Vec<usize> = (0..sizes.len()).collect();
    largest_first.sort_by_key(|&index| Reverse(sizes[index]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut new, mut pages, mut work) = (0, 0, 0);
    for index in largest_first {
        let (own_new, own_pages) = sizes[index];
        let own_work = own_new * own_pages;
        let padded = new.max(own_new) * pages.max(own_pages);
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * padded <= MOST_PADDING * (work + own_work) => {
                batch.push(index);
                (new, pages, work) = (new.max(own_new), pages.max(own_pages), work + own_work);
            }
            _ => {
                batches.push(vec![index]);
                (new, pages, work) = (own_new, own_pages, own_work);
            }
        }
    }
    for batch in &mut batches {
        batch.sort_unstable();
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two sequences of other lengths attend to, with prompts, single tokens, and one of each, all in this type.
    fn attended(dtype: DType) -> Vec<f32> {
        let config = LlamaConfig {
            hidden_size: 32,
            num_hidden_layers: 1,
            num_attention_heads: 4,
            num_key_value_heads: Some(2),
            max_position_embeddings: 128,
            ..LlamaConfig::vicuna_7b()
        };
        let attention = RaggedAttention::new(&config, dtype, &Device::Cpu).unwrap();
        let mut caches = [attention.cache(128), attention.cache(128)];
        let mut seed = 1u32;
        let mut random = |positions: usize, heads: usize| {
            let values = (0..positions * heads * 8).map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / 8_388_608.0 - 1.0
            });
            Tensor::from_vec(values.collect(), (positions, heads, 8), &Device::Cpu)
                .and_then(|values| values.to_dtype(dtype))
                .unwrap()
        };
        let mut all = Vec::new();
        for lens in [[40, 7], [1, 1], [1, 30]] {
            let chunks = caches.iter_mut().zip(lens);
            let mut spans: Vec<_> = chunks
                .map(|(cache, len)| SequenceChunk { cache, len })
                .collect();
            let positions = lens.iter().sum();
            let [queries, keys, values] = [4, 2, 2].map(|heads| random(positions, heads));
            let step = attention.step(&mut spans).unwrap();
            let mixed = step.attend(0, [&queries, &keys, &values]).unwrap();
            assert_eq!(mixed.dtype(), dtype);
            let mixed = mixed.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
            all.extend(mixed.to_vec1::<f32>().unwrap());
            for span in spans {
                span.cache.advance(span.len);
            }
        }
        all
    }

    #[test]
    fn in_half_precision_attention_is_close_to_that_in_f32() {
        let exact = attended(DType::F32);
        assert_eq!(exact.len(), 80 * 32);
        for dtype in [DType::BF16, DType::F16] {
            let apart = exact.iter().zip(attended(dtype)).map(|(a, b)| a - b);
            let far: Vec<f32> = apart
                .filter(|apart| apart.is_nan() || apart.abs() >= 2e-2)
                .collect();
            assert!(far.is_empty(), "{far:?} in {dtype:?}");
        }
    }

    #[test]
    fn sequences_of_like_length_are_one_batch_and_padding_never_more_than_doubles_the_work() {
        let alike: Vec<_> = (0..64).map(|index| (1, 3 + index % 4)).collect();
        assert_eq!(batches(&alike), [(0..64).collect::<Vec<usize>>()]);
        // One long answer beside many short ones, and a prompt that is read between them.
        let mixed: Vec<_> = [(1, 1); 9].into_iter().chain([(1, 64), (64, 2)]).collect();
        assert_eq!(
            batches(&mixed),
            [vec![10], vec![0, 9], (1..9).collect::<Vec<usize>>()]
        );
        assert!(batches(&[]).is_empty());

        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let sizes: Vec<(usize, usize)> = (0..random(40))
                .map(|_| {
                    let new = [1, 1, 1, 1 + random(64)][random(4) as usize];
                    (new as usize, 1 + random(64) as usize)
                })
                .collect();
            let found = batches(&sizes);
            let mut all: Vec<usize> = found.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
            for batch in found {
                let batch: Vec<_> = batch.into_iter().map(|index| sizes[index]).collect();
                let new = batch.iter().map(|(new, _)| *new).max().unwrap();
                let pages = batch.iter().map(|(_, pages)| *pages).max().unwrap();
                let padded = batch.len() * new * pages;
                let work: usize = batch.iter().map(|(new, pages)| new * pages).sum();
                assert!(padded <= 2 * work, "{padded} for {work}");
            }
        }
    }
}
