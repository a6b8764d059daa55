//! A Redis server.

use std::io;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::LocalProcess;
use super::{free_port, until_ready};

/// A Redis server that can be killed and started again.
pub struct LocalRedis {
    command: Command,
    port: u16,
    running: Option<LocalProcess>,
    // Removed last, once nobody writes there.
    directory: TempDir,
}

impl LocalRedis {
    /// Every command is on the disk before it is answered: started again, it has lost nothing that it has answered.
    pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
    /// Started again, it has lost everything.
    pub const FORGETFUL: [&str; 2] = ["--appendonly", "no"];

    /// Prepares the server `program` with these settings, which keeps its files in `directory` as long as it lives.
    ///
    /// # Errors
    /// Where there is no free port.
    pub fn prepare(program: &Path, directory: TempDir, settings: &[&str]) -> io::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--port", &port.to_string()])
            .args(settings);
        command.arg("--dir").arg(directory.path());
        Ok(Self {
            command,
            port,
            directory,
            running: None,
        })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it, again with the files that it has, and waits until it answers.
    ///
    /// # Errors
    /// Where it does not within five minutes.
    pub async fn start(&mut self) -> io::Result<()> {
        self.running = Some(LocalProcess::start(
            &self.command,
            &self.directory.path().join("output"),
        )?);
        until_ready("Redis", || answers(self.port)).await
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        self.running = None;
    }
}

/// A server that loads its files answers with an error.
async fn answers(port: u16) -> bool {
    let ping = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    matches!(ping.await, Ok(b'+'))
}
