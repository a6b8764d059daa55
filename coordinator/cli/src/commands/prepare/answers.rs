//! `radialog prepare answers`: tasks of the instruction data set whose answers a language model writes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use radialog_coordinator::archive::PromptList;
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::prompt::Prompts;
use radialog_schemas::{ContentHash, Generation, Source, Stage, StudyRecord, TextPrompt, counted};
use radialog_training::evaluation::text_file::DAMAGED_RECORD;
use radialog_training::prepare::{
    ANSWER_TOKENS, AnswerRequest, InstructTask, PredictedReport, TaskSample, answer, corrections,
    questions, write_task_file,
};

use super::run::{Finished, Job, RunArgs, Session};
use super::{SampleArgs, WordingArgs};
use crate::exit::EXIT_INTERRUPTED;

/// Task files for `prepare instruct` whose answers a language model writes from reports, without an
/// image
///
/// Writes TASKS/instruct_large_{TASK}.json. EL explains the radiologist's report in plain language,
/// SU summarises it, RQA asks about a region of it, each for a sixth of the images. CO corrects
/// reports of a model: give a finished `radialog batch` run over train images with --reports; what
/// its labels and the radiologist's differ in is to be corrected. The original asks Vicuna 13B,
/// greedily, for 256 tokens at most. Runs the bundle's language component through the queue and the
/// workers, in this process or, with --amqp, --s3 and --redis, elsewhere. Run the same command again
/// to resume.
///
/// Examples:
///   radialog prepare answers --task EL --sectioned sectioned.csv --split-table mimic-cxr-2.0.0-split.csv --labels labels.csv \
///       --tasks large_instruct_data --bundle /bundles/vicuna-13b
///   radialog prepare answers --task CO --reports runs/train ... (the rest as above)
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AnswersArgs {
    /// Which task
    #[arg(long, value_name = "TASK")]
    task: AnswerTask,
    #[command(flatten)]
    samples: SampleArgs,
    /// Output folder of `radialog batch` over train images, whose ids are or end with the dicom id; for CO
    #[arg(long, value_name = "DIR", required_if_eq("task", "CO"))]
    reports: Option<PathBuf>,
    /// Folder of the task files
    #[arg(long, value_name = "DIR")]
    tasks: PathBuf,
    #[command(flatten)]
    wording: WordingArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Tasks that a language model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AnswerTask {
    /// Plain language
    #[value(name = "EL")]
    Explain,
    /// A summary
    #[value(name = "SU")]
    Summarise,
    /// A question about a region
    #[value(name = "RQA")]
    Region,
    /// A correction
    #[value(name = "CO")]
    Correct,
}

impl AnswerTask {
    fn task(self) -> InstructTask {
        match self {
            AnswerTask::Explain => InstructTask::Explain,
            AnswerTask::Summarise => InstructTask::Summarise,
            AnswerTask::Region => InstructTask::Region,
            AnswerTask::Correct => InstructTask::Correct,
        }
    }
}

pub(crate) async fn run(args: AnswersArgs) -> anyhow::Result<ExitCode> {
    let task = args.task.task();
    std::fs::create_dir_all(&args.tasks)
        .with_context(|| format!("cannot create {}", args.tasks.display()))?;
    let out = task.file(&args.tasks);
    let session = Session::configure(&args.run, &out)?;
    let bundle = session.bundle(&[Stage::Language]).await?;
    let prompts = bundle.config::<LanguageComponent>(Stage::Language)?.prompts;
    let questions = ask(&args, task, &prompts)?;
    if questions.is_empty() {
        bail!(
            "no image has anything to ask about: {} is not written",
            out.display()
        );
    }
    let job = Job {
        archive: Arc::new(archive(task, &questions)),
        source: Source::Prompt,
        stages: &[Stage::Language],
        generation: Generation {
            max_new_tokens: ANSWER_TOKENS,
            ..Generation::default()
        },
    };
    let Some(finished) = session.run(&bundle, job).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let samples = answered(&finished, task, questions, &prompts).await?;
    let count = write_task_file(&out, samples.into_iter().map(Ok))?;
    outln!(
        "{} of {} written to {}",
        counted(count, "sample", "samples"),
        task.name(),
        out.display()
    );
    Ok(finished.exit())
}

fn ask(
    args: &AnswersArgs,
    task: InstructTask,
    prompts: &Prompts,
) -> anyhow::Result<Vec<AnswerRequest>> {
    let task_prompts = args.wording.read()?;
    let (samples, seed) = (args.samples.read()?, args.samples.seed);
    Ok(match (task, &args.reports) {
        (InstructTask::Correct, Some(run)) => {
            corrections(predicted(run)?, &samples, prompts, &task_prompts, seed)
        }
        _ => questions(task, &samples, prompts, &task_prompts, seed)?,
    })
}

/// The reports of a run, by image.
fn predicted(run: &Path) -> anyhow::Result<Vec<PredictedReport>> {
    let path = run.join(RESULTS_FILE);
    let shown = path.display();
    let file = File::open(&path)
        .with_context(|| format!("cannot open {shown}: give a folder that was --out"))?;
    let mut reports = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
        let record: StudyRecord = serde_json::from_slice(&line?).map_err(|error| {
            anyhow!("{shown} line {number}: not a study record: {error}; {DAMAGED_RECORD}")
        })?;
        let id = record.study.as_str();
        let dicom_id = id.rsplit('/').next().unwrap_or(id).to_owned();
        if let (Some(text), Some(labels)) = (record.report, record.report_labels) {
            reports.push(PredictedReport {
                dicom_id,
                text,
                labels,
            });
        }
    }
    if reports.is_empty() {
        bail!("{shown} has no report with labels: run `radialog batch` with all stages");
    }
    // As studies finished, they stand in the file.
    reports.sort_by(|one, other| one.dicom_id.cmp(&other.dicom_id));
    Ok(reports)
}

/// Its name has a hash of all prompts, so that a run is not resumed with others.
fn archive(task: InstructTask, questions: &[AnswerRequest]) -> PromptList {
    let prompt = |question: &AnswerRequest| TextPrompt {
        messages: question.messages.clone(),
    };
    let prompts: Vec<_> = questions
        .iter()
        .map(|question| (question.sample.dicom.clone(), prompt(question)))
        .collect();
    let parts = prompts
        .iter()
        .flat_map(|(id, prompt)| std::iter::once(id).chain(&prompt.messages));
    let hash = ContentHash::of_parts(parts.map(String::as_bytes));
    PromptList::new(
        format!(
            "{} prompts of {} ({})",
            prompts.len(),
            task.name(),
            hash.short()
        ),
        prompts,
    )
}

/// The questions that were answered, with their answers.
async fn answered(
    finished: &Finished,
    task: InstructTask,
    questions: Vec<AnswerRequest>,
    prompts: &Prompts,
) -> anyhow::Result<Vec<TaskSample>> {
    let mut results = finished.results().await?;
    let mut questions = questions.into_iter();
    let mut samples = Vec::new();
    while let Some(record) = results.next().await? {
        // Both are in the order of the questions; some may have failed.
        let asked = questions.find(|question| question.sample.dicom == record.study.as_str());
        let asked =
            asked.context("the run's folder is of other questions: delete it and run again")?;
        let written = record.written_report().unwrap_or_default();
        samples.push(TaskSample {
            output: answer(task, &written, prompts),
            ..asked.sample
        });
    }
    results.tell_failures();
    Ok(samples)
}
