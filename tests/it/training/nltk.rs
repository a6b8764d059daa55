//! Words, BLEU, ROUGE-L and CIDEr beside the original's own libraries, NLTK 3.8.1 and pycocoevalcap 1.2, on thousands of texts:
//! reports, and reports with random changes. Both come from PyPI into a folder beside the build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use radialog_tests::draw::{self, Draw};
use radialog_tests::{fixtures, golden, install};
use radialog_training::evaluation::text_scores::cider::Cider;
use radialog_training::evaluation::text_scores::{BleuCounts, rouge_l};
use radialog_training::evaluation::words::words;
use serde::Deserialize;
use serde_json::Value;

/// What is installed: the original's versions.
const PACKAGES: [&str; 2] = ["nltk==3.8.1", "pycocoevalcap==1.2"];
/// Texts with random changes.
const MUTATED: usize = 10_000;
/// Of these, the texts whose CIDEr and smoothed BLEU-2 are compared, too: Python takes longer for them.
const LAST: usize = 2_000;
/// Furthest that a score may be off: the order of summation.
const TOLERANCE: f64 = 1e-12;
/// What is put into texts: all that the rules look at, and what real reports have.
const INSERTED: [&str; 62] = [
    ".",
    "..",
    "...",
    ". . .",
    "?",
    "!",
    "?!",
    ",",
    ":",
    ";",
    "-",
    "--",
    "'",
    "''",
    "\"",
    "`",
    "``",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "*",
    "&",
    "#",
    "@",
    "%",
    "$",
    "/",
    " ",
    "  ",
    "\n",
    "\t",
    "\u{1d}",
    "\u{a0}",
    "“",
    "”",
    "‘",
    "’",
    "«",
    "»",
    " 's",
    "n't ",
    " cannot ",
    " wanna ",
    " gonna ",
    " 'tis ",
    " d'ye ",
    " Dr. ",
    " p.m. ",
    " J. ",
    " 5. ",
    " 3,000.5 ",
    " No. 7 ",
    "ſ",
    "é",
    "\u{301}",
    "²",
    "٣",
];

const NLTK: &str = include_str!("nltk.py");

#[derive(Deserialize)]
struct Theirs {
    words: Vec<String>,
    bleu: Vec<[f64; 4]>,
    corpus: [f64; 4],
    rouge: Vec<f64>,
    /// Of the last texts.
    cider: Vec<f64>,
    bleu_2: Vec<f64>,
}

/// The tables of the open data that have texts, with their columns.
const OPEN_DATA: [(&str, &[&str]); 3] = [
    ("openi/reports.csv", &["findings", "impression"]),
    ("captioned/captions.csv", &["text"]),
    (
        "report-labels/chexpert_labeler_sample_labels.csv",
        &["Reports"],
    ),
];

/// Reports of the fixtures, and of the open data where they lie beside the project; and the tables that do not.
fn reports() -> Result<(Vec<String>, Vec<&'static str>)> {
    let mut texts = Vec::new();
    let mut missing = Vec::new();
    let pairs: Value = golden::read_json(&fixtures::golden().join("08_metrics/text_ptb.json"))?;
    for pair in pairs["pairs"].as_array().into_iter().flatten() {
        for side in ["hypothesis", "reference"] {
            texts.extend(pair[side].as_str().map(str::to_owned));
        }
    }
    let roots = golden::roots()?;
    for (name, wanted) in OPEN_DATA {
        let mut places = roots.iter().map(|root| root.join("../data").join(name));
        let Some(table) = places.find(|place| place.is_file()) else {
            missing.push(name);
            continue;
        };
        let mut table = csv::Reader::from_path(table)?;
        let columns = table.headers()?.clone();
        for column in wanted {
            let is_there = columns.iter().any(|there| there == *column);
            ensure!(is_there, "{name} has no column '{column}'");
        }
        for record in table.records() {
            let record = record?;
            let cells = columns.iter().zip(&record);
            let cells = cells.filter(|(column, _)| wanted.contains(column));
            texts.extend(cells.map(|(_, cell)| cell.to_owned()));
        }
    }
    texts.retain(|text| !text.trim().is_empty());
    ensure!(texts.len() > 20, "{} reports", texts.len());
    Ok((texts, missing))
}

/// A report with some characters left out, doubled, changed in case, or with something put in.
fn mutated(reports: &[String], draw: &mut Draw) -> String {
    let mut text: Vec<String> = reports[draw.below(reports.len())]
        .chars()
        .map(String::from)
        .collect();
    for _ in 0..1 + draw.below(8) {
        let at = draw.below(text.len().max(1)).min(text.len());
        match draw.below(5) {
            0 if text.len() > 1 => drop(text.remove(at)),
            1 if at < text.len() => text[at] = text[at].to_uppercase(),
            2 if at < text.len() => text[at] = text[at].to_lowercase(),
            _ => text.insert(at, INSERTED[draw.below(INSERTED.len())].to_owned()),
        }
    }
    text.concat()
}

fn python() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lies in target/PROFILE/deps")?;
    let purpose = "the test that holds words and text scores against NLTK and pycocoevalcap";
    Ok(install::python(&target.join("python-nltk"), &PACKAGES, purpose)?.join("python"))
}

fn theirs(python: &Path, texts: &[String]) -> Result<Theirs> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("texts"), folder.path().join("scores"));
    fs::write(&input, serde_json::to_vec(texts)?)?;
    let punkt =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/models/src/sentences/english.json");
    let run = Command::new(python)
        .args(["-c", NLTK])
        .args([&punkt, &input, &output])
        .arg(LAST.to_string())
        .output()?;
    ensure!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    golden::read_json(&output)
}

/// CIDEr of the last texts, a corpus of their own, and the BLEU-2 that ReXrank takes, which is NLTK's.
fn check_last(ours: &[Vec<String>], theirs: &Theirs, texts: &[String]) -> Result<()> {
    let first = ours.len() - LAST;
    let pair = |place: usize| {
        let at = first + place;
        (&ours[at], &ours[(at + 1) % ours.len()])
    };
    let mut cider = Cider::default();
    for place in 0..LAST {
        let (candidate, reference) = pair(place);
        cider.add(candidate, reference);
    }
    for (place, score) in cider.scores().into_iter().enumerate() {
        let (candidate, reference) = pair(place);
        let bleu_2 = BleuCounts::of(candidate, reference).smoothed_2();
        let off = (score - theirs.cider[place])
            .abs()
            .max((bleu_2 - theirs.bleu_2[place]).abs());
        ensure!(
            off < TOLERANCE,
            "CIDEr or BLEU-2 of {:?}: {score}, {bleu_2} and {}, {}",
            texts[first + place],
            theirs.cider[place],
            theirs.bleu_2[place]
        );
    }
    Ok(())
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "how many texts agree is this test's result"
)]
fn words_bleu_and_rouge_are_those_of_nltk_and_the_caption_toolkit() -> Result<()> {
    let (mut texts, missing) = reports()?;
    for table in missing {
        println!("words: {table} of the open data is not there: its texts are not compared");
    }
    let whole = texts.len();
    let mut draw = Draw::new(draw::seed()?);
    let mutations: Vec<String> = (0..MUTATED).map(|_| mutated(&texts, &mut draw)).collect();
    texts.extend(mutations);
    let theirs = theirs(&python()?, &texts)?;
    let ours: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
    ensure!(theirs.words.len() == texts.len(), "not all texts came back");
    let mut faults = Vec::new();
    for ((text, ours), theirs) in texts.iter().zip(&ours).zip(&theirs.words) {
        if ours.join(" ") != *theirs {
            faults.push(format!(
                "{text:?}\n  ours:   {ours:?}\n  theirs: {theirs:?}"
            ));
        }
    }
    ensure!(
        faults.is_empty(),
        "{} of {} texts are split otherwise:\n{}",
        faults.len(),
        texts.len(),
        faults[..faults.len().min(12)].join("\n")
    );
    let mut all = BleuCounts::default();
    for (index, candidate) in ours.iter().enumerate() {
        let reference = &ours[(index + 1) % ours.len()];
        let counts = BleuCounts::of(candidate, reference);
        let pairs = counts.scores().into_iter().zip(theirs.bleu[index]);
        let off = pairs.map(|(ours, theirs)| (ours - theirs).abs());
        ensure!(
            off.fold(0.0, f64::max) < TOLERANCE,
            "BLEU of {:?}",
            texts[index]
        );
        // The toolkit takes an empty text for one empty word.
        if !candidate.is_empty() || !reference.is_empty() {
            let rouge = rouge_l(candidate, reference);
            ensure!(
                (rouge - theirs.rouge[index]).abs() < TOLERANCE,
                "ROUGE-L of {:?}: {rouge} and {}",
                texts[index],
                theirs.rouge[index]
            );
        }
        all.add(&counts);
    }
    check_last(&ours, &theirs, &texts)?;
    for (ours, theirs) in all.scores().into_iter().zip(theirs.corpus) {
        ensure!(
            (ours - theirs).abs() < TOLERANCE,
            "BLEU of all: {ours} and {theirs}"
        );
    }
    println!(
        "words: {whole} reports and {MUTATED} changed ones are split and scored as by NLTK and pycocoevalcap"
    );
    Ok(())
}
