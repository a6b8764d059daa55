//! Decode speed of the language model on this CPU, beside what reading its weights once a step would allow: one layer of
//! the published geometry with its embedding and head, and the whole of a tiny one.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_models::language::{Engine, Event, LanguageModel, Limits, LlamaConfig, Request, Sampling};

/// Prompt and answer of a published report prompt, in tokens.
const PROMPT: usize = 160;
const ANSWER: usize = 24;

fn main() -> Result<()> {
    let bandwidth = read_bandwidth();
    println!("memory: {:.1} GB/s read", bandwidth / 1e9);
    let layer = LlamaConfig { num_hidden_layers: 1, vocab_size: 512, ..LlamaConfig::vicuna_7b() };
    let tiny = LlamaConfig {
        hidden_size: 64,
        intermediate_size: 172,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        vocab_size: 2048,
        ..LlamaConfig::vicuna_7b()
    };
    for (name, config) in [("one published layer", layer), ("tiny", tiny)] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let weights = VarBuilder::from_backend(Box::new(Ramp), dtype, Device::Cpu);
            let model = Arc::new(LanguageModel::load(&config, &weights, None)?);
            let bytes = parameters(&config) * dtype.size_in_bytes();
            for batch in [1, 8] {
                let (prefill, step) = measure(&model, batch)?;
                println!(
                    "{name}, {dtype:?}, batch {batch}: prompt {:.1} ms, step {:.2} ms, {:.0} tokens/s, {:.2} of the step \
                     is reading weights",
                    prefill * 1e3,
                    step * 1e3,
                    batch as f64 / step,
                    bytes as f64 / bandwidth / step
                );
            }
        }
    }
    Ok(())
}

/// Seconds for one prompt and for one decode step.
fn measure(model: &Arc<LanguageModel>, batch: usize) -> Result<(f64, f64)> {
    let cache_tokens = batch * (PROMPT + ANSWER + batch);
    let mut engine = Engine::new(Arc::clone(model), Limits { sequences: batch, cache_tokens });
    for index in 0..batch {
        // The later ones are started later: all of them run for ANSWER steps together.
        let prompt = (0..PROMPT as u32).map(|id| 3 + (id * 7 + index as u32) % 500).collect();
        let max_new_tokens = ANSWER + batch - index;
        engine.admit(Request { prompt, images: Vec::new(), sampling: Sampling::default(), max_new_tokens })?;
    }
    let started = Instant::now();
    engine.step()?;
    let prefill = started.elapsed().as_secs_f64();
    while engine.running() < batch {
        engine.step()?;
    }
    let mut best = f64::INFINITY;
    while engine.running() == batch {
        let started = Instant::now();
        let events = engine.step()?;
        if !events.iter().any(|event| matches!(event, Event::Finished { .. })) {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok((prefill, best))
}

/// Weights that a decode step reads.
fn parameters(config: &LlamaConfig) -> usize {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    config.num_hidden_layers * (4 * hidden * hidden + 3 * hidden * inner) + config.vocab_size * hidden
}

/// Bytes per second that all threads read together.
fn read_bandwidth() -> f64 {
    let data = vec![1u64; 1 << 26];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || black_box(part.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value))));
            }
        });
        best = best.min(started.elapsed().as_secs_f64());
    }
    size_of_val(data.as_slice()) as f64 / best
}

/// Weights whose values only have to be small and different.
struct Ramp;

impl SimpleBackend for Ramp {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let scale = (shape.dims()[shape.rank() - 1] as f32).sqrt();
        let value = |index: usize| ((index * 7919 % 10_007) as f32 / 10_007.0 - 0.5) / scale;
        let values: Vec<f32> = (0..shape.elem_count()).map(value).collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
