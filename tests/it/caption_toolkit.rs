//! Text scores beside the caption toolkit's own programs (pycocoevalcap 1.2) on generated reports: Stanford's words and METEOR,
//! which run in Java, BLEU, ROUGE-L and CIDEr. And beside RadEval's, on the texts of its own tests. Words of NLTK: `training::nltk`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use radialog_tests::draw::{self, Draw};
use radialog_tests::patience::InTime;
use radialog_tests::{golden, install, report_pairs};
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextCounts, TextProtocol, TextScorer};
use radialog_training::evaluation::text_scores::{BleuCounts, rouge_l_with};
use serde::Deserialize;

mod fragments;

const PACKAGES: [&str; 2] = ["nltk==3.8.1", "pycocoevalcap==1.2"];
const PEER: &str = include_str!("../benches/peers/pycocoevalcap.py");
/// Generated pairs: METEOR's program takes some milliseconds for each.
const PAIRS: usize = 300;
/// Texts whose words alone are compared.
const TEXTS: usize = 6000;
/// Splits texts as the toolkit does.
const SPLIT: &str = r#"
import json, sys
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
texts = json.load(open(sys.argv[1]))
split = PTBTokenizer().tokenize({place: [{"caption": text}] for place, text in enumerate(texts)})
json.dump([split[place][0] for place in range(len(texts))], open(sys.argv[2], "w"))
"#;
/// Furthest that a score may be off: the order of summation, and the digits that METEOR's program prints.
const TOLERANCE: f64 = 1e-9;
const RADEVAL: &str = "radeval==2.2.1";
/// Takes texts and expected scores out of RadEval's own test.
const RADEVAL_TEXTS: &str = r#"
import ast, json, sys, tarfile
archive = tarfile.open(sys.argv[1])
name = next(name for name in archive.getnames() if name.endswith("/tests/test_basics.py"))
found = {}
for node in ast.walk(ast.parse(archive.extractfile(name).read())):
    if isinstance(node, ast.Assign) and node.targets[0].id in ("refs", "hyps"):
        found[node.targets[0].id] = ast.literal_eval(node.value)
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values):
            if getattr(key, "value", None) in ("bleu", "rougeL"):
                found[key.value] = ast.literal_eval(value.args[0])
json.dump(found, sys.stdout)
"#;

#[derive(Deserialize)]
struct Theirs {
    hypotheses: Vec<String>,
    references: Vec<String>,
    corpus: BTreeMap<String, f64>,
    each: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Radeval {
    refs: Vec<String>,
    hyps: Vec<String>,
    bleu: f64,
    #[serde(rename = "rougeL")]
    rouge_l: f64,
}

/// The folder of the build.
fn target() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3);
    Ok(target
        .context("a test lies in target/PROFILE/deps")?
        .to_owned())
}

fn python() -> Result<PathBuf> {
    let purpose = "the tests that hold text scores against pycocoevalcap and RadEval";
    Ok(install::python(&target()?.join("python-nltk"), &PACKAGES, purpose)?.join("python"))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output_in_time()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn close(what: &str, ours: f64, theirs: Option<f64>) -> Result<()> {
    let theirs = theirs.unwrap_or(f64::NAN);
    ensure!(
        (ours - theirs).abs() < TOLERANCE,
        "{what}: {ours} instead of {theirs}"
    );
    Ok(())
}

/// The toolkit's name of a score.
fn their_name(ours: &str) -> &str {
    ours.strip_suffix(" 1.5").unwrap_or(ours)
}

fn check(theirs: &Theirs, pairs: &[(String, String)], meteor: &Path) -> Result<()> {
    let protocol = TextProtocol::CocoCaption;
    for ((hypothesis, reference), (their_hypothesis, their_reference)) in pairs
        .iter()
        .zip(theirs.hypotheses.iter().zip(&theirs.references))
    {
        for (text, words) in [(hypothesis, their_hypothesis), (reference, their_reference)] {
            let ours = protocol.split(text);
            ensure!(ours == *words, "{text:?}: {ours:?} instead of {words:?}");
        }
    }
    let meteor = Meteor::new(Some(Arc::new(MeteorData::read(meteor)?)));
    let scorer = TextScorer::new(protocol, meteor);
    let each = scorer.counts_of_all(pairs);
    let mut all = TextCounts::default();
    for (place, counts) in each.iter().enumerate() {
        all.add(counts);
        for score in scorer.scores(counts) {
            let values = theirs.each.get(their_name(score.name));
            let their = values.and_then(|values| values.get(place)).copied();
            let what = format!("{} of {:?}", score.name, pairs[place]);
            close(&what, score.value, their)?;
        }
    }
    for score in scorer.scores(&all) {
        let their = theirs.corpus.get(their_name(score.name)).copied();
        close(score.name, score.value, their)?;
    }
    Ok(())
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how many texts agree is this test's result"
)]
fn words_and_all_scores_of_generated_reports_are_those_of_the_caption_toolkit() -> Result<()> {
    install::java("the comparison with the caption toolkit")?;
    let python = python()?;
    let mut pairs = report_pairs::report_pairs(PAIRS, draw::seed()?)?;
    // What is pasted from pages and word processors: hyphens of words, and what Stanford's lexer does not know.
    let characters = "‐‑\u{ad}\u{200b}\u{200d}\u{feff}µéⅧ²𝐀🫁\u{f0b7}".chars();
    for ((hypothesis, _), character) in pairs.iter_mut().zip(characters) {
        *hypothesis +=
            &format!(" mid{character}lung {character} {character}b a{character} 5{character}mm.");
    }
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("pairs"), folder.path().join("scores"));
    fs::write(&input, serde_json::to_vec(&pairs)?)?;
    run(Command::new(&python)
        .args(["-c", PEER])
        .args([&input, &output]))?;
    let script = "import pycocoevalcap; print(list(pycocoevalcap.__path__)[0] + '/meteor', end='')";
    let meteor = run(Command::new(&python).args(["-c", script]))?;
    check(&golden::read_json(&output)?, &pairs, meteor.as_ref())?;
    println!("caption toolkit: words and scores of {PAIRS} generated pairs are the same");
    Ok(())
}

#[test]
fn words_of_texts_that_are_no_reports_are_those_of_the_caption_toolkit() -> Result<()> {
    install::java("the comparison with the caption toolkit")?;
    let python = python()?;
    let mut draw = Draw::new(draw::seed()?);
    let texts: Vec<String> = (0..TEXTS).map(|_| fragments::text(&mut draw)).collect();
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("texts"), folder.path().join("words"));
    fs::write(&input, serde_json::to_vec(&texts)?)?;
    run(Command::new(&python)
        .args(["-c", SPLIT])
        .args([&input, &output]))?;
    let theirs: Vec<String> = golden::read_json(&output)?;
    ensure!(theirs.len() == TEXTS, "{} texts", theirs.len());
    let split = |text: &String| TextProtocol::CocoCaption.split(text);
    let ours: Vec<String> = texts.iter().map(split).collect();
    let compared = texts.iter().zip(ours.iter().zip(&theirs));
    let differ: Vec<_> = compared
        .filter(|(_, (ours, theirs))| ours != theirs)
        .collect();
    ensure!(
        differ.is_empty(),
        "{} of {TEXTS} differ, ours and theirs: {:?}",
        differ.len(),
        &differ[..differ.len().min(20)]
    );
    Ok(())
}

/// RadEval scores BLEU with the caption toolkit's code over words between white space, as it stands. Its ROUGE-L is Google's: words
/// of letters and digits in lower case, precision and recall alike; the stems that it takes change nothing in these texts.
#[test]
fn bleu_and_rouge_are_radevals_on_the_texts_of_its_tests() -> Result<()> {
    let python = python()?;
    let archive = install::source_archive(
        &python,
        &target()?.join("radeval"),
        RADEVAL,
        "the test that holds BLEU and ROUGE against RadEval's fixed pairs",
    )?;
    let texts = run(Command::new(&python)
        .args(["-c", RADEVAL_TEXTS])
        .arg(archive))?;
    let theirs: Radeval = serde_json::from_str(&texts)?;
    ensure!(!theirs.hyps.is_empty() && theirs.hyps.len() == theirs.refs.len());
    let (mut bleu, mut rouge) = (BleuCounts::default(), 0.0);
    for (hypothesis, reference) in theirs.hyps.iter().zip(&theirs.refs) {
        let white = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        bleu.add(&BleuCounts::of(&white(hypothesis), &white(reference)));
        let words = |text: &str| {
            let text = text.to_lowercase();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            let words = words.filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        rouge += rouge_l_with(1.0, &words(hypothesis), &words(reference));
    }
    close("BLEU-4", bleu.scores()[3], Some(theirs.bleu))?;
    let rouge = rouge / theirs.hyps.len() as f64;
    close("ROUGE-L", rouge, Some(theirs.rouge_l))
}
