//! `radialog prepare`: data sets for training, from the published archives.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use radialog_models::prompt::Prompts;
use radialog_schemas::counted;
use radialog_training::prepare::{
    ComposedDataset, Coverage, DialogDataset, InstructDataset, LabelTable, LabelledReport,
    Sectioning, SelectedReports, SplitTable, TaskPrompts, report_table_samples, samples,
    selection_words, write_reports,
};

use crate::args::SystemArg;

mod answers;
mod embeddings;
mod findings;
mod labels;
mod open_data;
pub(super) mod run;

/// The largest number of problems that are listed.
const LISTED: usize = 10;

/// Make the data sets that training reads
#[derive(Args)]
pub(crate) struct PrepareArgs {
    #[command(subcommand)]
    command: PrepareCommand,
}

#[derive(Subcommand)]
enum PrepareCommand {
    Answers(answers::AnswersArgs),
    Embeddings(embeddings::EmbeddingsArgs),
    Findings(findings::FindingsArgs),
    Labels(labels::LabelsArgs),
    /// Cut MIMIC-CXR reports into sections: one CSV row an image, with impression, findings, last paragraph, comparison
    ///
    /// As in the original's file, each row begins with the study, for which the first line has no name: eight names stand over
    /// nine values. pandas takes it for the index; Python's csv.DictReader wants --name-study. All commands here read both.
    ///
    /// Example: radialog prepare sections --reports mimic-cxr-reports/files --images mimic-cxr-jpg/2.0.0/files --out
    /// sectioned.csv
    Sections {
        /// Folder with pNN/pNNNNNNNN/sNNNNNNNN.txt, or the published mimic-cxr-reports.zip, which is read as it is
        #[arg(long, value_name = "DIR|ZIP")]
        reports: PathBuf,
        /// Folder with pNN/pNNNNNNNN/sNNNNNNNN/*.jpg; only the names are read
        #[arg(long, value_name = "DIR")]
        images: PathBuf,
        /// The CSV to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Name the first column, too: study_id
        #[arg(long)]
        name_study: bool,
    },
    /// Make the report-generation data set (RG): a prompt and the report that should follow
    ///
    /// Example: radialog prepare reports --sectioned sectioned.csv --split-table mimic-cxr-2.0.0-split.csv --labels
    /// labels.csv --out reports.json
    Reports {
        #[command(flatten)]
        data: DataArgs,
    },
    #[command(flatten)]
    OpenData(open_data::OpenDataCommand),
    /// Make the instruction data set (INS): reports, and follow-up tasks about them
    ///
    /// Questions about findings are answered from the labels, reasons from MIMIC-NLE. Tasks whose answers a language model
    /// writes (EL, SU, RQA, CO: `radialog prepare answers`) go in where --tasks has their files; `radialog prepare tasks`
    /// makes SU and CO without one.
    ///
    /// Example: radialog prepare instruct --sectioned sectioned.csv --split-table mimic-cxr-2.0.0-split.csv --labels
    /// labels.csv --tasks large_instruct_data --out instruct.json
    Instruct {
        #[command(flatten)]
        data: DataArgs,
        /// Folder of the task files instruct_large_{TASK}.json
        #[arg(long, value_name = "DIR")]
        tasks: PathBuf,
        #[command(flatten)]
        wording: WordingArgs,
        /// mimic-nle-train.json, for the reasoning task
        #[arg(long, value_name = "FILE")]
        mimic_nle: Option<PathBuf>,
        /// Questions about single findings an image, so that a small model sees many
        #[arg(long, value_name = "N", default_value_t = 1)]
        questions: usize,
    },
    /// Make whole conversations of which every answer is learned: reports, all questions about them, corrections
    ///
    /// Reads the task files that `radialog prepare tasks` and `radialog prepare instruct` have written. The original's
    /// samples learn one answer each; conversations teach a small model as much in a fifth of the time.
    ///
    /// Example: radialog prepare dialogs --pairs pairs.csv --tasks tasks --out dialogs.json
    Dialogs {
        #[command(flatten)]
        data: DataArgs,
        /// Folder of the task files instruct_large_{TASK}.json
        #[arg(long, value_name = "DIR")]
        tasks: PathBuf,
    },
    /// Make conversations of lists of wordings: each text says exactly the findings of its request
    ///
    /// Findings are drawn, some as the rows' labels are; the report states each of them in one of many wordings, denies others, and
    /// every answer follows from both: summary, plain language, list, presence, regions, reasons, corrections, what cannot be
    /// answered. A row's own report goes in where it says its labels and nothing else. For small models, which lose
    /// findings where texts of people are all that they learn from.
    ///
    /// Example: radialog prepare composed --pairs pairs.csv --times 8 --out composed.json
    Composed {
        #[command(flatten)]
        samples: SampleArgs,
        /// Conversations of each row
        #[arg(long, value_name = "N", default_value_t = 1)]
        times: usize,
        #[command(flatten)]
        wording: WordingArgs,
        /// The published system whose prompts are written, which is that of the bundle to train
        #[arg(long, default_value = "v1")]
        system: SystemArg,
        /// The JSON file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// The settings with which tasks are asked for.
#[derive(Args)]
struct WordingArgs {
    /// Folder with {NAME}_prompts.csv, e.g. the original's data/instruct_prompts; our own wording without it
    #[arg(long, value_name = "DIR")]
    task_prompts: Option<PathBuf>,
    /// Word every second request as a model is asked later, in chat and in an evaluation: for a small model
    #[arg(long)]
    as_asked: bool,
}

/// What the data sets are made from.
#[derive(Args)]
struct DataArgs {
    #[command(flatten)]
    samples: SampleArgs,
    /// Every image once, and for every task, instead of the original's selection: for few images
    #[arg(long)]
    each_image: bool,
    /// The published system whose prompts are written, which is that of the bundle to train
    #[arg(long, default_value = "v1")]
    system: SystemArg,
    /// The JSON file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The common table.
#[derive(Args)]
struct SampleArgs {
    /// Written by `radialog prepare sections`, or by the original
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "pairs",
        requires = "labels"
    )]
    sectioned: Option<PathBuf>,
    /// Written by `radialog prepare pairs` or `radialog prepare openi`, in place of the other tables: the study stands for
    /// the image. Pairs are weak: for training only
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sectioned", "split_table", "labels"])]
    pairs: Option<PathBuf>,
    /// mimic-cxr-2.0.0-split.csv (.gz); all rows without it
    #[arg(long, value_name = "FILE")]
    split_table: Option<PathBuf>,
    /// Which split
    #[arg(long, default_value = "train")]
    split: String,
    /// CSV with dicom_id, or study_id as in mimic-cxr-2.0.0-chexpert.csv (.gz), and the 14 findings, each 1, 0, -1 or empty
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

pub(crate) async fn run(args: PrepareArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        PrepareCommand::Answers(args) => answers::run(args).await,
        PrepareCommand::Embeddings(args) => embeddings::run(args).await,
        PrepareCommand::Findings(args) => findings::run(args).await,
        PrepareCommand::Labels(args) => labels::run(args).await,
        PrepareCommand::Sections {
            reports,
            images,
            out,
            name_study,
        } => sections(Sectioning {
            reports,
            images,
            output: out,
            name_study,
        }),
        PrepareCommand::OpenData(command) => open_data::run(command),
        PrepareCommand::Reports { data } => {
            let (samples, seed) = (data.samples.read()?, data.samples.seed);
            let count = write_reports(
                &data.out,
                &samples,
                &data.system.prompts(),
                data.coverage(1),
                seed,
            )?;
            outln!("{}", selection_words(&samples, data.coverage(1)));
            let count = counted(count, "sample", "samples");
            outln!("{count} written to {}", data.out.display());
            Ok(ExitCode::SUCCESS)
        }
        PrepareCommand::Dialogs { data, tasks } => {
            let (samples, prompts) = (data.samples.read()?, data.system.prompts());
            let dialogs = DialogDataset {
                samples: &samples,
                prompts: &prompts,
                tasks,
                seed: data.samples.seed,
            };
            let made = dialogs.run(&data.out)?;
            if made.empty > 0 {
                let questions = counted(made.empty, "question", "questions");
                outln!("{questions} left out, with empty answers");
            }
            outln!(
                "{} written to {}",
                counted(made.dialogs, "conversation", "conversations"),
                data.out.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        PrepareCommand::Composed {
            samples,
            times,
            wording,
            system,
            out,
        } => {
            let (rows, prompts) = (samples.read()?, system.prompts());
            let made = ComposedDataset {
                samples: &rows,
                prompts: &prompts,
                task_prompts: &wording.read()?,
                times,
                seed: samples.seed,
            }
            .run(&out)?;
            outln!(
                "{} of {} reports say their labels and nothing else",
                made.usable,
                rows.len()
            );
            outln!(
                "{} written to {}, {} of them about such a report",
                counted(made.conversations, "conversation", "conversations"),
                out.display(),
                made.by_people
            );
            Ok(ExitCode::SUCCESS)
        }
        PrepareCommand::Instruct {
            data,
            tasks,
            wording,
            mimic_nle,
            questions,
        } => instruct(&data, tasks, &wording.read()?, mimic_nle, questions),
    }
}

fn sections(sectioning: Sectioning) -> anyhow::Result<ExitCode> {
    let bar = if stderr().is_terminal() {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} patients  {per_sec}  {eta} left");
    bar.set_style(style.context("progress bar")?);
    let summary = sectioning.run(&|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let path = sectioning.output.display();
    outln!(
        "{}, {} (one an image) written to {path}",
        counted(summary.reports, "report", "reports"),
        counted(summary.rows, "row", "rows")
    );
    if summary.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let left_out = counted(summary.problems.len(), "report or file", "reports or files");
    errln!("{left_out} left out:");
    for problem in summary.problems.iter().take(LISTED) {
        errln!("  {problem}");
    }
    if summary.problems.len() > LISTED {
        errln!("  …");
    }
    Ok(ExitCode::FAILURE)
}

fn instruct(
    data: &DataArgs,
    tasks: PathBuf,
    task_prompts: &TaskPrompts,
    mimic_nle: Option<PathBuf>,
    questions: usize,
) -> anyhow::Result<ExitCode> {
    let (samples, prompts) = (data.samples.read()?, data.system.prompts());
    let instruct = InstructDataset {
        samples: &samples,
        prompts: &prompts,
        task_prompts,
        tasks,
        mimic_nle,
        coverage: data.coverage(questions),
        seed: data.samples.seed,
    };
    let summary = instruct.run(&data.out)?;
    outln!("  reports {:>8}", summary.reports);
    for file in &summary.tasks {
        outln!(
            "  {:<7} {:>8}  {}",
            file.task.name(),
            file.samples,
            if file.made { "made" } else { "read" }
        );
    }
    if summary.empty > 0 {
        outln!(
            "  {} empty, as the original's are to which findings there are where there is none; --each-image answers \
             \"no finding\"",
            counted(summary.empty, "answer is", "answers are")
        );
    }
    let missing: Vec<_> = summary.missing.iter().map(|task| task.name()).collect();
    if !missing.is_empty() {
        outln!(
            "  without {}: no file in {}",
            missing.join(", "),
            instruct.tasks.display()
        );
    }
    outln!(
        "{} written to {}",
        counted(summary.samples, "sample", "samples"),
        data.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

impl WordingArgs {
    fn read(&self) -> anyhow::Result<TaskPrompts> {
        let prompts = self
            .task_prompts
            .as_deref()
            .map_or_else(TaskPrompts::own, TaskPrompts::read)?;
        Ok(if self.as_asked {
            prompts.with_questions(Prompts::default().questions)
        } else {
            prompts
        })
    }
}

impl DataArgs {
    fn coverage(&self, questions: usize) -> Coverage {
        if self.each_image {
            Coverage::EachImage { questions }
        } else {
            Coverage::Original
        }
    }
}

impl SampleArgs {
    fn read(&self) -> anyhow::Result<Vec<LabelledReport>> {
        if let Some(pairs) = &self.pairs {
            return Ok(told(report_table_samples(pairs, &self.split)?));
        }
        let (sectioned, labels) = self
            .sectioned
            .as_ref()
            .zip(self.labels.as_ref())
            .context("--sectioned and --labels")?;
        let splits = self
            .split_table
            .as_deref()
            .map(SplitTable::read)
            .transpose()?;
        let split = splits.as_ref().map(|table| (table, self.split.as_str()));
        Ok(told(samples(sectioned, split, &LabelTable::read(labels)?)?))
    }
}

/// Says how many rows are used, and why others are not.
fn told(selected: SelectedReports) -> Vec<LabelledReport> {
    outln!("{}", selected.words());
    selected.samples
}
