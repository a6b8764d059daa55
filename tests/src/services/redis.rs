//! A Redis server.

use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Process;
use super::{Services, free_port, until_ready};
use crate::install::{self, Requirement};

/// Names a running server, or says `cluster` for a Redis Cluster of our own.
const VARIABLE: &str = "RADIALOG_TEST_REDIS";
/// Names another program than the installed one to start, e.g. Valkey's.
const SERVER_VARIABLE: &str = "RADIALOG_TEST_REDIS_SERVER";
/// What is installed where the variable names nothing.
const REQUIREMENT: Requirement<'_> = Requirement {
    name: "Redis",
    purpose: "tests over a real Redis",
    source: "the Debian package redis-server",
    variable: VARIABLE,
    value: "the address of a running one, e.g. redis://host:6379/0",
};

/// A Redis server that can be stopped and started again.
pub struct Redis {
    url: String,
    own: Option<Server>,
}

/// A server on a free port of this machine.
pub(super) struct Server {
    command: Command,
    pub(super) port: u16,
    directory: TempDir,
    running: Option<Process>,
}

impl Redis {
    /// The Redis that `RADIALOG_TEST_REDIS` names, or one of our own.
    pub(super) async fn shared() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(url) if url == "cluster" => Ok(Self {
                url: Services::redis_cluster().await?,
                own: None,
            }),
            Ok(url) => Ok(Self { url, own: None }),
            Err(_) => Self::start().await,
        }
    }

    /// A Redis of the caller's own, without persistence: started again, it has lost everything.
    pub async fn start() -> Result<Self> {
        Self::with(&["--appendonly", "no"]).await
    }

    /// A Redis of the caller's own that writes every command to its disk: started again, it has lost nothing that it has
    /// answered.
    pub async fn durable() -> Result<Self> {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    async fn with(persistence: &[&str]) -> Result<Self> {
        let mut server = Server::prepare(persistence)?;
        server.start().await?;
        Ok(Self {
            url: format!("redis://127.0.0.1:{}/0", server.port),
            own: Some(server),
        })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(server) = &mut self.own {
            server.stop();
        }
    }

    /// Starts it again.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some(server) => server.start().await,
            None => Ok(()),
        }
    }
}

impl Server {
    /// A server with these settings, not yet started.
    pub(super) fn prepare(settings: &[&str]) -> Result<Self> {
        let own = std::env::var(SERVER_VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
        let program = install::program(&[&own], "redis-server", &REQUIREMENT)?;
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", ""])
            .args(settings);
        command.arg("--dir").arg(directory.path());
        Ok(Self {
            command,
            port,
            directory,
            running: None,
        })
    }

    /// Kills it.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Starts it, or starts it again.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.running = Some(Process::start(
            &self.command,
            &self.directory.path().join("output"),
        )?);
        until_ready("Redis", || answers(self.port)).await
    }
}

async fn answers(port: u16) -> bool {
    let ping = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    matches!(ping.await, Ok(b'+'))
}
