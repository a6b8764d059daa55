//! Flags that several roles share.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use radialog_coordinator::gateway::GatewayConfig;
use radialog_models::bundle::{PrecisionChoice, System};
use radialog_models::device::{self, Device, DeviceError};
use radialog_models::preprocess::ImageLimits;
use radialog_models::prompt::Prompts;
use radialog_runtime::config::RunnerSettings;
use radialog_runtime::config::{Config, ConfigError, ListenAddress};
use radialog_runtime::telemetry;
use radialog_schemas::Stage;
use radialog_workers::StageOptions;

use crate::exit::UsageError;
use crate::flag_faults::{self, noted};

/// Stands for an address that cannot be read.
pub(crate) const SOME_ADDRESS: ListenAddress = ListenAddress(SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
    0,
));

/// Items in a model at a time.
const DEFAULT_BATCH: u32 = 8;
/// The device that every build has.
const CPU: &str = "cpu";

/// One of the two published systems.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SystemArg {
    V1,
    V2,
}

impl SystemArg {
    pub(crate) fn system(self) -> System {
        match self {
            Self::V1 => System::V1,
            Self::V2 => System::V2,
        }
    }

    pub(crate) fn prompts(self) -> Prompts {
        match self {
            Self::V1 => Prompts::default(),
            Self::V2 => Prompts::v2(),
        }
    }
}

/// Where broker, store and state are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Services (none of them: everything runs in this process)")]
pub(crate) struct ServiceArgs {
    /// TOML file with the same fields as the flags, e.g. amqp.url = "amqp://..."
    #[arg(long, env = "RADIALOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// RabbitMQ, e.g. amqp://user:password@host:5672/%2f [env: RADIALOG_AMQP_URL]
    #[arg(long, value_name = "URL")]
    amqp: Option<String>,
    /// S3 store, e.g. s3://bucket/prefix or http://host:9000/bucket; keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    /// [env: RADIALOG_S3_URL]
    #[arg(long, value_name = "URL")]
    s3: Option<String>,
    /// Redis, e.g. redis://:password@host:6379/0 [env: RADIALOG_REDIS_URL]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Folder for images and outputs where no S3 store is given [env: RADIALOG_OBJECTS_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    objects: Option<PathBuf>,
    /// Group of queues of this bundle's workers, where workers of several bundles share a broker: the same name at workers,
    /// gateway and batch [default: none] [env: RADIALOG_WORKER_GROUP]
    #[arg(long, value_name = "GROUP")]
    worker_group: Option<String>,
}

impl ServiceArgs {
    /// Refuses a store that a flag names, in a command that keeps nothing, unless one of these addresses lies in it. One that a variable
    /// or a file sets is meant for other commands.
    pub(crate) fn refuse_store_flags<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a str>,
        reason: &str,
    ) -> Result<(), UsageError> {
        let is_read = addresses
            .into_iter()
            .any(|address| address.starts_with("s3://"));
        let flag = match (&self.objects, &self.s3) {
            (Some(_), _) => "--objects",
            (None, Some(_)) if !is_read => "--s3",
            (None, _) => return Ok(()),
        };
        Err(UsageError(format!("{flag}: {reason}")))
    }

    /// Refuses flags that name services, or a file that does, in a command that uses none. What a variable or a file sets is meant
    /// for other commands.
    pub(crate) fn refuse_flags(&self, reason: &str) -> Result<(), UsageError> {
        let config = self.config.as_ref();
        let flags = [
            (
                "--config",
                config.is_some_and(|file| !is_of("RADIALOG_CONFIG", file)),
            ),
            ("--amqp", self.amqp.is_some()),
            ("--s3", self.s3.is_some()),
            ("--redis", self.redis.is_some()),
            ("--objects", self.objects.is_some()),
            ("--worker-group", self.worker_group.is_some()),
        ];
        match flags.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((flag, _)) => Err(UsageError(format!("{flag}: {reason}"))),
        }
    }

    /// The whole configuration, with the gateway's part, of a role that runs for long and logs what it does. All that is wrong is
    /// told in one message: what no source may say, values of flags that cannot be read, and what `check` finds, e.g. services
    /// that are missing.
    pub(crate) fn load_role(
        &self,
        more: &[(&str, Option<String>)],
        check: impl FnOnce(&Config, &GatewayConfig) -> Vec<String>,
    ) -> Result<(Config, GatewayConfig), ConfigError> {
        self.read_checked(more, |config, gateway| {
            // What is left out is said also where something is wrong. A filter that cannot be read is a fault already.
            drop(Self::log(config));
            let mut faults = flag_faults::take();
            faults.extend(check(config, gateway));
            faults
        })
    }

    /// The whole configuration, validated, of a command that a person waits for: it logs only what went wrong.
    pub(crate) fn load_quiet(&self, more: &[(&str, Option<String>)]) -> anyhow::Result<Config> {
        let (config, _) = self.load_quiet_with_gateway(more)?;
        Ok(config)
    }

    /// Does what [`ServiceArgs::load_quiet`] does, with the gateway's part.
    pub(crate) fn load_quiet_with_gateway(
        &self,
        more: &[(&str, Option<String>)],
    ) -> anyhow::Result<(Config, GatewayConfig)> {
        Ok(self.load_filtered(more, "warn,lapin=off")?)
    }

    /// Does what [`ServiceArgs::load_quiet`] does, of a command that says itself what went wrong.
    pub(crate) fn load_silent(&self) -> anyhow::Result<Config> {
        let (config, _) = self.load_filtered(&[], "off")?;
        Ok(config)
    }

    /// Reads the configuration, and logs what this filter lets through where none is configured.
    fn load_filtered(
        &self,
        more: &[(&str, Option<String>)],
        filter: &str,
    ) -> Result<(Config, GatewayConfig), ConfigError> {
        let (mut config, gateway) = self.read(more)?;
        config
            .telemetry
            .filter
            .get_or_insert_with(|| filter.to_owned());
        Self::log(&config)?;
        Ok((config, gateway))
    }

    fn log(config: &Config) -> Result<(), ConfigError> {
        telemetry::init(&config.telemetry).map_err(|error| ConfigError {
            faults: vec![error.to_string()],
        })?;
        if !config.service_links.is_empty() {
            tracing::info!(
                variables = config.service_links.join(" "),
                "not read: Kubernetes sets these for a Service called radialog-...; enableServiceLinks: false in the pod \
                 leaves them out"
            );
        }
        Ok(())
    }

    fn read(
        &self,
        more: &[(&str, Option<String>)],
    ) -> Result<(Config, GatewayConfig), ConfigError> {
        self.read_checked(more, |_, _| Vec::new())
    }

    /// Every role reads all areas, so that a fault in any of them is found by all.
    fn read_checked(
        &self,
        more: &[(&str, Option<String>)],
        check: impl FnOnce(&Config, &GatewayConfig) -> Vec<String>,
    ) -> Result<(Config, GatewayConfig), ConfigError> {
        let objects = self.objects.as_ref().map(|dir| dir.display().to_string());
        let flags = [
            ("amqp.url", self.amqp.clone()),
            ("s3.url", self.s3.clone()),
            ("redis.url", self.redis.clone()),
            ("objects.directory", objects),
            ("worker.group", self.worker_group.clone()),
        ];
        let given = flags
            .iter()
            .chain(more)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        Config::load_checked(
            self.config.as_deref(),
            std::env::vars(),
            given,
            GatewayConfig::read,
            check,
        )
    }
}

/// The bundle that a process takes its models from.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BundleSource {
    /// Bundle of weights: a folder, s3://bucket/prefix, or demo, small models that are often wrong; a gateway reads its manifest
    /// only [default: demo]
    #[arg(long, env = "RADIALOG_BUNDLE", value_name = "DIR|URL")]
    pub(crate) bundle: Option<String>,
    /// Numbers that models compute from, as KIND for every stage that has it or STAGE=KIND. The language model's weights in
    /// memory: f32, f16, bf16, or the quantised types that the bundle has (q8_0, q6_k, q4_k_m, q4_0). embedding, findings and
    /// scoring: f32, or bf16 on a CPU. Outputs depend on it and are named by it, so give it to all roles alike, with STAGE= where
    /// some stage has no such KIND [default: as the bundle has them; f32 for the other stages]
    #[arg(
        long,
        env = "RADIALOG_PRECISION",
        value_name = "KIND",
        value_delimiter = ',',
        value_parser = noted(str::parse::<PrecisionChoice>, PrecisionChoice::F32)
    )]
    pub(crate) precision: Vec<PrecisionChoice>,
}

impl BundleSource {
    /// A bundle as it is.
    pub(crate) fn of(bundle: Option<&str>) -> Self {
        Self {
            bundle: bundle.map(str::to_owned),
            precision: Vec::new(),
        }
    }
}

/// How models run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Models")]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) source: BundleSource,
    /// Where models run: cpu, or cuda:0 in a build with --features cuda [default: cpu]
    #[arg(long, env = "RADIALOG_DEVICE")]
    device: Option<String>,
    /// Most items in a model at a time; changes the speed, never a result
    /// [default: 8]
    #[arg(long, value_name = "N", value_parser = noted(clap::value_parser!(u32).range(1..=4096), 1))]
    batch_size: Option<u32>,
    /// GiB for keys and values of the texts that the language stage has in its model: as many run at a time as these and
    /// --batch-size have room for. Changes the speed, and no result where two whole contexts fit; with less, long texts are
    /// refused and conversations are cut [default: 4]
    #[arg(long, value_name = "N", value_parser = noted(clap::value_parser!(u32).range(1..=4096), 1))]
    cache_gib: Option<u32>,
    /// Most tokens that the language model's step drafts for a text, out of its prompt and what it says already; the model takes
    /// over those that it would choose: changes the speed, never a result. 0 drafts nothing [default: 8 on a CPU; a GPU drafts
    /// nothing]
    #[arg(long, value_name = "N", value_parser = noted(clap::value_parser!(u32).range(0..=15), 0))]
    speculate: Option<u32>,
}

impl ModelArgs {
    /// The name of the device on which models run.
    pub(crate) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(CPU)
    }

    /// How workers of these stages run on the device.
    ///
    /// # Errors
    /// An option that none of them can honour.
    pub(crate) fn stage_options(
        &self,
        stages: &[Stage],
        device: &Device,
        worker: &RunnerSettings,
    ) -> Result<StageOptions, UsageError> {
        let has_language = stages.contains(&Stage::Language);
        let mut refused = Vec::new();
        match self.speculate {
            Some(_) if !has_language => refused.push(
                "--speculate: only the language stage drafts tokens, and it is not among the stages here",
            ),
            Some(1..) if !device.is_cpu() => refused.push(
                "--speculate: on a GPU answers would depend on what was drafted: give 0, or leave it out",
            ),
            _ => {}
        }
        if self.cache_gib.is_some() && !has_language {
            refused.push(
                "--cache-gib: only the language stage has such a cache, and it is not among the stages here",
            );
        }
        if !refused.is_empty() {
            return Err(UsageError(refused.join("; ")));
        }
        let default = StageOptions::default();
        Ok(StageOptions {
            batch_limit: self.batch_size.unwrap_or(DEFAULT_BATCH) as usize,
            cache_bytes: self
                .cache_gib
                .map_or(default.cache_bytes, |gib| u64::from(gib) << 30),
            image_limits: ImageLimits {
                max_bytes: worker.max_image_bytes,
                max_pixels: worker.max_image_pixels,
                are_settings: true,
            },
            speculate: self
                .speculate
                .map_or(default.speculate, |most| most as usize),
            ..default
        })
    }

    /// Checks that nothing is asked of workers that are elsewhere, behind a broker.
    pub(crate) fn check_elsewhere(&self) -> Result<(), UsageError> {
        if let Err(error @ DeviceError::Name(_)) = device::from_name(self.device()) {
            return Err(UsageError(error.to_string()));
        }
        let (flag, worker) = match self.flag_of_models() {
            None => return Ok(()),
            Some(flag @ ("--speculate" | "--cache-gib")) => (flag, "worker language"),
            Some(flag) => (flag, "worker"),
        };
        Err(UsageError(format!(
            "{flag}: with a broker the workers are elsewhere: give it to `radialog {worker}`"
        )))
    }

    /// Refuses what says which models run and how, in a command that runs none.
    pub(crate) fn refuse_flags(&self, reason: &str) -> Result<(), UsageError> {
        let BundleSource { bundle, precision } = &self.source;
        let choices: Vec<String> = precision.iter().map(ToString::to_string).collect();
        let source = [
            (
                "--bundle",
                bundle
                    .as_ref()
                    .is_some_and(|bundle| !is_of("RADIALOG_BUNDLE", bundle)),
            ),
            (
                "--precision",
                !choices.is_empty() && !is_of("RADIALOG_PRECISION", choices.join(",")),
            ),
        ];
        let flag = source
            .iter()
            .find_map(|(flag, given)| given.then_some(*flag));
        match flag.or_else(|| self.flag_of_models()) {
            None => Ok(()),
            Some(flag) => Err(UsageError(format!("{flag}: {reason}"))),
        }
    }

    /// A flag that says how models run here, where one is given.
    fn flag_of_models(&self) -> Option<&'static str> {
        let flags = [
            ("--speculate", self.speculate.is_some()),
            ("--cache-gib", self.cache_gib.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            (
                "--device",
                self.device
                    .as_ref()
                    .is_some_and(|device| !is_of("RADIALOG_DEVICE", device)),
            ),
        ];
        flags
            .iter()
            .find_map(|(flag, given)| given.then_some(*flag))
    }
}

/// Whether the value of a flag is that of its variable, which is meant for other commands, too.
fn is_of(variable: &str, value: impl AsRef<OsStr>) -> bool {
    std::env::var_os(variable).is_some_and(|set| set.as_os_str() == value.as_ref())
}

/// How what conversations leave in the object store is removed.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Retention (images and outputs of conversations that are gone)")]
pub(crate) struct RetentionArgs {
    /// How long an object stays without an owner, in seconds [default: 3600] [env: RADIALOG_RETENTION_GRACE]
    #[arg(long, value_name = "SECONDS", value_parser = noted(str::parse::<f64>, 3600.0))]
    retention_grace: Option<f64>,
    /// How often such objects are looked for, in seconds; at most half the grace [default: 900]
    /// [env: RADIALOG_RETENTION_INTERVAL]
    #[arg(long, value_name = "SECONDS", value_parser = noted(str::parse::<f64>, 900.0))]
    retention_interval: Option<f64>,
    /// Count them (radialog_retention_unowned_items) and leave them where they are [env: RADIALOG_RETENTION_DRY_RUN]
    #[arg(long)]
    retention_dry_run: bool,
}

impl RetentionArgs {
    /// These settings and others.
    pub(crate) fn with<const N: usize>(
        &self,
        others: [(&'static str, Option<String>); N],
    ) -> Vec<(&'static str, Option<String>)> {
        let seconds = |value: Option<f64>| value.map(|seconds| seconds.to_string());
        let mut settings = vec![
            ("retention.grace", seconds(self.retention_grace)),
            ("retention.interval", seconds(self.retention_interval)),
            (
                "retention.dry_run",
                self.retention_dry_run.then(|| "true".to_owned()),
            ),
        ];
        settings.extend(others);
        settings
    }
}

/// The health and metrics server.
#[derive(Args, Clone, Debug)]
pub(crate) struct HealthArgs {
    /// Serve /metrics, /healthz and /readyz here, e.g. 0.0.0.0:9090 [env: RADIALOG_HEALTH_ADDRESS]
    #[arg(long, value_name = "ADDRESS", value_parser = noted(str::parse::<ListenAddress>, SOME_ADDRESS))]
    health_address: Option<ListenAddress>,
}

impl HealthArgs {
    pub(crate) fn setting(&self) -> (&'static str, Option<String>) {
        (
            "health.address",
            self.health_address
                .map(|ListenAddress(address)| address.to_string()),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Role {
        #[command(flatten)]
        models: ModelArgs,
    }

    #[test]
    fn the_language_stage_gets_the_cache_that_a_flag_says() {
        let cache_bytes = |arguments: &[&str]| {
            let role = Role::try_parse_from([&["role"][..], arguments].concat()).unwrap();
            let options =
                role.models
                    .stage_options(&Stage::ALL, &Device::Cpu, &RunnerSettings::default());
            options.unwrap().cache_bytes
        };
        assert_eq!(cache_bytes(&[]), 4 << 30);
        assert_eq!(cache_bytes(&["--cache-gib", "48"]), 48 << 30);
    }
}
