//! `radialog batch`: an archive from start to end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use clap::Args;
use radialog_coordinator::run::{DEFAULT_IMAGE_LIMIT, DEFAULT_STALL, DEFAULT_WINDOW};
use radialog_coordinator::{RunOptions, archive, plan_run};
use radialog_runtime::backends::Backends;
use radialog_runtime::shutdown;
use radialog_schemas::{Generation, Source, Stage, StageSet};

use crate::args::{HealthArgs, ModelArgs, ServiceArgs, serve_health};
use crate::batch_run::{self, require_state_beside_broker};
use crate::exit::{EXIT_INTERRUPTED, UsageError};
use crate::progress::ProgressStyle;
use crate::{archive_source, bundle_source, run_summary, served_bundle};

/// What `--stages` is where it is not given.
static ALL_STAGES: LazyLock<String> = LazyLock::new(|| Stage::ALL.map(Stage::name).join(","));

/// Score an archive of chest X-rays: findings, report and labels of every study, in one table
///
/// Run the same command again to resume: what is stored is not computed twice.
///
/// Examples:
///   radialog batch xrays/ --out results
///   radialog batch studies.csv --out results --bundle /bundles/radialog-v1 --stages findings
///   radialog batch s3://archive/cxr --out results --amqp amqp://host --s3 http://host:9000/radialog --redis redis://host
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BatchArgs {
    /// Folder of PNG and JPEG files, MIMIC-CXR-JPG tree, CSV manifest with study_id and image, or
    /// s3://bucket/prefix of one of them
    input: String,
    /// Folder for results.jsonl, results.csv and summary.json; holds the state to resume from
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also read images outside of the archive's folder, which rows of a manifest with absolute paths or .. and links can
    /// name; without it their studies fail
    #[arg(long)]
    allow_outside: bool,
    /// Only these stages and what they need, e.g. --stages findings
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "STAGE,...",
        default_value = ALL_STAGES.as_str()
    )]
    stages: Vec<Stage>,
    /// Only the first N studies of the archive
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Say what is already computed and what remains, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Run failed studies of an earlier session again
    #[arg(long)]
    retry_failed: bool,
    /// Studies in flight at a time; bounds memory
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Largest image file in MiB; larger ones fail with image_too_large
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_IMAGE_LIMIT >> 20)]
    max_image_size: u64,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    models: ModelArgs,
    /// Progress as bars, as lines, or not at all
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressStyle,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// The settings with which reports are decoded.
#[derive(Args)]
#[command(next_help_heading = "Reports")]
struct GenerationArgs {
    /// Longest report, in tokens
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Sample with this temperature instead of taking the most probable token, e.g. 0.7
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Sample from the most probable tokens that make up this mass, e.g. 0.9; needs --temperature
    #[arg(long, value_name = "P", requires = "temperature")]
    top_p: Option<f64>,
    /// Model that writes the reports, of a bundle with several adapters: its name, or NAME-ADAPTER. Default: the adapter
    /// that the bundle names for reports
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Seed of the sampler: the same seed gives the same reports
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl GenerationArgs {
    fn generation(&self) -> Result<Generation, UsageError> {
        let within = |name: &str, value: Option<f64>, most: f64| match value {
            Some(v) if !(v > 0.0 && v <= most) => Err(UsageError(format!(
                "--{name} {v} is not over 0 and up to {most}"
            ))),
            _ => Ok(()),
        };
        within("temperature", self.temperature, 10.0)?;
        within("top-p", self.top_p, 1.0)?;
        let (temperature, top_p) = (self.temperature, self.top_p);
        Ok(Generation {
            max_new_tokens: self.max_new_tokens,
            temperature,
            top_p,
            seed: self.seed,
            ..Generation::default()
        })
    }
}

pub(crate) async fn run(args: BatchArgs) -> anyhow::Result<ExitCode> {
    let mut generation = args.generation.generation()?;
    let mut config = args.services.load_quiet(&[args.health.setting()])?;
    config
        .objects
        .directory
        .get_or_insert_with(|| args.out.join("objects"));
    require_state_beside_broker(&config)?;
    let stages = StageSet::closure(&args.stages);
    let outside = archive_source::outside(args.allow_outside, &args.input)?;
    let input = archive_source::input(&args.input, &config).await?;
    let archive = archive::open_with(&input, outside).await?;
    let wanted: Vec<Stage> = stages.iter().collect();
    let bundle =
        Arc::new(bundle_source::open(args.models.bundle.as_deref(), &wanted, &config).await?);
    generation.adapter = served_bundle::adapter(&bundle, args.generation.model.as_deref())?;
    let options = RunOptions {
        archive,
        out: args.out.clone(),
        source: Source::Image,
        stages,
        generation,
        bundle: bundle.manifest().hash(),
        components: bundle.manifest().component_hashes(),
        group: config.worker.group.clone(),
        window: args.window as usize,
        limit: args.limit,
        image_limit: args.max_image_size << 20,
        stall: DEFAULT_STALL,
        retry_failed: args.retry_failed,
    };
    if args.dry_run {
        let backends = Backends::connect(&config).await?;
        run_summary::print_plan(&plan_run(&options, backends.objects.as_ref()).await?);
        return Ok(ExitCode::SUCCESS);
    }

    let shutdown = shutdown::on_signals()?;
    let readiness = serve_health(&config, &shutdown).await?;
    let backends = Backends::connect(&config).await?;
    readiness.serves(served_bundle::label(&bundle, config.worker.group.as_ref()));
    readiness.set(true);
    let summary = batch_run::run(
        options,
        &backends,
        &bundle,
        &args.models,
        &config,
        args.progress,
        &shutdown,
    )
    .await?;
    run_summary::print_summary(&summary, &args.out);
    Ok(if summary.interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}
