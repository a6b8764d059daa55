//! One connection to Redis that outlives Redis: it is made again when it breaks, and commands are repeated meanwhile.

use std::time::{Duration, Instant};

use redis::aio::AsyncPushSender;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind, Value};

use link::{CurrentLink, Link};

use crate::backoff::Backoff;
use crate::config::RedisConfig;
use crate::start::{StartError, until_started};
use crate::state::StateError;

pub(crate) mod link;

/// Keys that Redis looks at in one step of a scan.
const SCANNED: usize = 1000;
/// Written and removed at the start, and gone by itself after these seconds: what a user without rights is refused, and a
/// replica.
const PROBE_SECONDS: u64 = 60;
const PROBE_KEY: &str = "radialog:{rights}";
/// The code of a Redis whose memory is full.
const FULL: &str = "OOM";
/// The code of one that cannot save what it is given.
const UNSAVED: &str = "MISCONF";
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE);

/// A connection to Redis, with the scripts that its user calls by their hash.
pub(crate) struct RedisConnection {
    link: CurrentLink,
    is_cluster: bool,
    timeout: Duration,
    scripts: fn() -> Vec<&'static Script>,
}

impl RedisConnection {
    /// Connects to a server, or to the Redis Cluster that it belongs to; keeps trying for `start_timeout`.
    ///
    /// # Errors
    /// Where Redis did not answer in that time; at once where it refuses the user, or what the user wants to do.
    pub(crate) async fn connect(
        config: &RedisConfig,
        start_timeout: Duration,
        scripts: fn() -> Vec<&'static Script>,
    ) -> Result<Self, StateError> {
        let place = link::places(config);
        let connect = || async {
            let connected = async {
                let is_cluster = link::is_cluster(config).await?;
                let own = config.clone();
                let current = CurrentLink::new(move || Link::open(&own, is_cluster))?;
                let (_, mut link) = current.get();
                let set = redis::Cmd::set_ex(PROBE_KEY, 1, PROBE_SECONDS);
                set.query_async::<()>(&mut link).await?;
                redis::Cmd::del(PROBE_KEY)
                    .query_async::<()>(&mut link)
                    .await?;
                let mut script = redis::cmd("EVAL");
                script.arg("return 1").arg(1).arg(PROBE_KEY);
                script.query_async::<()>(&mut link).await?;
                // Of channels a user of an ACL has none unless they are named.
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(PROBE_KEY).arg("");
                publish.query_async::<()>(&mut link).await?;
                Ok((current, is_cluster))
            };
            connected.await.map_err(|error| {
                let may_pass = is_transient(&error) || takes_no_writes(&error);
                let error = StateError(format!("{place}: {}", state_error(error).0));
                match may_pass {
                    true => StartError::Later(error),
                    false => StartError::Never(error),
                }
            })
        };
        let no_answer = || {
            let seconds = start_timeout.as_secs_f64();
            StateError(format!("{place}: no answer within {seconds} s"))
        };
        let (link, is_cluster) =
            until_started("connecting to Redis", start_timeout, no_answer, connect).await?;
        Ok(Self {
            link,
            is_cluster,
            timeout: config.timeout,
            scripts,
        })
    }

    /// Whether the keys lie on several nodes.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// A second connection to the same servers, on which `listener` hears what they say unasked.
    pub(crate) fn listen(
        &self,
        config: &RedisConfig,
        listener: impl AsyncPushSender + Clone,
    ) -> Result<CurrentLink, StateError> {
        let (config, is_cluster) = (config.clone(), self.is_cluster);
        let open = move || Link::open_listening(&config, is_cluster, listener.clone());
        CurrentLink::new(open).map_err(state_error)
    }

    /// Runs a pipeline, in one round trip to each node that has its keys; repeats it while the connection is being replaced, so that it must be harmless
    /// to run it twice.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> Result<T, StateError> {
        let began = Instant::now();
        let mut backoff = BACKOFF;
        loop {
            let (number, mut link) = self.link.get();
            let answer = pipeline.query_async(&mut link).await;
            if let Err(error) = &answer {
                self.link.replace_if_silent(number, error);
            }
            match answer {
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

    /// Redis forgets scripts when it restarts. In a cluster each node learns them.
    async fn load_scripts(&self) -> Result<(), RedisError> {
        let (_, mut link) = self.link.get();
        for script in (self.scripts)() {
            script.load_async(&mut link).await?;
        }
        Ok(())
    }

    /// All keys that match a pattern, on whichever node they are; a key may be named twice.
    pub(crate) async fn keys(&self, pattern: &str) -> Result<Vec<String>, StateError> {
        let scan = |cursor: u64| {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern);
            scan.arg("COUNT").arg(SCANNED).to_owned()
        };
        let mut keys = Vec::new();
        match self.link.get().1 {
            Link::Server(_) => {
                let mut cursor = 0;
                loop {
                    let page = redis::pipe().add_command(scan(cursor)).to_owned();
                    let ((next, found),): ((u64, Vec<String>),) = self.run(&page).await?;
                    keys.extend(found);
                    cursor = next;
                    if cursor == 0 {
                        return Ok(keys);
                    }
                }
            }
            Link::Cluster(mut cluster) => {
                let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER")
                    .arg("SLOTS")
                    .query_async(&mut cluster)
                    .await
                    .map_err(state_error)?;
                for (host, port) in primaries(slots)? {
                    let mut cursor = 0;
                    loop {
                        let (host, port) = (host.clone(), port);
                        let node = SingleNodeRoutingInfo::ByAddress { host, port };
                        let page =
                            cluster.route_command(scan(cursor), RoutingInfo::SingleNode(node));
                        let page = page.await.map_err(state_error)?;
                        let (next, found): (u64, Vec<String>) = redis::from_redis_value(page)
                            .map_err(|error| state_error(error.into()))?;
                        keys.extend(found);
                        cursor = next;
                        if cursor == 0 {
                            break;
                        }
                    }
                }
                Ok(keys)
            }
        }
    }
}

/// The nodes that have slots, from what `CLUSTER SLOTS` says: first slot, last slot, the primary, its replicas; a node is
/// its address, its port and more.
fn primaries(slots: Vec<Vec<Value>>) -> Result<Vec<(String, u16)>, StateError> {
    let primary = |slots: Vec<Value>| {
        let node: Vec<Value> = redis::from_redis_value(slots.into_iter().nth(2)?).ok()?;
        let mut node = node.into_iter();
        let host = redis::from_redis_value(node.next()?).ok()?;
        Some((host, redis::from_redis_value(node.next()?).ok()?))
    };
    let primaries: Option<Vec<(String, u16)>> = slots.into_iter().map(primary).collect();
    let mut primaries =
        primaries.ok_or_else(|| StateError("CLUSTER SLOTS names no primaries".to_owned()))?;
    primaries.sort_unstable();
    primaries.dedup();
    Ok(primaries)
}

/// Whether the same command may succeed on the next connection, or once Redis has loaded its data or chosen another primary.
fn is_transient(error: &RedisError) -> bool {
    // The last four are those of a cluster in which a replica takes the place of its primary.
    let passing = [
        ServerErrorKind::BusyLoading,
        ServerErrorKind::MasterDown,
        ServerErrorKind::TryAgain,
        ServerErrorKind::ClusterDown,
        ServerErrorKind::Moved,
        ServerErrorKind::ReadOnly,
    ];
    error.is_io_error()
        || error.kind() == ErrorKind::ClusterConnectionNotFound
        || passing
            .into_iter()
            .any(|kind| error.kind() == ErrorKind::Server(kind))
}

/// Whether Redis takes no writes until somebody makes room in its memory or mends its disk. A start waits for that; what runs
/// is told at once.
fn takes_no_writes(error: &RedisError) -> bool {
    is_refused_with(error, FULL) || is_refused_with(error, UNSAVED)
}

/// Whether Redis has answered with this code: to a command, or to one of a pipeline, whose error has no code of its own.
fn is_refused_with(error: &RedisError, code: &str) -> bool {
    let refused = error.clone().into_server_errors();
    refused.is_some_and(|refused| refused.iter().any(|(_, error)| error.code() == code))
}

pub(crate) fn state_error(error: RedisError) -> StateError {
    let is_unknown = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    // What is no Redis is quoted over several lines.
    let said = error.to_string();
    let said: Vec<&str> = said.split_whitespace().collect();
    let said = said.join(" ");
    let said = said.trim_end_matches('.');
    StateError(if is_unknown {
        format!("user or password is refused ({said})")
    } else if is_refused_with(&error, FULL) {
        format!("it has no room left: give it more memory (maxmemory) ({said})")
    } else if is_refused_with(&error, UNSAVED) {
        format!(
            "it cannot save to its disk, which may be full or not writable; its log says why ({said})"
        )
    } else if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        format!(
            "this user has not the rights it needs: all on keys and channels radialog:*, e.g. ACL SETUSER NAME ~radialog:* ~{{radialog:* \
             &radialog:* +@all -@admin -@dangerous +info +cluster|slots ({said})"
        )
    } else if said.contains("Parse error") {
        format!("what answers there is no Redis ({said})")
    } else {
        said.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_takes_no_writes_is_told_by_what_it_lacks() {
        let told = |code: &str, detail: &str| {
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            assert!(takes_no_writes(&error), "{error}");
            state_error(error).0
        };
        let full = told(FULL, "command not allowed when used memory > 'maxmemory'.");
        assert!(
            full.contains("give it more memory (maxmemory)") && !full.contains("disk"),
            "{full}"
        );
        let reason = "Errors writing to the AOF file: No space left on device";
        let unsaved = told(UNSAVED, reason);
        assert!(
            unsaved.contains("cannot save to its disk") && unsaved.contains(reason),
            "{unsaved}"
        );
        assert!(!unsaved.contains("memory"), "{unsaved}");
    }
}
