//! What the language model's types cost and save: the bytes of its weights, the most memory, the distance of its logits from
//! those in f32, and how often it would choose the same next token.
//!
//! `cargo benchmark precision -- BASE`: BASE is what `radialog bundle import --base` reads, a GGUF file or a folder. It is imported
//! in f32, f16 and bf16, and the first quantised. What BASE has quantised is widened, and f32 is that. A folder without a
//! tokenizer gets a made-up one, by which texts are any tokens.
//!
//! The reference writes four answers of 50 tokens in f32, always with the likeliest token. Each type reads the same prompts
//! and answers, in a process of its own, 64 positions at a time as the engine does.
//!
//! `cargo benchmark precision -- networks IMAGES [BUNDLE REPORTS]`: the networks of an image, and CheXbert, in bf16 beside themselves
//! in f32: their memory, each in a process of its own, and what they answer. IMAGES is a folder of X-rays. BUNDLE is a folder whose
//! networks read them, REPORTS a table with a column `findings`; without these the networks have the published geometry and random
//! weights, and the reports are any tokens.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::import::{BaseType, Import, ImportOptions, ImportParts};
use radialog_models::bundle::{Bundle, BundleQuantisation, HashCache, WeightTypes};
use radialog_models::language::LanguageModel;
use radialog_models::language::cache::KvCache;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::tokenizers::synthetic;
use radialog_schemas::Stage;
use radialog_tests::benchmark::{Usage, peak_memory, run};

#[path = "precision/memory.rs"]
mod memory;
#[path = "precision/networks.rs"]
mod networks;

/// What the answers answer.
const PROMPTS: [&str; 4] = [
    "The chest X-ray shows a small left pleural effusion. In plain words, this means that",
    "Findings: The heart is enlarged. There is no pneumothorax. Impression:",
    "Write a letter to a patient about the result of an X-ray of the lungs. Dear",
    "A list of what a radiologist looks at in a chest X-ray: 1.",
];
/// Tokens of an answer.
const ANSWER: usize = 50;
/// Positions that are read in one pass, as the engine reads a prompt.
const STEP: usize = 64;

fn main() -> Result<()> {
    let usage = Usage("cargo benchmark precision -- BASE, or -- networks IMAGES [BUNDLE REPORTS]");
    let arguments = usage.arguments();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", bundle, answers, logits] => {
            read(bundle.as_ref(), answers.as_ref(), logits.as_ref())
        }
        ["network", network, precision, images] => {
            memory::measure(network, precision, images.as_ref(), None)
        }
        ["network", network, precision, images, bundle] => {
            memory::measure(network, precision, images.as_ref(), Some(bundle.as_ref()))
        }
        ["networks", images] => {
            memory::compare(images.as_ref(), None)?;
            networks::compare_published(images.as_ref())
        }
        ["networks", images, bundle, reports] => {
            memory::compare(images.as_ref(), Some(bundle.as_ref()))?;
            networks::compare(images.as_ref(), bundle.as_ref(), reports.as_ref())
        }
        [base] => compare(base.as_ref()),
        [] => {
            println!(
                "nothing was measured: name a base, as in `cargo benchmark precision -- FILE.gguf`"
            );
            Ok(())
        }
        _ => usage.refuse("nothing was measured"),
    }
}

fn compare(base: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = |name: &str| dir.path().join(name);
    let has_one = |name: &&str| base.join(name).exists();
    let tokenizer =
        match base.is_file() || ["tokenizer.model", "tokenizer.json"].iter().any(has_one) {
            true => None,
            false => Some(made_up_tokenizer(base, place("tokenizer.json"))?),
        };
    let parts = ImportParts {
        base: Some(base.to_owned()),
        tokenizer,
        ..ImportParts::default()
    };
    for (name, dtype) in [
        ("f32", BaseType::F32),
        ("f16", BaseType::F16),
        ("bf16", BaseType::Bf16),
    ] {
        let options = ImportOptions {
            name: name.into(),
            version: "1".into(),
            license: "that of its base".into(),
            dtype: Some(dtype),
            merge: None,
            projector_seed: 42,
        };
        Import::plan(&parts, options)?.write(&place(name), &mut |_| {})?;
    }
    let mut names = vec!["f32", "f16", "bf16"];
    for to in WeightTypes::ALL {
        let quantisation = BundleQuantisation {
            name: to.name().into(),
            to,
        };
        let made = quantisation.write(&place("f32"), &place(to.name()), &mut |_, _| {})?;
        println!("{}: {:?}", to.name(), made.matrices);
        names.push(to.name());
    }
    println!(
        "\n| weights | file, MB | most memory, MB | largest error of a logit | error, root mean square | same next token, of {} |\n\
         | --- | --- | --- | --- | --- | --- |",
        PROMPTS.len() * ANSWER
    );
    let (mut exact, mut about) = (Vec::new(), String::new());
    for name in names {
        let (answers, logits) = (place("answers.json"), place("logits"));
        let program = std::env::current_exe()?;
        let mut reader = Command::new(program);
        reader.arg("read").args([&place(name), &answers, &logits]);
        let peak: u64 = run(&mut reader)?.trim().parse()?;
        let found = numbers(&logits)?;
        if exact.is_empty() {
            let (mean, spread) = mean_and_spread(&found);
            about = format!("Logits in f32: mean {mean:.2}, standard deviation {spread:.2}.");
            exact.clone_from(&found);
        }
        ensure!(found.len() == exact.len(), "{name}: other logits");
        let vocabulary = exact.len() / (PROMPTS.len() * ANSWER);
        let (mut largest, mut squares) = (0f32, 0f64);
        for (exact, found) in exact.iter().zip(&found) {
            largest = largest.max((exact - found).abs());
            squares += f64::from(exact - found).powi(2);
        }
        let rows = exact
            .chunks_exact(vocabulary)
            .zip(found.chunks_exact(vocabulary));
        let same = rows
            .filter(|(exact, found)| likeliest(exact) == likeliest(found))
            .count();
        let manifest = radialog_models::bundle::read_manifest(&place(name))?;
        let files = manifest.files.iter();
        let weights = files.filter(|(path, _)| path.to_string().ends_with("safetensors"));
        let bytes: u64 = weights.map(|(_, file)| file.size).sum();
        println!(
            "| {name} | {:.1} | {:.1} | {largest:.2e} | {:.2e} | {same} |",
            bytes as f64 / 1e6,
            peak as f64 / 1e6,
            (squares / exact.len() as f64).sqrt()
        );
    }
    println!("\n{about}");
    Ok(())
}

/// A tokenizer of as many tokens as a model has.
fn made_up_tokenizer(base: &Path, place: PathBuf) -> Result<PathBuf> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(base.join("config.json"))?)?;
    let tokens = config["vocab_size"].as_u64().context("no vocab_size")?;
    fs::write(&place, synthetic::llama(tokens as usize)?.json)?;
    Ok(place)
}

/// Writes the logits before each token of the answers, and prints the most memory that this took. Answers that are not there
/// yet are made.
fn read(bundle: &Path, answers: &Path, logits: &Path) -> Result<()> {
    let cache = HashCache::at(bundle.with_extension("hashes.json"));
    let bundle = Bundle::open_with(bundle, &[Stage::Language], &cache)?;
    let language = LanguagePipeline::load(&bundle, &Device::Cpu)?;
    let prompts = PROMPTS
        .iter()
        .map(|prompt| language.tokenizer.encode(prompt));
    let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
    if !answers.exists() {
        let made = prompts.iter().map(|prompt| greedy(&language.model, prompt));
        let made = made.collect::<Result<Vec<_>>>()?;
        fs::write(answers, serde_json::to_vec(&made)?)?;
    }
    let answers: Vec<Vec<u32>> = serde_json::from_slice(&fs::read(answers)?)?;
    let mut bytes = Vec::new();
    for (prompt, answer) in prompts.iter().zip(&answers) {
        let ids = [prompt.as_slice(), &answer[..answer.len() - 1]].concat();
        let mut cache = language.model.cache(ids.len())?;
        let mut at = 0;
        for ids in ids.chunks(STEP) {
            let rows = logits_of(&language.model, &mut cache, ids)?;
            for row in rows {
                at += 1;
                if at >= prompt.len() {
                    bytes.extend(row.into_iter().flat_map(f32::to_le_bytes));
                }
            }
        }
    }
    fs::write(logits, bytes)?;
    println!("{}", peak_memory());
    Ok(())
}

fn logits_of(model: &LanguageModel, cache: &mut KvCache, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
    let input = model.embed(ids, &[])?;
    let len = ids.len();
    let hidden = model.forward(&input, &mut [SequenceChunk { cache, len }])?;
    Ok(model.logits(&hidden)?.to_vec2()?)
}

/// The likeliest token each time.
fn greedy(model: &LanguageModel, prompt: &[u32]) -> Result<Vec<u32>> {
    let mut cache = model.cache(prompt.len() + ANSWER)?;
    let mut answer: Vec<u32> = Vec::new();
    while answer.len() < ANSWER {
        let input = answer.last().map_or(prompt, std::slice::from_ref);
        let rows = logits_of(model, &mut cache, input)?;
        let last = rows.last().context("no position")?;
        answer.push(likeliest(last) as u32);
    }
    Ok(answer)
}

fn likeliest(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate();
    let best = best.max_by(|(_, one), (_, other)| one.total_cmp(other));
    best.map_or(0, |(token, _)| token)
}

fn mean_and_spread(values: &[f32]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let squares = values
        .iter()
        .map(|value| (f64::from(*value) - mean).powi(2));
    (mean, (squares.sum::<f64>() / count).sqrt())
}

fn numbers(path: &Path) -> Result<Vec<f32>> {
    let bytes = fs::read(path)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers
        .iter()
        .map(|number| f32::from_le_bytes(*number))
        .collect())
}
