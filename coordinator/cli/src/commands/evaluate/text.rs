//! `radialog evaluate text`: text scores of plain files, without a model.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use radialog_training::evaluation::text_rows;
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextProtocol, TextScore, TextScorer};
use serde::Serialize;

use super::ProtocolName;
use crate::exit::UsageError;

/// Score texts beside reference texts: BLEU, METEOR, ROUGE-L and CIDEr as papers report them
///
/// Both files are CSV without a header, one text a row, in the same order. An empty hypothesis is scored (0); a row whose
/// reference is empty or `nan` is skipped. What was scored and skipped is counted, and named with its line.
///
/// Protocols: radialog-2023 splits texts as RaDialog's own test program does (NLTK, lower case). coco-caption splits them as the
/// caption toolkit does (Stanford's PTB tokenizer, without punctuation), and has CIDEr on top. Scores of different protocols
/// cannot be compared.
///
/// With --meteor, METEOR 1.5 is computed as papers do: name meteor-1.5.jar or its folder, which hold its function words,
/// abbreviations, synonyms and paraphrases; `pip install pycocoevalcap` brings both. Java is not needed. Without it, words match
/// by exact form and stem and all weigh alike, and the printed name says so.
///
/// Examples:
///
/// radialog evaluate text --hypotheses generated.csv --references findings.csv
///
/// radialog evaluate text --hypotheses generated.csv --references findings.csv --protocol coco-caption --meteor
/// site-packages/pycocoevalcap/meteor --json
#[derive(Args)]
pub(super) struct TextArgs {
    /// Generated texts
    #[arg(long, value_name = "CSV")]
    hypotheses: PathBuf,
    /// Reference texts
    #[arg(long, value_name = "CSV")]
    references: PathBuf,
    /// How texts are split, and which scores are computed
    #[arg(long, value_enum, default_value_t = ProtocolName::Radialog2023)]
    protocol: ProtocolName,
    /// METEOR's data: meteor-1.5.jar, or the folder that has it and data/paraphrase-en.gz
    #[arg(long, value_name = "JAR|DIR")]
    meteor: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Scores {
    protocol: TextProtocol,
    scored: u64,
    /// Scored, as texts without a word.
    empty_hypotheses: u64,
    skipped: Vec<Skipped>,
    scores: Vec<TextScore>,
}

/// A row that was not scored.
#[derive(Serialize)]
struct Skipped {
    line: u64,
    reason: &'static str,
}

pub(super) fn run(args: &TextArgs) -> anyhow::Result<ExitCode> {
    let meteor = match &args.meteor {
        Some(place) => Meteor::new(Some(Arc::new(MeteorData::read(place)?))),
        None => Meteor::new(None),
    };
    let (hypotheses, references) = (rows(&args.hypotheses)?, rows(&args.references)?);
    if hypotheses.len() != references.len() {
        return Err(UsageError(format!(
            "{} has {} rows and {} has {}: give one text a row, without a header, in the same order",
            args.hypotheses.display(),
            hypotheses.len(),
            args.references.display(),
            references.len()
        ))
        .into());
    }
    let protocol = args.protocol.protocol();
    let mut scorer = TextScorer::new(protocol, meteor);
    let mut found = Scores {
        protocol,
        scored: 0,
        empty_hypotheses: 0,
        skipped: Vec::new(),
        scores: Vec::new(),
    };
    for ((_, hypothesis), (line, reference)) in hypotheses.iter().zip(&references) {
        if is_missing(reference) {
            found.skipped.push(Skipped {
                line: *line,
                reason: "the reference is empty",
            });
            continue;
        }
        let hypothesis = if is_missing(hypothesis) {
            found.empty_hypotheses += 1;
            ""
        } else {
            hypothesis
        };
        scorer.add(hypothesis, reference);
        found.scored += 1;
    }
    if found.scored == 0 {
        bail!(
            "{}: none of the {} rows has a reference",
            args.references.display(),
            references.len()
        );
    }
    found.scores = scorer.scores();
    print(&found, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn print(found: &Scores, json: bool) -> anyhow::Result<()> {
    if json {
        outln!("{}", serde_json::to_string_pretty(found)?);
        return Ok(());
    }
    outln!(
        "{} texts scored ({} of them empty), {} skipped",
        found.scored,
        found.empty_hypotheses,
        found.skipped.len()
    );
    for skipped in &found.skipped {
        outln!("  line {}: {}", skipped.line, skipped.reason);
    }
    for score in &found.scores {
        outln!("  {:<26} {:.4}  higher is better", score.name, score.value);
    }
    Ok(())
}

/// Whether a cell holds no text: pandas writes a missing one as `nan`.
fn is_missing(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.eq_ignore_ascii_case("nan")
}

fn rows(file: &Path) -> anyhow::Result<Vec<(u64, String)>> {
    text_rows::read(file).with_context(|| format!("cannot use {}", file.display()))
}
