use candle_core::{DType, Device, Shape};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::*;
use crate::language::LlamaConfig;

const IMAGE: u32 = 300;

/// Weights that differ from each other, for every name and shape.
struct Noise;

impl SimpleBackend for Noise {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let seed = name.bytes().fold(7u64, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(byte.into())
        });
        let scale = (3.0 / shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
        let value = |index: u64| {
            let bits = (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15))
                .wrapping_mul(0xBF58_476D_1CE4_E5B9)
                >> 40;
            (bits as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        let values = if shape.rank() == 1 {
            vec![1.0; shape.elem_count()]
        } else {
            (0..shape.elem_count() as u64).map(value).collect()
        };
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn model(dtype: DType) -> Arc<LanguageModel> {
    let config = LlamaConfig {
        vocab_size: IMAGE as usize,
        hidden_size: 64,
        intermediate_size: 172,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        max_position_embeddings: 96,
        num_image_tokens: 4,
        image_dim: 24,
        ..LlamaConfig::vicuna_7b()
    };
    let weights = VarBuilder::from_backend(Box::new(Noise), dtype, Device::Cpu);
    Arc::new(LanguageModel::load(&config, &weights, None).unwrap())
}

fn image(index: usize) -> Tensor {
    let values: Vec<f32> = (0..4 * 24)
        .map(|i| ((i * 13 + index * 7) as f32).sin())
        .collect();
    Tensor::from_vec(values, (4, 24), &Device::Cpu).unwrap()
}

/// Requests of different length, every other one greedy, with the same beginning and an image each.
fn request(index: usize) -> GenerationRequest {
    let mut prompt = vec![1, 17, 23, 5];
    prompt.extend([IMAGE; 4]);
    prompt.extend((0..3 + index as u32 * 2).map(|i| 40 + i * 3 + index as u32));
    let temperature = (index % 2 == 1).then_some(1.3);
    GenerationRequest {
        prompt,
        images: vec![image(index)],
        sampling: Sampling {
            temperature,
            top_p: Some(0.9),
            seed: index as u64,
        },
        max_new_tokens: 12 + index,
        ..GenerationRequest::default()
    }
}

fn engine(model: &Arc<LanguageModel>, sequences: usize) -> Engine {
    Engine::new(
        Arc::clone(model),
        EngineLimits {
            sequences,
            cache_tokens: 1000,
            ..EngineLimits::default()
        },
    )
}

fn admit(engine: &mut Engine, requests: impl IntoIterator<Item = usize>) -> Vec<SequenceId> {
    requests
        .into_iter()
        .map(|index| engine.admit(request(index)).unwrap())
        .collect()
}

fn finish(engine: &mut Engine) -> Vec<(SequenceId, Completion)> {
    let mut finished = Vec::new();
    while !engine.is_idle() {
        finished.extend(
            engine
                .step()
                .unwrap()
                .into_iter()
                .filter_map(|event| match event {
                    EngineEvent::Finished { sequence, result } => Some((sequence, result.unwrap())),
                    EngineEvent::Token { .. } => None,
                }),
        );
    }
    finished.sort_by_key(|(id, _)| *id);
    finished
}

fn alone(model: &Arc<LanguageModel>, index: usize) -> Completion {
    let mut engine = engine(model, 1);
    engine.admit(request(index)).unwrap();
    finish(&mut engine).remove(0).1
}

fn bits(logits: &Tensor) -> Vec<u32> {
    logits
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

#[test]
fn a_sequence_says_the_same_alone_in_a_batch_of_seven_on_any_threads_and_while_others_join() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = model(dtype);
        let expected: Vec<_> = (0..7).map(|index| alone(&model, index)).collect();

        let mut together = engine(&model, 7);
        admit(&mut together, 0..7);
        let answers: Vec<_> = finish(&mut together)
            .into_iter()
            .map(|(_, answer)| answer)
            .collect();
        assert_eq!(answers, expected, "{dtype:?}, all at once");

        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let answers = pool.build().unwrap().install(|| {
                let mut together = engine(&model, 7);
                admit(&mut together, 0..7);
                let answers = finish(&mut together).into_iter();
                answers.map(|(_, answer)| answer).collect::<Vec<_>>()
            });
            assert_eq!(answers, expected, "{dtype:?}, {threads} threads");
        }

        // Three places for seven sequences: each joins when another leaves.
        let mut crowded = engine(&model, 3);
        admit(&mut crowded, (0..7).rev());
        let answers: Vec<_> = finish(&mut crowded)
            .into_iter()
            .rev()
            .map(|(_, answer)| answer)
            .collect();
        assert_eq!(answers, expected, "{dtype:?}, in turn");
    }
}

#[test]
fn logits_have_the_same_bytes_alone_and_in_a_batch_of_seven() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = model(dtype);
        let mut caches: Vec<_> = (0..7).map(|_| model.cache(40).unwrap()).collect();
        let mut own_cache = model.cache(40).unwrap();
        let prompt = |index: usize| {
            model
                .embed(&request(index).prompt, &request(index).images)
                .unwrap()
        };
        for (index, cache) in caches.iter_mut().enumerate() {
            let len = prompt(index).dim(0).unwrap();
            model
                .forward(&prompt(index), &mut [SequenceChunk { cache, len }])
                .unwrap();
        }
        let len = prompt(3).dim(0).unwrap();
        model
            .forward(
                &prompt(3),
                &mut [SequenceChunk {
                    cache: &mut own_cache,
                    len,
                }],
            )
            .unwrap();
        for step in 0..5u32 {
            let tokens: Vec<u32> = (0..7).map(|index| 11 * step + index).collect();
            let mut spans: Vec<_> = caches
                .iter_mut()
                .map(|cache| SequenceChunk { cache, len: 1 })
                .collect();
            let hidden = model
                .forward(&model.embed(&tokens, &[]).unwrap(), &mut spans)
                .unwrap();
            let together = model.logits(&hidden).unwrap().get(3).unwrap();
            let mut span = [SequenceChunk {
                cache: &mut own_cache,
                len: 1,
            }];
            let hidden = model
                .forward(&model.embed(&tokens[3..4], &[]).unwrap(), &mut span)
                .unwrap();
            let alone = model.logits(&hidden).unwrap().get(0).unwrap();
            assert_eq!(bits(&together), bits(&alone), "{dtype:?}, step {step}");
        }
    }
}

#[test]
fn a_known_beginning_of_the_prompt_changes_nothing() {
    let model = model(DType::F32);
    let mut engine = engine(&model, 1);
    admit(&mut engine, [1, 1, 1]);
    let answers = finish(&mut engine);
    assert!(answers.iter().all(|(_, answer)| *answer == answers[0].1));
    assert_eq!(engine.shared_prefixes.len(), 1);
}

#[test]
fn the_end_token_or_the_limit_stops_a_sequence() {
    let model = model(DType::F32);
    let answer = alone(&model, 0);
    assert_eq!((answer.tokens.len(), answer.complete), (12, false));

    let config = LlamaConfig {
        eos_token_id: answer.tokens[5],
        ..model.config().clone()
    };
    let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
    let ending = Arc::new(LanguageModel::load(&config, &weights, None).unwrap());
    let end = answer
        .tokens
        .iter()
        .position(|token| *token == answer.tokens[5])
        .unwrap();
    assert_eq!(
        alone(&ending, 0),
        Completion {
            tokens: answer.tokens[..=end].to_vec(),
            complete: true,
            cached: 0
        }
    );
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_and_a_long_answer_ends_with_it() {
    let mut engine = engine(&model(DType::F32), 1);
    let request = |prompt: Vec<u32>| GenerationRequest {
        prompt,
        max_new_tokens: 500,
        ..request(0)
    };
    let error = engine.admit(request(vec![3; 96])).unwrap_err();
    assert!(matches!(
        error,
        LanguageError::ContextLength {
            tokens: 96,
            context: 96
        }
    ));
    assert_eq!(error.code(), radialog_schemas::ErrorCode::ContextLength);
    engine
        .admit(GenerationRequest {
            images: Vec::new(),
            ..request(vec![3; 90])
        })
        .unwrap();
    assert_eq!(finish(&mut engine)[0].1.tokens.len(), 6);
}

#[test]
fn sequences_wait_until_their_cache_fits() {
    let model = model(DType::F32);
    let limits = EngineLimits {
        sequences: 8,
        cache_tokens: 30,
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(model.clone(), limits);
    admit(&mut engine, [0, 0, 0]);
    let mut most = 0;
    let mut finished = 0;
    while !engine.is_idle() {
        finished += engine
            .step()
            .unwrap()
            .iter()
            .filter(|event| matches!(event, EngineEvent::Finished { .. }))
            .count();
        most = most.max(engine.running());
    }
    assert_eq!((most, finished), (1, 3));
    let huge = GenerationRequest {
        max_new_tokens: 90,
        ..request(0)
    };
    assert!(matches!(
        engine.admit(huge),
        Err(LanguageError::CacheLimit { limit: 30, .. })
    ));
}

#[test]
fn a_sequence_takes_memory_as_it_is_written_whatever_the_weights_are() {
    let dense = [DType::F32, DType::F16, DType::BF16].map(|dtype| (model(dtype), 1));
    let quantised = (adapters::quantised_with_adapters(), 2);
    for (model, saved) in dense.into_iter().chain([quantised]) {
        let in_f32 = model.config().cache_bytes_per_token();
        assert_eq!(model.cache_bytes_per_token(), in_f32 / saved);
        let input = model.embed(&[5; 20], &[]).unwrap();
        let mut cache = model.cache(90).unwrap();
        let mut held = vec![cache.held()];
        for _ in 0..2 {
            let chunk = SequenceChunk {
                cache: &mut cache,
                len: 20,
            };
            model.forward(&input, &mut [chunk]).unwrap();
            held.push(cache.held());
        }
        assert_eq!(held, [0, 32, 64]);
    }
}

#[test]
fn a_long_prompt_is_read_between_the_tokens_of_others_and_is_answered_as_if_read_at_once() {
    let config = LlamaConfig {
        max_position_embeddings: 400,
        ..model(DType::F32).config().clone()
    };
    let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
    let model = Arc::new(LanguageModel::load(&config, &weights, None).unwrap());
    let prompt: Vec<u32> = (0..3 * starting::POSITIONS as u32)
        .map(|i| 20 + i * 7 % 200)
        .collect();
    let mut cache = model.cache(prompt.len()).unwrap();
    let input = model.embed(&prompt, &[]).unwrap();
    let chunk = SequenceChunk {
        cache: &mut cache,
        len: prompt.len(),
    };
    let hidden = model.forward(&input, &mut [chunk]).unwrap();
    let last = hidden.narrow(0, prompt.len() - 1, 1).unwrap();
    let logits = model.logits(&last).unwrap().get(0).unwrap();
    let expected = Sampler::new(Sampling::default(), IMAGE as usize)
        .next(&logits)
        .unwrap();

    let mut engine = engine(&model, 3);
    let other = engine.admit(request(1)).unwrap();
    engine.step().unwrap();
    let long = GenerationRequest {
        prompt,
        max_new_tokens: 5,
        ..GenerationRequest::default()
    };
    let id = engine.admit(long).unwrap();
    let tokens_of = |events: &[EngineEvent], of: SequenceId| {
        let tokens = events.iter().filter_map(|event| match event {
            EngineEvent::Token { sequence, token } if *sequence == of => Some(*token),
            _ => None,
        });
        tokens.collect::<Vec<_>>()
    };
    for starting in [Some(id), Some(id), None] {
        let events = engine.step().unwrap();
        assert_eq!(engine.starting(), starting);
        assert_eq!(tokens_of(&events, other).len(), 1, "the other goes on");
        let first = tokens_of(&events, id);
        assert_eq!(
            first,
            if starting.is_none() {
                vec![expected]
            } else {
                vec![]
            }
        );
    }
    engine.cancel(id);
    assert_eq!(finish(&mut engine).remove(0).1, alone(&model, 1));
}

#[test]
fn a_prompt_that_is_cancelled_while_it_is_read_gives_its_place_back() {
    let config = LlamaConfig {
        max_position_embeddings: 400,
        ..model(DType::F32).config().clone()
    };
    let weights = VarBuilder::from_backend(Box::new(Noise), DType::F32, Device::Cpu);
    let model = Arc::new(LanguageModel::load(&config, &weights, None).unwrap());
    let mut engine = engine(&model, 1);
    let long = GenerationRequest {
        prompt: vec![20; 2 * starting::POSITIONS],
        max_new_tokens: 5,
        ..GenerationRequest::default()
    };
    let id = engine.admit(long).unwrap();
    engine.step().unwrap();
    assert_eq!((engine.starting(), engine.free_slots()), (Some(id), 0));
    engine.cancel(id);
    assert!(engine.is_idle() && engine.free_slots() == 1);
}

#[test]
fn a_cancelled_sequence_is_not_heard_of_again() {
    let model = model(DType::F32);
    let mut engine = engine(&model, 2);
    let ids = admit(&mut engine, 0..3);
    engine.step().unwrap();
    engine.step().unwrap();
    engine.cancel(ids[0]);
    engine.cancel(ids[2]);
    assert_eq!(finish(&mut engine), [(ids[1], alone(&model, 1))]);
}

#[test]
fn a_faulty_sequence_fails_alone() {
    let model = model(DType::F32);
    let mut engine = engine(&model, 3);
    let good = engine.admit(request(0)).unwrap();
    let mut short = request(1);
    short.prompt.remove(4);
    let faults = [
        short,
        GenerationRequest {
            images: vec![image(0); 2],
            ..request(1)
        },
        GenerationRequest {
            prompt: vec![999],
            ..request(1)
        },
    ];
    let faulty: Vec<_> = faults
        .into_iter()
        .map(|request| engine.admit(request).unwrap())
        .collect();
    let mut errors = Vec::new();
    let mut answer = None;
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            match event {
                EngineEvent::Finished {
                    sequence,
                    result: Err(error),
                } => errors.push((sequence, error)),
                EngineEvent::Finished {
                    sequence,
                    result: Ok(completion),
                } if sequence == good => answer = Some(completion),
                _ => {}
            }
        }
    }
    assert_eq!(answer, Some(alone(&model, 0)));
    let [(a, run), (b, count), (c, unknown)] = errors.try_into().unwrap();
    assert_eq!([a, b, c], *faulty);
    assert!(matches!(
        run,
        LanguageError::PlaceholderRun { run: 3, block: 4 }
    ));
    assert!(matches!(
        count,
        LanguageError::ImageCount {
            blocks: 1,
            images: 2
        }
    ));
    assert!(matches!(
        unknown,
        LanguageError::UnknownToken {
            token: 999,
            vocabulary: 300
        }
    ));
}

mod adapters;
mod prompts;
mod ragged;
mod speculation;
mod threads;
mod turns;
