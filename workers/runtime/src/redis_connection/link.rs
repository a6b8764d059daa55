//! The way to Redis: a server, or the nodes of a Redis Cluster. Which of them it is, the server says itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::aio::{AsyncPushSender, ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    Arg, Client, Cmd, ConnectionInfo, ErrorKind, Pipeline, ProtocolVersion, RedisError,
    RedisFuture, RedisResult, ToRedisArgs, Value,
};

use super::LONGEST_PAUSE;
use crate::config::{RedisConfig, redis_addresses};

/// Connections that are made again when they break.
#[derive(Clone)]
pub(crate) enum Link {
    /// One server.
    Server(ConnectionManager),
    /// All nodes of a cluster; a command goes to the one that has its keys.
    Cluster(ClusterConnection),
}

/// The link of the moment. One that is silent although it stands (its answers were lost on the way, or a device between
/// has forgotten it) would stay so: it is replaced.
pub(crate) struct CurrentLink {
    /// The link, and the number of those before it.
    current: Mutex<(u64, Link)>,
    open: Box<dyn Fn() -> RedisResult<Link> + Send + Sync>,
}

impl CurrentLink {
    /// Opens the first link.
    pub(super) fn new(
        open: impl Fn() -> RedisResult<Link> + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        Ok(Self {
            current: Mutex::new((0, open()?)),
            open: Box::new(open),
        })
    }

    /// The link, and its number.
    pub(crate) fn get(&self) -> (u64, Link) {
        self.locked().clone()
    }

    /// Opens another one where the link of this number has not answered in time. True where nobody had before.
    pub(crate) fn replace_if_silent(&self, number: u64, error: &RedisError) -> bool {
        let mut current = self.locked();
        if !error.is_timeout() || current.0 != number {
            return false;
        }
        match (self.open)() {
            Ok(link) => {
                tracing::warn!("Redis does not answer; connecting anew");
                *current = (number + 1, link);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no other connection to Redis could be opened");
                false
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, (u64, Link)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configured addresses, without user and password.
pub(super) fn places(config: &RedisConfig) -> String {
    let addresses = redis_addresses(&config.url).unwrap_or_default();
    let places = addresses.iter().map(|address| address.addr().to_string());
    places.collect::<Vec<_>>().join(", ")
}

/// Whether the server is a node of a cluster, asked at each address in turn until one answers.
///
/// # Errors
/// Where none answered, or where several addresses are given and one of them is a server of its own.
pub(super) async fn is_cluster(config: &RedisConfig) -> RedisResult<bool> {
    let addresses = redis_addresses(&config.url)?;
    let several = addresses.len() > 1;
    let mut silent = None;
    for address in addresses {
        let settings = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.timeout))
            .set_response_timeout(Some(config.timeout));
        let named = address.addr().to_string();
        let asked = async {
            let mut connection = Client::open(address)?
                .get_multiplexed_async_connection_with_config(&settings)
                .await?;
            let info = redis::cmd("INFO").arg("cluster").to_owned();
            info.query_async::<String>(&mut connection).await
        };
        match asked.await {
            Ok(info) if info.contains("cluster_enabled:1") => return Ok(true),
            Ok(_) if several => {
                let detail = format!(
                    "redis.url names several servers, as a Redis Cluster has them, but {named} belongs to none"
                );
                let error = (ErrorKind::InvalidClientConfig, "not a cluster", detail);
                return Err(error.into());
            }
            Ok(_) => return Ok(false),
            Err(error) => silent = Some(error),
        }
    }
    Err(silent
        .unwrap_or_else(|| (ErrorKind::InvalidClientConfig, "redis.url names no server").into()))
}

impl Link {
    /// A way to one server or, where `is_cluster`, to all nodes; it connects in the background.
    pub(super) fn open(config: &RedisConfig, is_cluster: bool) -> RedisResult<Self> {
        if is_cluster {
            return Ok(Self::Cluster(pending(nodes(config)?)?));
        }
        let settings = server(config).set_connection_timeout(Some(config.timeout));
        let client = Client::open(first(config)?)?;
        ConnectionManager::new_lazy_with_config(client, settings).map(Self::Server)
    }

    /// A way on which `listener` hears what Redis says unasked; subscriptions are made again with the connections.
    pub(super) fn open_listening(
        config: &RedisConfig,
        is_cluster: bool,
        listener: impl AsyncPushSender,
    ) -> RedisResult<Self> {
        // Only the third version of the protocol has news and answers on one connection.
        if is_cluster {
            let nodes = nodes(config)?.use_protocol(ProtocolVersion::RESP3);
            return Ok(Self::Cluster(pending(nodes.push_sender(listener))?));
        }
        let info = first(config)?;
        let redis = info.redis_settings().clone();
        let info = info.set_redis_settings(redis.set_protocol(ProtocolVersion::RESP3));
        let settings = server(config)
            .set_push_sender(listener)
            .set_automatic_resubscription();
        ConnectionManager::new_lazy_with_config(Client::open(info)?, settings).map(Self::Server)
    }

    /// Hears a channel from now on.
    pub(crate) async fn subscribe(&mut self, channel: impl ToRedisArgs) -> RedisResult<()> {
        match self {
            Self::Server(server) => server.subscribe(channel).await,
            Self::Cluster(cluster) => cluster.subscribe(channel).await,
        }
    }

    /// Hears a channel no more.
    pub(crate) async fn unsubscribe(&mut self, channel: impl ToRedisArgs) -> RedisResult<()> {
        match self {
            Self::Server(server) => server.unsubscribe(channel).await,
            Self::Cluster(cluster) => cluster.unsubscribe(channel).await,
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(server) => server.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => Box::pin(async move {
                // A transaction has keys of one slot, or the cluster refuses it.
                if pipeline.is_transaction() {
                    return cluster.req_packed_commands(pipeline, offset, count).await;
                }
                let mut answers = Vec::with_capacity(pipeline.len());
                for part in parts(pipeline) {
                    answers.extend(cluster.req_packed_commands(&part, 0, part.len()).await?);
                }
                Ok(answers)
            }),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// Splits a pipeline where the next command's key lies elsewhere than the one's before: a cluster takes a pipeline for one
/// slot only.
fn parts(pipeline: &Pipeline) -> Vec<Pipeline> {
    let mut parts: Vec<(Vec<u8>, Pipeline)> = Vec::new();
    for command in pipeline.cmd_iter() {
        let tag = hash_tag(command);
        match parts.last_mut() {
            Some((before, part)) if *before == tag => {
                part.add_command(command.clone());
            }
            _ => {
                let mut part = redis::pipe();
                part.add_command(command.clone());
                parts.push((tag, part));
            }
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// What of a command's first key chooses its slot: the part in braces, else all of it (Redis Cluster specification, "Hash
/// tags").
fn hash_tag(command: &Cmd) -> Vec<u8> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    // A script is followed by its hash and the number of its keys.
    let first = match arguments.next() {
        Some(b"EVALSHA") => 2,
        _ => 0,
    };
    let key = arguments.nth(first).unwrap_or_default();
    let braces = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let tag = &key[open + 1..];
        let length = tag.iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &tag[..length])
    });
    braces.unwrap_or(key).to_vec()
}

fn first(config: &RedisConfig) -> RedisResult<ConnectionInfo> {
    let mut addresses = redis_addresses(&config.url)?.into_iter();
    let nothing =
        || RedisError::from((ErrorKind::InvalidClientConfig, "redis.url names no server"));
    addresses.next().ok_or_else(nothing)
}

fn server(config: &RedisConfig) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_response_timeout(Some(config.timeout))
        .set_max_delay(LONGEST_PAUSE)
}

fn nodes(config: &RedisConfig) -> RedisResult<ClusterClientBuilder> {
    Ok(ClusterClientBuilder::new(redis_addresses(&config.url)?)
        .connection_timeout(config.timeout)
        .response_timeout(config.timeout)
        .max_retry_wait(LONGEST_PAUSE.as_millis() as u64))
}

fn pending(nodes: ClusterClientBuilder) -> RedisResult<ClusterConnection> {
    let client = nodes.build()?;
    Ok(client.get_pending_async_connection_with_config(redis::cluster::ClusterConfig::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_split_where_the_slot_changes_and_keeps_its_order() {
        let mut pipeline = redis::pipe();
        pipeline.hset("{a}:1", "f", 1).hset("{a}:2", "f", 1);
        pipeline.hset("{b}:1", "f", 1).hset("{a}:3", "f", 1);
        let script = ["0f", "1", "{a}:4", "argument"];
        pipeline.cmd("EVALSHA").arg(&script);
        pipeline.hset("plain", "f", 1);
        let parts = parts(&pipeline);
        let lengths: Vec<usize> = parts.iter().map(Pipeline::len).collect();
        assert_eq!(lengths, [2, 1, 2, 1]);
        let commands = parts.iter().flat_map(Pipeline::cmd_iter);
        assert!(
            commands
                .map(Cmd::get_packed_command)
                .eq(pipeline.cmd_iter().map(Cmd::get_packed_command))
        );
    }
}
