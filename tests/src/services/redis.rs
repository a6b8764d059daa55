//! A Redis server.

use std::path::PathBuf;

use anyhow::{Context, Result};
use radialog_runtime::local_services::LocalRedis;

use super::Services;
use super::redis_cluster::ask;
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
    own: Option<LocalRedis>,
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
        Self::with(&LocalRedis::FORGETFUL).await
    }

    /// A Redis of the caller's own that writes every command to its disk: started again, it has lost nothing that it has
    /// answered.
    pub async fn durable() -> Result<Self> {
        Self::with(&LocalRedis::DURABLE).await
    }

    async fn with(persistence: &[&str]) -> Result<Self> {
        let mut server = Self::prepare(persistence)?;
        server.start().await?;
        Ok(Self {
            url: server.url(),
            own: Some(server),
        })
    }

    /// A server with these settings, not yet started.
    pub(super) fn prepare(settings: &[&str]) -> Result<LocalRedis> {
        Ok(LocalRedis::prepare(
            &Self::installed()?,
            tempfile::tempdir()?,
            settings,
        )?)
    }

    /// The server's program; it is installed where it is missing.
    ///
    /// # Errors
    /// Where it cannot be installed.
    pub fn installed() -> Result<PathBuf> {
        let own = std::env::var(SERVER_VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
        install::program(&[&own], "redis-server", &REQUIREMENT)
    }

    /// Gives it one command, of one line, and returns its answer.
    ///
    /// # Errors
    /// Where it is not ours, or answers with an error.
    pub async fn ask(&self, command: &str) -> Result<String> {
        let own = self
            .own
            .as_ref()
            .context("another's Redis is left as it is")?;
        ask(own.port(), command).await
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(server) = &mut self.own {
            server.kill();
        }
    }

    /// Starts it again.
    pub async fn start_again(&mut self) -> Result<()> {
        match &mut self.own {
            Some(server) => Ok(server.start().await?),
            None => Ok(()),
        }
    }
}
