//! `radialog finetune`: from a table of one's own to a bundle that has learned from it, in one command that goes on where it was
//! interrupted.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_files::durable;
use radialog_files::folder_lock::{FolderLock, FolderLockError};
use radialog_models::bundle::Bundle;
use radialog_models::device::{self, Device};
use radialog_runtime::config::Config;
use radialog_runtime::shutdown;
use radialog_schemas::{Finding, Stage, counted};
use radialog_training::finetune::{
    ColumnNames, DataSets, FinetuneTable, Labelled, TrainedPart, cells, divide,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::evaluate::show;
use crate::args::BundleSource;
use crate::bundle_source;
use crate::exit::{EXIT_INTERRUPTED, UsageError, input_at_fault};
use crate::named_path;

mod check;
mod parts;
mod results;

use parts::Training;

/// The file that says of what a folder is the fine-tuning.
const STATE_FILE: &str = "finetune.json";
/// The file whose lock a fine-tuning holds.
const LOCK_FILE: &str = ".finetune.lock";

/// Train a bundle further on your own table of images, reports and labels
///
/// One command from a CSV to a bundle that is ready to be served. The table has a row an image: the
/// image's file, and the radiologist's report, labels of findings, or both; perhaps the patient and a
/// split. Columns are recognised by usual names (image, path, file; report, text, findings;
/// patient_id, subject_id, study_id; split; the findings' names, or one column labels that names
/// several, as "Effusion|Edema"), or named by flags. Labels are 1, 0, -1 or nothing, or yes, no,
/// uncertain.
///
/// 1. The whole table is checked, every image is read, and all faults are told at once with their
///    lines; so is what each column was taken for, and which are not read. --check stops there, and
///    says what would be trained and which findings have too few images.
/// 2. Patients are divided into train, validate and test, where the table does not say so. Where a
///    row has a report and no label, the bundle's CheXbert labels it. For what learns from texts, it
///    reads in every report the findings that no row has a label of, too.
/// 3. What the table allows is trained, by recipes that fit its size (OUT/recipes): the classifier on
///    labelled images, the language model (LoRA) on reports, and with --labeler CheXbert on reports
///    that the table has labels of; findings that no row has a label of are learned as it has read
///    them, and not scored. A part is taken only where it is better on the validation rows than the
///    bundle that it started from. Ctrl-C loses nothing: the same command goes on.
/// 4. The bundle before and after is measured on the test rows, with intervals, and put together in
///    OUT/bundle beside OUT/MODEL_CARD.md.
///
/// Examples:
///   radialog finetune mine.csv --out runs/mine
///   radialog finetune mine.csv --images /data/xrays --image file --report befund --patient pid \
///       --out runs/mine
///   radialog finetune mine.csv --finding "Pleural Effusion=effusion" --finding Edema=oedema --check \
///       --out runs/mine
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct FinetuneArgs {
    /// CSV with a row an image
    #[arg(value_name = "CSV")]
    table: PathBuf,
    /// Folder to write to; the same command goes on with what is there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder that the images' names are relative to [default: the table's own]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Column of the image's file
    #[arg(long, value_name = "COLUMN")]
    image: Option<String>,
    /// Column of the radiologist's text
    #[arg(long, value_name = "COLUMN")]
    report: Option<String>,
    /// Column of the patient, whose images stay on one side
    #[arg(long, value_name = "COLUMN")]
    patient: Option<String>,
    /// Column of the split: train, validate (val, valid, dev), test
    #[arg(long, value_name = "COLUMN")]
    split: Option<String>,
    /// Column that names several findings, between | ; or ,
    #[arg(long, value_name = "COLUMN")]
    labels: Option<String>,
    /// Column of the sex; figures are told by sex, age, view and source, too
    #[arg(long, value_name = "COLUMN")]
    sex: Option<String>,
    /// Column of the age in years
    #[arg(long, value_name = "COLUMN")]
    age: Option<String>,
    /// Column of the view, e.g. AP or PA
    #[arg(long, value_name = "COLUMN")]
    view: Option<String>,
    /// Column of the source, e.g. the hospital
    #[arg(long, value_name = "COLUMN")]
    source: Option<String>,
    /// Column of the labels of one finding; repeatable
    #[arg(long, value_name = "FINDING=COLUMN")]
    finding: Vec<String>,
    /// Bundle to start from: a folder, s3://bucket/prefix or demo [default: demo]
    #[arg(long, env = "RADIALOG_BUNDLE", value_name = "DIR|URL")]
    bundle: Option<String>,
    /// Only check the table, and say what would be trained
    #[arg(long)]
    check: bool,
    /// Train only these
    #[arg(
        long,
        value_name = "PARTS",
        value_delimiter = ',',
        conflicts_with = "labeler"
    )]
    only: Vec<Part>,
    /// Also train the CheXbert labeler on reports that the table has labels of
    #[arg(long)]
    labeler: bool,
    /// As many epochs of each training [default: what fits the table; ends early where nothing gets better]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Name of the new bundle
    #[arg(long, default_value = "finetuned")]
    name: String,
    /// Decides all that is drawn, the division of patients among it
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where models compute: cpu, or cuda:0 in a build with --features cuda
    #[arg(long, env = "RADIALOG_DEVICE", default_value = "cpu")]
    device: String,
}

/// A part by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The classifier of findings
    Findings,
    /// CheXbert
    Labeler,
    /// The language model
    Language,
}

/// Of what a folder is the fine-tuning: with anything else the same command is another one.
#[derive(Serialize, Deserialize, PartialEq)]
struct State {
    table: String,
    bundle: String,
    options: String,
    /// The folder of the images.
    #[serde(default)]
    images: String,
    /// The new bundle's.
    #[serde(default)]
    name: String,
}

impl FinetuneArgs {
    fn columns(&self) -> Result<ColumnNames, UsageError> {
        let one = |text: &String| {
            let (finding, column) = text.split_once('=').unwrap_or_default();
            let finding = cells::finding(finding).filter(|_| !column.is_empty());
            let names = || Finding::ALL.map(Finding::name).join(", ");
            let fault = || {
                UsageError(format!(
                    "--finding {text}: use FINDING=COLUMN; findings are {}",
                    names()
                ))
            };
            Ok((finding.ok_or_else(fault)?, column.to_owned()))
        };
        Ok(ColumnNames {
            image: self.image.clone(),
            report: self.report.clone(),
            patient: self.patient.clone(),
            split: self.split.clone(),
            labels: self.labels.clone(),
            groups: [&self.sex, &self.age, &self.view, &self.source].map(Option::clone),
            findings: self
                .finding
                .iter()
                .map(one)
                .collect::<Result<_, UsageError>>()?,
        })
    }

    /// The parts that are asked for.
    fn wanted(&self) -> Vec<TrainedPart> {
        let is_wanted = |part: &TrainedPart| match self.only.is_empty() {
            true => *part != TrainedPart::Labeler || self.labeler,
            false => self.only.iter().any(|only| only.part() == *part),
        };
        TrainedPart::ALL.into_iter().filter(is_wanted).collect()
    }

    /// All that decides what comes out, beside table and bundle.
    fn options(&self) -> String {
        format!(
            "{:?} {:?} {:?} {} {}",
            self.columns().ok(),
            self.wanted(),
            self.epochs,
            self.seed,
            self.device
        )
    }
}

impl Part {
    fn part(self) -> TrainedPart {
        match self {
            Part::Findings => TrainedPart::Findings,
            Part::Labeler => TrainedPart::Labeler,
            Part::Language => TrainedPart::Language,
        }
    }
}

pub(crate) async fn run(args: FinetuneArgs) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signals()?;
    named_path::require(&args.table, "name the CSV of your images")?;
    refuse_taken(&args.out)?;
    let columns = args.columns()?;
    let device = device::from_name(&args.device)?;
    let config = Config::load(None, std::env::vars(), [])?;
    let source = BundleSource::of(args.bundle.as_deref());
    let bundle = bundle_source::open(&source, &Stage::ALL, &config).await?;
    let asked = stop.clone();
    tokio::spawn(async move {
        asked.cancelled().await;
        errln!(
            "stopping at the next safe place, from which the same command goes on; a second signal stops at once"
        );
    });
    let work = move || finetune(&args, &columns, &bundle, &device, &stop);
    tokio::task::spawn_blocking(work)
        .await
        .context("the fine-tuning ended unexpectedly")?
}

fn finetune(
    args: &FinetuneArgs,
    columns: &ColumnNames,
    bundle: &Bundle,
    device: &Device,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let interrupted = || {
        outln!("interrupted; nothing is lost: the same command goes on.");
        Ok(ExitCode::from(EXIT_INTERRUPTED))
    };
    let mut table = read_table(args, columns)?;
    let (sides, notes) = divide(&mut table.rows, args.seed).map_err(input_at_fault)?;
    table.notes.extend(notes);
    outln!("{}: {}", table.path.display(), table.columns);
    for (side, (images, patients)) in &sides.0 {
        let patients = counted(*patients, "patient", "patients");
        let noun = if *images == 1 { "image" } else { "images" };
        outln!("  {side:<9} {images:>7} {noun} of {patients}");
    }
    table.notes.iter().for_each(|note| outln!("  {note}"));
    let planned = check::planned(&table, &args.wanted());
    if args.check {
        planned.lines().for_each(|line| outln!("  {line}"));
    }
    planned.require_one()?;
    if args.check {
        outln!("no fault found; it has {}", check::contents(&table));
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = take(&args.out, &table, bundle, args)?;
    let data = DataSets(args.out.join("data"));
    if !data.images().is_file() {
        let bar = bar()?;
        let wanted = args.wanted();
        let are_texts_learned = wanted.iter().any(|part| *part != TrainedPart::Findings);
        let progress = |what: &str, done, total| show(&bar, what, done, total);
        data.write_tables(&table, are_texts_learned, bundle, device, &progress)?;
        bar.finish_and_clear();
        let labelled = Labelled::of(&table.rows).words();
        labelled.iter().for_each(|line| outln!("  {line}"));
    }
    if stop.is_cancelled() {
        return interrupted();
    }
    let training = Training {
        args,
        table: &table,
        data: &data,
        bundle,
        device,
        stop,
    };
    let Some(trained) = training.run()? else {
        return interrupted();
    };
    let Some(bundle) = results::finish(&training, &trained)? else {
        return interrupted();
    };
    outln!("\nthe bundle is {}; to talk with it:", bundle.display());
    outln!("  radialog serve --bundle {}", bundle.display());
    outln!("Research software, not a medical device.");
    Ok(ExitCode::SUCCESS)
}

fn read_table(args: &FinetuneArgs, columns: &ColumnNames) -> anyhow::Result<FinetuneTable> {
    let folder = match &args.images {
        Some(folder) => folder.clone(),
        None => match args.table.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        },
    };
    if let Some(folder) = &args.images {
        named_path::require(folder, "--images is the folder of the images")?;
    }
    let bar = bar()?;
    let read = FinetuneTable::read(&args.table, &folder, columns, &|done, total| {
        show(&bar, "reading images", done, total);
    });
    bar.finish_and_clear();
    read.map_err(input_at_fault)
}

/// Refuses what cannot be the folder of a fine-tuning, before anything is made.
fn refuse_taken(out: &Path) -> Result<(), UsageError> {
    let what = if out.exists() && !out.is_dir() {
        "is no folder"
    } else if out.join(RESULTS_FILE).exists() && !out.join(STATE_FILE).exists() {
        "has the results of a run"
    } else {
        return Ok(());
    };
    let shown = out.display();
    Err(UsageError(format!(
        "'{shown}' {what}: name another folder with --out"
    )))
}

/// Takes the folder for this fine-tuning, or refuses one that has another.
fn take(
    out: &Path,
    table: &FinetuneTable,
    bundle: &Bundle,
    args: &FinetuneArgs,
) -> anyhow::Result<FolderLock> {
    let shown = out.display();
    fs::create_dir_all(out).with_context(|| format!("cannot create '{shown}'"))?;
    let lock = FolderLock::take(&out.join(LOCK_FILE)).map_err(|error| match error {
        FolderLockError::Held(holder) => {
            anyhow!("another fine-tuning writes to '{shown}' ({holder}): wait for it, or name another folder with --out")
        }
        FolderLockError::Io(error) => anyhow!("cannot lock '{shown}': {error}"),
    })?;
    let state = State {
        table: table.hash.as_str().to_owned(),
        bundle: bundle.manifest().hash().as_str().to_owned(),
        options: args.options(),
        images: table.folder.display().to_string(),
        name: args.name.clone(),
    };
    let path = out.join(STATE_FILE);
    if !path.is_file() {
        let text = serde_json::to_string_pretty(&state)? + "\n";
        durable::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write '{}'", path.display()))?;
        return Ok(lock);
    }
    let text = fs::read(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
    let before: State = serde_json::from_slice(&text).with_context(|| {
        format!(
            "'{}' is damaged: name another folder with --out",
            path.display()
        )
    })?;
    let differs = [
        (before.table != state.table, "table"),
        (before.bundle != state.bundle, "bundle"),
        (before.options != state.options, "options"),
        (before.images != state.images, "folder of images"),
        (before.name != state.name, "name"),
    ];
    let differs: Vec<&str> = differs
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, what)| *what)
        .collect();
    match differs.is_empty() {
        true => Ok(lock),
        false => Err(UsageError(format!(
            "'{shown}' has the fine-tuning of another {}: name another folder with --out",
            differs.join(" and ")
        ))
        .into()),
    }
}

fn bar() -> anyhow::Result<ProgressBar> {
    let bar = match stderr().is_terminal() {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}  {eta} left");
    bar.set_style(style.context("progress bar")?);
    Ok(bar)
}
