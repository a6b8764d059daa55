//! State in Redis: a hash for each study, a list of finished lines for each run. Redis may lose all of it (a restart
//! without persistence): then nothing exists any more, and the dispatcher begins the studies again.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use radialog_schemas::{QueueGroup, RunId, StudyId};
use redis::{FromRedisValue, Pipeline, Script};

use super::{Fact, Facts, STUDY_FIELD, State, StateError, keys};
use crate::config::RedisConfig;
use crate::redis_connection::RedisConnection;

/// A run that nobody has touched for so long is forgotten.
const TIME_TO_LIVE: Duration = Duration::from_secs(7 * 24 * 3600);

/// KEYS: study. ARGV: field, value, seconds to live, field of the description, which it must hold (empty: whatever it holds). All
/// facts of the study, or nil where it does not exist or is another.
static RECORD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[1]) == 0 then return false end
         if ARGV[5] ~= '' and redis.call('HGET', KEYS[1], ARGV[4]) ~= ARGV[5] then return false end
         redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
         redis.call('EXPIRE', KEYS[1], ARGV[3])
         return redis.call('HGETALL', KEYS[1])",
    )
});

/// KEYS: study, finished list, sign of the end. ARGV: line, seconds to live. Whether the line is appended.
static FINISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('DEL', KEYS[1]) == 0 then return 0 end
         if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
         redis.call('RPUSH', KEYS[2], ARGV[1])
         redis.call('EXPIRE', KEYS[2], ARGV[2])
         return 1",
    )
});

/// State that several coordinators share.
pub struct RedisState {
    connection: RedisConnection,
}

impl RedisState {
    /// Connects and loads the scripts; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where Redis did not answer in that time, or refuses the user.
    pub async fn connect(
        config: &RedisConfig,
        start_timeout: Duration,
    ) -> Result<Self, StateError> {
        let connection =
            RedisConnection::connect(config, start_timeout, || vec![&*RECORD, &*FINISH]).await?;
        Ok(Self { connection })
    }

    async fn run<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StateError> {
        self.connection.run(pipeline).await
    }
}

/// Keys removed in one round trip.
const REMOVED: usize = 500;

/// Lists the names of all keys of the database, others' as well: [`is_own_key`] tells them apart. For those who look for what
/// was left behind: it goes through the whole database.
///
/// # Errors
/// When Redis does not answer within `start_timeout`, or refuses.
pub async fn stored_keys(
    config: &RedisConfig,
    start_timeout: Duration,
) -> Result<Vec<String>, StateError> {
    let connection = RedisConnection::connect(config, start_timeout, Vec::new).await?;
    let mut keys = connection.keys("*").await?;
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// Whether a key is of this system, by its name, in whose front a brace may stand.
pub fn is_own_key(name: &str) -> bool {
    name.trim_start_matches('{').starts_with("radialog:")
}

/// Removes all keys of this system, of runs and of conversations. For those who had the database to themselves, when they
/// leave it.
///
/// # Errors
/// When Redis does not answer within `start_timeout`, or refuses.
pub async fn remove_keys(config: &RedisConfig, start_timeout: Duration) -> Result<(), StateError> {
    let connection = RedisConnection::connect(config, start_timeout, Vec::new).await?;
    let mut keys = connection.keys("*").await?;
    keys.retain(|key| is_own_key(key));
    for some in keys.chunks(REMOVED) {
        let mut pipeline = redis::pipe();
        for key in some {
            pipeline.del(key).ignore();
        }
        connection.run::<()>(&pipeline).await?;
    }
    Ok(())
}

#[async_trait]
impl State for RedisState {
    async fn put_document(&self, run: &RunId, name: &str, value: String) -> Result<(), StateError> {
        let key = keys::documents(run);
        let mut pipeline = redis::pipe();
        pipeline
            .hset(&key, name, value)
            .ignore()
            .expire(&key, seconds_to_live())
            .ignore();
        self.run(&pipeline).await
    }

    async fn create_document(
        &self,
        run: &RunId,
        name: &str,
        value: String,
    ) -> Result<String, StateError> {
        let key = keys::documents(run);
        // In one transaction, so that what is read is what is there after the write.
        let mut pipeline = redis::pipe();
        pipeline
            .atomic()
            .hset_nx(&key, name, value)
            .ignore()
            .expire(&key, seconds_to_live())
            .ignore()
            .hget(&key, name);
        let (document,): (String,) = self.run(&pipeline).await?;
        Ok(document)
    }

    async fn document(&self, run: &RunId, name: &str) -> Result<Option<String>, StateError> {
        self.run::<(Option<String>,)>(redis::pipe().hget(keys::documents(run), name))
            .await
            .map(|(document,)| document)
    }

    async fn begin(&self, facts: &[Fact]) -> Result<(), StateError> {
        let mut pipeline = redis::pipe();
        for fact in facts {
            let study = keys::study(&fact.run, &fact.study);
            pipeline
                .hset_nx(&study, &fact.field, &fact.value)
                .ignore()
                .expire(&study, seconds_to_live())
                .ignore();
        }
        // As long as a run begins studies, its specification must not expire.
        let mut runs: Vec<&RunId> = facts.iter().map(|fact| &fact.run).collect();
        runs.dedup();
        for run in runs {
            pipeline
                .expire(keys::documents(run), seconds_to_live())
                .ignore();
        }
        if facts.is_empty() {
            Ok(())
        } else {
            self.run(&pipeline).await
        }
    }

    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, StateError> {
        let mut pipeline = redis::pipe();
        for fact in facts {
            let study = keys::study(&fact.run, &fact.study);
            pipeline
                .cmd("EVALSHA")
                .arg(RECORD.get_hash())
                .arg(1)
                .arg(study);
            pipeline
                .arg(&fact.field)
                .arg(&fact.value)
                .arg(seconds_to_live())
                .arg(STUDY_FIELD)
                .arg(fact.of.as_deref().unwrap_or_default());
        }
        if facts.is_empty() {
            Ok(Vec::new())
        } else {
            self.run(&pipeline).await
        }
    }

    async fn finish(&self, lines: &[Fact]) -> Result<Vec<bool>, StateError> {
        let mut pipeline = redis::pipe();
        for line in lines {
            pipeline.cmd("EVALSHA").arg(FINISH.get_hash()).arg(3);
            pipeline
                .arg(keys::study(&line.run, &line.study))
                .arg(keys::finished(&line.run))
                .arg(keys::ended(&line.run));
            pipeline.arg(&line.value).arg(seconds_to_live());
        }
        if lines.is_empty() {
            Ok(Vec::new())
        } else {
            self.run(&pipeline).await
        }
    }

    async fn forget(&self, run: &RunId, study: &StudyId) -> Result<(), StateError> {
        self.run(redis::pipe().del(keys::study(run, study)).ignore())
            .await
    }

    async fn exist(&self, run: &RunId, studies: &[StudyId]) -> Result<Vec<bool>, StateError> {
        let mut pipeline = redis::pipe();
        for study in studies {
            pipeline.exists(keys::study(run, study));
        }
        if studies.is_empty() {
            Ok(Vec::new())
        } else {
            self.run(&pipeline).await
        }
    }

    async fn finished(&self, run: &RunId, limit: usize) -> Result<Vec<String>, StateError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let range = redis::pipe()
            .lrange(keys::finished(run), 0, index(last))
            .to_owned();
        self.run::<(Vec<String>,)>(&range)
            .await
            .map(|(lines,)| lines)
    }

    async fn discard_finished(&self, run: &RunId, count: usize) -> Result<(), StateError> {
        self.run(
            redis::pipe()
                .ltrim(keys::finished(run), index(count), -1)
                .ignore(),
        )
        .await
    }

    async fn end_run(&self, run: &RunId) -> Result<(), StateError> {
        let ttl = TIME_TO_LIVE.as_secs();
        let mut pipeline = redis::pipe();
        pipeline
            .atomic()
            .set_ex(keys::ended(run), 1, ttl)
            .ignore()
            .del(keys::finished(run))
            .ignore();
        self.run(&pipeline).await
    }

    async fn open_run(&self, run: &RunId) -> Result<(), StateError> {
        self.run(redis::pipe().del(keys::ended(run)).ignore()).await
    }

    async fn note_group(&self, group: &QueueGroup) -> Result<(), StateError> {
        self.run(redis::pipe().sadd(keys::GROUPS, group.as_str()).ignore())
            .await
    }

    async fn forget_group(&self, group: &QueueGroup) -> Result<bool, StateError> {
        let removing = redis::pipe().srem(keys::GROUPS, group.as_str()).to_owned();
        let (removed,): (bool,) = self.run(&removing).await?;
        Ok(removed)
    }

    async fn groups(&self) -> Result<Vec<QueueGroup>, StateError> {
        let members = redis::pipe().smembers(keys::GROUPS).to_owned();
        let (names,): (Vec<String>,) = self.run(&members).await?;
        // Each was a group's name when it was noted.
        let mut groups: Vec<QueueGroup> = names.iter().flat_map(|name| name.parse()).collect();
        groups.sort();
        Ok(groups)
    }

    async fn serve_group(&self, group: &QueueGroup, during: Duration) -> Result<(), StateError> {
        // Redis takes no time of none.
        let milliseconds = u64::try_from(during.as_millis()).unwrap_or(u64::MAX).max(1);
        // In this order, and each in a round trip of its own, since the keys of a cluster lie on different nodes: nobody may find
        // that a group was ever served, and not yet that it is.
        let serving = redis::pipe()
            .pset_ex(keys::served(group), 1, milliseconds)
            .ignore()
            .to_owned();
        self.run::<()>(&serving).await?;
        let noting = redis::pipe()
            .sadd(keys::EVER_SERVED, group.as_str())
            .ignore()
            .to_owned();
        self.run(&noting).await
    }

    async fn is_served(&self, group: &QueueGroup) -> Result<bool, StateError> {
        // The other way round than they are written.
        let known = redis::pipe()
            .sismember(keys::EVER_SERVED, group.as_str())
            .sismember(keys::GROUPS, group.as_str())
            .to_owned();
        let (was_ever, is_noted): (bool, bool) = self.run(&known).await?;
        let serving = redis::pipe().exists(keys::served(group)).to_owned();
        let (is_served,): (bool,) = self.run(&serving).await?;
        Ok(is_served || !was_ever && is_noted)
    }
}

fn index(position: usize) -> isize {
    isize::try_from(position).unwrap_or(isize::MAX)
}

fn seconds_to_live() -> i64 {
    TIME_TO_LIVE.as_secs().cast_signed()
}
