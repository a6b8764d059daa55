//! `radialog verify`: whether a study's record can be made again, byte for byte.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use radialog_coordinator::archive::{ImageSource, OneStudy, StudyEntry};
use radialog_coordinator::run::output::{OrderedRecords, RESULTS_FILE};
use radialog_coordinator::{CoordinatorError, RunOptions};
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{
    ContentHash, Generation, ObjectKey, Stage, StageSet, StudyRecord, StudyStatus, counted,
};
use radialog_training::evaluation::text_file::{DAMAGED_RECORD, utf_8};

use crate::args::{ModelArgs, ServiceArgs};
use crate::exit::{EXIT_FAILED_STUDIES, EXIT_INTERRUPTED, UsageError, usage};
use crate::named_path::require;
use crate::private_folder::PrivateFolder;
use crate::progress::ProgressStyle;
use crate::results_place::{LookedAt, is_in_store, look_at_run};
use crate::{batch_run, bundle_source, interruption};
use comparison::Comparison;

mod comparison;

/// Ids that are named where another one was asked for.
const NAMED: usize = 3;

/// Make one study of a run again, and say whether the bytes are the same
///
/// Takes the study's line in results.jsonl: the hash of its image, the bundle's, the findings in its
/// prompt, and how its report was decoded, the seed among it. Fetches the image from the run's store,
/// or takes --image; checks their hashes; computes every stage anew in this process, of nothing that
/// is stored; and compares the new line with the old one, timings aside.
///
/// On another kind of processor, or with another release, numbers may differ in their last digits:
/// the record is of those it was made with.
///
/// Exit codes: 0 the bytes are the same; 65 they are not, or the record does not say enough to make
/// it again; 64 the command line is wrong: no such study, another bundle, another image; 1 it could
/// not be computed.
///
/// Examples:
///   radialog verify s50414267 --run results
///   radialog verify s50414267 --run results --bundle /bundles/radialog-v1 --s3 http://host:9000/radialog
///   radialog verify s50414267 --run results.jsonl --image s50414267.png
///   radialog verify s50414267 --run s3://results/run --s3 http://host:9000/radialog
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct VerifyArgs {
    /// The study's id
    study: String,
    /// Output folder of `radialog batch`, s3://bucket/prefix where its results are in a store, or a results.jsonl
    #[arg(long, value_name = "DIR|FILE")]
    run: PathBuf,
    /// The image, where the store does not have it any more
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Why a record cannot be made again.
struct Unverifiable(&'static str);

pub(crate) async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let is_stored = is_in_store(&args.run);
    let paths = Some(&args.run).filter(|_| !is_stored).into_iter();
    for path in paths.chain(&args.image) {
        require(
            path,
            "--run is an output folder or a results.jsonl, --image an image",
        )?;
    }
    let mut config = args.services.load_quiet(&[])?;
    let url = is_stored.then(|| args.run.display().to_string());
    let copy = match &url {
        Some(url) => Some(look_at_run(url, &config).await?),
        None => None,
    };
    let run = copy.as_ref().map_or(args.run.as_path(), LookedAt::folder);
    let (line, record) = find(run, url, &args.study)?;
    let generation = match can_be_made_again(&record) {
        Ok(generation) => generation,
        Err(Unverifiable(reason)) => {
            outln!("{} cannot be verified: {reason}", record.study);
            return Ok(ExitCode::from(EXIT_FAILED_STUDIES));
        }
    };
    if config.amqp.is_some() || config.redis.is_some() {
        errln!("note: everything is computed in this process: --amqp and --redis are not used");
    }
    // Everything but the store is in this process.
    (config.amqp, config.redis) = (None, None);
    if config.objects.directory.is_none() {
        let folder = match run.is_dir() {
            true => Some(run),
            false => run.parent(),
        };
        config.objects.directory = folder.map(store_of);
    }
    let stages = stages(&record);
    let source = &args.models.source;
    let bundle = Arc::new(bundle_source::open(source, &stages, &config).await?);
    let hash = bundle.manifest().hash();
    if hash != record.bundle {
        return Err(UsageError(format!(
            "bundle '{}' has the hash {}, and the study was made with {}: name that one with --bundle, and give the \
             --precision of its run, which is part of the hash",
            bundle.manifest().name,
            hash.short(),
            record.bundle.short()
        ))
        .into());
    }
    let (image, reference) = inputs(&args, &config, &record).await?;
    let entry = StudyEntry {
        other_files: record.other_files.clone(),
        indication: record.indication.clone(),
        split: record.split.clone(),
        reference,
        ..StudyEntry::new(
            record.study.as_str(),
            record.file.as_str(),
            Ok(ImageSource::Inline(image)),
        )
    };
    let Some(again) = compute(&args.models, config, &bundle, entry, &stages, generation).await?
    else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let comparison = Comparison::of(&line, again).context("the study's line is no record")?;
    comparison.print();
    Ok(match comparison.is_same() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FAILED_STUDIES),
    })
}

/// The store of a run in this folder: its own, or that of the evaluation whose folder it lies in.
pub(super) fn store_of(folder: &Path) -> PathBuf {
    let own = folder.join("objects");
    let above = folder.join("../objects");
    match !own.is_dir() && above.is_dir() {
        true => above,
        false => own,
    }
}

/// The study's line, and the record that it is. `url` is what the run is a copy of.
fn find(run: &Path, url: Option<String>, study: &str) -> anyhow::Result<(String, StudyRecord)> {
    let path = match run.is_dir() {
        true => run.join(RESULTS_FILE),
        false => run.to_owned(),
    };
    require(&path, "give the folder that was --out, or a results.jsonl")?;
    let shown = url.unwrap_or_else(|| path.display().to_string());
    let file = File::open(&path).map_err(|error| {
        UsageError(format!(
            "cannot open {shown}: {error}; give the folder that was --out, or a results.jsonl"
        ))
    })?;
    let (mut others, mut count) = (Vec::new(), 0_u64);
    let mut lines = BufReader::new(file);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = lines.read_until(b'\n', &mut bytes);
        if read.with_context(|| format!("cannot read {shown}"))? == 0 {
            break;
        }
        let line = utf_8(&bytes)
            .map_err(|reason| anyhow!("{shown} line {number}: {reason}; {DAMAGED_RECORD}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let record: StudyRecord = match serde_json::from_str(line) {
            Ok(record) => record,
            // A run that was killed leaves at most one broken line, its last.
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => {
                let error =
                    anyhow!("{shown} line {number}: not a study record: {error}; {DAMAGED_RECORD}");
                // A file that does not begin with a record is none of a run.
                return Err(if number == 1 { usage(error) } else { error });
            }
        };
        if record.study.as_str() == study {
            return Ok((line.trim_end().to_owned(), record));
        }
        count += 1;
        if others.len() < NAMED {
            others.push(record.study.to_string());
        }
    }
    let message = format!(
        "{shown} has no study '{study}'; it has {}: {}{}",
        counted(count, "study", "studies"),
        others.join(", "),
        if count > NAMED as u64 { ", ..." } else { "" }
    );
    Err(UsageError(message).into())
}

/// How the report was decoded, of a record that says all that is needed.
fn can_be_made_again(record: &StudyRecord) -> Result<Generation, Unverifiable> {
    let is_image = |input: &ObjectKey| input.as_str().starts_with("images/");
    match record {
        StudyRecord {
            status: StudyStatus::Failed,
            ..
        } => Err(Unverifiable(
            "it failed in its run, so that there is nothing to compare",
        )),
        StudyRecord { given, .. } if !given.is_empty() => Err(Unverifiable(
            "stages of it were given with the run as files, and not computed",
        )),
        StudyRecord {
            input: Some(input), ..
        } if is_image(input) => match (&record.findings, &record.report, &record.generation) {
            // An embedding is a tensor in the store, and no line has its hash.
            (None, ..) => Err(Unverifiable(
                "its line has no findings, and so nothing to compare: its run had the embedding stage alone",
            )),
            (_, Some(_), None) => Err(Unverifiable(
                "its line does not say how the report was decoded: an earlier release wrote it. Run the batch again into another \
                 --out; stored outputs are used again",
            )),
            (.., generation) => Ok(generation.clone().unwrap_or_default()),
        },
        StudyRecord { input: Some(_), .. } => {
            Err(Unverifiable("it began with a text, and not with an image"))
        }
        StudyRecord { input: None, .. } => Err(Unverifiable(
            "its line does not name its image: an earlier release wrote it",
        )),
    }
}

/// The stages that the study went through: those whose times are in the record, so that an output which was taken out of it is
/// missed, and those whose outputs are.
fn stages(record: &StudyRecord) -> Vec<Stage> {
    let last = match (&record.report_labels, &record.report) {
        (Some(_), _) => Stage::Scoring,
        (None, Some(_)) => Stage::Language,
        (None, None) => Stage::Findings,
    };
    let ran = record.timings.keys().copied().chain([last]);
    StageSet::closure(&ran.collect::<Vec<_>>()).iter().collect()
}

/// The image, and the reference report where the study has one.
async fn inputs(
    args: &VerifyArgs,
    config: &Config,
    record: &StudyRecord,
) -> anyhow::Result<(Bytes, Option<String>)> {
    let key = record.input.as_ref().context("the record names no image")?;
    // A store that is not there is made nowhere, by somebody who only reads.
    let is_there = config.s3.is_some()
        || config
            .objects
            .directory
            .as_ref()
            .is_some_and(|dir| dir.is_dir());
    let backends = match is_there {
        true => Some(Backends::connect(config).await?),
        false => None,
    };
    let stored = async |key: &ObjectKey, flag: &str| -> anyhow::Result<Bytes> {
        let Some(backends) = &backends else {
            bail!(UsageError(format!(
                "{key} is in the store of the run: name it with --objects or --s3{flag}"
            )));
        };
        backends.objects.get(key).await.with_context(|| {
            format!("the store does not have {key}: name the run's with --objects or --s3{flag}")
        })
    };
    let image = match &args.image {
        Some(path) => {
            let read = tokio::fs::read(path).await;
            let unreadable = |error| UsageError(format!("cannot read {}: {error}", path.display()));
            read.map_err(unreadable)?.into()
        }
        None => stored(key, ", or give the image with --image").await?,
    };
    let found = ObjectKey::image(&hash(image.clone()).await?);
    if found != *key {
        let message = match &args.image {
            Some(_) => format!(
                "the image is {found}, and the study was made of {key}: this is another file, or it was changed"
            ),
            None => format!(
                "the store's copy of {key} is damaged: it has the content of {found}; give the image with --image"
            ),
        };
        return Err(UsageError(message).into());
    }
    let reference = match &record.reference {
        None => None,
        Some(key) => {
            let text = stored(key, "").await?;
            let found = ObjectKey::reference(&ContentHash::of(&text));
            if found != *key {
                bail!("the stored reference {key} is damaged: it has the content of {found}");
            }
            Some(String::from_utf8(text.into()).with_context(|| format!("{key} is no text"))?)
        }
    };
    Ok((image, reference))
}

async fn hash(content: Bytes) -> anyhow::Result<ContentHash> {
    Ok(tokio::task::spawn_blocking(move || ContentHash::of(&content)).await?)
}

/// Computes the study in this process, over a store that has nothing; none where that was interrupted.
async fn compute(
    models: &ModelArgs,
    mut config: Config,
    bundle: &Arc<Bundle>,
    entry: StudyEntry,
    stages: &[Stage],
    generation: Generation,
) -> anyhow::Result<Option<StudyRecord>> {
    let folder = PrivateFolder::new()?;
    config.s3 = None;
    config.objects.directory = Some(folder.path().join("objects"));
    let archive = Arc::new(OneStudy(entry));
    let out = folder.path().join("out");
    let (hash, components) = (
        bundle.manifest().hash(),
        bundle.manifest().component_hashes(),
    );
    let options = RunOptions {
        stages: StageSet::closure(stages),
        generation,
        window: 1,
        ..RunOptions::new(archive.clone(), &out, hash, components)
    };
    config.worker.group = None;
    let backends = Backends::connect(&config).await?;
    let shutdown = interruption::take_over()?;
    let style = ProgressStyle::Off;
    let summary = batch_run::run(
        options, &backends, bundle, models, &config, style, &shutdown,
    );
    if summary.await?.interrupted {
        return Ok(None);
    }
    let mut records = OrderedRecords::open(&*archive, &out).await?;
    let record: Result<_, CoordinatorError> = records.next().await;
    Ok(Some(
        record?.context("the study has no line: run it again")?,
    ))
}
