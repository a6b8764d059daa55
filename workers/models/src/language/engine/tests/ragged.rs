//! What a device other than a CPU does, done on one: all sequences of a step in one attention, over pages of one pool.

use super::*;
use crate::language::cache::KvCache;

/// Apart from each other, in units of normalised hidden states, by no more than that: sums are made in another order.
const CLOSE: f32 = 1e-4;

/// One model twice: as a CPU computes it, and as a device does.
fn both_ways() -> [Arc<LanguageModel>; 2] {
    let config = LlamaConfig {
        max_position_embeddings: 200,
        ..model(DType::F32).config().clone()
    };
    let load = || {
        let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
        LanguageModel::load(&config, &weights, None).unwrap()
    };
    [load(), load().into_device_form().unwrap()].map(Arc::new)
}

/// Sequences that are read both ways.
struct Sequences {
    models: [Arc<LanguageModel>; 2],
    caches: [Vec<KvCache>; 2],
    read: usize,
}

impl Sequences {
    fn new(count: usize) -> Self {
        let models = both_ways();
        let caches = models.each_ref().map(|model| empty(model, count));
        Self {
            models,
            caches,
            read: 0,
        }
    }

    fn len(&self, index: usize) -> usize {
        self.caches[0][index].len()
    }

    /// Reads so many new positions of each sequence in one pass, none of some, and holds the ways to each other.
    fn read(&mut self, new: &[usize]) {
        let first = self.read as u32;
        self.read += new.iter().sum::<usize>();
        let ids: Vec<u32> = (first..self.read as u32)
            .map(|i| i.wrapping_mul(2_654_435_761) % IMAGE)
            .collect();
        let [ours, theirs] = [0, 1].map(|way| {
            let chunks = self.caches[way].iter_mut().zip(new);
            let mut spans: Vec<_> = chunks
                .filter(|(_, len)| **len > 0)
                .map(|(cache, &len)| SequenceChunk { cache, len })
                .collect();
            let input = self.models[way].embed(&ids, &[]).unwrap();
            self.models[way].forward(&input, &mut spans).unwrap()
        });
        let apart = (ours - theirs).unwrap().flatten_all().unwrap();
        let apart = apart.to_vec1::<f32>().unwrap().into_iter();
        let far: Vec<f32> = apart
            .filter(|apart| apart.is_nan() || apart.abs() >= CLOSE)
            .collect();
        assert!(far.is_empty(), "{far:?} after {new:?}");
    }

    /// A further sequence that begins as another one did.
    fn continue_differently(&mut self, other: usize, len: usize) -> usize {
        for (model, caches) in self.models.iter().zip(&mut self.caches) {
            let mut cache = model.cache(200).unwrap();
            cache.copy_from(&caches[other], len).unwrap();
            caches.push(cache);
        }
        self.caches[0].len() - 1
    }

    fn truncate(&mut self, index: usize, len: usize) {
        for caches in &mut self.caches {
            caches[index].truncate(len);
        }
    }

    /// Ends all of them, and starts as many new ones.
    fn start_anew(&mut self) {
        let count = self.caches[0].len();
        for (model, caches) in self.models.iter().zip(&mut self.caches) {
            *caches = empty(model, count);
        }
    }
}

fn empty(model: &LanguageModel, count: usize) -> Vec<KvCache> {
    (0..count).map(|_| model.cache(200).unwrap()).collect()
}

#[test]
fn ragged_batches_of_prompts_and_answers_have_the_hidden_states_of_each_sequence_alone() {
    let mut sequences = Sequences::new(8);
    // Prompts of all lengths around those of pages, then answers token by token, then prompts that are read beside them.
    sequences.read(&[1, 100, 33, 32, 64, 5, 31, 0]);
    for _ in 0..4 {
        sequences.read(&[1; 8]);
    }
    sequences.read(&[1, 1, 17, 1, 0, 1, 40, 64]);
    sequences.read(&[1, 1, 0, 0, 3, 1, 1, 1]);
    sequences.read(&[0, 60, 0, 0, 0, 0, 0, 1]);
    // Lengths that are too far apart for one batch.
    sequences.read(&[1; 8]);
    sequences.start_anew();
    for length in 1..=100 {
        sequences.read(&[1, 1, 0, 0, 0, 0, 0, length % 3]);
    }
    assert_eq!(sequences.len(0), 100);
}

#[test]
fn copies_of_a_beginning_go_on_differently_and_change_nothing_of_each_other() {
    let mut sequences = Sequences::new(2);
    sequences.read(&[50, 7]);
    let [middle, end, page] = [40, 50, 32].map(|len| sequences.continue_differently(0, len));
    let of_copy = sequences.continue_differently(end, 49);
    assert_eq!([middle, end, page, of_copy], [2, 3, 4, 5]);
    for _ in 0..3 {
        sequences.read(&[1; 6]);
    }
    sequences.read(&[20, 1, 0, 33, 1, 2]);
    // As after drafts that were wrong: within a page, at its beginning, and back into one that others hold.
    for (index, len) in [(0, 70), (3, 64), (5, 33), (2, 32), (4, 3)] {
        sequences.truncate(index, len);
    }
    for _ in 0..3 {
        sequences.read(&[2, 1, 3, 1, 1, 4]);
    }
}

#[test]
fn pages_of_dropped_caches_are_used_again_whatever_was_left_in_them() {
    let mut sequences = Sequences::new(3);
    let device = Arc::clone(&sequences.models[1]);
    sequences.read(&[100, 33, 3]);
    assert_eq!(device.device_pages(), Some((32, 32 - 4 - 2 - 1)));
    sequences.start_anew();
    assert_eq!(device.device_pages(), Some((32, 32)));
    // A sequence that is no numbers fills every page there is.
    let mut broken: Vec<_> = (0..8).map(|_| device.cache(128).unwrap()).collect();
    let mut spans: Vec<_> = broken
        .iter_mut()
        .map(|cache| SequenceChunk { cache, len: 128 })
        .collect();
    let input = Tensor::full(f32::NAN, (8 * 128, 64), &Device::Cpu).unwrap();
    device.forward(&input, &mut spans).unwrap();
    assert_eq!(device.device_pages(), Some((32, 0)));
    drop(broken);
    sequences.read(&[100, 40, 3]);
    for _ in 0..3 {
        sequences.read(&[1, 1, 1]);
    }
    assert_eq!(device.device_pages(), Some((32, 32 - 4 - 2 - 1)));
    drop(sequences);
    assert_eq!(device.device_pages(), Some((32, 32)));
}

#[test]
fn more_positions_than_a_cache_or_the_context_holds_are_refused_and_change_nothing() {
    let mut sequences = Sequences::new(1);
    sequences.read(&[150]);
    let device = Arc::clone(&sequences.models[1]);
    let mut small = device.cache(10).unwrap();
    let mut large = device.cache(1000).unwrap();
    for (cache, len) in [(&mut small, 11), (&mut large, 201)] {
        let input = Tensor::zeros((len, 64), DType::F32, &Device::Cpu).unwrap();
        let mut spans = [SequenceChunk { cache, len }];
        assert!(device.forward(&input, &mut spans).is_err());
        assert!(spans[0].cache.is_empty());
    }
    let mut elsewhere = sequences.models[0].cache(10).unwrap();
    assert!(elsewhere.copy_from(&sequences.caches[1][0], 5).is_err());
    let cache = &mut elsewhere;
    let input = Tensor::zeros((1, 64), DType::F32, &Device::Cpu).unwrap();
    let mut spans = [SequenceChunk { cache, len: 1 }];
    assert!(device.forward(&input, &mut spans).is_err());
    sequences.read(&[1]);
}

#[test]
fn sequences_say_the_same_on_a_device_whoever_joins_leaves_or_is_cancelled_beside_them() {
    let [cpu, device] = both_ways();
    // Every other one is drawn. Some share what is kept of a prompt or of an earlier turn.
    let numbered = |number: usize| GenerationRequest {
        prompt_key: (number % 3 == 1).then(|| (number % 7).to_string()),
        turn_key: (number % 3 == 2).then(|| (number % 7).to_string()),
        ..request(number % 7)
    };
    let expected: Vec<_> = (0..7).map(|index| alone(&device, index).tokens).collect();
    for index in (0..7).step_by(2) {
        assert_eq!(expected[index], alone(&cpu, index).tokens);
    }
    let limits = EngineLimits {
        sequences: 9,
        cache_tokens: 400,
        chat: ChatLimits {
            sequences: 2,
            cache_tokens: 80,
            kept_tokens: 200,
        },
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(Arc::clone(&device), limits);
    let mut state = 3u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) % below) as usize
    };
    let mut admitted = Vec::new();
    let (mut cancelled, mut answered) = (0, 0);
    while admitted.len() < 100 || !engine.is_idle() {
        for _ in 0..random(3) {
            if admitted.len() < 100 {
                let id = engine.admit(numbered(admitted.len())).unwrap();
                admitted.push(Some(id));
            }
        }
        if random(4) == 0 && !admitted.is_empty() {
            let any = random(admitted.len() as u64);
            if let Some(id) = admitted[any].take() {
                engine.cancel(id);
                cancelled += 1;
            }
        }
        for event in engine.step().unwrap() {
            let EngineEvent::Finished { sequence, result } = event else {
                continue;
            };
            let number = admitted
                .iter()
                .position(|id| *id == Some(sequence))
                .unwrap();
            admitted[number] = None;
            answered += 1;
            let found = result.unwrap().tokens;
            assert_eq!(found, expected[number % 7], "{number}");
        }
    }
    assert_eq!(cancelled + answered, 100);
    assert!(cancelled > 5 && answered > 50, "{cancelled}, {answered}");
    drop(engine);
    let (pages, free) = device.device_pages().unwrap();
    assert_eq!(pages, free);
}
