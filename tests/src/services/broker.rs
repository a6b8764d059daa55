//! A RabbitMQ node.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::local_services::{LocalBroker, LocalProcess, TcpProxy};
use radialog_schemas::queues::{self, RETRY_DELAYS};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::runtime;
use crate::install::{self, Requirement};
use crate::waiting;

/// Names a running broker.
const VARIABLE: &str = "RADIALOG_TEST_AMQP";
/// Names another program than the installed one to start, e.g. that of another version.
const SERVER_VARIABLE: &str = "RADIALOG_TEST_RABBITMQ_SERVER";
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
/// Seconds after which a silent node counts as lost, a quarter more at most. So does one that gets no processor, and both pause
/// then: they are more than a busy machine keeps a process waiting.
const TICK_TIME: u64 = 16;
/// Longer than a node takes to find another one lost, on a machine that others keep busy, too.
const PATIENCE: Duration = Duration::from_secs(180);
/// A user, and its password, that may only read, and only in the virtual host `/`.
pub const READER: &str = "reader";

/// A broker that can be stopped and started again with what it had stored.
pub struct Broker {
    address: String,
    own: Option<LocalBroker>,
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

    /// A broker of the caller's own, with so many virtual hosts.
    pub async fn start(virtual_hosts: usize) -> Result<Self> {
        Self::start_with(virtual_hosts, "", "").await
    }

    /// As [`Broker::start`], with further lines in its configuration file, and arguments of its Erlang machine.
    pub async fn start_with(virtual_hosts: usize, settings: &str, erlang: &str) -> Result<Self> {
        let mut node = prepare(virtual_hosts)?;
        node.configure(settings, erlang)?;
        node.start().await?;
        Ok(Self {
            address: node.url(),
            own: Some(node),
            next_host: AtomicUsize::new(0),
        })
    }

    /// The program that starts a node; it is installed where it is missing.
    ///
    /// # Errors
    /// Where it cannot be installed.
    pub fn installed() -> Result<PathBuf> {
        let own = std::env::var(SERVER_VARIABLE).ok();
        match &own {
            Some(own) => install::program(&[own], "rabbitmq-server", &REQUIREMENT),
            None => install::program(&LocalBroker::PROGRAMS, "rabbitmq-server", &REQUIREMENT),
        }
    }

    /// The address of a virtual host that no other caller gets. A broker that was named by the environment has those that
    /// its address means: with a star at its end, one for each test, which is there already; else only one, so that tests
    /// must run one at a time. Each is emptied.
    pub fn virtual_host(&self) -> Result<String> {
        if self.own.is_none() {
            let address = match self.address.strip_suffix('*') {
                Some(hosts) => format!("{hosts}{}", self.next_host.fetch_add(1, Ordering::Relaxed)),
                None => {
                    ensure!(
                        runs_one_test_at_a_time(),
                        "{VARIABLE} names one virtual host, which tests cannot share: run them one at a time (-- \
                         --test-threads=1), or name one for each, amqp://.../test* for test0, test1 and so on \
                         (tests/README.md)"
                    );
                    self.address.clone()
                }
            };
            let shown = address.clone();
            let emptied = std::thread::spawn(move || runtime().block_on(empty(&address))).join();
            emptied.map_err(|_| anyhow!("the broker at {VARIABLE} could not be emptied"))??;
            return Ok(shown);
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
        if let Some(node) = &mut self.own {
            node.kill();
        }
    }

    /// Starts it again with what it had stored.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some(node) => Ok(node.start().await?),
            None => Ok(()),
        }
    }
}

/// A node with virtual hosts `test0` and so on, not yet started.
fn prepare(virtual_hosts: usize) -> Result<LocalBroker> {
    let hosts = (0..virtual_hosts).map(|host| format!("test{host}"));
    let node = LocalBroker::prepare(&Broker::installed()?, tempfile::tempdir()?, hosts)?;
    let file = node.directory().join("definitions.json");
    let mut definitions: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let rights =
        json!({ "user": READER, "vhost": "/", "configure": "", "write": "", "read": ".*" });
    let reader = json!({ "name": READER, "password": READER, "tags": "" });
    for (list, entry) in [("users", reader), ("permissions", rights)] {
        let list = definitions[list].as_array_mut();
        list.context("definitions are lists")?.push(entry);
    }
    fs::write(file, definitions.to_string())?;
    Ok(node)
}

/// Whether the test binary was told so.
fn runs_one_test_at_a_time() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let flag = arguments
        .windows(2)
        .any(|pair| pair == ["--test-threads", "1"]);
    flag || arguments
        .iter()
        .any(|argument| argument == "--test-threads=1")
        || std::env::var("RUST_TEST_THREADS").is_ok_and(|threads| threads == "1")
}

/// Two nodes of one cluster, whose links with each other can be cut. Their quorum queues need both: while one is away, work
/// waits.
pub struct BrokerCluster {
    nodes: [LocalBroker; 2],
    /// The way to each node from the other one.
    links: [TcpProxy; 2],
    /// How often the first node had lost the second one when they were last kept from each other.
    losses: usize,
    /// A port mapper a node, that says where its way to the other one begins.
    _mappers: [(LocalProcess, TcpStream); 2],
}

impl BrokerCluster {
    /// Starts both, the second once the first is ready to be joined.
    pub async fn start() -> Result<Self> {
        let mut nodes = [prepare(1)?, prepare(1)?];
        let links = [
            TcpProxy::start(&nodes[0].distribution()).await?,
            TcpProxy::start(&nodes[1].distribution()).await?,
        ];
        let mappers = [
            mapper(&nodes[0], &nodes[1], &links[1]).await?,
            mapper(&nodes[1], &nodes[0], &links[0]).await?,
        ];
        // The log says on this level that a node is lost.
        let mut settings = "cluster_partition_handling = pause_minority\n\
             log.file.level = info\n\
             cluster_formation.peer_discovery_backend = classic_config\n"
            .to_owned();
        for (node, index) in nodes.iter_mut().zip(1..) {
            // The first knows of itself alone, and does not wait for one that is not there; the second joins it.
            let name = node.name();
            writeln!(
                settings,
                "cluster_formation.classic_config.nodes.{index} = {name}"
            )?;
            node.configure(&settings, &format!("-kernel net_ticktime {TICK_TIME}"))?;
            let cookie = node.directory().join(".erlang.cookie");
            fs::write(&cookie, "radialog")?;
            fs::set_permissions(cookie, fs::Permissions::from_mode(0o400))?;
            node.start_alone().await?;
        }
        Ok(Self {
            nodes,
            links,
            losses: 0,
            _mappers: mappers,
        })
    }

    /// The address of the first node's virtual host.
    pub fn address(&self) -> String {
        format!("{}/test0", self.nodes[0].url())
    }

    /// The address of the second node's.
    pub fn second_address(&self) -> String {
        format!("{}/test0", self.nodes[1].url())
    }

    /// Kills the second node.
    pub fn stop_second(&mut self) {
        self.nodes[1].kill();
    }

    /// Starts it again with what it had stored.
    pub async fn start_second_again(&mut self) -> Result<()> {
        Ok(self.nodes[1].start_alone().await?)
    }

    /// Cuts the links between the nodes, which both go on.
    ///
    /// # Errors
    /// Where the first node's log cannot be read.
    pub fn part(&mut self) -> Result<()> {
        self.losses = self.losses_so_far()?;
        self.links.iter().for_each(TcpProxy::disconnect);
        Ok(())
    }

    /// Mends the links between them.
    pub fn join(&self) {
        self.links.iter().for_each(TcpProxy::restore);
    }

    /// Stops both nodes' talk: the second is frozen. Each takes the other for lost once it has been so for some seconds.
    pub fn freeze_second(&mut self) -> Result<()> {
        self.losses = self.losses_so_far()?;
        Ok(self.nodes[1].freeze()?)
    }

    /// Waits until the first node has found the second one lost since they were parted, or the second one was frozen. Its log
    /// says so in every release; those that keep their metadata in Mnesia pause then, those that keep it in Khepri do not.
    ///
    /// # Errors
    /// Where it does not find that, or its log cannot be read.
    pub async fn until_first_has_lost_second(&self) -> Result<()> {
        let is_lost = || async { Ok(self.losses_so_far()? > self.losses) };
        waiting::until(
            "the first node does not find the second one lost",
            PATIENCE,
            is_lost,
        )
        .await
    }

    /// How often the first node has found the second one lost, as its log says.
    fn losses_so_far(&self) -> Result<usize> {
        let [first, second] = &self.nodes;
        let log = format!("log/{}.log", first.name());
        let log = fs::read(first.directory().join(log))?;
        // A name may be quoted.
        let log = String::from_utf8_lossy(&log).replace('\'', "");
        let lost = format!("node {} down:", second.name());
        Ok(log.matches(&lost).count())
    }

    /// Lets the second node go on.
    pub fn thaw_second(&self) -> Result<()> {
        Ok(self.nodes[1].thaw()?)
    }
}

/// Starts the port mapper of a node, which says that the other node is where the link to it begins.
async fn mapper(
    node: &LocalBroker,
    other: &LocalBroker,
    link: &TcpProxy,
) -> Result<(LocalProcess, TcpStream)> {
    let mapper = node.start_mapper()?;
    node.until_mapped().await?;
    Ok((mapper, node.map(other, link.port()).await?))
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
