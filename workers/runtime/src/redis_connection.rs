//! One connection to Redis that outlives Redis: it is made again when it breaks, and commands are repeated meanwhile.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind};
use secrecy::ExposeSecret;

use crate::backoff::Backoff;
use crate::config::RedisConfig;
use crate::start::{StartError, until_started};
use crate::state::StateError;

const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE);

/// A connection to Redis, with the scripts that its user calls by their hash.
pub(crate) struct RedisConnection {
    connection: ConnectionManager,
    timeout: Duration,
    scripts: fn() -> Vec<&'static Script>,
}

impl RedisConnection {
    /// Connects; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where Redis did not answer in that time, or refuses the user.
    pub(crate) async fn connect(
        config: &RedisConfig,
        start_timeout: Duration,
        scripts: fn() -> Vec<&'static Script>,
    ) -> Result<Self, StateError> {
        let client = Client::open(config.url.expose_secret()).map_err(state_error)?;
        let settings =
            settings(config).set_connection_timeout(Some(config.timeout.min(start_timeout)));
        let connection =
            ConnectionManager::new_lazy_with_config(client, settings).map_err(state_error)?;
        let connected = Self {
            connection,
            timeout: config.timeout,
            scripts,
        };
        let ping = || async {
            let mut connection = connected.connection.clone();
            let answer: Result<(), RedisError> =
                redis::cmd("PING").query_async(&mut connection).await;
            answer.map_err(|error| match is_transient(&error) {
                true => StartError::Later(state_error(error)),
                false => StartError::Never(state_error(error)),
            })
        };
        let no_answer = || {
            let seconds = start_timeout.as_secs_f64();
            StateError(format!("no answer within {seconds} s"))
        };
        until_started("connecting to Redis", start_timeout, no_answer, ping).await?;
        Ok(connected)
    }

    /// Runs a pipeline in one round trip; repeats it while the connection is being replaced, so that it must be harmless
    /// to run it twice.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, StateError> {
        let began = Instant::now();
        let mut backoff = BACKOFF;
        loop {
            let mut connection = self.connection.clone();
            match pipeline.query_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.load_scripts().await.map_err(state_error)?;
                }
                Err(error)
                    if is_transient(&error) && began.elapsed() + backoff.peek() < self.timeout =>
                {
                    tracing::debug!(%error, "Redis does not answer; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(state_error(error)),
            }
        }
    }

    /// Redis forgets scripts when it restarts.
    async fn load_scripts(&self) -> Result<(), RedisError> {
        let mut connection = self.connection.clone();
        for script in (self.scripts)() {
            script.load_async(&mut connection).await?;
        }
        Ok(())
    }
}

/// The settings of connections, apart from what only some of them need.
pub(crate) fn settings(config: &RedisConfig) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_response_timeout(Some(config.timeout))
        .set_max_delay(LONGEST_PAUSE)
}

/// Whether the same command may succeed on the next connection, or once Redis has loaded its data.
fn is_transient(error: &RedisError) -> bool {
    let loading = [
        ServerErrorKind::BusyLoading,
        ServerErrorKind::TryAgain,
        ServerErrorKind::MasterDown,
    ];
    error.is_io_error()
        || loading
            .into_iter()
            .any(|kind| error.kind() == ErrorKind::Server(kind))
}

pub(crate) fn state_error(error: RedisError) -> StateError {
    StateError(error.to_string())
}
