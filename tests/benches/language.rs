//! Decode speed of the language model on this CPU, beside what reading its weights once a step would allow: one layer of
//! the published geometry with its embedding and head, and the whole of a tiny one.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use candle_core::DType;
use radialog_models::language::{
    Engine, EngineLimits, GenerationRequest, LanguageModel, LlamaConfig,
};
use radialog_tests::benchmark::limits::read_bandwidth;
use radialog_tests::benchmark::{Usage, processor_seconds, random_weights};

/// Prompt and answer of a published report prompt, in tokens.
const PROMPT: usize = 160;
const ANSWER: usize = 24;
/// Steps in which a prompt is read, at least.
const READING_STEPS: usize = 4;

fn main() -> Result<()> {
    Usage("cargo benchmark language").takes_nothing();
    let bandwidth = read_bandwidth();
    println!("memory: {:.1} GB/s read", bandwidth / 1e9);
    let layer = LlamaConfig {
        num_hidden_layers: 1,
        vocab_size: 512,
        ..LlamaConfig::vicuna_7b()
    };
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
            let model = Arc::new(LanguageModel::load(&config, &random_weights(dtype), None)?);
            let bytes = parameters(&config) * dtype.size_in_bytes();
            for batch in [1, 8] {
                let figures = measure(&model, batch)?;
                println!(
                    "{name}, {dtype:?}, batch {batch}: prompt {:.3} processor-seconds; step {:.2} ms and {:.2} \
                     processor-milliseconds, {:.0} tokens/s, {:.2} of the step is reading weights",
                    figures.prompt,
                    figures.step * 1e3,
                    figures.step_processor * 1e3,
                    batch as f64 / figures.step,
                    bytes as f64 / bandwidth / figures.step
                );
            }
        }
    }
    Ok(())
}

struct Figures {
    /// Processor-seconds of one prompt.
    prompt: f64,
    /// Seconds of the fastest decode step.
    step: f64,
    /// Processor-seconds of a decode step.
    step_processor: f64,
}

fn measure(model: &Arc<LanguageModel>, batch: usize) -> Result<Figures> {
    let cache_tokens = batch * (PROMPT + ANSWER + READING_STEPS * batch);
    let mut engine = Engine::new(
        Arc::clone(model),
        EngineLimits {
            sequences: batch,
            cache_tokens,
            ..EngineLimits::default()
        },
    );
    for index in 0..batch {
        // The later ones are started later: all of them run for ANSWER steps together.
        let prompt = (0..PROMPT as u32)
            .map(|id| 3 + (id * 7 + index as u32) % 500)
            .collect();
        let max_new_tokens = ANSWER + READING_STEPS * (batch - index);
        engine.admit(GenerationRequest {
            prompt,
            max_new_tokens,
            ..GenerationRequest::default()
        })?;
    }
    let before = processor_seconds();
    while engine.running() == 0 {
        engine.step()?;
    }
    let prompt = processor_seconds() - before;
    while engine.running() < batch {
        engine.step()?;
    }
    let (mut step, mut steps, before) = (f64::INFINITY, 0, processor_seconds());
    while engine.running() == batch {
        let started = Instant::now();
        black_box(engine.step()?);
        step = step.min(started.elapsed().as_secs_f64());
        steps += 1;
    }
    Ok(Figures {
        prompt,
        step,
        step_processor: (processor_seconds() - before) / f64::from(steps),
    })
}

/// Weights that a decode step reads.
fn parameters(config: &LlamaConfig) -> usize {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    config.num_hidden_layers * (4 * hidden * hidden + 3 * hidden * inner)
        + config.vocab_size * hidden
}
