//! Sequences of several adapters over one base.

use candle_core::quantized::{GgmlDType, QTensor};

use super::*;
use crate::language::{BaseWeights, LoraAdapter, LoraConfig, QuantizedMatrices, QuantizedMatrix};

/// Weights of one adapter, different from those of the base and of every other adapter.
struct AdapterNoise(usize);

impl SimpleBackend for AdapterNoise {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        // Large enough to change what is said.
        let noise = Noise.get(shape, &format!("{}{name}", self.0), init, dtype, device)?;
        noise * 0.4
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        !name.contains("default")
    }
}

fn adapter(seed: usize) -> LoraAdapter<'static> {
    let modules: &[&str] = match seed {
        0 => &["q_proj", "v_proj"],
        1 => &[
            "q_proj",
            "k_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        _ => &["v_proj", "lm_head"],
    };
    let config = LoraConfig {
        r: 4 + seed,
        lora_alpha: 8.0,
        target_modules: modules.iter().map(|&module| module.to_owned()).collect(),
    };
    let weights = VarBuilder::from_backend(Box::new(AdapterNoise(seed)), DType::F32, Device::Cpu);
    LoraAdapter::new(config, weights)
}

fn base(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Noise), dtype, Device::Cpu)
}

fn with_adapters(dtype: DType, seeds: &[usize]) -> Arc<LanguageModel> {
    let adapters: Vec<_> = seeds.iter().map(|&seed| adapter(seed)).collect();
    let config = model(dtype).config().clone();
    Arc::new(LanguageModel::load_with_adapters(&config, &base(dtype), &adapters).unwrap())
}

fn by(model: &LanguageModel, adapter: usize, request: GenerationRequest) -> GenerationRequest {
    GenerationRequest {
        adapter: model.adapter(adapter).unwrap(),
        ..request
    }
}

#[test]
fn a_sequence_says_the_same_alone_and_among_sequences_of_other_adapters() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let all = with_adapters(dtype, &[0, 1, 2]);
        let expected: Vec<_> = (0..9)
            .map(|index| {
                let only = with_adapters(dtype, &[index % 3]);
                let mut engine = engine(&only, 1);
                engine.admit(request(index)).unwrap();
                let answer = finish(&mut engine).remove(0).1;

                let mut alone = super::engine(&all, 1);
                alone.admit(by(&all, index % 3, request(index))).unwrap();
                assert_eq!(
                    finish(&mut alone).remove(0).1,
                    answer,
                    "{dtype:?} {index}, alone"
                );
                answer
            })
            .collect();
        // The adapters matter: with another one, the same request has another answer.
        let mut other = engine(&all, 1);
        other.admit(by(&all, 1, request(0))).unwrap();
        assert_ne!(finish(&mut other).remove(0).1, expected[0]);

        for places in [9, 3] {
            let mut mixed = engine(&all, places);
            for index in 0..9 {
                mixed.admit(by(&all, index % 3, request(index))).unwrap();
            }
            let answers = finish(&mut mixed).into_iter().map(|(_, answer)| answer);
            assert_eq!(
                answers.collect::<Vec<_>>(),
                expected,
                "{dtype:?}, {places} places"
            );
        }
    }
}

#[test]
fn logits_of_a_mixed_batch_are_those_of_each_adapter_alone_to_the_byte() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let all = with_adapters(dtype, &[0, 1, 2]);
        // In an order in which no two neighbours have the same adapter.
        let order = [2, 0, 1, 0, 2];
        let prompts: Vec<_> = (0..order.len()).map(request).collect();
        let run = |model: &LanguageModel, chosen: &[(usize, usize)]| {
            let ids = |adapter| model.adapter(adapter).unwrap();
            let mut caches: Vec<_> = chosen
                .iter()
                .map(|&(_, adapter)| model.cache_of(ids(adapter), 40).unwrap())
                .collect();
            let inputs: Vec<_> = chosen
                .iter()
                .map(|&(index, adapter)| {
                    let GenerationRequest { prompt, images, .. } = &prompts[index];
                    model.embed_for(ids(adapter), prompt, images).unwrap()
                })
                .collect();
            let mut spans: Vec<_> = caches
                .iter_mut()
                .zip(&inputs)
                .map(|(cache, input)| SequenceChunk {
                    cache,
                    len: input.dim(0).unwrap(),
                })
                .collect();
            let hidden = model
                .forward(&Tensor::cat(&inputs, 0).unwrap(), &mut spans)
                .unwrap();
            let mut rows = Vec::new();
            for (&(_, adapter), input) in chosen.iter().zip(&inputs) {
                rows.extend(vec![ids(adapter); input.dim(0).unwrap()]);
            }
            let logits = model.logits_of(&hidden, rows.into_iter()).unwrap();
            let mut start = 0;
            let parts = inputs.iter().map(|input| {
                let len = input.dim(0).unwrap();
                start += len;
                bits(&logits.narrow(0, start - len, len).unwrap())
            });
            parts.collect::<Vec<_>>()
        };
        let chosen: Vec<_> = order.into_iter().enumerate().collect();
        let mixed = run(&all, &chosen);
        for (index, adapter) in chosen {
            let only = with_adapters(dtype, &[adapter]);
            assert_eq!(
                mixed[index],
                run(&only, &[(index, 0)])[0],
                "{dtype:?} {index}"
            );
            assert_eq!(
                mixed[index],
                run(&all, &[(index, adapter)])[0],
                "{dtype:?} {index}"
            );
        }
    }
}

#[test]
fn half_precision_answers_as_a_model_of_the_single_adapter_does() {
    for dtype in [DType::F16, DType::BF16] {
        let all = with_adapters(dtype, &[0, 1, 2]);
        for seed in 0..3 {
            let config = all.config();
            let single = LanguageModel::load(config, &base(dtype), Some(&adapter(seed)));
            let single = Arc::new(single.unwrap());
            let mut engine = engine(&all, 1);
            engine.admit(by(&all, seed, request(1))).unwrap();
            assert_eq!(
                finish(&mut engine).remove(0).1,
                alone(&single, 1),
                "{dtype:?} {seed}"
            );
        }
    }
}

#[test]
fn what_is_kept_of_a_prompt_serves_its_own_adapter_only() {
    let all = with_adapters(DType::F32, &[0, 1]);
    let limits = EngineLimits {
        sequences: 2,
        cache_tokens: 1000,
        chat: ChatLimits {
            sequences: 1,
            cache_tokens: 96,
            kept_tokens: 1000,
        },
        speculate: 0,
    };
    let turn = |adapter: usize| GenerationRequest {
        turn_key: Some("image".into()),
        ..by(&all, adapter, request(2))
    };
    let answer = |engine: &mut Engine, adapter: usize| {
        engine.admit(turn(adapter)).unwrap();
        finish(engine).remove(0).1
    };
    let mut engine = Engine::new(all.clone(), limits);
    let first = answer(&mut engine, 0);
    let other = answer(&mut engine, 1);
    assert_eq!((first.cached, other.cached), (0, 0));
    assert_ne!(first.tokens, other.tokens);
    assert_eq!(engine.shared_prefixes.len(), 2);
    // Neither has thrown away the other's.
    for (adapter, expected) in [(0, &first), (1, &other)] {
        let again = answer(&mut engine, adapter);
        assert!(again.cached > 0);
        assert_eq!(again.tokens, expected.tokens);
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_when_it_is_asked_for() {
    let two = with_adapters(DType::F32, &[0, 1]);
    let one = with_adapters(DType::F32, &[0]);
    assert!(one.adapter(1).is_none());
    let refused = engine(&one, 1).admit(by(&two, 1, request(0)));
    assert!(matches!(
        refused,
        Err(LanguageError::UnknownAdapter { index: 1 })
    ));
}

#[test]
fn an_adapter_whose_layers_the_base_does_not_have_is_refused() {
    let config = model(DType::F32).config().clone();
    for (r, module, words) in [
        (4, "c_attn", "c_attn"),
        (4, "embed_tokens", "embed_tokens"),
        (0, "q_proj", "r is 0"),
    ] {
        let mut faulty = adapter(0);
        faulty.config.r = r;
        faulty.config.target_modules.push(module.to_owned());
        let loaded =
            LanguageModel::load_with_adapters(&config, &base(DType::F32), &[adapter(1), faulty]);
        let error = loaded.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// The noise in blocks of eight bits, where rows are whole blocks.
struct QuantisedNoise;

impl QuantizedMatrices for QuantisedNoise {
    fn quantized(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> candle_core::Result<Option<QuantizedMatrix>> {
        let dtype = GgmlDType::Q8_0;
        if !shape.1.is_multiple_of(dtype.block_size()) {
            return Ok(None);
        }
        let noise = Noise.get(
            shape.into(),
            name,
            Init::Const(0.0),
            DType::F32,
            &Device::Cpu,
        )?;
        let blocks = QTensor::quantize(&noise, dtype)?;
        QuantizedMatrix::new(&blocks.data()?, dtype, shape).map(Some)
    }
}

pub(super) fn quantised_with_adapters() -> Arc<LanguageModel> {
    let adapters: Vec<_> = (0..3).map(adapter).collect();
    let config = model(DType::F32).config().clone();
    let weights = base(DType::F32);
    let base = BaseWeights {
        weights: &weights,
        quantized: Some(&QuantisedNoise),
    };
    Arc::new(LanguageModel::load_with_adapters(&config, base, &adapters).unwrap())
}

#[test]
fn a_hundred_random_admissions_cancellations_and_adapters_say_what_each_says_alone() {
    let models = [
        with_adapters(DType::F32, &[0, 1, 2]),
        quantised_with_adapters(),
    ];
    for (model, speculate) in models.iter().flat_map(|model| [(model, 0), (model, 8)]) {
        // By request and adapter.
        let alone: Vec<Vec<Vec<u32>>> = (0..7)
            .map(|index| {
                let each = (0..3).map(|adapter| {
                    let mut engine = engine(model, 1);
                    engine.admit(by(model, adapter, request(index))).unwrap();
                    finish(&mut engine).remove(0).1.tokens
                });
                each.collect()
            })
            .collect();
        let limits = EngineLimits {
            sequences: 5,
            cache_tokens: 300,
            chat: ChatLimits {
                sequences: 1,
                cache_tokens: 60,
                kept_tokens: 200,
            },
            speculate,
        };
        let mut engine = Engine::new(Arc::clone(model), limits);
        let mut state = 11u64;
        let mut draw = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        };
        let mut live: Vec<(SequenceId, usize, usize)> = Vec::new();
        let (mut admitted, mut cancelled, mut finished, mut recalled) = (0, 0, 0, 0);
        let mut accepted = 0;
        while admitted < 100 || !engine.is_idle() {
            // For a while few run at a time, since many draft nothing.
            let most = match (40..70).contains(&admitted) {
                true => 2_usize.saturating_sub(live.len()),
                false => 100 - admitted,
            };
            for _ in 0..draw(3).min(most) {
                let (index, adapter) = (draw(7), draw(3));
                let mut request = by(model, adapter, request(index));
                request.turn_key = (draw(2) == 0).then(|| format!("image {index}"));
                // Some go on where another worker stopped.
                request.generated = alone[index][adapter][..draw(4)].to_vec();
                live.push((engine.admit(request).unwrap(), index, adapter));
                admitted += 1;
            }
            if draw(8) == 0 && !live.is_empty() {
                let (id, ..) = live.swap_remove(draw(live.len()));
                engine.cancel(id);
                cancelled += 1;
            }
            for event in engine.step().unwrap() {
                let EngineEvent::Finished { sequence, result } = event else {
                    continue;
                };
                let place = live.iter().position(|(id, ..)| *id == sequence);
                let (_, index, adapter) = live.swap_remove(place.expect("one that was cancelled"));
                let answer = result.unwrap();
                recalled += usize::from(answer.cached > 0);
                assert_eq!(answer.tokens, alone[index][adapter], "{index} {adapter}");
                finished += 1;
            }
            accepted += engine.take_drafts().accepted;
        }
        assert!(live.is_empty() && finished + cancelled == 100);
        assert!(cancelled > 10 && recalled > 5, "{cancelled} {recalled}");
        // Where many run, nothing is drafted, and few of these say anything twice.
        assert!(speculate > 0 || accepted == 0, "{accepted}");
    }
}
