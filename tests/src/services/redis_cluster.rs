//! A Redis Cluster of three primaries.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use radialog_runtime::local_services::{LocalRedis, until_ready};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Redis, free_port};

const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;
/// After so many milliseconds of silence a node counts as lost: more than a busy machine keeps one waiting, which would lose what
/// it has not told its replica yet.
const NODE_TIMEOUT_MS: &str = "4000";

/// A cluster of three primaries, with a replica for each where it is to survive the loss of one. Nodes can be killed.
pub struct RedisCluster {
    nodes: Vec<LocalRedis>,
}

impl RedisCluster {
    /// Starts the primaries alone.
    pub async fn start() -> Result<Self> {
        Self::with(0).await
    }

    /// Starts a replica for each primary, too: the cluster goes on without any one of its nodes.
    pub async fn with_replicas() -> Result<Self> {
        Self::with(1).await
    }

    async fn with(replicas: usize) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..PRIMARIES * (1 + replicas) {
            let bus = free_port()?.to_string();
            let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let survives = [
                "--cluster-node-timeout",
                NODE_TIMEOUT_MS,
                "--appendonly",
                "yes",
            ];
            let mut node = Redis::prepare(&[&settings[..], &survives].concat())?;
            node.start().await?;
            nodes.push(node);
            buses.push(bus);
        }
        let cluster = Self { nodes };
        for (index, node) in cluster.nodes.iter().enumerate() {
            let first = &cluster.nodes[0];
            ask(
                node.port(),
                &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1),
            )
            .await?;
            if index < PRIMARIES {
                let (from, to) = (
                    SLOTS * index / PRIMARIES,
                    SLOTS * (index + 1) / PRIMARIES - 1,
                );
                ask(node.port(), &format!("CLUSTER ADDSLOTSRANGE {from} {to}")).await?;
            }
            if index > 0 {
                let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", first.port(), buses[0]);
                ask(node.port(), &meet).await?;
            }
        }
        until_ready("the Redis Cluster", || cluster.knows_all_nodes()).await?;
        for (index, node) in cluster.nodes.iter().enumerate().skip(PRIMARIES) {
            let primary = ask(cluster.nodes[index - PRIMARIES].port(), "CLUSTER MYID").await?;
            ask(node.port(), &format!("CLUSTER REPLICATE {primary}")).await?;
        }
        until_ready("the Redis Cluster", || cluster.is_whole()).await?;
        Ok(cluster)
    }

    /// The addresses of all nodes, with commas.
    pub fn url(&self) -> String {
        let address = |node: &LocalRedis| format!("redis://127.0.0.1:{}", node.port());
        self.nodes.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// The number of primaries; nodes from there on are their replicas, in the same order.
    pub fn primaries(&self) -> usize {
        PRIMARIES
    }

    /// Waits until every replica has what its primary has.
    pub async fn until_replicated(&self) -> Result<()> {
        Ok(until_ready("replicas with all that was written", || {
            self.is_replicated()
        })
        .await?)
    }

    /// Kills a node.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts it again with what it had, and waits until the cluster has it back.
    pub async fn start_again(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start().await?;
        Ok(until_ready("the Redis Cluster", || self.is_whole()).await?)
    }

    async fn knows_all_nodes(&self) -> bool {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        self.all_say("CLUSTER INFO", &known).await
    }

    async fn is_whole(&self) -> bool {
        if !self.all_say("CLUSTER INFO", "cluster_state:ok").await {
            return false;
        }
        for node in &self.nodes {
            let Ok(info) = ask(node.port(), "INFO replication").await else {
                return false;
            };
            if info.contains("role:slave") && !info.contains("master_link_status:up") {
                return false;
            }
        }
        true
    }

    async fn is_replicated(&self) -> bool {
        for node in &self.nodes {
            let Ok(info) = ask(node.port(), "INFO replication").await else {
                return false;
            };
            let of = |name: &str| {
                let found = info.lines().find_map(|line| line.strip_prefix(name));
                found.map(str::trim).map(str::to_owned)
            };
            // A primary names its replicas with what each has: `slave0:ip=...,port=...,state=online,offset=42,lag=0`.
            let written = of("master_repl_offset:");
            for replica in info.lines().filter(|line| line.starts_with("slave0:")) {
                let has = replica
                    .split(',')
                    .find_map(|part| part.strip_prefix("offset="));
                if has.map(str::to_owned) != written {
                    return false;
                }
            }
        }
        true
    }

    async fn all_say(&self, command: &str, wanted: &str) -> bool {
        for node in &self.nodes {
            if !ask(node.port(), command)
                .await
                .is_ok_and(|info| info.contains(wanted))
            {
                return false;
            }
        }
        true
    }
}

/// One command and its answer, a line or a text.
pub(super) async fn ask(port: u16, command: &str) -> Result<String> {
    let answer = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("+" | ":", said)) => Ok(said.to_owned()),
            Some(("$", length)) => {
                let mut text = vec![0; length.parse()?];
                stream.read_exact(&mut text).await?;
                Ok(String::from_utf8(text)?)
            }
            _ => bail!("Redis answers {command} with {line:?}"),
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    let answer = answer.with_context(|| format!("no answer to {command}"))??;
    ensure!(!answer.is_empty(), "an empty answer to {command}");
    Ok(answer)
}
