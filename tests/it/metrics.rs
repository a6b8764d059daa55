//! Text scores against those that the caption toolkit gave (golden cases "metrics", found by listing): Stanford's words, BLEU,
//! ROUGE-L, CIDEr and METEOR with its own data, which comes with pycocoevalcap from PyPI; the original's own figures and NLTK's
//! sentences. Scores of labels are those of `clinical`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use radialog_models::sentences::sentence_ranges;
use radialog_tests::golden::{self, Case};
use radialog_tests::install;
use radialog_training::evaluation::text_scores::cider::Cider;
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorCounts, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextCounts, TextProtocol, TextScorer};
use radialog_training::evaluation::words::ptb::ptb_words;
use serde_json::Value;

use crate::clinical;

const CASE: &str = "metrics";
const PACKAGES: [&str; 2] = ["nltk==3.8.1", "pycocoevalcap==1.2"];
/// How texts are split in each recording, and the protocol that splits them so.
const RECORDED: [(&str, TextProtocol); 2] = [
    ("text_ptb.json", TextProtocol::CocoCaption),
    ("text_nltk.json", TextProtocol::Radialog2023),
];

/// What a recording has; a new part would have to be compared, too.
const PARTS: [&str; 6] = [
    "pairs",
    "tokenized_hypothesis",
    "tokenized_reference",
    "scores",
    "final_scores",
    "sentences",
];
/// Our names of the scores that the original prints, and its own.
const FINAL_SCORES: [(&str, &str); 6] = [
    ("BLEU-1", "Bleu_1"),
    ("BLEU-2", "Bleu_2"),
    ("BLEU-3", "Bleu_3"),
    ("BLEU-4", "Bleu_4"),
    ("METEOR 1.5", "METEOR"),
    ("ROUGE-L", "ROUGE_L"),
];

/// The folder of METEOR's jar and data.
fn meteor_folder() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lies in target/PROFILE/deps")?;
    let purpose =
        "the test that holds METEOR against recorded values (its data is pycocoevalcap's)";
    let python = install::python(&target.join("python-nltk"), &PACKAGES, purpose)?.join("python");
    let script = "import pycocoevalcap; print(list(pycocoevalcap.__path__)[0])";
    let found = Command::new(python).args(["-c", script]).output()?;
    ensure!(found.status.success(), "pycocoevalcap cannot be imported");
    Ok(PathBuf::from(String::from_utf8(found.stdout)?.trim()).join("meteor"))
}

fn close(what: &str, ours: f64, recorded: &Value, tolerance: f64) -> Result<()> {
    let recorded = recorded.as_f64().unwrap_or(f64::NAN);
    ensure!(
        (ours - recorded).abs() < tolerance,
        "{what}: {ours} instead of {recorded}"
    );
    Ok(())
}

/// Checks one recording; returns how many pairs of texts it has.
fn check(case: &Case, file: &str, protocol: TextProtocol, meteor: &Meteor) -> Result<usize> {
    let tolerance: f64 = case.field("/tolerance/text")?;
    let (recorded, raw): (Value, Value) = (case.json(file)?, case.json("text_ptb.json")?);
    let scores = &recorded["scores"];
    let texts =
        |name: &str| -> Result<Vec<String>> { Ok(serde_json::from_value(recorded[name].clone())?) };
    let (hypotheses, references) = (
        texts("tokenized_hypothesis")?,
        texts("tokenized_reference")?,
    );
    let mut cider = Cider::default();
    let mut all = MeteorCounts::default();
    for (index, (hypothesis, reference)) in hypotheses.iter().zip(&references).enumerate() {
        let counts = meteor.counts(hypothesis, reference);
        let recorded = &scores["meteor"]["per_sample"][index];
        let what = format!("{file}: METEOR of text {index}");
        close(&what, counts.score(), recorded, tolerance)?;
        all.add(&counts);
        let split = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        cider.add(&split(hypothesis), &split(reference));
    }
    close(
        &format!("{file}: METEOR"),
        all.score(),
        &scores["meteor"]["corpus"],
        tolerance,
    )?;
    for (index, score) in cider.scores().into_iter().enumerate() {
        let recorded = &scores["cider"]["per_sample"][index];
        let what = format!("{file}: CIDEr of text {index}");
        close(&what, score, recorded, tolerance)?;
    }
    // The texts as they were, split by us.
    let scorer = TextScorer::new(protocol, meteor.clone());
    let pairs = raw["pairs"]
        .as_array()
        .context("pairs")?
        .iter()
        .map(|pair| {
            let text = |side: &str| pair[side].as_str().unwrap_or_default().to_owned();
            (text("hypothesis"), text("reference"))
        });
    let pairs: Vec<(String, String)> = pairs.collect();
    let mut counts = TextCounts::default();
    for text in scorer.counts_of_all(&pairs) {
        counts.add(&text);
    }
    let names = [
        ("BLEU-1", "bleu1"),
        ("BLEU-2", "bleu2"),
        ("BLEU-3", "bleu3"),
        ("BLEU-4", "bleu4"),
        ("METEOR 1.5", "meteor"),
        ("ROUGE-L", "rouge_l"),
        ("CIDEr", "cider"),
    ];
    let ours = scorer.scores(&counts);
    for score in &ours {
        let (_, recorded) = names
            .iter()
            .find(|(name, _)| *name == score.name)
            .with_context(|| format!("{} is not recorded", score.name))?;
        let what = format!("{file}: {} of our words", score.name);
        close(&what, score.value, &scores[recorded]["corpus"], tolerance)?;
    }
    // What the original's own program made of them.
    if let Some(theirs) = recorded["final_scores"].as_object() {
        ensure!(theirs.len() == ours.len() + 1, "{file}: other final scores");
        for score in &ours {
            let name = FINAL_SCORES.iter().find(|(name, _)| *name == score.name);
            let (_, name) = name.with_context(|| format!("{} is not final", score.name))?;
            close(name, score.value, &theirs[*name], tolerance)?;
        }
        // Computed there and not printed: the mean of all.
        let mean = ours.iter().map(|score| score.value).sum::<f64>() / ours.len() as f64;
        close("agg_metrics", mean, &theirs["agg_metrics"], tolerance)?;
    }
    for sentences in recorded["sentences"].as_array().into_iter().flatten() {
        check_sentences(sentences).with_context(|| file.to_owned())?;
    }
    for key in recorded.as_object().context("an object")?.keys() {
        ensure!(
            PARTS.contains(&key.as_str()),
            "{file}: '{key}' is not known"
        );
    }
    for key in scores.as_object().context("scores")?.keys() {
        let is_one = names.iter().any(|(_, name)| name == key);
        ensure!(is_one, "{file}: the score '{key}' is not known");
    }
    Ok(hypotheses.len())
}

/// NLTK's sentences are ours. The original deletes the ends of lines first.
fn check_sentences(recorded: &Value) -> Result<()> {
    let text = recorded["text"]
        .as_str()
        .context("a text")?
        .replace('\n', "");
    let theirs: Vec<String> = serde_json::from_value(recorded["sentences"].clone())?;
    let ranges = sentence_ranges(&text);
    let ours: Vec<&str> = ranges.into_iter().map(|range| &text[range]).collect();
    ensure!(ours == theirs, "{ours:?} instead of {theirs:?}");
    Ok(())
}

/// Our words are Stanford's.
fn check_words(case: &Case) -> Result<()> {
    let recorded: Value = case.json("text_ptb.json")?;
    for (index, pair) in recorded["pairs"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for side in ["hypothesis", "reference"] {
            let text = pair[side].as_str().unwrap_or_default();
            let theirs = recorded[format!("tokenized_{side}")][index].as_str();
            let ours = ptb_words(text).join(" ");
            ensure!(
                Some(ours.as_str()) == theirs,
                "{text:?}: {ours:?} instead of {theirs:?}"
            );
        }
    }
    Ok(())
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how many cases agree is this test's result"
)]
fn metrics_equal_the_recorded_ones() -> Result<()> {
    let (mut cases, mut pairs, mut matrices) = (Vec::new(), 0, 0);
    for root in golden::roots()? {
        for entry in std::fs::read_dir(&root)? {
            let dir = entry?.path();
            if !dir.join("case.json").is_file() {
                continue;
            }
            let case = Case::open(&dir)?;
            if case.kind() != CASE {
                continue;
            }
            cases.push(case);
        }
    }
    ensure!(!cases.is_empty(), "no case of {CASE} was found");
    for case in &cases {
        check_words(case)?;
        matrices += clinical::check(&case.json("labels.json")?)?;
    }
    // A user names METEOR's folder, or the jar in it.
    let folder = meteor_folder()?;
    let places = [folder.clone(), folder.join("meteor-1.5.jar")];
    for ((file, protocol), place) in RECORDED.into_iter().zip(places) {
        let meteor = Meteor::new(Some(Arc::new(MeteorData::read(&place)?)));
        for case in &cases {
            pairs += check(case, file, protocol, &meteor)?;
        }
    }
    println!(
        "metrics: {} cases passed ({pairs} pairs of texts, {matrices} matrices of labels)",
        cases.len()
    );
    Ok(())
}
