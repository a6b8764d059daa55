//! State in Redis: a hash for each study, a list of finished lines for each run. Redis may lose all of it (a restart
//! without persistence): then nothing exists any more, and the dispatcher begins the studies again.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use radialog_schemas::{RunId, StudyId};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind};
use secrecy::ExposeSecret;

use super::{Fact, Facts, State, StateError, keys};
use crate::backoff::Backoff;
use crate::config::RedisConfig;

/// A run that nobody has touched for so long is forgotten.
const TIME_TO_LIVE: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE);

/// KEYS: study. ARGV: field, value, seconds to live. All facts of the study, or nil where it does not exist.
static RECORD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[1]) == 0 then return false end
         redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
         redis.call('EXPIRE', KEYS[1], ARGV[3])
         return redis.call('HGETALL', KEYS[1])",
    )
});

/// KEYS: study, finished list. ARGV: line, seconds to live. Whether the study existed until now.
static FINISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('DEL', KEYS[1]) == 0 then return 0 end
         redis.call('RPUSH', KEYS[2], ARGV[1])
         redis.call('EXPIRE', KEYS[2], ARGV[2])
         return 1",
    )
});

/// State that several coordinators share.
pub struct RedisState {
    connection: ConnectionManager,
    timeout: Duration,
}

impl RedisState {
    /// Connects and loads the scripts; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where Redis did not answer in that time, or refuses the user.
    pub async fn connect(config: &RedisConfig, start_timeout: Duration) -> Result<Self, StateError> {
        let client = Client::open(config.url.expose_secret()).map_err(failed)?;
        let settings = ConnectionManagerConfig::new()
            .set_response_timeout(Some(config.timeout))
            .set_connection_timeout(Some(config.timeout.min(start_timeout)))
            .set_max_delay(LONGEST_PAUSE);
        let connection = ConnectionManager::new_lazy_with_config(client, settings).map_err(failed)?;
        let state = Self { connection, timeout: config.timeout };
        tokio::time::timeout(start_timeout, state.run::<()>(redis::pipe().cmd("PING").ignore()))
            .await
            .map_err(|_| StateError(format!("no answer within {} s", start_timeout.as_secs_f64())))??;
        Ok(state)
    }

    /// Runs a pipeline in one round trip; repeats it while the connection is being replaced. Every pipeline of this
    /// file may run twice: fields are written once, and a study is finished once.
    async fn run<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StateError> {
        let began = Instant::now();
        let mut backoff = BACKOFF;
        loop {
            let mut connection = self.connection.clone();
            match pipeline.query_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.load_scripts().await.map_err(failed)?;
                }
                Err(error) if is_passing(&error) && began.elapsed() + backoff.peek() < self.timeout => {
                    tracing::debug!(%error, "Redis does not answer; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Redis forgets scripts when it restarts.
    async fn load_scripts(&self) -> Result<(), RedisError> {
        let mut connection = self.connection.clone();
        for script in [&*RECORD, &*FINISH] {
            script.load_async(&mut connection).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl State for RedisState {
    async fn put_document(&self, run: &RunId, name: &str, value: String) -> Result<(), StateError> {
        let key = keys::documents(run);
        let mut pipeline = redis::pipe();
        pipeline.hset(&key, name, value).ignore().expire(&key, seconds_to_live()).ignore();
        self.run(&pipeline).await
    }

    async fn document(&self, run: &RunId, name: &str) -> Result<Option<String>, StateError> {
        self.run::<(Option<String>,)>(redis::pipe().hget(keys::documents(run), name)).await.map(|(document,)| document)
    }

    async fn begin(&self, facts: &[Fact]) -> Result<(), StateError> {
        let mut pipeline = redis::pipe();
        for fact in facts {
            let study = keys::study(&fact.run, &fact.study);
            pipeline.hset_nx(&study, &fact.field, &fact.value).ignore().expire(&study, seconds_to_live()).ignore();
        }
        // As long as a run begins studies, its specification must not expire.
        let mut runs: Vec<&RunId> = facts.iter().map(|fact| &fact.run).collect();
        runs.dedup();
        for run in runs {
            pipeline.expire(keys::documents(run), seconds_to_live()).ignore();
        }
        if facts.is_empty() { Ok(()) } else { self.run(&pipeline).await }
    }

    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, StateError> {
        let mut pipeline = redis::pipe();
        for fact in facts {
            let study = keys::study(&fact.run, &fact.study);
            pipeline.cmd("EVALSHA").arg(RECORD.get_hash()).arg(1).arg(study);
            pipeline.arg(&fact.field).arg(&fact.value).arg(seconds_to_live());
        }
        if facts.is_empty() { Ok(Vec::new()) } else { self.run(&pipeline).await }
    }

    async fn finish(&self, lines: &[Fact]) -> Result<Vec<bool>, StateError> {
        let mut pipeline = redis::pipe();
        for line in lines {
            pipeline.cmd("EVALSHA").arg(FINISH.get_hash()).arg(2);
            pipeline.arg(keys::study(&line.run, &line.study)).arg(keys::finished(&line.run));
            pipeline.arg(&line.value).arg(seconds_to_live());
        }
        if lines.is_empty() { Ok(Vec::new()) } else { self.run(&pipeline).await }
    }

    async fn exist(&self, run: &RunId, studies: &[StudyId]) -> Result<Vec<bool>, StateError> {
        let mut pipeline = redis::pipe();
        for study in studies {
            pipeline.exists(keys::study(run, study));
        }
        if studies.is_empty() { Ok(Vec::new()) } else { self.run(&pipeline).await }
    }

    async fn finished(&self, run: &RunId, limit: usize) -> Result<Vec<String>, StateError> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let range = redis::pipe().lrange(keys::finished(run), 0, index(last)).to_owned();
        self.run::<(Vec<String>,)>(&range).await.map(|(lines,)| lines)
    }

    async fn discard_finished(&self, run: &RunId, count: usize) -> Result<(), StateError> {
        self.run(redis::pipe().ltrim(keys::finished(run), index(count), -1).ignore()).await
    }
}

fn index(position: usize) -> isize {
    isize::try_from(position).unwrap_or(isize::MAX)
}

fn seconds_to_live() -> i64 {
    TIME_TO_LIVE.as_secs().cast_signed()
}

/// Whether the same command may succeed on the next connection, or once Redis has loaded its data.
fn is_passing(error: &RedisError) -> bool {
    let loading = [ServerErrorKind::BusyLoading, ServerErrorKind::TryAgain, ServerErrorKind::MasterDown];
    error.is_io_error() || loading.into_iter().any(|kind| error.kind() == ErrorKind::Server(kind))
}

fn failed(error: RedisError) -> StateError {
    StateError(error.to_string())
}
