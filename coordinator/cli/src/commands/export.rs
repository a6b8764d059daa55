//! `radialog export`: what people's use of the system has left for training.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use radialog_coordinator::conversation::{corrections, ratings};
use radialog_files::durable;
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::prompt::{Prompt, Prompts};
use radialog_runtime::backends::Backends;
use radialog_schemas::{Correction, ObjectKey, Stage, counted};
use serde::Serialize;

use crate::args::{BundleSource, ServiceArgs};
use crate::bundle_source;
use crate::shared_services::{self, SharedService};

/// Write data for the next training
#[derive(Args)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    what: ExportCommand,
}

#[derive(Subcommand)]
enum ExportCommand {
    Corrections(CorrectionsArgs),
    Ratings(RatingsArgs),
}

/// Answers that people rated in conversations
///
/// JSON Lines, one rated answer a line: conversation, turn, the stored image and its findings (where
/// there is an image), what was asked, the model's answer, and the rating, good or bad.
///
/// Example: radialog export ratings --out ratings.jsonl --s3 http://host:9000/radialog
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct RatingsArgs {
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Reports that people corrected in conversations, in the format of the instruct data set
///
/// One JSON array of {instruction, input, output, dicom, task_type}: the whole prompt up to and
/// including ASSISTANT:, an empty input, the corrected report, and the image's content hash. An
/// accepted correction has task_type CO and its report in the prompt; a report that a person typed
/// has task_type RG.
///
/// Example: radialog export corrections --out corrections.json --s3 http://host:9000/radialog
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct CorrectionsArgs {
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Bundle whose prompts are used, a folder, s3://bucket/prefix or demo [default: demo, with the published prompts]
    #[arg(long, env = "RADIALOG_BUNDLE", value_name = "DIR|URL")]
    bundle: Option<String>,
    #[command(flatten)]
    services: ServiceArgs,
}

/// One sample of the instruct data set.
#[derive(Serialize)]
struct InstructSample {
    instruction: String,
    input: &'static str,
    output: String,
    dicom: String,
    task_type: &'static str,
}

pub(crate) async fn run(args: ExportArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        ExportCommand::Corrections(args) => export_corrections(args).await,
        ExportCommand::Ratings(args) => export_ratings(args).await,
    }
}

async fn export_ratings(args: RatingsArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let needed = [SharedService::Store];
    shared_services::require("`radialog export ratings`", &needed, &config)?;
    let objects = Backends::existing_objects(&config).await?;
    let (rated, unreadable) = ratings::list(&*objects).await?;
    let lines: Vec<String> = rated
        .iter()
        .map(|answer| serde_json::to_string(answer).map(|line| line + "\n"))
        .collect::<Result<_, _>>()?;
    write(&args.out, &lines.concat(), &unreadable)?;
    outln!(
        "{} in {}",
        counted(rated.len(), "rated answer", "rated answers"),
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes a file, and names the objects that are not in it.
fn write(path: &Path, text: &str, unreadable: &[ObjectKey]) -> anyhow::Result<()> {
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    for key in unreadable {
        errln!("left out: object '{key}' is damaged, or from another version");
    }
    Ok(())
}

async fn export_corrections(args: CorrectionsArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let needed = [SharedService::Store];
    shared_services::require("`radialog export corrections`", &needed, &config)?;
    let bundle = bundle_source::open(
        &BundleSource::of(args.bundle.as_deref()),
        &[Stage::Language],
        &config,
    )
    .await?;
    let prompts = bundle.config::<LanguageComponent>(Stage::Language)?.prompts;
    let objects = Backends::existing_objects(&config).await?;
    let (corrections, unreadable) = corrections::list(&*objects).await?;
    let samples: Vec<InstructSample> = corrections
        .into_iter()
        .map(|correction| sample(&prompts, correction))
        .collect();
    let text = serde_json::to_string_pretty(&samples)? + "\n";
    write(&args.out, &text, &unreadable)?;
    let count = counted(samples.len(), "correction", "corrections");
    outln!("{count} in {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn sample(prompts: &Prompts, correction: Correction) -> InstructSample {
    let request = prompts.report_message(&correction.findings);
    let (messages, task_type) = match &correction.asked {
        Some(asked) => (
            vec![
                request,
                Prompt::text(&correction.report),
                Prompt::text(asked),
                Prompt::default(),
            ],
            "CO",
        ),
        None => (vec![request, Prompt::default()], "RG"),
    };
    let dicom = correction
        .image
        .as_str()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let instruction = prompts.written(&prompts.conversation(&messages));
    InstructSample {
        instruction,
        input: "",
        output: correction.corrected,
        dicom,
        task_type,
    }
}
