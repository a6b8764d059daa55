//! BLEU, ROUGE-L, CIDEr and METEOR of generated reports beside the caption toolkit's (pycocoevalcap 1.2 with Java), on the same
//! pairs in one run: the same values, and how many times as fast.
//!
//! `cargo benchmark scores -- [PAIRS]`: 3,858 where no number is given, the size of MIMIC-CXR's test set. Both read METEOR's data,
//! split the texts and score them; the toolkit's time is without the start of Python and the import of its modules. Where Java
//! is missing, it is installed with apt. Then 1,000 bootstrap resamples of all scores, as `radialog evaluate report` draws them.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::array;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use radialog_schemas::Label;
use radialog_tests::benchmark::{Usage, median, peak_memory, peer_python, processor_seconds, run};
use radialog_tests::golden;
use radialog_tests::install;
use radialog_tests::processes::radialog;
use radialog_tests::report_pairs::report_pairs;
use radialog_tests::run_files::{label_table, line};
use radialog_training::evaluation::text_scores::cider::DocumentFrequencies;
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextCounts, TextProtocol, TextScorer};
use radialog_training::random::Random;
use serde::Deserialize;

const USAGE: Usage =
    Usage("cargo benchmark scores -- [PAIRS], the number of reports: 3858 without it");
const PEER: &str = include_str!("peers/pycocoevalcap.py");
const PACKAGES: [&str; 1] = ["pycocoevalcap==1.2"];
/// Texts of MIMIC-CXR's test set.
const PAIRS: usize = 3858;
/// Our runs.
const ROUNDS: usize = 3;
/// Furthest that a score may be off: the order of summation, and the digits that METEOR's program prints.
const TOLERANCE: f64 = 1e-9;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

#[derive(Deserialize)]
struct Theirs {
    corpus: BTreeMap<String, f64>,
    seconds: BTreeMap<String, f64>,
}

fn main() -> Result<()> {
    let count = match &USAGE.arguments()[..] {
        [] => PAIRS,
        [count] => USAGE.count(count),
        _ => USAGE.refuse("one number is enough"),
    };
    let pairs = report_pairs(count, 1)?;
    let python = peer_python("pycocoevalcap", &PACKAGES)?;
    install::java("the comparison with the caption toolkit")?;
    let meteor = run(Command::new(&python).args([
        "-c",
        "import pycocoevalcap; print(list(pycocoevalcap.__path__)[0] + '/meteor', end='')",
    ]))?;
    let (mut times, mut processor, mut ours) = (Vec::new(), Vec::new(), None);
    for _ in 0..ROUNDS {
        let (start, used) = (Instant::now(), processor_seconds());
        ours = Some(score(&pairs, meteor.as_ref())?);
        times.push(start.elapsed().as_secs_f64());
        processor.push(processor_seconds() - used);
    }
    let (scorer, counts) = ours.context("no round")?;
    let theirs = theirs(&python, &pairs)?;
    let mut all = TextCounts::default();
    counts.iter().for_each(|text| all.add(text));
    for score in scorer.scores(&all) {
        let name = score.name.strip_suffix(" 1.5").unwrap_or(score.name);
        let their = theirs.corpus.get(name).copied().unwrap_or(f64::NAN);
        println!("{name:<10} {:.12} {their:.12}", score.value);
        ensure!(
            (score.value - their).abs() < TOLERANCE,
            "{name}: {} and not {their}",
            score.value
        );
    }
    let their_time: f64 = theirs.seconds.values().sum();
    println!("pycocoevalcap: {their_time:.2} s ({:.2?})", theirs.seconds);
    println!(
        "ours: {:.2} s, {:.2} s of processors, median of {ROUNDS}; memory at most {} MiB",
        median(&times),
        median(&processor),
        peak_memory() >> 20
    );
    println!(
        "{count} pairs: {:.1} times as fast",
        their_time / median(&times)
    );
    resample(&pairs, &meteor)
}

/// Reads METEOR's data while the references are looked at, and scores all pairs, as `radialog evaluate text` does.
fn score(pairs: &[(String, String)], meteor: &Path) -> Result<(TextScorer, Vec<TextCounts>)> {
    let protocol = TextProtocol::CocoCaption;
    let mut frequencies = DocumentFrequencies::default();
    let data = thread::scope(|scope| {
        let data = scope.spawn(|| MeteorData::read(meteor));
        let references: Vec<&str> = pairs.iter().map(|(_, text)| text.as_str()).collect();
        protocol.add_references(&references, &mut frequencies);
        data.join()
    });
    let data = data.map_err(|_| anyhow!("the thread that reads METEOR's data has died"))??;
    let scorer = TextScorer::new(protocol, Meteor::new(Some(Arc::new(data))));
    let counts = scorer.counts_with(pairs, &frequencies);
    Ok((scorer, counts))
}

fn theirs(python: &Path, pairs: &[(String, String)]) -> Result<Theirs> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("pairs"), folder.path().join("scores"));
    std::fs::write(&input, serde_json::to_vec(pairs)?)?;
    run(Command::new(python)
        .args(["-c", PEER])
        .args([&input, &output]))?;
    golden::read_json(&output)
}

/// What `radialog evaluate report` takes for its resamples of all scores of as many studies: of texts, of labels with each
/// finding's, and of the classifier. Everything else is in the same command with one resample.
fn resample(pairs: &[(String, String)], meteor: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
    let mut random = Random::stream(1, "labels");
    let (mut lines, mut texts) = (String::new(), "study_id,findings\n".to_owned());
    let mut truths = Vec::new();
    for (place, (hypothesis, reference)) in pairs.iter().enumerate() {
        let id = format!("s{place}");
        let truth: [bool; 14] = array::from_fn(|_| random.below(4) == 0);
        let said = truth.map(|is_there| match is_there != (random.below(5) == 0) {
            true => Label::Positive,
            false => Label::Negative,
        });
        let certain = truth.map(|is_there| {
            let there = f32::from(u8::from(is_there));
            (random.unit() as f32 + there) / 2.0
        });
        lines += &line(&id, hypothesis, Some(said), Some(certain))?;
        texts += &format!("{id},\"{}\"\n", reference.replace('"', "\"\""));
        truths.push((id, truth.map(|is_there| if is_there { "1" } else { "0" })));
    }
    write("results.jsonl", lines)?;
    write("texts.csv", texts)?;
    let rows = truths.iter().map(|(id, cells)| (id.as_str(), *cells));
    write("labels.csv", label_table(rows))?;
    let seconds = |resamples: usize| -> Result<f64> {
        let (resamples, out) = (resamples.to_string(), format!("{resamples}-resamples"));
        let files = ["results.jsonl", "--references", "texts.csv", "labels.csv"];
        let scores = ["--protocol", "coco-caption", "--meteor", meteor];
        let how = ["--resamples", &resamples, "--out", &out];
        let arguments = [&["evaluate", "report"][..], &files, &scores, &how].concat();
        let mut command = radialog(&arguments)?;
        let start = Instant::now();
        run(command.current_dir(folder.path()))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let (one, all) = (seconds(1)?, seconds(RESAMPLES)?);
    println!(
        "{RESAMPLES} resamples of all scores of radialog evaluate report: {:.2} s (of the command's {all:.2} s; with one resample {one:.2} s)",
        all - one
    );
    Ok(())
}
