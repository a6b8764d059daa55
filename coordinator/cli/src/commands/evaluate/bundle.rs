//! `radialog evaluate bundle`: the quality of a bundle on studies that it never saw, as tables and as JSON.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use radialog_files::durable;
use radialog_models::device;
use radialog_runtime::config::Config;
use radialog_schemas::table::split_name;
use radialog_training::evaluation::quality::score_table::{ScoreCell, ScoreSection, ScoreTable};
use radialog_training::evaluation::quality::{
    GeneratedText, QualityEvaluation, QualityPart, QualityReport,
};
use radialog_training::recipe::ImageTable;
use serde::Serialize;

use crate::args::BundleSource;
use crate::bundle_source;
use crate::commands::former_files::FormerFiles;
use crate::exit::{UsageError, input_at_fault};
use crate::named_path::require;

/// Measure a bundle on the test split: findings, CheXbert labels, reports from labels, reports from images, dialog
///
/// Each figure stands beside what needs no model, with a 95 % bootstrap interval over patients. Nothing of the test split may
/// have been trained on; use --split validate while models are still chosen.
///
/// findings: macro AUC of the classifier on images. chexbert: F1 of each label on reports. report: reports written from the
/// labels of real reports, beside their text and labels (the request brings an image with such labels, since there are no
/// pairs of images and reports: it is no picture of that patient). image: reports written from images, beside the labels
/// published for them, and the same with images exchanged. pairs: reports written from images, beside the radiologist's text of
/// the same image. dialog: 50 scripted turns, right or wrong by a rule.
///
/// Example: radialog evaluate bundle --bundle demo --openi openi/reports.csv --images nih/labels.csv nih/images
/// --images nih64/labels.csv nih64/images
#[derive(Args)]
pub(super) struct BundleArgs {
    /// Bundle of weights, or a checkpoint of a training where only its part is measured: a folder, or
    /// demo [default: demo]
    #[arg(long, env = "RADIALOG_BUNDLE", value_name = "DIR")]
    bundle: Option<String>,
    /// Table of labelled reports: study_id, split, findings and the 14 findings, as `radialog prepare openi` writes it
    #[arg(long, value_name = "TABLE")]
    openi: Option<PathBuf>,
    /// Table of labelled images (image, split, the 14 findings; patient_id where there is one), and their folder; repeatable
    #[arg(long, alias = "nih", num_args = 2, value_names = ["TABLE", "FOLDER"])]
    images: Vec<PathBuf>,
    /// Table of images with the radiologist's text about each (study_id, split, image, findings, the 14 findings; patient_id where
    /// there is one), and their folder
    #[arg(long, num_args = 2, value_names = ["TABLE", "FOLDER"])]
    pairs: Vec<PathBuf>,
    /// Measure only these, of findings, chexbert, report, image, pairs, dialog. Default: all that the tables allow
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<QualityPart>,
    /// The split that is scored: test, or validate (val, valid, dev)
    #[arg(long, default_value = "test", value_parser = scored_split)]
    split: String,
    /// Only so many reports, and images of each table
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Determines resamples, permutations and the dialog's turns
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Count a finding in an answer that lists them only where its name is in lower case, as the test program of RaDialog v2
    /// does. Without it case does not matter, as in v1's
    #[arg(long)]
    lower_case_names: bool,
    /// Where models run: cpu, or cuda:0 in a build with --features cuda
    #[arg(long, env = "RADIALOG_DEVICE", default_value = "cpu")]
    device: String,
    /// The JSON file to write
    #[arg(long, default_value = "quality.json", value_name = "FILE")]
    out: PathBuf,
    /// Also write every text that was scored, with its request and whether it is right, as JSON
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
}

/// The split that a flag names, in whatever spelling tables have.
fn scored_split(name: &str) -> Result<String, String> {
    match split_name(name) {
        side @ ("test" | "validate") => Ok(side.to_owned()),
        _ => Err("use test, or validate while models are still chosen".to_owned()),
    }
}

pub(super) async fn run(args: BundleArgs) -> anyhow::Result<ExitCode> {
    let quality = quality(&args)?;
    let mut former = FormerFiles::default();
    if args.texts.as_ref() == Some(&args.out) {
        let message = "--out and --texts name one file: name another for one of the two";
        return Err(UsageError(message.to_owned()).into());
    }
    let files: Vec<PathBuf> = std::iter::once(&args.out)
        .chain(&args.texts)
        .cloned()
        .collect();
    let read = args.openi.iter().chain(&args.images).map(PathBuf::as_path);
    tokio::task::block_in_place(|| former.set_aside(&files, read))?;
    let result = evaluate(args, quality).await;
    tokio::task::block_in_place(|| former.settle(&result))?;
    result
}

async fn evaluate(args: BundleArgs, quality: QualityEvaluation) -> anyhow::Result<ExitCode> {
    let config = Config::load(None, std::env::vars(), [])?;
    let source = BundleSource::of(args.bundle.as_deref());
    let bundle = bundle_source::open(&source, &quality.stages(), &config).await?;
    let bar = progress_bar()?;
    let measured = tokio::task::spawn_blocking(move || {
        let result = quality.measure(&bundle, &|what, done, total| show(&bar, what, done, total));
        bar.finish_and_clear();
        result
    });
    let (report, texts): (QualityReport, Vec<GeneratedText>) = measured
        .await
        .context("the evaluation ended unexpectedly")?
        .map_err(input_at_fault)?;
    outln!(
        "bundle '{}' ({}), split '{}'",
        report.bundle,
        report.hash.short(),
        report.split
    );
    // In the order of the work, which is also that of the pipeline.
    for section in QualityPart::ALL
        .iter()
        .filter_map(|part| report.parts.get(part))
    {
        print_section(section);
    }
    write(&args.out, &report)?;
    outln!("\nwritten to {}", args.out.display());
    if let Some(path) = &args.texts {
        write(path, &texts)?;
        outln!("texts in {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn quality(args: &BundleArgs) -> anyhow::Result<QualityEvaluation> {
    let table = |pair: &[PathBuf]| ImageTable {
        labels: pair[0].clone(),
        images: pair[1].clone(),
        ..ImageTable::default()
    };
    let images: Vec<ImageTable> = args.images.chunks_exact(2).map(table).collect();
    let pairs = args.pairs.chunks_exact(2).map(table).next();
    let possible = |part: &QualityPart| {
        (args.openi.is_some() || !part.needs_reports())
            && (!images.is_empty() || !part.needs_images())
            && (pairs.is_some() || !part.needs_pairs())
    };
    let asked = |part: &QualityPart| {
        if args.only.is_empty() {
            possible(part)
        } else {
            args.only.contains(part)
        }
    };
    let parts: Vec<QualityPart> = QualityPart::ALL.into_iter().filter(asked).collect();
    if let Some(part) = parts.iter().find(|part| !possible(part)) {
        let needs = if part.needs_pairs() {
            "--pairs TABLE FOLDER"
        } else if args.openi.is_none() && part.needs_reports() {
            "--openi TABLE"
        } else {
            "--images TABLE FOLDER"
        };
        return Err(UsageError(format!("to measure '{}', give {needs}", part.name())).into());
    }
    if parts.is_empty() {
        let reason =
            "give --openi TABLE, --images TABLE FOLDER, --pairs TABLE FOLDER, or several of them";
        return Err(UsageError(reason.into()).into());
    }
    let asks_dialog = parts.contains(&QualityPart::Dialog);
    if args.lower_case_names && !asks_dialog {
        let message = "--lower-case-names is about dialog, which is not measured: leave it out";
        return Err(UsageError(message.to_owned()).into());
    }
    if args.texts.is_some() && !parts.iter().any(|part| part.writes_texts()) {
        let message = "--texts has what report, image and dialog write, and none of them is measured: leave it out";
        return Err(UsageError(message.to_owned()).into());
    }
    for path in args.openi.iter().chain(&args.images) {
        require(
            path,
            "--openi names a table, --images a table and a folder of images",
        )?;
    }
    let device = device::from_name(&args.device)?;
    let (reports, split) = (args.openi.clone(), args.split.clone());
    Ok(QualityEvaluation {
        reports,
        images,
        pairs,
        parts,
        split,
        seed: args.seed,
        limit: args.limit.map(|limit| limit as usize),
        lower_case_names: args.lower_case_names,
        device,
    })
}

/// A bar over things that are counted.
pub(in crate::commands) fn progress_bar() -> anyhow::Result<ProgressBar> {
    let bar = if stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}").context("progress bar")?,
    );
    Ok(bar)
}

/// Shows on a bar, or in a line at the end where nobody sees a bar, how far it has come.
pub(in crate::commands) fn show(bar: &ProgressBar, what: &str, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
    bar.set_message(what.to_owned());
    if bar.is_hidden() && done == total {
        errln!("{what}: {done}");
    }
}

fn write(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn print_section(section: &ScoreSection) {
    outln!("\n{}", section.title);
    for note in section.notes.iter().chain(&section.cautions) {
        outln!("  {note}");
    }
    section.tables.iter().for_each(print_table);
}

fn print_table(table: &ScoreTable) {
    outln!("\n  {}", table.title);
    let cells =
        |row: &radialog_training::evaluation::quality::score_table::ScoreRow| -> Vec<String> {
            table
                .columns
                .iter()
                .map(|column| row.scores.get(column).map(written).unwrap_or_default())
                .collect()
        };
    let rows: Vec<Vec<String>> = table.rows.iter().map(cells).collect();
    let name = table
        .rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or_default();
    let width = |column: usize| {
        let longest = rows
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default();
        longest.max(table.columns[column].chars().count())
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let line = |first: &str, cells: &[String]| {
        let cells = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("  {cell:>width$}"));
        outln!("  {first:<name$}{}", cells.collect::<String>());
    };
    line("", &table.columns);
    for (row, cells) in table.rows.iter().zip(&rows) {
        line(&row.name, cells);
    }
}

/// A figure as people read it.
pub(in crate::commands) fn written(cell: &ScoreCell) -> String {
    // No "-0.000".
    let number = |value: f64| format!("{:.3}", (value * 1000.0).round() / 1000.0 + 0.0);
    match cell {
        ScoreCell::Count(count) => count.to_string(),
        ScoreCell::Fixed(value) => number(*value),
        ScoreCell::Measured(measure) => {
            let interval = match measure.interval() {
                Some([low, high]) => format!("{}, {}", number(low), number(high)),
                None => "-".to_owned(),
            };
            format!("{} [{interval}]", number(measure.value))
        }
        ScoreCell::Undefined => "-".into(),
    }
}
