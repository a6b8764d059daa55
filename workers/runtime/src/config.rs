//! Configuration of everything in this crate: one struct an area, read from a TOML file, `RADIALOG_<AREA>_<FIELD>` and
//! command-line overrides, later ones first. It is validated whole before any socket opens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::uri::AMQPUri;
use redis::IntoConnectionInfo;
use secrecy::{ExposeSecret, SecretString};

use crate::health;
use crate::telemetry::{self, TelemetryConfig};

pub use listen_address::{ListenAddress, ListenAddressError};
pub use reader::{ConfigReader, Setting};
pub use retention::RetentionConfig;
pub use s3::S3Config;
pub use worker::RunnerSettings;

mod listen_address;
mod reader;
mod retention;
mod s3;
mod service_links;
mod worker;

/// Everything that can be configured. What is none runs embedded, in this process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker; where none is configured, queues are in memory.
    pub amqp: Option<AmqpConfig>,
    /// The S3 object store; where none is configured, objects are files under [`ObjectsConfig::directory`].
    pub s3: Option<S3Config>,
    /// The filesystem object store.
    pub objects: ObjectsConfig,
    /// The shared state; where none is configured, it is in memory.
    pub redis: Option<RedisConfig>,
    /// How what conversations leave in the object store is removed.
    pub retention: RetentionConfig,
    /// How workers behave.
    pub worker: RunnerSettings,
    /// The health and metrics server.
    pub health: HealthConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// How long to try again at the start (connect, declare the queues, subscribe) before it is an error.
    pub start_timeout: Duration,
    /// How long a service that was asked to stop goes on as before, already not ready, so that whoever sends it requests
    /// learns of it first. None is right where nobody asks `/readyz`.
    pub shutdown_pause: Duration,
    /// The variables that Kubernetes has set for a Service called `radialog-...`, which are no settings and were left out.
    pub service_links: Vec<String>,
    /// Every setting that there is, without secrets, for people.
    pub settings: Vec<Setting>,
}

/// `[amqp]`: where RabbitMQ is, 3.10 or newer.
#[derive(Clone, Debug)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:5672/%2f`, or `amqps:` with TLS.
    pub url: SecretString,
    /// A connection that is silent for twice as long is broken.
    pub heartbeat: Duration,
    /// The time that a publish waits for the broker to come back before it is an error.
    pub publish_timeout: Duration,
}

/// `[redis]`: where Redis is.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://:password@host:6379/0`, or `rediss:` with TLS; of a Redis Cluster, one or more of its nodes, with commas.
    pub url: SecretString,
    /// The time that one command may take.
    pub timeout: Duration,
}

/// `[objects]`: where objects are files.
#[derive(Clone, Debug)]
pub struct ObjectsConfig {
    /// The directory of objects when no S3 store is configured; each role has its own default.
    pub directory: Option<PathBuf>,
}

/// `[health]`: the health and metrics server.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// The address at which `/metrics`, `/healthz` and `/readyz` are served; none where they are not.
    pub address: Option<SocketAddr>,
    /// How long a start may stand still before `/healthz` asks for a restart.
    pub stall: Duration,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Each with its source, and what to do.
    pub faults: Vec<String>,
}

impl Config {
    /// Reads and validates the configuration of this crate.
    ///
    /// `environment` is usually [`std::env::vars`]; `overrides` are flags, named as in the file, e.g. `amqp.url`.
    ///
    /// # Errors
    /// All faults of all sources at once. Areas of other crates in the file are faults, too: see [`Config::load_with`].
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::load_with(file, environment, overrides, |_| ()).map(|(config, ())| config)
    }

    /// Reads and validates the configuration of this crate, and areas of other crates from the same sources.
    ///
    /// # Errors
    /// All faults of all sources at once.
    pub fn load_with<T>(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
        areas: impl FnOnce(&mut ConfigReader) -> T,
    ) -> Result<(Self, T), ConfigError> {
        Self::load_checked(file, environment, overrides, areas, |_, _| Vec::new())
    }

    /// Does what [`Config::load_with`] does, and has the whole looked at by its caller, whose faults are told with all others.
    /// `check` sees the configuration even where it has faults: what is wrong there is as if it were given.
    ///
    /// # Errors
    /// All faults of all sources, and those of `check`, at once.
    pub fn load_checked<T>(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
        areas: impl FnOnce(&mut ConfigReader) -> T,
        check: impl FnOnce(&Self, &T) -> Vec<String>,
    ) -> Result<(Self, T), ConfigError> {
        let mut reader = ConfigReader::new(file, environment, overrides);
        let mut config = Self {
            amqp: amqp(&mut reader),
            s3: S3Config::read(&mut reader),
            objects: ObjectsConfig {
                directory: reader.text("objects", "directory").map(PathBuf::from),
            },
            redis: redis(&mut reader),
            retention: RetentionConfig::read(&mut reader),
            worker: RunnerSettings::read(&mut reader),
            health: HealthConfig {
                address: reader
                    .parsed("health", "address")
                    .map(|ListenAddress(address)| address),
                stall: reader.seconds("health", "stall", health::DEFAULT_STALL),
            },
            telemetry: telemetry(&mut reader),
            start_timeout: reader.seconds("start", "timeout", Duration::from_secs(60)),
            shutdown_pause: reader.seconds("shutdown", "pause", Duration::ZERO),
            service_links: Vec::new(),
            settings: Vec::new(),
        };
        let areas = areas(&mut reader);
        config.settings = reader.settings();
        let (service_links, mut faults) = reader.finish();
        config.service_links = service_links;
        faults.extend(check(&config, &areas));
        match faults.is_empty() {
            true => Ok((config, areas)),
            false => Err(ConfigError { faults }),
        }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.faults.as_slice() {
            [fault] => f.write_str(fault),
            faults => write!(
                f,
                "the configuration has {} faults:\n  - {}",
                faults.len(),
                faults.join("\n  - ")
            ),
        }
    }
}

impl AmqpConfig {
    /// Whether the address leads to the virtual host `/`, where everybody is who names none.
    pub fn is_default_virtual_host(&self) -> bool {
        let uri = self.url.expose_secret().parse::<AMQPUri>();
        uri.map_or(true, |uri| matches!(&*uri.vhost, "" | "/"))
    }
}

impl RedisConfig {
    /// Whether the address leads to database 0, where everybody is who names none.
    pub fn is_default_database(&self) -> bool {
        let addresses = redis_addresses(&self.url).unwrap_or_default();
        addresses.is_empty() || addresses.iter().any(|node| node.redis_settings().db() == 0)
    }
}

fn amqp(reader: &mut ConfigReader) -> Option<AmqpConfig> {
    let url = reader.text("amqp", "url");
    let heartbeat = reader.seconds("amqp", "heartbeat", Duration::from_secs(20));
    let publish_timeout = reader.seconds("amqp", "publish_timeout", Duration::from_secs(60));
    let url = url?;
    if let Err(error) = url.parse::<AMQPUri>() {
        reader.fault(
            "amqp",
            "url",
            &format!("{error}; write amqp://user:password@host:5672/%2f"),
        );
    }
    if heartbeat.as_secs() == 0 || heartbeat.as_secs() > u64::from(u16::MAX) {
        reader.fault("amqp", "heartbeat", "heartbeats take 1 to 65535 seconds");
    }
    Some(AmqpConfig {
        url: url.into(),
        heartbeat,
        publish_timeout,
    })
}

fn redis(reader: &mut ConfigReader) -> Option<RedisConfig> {
    let url = reader.text("redis", "url");
    let timeout = reader.seconds("redis", "timeout", Duration::from_secs(10));
    let url: SecretString = url?.into();
    if redis_addresses(&url).is_err() {
        reader.fault(
            "redis",
            "url",
            "not a Redis address; write redis://:password@host:6379/0, and nodes of a Redis Cluster with commas, each whole: \
             redis://host-1:6379,redis://host-2:6379",
        );
    }
    Some(RedisConfig { url, timeout })
}

fn telemetry(reader: &mut ConfigReader) -> TelemetryConfig {
    reader.note_default("telemetry", "filter", telemetry::DEFAULT_FILTER);
    reader.note_default("telemetry", "format", "text");
    let filter = reader.text("telemetry", "filter");
    let configured = filter.as_deref().map(telemetry::directives);
    if let Some(Err(error)) = configured {
        reader.fault("telemetry", "filter", &error.to_string());
    }
    reader.check_foreign(telemetry::FILTER_VARIABLE, telemetry::directives);
    // Logs are filtered by the variable where it is set, whatever is configured.
    reader.take_foreign("telemetry", "filter", telemetry::FILTER_VARIABLE);
    TelemetryConfig {
        json: reader.choice("telemetry", "format", ["text", "json"]) == Some("json"),
        filter,
    }
}

/// The addresses in `redis.url`: one, or those of a Redis Cluster with commas.
pub(crate) fn redis_addresses(
    url: &SecretString,
) -> redis::RedisResult<Vec<redis::ConnectionInfo>> {
    let addresses = url.expose_secret().split(',').map(str::trim);
    addresses
        .map(IntoConnectionInfo::into_connection_info)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        environment: &[(&str, &str)],
        overrides: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<Vec<_>>()
        };
        Config::load(None, owned(environment), owned(overrides))
    }

    #[test]
    fn nothing_configured_is_the_embedded_mode() {
        let config = load(&[], &[]).unwrap();
        assert!(config.amqp.is_none() && config.s3.is_none() && config.redis.is_none());
        assert_eq!(config.start_timeout, Duration::from_secs(60));
    }

    #[test]
    fn nodes_of_a_redis_cluster_are_whole_addresses_and_what_is_wanted_is_told() {
        let whole = "redis://:pw@a:1,redis://:pw@b:2";
        let config = load(&[], &[("redis.url", whole)]).unwrap();
        let nodes = redis_addresses(&config.redis.unwrap().url).unwrap();
        assert_eq!(nodes.len(), 2);
        let short = load(&[], &[("redis.url", "redis://:pw@a:1,b:2")]);
        let text = short.unwrap_err().to_string();
        assert!(
            text.contains("redis://host-1:6379,redis://host-2:6379") && !text.contains("pw"),
            "{text}"
        );
    }

    #[test]
    fn a_default_place_is_known_however_it_is_written() {
        for (amqp, redis, is_default) in [
            ("amqp://host", "redis://host", true),
            ("amqp://host/", "redis://host/", true),
            ("amqp://host/%2f", "redis://host/0", true),
            ("amqp://host//", "redis://host/00", true),
            ("amqp://host/%2F", "redis://host/-0", true),
            ("amqp://host/chaos", "redis://host/9", false),
        ] {
            let config = load(&[], &[("amqp.url", amqp), ("redis.url", redis)]).unwrap();
            let is_default_host = config.amqp.unwrap().is_default_virtual_host();
            assert_eq!(is_default_host, is_default, "{amqp}");
            let is_default_database = config.redis.unwrap().is_default_database();
            assert_eq!(is_default_database, is_default, "{redis}");
        }
    }

    #[test]
    fn flags_win_over_the_environment() {
        let environment = [
            ("RADIALOG_WORKER_NAME", "env"),
            ("RADIALOG_WORKER_GRACE", "3"),
        ];
        let config = load(&environment, &[("worker.name", "flag")]).unwrap();
        assert_eq!(
            (config.worker.worker.as_str(), config.worker.grace),
            ("flag", Duration::from_secs(3))
        );
    }

    #[test]
    fn images_may_be_as_large_as_is_set() {
        let environment = [
            ("RADIALOG_WORKER_MAX_IMAGE_MIB", "3"),
            ("RADIALOG_WORKER_MAX_IMAGE_PIXELS", "7"),
        ];
        let worker = load(&environment, &[]).unwrap().worker;
        assert_eq!(worker.max_image_bytes, 3 << 20);
        assert_eq!(worker.max_image_pixels, 7);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_source() {
        let environment = [
            ("RADIALOG_AMQP_URL", "http://x"),
            ("RADIALOG_REDIS_URI", "redis://x"),
        ];
        let error = load(
            &environment,
            &[("health.address", "8080"), ("worker.grace", "soon")],
        )
        .unwrap_err();
        let text = error.to_string();
        assert_eq!(error.faults.len(), 4, "{text}");
        for source in [
            "RADIALOG_AMQP_URL",
            "RADIALOG_REDIS_URI",
            "--health-address",
            "--grace",
        ] {
            assert!(text.contains(source), "{source} in {text}");
        }
    }

    #[test]
    fn what_others_check_is_told_with_the_faults_of_all_sources_and_one_fault_alone_is_one_line() {
        let file = tempfile("[s3]\nurl = \"nowhere\"\n");
        let environment = [
            ("RADIALOG_AMQP_URL", "http://x"),
            ("RADIALOG_TELEMETRY_FILTER", "radialog=loud"),
            ("RUST_LOG", "radialog=louder"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let flags = [("worker.grace".to_owned(), "soon".to_owned())];
        let mut seen = None;
        let check = |config: &Config, (): &()| {
            seen = Some([
                config.s3.is_some(),
                config.amqp.is_some(),
                config.redis.is_some(),
            ]);
            vec!["give --redis".to_owned()]
        };
        let loaded = Config::load_checked(Some(&file), environment, flags, |_| (), check);
        let error = loaded.unwrap_err();
        let text = error.to_string();
        for words in [
            "s3.url",
            "RADIALOG_AMQP_URL",
            "RADIALOG_TELEMETRY_FILTER",
            "RUST_LOG",
            "--grace",
            "give --redis",
        ] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert_eq!(error.faults.len(), 6, "{text}");
        assert_eq!(seen, Some([true, true, false]), "what is wrong is given");
        std::fs::remove_file(file).unwrap();
        let one = load(&[], &[("worker.grace", "soon")]).unwrap_err();
        assert_eq!(one.to_string(), one.faults[0]);
    }

    #[test]
    fn a_file_is_read_and_its_unknown_fields_are_faults() {
        let file = tempfile(concat!(
            "[worker]\nname = \"toml\"\ngrace = 7\n",
            "[amqp]\nhartbeat = 3\n"
        ));
        let error = Config::load(Some(&file), [], []).unwrap_err();
        assert_eq!(error.faults.len(), 1);
        assert!(error.faults[0].contains("amqp.hartbeat"), "{error}");
        std::fs::write(&file, "[worker]\nname = \"toml\"\ngrace = 7\n").unwrap();
        let config = Config::load(Some(&file), [], []).unwrap();
        assert_eq!(
            (config.worker.worker.as_str(), config.worker.grace),
            ("toml", Duration::from_secs(7))
        );
        std::fs::remove_file(file).unwrap();
        let missing = Config::load(Some(Path::new("/nowhere/radialog.toml")), [], []).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/radialog.toml"));
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_left_out_and_a_typing_error_is_a_fault() {
        let links = [
            ("RADIALOG_WORKER_SERVICE_HOST", "10.0.0.1"),
            ("RADIALOG_WORKER_PORT", "tcp://10.0.0.1:80"),
        ];
        let config = load(&links, &[]).unwrap();
        assert_eq!(
            config.service_links,
            ["RADIALOG_WORKER_PORT", "RADIALOG_WORKER_SERVICE_HOST"]
        );
        let error = load(&[("RADIALOG_WORKER_PORT", "80")], &[]).unwrap_err();
        assert!(
            error.to_string().contains("RADIALOG_WORKER_PORT"),
            "{error}"
        );
        // The same words in a file are nobody else's.
        let file = tempfile("[worker]\nport = \"tcp://10.0.0.1:80\"\n");
        assert!(Config::load(Some(&file), [], []).is_err());
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn settings_are_shown_as_they_are_in_force_defaults_and_variables_of_other_tools_included() {
        let environment = [
            ("RADIALOG_S3_URL", "s3://bucket"),
            ("RADIALOG_TELEMETRY_FILTER", "warn"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "http://localhost:9000"),
            ("AWS_ACCESS_KEY_ID", "ward"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("RUST_LOG", "debug"),
        ];
        let config = load(&environment, &[]).unwrap();
        let shown = |name: &str| {
            let setting = config.settings.iter().find(|each| each.name == name);
            let setting = setting.unwrap();
            (setting.value.as_deref(), setting.source.as_deref())
        };
        for (name, value, source) in [
            ("s3.region", Some("eu-west-1"), Some("AWS_REGION")),
            (
                "s3.endpoint",
                Some("http://localhost:9000"),
                Some("AWS_ENDPOINT_URL"),
            ),
            ("s3.access_key_id", Some("ward"), Some("AWS_ACCESS_KEY_ID")),
            (
                "s3.secret_access_key",
                Some("***"),
                Some("AWS_SECRET_ACCESS_KEY"),
            ),
            ("telemetry.filter", Some("debug"), Some("RUST_LOG")),
            ("s3.path_style", Some("true"), None),
            ("s3.attempts", Some("3"), None),
            ("amqp.heartbeat", Some("20"), None),
            ("worker.max_image_mib", Some("128"), None),
            ("retention.interval", Some("900"), None),
            ("shutdown.pause", Some("0"), None),
            ("telemetry.format", Some("text"), None),
            ("amqp.url", None, None),
        ] {
            assert_eq!(shown(name), (value, source), "{name}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let environment = [
            ("RADIALOG_AMQP_URL", "amqp://user:hunter2@host"),
            ("RADIALOG_REDIS_URL", "redis://:hunter2@host"),
            ("RADIALOG_S3_URL", "http://localhost:9000/bucket"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ];
        let config = load(&environment, &[]).unwrap();
        assert!(config.s3.is_some());
        assert!(!format!("{config:?}").contains("hunter2"));
        let faulty = [("RADIALOG_AMQP_URL", "amqp//user:hunter2@host")];
        assert!(
            !load(&faulty, &[])
                .unwrap_err()
                .to_string()
                .contains("hunter2")
        );
    }

    fn tempfile(content: &str) -> PathBuf {
        let hash = radialog_schemas::ContentHash::of(content.as_bytes());
        let name = format!(
            "radialog-config-{}-{}.toml",
            std::process::id(),
            hash.short()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}
