//! A RabbitMQ node.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow, ensure};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::local_services::LocalBroker;
use radialog_schemas::queues::{self, RETRY_DELAYS};
use tempfile::TempDir;

use super::runtime;
use crate::install::{self, Requirement};

/// Names a running broker.
const VARIABLE: &str = "RADIALOG_TEST_AMQP";
/// What is installed where the variable names nothing.
const REQUIREMENT: Requirement<'_> = Requirement {
    name: "RabbitMQ",
    purpose: "tests over a real broker",
    source: "the Debian package rabbitmq-server",
    variable: VARIABLE,
    value: "the address of a running one, e.g. amqp://guest:guest@host:5672/%2f",
};
/// Queues have fixed names, so tests keep apart by virtual hosts. Each costs some milliseconds of the node's start.
const VIRTUAL_HOSTS: usize = 96;

/// A broker that can be stopped and started again with what it had stored.
pub struct Broker {
    address: String,
    own: Option<(LocalBroker, TempDir)>,
    next_host: AtomicUsize,
}

impl Broker {
    /// The broker that `RADIALOG_TEST_AMQP` names, or one of our own.
    pub(super) async fn shared() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(address) => Ok(Self {
                address,
                own: None,
                next_host: AtomicUsize::new(0),
            }),
            Err(_) => Self::start(VIRTUAL_HOSTS).await,
        }
    }

    /// The program that starts a node; it is installed where it is missing.
    ///
    /// # Errors
    /// Where it cannot be installed.
    pub fn installed() -> Result<PathBuf> {
        install::program(&LocalBroker::PROGRAMS, "rabbitmq-server", &REQUIREMENT)
    }

    /// A broker of the caller's own, with so many virtual hosts.
    pub async fn start(virtual_hosts: usize) -> Result<Self> {
        let script = Self::installed()?;
        let directory = tempfile::tempdir()?;
        let hosts = (0..virtual_hosts).map(|host| format!("test{host}"));
        let mut node = LocalBroker::prepare(&script, directory.path(), hosts)?;
        node.start().await?;
        Ok(Self {
            address: node.url(),
            own: Some((node, directory)),
            next_host: AtomicUsize::new(0),
        })
    }

    /// The address of a virtual host that no other caller gets. A broker that was named by the environment has only
    /// the one in its address: it is emptied, and tests must run one at a time (`-- --test-threads=1`).
    pub fn virtual_host(&self) -> Result<String> {
        if self.own.is_none() {
            let address = self.address.clone();
            let emptied = std::thread::spawn(move || runtime().block_on(empty(&address))).join();
            emptied.map_err(|_| anyhow!("the broker at {VARIABLE} could not be emptied"))??;
            return Ok(self.address.clone());
        }
        let host = self.next_host.fetch_add(1, Ordering::Relaxed);
        ensure!(
            host < VIRTUAL_HOSTS,
            "more tests than virtual hosts: raise VIRTUAL_HOSTS"
        );
        Ok(format!("{}/test{host}", self.address))
    }

    /// Kills the node, as a power cut does.
    pub fn stop(&mut self) {
        if let Some((node, _)) = &mut self.own {
            node.kill();
        }
    }

    /// Starts it again with what it had stored.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some((node, _)) => Ok(node.start().await?),
            None => Ok(()),
        }
    }
}

/// Takes everything out of our queues.
async fn empty(address: &str) -> Result<()> {
    let config = Config::load(None, [], [("amqp.url".to_owned(), address.to_owned())])?;
    let queue = Backends::queue(&config).await?;
    for work in queues::all() {
        let retries = (0..RETRY_DELAYS.len()).map(|step| queues::retry(work, step));
        for name in retries.chain([work.to_owned(), queues::dead(work)]) {
            while let Some(delivery) = queue.take(&name).await? {
                delivery.receipt.ack().await?;
            }
        }
    }
    Ok(())
}
