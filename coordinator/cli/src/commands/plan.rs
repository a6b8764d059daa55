//! `radialog plan`: what a run will take, before it is paid for.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use radialog_coordinator::run::DEFAULT_WINDOW;
use radialog_coordinator::run::forecast::PoolDescription;
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_coordinator::{RunOptions, RunPlan, archive, plan_run};
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{PerStage, Stage, StageSet};
use tokio_util::sync::CancellationToken;

use crate::args::{ModelArgs, ServiceArgs};
use crate::commands::batch::{self, ALL_STAGES, GenerationArgs};
use crate::exit::UsageError;
use crate::private_folder::PrivateFolder;
use crate::progress::ProgressStyle;
use crate::results_place::{LookedAt, ResultsPlace};
use crate::{archive_source, batch_run, bundle_source, served_bundle};

mod measured;
mod report;
mod stage_value;

use measured::Measured;
use report::PlanReport;
use stage_value::StageValue;

/// Say what a run over an archive will take: what is computed already, hours, memory, cost, and where
/// it waits
///
/// Each stage's seconds a study come from a short run over the archive's first studies on this
/// machine (--probe), from the results of an earlier run on the machines in question (--measured), or
/// as given (--seconds). A simulation of the pipeline over the pool that --workers describes says the
/// rest. Nothing is written.
///
/// Exit codes are those of `radialog batch` where the archive has no image, nothing of it is a
/// study, or not all of it can be looked at.
///
/// Examples:
///   radialog plan xrays/
///   radialog plan s3://archive/cxr --measured results/ --workers embedding=2,findings=2,language=16,scoring=1
///   radialog plan --studies 1000000 --measured results/ --workers language=64 --price language=2.5
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PlanArgs {
    /// The archive, as `radialog batch` takes it
    #[arg(required_unless_present = "studies")]
    input: Option<String>,
    /// So many studies of which nothing is computed yet, instead of an archive: up to ten millions, of which more is a multiple
    #[arg(long, value_name = "N", conflicts_with = "input", value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    studies: Option<u64>,
    /// Results of a run over the archive that would be resumed, as `radialog batch --out` names them
    #[arg(long, value_name = "DIR|URL", conflicts_with = "studies")]
    out: Option<ResultsPlace>,
    /// Also read images outside of the archive's folder, as `radialog batch` does
    #[arg(long)]
    allow_outside: bool,
    /// Only these stages and what they need
    #[arg(long, value_delimiter = ',', value_name = "STAGE,...", default_value = ALL_STAGES.as_str())]
    stages: Vec<Stage>,
    /// Only the first N studies of the archive
    #[arg(long, value_name = "N", conflicts_with = "studies", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Studies in flight at a time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Workers of each stage; 1 where nothing is said
    #[arg(long, value_delimiter = ',', value_name = "STAGE=N,...")]
    workers: Vec<StageValue<u32>>,
    /// Seconds in the model that a study takes in a stage, a batch's time shared among its studies
    #[arg(long, value_delimiter = ',', value_name = "STAGE=SECONDS,...")]
    seconds: Vec<StageValue<f64>>,
    /// Take the seconds from the results of an earlier run, or of one that goes on
    #[arg(long, value_name = "DIR|URL")]
    measured: Option<ResultsPlace>,
    /// Else measure them on so many of the archive's first studies, with one worker a stage on this machine
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    probe: u32,
    /// What an hour of one worker costs, in whatever currency
    #[arg(long, value_delimiter = ',', value_name = "STAGE=PRICE,...")]
    price: Vec<StageValue<f64>>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Seconds of a study in a stage: less is no time, more is no plan.
const LEAST_SECONDS: f64 = 1e-6;
const MOST_SECONDS: f64 = 1e6;
/// The price of an hour, in whatever currency.
const HIGHEST_PRICE: f64 = 1e9;
/// Workers of a stage.
const MOST_WORKERS: u32 = 1_000_000;

pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let stages = StageSet::closure(&args.stages);
    let workers = stage_value::by_stage("workers", &args.workers, 1..=MOST_WORKERS, &stages, 1)?;
    let prices = stage_value::by_stage("price", &args.price, 0.0..=HIGHEST_PRICE, &stages, 0.0)?;
    let seconds = LEAST_SECONDS..=MOST_SECONDS;
    let given = stage_value::given("seconds", &args.seconds, seconds, &stages)?;
    for place in [&args.out, &args.measured].into_iter().flatten() {
        place.check(&config)?;
    }
    let wanted: Vec<Stage> = stages.iter().collect();
    let bundle = bundle_source::open(&args.models.source, &wanted, &config).await?;
    let bundle = Arc::new(bundle);
    let (plan, options, ends) = match (&args.input, args.studies) {
        (Some(input), _) => {
            let options = options(&args, input, &stages, &bundle, &config).await?;
            let plan = look(&args, &options, &config).await?;
            let ends = batch::exit_of_plan(&plan, input)?;
            (plan, Some(options), ends)
        }
        (None, studies) => {
            let plan = RunPlan::of_new(studies.unwrap_or_default(), &stages);
            (plan, None, ExitCode::SUCCESS)
        }
    };
    let remaining = PerStage::from_fn(|stage| {
        let planned = plan.stages.iter().find(|planned| planned.stage == stage);
        planned.map_or(0, |planned| planned.remaining)
    });
    // What is not computed need not be measured.
    let computed: Vec<Stage> = stages
        .iter()
        .filter(|stage| *remaining.get(*stage) > 0)
        .collect();
    let needs_measure = computed.iter().any(|stage| given.get(*stage).is_none());
    let mut measured = match (&args.measured, options) {
        _ if !needs_measure => Measured::default(),
        (Some(place), _) => Measured::of_run(place, &config).await?,
        (None, Some(options)) => probe(&args, options, &bundle, &config).await?,
        (None, None) => bail!(UsageError(
            "--studies has nothing to measure on: give --measured DIR, or --seconds for each stage"
                .into()
        )),
    };
    for stage in computed {
        if let Some(seconds) = given.get(stage) {
            *measured.seconds.get_mut(stage) = vec![*seconds];
        } else if measured.seconds.get(stage).is_empty() {
            bail!("no study was measured in the {stage} stage: give --seconds {stage}=SECONDS");
        }
    }
    let pool = PoolDescription {
        stages,
        studies: plan.studies - plan.written - plan.unreadable,
        remaining,
        seconds: measured.seconds,
        workers,
        window: args.window as usize,
    };
    let weights = weights(&bundle);
    // A million studies take seconds to simulate.
    let report =
        tokio::task::spawn_blocking(move || PlanReport::new(plan, pool, weights, prices)).await?;
    match args.json {
        true => outln!("{}", serde_json::to_string_pretty(&report)?),
        false => report.print(),
    }
    Ok(ends)
}

async fn options(
    args: &PlanArgs,
    input: &str,
    stages: &StageSet,
    bundle: &Bundle,
    config: &Config,
) -> anyhow::Result<RunOptions> {
    let outside = archive_source::outside(args.allow_outside, input)?;
    let input = archive_source::input(input, config).await?;
    let mut generation = args.generation.generation()?;
    generation.adapter = served_bundle::adapter(bundle, args.generation.model.as_deref())?;
    let archive = archive::open_with(&input, outside).await?;
    // Where its folder is, is known when it is looked at.
    let out = PathBuf::new();
    let (hash, components) = (
        bundle.manifest().hash(),
        bundle.manifest().component_hashes(),
    );
    Ok(RunOptions {
        stages: stages.clone(),
        generation,
        group: config.worker.group.clone(),
        window: args.window as usize,
        limit: args.limit,
        ..RunOptions::new(archive, out, hash, components)
    })
}

/// Asks the store what it has. Without a store nothing is computed yet, unless the results' folder has one.
async fn look(args: &PlanArgs, options: &RunOptions, config: &Config) -> anyhow::Result<RunPlan> {
    let looked_at = match &args.out {
        Some(place) => place.look(config).await?,
        None => LookedAt::nothing()?,
    };
    let mut config = config.clone();
    (config.amqp, config.redis) = (None, None);
    looked_at.without_making_objects(&mut config);
    let options = RunOptions {
        out: looked_at.folder().to_owned(),
        ..options.clone()
    };
    let backends = Backends::connect(&config).await?;
    Ok(plan_run(&options, backends.objects.as_ref()).await?)
}

/// Runs the archive's first studies through one worker a stage, in a folder that is removed.
async fn probe(
    args: &PlanArgs,
    options: RunOptions,
    bundle: &Arc<Bundle>,
    config: &Config,
) -> anyhow::Result<Measured> {
    // It has the archive's images in it: whatever ends this process, a signal too, drops it last.
    let folder = PrivateFolder::new()?;
    let mut config = config.clone();
    (config.amqp, config.redis, config.s3) = (None, None, None);
    config.objects.directory = Some(folder.path().join("objects"));
    let probe = u64::from(args.probe);
    let options = RunOptions {
        out: folder.path().to_owned(),
        limit: Some(args.limit.map_or(probe, |limit| limit.min(probe))),
        ..options
    };
    errln!("measuring on the archive's first {} studies …", args.probe);
    let backends = Backends::connect(&config).await?;
    let shutdown = CancellationToken::new();
    let run = batch_run::run(
        options,
        &backends,
        bundle,
        &args.models,
        &config,
        ProgressStyle::Off,
        &shutdown,
    );
    run.await?;
    let name = format!("the archive's first {} studies", args.probe);
    Measured::read(folder.path().join(RESULTS_FILE), name).await
}

/// Bytes of each stage's weights: what a worker holds at least.
fn weights(bundle: &Bundle) -> PerStage<u64> {
    let manifest = bundle.manifest();
    PerStage::from_fn(|stage| {
        let component = manifest.components.get(&stage);
        let files = component
            .into_iter()
            .flat_map(|component| component.files.values());
        let sizes = files.filter_map(|file| manifest.files.get(file));
        sizes.map(|entry| entry.size).sum()
    })
}
