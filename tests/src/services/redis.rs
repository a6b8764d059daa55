//! A Redis server.

use std::path::PathBuf;

use anyhow::Result;
use radialog_runtime::local_services::LocalRedis;
use tempfile::TempDir;

use crate::install::{self, Requirement};

/// Names a running server.
const VARIABLE: &str = "RADIALOG_TEST_REDIS";
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
    own: Option<(LocalRedis, TempDir)>,
}

impl Redis {
    /// The Redis that `RADIALOG_TEST_REDIS` names, or one of our own.
    pub(super) async fn shared() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(url) => Ok(Self { url, own: None }),
            Err(_) => Self::start().await,
        }
    }

    /// The server's program; it is installed where it is missing.
    ///
    /// # Errors
    /// Where it cannot be installed.
    pub fn installed() -> Result<PathBuf> {
        install::program(&["redis-server"], "redis-server", &REQUIREMENT)
    }

    /// A Redis of the caller's own, without persistence: started again, it has lost everything.
    pub async fn start() -> Result<Self> {
        Self::with(false).await
    }

    /// A Redis of the caller's own that writes every command to its disk: started again, it has lost nothing that it has
    /// answered.
    pub async fn durable() -> Result<Self> {
        Self::with(true).await
    }

    async fn with(is_durable: bool) -> Result<Self> {
        let program = Self::installed()?;
        let directory = tempfile::tempdir()?;
        let mut server = LocalRedis::prepare(&program, directory.path(), is_durable)?;
        server.start().await?;
        Ok(Self {
            url: server.url(),
            own: Some((server, directory)),
        })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some((server, _)) = &mut self.own {
            server.kill();
        }
    }

    /// Starts it again.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some((server, _)) => Ok(server.start().await?),
            None => Ok(()),
        }
    }
}
