//! A RabbitMQ node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::LocalProcess;
use super::{free_port, until_ready};

/// Erlang's schedulers spin before they sleep, which takes the processor from those who share it.
const QUIET: &str = "+sbwt none +sbwtdcpu none +sbwtdio none";
/// What a node says to its port mapper first.
const ALIVE: u8 = 120;
/// What a client says first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A broker that can be killed and started again with what it had stored.
pub struct LocalBroker {
    command: Command,
    port: u16,
    /// Where other nodes reach it.
    distribution: u16,
    mapper: u16,
    running: Vec<LocalProcess>,
    // Removed last, once nobody writes there.
    directory: TempDir,
}

impl LocalBroker {
    /// The programs that start a node, best first. The packaged wrapper in `/usr/sbin` switches users and wants an init
    /// system; the script behind it does neither.
    pub const PROGRAMS: [&str; 2] = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];

    /// Prepares the node that the script `program` starts, which keeps its files in `directory` as long as it lives, with these virtual hosts
    /// beside `/`. Its user `guest` may do everything in each.
    ///
    /// # Errors
    /// Where the directory cannot be written, or there is no free port.
    pub fn prepare(
        program: &Path,
        directory: TempDir,
        virtual_hosts: impl IntoIterator<Item = String>,
    ) -> io::Result<Self> {
        let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
        let path = |name: &str| directory.path().join(name);
        for folder in ["mnesia", "log"] {
            fs::create_dir(path(folder))?;
        }
        fs::write(path("plugins"), "[].")?;
        let hosts: Vec<String> = virtual_hosts.into_iter().chain(["/".to_owned()]).collect();
        fs::write(path("definitions.json"), definitions(&hosts))?;
        let definitions = path("definitions.json");
        let settings = format!(
            "listeners.tcp.default = 127.0.0.1:{port}\nload_definitions = {}\ndisk_free_limit.absolute = 50MB\n\
             log.file.level = warning\n",
            definitions.display()
        );
        fs::write(path("rabbitmq.conf"), settings)?;
        let mut command = Command::new(program);
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
            distribution,
            mapper,
            directory,
            running: Vec::new(),
        })
    }

    /// Adds lines to its configuration file, and arguments of its Erlang machine.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn configure(&mut self, settings: &str, erlang: &str) -> io::Result<()> {
        let path = self.directory.path().join("rabbitmq.conf");
        let own = fs::read_to_string(&path)?;
        fs::write(path, format!("{own}{settings}"))?;
        let erlang = format!("{QUIET} {erlang}");
        self.command
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang);
        Ok(())
    }

    /// The address at which other nodes of its cluster reach it.
    pub fn distribution(&self) -> String {
        format!("127.0.0.1:{}", self.distribution)
    }

    /// Has this node's port mapper, which runs, name `port` as that of another node, until the answer is dropped: the way from
    /// this node to the other one.
    ///
    /// # Errors
    /// Where the mapper does not answer, or knows such a node already.
    pub async fn map(&self, other: &Self, port: u16) -> io::Result<TcpStream> {
        let name = format!("radialog{}", other.port);
        // A visible node that speaks version 6 of the distribution protocol over TCP.
        let mut request = vec![ALIVE];
        request.extend(port.to_be_bytes());
        request.extend([77, 0, 0, 6, 0, 6]);
        request.extend((name.len() as u16).to_be_bytes());
        request.extend(name.as_bytes());
        request.extend([0, 0]);
        let mut mapper = TcpStream::connect(("127.0.0.1", self.mapper)).await?;
        mapper.write_u16(request.len() as u16).await?;
        mapper.write_all(&request).await?;
        let (_, result) = (mapper.read_u8().await?, mapper.read_u8().await?);
        match result {
            0 => Ok(mapper),
            _ => Err(io::Error::other(format!("the port mapper refuses {name}"))),
        }
    }

    /// The node's name.
    pub fn name(&self) -> String {
        format!("radialog{}@localhost", self.port)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its address, without a virtual host.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Starts it, again with what it had stored, and waits until it answers.
    ///
    /// # Errors
    /// Where it does not within five minutes.
    pub async fn start(&mut self) -> io::Result<()> {
        let mapper = self.start_mapper()?;
        self.running.push(mapper);
        self.start_alone().await
    }

    /// Starts the node where its port mapper runs already.
    ///
    /// # Errors
    /// As [`LocalBroker::start`].
    pub async fn start_alone(&mut self) -> io::Result<()> {
        let node = LocalProcess::start(&self.command, &self.log())?;
        self.running.push(node);
        until_ready("RabbitMQ", || answers(self.port)).await
    }

    /// Waits until the port mapper answers.
    ///
    /// # Errors
    /// Where it does not within five minutes.
    pub async fn until_mapped(&self) -> io::Result<()> {
        let mapper = ("127.0.0.1", self.mapper);
        until_ready("epmd", || async move {
            TcpStream::connect(mapper).await.is_ok()
        })
        .await
    }

    /// Starts its port mapper alone. Erlang would start it as a daemon that outlives everything; in the foreground it is ours.
    ///
    /// # Errors
    /// Where there is no shell.
    pub fn start_mapper(&self) -> io::Result<LocalProcess> {
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &self.mapper.to_string()]);
        LocalProcess::start(&epmd, &self.log())
    }

    /// Freezes it, so that it neither answers nor closes anything.
    ///
    /// # Errors
    /// As [`LocalProcess::freeze`].
    pub fn freeze(&self) -> io::Result<()> {
        self.running.iter().try_for_each(LocalProcess::freeze)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`LocalProcess::thaw`].
    pub fn thaw(&self) -> io::Result<()> {
        self.running.iter().try_for_each(LocalProcess::thaw)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// Kills the node, as a power cut does.
    pub fn kill(&mut self) {
        self.running.clear();
    }
}

/// A node is ready when it answers the protocol header; before that it closes the connection or refuses it.
async fn answers(port: u16) -> bool {
    let greet = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.read_u8().await
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(1), greet).await,
        Ok(Ok(1))
    )
}

/// The virtual hosts and the user, for a node without its management plugin.
fn definitions(virtual_hosts: &[String]) -> String {
    let hosts: Vec<_> = virtual_hosts
        .iter()
        .map(|name| serde_json::json!({ "name": name }))
        .collect();
    let everything = |name: &String| serde_json::json!({ "user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*" });
    let permissions: Vec<_> = virtual_hosts.iter().map(everything).collect();
    let users =
        [serde_json::json!({ "name": "guest", "password": "guest", "tags": "administrator" })];
    serde_json::json!({ "users": users, "vhosts": hosts, "permissions": permissions }).to_string()
}
