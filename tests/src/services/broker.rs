//! A RabbitMQ node.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow, ensure};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::queues::{self, RETRY_DELAYS};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Process;
use super::{free_port, runtime, until_ready};
use crate::install::{self, Requirement};

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
/// The packaged wrapper in `/usr/sbin` switches users and wants an init system; the script behind it does neither.
const SCRIPTS: [&str; 2] = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];
/// Queues have fixed names, so tests keep apart by virtual hosts. Each costs some milliseconds of the node's start.
const VIRTUAL_HOSTS: usize = 96;
/// Erlang's schedulers spin before they sleep, which takes the processor from those who share it.
const QUIET: &str = "+sbwt none +sbwtdcpu none +sbwtdio none";
/// What a client says first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A broker that can be stopped and started again with what it had stored.
pub struct Broker {
    address: String,
    own: Option<Node>,
    next_host: AtomicUsize,
}

struct Node {
    command: Command,
    port: u16,
    directory: TempDir,
    running: Vec<Process>,
    epmd_port: u16,
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
        let mut node = Node::prepare(server()?, virtual_hosts)?;
        node.start().await?;
        let address = format!("amqp://guest:guest@127.0.0.1:{}", node.port);
        Ok(Self {
            address,
            own: Some(node),
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
        if let Some(node) = &mut self.own {
            node.running.clear();
        }
    }

    /// Starts it again with what it had stored.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some(node) => node.start().await,
            None => Ok(()),
        }
    }
}

/// The program to start.
fn server() -> Result<PathBuf> {
    let own = std::env::var(SERVER_VARIABLE).ok();
    match &own {
        Some(own) => install::program(&[own], "rabbitmq-server", &REQUIREMENT),
        None => install::program(&SCRIPTS, "rabbitmq-server", &REQUIREMENT),
    }
}

/// Two nodes of one cluster. Their quorum queues need both: while one is away, work waits.
pub struct BrokerCluster {
    nodes: [Node; 2],
    _mapper: Process,
}

impl BrokerCluster {
    /// Starts both and waits until they know each other.
    pub async fn start() -> Result<Self> {
        let (first, mut second) = (Node::prepare(server()?, 1)?, Node::prepare(server()?, 1)?);
        // They find each other at one port mapper, with one cookie.
        second.epmd_port = first.epmd_port;
        second
            .command
            .env("ERL_EPMD_PORT", first.epmd_port.to_string());
        let mut nodes = [first, second];
        let names = nodes.each_ref().map(Node::name);
        let mut settings = "cluster_partition_handling = pause_minority\n\
             cluster_formation.peer_discovery_backend = classic_config\n"
            .to_owned();
        for (index, name) in names.iter().enumerate() {
            writeln!(
                settings,
                "cluster_formation.classic_config.nodes.{} = {name}",
                index + 1
            )?;
        }
        let log = nodes[0].directory.path().join("output");
        let mapper = Process::start(&epmd(nodes[0].epmd_port), &log)?;
        for node in &mut nodes {
            let path = node.directory.path().join("rabbitmq.conf");
            let own = fs::read_to_string(&path)?;
            fs::write(path, format!("{own}{settings}"))?;
            let cookie = node.directory.path().join(".erlang.cookie");
            fs::write(&cookie, "radialog")?;
            fs::set_permissions(cookie, fs::Permissions::from_mode(0o400))?;
            // A silent node counts as lost after these seconds.
            let ticks = format!("{QUIET} -kernel net_ticktime 4");
            node.command
                .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ticks);
            node.start_alone().await?;
        }
        Ok(Self {
            nodes,
            _mapper: mapper,
        })
    }

    /// The address of the first node's virtual host.
    pub fn address(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/test0", self.nodes[0].port)
    }

    /// Kills the second node.
    pub fn stop_second(&mut self) {
        self.nodes[1].running.clear();
    }

    /// Starts it again with what it had stored.
    pub async fn start_second_again(&mut self) -> Result<()> {
        self.nodes[1].start_alone().await
    }

    /// Stops both nodes' talk: the second is frozen. Each takes the other for lost once it has been so for some seconds.
    pub fn freeze_second(&self) -> Result<()> {
        self.nodes[1].running.iter().try_for_each(Process::freeze)
    }

    /// Lets the second node go on.
    pub fn thaw_second(&self) -> Result<()> {
        self.nodes[1].running.iter().try_for_each(Process::thaw)
    }
}

impl Node {
    fn name(&self) -> String {
        format!("radialog{}@localhost", self.port)
    }

    fn prepare(script: PathBuf, virtual_hosts: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
        let path = |name: &str| directory.path().join(name);
        for folder in ["mnesia", "log"] {
            fs::create_dir(path(folder))?;
        }
        fs::write(path("plugins"), "[].")?;
        fs::write(path("definitions.json"), definitions(virtual_hosts))?;
        let definitions = path("definitions.json");
        let settings = format!(
            "listeners.tcp.default = 127.0.0.1:{port}\nload_definitions = {}\ndisk_free_limit.absolute = 50MB\n\
             log.file.level = warning\n",
            definitions.display()
        );
        fs::write(path("rabbitmq.conf"), settings)?;
        let mut command = Command::new(script);
        command
            .env("HOME", directory.path())
            .env("RABBITMQ_NODENAME", format!("radialog{port}@localhost"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", QUIET);
        Ok(Self {
            command,
            port,
            directory,
            running: Vec::new(),
            epmd_port: mapper,
        })
    }

    async fn start(&mut self) -> Result<()> {
        let log = self.directory.path().join("output");
        self.running
            .push(Process::start(&epmd(self.epmd_port), &log)?);
        self.start_alone().await
    }

    /// Starts the node where its port mapper runs already.
    async fn start_alone(&mut self) -> Result<()> {
        let log = self.directory.path().join("output");
        self.running.push(Process::start(&self.command, &log)?);
        until_ready("RabbitMQ", || answers(self.port)).await
    }
}

/// Erlang would start its port mapper as a daemon that outlives everything; in the foreground it is ours.
fn epmd(port: u16) -> Command {
    let mut epmd = Command::new("epmd");
    epmd.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
    epmd
}

/// A node is ready when it answers the protocol header; before that it closes the connection or refuses it.
async fn answers(port: u16) -> bool {
    let greet = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.read_u8().await
    };
    matches!(
        tokio::time::timeout(std::time::Duration::from_secs(1), greet).await,
        Ok(Ok(1))
    )
}

/// The virtual hosts and the user, for a node without its management plugin.
fn definitions(virtual_hosts: usize) -> String {
    let names = || {
        (0..virtual_hosts)
            .map(|host| format!("test{host}"))
            .chain(["/".to_owned()])
    };
    let hosts: Vec<_> = names()
        .map(|name| serde_json::json!({ "name": name }))
        .collect();
    let everything = |name| serde_json::json!({ "user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*" });
    let permissions: Vec<_> = names().map(everything).collect();
    let users =
        [serde_json::json!({ "name": "guest", "password": "guest", "tags": "administrator" })];
    serde_json::json!({ "users": users, "vhosts": hosts, "permissions": permissions }).to_string()
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
