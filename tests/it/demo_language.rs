//! What the demo bundle's language model says: the findings that it is asked to report and no other, but for a few, and in
//! conversations what follows from them. Read by word rules that know neither the lists that it was trained on nor a labeler.
#![expect(clippy::print_stdout, reason = "its figures are read with --nocapture")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::{
    FindingsPredictor, ImageEmbedder, LanguagePipeline, LanguageTask,
};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::findings::TextRule;
use radialog_models::language::{Engine, EngineEvent, EngineLimits, GenerationRequest};
use radialog_models::preprocess::{ImageLimits, Preprocessed};
use radialog_models::prompt::{ChatPrompt, Exchange, Prompt};
use radialog_schemas::{Ask, Finding, FindingsReport, Stage};
use radialog_tests::fixtures;
use radialog_training::evaluation::word_rules::{invented, stated};

use self::script::{DIALOGS, Expected};

mod script;

/// Tokens of an answer.
const MOST_TOKENS: usize = 300;
/// Sets of findings that are asked for beside those of the X-rays' own.
const DRAWN_SETS: usize = 100;
/// The number of turns that are to be right, of those in the script.
const RIGHT: usize = 38;
/// The number of turns that no X-ray answers and that are answered all the same, of six, at most: in words that the model has not
/// learned, it takes them for other questions.
const MADE_UP: usize = 4;
/// The largest share of the findings asked for that may be missed, and of others that may be stated beside them. One of 363 was missed
/// where the bundle was made; another processor adds in another order.
const MISSED: f64 = 0.01;
const OTHER: f64 = 0.01;

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What a probability that is printed with two places may be away from the one of another processor.
const ROUNDED: f32 = 0.011;

/// The demo bundle's networks, and what they make of the shipped X-rays.
struct Demo {
    language: LanguagePipeline,
    /// The bundle's hash.
    hash: String,
    /// Names of the X-rays, without the ending.
    names: Vec<String>,
    images: Vec<Tensor>,
    /// What the classifier says of each image.
    findings: Vec<FindingsReport>,
    /// The findings that are predicted for each image, without "No Finding".
    predicted: Vec<Vec<Finding>>,
}

impl Demo {
    fn load() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = Path::new(ROOT).join("workers/training/recipes/demo/bundle");
        let cache = HashCache::at(dir.path().join("hashes.json"));
        let bundle = Bundle::open_with(&path, &Stage::ALL, &cache)?;
        let embedder = ImageEmbedder::load(&bundle, &Device::Cpu)?;
        let predictor = FindingsPredictor::load(&bundle, &Device::Cpu)?;
        let (mut names, mut images) = (Vec::new(), Vec::new());
        let (mut findings, mut predicted) = (Vec::new(), Vec::new());
        let mut files: Vec<_> = std::fs::read_dir(fixtures::xrays())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        for file in files {
            if file.extension().is_none_or(|ending| ending != "jpg") {
                continue;
            }
            let bytes = std::fs::read(&file)?;
            let pixels = |input: radialog_models::preprocess::InputSize| -> Result<Tensor> {
                let image =
                    Preprocessed::from_bytes(&bytes, &ImageLimits::default(), input.short_side)?;
                Ok(image.tensor(input.side, &Device::Cpu)?.unsqueeze(0)?)
            };
            images.push(embedder.embed(&pixels(embedder.input())?)?.get(0)?);
            let report = predictor.predict(&pixels(predictor.input())?)?.remove(0);
            let present = report.findings.iter().filter(|found| found.present);
            let present = present.map(|found| found.finding);
            predicted.push(present.filter(|of| *of != Finding::NoFinding).collect());
            findings.push(report);
            names.push(file.file_stem().context("a name")?.to_string_lossy().into());
        }
        ensure!(images.len() == 10, "{} X-rays", images.len());
        Ok(Self {
            language: LanguagePipeline::load(&bundle, &Device::Cpu)?,
            hash: bundle.manifest().hash().as_str().to_owned(),
            names,
            images,
            findings,
            predicted,
        })
    }

    /// The likeliest answers to questions about images, each with what was said before.
    fn answers(&self, asked: &[(ChatPrompt, usize)]) -> Result<Vec<String>> {
        let language = &self.language;
        let window = language.model.config().max_position_embeddings;
        let limits = EngineLimits {
            sequences: 16,
            cache_tokens: 16 * window,
            ..EngineLimits::default()
        };
        let mut engine = Engine::new(language.model.clone(), limits);
        let mut order = Vec::new();
        for (dialog, image) in asked {
            let fitted = dialog.fit(&language.prompts, &language.tokenizer, window, MOST_TOKENS)?;
            order.push(engine.admit(GenerationRequest {
                adapter: language.adapter(None, LanguageTask::Chat)?,
                prompt: fitted.ids,
                images: vec![self.images[*image].clone()],
                max_new_tokens: fitted.max_new_tokens,
                ..GenerationRequest::default()
            })?);
        }
        let mut answers = vec![String::new(); asked.len()];
        while !engine.is_idle() {
            for event in engine.step()? {
                if let EngineEvent::Finished { sequence, result } = event {
                    let text = language.tokenizer.decode_continuation(&result?.tokens);
                    let place = order.iter().position(|id| *id == sequence);
                    answers[place.context("a sequence of ours")?] =
                        language.prompts.answer_text(&text).to_owned();
                }
            }
        }
        Ok(answers)
    }

    /// The request for a report of findings.
    fn report(&self, findings: &[Finding]) -> ChatPrompt {
        self.report_of(&TextRule::TestProgram.text(findings))
    }

    /// The request for a report of findings that are written out.
    fn report_of(&self, findings: &str) -> ChatPrompt {
        ChatPrompt {
            history: Vec::new(),
            question: self.language.prompts.report_message(findings),
        }
    }
}

/// Sets of one to six findings, each finding as often as any other; the same ones each time.
fn drawn_sets() -> Vec<Vec<Finding>> {
    let of = |set: usize| {
        let count = 1 + set % 6;
        // 5, 7 and 11 share no factor with 13, so that every start and step goes through all findings.
        let step = [1, 5, 7, 11, 2, 3][set / 6 % 6];
        let at = |index: usize| Finding::ALL[1 + (set * 4 + set / 13 + index * step) % 13];
        let mut findings: Vec<Finding> = (0..count).map(at).collect();
        findings.sort_unstable();
        findings
    };
    (0..DRAWN_SETS).map(of).collect()
}

#[test]
fn a_report_states_the_findings_of_its_request_and_hardly_another() -> Result<()> {
    let demo = Demo::load()?;
    let sets = demo.predicted.iter().cloned().chain(drawn_sets());
    let sets: Vec<Vec<Finding>> = sets.chain([vec![]]).collect();
    let asked: Vec<(ChatPrompt, usize)> = sets
        .iter()
        .enumerate()
        .map(|(at, findings)| (demo.report(findings), at % demo.images.len()))
        .collect();
    let reports = demo.answers(&asked)?;
    let (mut missed, mut other) = (Vec::new(), Vec::new());
    for (findings, report) in sets.iter().zip(&reports) {
        let said = stated(report);
        let of = |list: &mut Vec<String>, finding: &Finding| {
            list.push(format!("{finding} of {findings:?}: {report}"));
        };
        let is_missed = |finding: &&Finding| !said.contains(finding);
        findings
            .iter()
            .filter(is_missed)
            .for_each(|f| of(&mut missed, f));
        let is_other = |finding: &&Finding| !findings.contains(finding);
        said.iter().filter(is_other).for_each(|f| of(&mut other, f));
        let words = invented(report);
        ensure!(
            words.is_empty(),
            "{words:?} in the report of {findings:?}: {report}"
        );
        ensure!(
            !report.starts_with(' ') && report.ends_with('.'),
            "{report:?}"
        );
    }
    let count: usize = sets.iter().map(Vec::len).sum();
    println!(
        "{} of {count} findings asked for are stated in {} reports, and {} others",
        count - missed.len(),
        sets.len(),
        other.len()
    );
    let share = |list: &[String]| list.len() as f64 / count as f64;
    ensure!(share(&missed) <= MISSED, "not stated: {missed:#?}");
    ensure!(
        share(&other) <= OTHER,
        "stated, and not asked for: {other:#?}"
    );
    let different: std::collections::BTreeSet<&String> = reports.iter().collect();
    ensure!(
        different.len() > sets.len() / 2,
        "{} different reports",
        different.len()
    );
    Ok(())
}

#[test]
fn conversations_follow_from_the_report_and_its_findings() -> Result<()> {
    let demo = Demo::load()?;
    let requests: Vec<(ChatPrompt, usize)> = DIALOGS
        .iter()
        .enumerate()
        .map(|(at, dialog)| (demo.report(dialog.findings), at % demo.images.len()))
        .collect();
    let reports = demo.answers(&requests)?;
    let mut dialogs: Vec<ChatPrompt> = requests.into_iter().map(|(prompt, _)| prompt).collect();
    let mut said = reports.clone();
    let mut current = reports;
    let (mut right, mut all, mut table) = (0, 0, String::new());
    // What no X-ray tells, and what was answered as if one did.
    let (mut unanswerable, mut made_up) = (0, Vec::new());
    for turn in 0..script::TURNS {
        let prompts = &demo.language.prompts;
        for (at, dialog) in dialogs.iter_mut().enumerate() {
            let ask: Ask = (DIALOGS[at].turns[turn].ask)();
            let question = prompts.message(&ask, None).context("a question")?;
            let past = std::mem::replace(&mut dialog.question, question);
            dialog.history.push(Exchange {
                turn: None,
                question: past,
                answer: prompts.untrusted(&said[at]),
            });
        }
        let asked: Vec<_> = dialogs
            .iter()
            .cloned()
            .enumerate()
            .map(|(at, dialog)| (dialog, at % demo.images.len()))
            .collect();
        said = demo.answers(&asked)?;
        for (at, answer) in said.iter().enumerate() {
            let expected = &DIALOGS[at].turns[turn].expected;
            let is_right = expected.is_met(answer, &current[at]);
            if matches!(expected, Expected::Report(_)) {
                current[at].clone_from(answer);
            }
            (right, all) = (right + usize::from(is_right), all + 1);
            let question: &Prompt = &dialogs[at].question;
            let mark = if is_right { "right" } else { "WRONG" };
            let row = format!(
                "{mark} {}.{} {} -> {answer}\n",
                at + 1,
                turn + 2,
                question.readable()
            );
            table += &row;
            if matches!(expected, Expected::Unknown) {
                unanswerable += 1;
                made_up.extend((!is_right).then_some(row));
            }
        }
    }
    println!(
        "{table}{right} of {all} turns are right, {} of {unanswerable} that no X-ray answers",
        unanswerable - made_up.len()
    );
    ensure!(all == 50 && right >= RIGHT, "{right} of {all}:\n{table}");
    ensure!(
        unanswerable == 6 && made_up.len() <= MADE_UP,
        "of {unanswerable} questions that no X-ray answers these are answered: {made_up:#?}"
    );
    Ok(())
}

/// The figures of the model card, and the X-rays of the README's table.
#[test]
fn what_is_shown_of_the_demo_is_of_the_bundle_that_is_shipped() -> Result<()> {
    let demo = Demo::load()?;
    let quality = Path::new(ROOT).join("workers/training/recipes/demo/results/quality.json");
    let quality: serde_json::Value = serde_json::from_slice(&std::fs::read(quality)?)?;
    ensure!(
        quality["hash"] == demo.hash.as_str(),
        "results/quality.json has the figures of {}, and the bundle is {}",
        quality["hash"],
        demo.hash
    );
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md"))?;
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut shown = 0;
    for (at, name) in demo.names.iter().enumerate() {
        let name = format!("`{name}`");
        let Some(row) = rows.iter().find(|row| row[1] == name) else {
            continue;
        };
        let [_, _, _, said, text, ..] = row[..] else {
            anyhow::bail!("{name}: the table has other columns: {row:?}");
        };
        let report = &demo.findings[at];
        let all = &report.findings;
        let mut present: Vec<(&str, f32)> = all
            .iter()
            .filter(|each| each.is_shown(all))
            .map(|each| (each.finding.name(), each.probability.unwrap_or_default()))
            .collect();
        present.sort_by(|one, other| other.1.total_cmp(&one.1));
        let said: Vec<(&str, &str)> = said
            .split(", ")
            .filter_map(|each| each.rsplit_once(' '))
            .collect();
        let is_as_said = |((name, number), (other, probability)): (&(&str, &str), &(&str, f32))| {
            let number = number.parse::<f32>();
            let is_close = |number: f32| (number - probability).abs() < ROUNDED;
            name == other && number.is_ok_and(is_close)
        };
        ensure!(
            said.len() == present.len() && said.iter().zip(&present).all(is_as_said),
            "{name}: the README has {said:?}, the bundle {present:?}"
        );
        let answers = demo.answers(&[(demo.report_of(&report.text), at)])?;
        ensure!(answers[0] == text, "{name}: {text:?}, not {:?}", answers[0]);
        shown += 1;
    }
    ensure!(
        shown == 3,
        "{shown} of three X-rays are in the README's table"
    );
    Ok(())
}
