//! The environment variables of one deployment: where its broker, state and store are. Roles that run as processes are
//! given them, and a test over the same services reads its own configuration from them.

use std::path::Path;

use anyhow::Result;
use radialog_coordinator::gateway::GatewayConfig;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;

use super::s3::S3Key;

/// Environment variables by name, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(&'static str, String)>);

impl Environment {
    /// Names a broker's virtual host and a Redis.
    pub fn services(amqp: impl Into<String>, redis: impl Into<String>) -> Self {
        Self::default()
            .with("RADIALOG_AMQP_URL", amqp)
            .with("RADIALOG_REDIS_URL", redis)
    }

    /// Adds a bucket of the tests' stores.
    pub fn bucket(self, url: impl Into<String>) -> Self {
        let key = S3Key::of_tests();
        self.with("RADIALOG_S3_URL", url)
            .with("AWS_ACCESS_KEY_ID", key.id)
            .with("AWS_SECRET_ACCESS_KEY", key.secret)
    }

    /// Adds a folder as object store.
    pub fn objects(self, folder: &Path) -> Self {
        self.with("RADIALOG_OBJECTS_DIRECTORY", folder.display().to_string())
    }

    /// Adds any other variable.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Returns all names and values, e.g. for `Command::envs`.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Connects to the services as a role with this environment does.
    ///
    /// # Errors
    /// Where a variable is wrong, or a service does not answer.
    pub async fn connect(&self) -> Result<Backends> {
        let variables = self
            .variables()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (config, _) = Config::load_with(None, variables, [], GatewayConfig::read)?;
        Ok(Backends::connect(&config).await?)
    }
}
