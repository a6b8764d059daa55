//! `radialog prepare labels`: what CheXbert says about the findings sections of an archive.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use radialog_coordinator::archive::ReportTable;
use radialog_schemas::{Generation, Source, Stage, counted};
use radialog_training::prepare::LabelTableWriter;

use super::run::{Job, RunArgs, Session, refuse_empty};
use crate::archive_source;
use crate::exit::EXIT_INTERRUPTED;

/// CheXbert labels of the reports of a table, as `prepare reports` and `prepare instruct` join them
///
/// Writes a CSV with dicom_id and the 14 findings: 1.0 positive, 0.0 denied, -1.0 uncertain, empty
/// where a report does not mention it. The id is the table's column dicom_id, else study_id. Rows
/// without text are left out, and rows that say the report of an id again are one report. Runs the
/// bundle's scoring component through the queue and the workers, in this process or, with --amqp,
/// --s3 and --redis, elsewhere. Run the same command again to resume.
///
/// Example:
///   radialog prepare labels --reports sectioned.csv --bundle /bundles/radialog-v1 --out finding_chexbert_labels.csv
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct LabelsArgs {
    /// CSV with a text a row, e.g. written by `radialog prepare sections`: a file, or s3://bucket/table.csv
    #[arg(long, value_name = "TABLE")]
    reports: String,
    /// The column of the texts
    #[arg(long, value_name = "COLUMN", default_value = "findings")]
    text: String,
    /// Only rows whose column split has this value
    #[arg(long)]
    split: Option<String>,
    /// The CSV to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

pub(crate) async fn run(args: LabelsArgs) -> anyhow::Result<ExitCode> {
    let session = Session::configure(&args.run, &args.out)?;
    let input = archive_source::input(&args.reports, &session.config).await?;
    let table = Arc::new(ReportTable::open(&input, &args.text, args.split.as_deref()).await?);
    let advice = "no row has a text there: name the column of the texts with --text, and a split that has rows with --split";
    refuse_empty(&*table, advice).await?;
    let bundle = session.bundle(&[Stage::Scoring]).await?;
    let job = Job {
        archive: table.clone(),
        source: Source::Report,
        stages: &[Stage::Scoring],
        generation: Generation::default(),
    };
    let Some(finished) = session.run(&bundle, job).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let mut results = finished.results().await?;
    let mut file = LabelTableWriter::create(&args.out)?;
    while let Some(record) = results.next().await? {
        let labels = record.report_labels.as_ref();
        let labels = labels.with_context(|| {
            format!("'{}' has no labels: delete the run's folder", record.study)
        })?;
        file.add(record.study.as_str(), labels)?;
    }
    results.tell_failures();
    let count = file.finish()?;
    let (blank, repeated) = table.passed_rows().await?;
    outln!(
        "labels of {} written to {}; {} without text left out, {} a report",
        counted(count, "report", "reports"),
        args.out.display(),
        counted(blank, "row", "rows"),
        counted(repeated, "row repeats", "rows repeat")
    );
    Ok(finished.exit())
}
