//! The language model on this CPU, with quantised weights and others: prefill, decode alone and together, and memory.
//!
//! `cargo benchmark quantised -- [q4_k_m|q4_0|q8_0|q6_k|q4_k|f16|bf16] [LAYERS [PART]]`: Vicuna-7B's geometry, of random weights that are
//! made in memory; nothing is downloaded. Fewer layers than 32 take less memory, and their times are printed as they are. PART is all,
//! speed, quick (of prompts only the shorter, of batches not the largest), few (1, 4 and 8 sequences) or memory.
//!
//! `cargo benchmark quantised -- against FILE.gguf [ROUNDS [all|speed|quick|memory [OTHER.gguf]]]`: a model in a file, beside
//! llama.cpp on the same file, with as many threads, in turns; and on OTHER, which is the same model in types that suit llama.cpp
//! better. Where others use the processors, too, the processor time of a token says more than the clock. pip builds llama.cpp
//! from source in some minutes, once.
//! `... -- make FILE.gguf LAYERS [q4_0]` writes a file of Vicuna-7B's geometry, of random blocks: in the mix Q4_K_M (4.1 GB with 32
//! layers), or in Q4_0 (3.8 GB), whose output head has six bits as in llama.cpp's files.
//!
//! `... -- transformers [LAYERS [ROUNDS]]`: the same geometry in bf16 beside Python's transformers, one of them in memory at a time.
//! `... -- adapters [TYPES [LAYERS]]`: eight sequences that go through none, one and four adapters.
//!
//! `... -- drafts BUNDLE`: what prompt lookup saves in a bundle's answers. `... -- soak BUNDLE MINUTES`: its engine at full load,
//! and the memory of the process. BUNDLE may be a GGUF file, too.
//!
//! In turns with a peer both run the network and the output head and choose no tokens. Decoding goes on behind 160 tokens that all
//! sequences share.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::import::{Import, ImportOptions, ImportParts};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::language::cache::KvCache;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{
    BaseWeights, LanguageModel, LlamaConfig, LoraAdapter, QuantizedMatrices,
};
use radialog_schemas::Stage;
use radialog_tests::benchmark::rows::{Figures, Row};
use radialog_tests::benchmark::{RandomBlocks, Usage, peak_memory, random_weights};

#[path = "quantised/adapters.rs"]
mod adapters;
#[path = "quantised/against.rs"]
mod against;
#[path = "quantised/drafts.rs"]
mod drafts;
#[path = "quantised/soak.rs"]
mod soak;

/// Tokens of a prompt's beginning that sequences share, as of a report.
const PREFIX: usize = 160;
/// Tokens of long prompts.
const PROMPTS: [usize; 2] = [128, 512];
/// Positions of a prompt that the engine reads in a step.
const STEP: usize = 64;
/// Sequences that are decoded together.
const BATCHES: [usize; 4] = [1, 8, 16, 32];
/// Steps that are timed.
const STEPS: usize = 8;
/// Layers of the whole model.
const LAYERS: usize = 32;
const USAGE: Usage = Usage(
    "cargo benchmark quantised -- [q4_k_m|q4_0|q8_0|q6_k|q4_k|f16|bf16] [LAYERS [all|speed|quick|few|memory]]; \
     -- against FILE.gguf [ROUNDS [all|speed|quick|memory [OTHER.gguf]]]; -- make FILE.gguf LAYERS [q4_0]; \
     -- transformers [LAYERS [ROUNDS]]; -- adapters [TYPES [LAYERS]]; -- drafts BUNDLE; -- soak BUNDLE MINUTES",
);
/// What is measured: all, or only speed, a part of that, or memory.
const ALL: &str = "all";
const SPEED: &str = "speed";
const QUICK: &str = "quick";
const FEW: &str = "few";
const MEMORY: &str = "memory";
/// Tokens of each of eight sequences when memory is measured.
const FULL: usize = 512;

fn main() -> Result<()> {
    let arguments = USAGE.arguments();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["against", file] => against::files(file.as_ref(), 3, ALL, None),
        ["against", file, rounds] => against::files(file.as_ref(), USAGE.count(rounds), ALL, None),
        ["against", file, rounds, part] => {
            against::files(file.as_ref(), USAGE.count(rounds), part, None)
        }
        ["against", file, rounds, part, other] => {
            let other = Some(other.as_ref());
            against::files(file.as_ref(), USAGE.count(rounds), part, other)
        }
        ["transformers"] => against::transformers(LAYERS, 3),
        ["transformers", layers] => against::transformers(USAGE.count(layers), 3),
        ["transformers", layers, rounds] => {
            against::transformers(USAGE.count(layers), USAGE.count(rounds))
        }
        ["adapters"] => adapters::measure("q4_k_m", LAYERS),
        ["adapters", types] => adapters::measure(types, LAYERS),
        ["adapters", types, layers] => adapters::measure(types, USAGE.count(layers)),
        ["make", file, layers] => against::make(&[file, layers]),
        ["make", file, layers, "q4_0"] => against::make(&[file, layers, "q4_0"]),
        ["measure", bundle, part] => measure(&load(bundle.as_ref())?.model, part).map(|_| ()),
        ["drafts", bundle] => drafts::measure(&load(bundle.as_ref())?),
        ["soak", bundle, minutes] => {
            let minutes = USAGE.number(minutes);
            soak::run(&load(bundle.as_ref())?.model, minutes)
        }
        [] => random("q4_k_m", LAYERS, ALL),
        [types] => random(types, LAYERS, ALL),
        [types, layers] => random(types, USAGE.count(layers), ALL),
        [types, layers, part] => random(types, USAGE.count(layers), part),
        _ => USAGE.refuse("nothing was measured"),
    }
}

/// The bundle of a GGUF file, which lies beside it until this is dropped. One that is there already was left by a process that
/// was ended, and is replaced.
struct ImportedFile {
    folder: PathBuf,
    bundle: PathBuf,
}

impl ImportedFile {
    fn of(file: &Path) -> Result<Self> {
        let folder = file.with_extension("imported");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        // Made before the import, so that it is removed where that fails.
        let imported = Self {
            bundle: folder.join("bundle"),
            folder,
        };
        import(file, &imported.bundle)?;
        Ok(imported)
    }
}

impl Drop for ImportedFile {
    fn drop(&mut self) {
        // What stays is replaced by the next one.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The language model of a bundle, or of a GGUF file, which is imported first.
fn load(source: &Path) -> Result<LanguagePipeline> {
    let imported = match source.is_file() {
        true => Some(ImportedFile::of(source)?),
        false => None,
    };
    let bundle = imported.as_ref().map_or(source, |of| of.bundle.as_path());
    let cache = HashCache::at(bundle.with_extension("hashes.json"));
    let bundle = Bundle::open_with(bundle, &[Stage::Language], &cache)?;
    Ok(LanguagePipeline::load(&bundle, &Device::Cpu)?)
}

/// Makes a bundle of a GGUF file.
fn import(file: &Path, bundle: &Path) -> Result<()> {
    let parts = ImportParts {
        base: Some(file.to_owned()),
        ..ImportParts::default()
    };
    let options = ImportOptions {
        name: "peer".into(),
        version: "1".into(),
        license: "that of its base".into(),
        dtype: None,
        merge: None,
        projector_seed: 42,
    };
    Import::plan(&parts, options)?.write(bundle, &mut |_| {})?;
    Ok(())
}

/// Vicuna-7B's geometry with so many layers.
fn geometry(layers: usize) -> LlamaConfig {
    LlamaConfig {
        num_hidden_layers: layers,
        vocab_size: 32_000,
        image_dim: 64,
        ..LlamaConfig::vicuna_7b()
    }
}

/// A model of that geometry with random weights of these types, and adapters beside it.
fn random_model(types: &str, layers: usize, adapters: &[LoraAdapter]) -> Result<LanguageModel> {
    let all = |dtype: fn(&str) -> GgmlDType| Some(RandomBlocks { dtype });
    let (numbers, blocks) = match types {
        "q4_k_m" => (DType::F32, Some(RandomBlocks::q4_k_m())),
        "q4_0" => (DType::F32, all(|_| GgmlDType::Q4_0)),
        "q8_0" => (DType::F32, all(|_| GgmlDType::Q8_0)),
        "q6_k" => (DType::F32, all(|_| GgmlDType::Q6K)),
        "q4_k" => (DType::F32, all(|_| GgmlDType::Q4K)),
        "f16" => (DType::F16, None),
        "bf16" => (DType::BF16, None),
        other => USAGE.refuse(format!("there are no types '{other}'")),
    };
    let weights = random_weights(numbers);
    let base = BaseWeights {
        weights: &weights,
        quantized: blocks
            .as_ref()
            .map(|blocks| blocks as &dyn QuantizedMatrices),
    };
    Ok(LanguageModel::load_with_adapters(
        &geometry(layers),
        base,
        adapters,
    )?)
}

fn random(types: &str, layers: usize, part: &str) -> Result<()> {
    println!("# {types}, {layers} layers");
    if let Some(peak) = measure(&random_model(types, layers, &[])?, part)? {
        let peak = peak as f64 / f64::from(1 << 30);
        println!("# {peak:.2} GiB at most");
        Row {
            work: format!("7B {types}, {layers} layers, most memory, 8 x 512 tokens"),
            unit: "GiB".into(),
            ours: Figures::of(&[peak]),
            peer: None,
            share: None,
        }
        .note()?;
    }
    Ok(())
}

/// The clock and the processor time of all threads since a moment.
struct Watch {
    started: Instant,
    before: f64,
}

impl Watch {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            before: processor_time(),
        }
    }

    /// By the clock.
    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Both in seconds.
    fn stop(self) -> String {
        let seconds = self.seconds();
        format!("{seconds} {}", processor_time() - self.before)
    }
}

/// Seconds that the threads of this process have run, to the nanosecond.
fn processor_time() -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let times = threads.flatten().filter_map(|thread| {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

/// Prints a line `WORK TOKENS SECONDS PROCESSOR` for each pass, then the most memory; or a part of that. Returns the most memory,
/// where that is asked for.
fn measure(model: &LanguageModel, part: &str) -> Result<Option<u64>> {
    let (prompts, batches) = match part {
        ALL | SPEED => (&PROMPTS[..], &BATCHES[..]),
        QUICK => (&PROMPTS[..1], &[1, 8, 16][..]),
        FEW => (&PROMPTS[..1], &[1, 4, 8][..]),
        MEMORY => (&[][..], &[][..]),
        _ => USAGE.refuse(format!("there is no part '{part}'")),
    };
    println!(
        "# ours, loaded: {:.2} GB at most",
        peak_memory() as f64 / 1e9
    );
    measure_speed(model, prompts, batches)?;
    if ![ALL, MEMORY].contains(&part) {
        return Ok(None);
    }
    let mut caches = Vec::new();
    for _ in 0..8 {
        let mut cache = model.cache(FULL)?;
        for _ in 0..FULL / STEP {
            pass(model, &mut [&mut cache], STEP)?;
        }
        caches.push(cache);
    }
    let peak = peak_memory();
    println!("peak {peak}");
    Ok(Some(peak))
}

fn measure_speed(model: &LanguageModel, prompts: &[usize], batches: &[usize]) -> Result<()> {
    if prompts.is_empty() && batches.is_empty() {
        return Ok(());
    }
    let mut prefix = model.cache(PREFIX)?;
    pass(model, &mut [&mut prefix], PREFIX)?;
    for &tokens in prompts {
        for (name, step) in [("", tokens), ("-in-steps", STEP)] {
            for _ in 0..3 {
                let mut cache = model.cache(tokens)?;
                let watch = Watch::start();
                for _ in 0..tokens / step {
                    pass(model, &mut [&mut cache], step)?;
                }
                println!("prefill-{tokens}{name} {tokens} {}", watch.stop());
            }
        }
    }
    for &batch in batches {
        let mut caches = Vec::new();
        for _ in 0..batch {
            let mut cache = model.cache(PREFIX + STEPS + 1)?;
            cache.copy_from(&prefix, PREFIX)?;
            caches.push(cache);
        }
        let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
        pass(model, &mut caches, 1)?;
        for _ in 0..STEPS {
            let watch = Watch::start();
            pass(model, &mut caches, 1)?;
            println!("decode-{batch} {batch} {}", watch.stop());
        }
    }
    Ok(())
}

/// Runs so many more positions of each sequence, and takes the logits of the last ones.
fn pass(model: &LanguageModel, caches: &mut [&mut KvCache], len: usize) -> Result<()> {
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
