//! `radialog evaluate report`: generated reports beside references, by the protocol that papers use.

use std::collections::HashSet;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use radialog_coordinator::run::output::{RESULTS_FILE, RunFile};
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::corpus::References;
use radialog_training::evaluation::report_files::{self, EvaluatedReports, ImageFolder};
use radialog_training::evaluation::report_scores::{
    self, BlankAs, Metric, MetricGroup, ReportScores, ScoreOptions,
};
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextProtocol, TextScorer};

use self::input::Read;
use self::sources::Sources;
use super::ProtocolName;
use super::label_rules::{Blank, Uncertain};
use super::out_folder::{OutFolder, counts_file, tell_resumed};
use super::resampling::ResamplingArgs;
use super::text::annotations::AnnotationArgs;
use crate::commands::prepare::run::RunArgs;
use crate::exit::{EXIT_INTERRUPTED, UsageError};
use crate::results_place::is_in_store;

mod input;
mod labels;
mod printed;
mod run_references;
mod sources;

/// What an error of a thread is about.
const ENDED: &str = "the evaluation ended unexpectedly";
/// The folder of results where --out names none.
const FOLDER: &str = "evaluation";
/// What files of the reports and of those of another system are called.
const OURS: &str = "reports";
const THEIRS: &str = "against";

/// Score generated reports beside references: text scores, CheXbert scores and findings, with 95 % intervals
///
/// RUN is a run (the output folder of `radialog batch`, its results.jsonl, or s3://bucket/prefix where its results are in a
/// store); a CSV table with columns of ids (study_id, dicom_id, id) and texts (prediction, report, findings, text), made by any
/// system; a CSV without a header and with one text a row; or a JSON of ReXrank.
///
/// References are report texts or labels, in any number of files: a CSV with ids and a column findings, reference, report or text; a
/// CSV with ids and columns of the 14 findings (NIH's labels.csv, MIMIC-CXR's chexpert.csv); a folder of reports as MIMIC-CXR has
/// them; ReXrank's JSON. Texts give text scores, labels give clinical scores of reports that are labelled and scores of the
/// classifier's findings. Without --references those count that the run's archive had: their labels, and their texts in the run's
/// store (--objects or --s3, else RUN/objects). What has no reference is counted and named,
/// and not scored.
///
/// With --bundle, texts that have no labels are labelled by its scoring component, through the queue and the workers; run the same
/// command again to resume.
///
/// Writes to --out: report.html (scores, plots, best and worst studies), report.md (scores, and the published ones), scores.json,
/// studies.csv (scores of each study), faults.csv (what is wrong with the files, with line and id).
///
/// radialog-2023 splits texts as RaDialog's own test program does, coco-caption as the caption toolkit does, with CIDEr on top.
/// rexrank has ReXrank's BLEU-2, and compares with findings and impression where the references are its JSON. Clinical scores
/// name whose labels they are of, reports' and true ones: macro is the mean of findings, micro counts all cells together; over 14 findings, and over the five
/// of CheXpert's competition. Wrong labels are also weighed by what they could do to a patient, and sentences counted that compare
/// with an earlier image; a run with --consistency is scored without its least consistent studies, too.
///
/// Examples:
///
/// radialog evaluate report results
///
/// radialog evaluate report results --references nih/labels.csv --split test
///
/// radialog evaluate report predictions.csv --references sectioned.csv finding_chexbert_labels.csv --meteor meteor-1.5.jar
///
/// radialog evaluate report predictions.csv --references reports.csv --bundle /bundles/radialog-v1 --against other.csv
#[derive(Args)]
#[command(mut_arg("bundle", |bundle| bundle
    .help("Bundle whose scoring component labels what has no labels: a folder, or s3://bucket/prefix. Without it, nothing is labelled")
    .long_help(None)))]
#[command(mut_arg("run", |run| run
    .help("Folder of the run that labels; holds the state to resume from. Default: in --out, by the texts' hash")
    .long_help(None)))]
pub(super) struct ReportArgs {
    /// Generated reports
    #[arg(value_name = "RUN|FILE")]
    reports: PathBuf,
    /// Report texts or labels: tables, a folder of reports, ReXrank's JSON
    #[arg(long, num_args = 1.., value_name = "FILE|DIR")]
    references: Vec<PathBuf>,
    /// How texts are split, and which text scores are computed
    #[arg(long, value_enum, default_value_t = ProtocolName::Radialog2023)]
    protocol: ProtocolName,
    /// METEOR's data: meteor-1.5.jar, or the folder that has it and data/paraphrase-en.gz
    #[arg(long, value_name = "JAR|DIR")]
    meteor: Option<PathBuf>,
    /// What an uncertain label counts as, in references and reports. Default: negative, as in the paper
    #[arg(long, value_enum)]
    uncertain: Option<Uncertain>,
    /// What an empty cell of a table of labels counts as. auto: not there, but rows and findings without any label are not scored.
    /// Default: auto; negative, as in the original, where all tables are CheXbert's by their names, and for --original-files
    #[arg(long, value_enum)]
    blank: Option<Blank>,
    /// Only studies of this split, by a column of the references or the results
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Only the first so many studies, in the order of the references
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// All studies with a finding, and a thirteenth as many without, as RaDialog's --strat_eval
    #[arg(long)]
    stratified: bool,
    /// Another system's reports on the same studies, to compare with by a paired randomisation test
    #[arg(long, value_name = "RUN|FILE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    resampling: ResamplingArgs,
    /// The folder to write to. Default: evaluation in the run's folder, else in the working directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The folder that the names of images are relative to, for the page. Default: the archive of the run, or the folder of its table
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Also show images outside of that folder, which names with absolute paths or .. and links can lead to: those of a run with
    /// --allow-outside
    #[arg(long)]
    allow_outside: bool,
    /// Also write predictions, labels and scores below this folder, under the names that the original's test program gives them.
    /// The first line of the scores is the name of the run; the original has a prompt there, which no record of a run holds
    #[arg(long, value_name = "DIR")]
    original_files: Option<PathBuf>,
    /// Print scores.json instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    annotations: AnnotationArgs,
    #[command(flatten)]
    labelling: RunArgs,
}

pub(super) async fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let args = Arc::new(args);
    let of = args.clone();
    let options = tokio::task::spawn_blocking(move || options(&of));
    let options = options.await.context(ENDED)??;
    let sources = Sources::of(&args).await?;
    let (of, out) = (args.clone(), out(&args));
    let place = out.clone();
    let folder = tokio::task::spawn_blocking(move || {
        let mut folder = OutFolder::take(&place)?;
        let mut files = report_files::files(&place);
        if let Some(folder) = &of.original_files {
            files.extend(report_files::original_files(folder, &name(&of)));
        }
        let read = [Some(&of.reports), of.against.as_ref()];
        let read = read.into_iter().flatten().chain(&of.references);
        let read = read.chain(of.annotations.files()).map(PathBuf::as_path);
        folder.set_aside(&files, read)?;
        anyhow::Ok(folder)
    });
    let folder = folder.await.context(ENDED)??;
    let result = read_and_evaluate(args, sources, options, out).await;
    tokio::task::block_in_place(|| folder.settle(&result))?;
    result
}

async fn read_and_evaluate(
    args: Arc<ReportArgs>,
    sources: Sources,
    options: ScoreOptions,
    out: PathBuf,
) -> anyhow::Result<ExitCode> {
    let Some(mut ours) = Read::labelled(&args, &sources.reports, &out, OURS).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let other = match &sources.against {
        Some(against) => match Read::labelled(&args, against, &out, THEIRS).await? {
            Some(other) => {
                let added = ours.corpus.add_faults_of(&other.corpus);
                added.context("cannot read the faults of --against")?;
                Some(other)
            }
            None => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
        },
        None => None,
    };
    tokio::task::spawn_blocking(move || {
        evaluate(&args, &sources, (&ours, other.as_ref()), &options, &out)
    })
    .await
    .context(ENDED)??;
    Ok(ExitCode::SUCCESS)
}

fn evaluate(
    args: &ReportArgs,
    sources: &Sources,
    (ours, other): (&Read, Option<&Read>),
    options: &ScoreOptions,
    out: &Path,
) -> anyhow::Result<()> {
    let options = &ScoreOptions {
        blank: ours.blank,
        ..options.clone()
    };
    let scores = score(ours, None, options, args, out)?;
    let totals = &scores.totals;
    if args.uncertain.is_some() && totals.labelled == 0 && totals.classified == 0 {
        let message = "--uncertain is about labels, and none are scored: leave it out, or name labels of the references";
        return Err(UsageError(message.to_owned()).into());
    }
    let comparison = match (&sources.against, other) {
        (Some(against), Some(other)) => {
            let others = score(other, Some(ours), options, args, out)?;
            let compared = report_scores::compare(
                &against.name,
                (&ours.corpus, &scores),
                (&other.corpus, &others),
                options,
            )?;
            let Some(compared) = compared else {
                let reason = format!(
                    "{} and {} have no study in common: they must be reports of the same archive",
                    sources.reports.name, against.name
                );
                return Err(UsageError(reason).into());
            };
            Some(compared)
        }
        _ => None,
    };
    let images = images(args, sources)?;
    let evaluated = EvaluatedReports {
        name: name(args),
        corpus: &ours.corpus,
        texts: &ours.texts,
        scores: &scores,
        comparison: comparison.as_ref(),
        options,
        images: images.as_ref(),
    };
    let summary = report_files::write(out, &evaluated)?;
    let mut written = vec![out.to_owned()];
    if let Some(folder) = &args.original_files {
        written.extend(report_files::write_original_files(folder, &evaluated)?);
    }
    for texts in [OURS, THEIRS] {
        counts_file(out, texts).remove()?;
    }
    if args.json {
        out!("{summary}");
        return Ok(());
    }
    printed::print(&evaluated);
    for path in written {
        outln!("written to {}", path.display());
    }
    Ok(())
}

/// Where the images are: where the flag says, else where the run has read them.
fn images(args: &ReportArgs, sources: &Sources) -> anyhow::Result<Option<ImageFolder>> {
    let image_folder = |folder: &Path| ImageFolder {
        folder: folder.to_owned(),
        allows_outside: args.allow_outside,
    };
    if let Some(folder) = &args.images {
        return Ok(Some(image_folder(folder)));
    }
    let reports = &sources.reports.path;
    let run = match reports.parent() {
        _ if reports.is_dir() => RunFile::read(reports)?,
        Some(folder) if is_results(reports) => RunFile::read(folder)?,
        _ => None,
    };
    let Some(archive) = run.map(|run| PathBuf::from(run.input)) else {
        return Ok(None);
    };
    // A table names images beside itself.
    let folder = match &archive {
        folder if folder.is_dir() => Some(folder.as_path()),
        file if file.is_file() => file.parent(),
        _ => None,
    };
    if folder.is_none() {
        errln!(
            "note: the page shows no images, since the run's archive '{}' is not here: name their folder with --images",
            archive.display()
        );
    }
    Ok(folder.map(image_folder))
}

/// Whether the file is a run's own, so that the run beside it says where its images are.
fn is_results(reports: &Path) -> bool {
    reports.file_name().is_some_and(|name| name == RESULTS_FILE)
}

fn options(args: &ReportArgs) -> anyhow::Result<ScoreOptions> {
    input::require_files(args)?;
    refuse_idle_options(args)?;
    if args.against.is_some() && args.labelling.names_run() {
        let message = "--run names one folder, and the labels of --against need another: leave --run out, and both lie in --out";
        return Err(UsageError(message.to_owned()).into());
    }
    if args.against.is_some() && args.annotations.are_given() {
        let message =
            "annotations are of one system's reports: leave --against out, or the annotations";
        return Err(UsageError(message.to_owned()).into());
    }
    let protocol = args.protocol.protocol();
    if protocol == TextProtocol::Rexrank && args.meteor.is_some() {
        let message = "--protocol rexrank has no METEOR: leave --meteor out";
        return Err(UsageError(message.to_owned()).into());
    }
    if protocol != TextProtocol::Radialog2023 && args.original_files.is_some() {
        let message =
            "--original-files are those of --protocol radialog-2023: leave one of the two out";
        return Err(UsageError(message.to_owned()).into());
    }
    let meteor = match &args.meteor {
        Some(place) => Meteor::new(Some(Arc::new(MeteorData::read(place)?))),
        None => Meteor::new(None),
    };
    Ok(ScoreOptions {
        scorer: TextScorer::new(protocol, meteor),
        uncertain: args.uncertain.map_or(UncertainAs::Negative, Into::into),
        // Until the references are read.
        blank: BlankAs::Auto,
        resampling: args.resampling.resampling(),
        counts: None,
    })
}

/// What a missing label counts as. A table of CheXbert's is read as the original reads it, whose files have no other.
fn blank(args: &ReportArgs, references: Option<&References>) -> BlankAs {
    let is_chexberts = references.is_some_and(References::are_labelled_by_chexbert);
    match args.blank {
        None if args.original_files.is_some() || is_chexberts => BlankAs::Negative,
        blank => blank.map_or(BlankAs::Auto, Into::into),
    }
}

/// Refuses options that would change nothing, and a file that is named twice.
fn refuse_idle_options(args: &ReportArgs) -> anyhow::Result<()> {
    if !args.labelling.names_bundle()
        && (args.labelling.names_run() || args.labelling.retries_failed())
    {
        let message =
            "--run and --retry-failed are about the run that labels: name its bundle with --bundle";
        return Err(UsageError(message.to_owned()).into());
    }
    if args.annotations.are_given() && args.protocol.protocol() != TextProtocol::Rexrank {
        let message = "annotations are scored under --protocol rexrank";
        return Err(UsageError(message.to_owned()).into());
    }
    let place = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let mut files = HashSet::new();
    if let Some(twice) = args
        .references
        .iter()
        .find(|path| !files.insert(place(path)))
    {
        let message = format!("--references name '{}' twice", twice.display());
        return Err(UsageError(message).into());
    }
    if args.against.as_ref().map(place) == Some(place(&args.reports)) {
        let message = "--against names the reports themselves: name those of another system";
        return Err(UsageError(message.to_owned()).into());
    }
    if let Some(file) = args.original_files.as_ref().filter(|path| path.is_file()) {
        let message = format!("--original-files: '{}' is no folder", file.display());
        return Err(UsageError(message).into());
    }
    let names_run =
        is_in_store(&args.reports) || args.reports.is_dir() || is_results(&args.reports);
    if args.allow_outside && args.images.is_none() && !names_run {
        let message = "--allow-outside is about the images on the page, and nothing says where they are: name their folder with --images";
        return Err(UsageError(message.to_owned()).into());
    }
    if let Some(folder) = args.images.as_ref().filter(|folder| !folder.is_dir()) {
        let reason = format!("--images: '{}' is no folder", folder.display());
        return Err(UsageError(reason).into());
    }
    Ok(())
}

/// Scores one system's reports; CIDEr looks at the references of `beside` where it is given.
fn score(
    read: &Read,
    beside: Option<&Read>,
    options: &ScoreOptions,
    args: &ReportArgs,
    out: &Path,
) -> anyhow::Result<ReportScores> {
    let (corpus, run) = (&read.corpus, &read.reports.name);
    if corpus.studies.is_empty() {
        printed::print_faults(corpus);
        report_files::write_faults(out, corpus)?;
        let reason = match (&args.split, corpus.predictions) {
            (_, 0) => format!("{run} has no prediction"),
            (Some(split), _) if corpus.other_splits > 0 => format!(
                "{run} has no study of the split '{split}' that can be scored, but {} of others",
                corpus.other_splits
            ),
            _ => format!(
                "nothing of {run} can be scored: name what its studies are compared with by --references (report texts, or a table of \
                 labels), with the same ids"
            ),
        };
        return Err(UsageError(reason).into());
    }
    let bar = progress_bar(read.corpus.studies.len() as u64)?;
    let options = &ScoreOptions {
        counts: Some(counts_file(out, read.name)),
        ..options.clone()
    };
    let beside = beside.map(|read| (&read.corpus, &read.texts));
    let scores = report_scores::score(&read.corpus, &read.texts, beside, options, &|done| {
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    tell_resumed(scores.resumed);
    let is_compared = |metric: &Metric| metric.group != MetricGroup::Comparisons;
    if !scores.metrics.iter().any(is_compared) {
        report_files::write_faults(out, corpus)?;
        return Err(UsageError(format!(
            "the studies of {run} have neither a text beside a reference text, nor labels beside reference labels: name report texts \
             by --references, or a table of labels for a run with findings or labelled reports; --bundle labels texts"
        ))
        .into());
    }
    Ok(scores)
}

/// How what is evaluated is called.
fn name(args: &ReportArgs) -> String {
    args.reports.display().to_string()
}

/// Where the results go.
fn out(args: &ReportArgs) -> PathBuf {
    args.out
        .clone()
        .unwrap_or_else(|| match args.reports.is_dir() {
            true => args.reports.join(FOLDER),
            false => FOLDER.into(),
        })
}

fn progress_bar(studies: u64) -> anyhow::Result<ProgressBar> {
    let bar = match stderr().is_terminal() {
        true => ProgressBar::new(studies),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  scored");
    Ok(bar.with_style(style.context("progress bar")?))
}
