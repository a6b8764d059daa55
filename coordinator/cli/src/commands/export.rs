//! `radialog export`: what people's use of the system has left for training.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use radialog_coordinator::conversation::corrections;
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::durable;
use radialog_models::prompt::{Prompt, Prompts};
use radialog_runtime::backends::Backends;
use radialog_schemas::{Correction, Stage};
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
    let ExportCommand::Corrections(args) = args.what;
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
    let objects = Backends::objects(&config).await?;
    let (corrections, unreadable) = corrections::list(&*objects).await?;
    let samples: Vec<InstructSample> = corrections
        .into_iter()
        .map(|correction| sample(&prompts, correction))
        .collect();
    let text = serde_json::to_string_pretty(&samples)? + "\n";
    durable::replace(&args.out, text.as_bytes())
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    for key in &unreadable {
        errln!("left out: object '{key}' is damaged, or from another version");
    }
    outln!("{} corrections in {}", samples.len(), args.out.display());
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
