//! `radialog batch`: an archive from start to end.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use clap::Args;
use radialog_coordinator::run::GivenOutputs;
use radialog_coordinator::run::{DEFAULT_IMAGE_LIMIT, DEFAULT_WINDOW};
use radialog_coordinator::{CoordinatorError, RunOptions, RunPlan, RunSummary, archive, plan_run};
use radialog_models::bundle::Bundle;
use radialog_models::device;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use radialog_schemas::{Generation, ReportSampling, Stage, StageSet, counted};
use tokio_util::sync::CancellationToken;

use crate::args::{HealthArgs, ModelArgs, ServiceArgs};
use crate::batch_output::{BatchOutput, OutputArgs};
use crate::batch_run;
use crate::exit::{EXIT_FAILED_STUDIES, EXIT_INTERRUPTED, UsageError};
use crate::given_outputs::GivenOutputFiles;
use crate::lifecycle::Lifecycle;
use crate::progress::ProgressStyle;
use crate::shared_services;
use crate::{archive_source, bundle_source, results_page, run_summary, served_bundle};

/// What `--stages` is where it is not given.
pub(super) static ALL_STAGES: LazyLock<String> =
    LazyLock::new(|| Stage::ALL.map(Stage::name).join(","));

/// Score an archive of chest X-rays: findings, report and labels of every study, in one table
///
/// Run the same command again to resume: what is stored is not computed twice.
///
/// Exit codes: 0 every study is done; 65 the run is complete, and studies failed, or parts of the
/// archive could not be read or have the id of another study, or studies of an earlier session not
/// compared with it, which are named at its end; 130 it was interrupted; 64 the command line or the
/// configuration is wrong; 1 it could not be run.
///
/// Examples:
///   radialog batch xrays/ --out results
///   radialog batch xrays/ --out results --html
///   radialog batch studies.csv --out results --bundle /bundles/radialog-v1 --stages findings
///   radialog batch s3://archive/cxr --out s3://results/cxr --amqp amqp://host --s3 http://host:9000/radialog --redis redis://host
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BatchArgs {
    /// Folder of PNG and JPEG files or MIMIC-CXR-JPG tree, one image, CSV manifest with study_id and image, or
    /// s3://bucket/prefix of one of them
    input: String,
    #[command(flatten)]
    pub(super) out: OutputArgs,
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Say what is already computed and what remains, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Also write results.html into the folder of the results: one page of all studies with pictures, findings, reports
    /// and filters, which needs nothing else; about 30 kB a study
    #[arg(long)]
    html: bool,
    /// Run failed studies of an earlier session again
    #[arg(long)]
    retry_failed: bool,
    /// Studies in flight at a time; bounds memory
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Largest image file in MiB; larger ones fail with image_too_large
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_IMAGE_LIMIT >> 20, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    max_image_size: u64,
    /// Embeddings that stand in for the embedding stage, by image: the release's .pkl files, or the .safetensors of `radialog
    /// prepare embeddings`. The image's name without its ending, else the study's id, finds an entry; a study without one
    /// fails with given_missing
    #[arg(long, value_name = "FILE", num_args = 1..)]
    embeddings: Vec<PathBuf>,
    /// Predictions that stand in for the findings stage, likewise: the release's JSON, lists of finding names by image. With
    /// both, no image is read
    #[arg(long, value_name = "FILE", num_args = 1..)]
    predictions: Vec<PathBuf>,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    consistency: ConsistencyArgs,
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
pub(super) struct GenerationArgs {
    /// Longest report, in tokens
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Sample with this temperature instead of taking the most probable token, e.g. 0.7
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from the most probable tokens that make up this mass, e.g. 0.9; needs --temperature
    #[arg(
        long,
        value_name = "P",
        requires = "temperature",
        allow_negative_numbers = true
    )]
    top_p: Option<f64>,
    /// Model that writes the reports, of a bundle with several adapters: its name, or NAME-ADAPTER. Default: the adapter
    /// that the bundle names for reports
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Seed of the sampler, of --temperature or --consistency: the same seed gives the same reports [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Reports that are sampled to see how sure a report is.
#[derive(Args)]
#[command(next_help_heading = "Review flag")]
struct ConsistencyArgs {
    /// Sample N more reports of each study, and say how far its report agrees with them: as a whole, and by sentence (ROUGE-L
    /// of words, 0 to 1; low is a flag for review). They are in results.jsonl, the agreement in results.csv, too. The
    /// prompt is read once for all of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    consistency: Option<u32>,
    /// Temperature of these samples; --seed is theirs, too
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.7,
        requires = "consistency",
        allow_negative_numbers = true
    )]
    consistency_temperature: f64,
}

impl ConsistencyArgs {
    fn sampling(&self) -> Result<Option<ReportSampling>, UsageError> {
        let temperature = self.consistency_temperature;
        if !(temperature > 0.0 && temperature <= 10.0) {
            return Err(UsageError(format!(
                "--consistency-temperature {temperature} is not over 0 and up to 10"
            )));
        }
        Ok(self
            .consistency
            .map(|count| ReportSampling { count, temperature }))
    }
}

impl GenerationArgs {
    /// The settings of a run that samples nothing else.
    pub(super) fn generation(&self) -> Result<Generation, UsageError> {
        self.generation_beside(None)
    }

    /// The settings of a run that samples these reports, too.
    fn generation_beside(&self, samples: Option<ReportSampling>) -> Result<Generation, UsageError> {
        if self.seed.is_some() && self.temperature.is_none() && samples.is_none() {
            let message = "--seed is for reports that are sampled, and these are not: give --temperature, or leave it out";
            return Err(UsageError(message.into()));
        }
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
            seed: self.seed.unwrap_or_default(),
            samples,
            ..Generation::default()
        })
    }
}

/// The stages that workers run. A file for a stage that the run has not is refused: it would change nothing.
fn computed_stages(args: &BatchArgs, stages: &StageSet) -> Result<Vec<Stage>, UsageError> {
    let given = [
        ("--embeddings", Stage::Embedding, args.embeddings.is_empty()),
        (
            "--predictions",
            Stage::Findings,
            args.predictions.is_empty(),
        ),
    ];
    let given: Vec<_> = given
        .into_iter()
        .filter(|(_, _, is_empty)| !is_empty)
        .collect();
    if let Some((flag, stage, _)) = given
        .iter()
        .find(|(_, stage, _)| stages.iter().all(|wanted| wanted != *stage))
    {
        let message = format!("{flag} stands in for the {stage} stage, which this run has not");
        return Err(UsageError(message));
    }
    let is_given = |stage: &Stage| given.iter().any(|(_, given, _)| given == stage);
    Ok(stages.iter().filter(|stage| !is_given(stage)).collect())
}

/// Opens the files that stand in for stages, beside the runtime's threads: they may be large.
async fn given_outputs(
    args: &BatchArgs,
    bundle: &Arc<Bundle>,
) -> anyhow::Result<Option<Arc<dyn GivenOutputs>>> {
    let (embeddings, predictions) = (args.embeddings.clone(), args.predictions.clone());
    let bundle = bundle.clone();
    let open = move || GivenOutputFiles::open(&embeddings, &predictions, &bundle);
    let opened = tokio::task::spawn_blocking(open).await??;
    Ok(opened.map(|files| Arc::new(files) as Arc<dyn GivenOutputs>))
}

pub(crate) async fn run(args: BatchArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[args.health.setting()])?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let Some(prepared) = lifecycle
        .start(prepare(&args, config, &lifecycle.readiness))
        .await?
    else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let batch = match prepared {
        ControlFlow::Continue(batch) => batch,
        ControlFlow::Break(ends) => return Ok(ends),
    };
    lifecycle.readiness.ready();
    let (summary, missing_pictures) = batch.run(&args, lifecycle.drain()).await?;
    let is_empty = summary.studies == 0;
    match summary.interrupted {
        true => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        false if is_empty && summary.problem_count == 0 => Err(no_image(&args.input).into()),
        false if summary.failed > 0 || !summary.saw_everything() || is_empty => {
            Ok(ExitCode::from(EXIT_FAILED_STUDIES))
        }
        false if missing_pictures > 0 => Ok(ExitCode::from(EXIT_FAILED_STUDIES)),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// How a plan over this archive ends: where nothing can be run, or not all of it be looked at, as the run would.
pub(super) fn exit_of_plan(plan: &RunPlan, input: &str) -> anyhow::Result<ExitCode> {
    match (plan.studies, plan.problems) {
        (0, 0) => Err(no_image(input).into()),
        (0, _) => Ok(ExitCode::from(EXIT_FAILED_STUDIES)),
        _ if !plan.saw_everything() => Ok(ExitCode::from(EXIT_FAILED_STUDIES)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A name with a slip in it lists nothing, and is no archive that was scored.
fn no_image(input: &str) -> CoordinatorError {
    CoordinatorError::NoImage {
        input: input.to_owned(),
    }
}

/// A batch that can begin.
struct PreparedBatch {
    options: RunOptions,
    out: BatchOutput,
    bundle: Arc<Bundle>,
    backends: Backends,
    config: Config,
}

/// Opens everything that the batch needs; a dry run ends here, with this code.
async fn prepare(
    args: &BatchArgs,
    mut config: Config,
    readiness: &Readiness,
) -> anyhow::Result<ControlFlow<ExitCode, PreparedBatch>> {
    let samples = args.consistency.sampling()?;
    let mut generation = args.generation.generation_beside(samples)?;
    // Before the default is filled in, which workers do not know.
    shared_services::require_all_or_own(&config)?;
    if let Some(folder) = args.out.folder() {
        config
            .objects
            .directory
            .get_or_insert_with(|| folder.join("objects"));
    }
    if args.html && args.out.folder().is_none() {
        let message = "--html writes a page into a folder of results: name one with --out";
        return Err(UsageError(message.into()).into());
    }
    args.out.check(&config, args.dry_run)?;
    let stages = StageSet::closure(&args.stages);
    if generation.samples.is_some() && stages.iter().all(|stage| stage != Stage::Language) {
        let message = "--consistency samples reports, and --stages has none: add language";
        return Err(UsageError(message.into()).into());
    }
    let outside = archive_source::outside(args.allow_outside, &args.input)?;
    let input = archive_source::input(&args.input, &config).await?;
    let archive = archive::open_with(&input, outside).await?;
    // Stages that files stand in for need no weights.
    let wanted = computed_stages(args, &stages)?;
    // What workers in this process would refuse, or cannot be told where they are elsewhere, before anything is made for them.
    if config.amqp.is_none() {
        let device = device::from_name(args.models.device())?;
        args.models
            .stage_options(&wanted, &device, &config.worker)?;
    } else {
        args.models.check_elsewhere()?;
    }
    let source = &args.models.source;
    // Workers behind a broker have the weights.
    let here: &[Stage] = match &config.amqp {
        Some(_) => &[],
        None => &wanted,
    };
    let bundle = bundle_source::open_for(source, here, &config, readiness).await?;
    let components = &bundle.manifest().components;
    if let Some(stage) = wanted.iter().find(|stage| !components.contains_key(stage)) {
        let message = format!(
            "the bundle has no component {stage}: name another --bundle, or other --stages"
        );
        return Err(UsageError(message).into());
    }
    let bundle = Arc::new(bundle);
    readiness.serves(served_bundle::label(&bundle, config.worker.group.as_ref()));
    generation.adapter = served_bundle::adapter(&bundle, args.generation.model.as_deref())?;
    let given = given_outputs(args, &bundle).await?;
    // Where its folder is, is known when the output is open.
    let out = PathBuf::new();
    let (hash, components) = (
        bundle.manifest().hash(),
        bundle.manifest().component_hashes(),
    );
    let mut options = RunOptions {
        stages,
        generation,
        group: config.worker.group.clone(),
        given,
        window: args.window as usize,
        limit: args.limit,
        image_limit: args.max_image_size << 20,
        retry_failed: args.retry_failed,
        ..RunOptions::new(archive, out, hash, components)
    };
    if args.dry_run {
        let looked_at = args.out.look(&config).await?;
        options.out = looked_at.folder().to_owned();
        looked_at.without_making_objects(&mut config);
        let backends = Backends::connect(&config).await?;
        let plan = plan_run(&options, backends.objects.as_ref()).await?;
        let ends = exit_of_plan(&plan, &args.input)?;
        run_summary::print_plan(&plan);
        return Ok(ControlFlow::Break(ends));
    }
    // Before a folder belongs to this run, and to no other one.
    if options.archive.entries().await?.next().await.is_none() {
        return Err(no_image(&args.input).into());
    }
    let _step = readiness.step("connecting");
    let backends = Backends::connect(&config).await?;
    let out = args.out.open(&options, &config).await?;
    (options.out, options.changed) = (out.folder().to_owned(), out.changed());
    Ok(ControlFlow::Continue(PreparedBatch {
        options,
        out,
        bundle,
        backends,
        config,
    }))
}

impl PreparedBatch {
    /// Runs it. Returns what it came to, and how many pictures the page lacks.
    async fn run(
        self,
        args: &BatchArgs,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<(RunSummary, u64)> {
        let Self {
            options,
            out,
            bundle,
            backends,
            config,
        } = self;
        let (archive, folder) = (options.archive.clone(), options.out.clone());
        let image_limit = options.image_limit;
        let run = batch_run::run(
            options,
            &backends,
            &bundle,
            &args.models,
            &config,
            args.progress,
            shutdown,
        );
        let (summary, place) = out.beside(run).await?;
        let missing_pictures = match args.html {
            true => {
                let (archive, objects) = (&*archive, &*backends.objects);
                let limit = args.limit;
                results_page::write(&folder, archive, limit, image_limit, objects, &summary).await?
            }
            false => 0,
        };
        run_summary::print_summary(&summary, &place);
        if args.html {
            outln!(
                "  page:    {}",
                folder.join(results_page::PAGE_FILE).display()
            );
        }
        if missing_pictures > 0 {
            outln!(
                "  {} missing on the page, which says why: put back what is named there, and run the same command again.",
                counted(missing_pictures, "picture is", "pictures are")
            );
        }
        Ok((summary, missing_pictures))
    }
}
