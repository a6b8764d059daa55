//! `radialog report`: one image, its findings and its report, without a folder of results.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use radialog_coordinator::CoordinatorError;
use radialog_coordinator::archive::{self, Archive, OutsideFiles};
use radialog_coordinator::run::output::OrderedRecords;
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{Finding, GateVerdict, Source, Stage, StageSet, StudyRecord, StudyStatus};

use super::batch::GenerationArgs;
use crate::args::{ModelArgs, ServiceArgs};
use crate::batch_run::{Job, RunEnvironment};
use crate::exit::{EXIT_FAILED_STUDIES, EXIT_INTERRUPTED, UsageError};
use crate::lifecycle::Lifecycle;
use crate::print::over_threshold;
use crate::private_folder::PrivateFolder;
use crate::progress::ProgressStyle;
use crate::{archive_source, bundle_source, served_bundle, shared_services};

/// What stands below all words.
const DISCLAIMER: &str = "\nResearch software, not a medical device.";

/// Findings and report of one chest X-ray, on the terminal
///
/// Of a picture that looks like no chest X-ray at all it prints the warnings; findings and report only with --all or --json.
///
/// Nothing is kept of it, in a store that is set neither, and --s3 is taken for a bundle or an image in it alone. With a broker (--amqp), stages elsewhere do the work: image and
/// outputs stay in the shared store then, as those of a batch. For many images, and to keep results: radialog batch.
///
/// Exit codes: 0 it is done; 65 the image cannot be read, or a stage failed; 130 it was interrupted; 64 the command line or
/// the configuration is wrong; 1 it could not be run.
///
/// Example: radialog report chest.png --json
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// PNG or JPEG file
    image: String,
    /// Print the study's record, a line of a batch's results.jsonl, instead of words
    #[arg(long)]
    json: bool,
    /// Print findings and report also of a picture that looks like no chest X-ray at all; --json has them always
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let working = async {
        let folder = PrivateFolder::new()?;
        report(&args, config, &lifecycle, &folder).await
    };
    let Some(record) = lifecycle.start(working).await?.flatten() else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    match args.json {
        true => outln!("{}", serde_json::to_string(&record)?),
        false => out!("{}", words(&record, args.all)),
    }
    match record.status {
        StudyStatus::Done => Ok(ExitCode::SUCCESS),
        StudyStatus::Failed => Ok(ExitCode::from(EXIT_FAILED_STUDIES)),
    }
}

/// Runs the image through all stages; none where that was interrupted.
async fn report(
    args: &ReportArgs,
    mut config: Config,
    lifecycle: &Lifecycle,
    folder: &PrivateFolder,
) -> anyhow::Result<Option<StudyRecord>> {
    let mut generation = args.generation.generation()?;
    shared_services::require_all_or_own(&config)?;
    if config.amqp.is_none() {
        let bundle = args.models.source.bundle.as_deref();
        let read = bundle.into_iter().chain([args.image.as_str()]);
        let reason = "nothing is kept of a report; radialog batch keeps what it computes there";
        args.services.refuse_store_flags(read, reason)?;
    }
    let input = archive_source::input(&args.image, &config).await?;
    if matches!(&input, archive::ArchiveLocation::Path(path) if path.is_dir()) {
        let advice = "it is a folder: give one image, or use radialog batch";
        return Err(UsageError(format!("'{}': {advice}", args.image)).into());
    }
    let archive = archive::open_with(&input, OutsideFiles::Refused).await;
    let archive = archive.map_err(|error| no_image(&args.image, error))?;
    if has_several(&*archive).await? {
        let advice = "it has several studies: give one image, or use radialog batch";
        return Err(UsageError(format!("'{}': {advice}", args.image)).into());
    }
    let here: &[Stage] = match &config.amqp {
        Some(_) => &[],
        None => &Stage::ALL,
    };
    let readiness = &lifecycle.readiness;
    let bundle = bundle_source::open_for(&args.models.source, here, &config, readiness).await?;
    let bundle: Arc<Bundle> = Arc::new(bundle);
    generation.adapter = served_bundle::adapter(&bundle, args.generation.model.as_deref())?;
    // Only stages elsewhere need a store that they can read: what is done here leaves nothing of a patient in one.
    if config.amqp.is_none() {
        config.s3 = None;
        config.objects.directory = Some(folder.path().join("objects"));
    }
    let backends = Backends::connect(&config).await?;
    let environment = RunEnvironment {
        backends: &backends,
        bundle: &bundle,
        models: &args.models,
        config: &config,
        progress: ProgressStyle::Off,
        shutdown: lifecycle.drain(),
    };
    let results = folder.path().join("results");
    let job = Job {
        archive: archive.clone(),
        folder: results.clone(),
        source: Source::Image,
        stages: StageSet::all(),
        generation,
    };
    let options = environment.options(job);
    let Some(_) = environment.run_to_end(options, "").await? else {
        return Ok(None);
    };
    let mut records = OrderedRecords::open(&*archive, &results).await?;
    let record = records.next().await?;
    let record = record.with_context(|| format!("'{}' gave no record", args.image))?;
    Ok(Some(record))
}

/// Whether an archive names more than one study.
async fn has_several(archive: &dyn Archive) -> Result<bool, CoordinatorError> {
    let mut entries = archive.entries().await?;
    let mut first = None;
    while let Some(entry) = entries.next().await {
        let Ok(entry) = entry else { continue };
        if *first.get_or_insert_with(|| entry.study.clone()) != entry.study {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is wrong with the place of an image, without advice about archives.
fn no_image(image: &str, error: CoordinatorError) -> anyhow::Error {
    let fault = match error {
        CoordinatorError::NoArchive { .. } => format!("there is no file '{image}'"),
        CoordinatorError::NotAnArchive { reason, .. } => format!("'{image}': {reason}"),
        error => return error.into(),
    };
    UsageError(format!("{fault}: give a PNG or JPEG file")).into()
}

/// The record for people: `all` of it, or the warnings alone of a picture that looks like no chest X-ray.
fn words(record: &StudyRecord, all: bool) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    if let Some(error) = &record.error {
        line(format!("failed: {error}"));
    }
    for warning in &record.warnings {
        line(format!("warning: {warning}"));
    }
    let gate = record.input_gate.as_ref();
    if !all && gate.is_some_and(GateVerdict::is_no_xray) {
        let what = match &record.report {
            Some(_) => "Its findings and its report",
            None => "Its findings",
        };
        line(format!("{what} are shown by --all."));
        line(DISCLAIMER.to_owned());
        return text;
    }
    let findings = record.findings.as_deref().unwrap_or_default();
    if !findings.is_empty() {
        line("Findings of the image:".to_owned());
    }
    for predicted in findings {
        let name = predicted.finding.name();
        line(match predicted.probability {
            None => format!("  {name:<28} not assessed by this model"),
            Some(probability) => format!(
                "  {name:<28} {:>3.0} %{}",
                100.0 * probability,
                match predicted.is_shown(findings) {
                    true => format!("  present{}", over_threshold(predicted)),
                    false => String::new(),
                }
            ),
        });
    }
    if let Some(report) = &record.report {
        line(format!("\nReport:\n  {}", report.trim()));
        if record.report_complete == Some(false) {
            line("  (cut at --max-new-tokens)".to_owned());
        }
    }
    if let Some(disputed) = record.disagreement.as_deref().filter(|all| !all.is_empty()) {
        let names: Vec<&str> = disputed
            .iter()
            .map(|finding: &Finding| finding.name())
            .collect();
        line(format!(
            "\nClassifier and report disagree about: {}",
            names.join(", ")
        ));
    }
    line(DISCLAIMER.to_owned());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_finding_is_not_present_beside_findings_and_a_threshold_is_told() {
        let record = serde_json::json!({
            "study_id": "a", "file": "a.png", "status": "done",
            "findings": [
                {"finding": "No Finding", "probability": 0.74, "present": true},
                {"finding": "Lung Lesion", "probability": 0.23, "present": true, "threshold": 0.16},
                {"finding": "Support Devices", "probability": 0.6, "present": true},
            ],
            "bundle": "0".repeat(64), "timings": {},
        });
        let mut record: StudyRecord = serde_json::from_value(record).unwrap();
        let said = words(&record, false);
        let line = |name: &str| {
            let mut lines = said.lines();
            let line = lines.find(|line| line.trim_start().starts_with(name));
            line.unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(line("No Finding"), "No Finding 74 %");
        assert_eq!(line("Lung"), "Lung Lesion 23 % present (over 16 %)");
        assert_eq!(line("Support"), "Support Devices 60 % present");
        record.findings.as_mut().unwrap().remove(1);
        assert!(words(&record, false).contains("74 %  present"));
    }

    #[test]
    fn of_a_picture_that_is_no_xray_words_have_no_finding_and_say_how_to_see_them() {
        let of_kind = |kind: &str| -> StudyRecord {
            let record = serde_json::json!({
                "study_id": "a", "file": "a.png", "status": "done", "warnings": ["look at it"],
                "input_gate": {"passed": false, "looks_like": kind, "frontal": 0.1},
                "findings": [{"finding": "Pneumonia", "probability": 0.97, "present": true}],
                "report": "Pneumonia.", "bundle": "0".repeat(64), "timings": {},
            });
            serde_json::from_value(record).unwrap()
        };
        let mut record = of_kind("other");
        let other = words(&record, false);
        assert!(
            other.starts_with("warning: look at it\n") && !other.contains("Pneumonia"),
            "{other}"
        );
        assert!(
            other.contains("and its report are shown by --all") && other.ends_with("device.\n"),
            "{other}"
        );
        let all = words(&record, true);
        let places = ["look at it", "97 %  present", "Report:\n  Pneumonia."];
        let places = places.map(|part| all.find(part).unwrap());
        assert!(places.is_sorted() && !all.contains("--all"), "{all}");
        // What is not there is not promised.
        record.report = None;
        let other = words(&record, false);
        assert!(other.contains("Its findings are shown by --all"), "{other}");
        assert!(words(&of_kind("lateral"), false).contains("97 %  present"));
    }
}
