//! Real services for the tests: RabbitMQ, Redis and a browser's driver as child processes on free ports, an S3 server in
//! this process. They start once for each test binary, work as root and without an init system, and end with the process
//! that started them, however it ends.
//!
//! Where neither root nor apt is at hand, `RADIALOG_TEST_AMQP`, `RADIALOG_TEST_REDIS` and `RADIALOG_TEST_WEBDRIVER` name
//! running services; how the missing ones are installed is told in [`crate::install`]. `RADIALOG_TEST_S3` names another S3
//! implementation than ours.

use std::sync::OnceLock;

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;

pub use broker::{Broker, BrokerCluster, READER};
pub use browser::{Browser, Screen};
pub use environment::Environment;
pub use radialog_runtime::local_services::TcpProxy;
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use s3::{GivenStore, S3Key, S3Server, serve_directory};

mod broker;
mod browser;
mod environment;
mod redis;
mod redis_cluster;
mod s3;

/// What all tests of a binary share. Tests that stop a service start one of their own.
pub struct Services {
    broker: Broker,
    redis: Redis,
    s3: S3Server,
    given_store: Option<GivenStore>,
}

impl Services {
    /// The shared services; the first caller starts them.
    pub async fn shared() -> Result<&'static Services> {
        static SHARED: OnceCell<Services> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async { runtime().spawn(Self::start()).await? })
            .await
    }

    async fn start() -> Result<Self> {
        let (broker, redis, s3) =
            tokio::try_join!(Broker::shared(), Redis::shared(), S3Server::start())?;
        Ok(Self {
            broker,
            redis,
            s3,
            given_store: GivenStore::named()?,
        })
    }

    /// The address of an empty virtual host that no other caller gets.
    pub fn amqp(&self) -> Result<String> {
        self.broker.virtual_host()
    }

    /// The environment of roles that share an empty virtual host and Redis; where they store objects is not said yet.
    pub fn environment(&self) -> Result<Environment> {
        Ok(Environment::services(self.amqp()?, self.redis()))
    }

    /// The address of Redis. Runs keep apart by their names.
    pub fn redis(&self) -> &str {
        self.redis.url()
    }

    /// The addresses of a Redis Cluster's nodes; the first caller starts it.
    pub async fn redis_cluster() -> Result<String> {
        static SHARED: OnceCell<RedisCluster> = OnceCell::const_new();
        let start = || async { runtime().spawn(RedisCluster::start()).await? };
        Ok(SHARED.get_or_try_init(start).await?.url())
    }

    /// Our own S3 server, for tests that change what it has or does past the protocol.
    pub fn s3(&self) -> &S3Server {
        &self.s3
    }

    /// The address of an empty bucket, or folder of one, that no other caller gets: in the store that `RADIALOG_TEST_S3` names,
    /// else in our own.
    pub fn bucket(&self) -> Result<String> {
        match &self.given_store {
            Some(given) => Ok(given.folder()),
            None => self.s3.bucket(),
        }
    }

    /// The store that `RADIALOG_TEST_S3` names.
    pub fn given_store(&self) -> Option<&GivenStore> {
        self.given_store.as_ref()
    }
}

/// Services outlive the test that happens to start them, so they do not run on its runtime.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.expect("a runtime for the services")
    })
}

/// Returns a port that nobody listens on.
///
/// # Errors
/// Where the machine has none left.
pub fn free_port() -> Result<u16> {
    Ok(radialog_runtime::local_services::free_port()?)
}
