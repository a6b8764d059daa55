//! Broker, Redis and store of the installation: started in the box, or given; and the links that lead to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::{Config, RedisConfig, S3Config};
use radialog_runtime::local_services::{LocalBroker, LocalRedis, TcpProxy};
use radialog_runtime::objects::Objects;
use radialog_runtime::queue::Queue;
use radialog_runtime::queue::rabbitmq::RabbitQueue;
use radialog_runtime::state::redis::{is_own_key, remove_keys, stored_keys};
use radialog_schemas::ObjectKey;
use radialog_schemas::queues::{self, RETRY_DELAYS};
use secrecy::ExposeSecret;

use crate::exit::UsageError;

/// The virtual host of a broker in the box.
const VIRTUAL_HOST: &str = "radialog-chaos";

/// Which services there will be.
pub(super) enum ServicePlan {
    /// They run already, for this alone.
    Given(Box<Config>),
    /// Our own, by these programs.
    Own { broker: PathBuf, redis: PathBuf },
}

/// Where the services are, as all roles would be told, and how to look at them past every broken link.
pub(super) struct Services {
    pub(super) broker: Option<LocalBroker>,
    pub(super) redis: Option<LocalRedis>,
    pub(super) config: Config,
    pub(super) objects: Arc<dyn Objects>,
}

/// Roles that share their links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Workers,
    Coordinators,
    Gateways,
}

/// The links of one group of roles, each a proxy that can fail.
pub(super) struct Links {
    proxies: Vec<(String, TcpProxy)>,
    environment: Vec<(&'static str, String)>,
}

impl Group {
    pub(super) const ALL: [Self; 3] = [Self::Workers, Self::Coordinators, Self::Gateways];

    fn name(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Coordinators => "coordinators",
            Self::Gateways => "gateways",
        }
    }
}

impl ServicePlan {
    /// Those that are configured, or else services of our own.
    ///
    /// # Errors
    /// Where what is configured may be used by others, or a program is missing.
    pub(super) fn of(config: Config) -> anyhow::Result<Self> {
        if config.worker.group.is_some() {
            bail!(UsageError(
                "chaos starts the workers of one bundle, without --worker-group".into()
            ));
        }
        let is_given = config.amqp.is_some()
            || config.redis.is_some()
            || config.s3.is_some()
            || config.objects.directory.is_some();
        if is_given {
            require_own_places(&config)?;
            return Ok(Self::Given(Box::new(config)));
        }
        Ok(Self::Own {
            broker: find(&LocalBroker::PROGRAMS, "rabbitmq-server", "--amqp URL")?,
            redis: find(&["redis-server"], "redis-server", "--redis URL")?,
        })
    }
}

impl Services {
    /// Starts our own below `directory`: RabbitMQ, Redis with every command on disk, and a folder as object store; or
    /// connects to those that run already, which must be empty.
    pub(super) async fn open(plan: ServicePlan, directory: &Path) -> anyhow::Result<Self> {
        match plan {
            ServicePlan::Given(config) => Self::given(*config).await,
            ServicePlan::Own { broker, redis } => Self::start(directory, &broker, &redis).await,
        }
    }

    async fn start(directory: &Path, broker: &Path, redis: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let folder = |name: &str| {
            let mut folder = tempfile::Builder::new();
            folder.prefix(name).tempdir_in(directory)
        };
        let hosts = [VIRTUAL_HOST.to_owned()];
        let mut broker = LocalBroker::prepare(broker, folder("broker-")?, hosts)?;
        let mut redis = LocalRedis::prepare(redis, folder("redis-")?, &LocalRedis::DURABLE)?;
        tokio::try_join!(broker.start(), redis.start())
            .with_context(|| format!("its log is below {}", directory.display()))?;
        let own = [
            ("amqp.url", format!("{}/{VIRTUAL_HOST}", broker.url())),
            ("redis.url", redis.url()),
            (
                "objects.directory",
                directory.join("objects").display().to_string(),
            ),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let config = Config::load(None, [], own)?;
        let objects = Backends::objects(&config).await?;
        Ok(Self {
            broker: Some(broker),
            redis: Some(redis),
            config,
            objects,
        })
    }

    async fn given(config: Config) -> anyhow::Result<Self> {
        require_own_places(&config)?;
        let objects = Backends::objects(&config).await?;
        let services = Self {
            broker: None,
            redis: None,
            config,
            objects,
        };
        let broker = services.rabbitmq().await?;
        let consumers = broker.consumers().await?;
        if consumers > 0 {
            return Err(UsageError(format!(
                "{consumers} consumers of other roles are at the queues of this virtual host: chaos would take their work and \
                 delete their queues. Name a virtual host that nobody else uses"
            ))
            .into());
        }
        let left = services.left_behind().await?;
        if !left.is_empty() {
            let left = left.join("; ");
            return Err(UsageError(format!(
                "these services are not empty ({left}): chaos breaks what it finds. Name a virtual host, a Redis database and \
                 a prefix that nobody else uses"
            ))
            .into());
        }
        Ok(services)
    }

    /// Counts the messages of every queue that nobody has taken. Where no role runs, nothing is unacknowledged, so that
    /// these are all.
    pub(super) async fn messages(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let queue = self.queue().await?;
        let mut found = Vec::new();
        for work in queues::all() {
            let retries = (0..RETRY_DELAYS.len()).map(|step| queues::retry(work, step));
            for name in retries.chain([work.to_owned(), queues::dead(work)]) {
                let depth = queue.depth(&name).await?;
                if depth > 0 {
                    found.push((name, depth));
                }
            }
        }
        Ok(found)
    }

    /// The broker, past every link.
    pub(super) async fn queue(&self) -> anyhow::Result<Arc<dyn Queue>> {
        Ok(Backends::queue(&self.config).await?)
    }

    /// The broker, for what only RabbitMQ can be asked; its queues are declared.
    async fn rabbitmq(&self) -> anyhow::Result<RabbitQueue> {
        let amqp = self.config.amqp.as_ref();
        let amqp = amqp.context("chaos always has a broker")?;
        let timeout = self.config.start_timeout;
        let queue = RabbitQueue::connect(amqp, "radialog-chaos", timeout).await?;
        queue.declare().await?;
        Ok(queue)
    }

    /// Our keys in Redis.
    pub(super) async fn state_keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.all_keys().await?;
        keys.retain(|key| is_own_key(key));
        Ok(keys)
    }

    async fn all_keys(&self) -> anyhow::Result<Vec<String>> {
        Ok(stored_keys(self.redis()?, self.config.start_timeout).await?)
    }

    fn redis(&self) -> anyhow::Result<&RedisConfig> {
        let redis = self.config.redis.as_ref();
        redis.context("chaos always has a Redis")
    }

    /// Removes what a run has left in services that were given, which were empty before it: queues, keys, objects. No role
    /// runs any more. Our own services go with their folder.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        if self.broker.is_some() || self.redis.is_some() {
            return Ok(());
        }
        self.rabbitmq().await?.delete_queues().await?;
        let timeout = self.config.start_timeout;
        // What a role that was killed has sent last may come while this looks: until a look finds nothing.
        loop {
            let (keys, objects) = (self.state_keys().await?, self.stored().await?);
            if keys.is_empty() && objects.is_empty() {
                return Ok(());
            }
            remove_keys(self.redis()?, timeout).await?;
            for key in objects {
                self.objects.delete(&key).await?;
            }
        }
    }

    /// The keys of all stored objects.
    pub(super) async fn stored(&self) -> anyhow::Result<Vec<ObjectKey>> {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = self.objects.list("", after.as_ref(), 1000).await?;
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            after = page.next;
            if after.is_none() {
                return Ok(keys);
            }
        }
    }

    async fn left_behind(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        let messages: u64 = self.messages().await?.iter().map(|(_, depth)| depth).sum();
        let (keys, objects) = (self.all_keys().await?.len(), self.stored().await?.len());
        for (count, what) in [
            (messages, "messages"),
            (keys as u64, "keys in Redis"),
            (objects as u64, "objects"),
        ] {
            if count > 0 {
                left.push(format!("{count} {what}"));
            }
        }
        Ok(left)
    }

    /// The links of a group of roles to the services. One with TLS has none: a proxy cannot have the service's name.
    pub(super) async fn links(&self, group: Group) -> anyhow::Result<Links> {
        let mut links = Links {
            proxies: Vec::new(),
            environment: Vec::new(),
        };
        let amqp = self.config.amqp.as_ref().map(|amqp| amqp.url.clone());
        let redis = self.config.redis.as_ref().map(|redis| redis.url.clone());
        for (name, variable, url) in [
            ("broker", "RADIALOG_AMQP_URL", amqp),
            ("Redis", "RADIALOG_REDIS_URL", redis),
        ] {
            let url = url.with_context(|| format!("chaos always has a {name}"))?;
            links
                .add(group, name, variable, url.expose_secret())
                .await?;
        }
        match &self.config.s3 {
            Some(s3) => {
                let place = format!("{}/{}", s3.bucket, s3.prefix);
                let url = match &s3.endpoint {
                    Some(endpoint) => format!("{}/{place}", endpoint.trim_end_matches('/')),
                    None => format!("s3://{place}"),
                };
                links.add(group, "store", "RADIALOG_S3_URL", &url).await?;
                links.environment.extend(s3_settings(s3));
            }
            None => {
                let directory = self.config.objects.directory.as_ref();
                let directory = directory.context("chaos always has a store")?;
                // Each role has a working directory of its own.
                let directory = std::path::absolute(directory)?.display().to_string();
                links
                    .environment
                    .push(("RADIALOG_OBJECTS_DIRECTORY", directory));
            }
        }
        Ok(links)
    }
}

impl Links {
    async fn add(
        &mut self,
        group: Group,
        service: &str,
        variable: &'static str,
        url: &str,
    ) -> anyhow::Result<()> {
        let is_plain = ["amqp://", "redis://", "http://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        if !is_plain {
            self.environment.push((variable, url.to_owned()));
            return Ok(());
        }
        let proxy = TcpProxy::start(url).await?;
        self.environment.push((variable, proxy.in_front_of(url)));
        self.proxies
            .push((format!("{} to {service}", group.name()), proxy));
        Ok(())
    }

    pub(super) fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    pub(super) fn proxies(&self) -> impl Iterator<Item = (&str, &TcpProxy)> {
        self.proxies.iter().map(|(name, proxy)| (&**name, proxy))
    }
}

/// The settings of a store beside its address.
fn s3_settings(s3: &S3Config) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("RADIALOG_S3_REGION", s3.region.clone()),
        ("RADIALOG_S3_PATH_STYLE", s3.path_style.to_string()),
    ];
    if let Some(keys) = &s3.credentials {
        let secret = keys.secret_access_key.expose_secret().to_owned();
        settings.push(("RADIALOG_S3_ACCESS_KEY_ID", keys.access_key_id.clone()));
        settings.push(("RADIALOG_S3_SECRET_ACCESS_KEY", secret));
    }
    settings
}

/// Refuses places in which others may work.
fn require_own_places(config: &Config) -> anyhow::Result<()> {
    let (Some(amqp), Some(redis)) = (&config.amqp, &config.redis) else {
        bail!(UsageError(
            "--amqp and --redis go together: give both, or none to have chaos start its own".into()
        ));
    };
    let mut faults = Vec::new();
    if amqp.is_default_virtual_host() {
        faults.push(
            "--amqp: name a virtual host for chaos alone, e.g. amqp://user:password@host/chaos",
        );
    }
    if redis.is_default_database() {
        faults.push("--redis: name a database for chaos alone, not 0, e.g. redis://host:6379/9");
    }
    match (&config.s3, &config.objects.directory) {
        (Some(s3), _) if s3.prefix.is_empty() => {
            faults.push("--s3: name a prefix for chaos alone, e.g. http://host:9000/bucket/chaos");
        }
        (None, None) => faults.push(
            "--s3: say where objects are, e.g. http://host:9000/bucket/chaos, or --objects DIR, a folder for chaos alone",
        ),
        _ => {}
    }
    match faults.is_empty() {
        true => Ok(()),
        false => bail!(UsageError(format!(
            "chaos breaks what it works with:\n  - {}",
            faults.join("\n  - ")
        ))),
    }
}

/// The first of these programs that is on the PATH.
fn find(candidates: &[&str], package: &str, flag: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = candidates.iter().find_map(|candidate| {
        let in_folder =
            |folder: &PathBuf| Some(folder.join(candidate)).filter(|path| path.is_file());
        folders.iter().find_map(in_folder)
    });
    found.ok_or_else(|| {
        UsageError(format!(
            "there is no {package} on the PATH: install it (Debian: apt-get install {package}), or name a running one with \
             {flag}"
        ))
        .into()
    })
}
