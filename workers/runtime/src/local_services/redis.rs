//! A Redis server.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::LocalProcess;
use super::{free_port, until_ready};

/// A Redis server that can be killed and started again.
pub struct LocalRedis {
    command: Command,
    port: u16,
    log: PathBuf,
    running: Option<LocalProcess>,
}

impl LocalRedis {
    /// Prepares the server `program`, which keeps its files in `directory`. A durable one writes every command to its disk
    /// before it answers (`appendonly yes`, `appendfsync always`): started again, it has lost nothing that it has answered.
    /// Another one has lost everything.
    ///
    /// # Errors
    /// Where there is no free port.
    pub fn prepare(program: &Path, directory: &Path, is_durable: bool) -> io::Result<Self> {
        let port = free_port()?;
        let persistence: &[&str] = match is_durable {
            true => &["--appendonly", "yes", "--appendfsync", "always"],
            false => &["--appendonly", "no"],
        };
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--port", &port.to_string()])
            .args(persistence);
        command.arg("--dir").arg(directory);
        Ok(Self {
            command,
            port,
            log: directory.join("output"),
            running: None,
        })
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
        self.running = Some(LocalProcess::start(&self.command, &self.log)?);
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
