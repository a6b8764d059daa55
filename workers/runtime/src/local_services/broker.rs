//! A RabbitMQ node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::LocalProcess;
use super::{free_port, until_ready};

/// What a client says first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A broker that can be killed and started again with what it had stored.
pub struct LocalBroker {
    command: Command,
    epmd: Command,
    port: u16,
    log: PathBuf,
    running: Vec<LocalProcess>,
}

impl LocalBroker {
    /// The programs that start a node, best first. The packaged wrapper in `/usr/sbin` switches users and wants an init
    /// system; the script behind it does neither.
    pub const PROGRAMS: [&str; 2] = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"];

    /// Prepares the node that the script `program` starts, which keeps its files in `directory`, with these virtual hosts
    /// beside `/`. Its user `guest` may do everything in each.
    ///
    /// # Errors
    /// Where the directory cannot be written, or there is no free port.
    pub fn prepare(
        program: &Path,
        directory: &Path,
        virtual_hosts: impl IntoIterator<Item = String>,
    ) -> io::Result<Self> {
        let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
        let path = |name: &str| directory.join(name);
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
            .env("HOME", directory)
            .env("RABBITMQ_NODENAME", format!("radialog{port}@localhost"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Erlang's schedulers spin before they sleep, which takes the processor from those who share it.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+sbwt none +sbwtdcpu none +sbwtdio none",
            );
        // Erlang would start its port mapper as a daemon that outlives everything; in the foreground it is ours.
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &mapper.to_string()]);
        Ok(Self {
            command,
            epmd,
            port,
            log: path("output"),
            running: Vec::new(),
        })
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
        for command in [&self.epmd, &self.command] {
            self.running.push(LocalProcess::start(command, &self.log)?);
        }
        until_ready("RabbitMQ", || answers(self.port)).await
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
