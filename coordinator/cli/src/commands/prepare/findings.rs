//! `radialog prepare findings`: what a findings classifier says about a whole table of images.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use radialog_schemas::{PredictedFinding, Stage, StudyRecord, counted};
use radialog_training::prepare::{PredictionsWriter, TensorFileHeader, read_predictions};

use super::embeddings::TableArgs;
use super::run::{RunArgs, Session};
use crate::exit::EXIT_INTERRUPTED;

/// Findings of every image of a table, as the original's structured predictions: {"id": ["Edema",
/// ...], ...}
///
/// A finding is listed where its probability is over 0.5. Runs the bundle's findings component
/// through the queue and the workers, in this process or, with --amqp, --s3 and --redis, elsewhere.
/// Run the same command again to resume. Images that cannot be read are told and left out.
///
/// The id is the column dicom_id, else study_id, else the image's name. The original looks for its
/// files under the names structured_preds_chexpert_log_weighting_{val,test}_macro.json.
///
/// Examples:
///   radialog prepare findings --images nih/labels.csv --split test --bundle DIR --out findings.json
///   radialog prepare findings --images sectioned.csv --folder mimic-cxr-jpg/2.0.0 --bundle DIR --out findings.json
///   radialog prepare findings --from structured_preds_chexpert_log_weighting_val_macro.json --out findings.json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct FindingsArgs {
    #[command(flatten)]
    table: TableArgs,
    /// A file of the original, checked and written anew, instead of images and a bundle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "probabilities"])]
    from: Option<PathBuf>,
    /// The JSON file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the probabilities, too: one safetensors file, a tensor of 14 an image, in the published order
    #[arg(long, value_name = "FILE")]
    probabilities: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

pub(crate) async fn run(args: FindingsArgs) -> anyhow::Result<ExitCode> {
    if let Some(from) = &args.from {
        let mut file = PredictionsWriter::create(&args.out)?;
        for (id, findings) in read_predictions(from)? {
            file.add(&id, findings.into_iter())?;
        }
        outln!(
            "findings of {} written to {}",
            counted(file.finish()?, "image", "images"),
            args.out.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let session = Session::configure(&args.run, &args.out)?;
    let Some(finished) = args.table.run(session, &[Stage::Findings]).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let mut results = finished.results().await?;
    let mut file = PredictionsWriter::create(&args.out)?;
    let mut names = args
        .probabilities
        .as_deref()
        .map(|path| TensorFileHeader::create(path, &[14]))
        .transpose()?;
    while let Some(record) = results.next().await? {
        let present = findings(&record)?
            .iter()
            .filter(|predicted| predicted.present);
        file.add(
            record.study.as_str(),
            present.map(|predicted| predicted.finding),
        )?;
        if let Some(names) = &mut names {
            names.add(record.study.as_str())?;
        }
    }
    results.tell_failures();
    let count = file.finish()?;
    outln!(
        "findings of {} written to {}",
        counted(count, "image", "images"),
        args.out.display()
    );
    if let (Some(names), Some(path)) = (names, &args.probabilities) {
        let mut rows = names.rows()?;
        let mut results = finished.results().await?;
        while let Some(record) = results.next().await? {
            let probabilities: Vec<f32> = findings(&record)?
                .iter()
                // As tables of numbers have it: not a number.
                .map(|predicted| predicted.probability.unwrap_or(f32::NAN))
                .collect();
            rows.add(&probabilities)?;
        }
        rows.finish()?;
        outln!("their probabilities written to {}", path.display());
    }
    Ok(finished.exit())
}

fn findings(record: &StudyRecord) -> anyhow::Result<&[PredictedFinding]> {
    record.findings.as_deref().with_context(|| {
        format!(
            "'{}' has no findings: delete the run's folder",
            record.study
        )
    })
}
