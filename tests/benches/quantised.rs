//! The language model with quantised weights on this CPU: prefill, decode alone and together, and memory.
//!
//! `cargo benchmark quantised -- [q4_k_m|q4_0|q8_0|q6_k|q4_k] [LAYERS]`: Vicuna-7B's geometry, of random blocks that are made in
//! memory; nothing is downloaded. Fewer layers than 32 take less memory, and their times are printed as they are.
//!
//! `cargo benchmark quantised -- against FILE.gguf [ROUNDS [speed|quick|memory]]`: a model in a file, beside llama.cpp on the same file, two threads
//! each, in turns; where others use the processors, too, the processor time of a token says more than the clock. pip builds
//! llama.cpp from source in some minutes, once. `... -- make FILE.gguf LAYERS [q4_0]` writes a file of Vicuna-7B's geometry, of
//! random blocks: in the mix Q4_K_M (4.1 GB with 32 layers), or in Q4_0 (3.8 GB), whose output head has six bits as in
//! llama.cpp's files.
//!
//! `... -- drafts BUNDLE`: what prompt lookup saves in a bundle's answers. `... -- soak BUNDLE MINUTES`: its engine at full load,
//! and the memory of the process. BUNDLE may be a GGUF file, too.
//!
//! In turns with llama.cpp both run the network and the output head and choose no tokens. Decoding goes on behind 160 tokens that all sequences share.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::import::{Import, ImportOptions, ImportParts};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::language::cache::KvCache;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{BaseWeights, LanguageModel, LlamaConfig};
use radialog_schemas::Stage;
use radialog_tests::benchmark::{
    RandomBlocks, Usage, median, peak_memory, peer_python, random_weights, run,
};

#[path = "quantised/drafts.rs"]
mod drafts;
#[path = "quantised/soak.rs"]
mod soak;

const PEER: &str = include_str!("peers/llama_cpp.py");
const PACKAGES: [&str; 3] = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy"];
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
const USAGE: Usage = Usage(
    "cargo benchmark quantised -- [q4_k_m|q4_0|q8_0|q6_k|q4_k] [LAYERS]; -- against FILE.gguf [ROUNDS [speed|quick|memory]]; \
     -- make FILE.gguf LAYERS [q4_0]; -- drafts BUNDLE; -- soak BUNDLE MINUTES",
);
/// What is measured: all, or only speed, a quick part of that, or memory.
const ALL: &str = "all";
const QUICK: &str = "quick";
const MEMORY: &str = "memory";
/// Tokens of each of eight sequences when memory is measured.
const FULL: usize = 512;

fn main() -> Result<()> {
    let arguments = USAGE.arguments();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["against", file] => against(file.as_ref(), 3, ALL),
        ["against", file, rounds] => against(file.as_ref(), USAGE.count(rounds), ALL),
        ["against", file, rounds, part] => against(file.as_ref(), USAGE.count(rounds), part),
        ["make", file, layers] => make(&[file, layers]),
        ["make", file, layers, "q4_0"] => make(&[file, layers, "q4_0"]),
        ["measure", bundle, part] => measure(&load(bundle.as_ref())?.model, part),
        ["drafts", bundle] => drafts::measure(&load(bundle.as_ref())?),
        ["soak", bundle, minutes] => {
            let minutes = USAGE.number(minutes);
            soak::run(&load(bundle.as_ref())?.model, minutes)
        }
        [] => random("q4_k_m", 32),
        [types] => random(types, 32),
        [types, layers] => random(types, USAGE.count(layers)),
        _ => USAGE.refuse("nothing was measured"),
    }
}

/// The language model of a bundle, or of a GGUF file, which is imported first.
fn load(source: &Path) -> Result<LanguagePipeline> {
    let dir = tempfile::tempdir_in(source.parent().unwrap_or(Path::new(".")))?;
    let imported = dir.path().join("bundle");
    let bundle = match source.is_file() {
        true => {
            import(source, &imported)?;
            imported.as_path()
        }
        false => source,
    };
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

fn random(types: &str, layers: usize) -> Result<()> {
    let blocks = match types {
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
        other => USAGE.refuse(format!("there are no types '{other}'")),
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
    println!("# {types}, {layers} layers");
    measure(&LanguageModel::load(&config, base, None)?, ALL)
}

/// Writes a file of random blocks.
fn make(arguments: &[&str]) -> Result<()> {
    let script = tempfile::NamedTempFile::new()?;
    run(&mut peer(script.path(), &[&["make"], arguments].concat())?).map(|_| ())
}

/// A program of llama.cpp's.
fn peer(script: &Path, arguments: &[&str]) -> Result<Command> {
    fs::write(script, PEER)?;
    let mut command = Command::new(peer_python("llama-cpp", &PACKAGES)?);
    command.arg(script).args(arguments);
    Ok(command)
}

fn against(file: &Path, rounds: usize, part: &str) -> Result<()> {
    ensure!(
        [ALL, "speed", QUICK, MEMORY].contains(&part),
        "'{part}': give speed, quick, memory or all"
    );
    let dir = tempfile::tempdir_in(file.parent().unwrap_or(Path::new(".")))?;
    let bundle = dir.path().join("bundle");
    import(file, &bundle)?;
    let (script, program) = (dir.path().join("peer.py"), std::env::current_exe()?);
    let model = file.to_str().context("a path in UTF-8")?;
    let mut figures: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    let mut way = "measure";
    for round in 0..rounds {
        let ours = run(Command::new(&program).arg("measure").arg(&bundle).arg(part))?;
        let theirs = match run(&mut peer(&script, &[way, model, part])?) {
            // Its kernels for AMX end the process on some machines.
            Err(_) if round == 0 => {
                println!("# llama.cpp failed and is measured without its layouts of weights");
                way = "plain";
                run(&mut peer(&script, &[way, model, part])?)
            }
            said => said,
        }?;
        for (who, said) in [ours, theirs].iter().enumerate() {
            for line in said.lines() {
                match line.split_whitespace().collect::<Vec<_>>()[..] {
                    ["peak", bytes] => {
                        let peaks = figures.entry("peak memory, GB".into()).or_default();
                        peaks[who].push(bytes.parse::<f64>()? / 1e9);
                    }
                    [work, tokens, seconds, processor] if !line.starts_with('#') => {
                        let tokens: f64 = tokens.parse()?;
                        for (unit, figure) in [
                            ("tokens/s", tokens / seconds.parse::<f64>()?),
                            (
                                "processor ms/token",
                                processor.parse::<f64>()? * 1e3 / tokens,
                            ),
                        ] {
                            let work = format!("{work}, {unit}");
                            figures.entry(work).or_default()[who].push(figure);
                        }
                    }
                    _ if round == 0 => println!("{line}"),
                    _ => {}
                }
            }
        }
    }
    println!(
        "\n| work | ours | llama.cpp | ours / llama.cpp, medians | best |\n| --- | --- | --- | --- | --- |"
    );
    for (work, [ours, theirs]) in figures {
        let ratio = |of: fn(&[f64]) -> f64| match theirs.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.2}", of(&ours) / of(&theirs)),
        };
        println!(
            "| {work} | {} | {} | {} | {} |",
            figure(&ours),
            figure(&theirs),
            ratio(median),
            ratio(most)
        );
    }
    Ok(())
}

/// The middle one of some figures, and their range.
fn figure(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    match values.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.2} ({least:.2} to {:.2})", median(values), most(values)),
    }
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
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

    /// Both in seconds.
    fn stop(self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
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

/// Prints a line `WORK TOKENS SECONDS PROCESSOR` for each pass, then the most memory; or a part of that.
fn measure(model: &LanguageModel, part: &str) -> Result<()> {
    println!(
        "# ours, loaded: {:.2} GB at most",
        peak_memory() as f64 / 1e9
    );
    if part != MEMORY {
        measure_speed(model, part == QUICK)?;
    }
    if [ALL, MEMORY].contains(&part) {
        let mut caches = Vec::new();
        for _ in 0..8 {
            let mut cache = model.cache(FULL)?;
            for _ in 0..FULL / STEP {
                pass(model, &mut [&mut cache], STEP)?;
            }
            caches.push(cache);
        }
        println!("peak {}", peak_memory());
    }
    Ok(())
}

fn measure_speed(model: &LanguageModel, quick: bool) -> Result<()> {
    let mut prefix = model.cache(PREFIX)?;
    pass(model, &mut [&mut prefix], PREFIX)?;
    for &tokens in &PROMPTS[..if quick { 1 } else { PROMPTS.len() }] {
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
    for &batch in &BATCHES[..BATCHES.len() - usize::from(quick)] {
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
