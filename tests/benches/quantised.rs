//! The language model of the published geometry with quantised weights on this CPU: prefill, decode alone and together, and
//! memory. Weights are random and made in memory; nothing is downloaded.
//!
//! `cargo benchmark quantised -- [q4_k_m|q4_0|q8_0|q6_k|q4_k] [LAYERS]`: fewer layers than 32 take less memory, and their
//! times are printed as they are.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use radialog_models::language::cache::KvCache;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{BaseWeights, LanguageModel, LlamaConfig};
use radialog_tests::benchmark::{
    RandomBlocks, median, peak_memory, processor_seconds, random_weights,
};

/// Tokens of a prompt's beginning that sequences share, as of a report.
const PREFIX: usize = 160;
/// Tokens of a long prompt.
const PROMPT: usize = 128;
/// Steps that are timed.
const STEPS: usize = 8;
/// Tokens of each sequence when memory is measured.
const FULL: usize = 512;

fn main() -> Result<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let name = arguments.next().unwrap_or_else(|| "q4_k_m".to_owned());
    let layers = arguments.next().map_or(Ok(32), |layers| layers.parse())?;
    let blocks = match name.as_str() {
        "q4_k_m" => RandomBlocks::q4_k_m(),
        "q4_0" => RandomBlocks {
            dtype: |_| GgmlDType::Q4_0,
        },
        "q8_0" => RandomBlocks {
            dtype: |_| GgmlDType::Q8_0,
        },
        "q6_k" => RandomBlocks {
            dtype: |_| GgmlDType::Q6K,
        },
        "q4_k" => RandomBlocks {
            dtype: |_| GgmlDType::Q4K,
        },
        other => bail!("'{other}': give one of q4_k_m, q4_0, q8_0, q6_k, q4_k"),
    };
    let config = LlamaConfig {
        num_hidden_layers: layers,
        vocab_size: 32_000,
        image_dim: 64,
        ..LlamaConfig::vicuna_7b()
    };
    let weights = random_weights(DType::F32);
    let base = BaseWeights {
        weights: &weights,
        quantized: Some(&blocks),
    };
    let model = LanguageModel::load(&config, base, None)?;
    println!(
        "{name}, {layers} layers: loaded, peak {:.2} GB",
        peak_memory() as f64 / 1e9
    );

    let mut prefix = model.cache(PREFIX)?;
    run(&model, &mut [&mut prefix], PREFIX)?;
    for tokens in [PROMPT, 2 * PROMPT] {
        let mut times = Vec::new();
        let before = processor_seconds();
        for _ in 0..3 {
            let mut cache = model.cache(tokens)?;
            let started = Instant::now();
            run(&model, &mut [&mut cache], tokens)?;
            times.push(started.elapsed().as_secs_f64());
        }
        report(&format!("prefill of {tokens}"), tokens, &times, before);
    }
    for batch in [1, 2, 4, 8, 16] {
        let mut caches = Vec::new();
        for _ in 0..batch {
            let mut cache = model.cache(PREFIX + STEPS + 2)?;
            cache.copy_from(&prefix, PREFIX)?;
            caches.push(cache);
        }
        let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
        run(&model, &mut caches, 1)?;
        let mut times = Vec::new();
        let before = processor_seconds();
        for _ in 0..STEPS {
            let started = Instant::now();
            run(&model, &mut caches, 1)?;
            times.push(started.elapsed().as_secs_f64());
        }
        report(&format!("decode of {batch}"), batch, &times, before);
    }
    let mut caches = Vec::new();
    for _ in 0..8 {
        let mut cache = model.cache(FULL)?;
        for _ in 0..FULL / PROMPT {
            run(&model, &mut [&mut cache], PROMPT)?;
        }
        caches.push(cache);
    }
    println!(
        "8 sequences of {FULL} tokens: peak {:.2} GB",
        peak_memory() as f64 / 1e9
    );
    Ok(())
}

/// Runs so many more positions of each sequence, and takes the logits of the last ones.
fn run(model: &LanguageModel, caches: &mut [&mut KvCache], len: usize) -> Result<()> {
    let ids: Vec<u32> = (0..(len * caches.len()) as u32)
        .map(|at| 5 + at * 37 % 900)
        .collect();
    let input = model.embed(&ids, &[])?;
    let mut spans: Vec<SequenceChunk> = caches
        .iter_mut()
        .map(|cache| SequenceChunk { cache, len })
        .collect();
    let hidden = model.forward(&input, &mut spans)?;
    let rows = hidden.dim(0)?;
    let last = match len {
        1 => hidden,
        _ => hidden.narrow(0, rows - 1, 1)?,
    };
    black_box(model.logits(&last)?);
    Ok(())
}

fn report(what: &str, tokens: usize, times: &[f64], before: f64) {
    let processor = (processor_seconds() - before) / times.len() as f64;
    let fastest = times.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "{what}: {:.1} tokens/s at the median, {:.1} at best; {:.0} ms and {:.0} processor-milliseconds",
        tokens as f64 / median(times),
        tokens as f64 / fastest,
        median(times) * 1e3,
        processor * 1e3
    );
}
