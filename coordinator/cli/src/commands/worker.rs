//! `radialog worker`: one stage on this machine.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use radialog_models::device::{self, Device, DeviceError};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use radialog_schemas::Stage;
use radialog_workers::{LoadedStage, load_stage};

use crate::args::{HealthArgs, ModelArgs, ServiceArgs};
use crate::flag_faults::noted;
use crate::lifecycle::Lifecycle;
use crate::shared_services::{self, SharedService};
use crate::{bundle_source, served_bundle};

/// Work on one stage: take its tasks from RabbitMQ, store outputs, publish results
///
/// Start as many as you like, on as many machines; each GPU stage scales by its own queue.
///
/// Example: radialog worker language --bundle /bundles/radialog-v1 --device cuda:0 --amqp amqp://host --redis redis://host --s3 s3://radialog
#[derive(Args)]
pub(crate) struct WorkerArgs {
    /// embedding (image tokens), findings (14 CheXpert findings), language (reports) or scoring (CheXbert labels)
    stage: Stage,
    /// This worker's name in results and dead letters [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Seconds that tasks in the model may take to finish after SIGTERM before they are handed back [default: 25]
    #[arg(long, value_name = "SECONDS", value_parser = noted(clap::value_parser!(u64), 25))]
    grace: Option<u64>,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let more = [
        ("worker.name", args.name),
        ("worker.grace", args.grace.map(|s| s.to_string())),
        args.health.setting(),
    ];
    let (config, _) = args
        .services
        .load_role(&more, |config, _| faults(args.stage, &args.models, config))?;
    let lifecycle = Lifecycle::begin(&config).await?;
    let starting = start(args.stage, &args.models, &config, &lifecycle.readiness);
    let Some((backends, loaded)) = lifecycle.start(starting).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    lifecycle.readiness.ready();
    let drain = lifecycle.drain().clone();
    loaded.run(&backends, config.worker, drain).await?;
    Ok(ExitCode::SUCCESS)
}

/// What cannot be meant, all of it.
fn faults(stage: Stage, models: &ModelArgs, config: &Config) -> Vec<String> {
    // The conversations of a language worker without a state would be its own: it would take other people's turns, and know
    // nothing of them.
    let needed: &[SharedService] = match stage {
        Stage::Language => &SharedService::ALL,
        _ => &[SharedService::Broker, SharedService::Store],
    };
    let instead = ". `radialog batch` needs none of them";
    let missing = shared_services::missing("a worker", needed, config, instead);
    let mut faults: Vec<String> = missing.into_iter().collect();
    let bundle = models.source.bundle.as_deref();
    faults.extend(bundle.and_then(|bundle| bundle_source::fault(bundle, config)));
    let choices = models.source.precision.iter();
    let refused = choices.filter_map(|choice| choice.check(stage).err());
    faults.extend(refused.map(|error| format!("--precision: {error}")));
    let device = match device::from_name(models.device()) {
        Err(error @ DeviceError::Name(_)) => {
            faults.push(error.to_string());
            Device::Cpu
        }
        // What this machine lacks is no fault of the command line, and is told when the model is loaded.
        device => device.unwrap_or(Device::Cpu),
    };
    let options = models.stage_options(&[stage], &device, &config.worker);
    faults.extend(options.err().map(|error| error.0));
    faults
}

/// Connects, and loads the stage's model.
async fn start(
    stage: Stage,
    models: &ModelArgs,
    config: &Config,
    readiness: &Readiness,
) -> anyhow::Result<(Backends, LoadedStage)> {
    let device = device::from_name(models.device())?;
    let options = models.stage_options(&[stage], &device, &config.worker)?;
    let source = &models.source;
    let bundle = bundle_source::open_for(source, &[stage], config, readiness).await?;
    readiness.serves(served_bundle::label(&bundle, config.worker.group.as_ref()));
    let connecting = async {
        let _step = readiness.step("connecting");
        Backends::connect(config).await.map_err(anyhow::Error::from)
    };
    let loading = async {
        let _step = readiness.step(&format!("loading component {stage}"));
        let load = move || load_stage(stage, &bundle, &device, &options);
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded
            .context("loading the model was interrupted")?
            .map_err(anyhow::Error::from)
    };
    tokio::try_join!(connecting, loading)
}
