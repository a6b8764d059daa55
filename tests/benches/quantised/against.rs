//! The language model beside llama.cpp and transformers: each side is a process that is started for its turn, so that only one
//! model is in memory, and prints a line for each pass.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::gguf_file::Content;
use radialog_models::language::LlamaConfig;
use radialog_tests::benchmark::limits::Limits;
use radialog_tests::benchmark::rows::{self, Figures, Row, Share};
use radialog_tests::benchmark::{VISION_PACKAGES, peer_python, run};

use super::{ALL, FEW, ImportedFile, MEMORY, QUICK, SPEED};

const LLAMA_CPP: &str = include_str!("../peers/llama_cpp.py");
const LLAMA_CPP_PACKAGES: [&str; 3] = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy"];

/// One of those that are compared, and what it prints in its turn.
struct Side<'a> {
    name: String,
    says: Box<dyn FnMut() -> Result<String> + 'a>,
}

/// The weights that a decode step reads.
struct Weights {
    bytes: f64,
    /// Products of a token of a prompt, where they are of numbers in f32: those of layers, since the head is for the last token
    /// alone. None where weights are multiplied in blocks of integers, whose limit is not measured.
    products: Option<f64>,
}

/// By work and unit: what each side printed, over all rounds.
type Values = BTreeMap<(String, &'static str), Vec<Vec<f64>>>;

/// What the figures of a work are in.
const RATE: &str = "tokens/s";
const PROCESSOR: &str = "processor ms/token";
const PEAK: &str = "GB";

/// Writes a file of random blocks.
pub(super) fn make(arguments: &[&str]) -> Result<()> {
    let script = tempfile::NamedTempFile::new()?;
    run(&mut llama_cpp(
        script.path(),
        &[&["make"], arguments].concat(),
    )?)
    .map(|_| ())
}

/// A program of llama.cpp's.
fn llama_cpp(script: &Path, arguments: &[&str]) -> Result<Command> {
    fs::write(script, LLAMA_CPP)?;
    let mut command = Command::new(peer_python("llama-cpp", &LLAMA_CPP_PACKAGES)?);
    command.arg(script).args(arguments);
    Ok(command)
}

/// A model in a file beside llama.cpp on the same file, and on another one of the same model, where that is named.
pub(super) fn files(file: &Path, rounds: usize, part: &str, other: Option<&Path>) -> Result<()> {
    ensure!(
        [ALL, SPEED, QUICK, MEMORY].contains(&part),
        "'{part}': give speed, quick, memory or all"
    );
    let imported = ImportedFile::of(file)?;
    let bundle = &imported.bundle;
    let dir = tempfile::tempdir()?;
    let script = dir.path().join("peer.py");
    let program = std::env::current_exe()?;
    let ours = || run(Command::new(&program).arg("measure").arg(bundle).arg(part));
    let mut sides = vec![Side {
        name: "radialog".into(),
        says: Box::new(ours),
    }];
    for file in [Some(file), other].into_iter().flatten() {
        let model = file.to_str().context("a path in UTF-8")?;
        let mut way = "measure";
        let mut is_first = true;
        let script = &script;
        sides.push(Side {
            name: format!("llama.cpp, {}", stem(file)),
            says: Box::new(move || {
                let said = run(&mut llama_cpp(script, &[way, model, part])?);
                let may_fail = std::mem::take(&mut is_first);
                // Its kernels for AMX end the process on some machines.
                if said.is_ok() || !may_fail {
                    return said;
                }
                println!("# llama.cpp failed and is measured without its layouts of weights");
                way = "plain";
                run(&mut llama_cpp(script, &[way, model, part])?)
            }),
        });
    }
    compare(&stem(file), sides, rounds, &Weights::of_file(file)?)
}

/// Vicuna-7B's geometry in bf16 with random weights, beside transformers.
pub(super) fn transformers(layers: usize, rounds: usize) -> Result<()> {
    let python = peer_python("vision", &VISION_PACKAGES)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/transformers_decode.py");
    let (program, layer_count) = (std::env::current_exe()?, layers.to_string());
    let sides = vec![
        Side {
            name: "radialog".into(),
            says: Box::new(|| run(Command::new(&program).args(["bf16", &layer_count, FEW]))),
        },
        Side {
            name: "transformers".into(),
            says: Box::new(|| run(Command::new(&python).arg(&script).arg(&layer_count))),
        },
    ];
    let weights = Weights::of_numbers(&super::geometry(layers), 2);
    compare(
        &format!("7B bf16, {layers} layers"),
        sides,
        rounds,
        &weights,
    )
}

/// A file's name without its ending.
fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// Lets the sides take their turns, the first of which is ours, and prints a line for each work.
fn compare(name: &str, mut sides: Vec<Side>, rounds: usize, weights: &Weights) -> Result<()> {
    let limits = Limits::measured()?;
    let mut values = Values::new();
    let count = sides.len();
    for round in 0..rounds {
        for (who, side) in sides.iter_mut().enumerate() {
            let said = (side.says)().with_context(|| side.name.clone())?;
            for line in said.lines() {
                let mut note = |work: &str, unit, value| {
                    let of_work = values.entry((work.to_owned(), unit));
                    of_work.or_insert_with(|| vec![Vec::new(); count])[who].push(value);
                };
                match line.split_whitespace().collect::<Vec<_>>()[..] {
                    ["peak", bytes] => {
                        let work = "most memory, 8 x 512 tokens";
                        note(work, PEAK, bytes.parse::<f64>()? / 1e9);
                    }
                    [work, tokens, seconds, processor] if !line.starts_with('#') => {
                        let tokens: f64 = tokens.parse()?;
                        note(work, RATE, tokens / seconds.parse::<f64>()?);
                        note(work, PROCESSOR, processor.parse::<f64>()? * 1e3 / tokens);
                    }
                    _ if round == 0 => println!("{line}"),
                    _ => {}
                }
            }
        }
    }
    let mut lines = Vec::new();
    for ((work, unit), of_sides) in values {
        let ours = Figures::of(&of_sides[0]);
        let peers = sides.iter().zip(&of_sides).skip(1);
        let peers = peers.filter(|(_, values)| !values.is_empty());
        let peers = peers.map(|(side, values)| rows::Peer {
            name: side.name.clone(),
            figures: Figures::of(values),
        });
        let by_median = |one: &rows::Peer, other: &rows::Peer| {
            let [one, other] = [one, other].map(|peer| peer.figures.median);
            one.total_cmp(&other)
        };
        let best = match unit {
            RATE => peers.max_by(by_median),
            _ => peers.min_by(by_median),
        };
        let row = Row {
            share: match unit {
                RATE => weights.share(&work, ours.median, limits)?,
                _ => None,
            },
            work: format!("{name}, {work}"),
            unit: unit.into(),
            ours,
            peer: best,
        };
        if unit != PROCESSOR {
            row.note()?;
        }
        lines.push((row, None));
    }
    println!("\n{}", rows::table(&lines));
    Ok(())
}

impl Weights {
    /// Those of a GGUF file: all tensors but the table in which tokens are looked up, where that is not the head, too.
    fn of_file(file: &Path) -> Result<Self> {
        let content = Content::read(&mut BufReader::new(File::open(file)?))?;
        let has_head = content.tensor_infos.contains_key("output.weight");
        let mut bytes = 0;
        for (name, tensor) in &content.tensor_infos {
            if !(has_head && name == "token_embd.weight") {
                let dtype = tensor.ggml_dtype;
                bytes += tensor.shape.elem_count() / dtype.block_size() * dtype.type_size();
            }
        }
        Ok(Self {
            bytes: bytes as f64,
            products: None,
        })
    }

    /// Those of a model in numbers of so many bytes.
    fn of_numbers(config: &LlamaConfig, size: usize) -> Self {
        let matrices = config.layer_matrices().into_iter();
        let layer: usize = matrices.map(|(_, inputs, outputs)| inputs * outputs).sum();
        let head = config.vocab_size * config.hidden_size;
        let layers = config.num_hidden_layers * layer;
        Self {
            bytes: ((layers + head) * size) as f64,
            products: Some(layers as f64),
        }
    }

    /// How near a rate of tokens comes to the machine's limit: where sequences are decoded, a step reads all weights once;
    /// where a prompt is read, each token is multiplied by all of the layers'.
    fn share(&self, work: &str, rate: f64, limits: Limits) -> Result<Option<Share>> {
        if let Some(batch) = work.strip_prefix("decode-") {
            let seconds = batch.parse::<f64>()? / rate;
            return Ok(Some(limits.of_reading(self.bytes, seconds)));
        }
        let products = self.products.filter(|_| work.starts_with("prefill-"));
        Ok(products.map(|products| limits.of_products(products, rate.recip())))
    }
}
