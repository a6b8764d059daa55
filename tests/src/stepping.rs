//! Two programs taken through their steps in an order that the test chooses: what a race finds by luck is found each time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// The most bytes of a request that are sent on at a time; those of tests are shorter.
const REQUEST: usize = 64 << 10;
/// Longer than a step takes, on a machine that others keep busy, too.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where a program waits before each of its steps. It is open until it is held, as a program that is started behind it does.
#[derive(Default)]
pub struct Gate {
    /// How many steps may be made; none where any number may.
    passes: watch::Sender<Option<u64>>,
    /// How many steps have been come to while they were counted.
    arrived: watch::Sender<u64>,
}

impl Gate {
    /// Waits until this step may be made.
    pub async fn pass(&self) {
        if self.passes.borrow().is_none() {
            return;
        }
        let mut turn = 0;
        self.arrived.send_modify(|arrived| {
            *arrived += 1;
            turn = *arrived;
        });
        let mut passes = self.passes.subscribe();
        let passed = passes.wait_for(|passes| passes.is_none_or(|passes| turn <= passes));
        drop(passed.await);
    }

    /// Lets this many steps pass, counted from the first that came while it was held, and keeps the others waiting.
    pub fn hold_after(&self, passes: u64) {
        self.passes.send_replace(Some(passes));
    }

    /// Lets all pass.
    pub fn open(&self) {
        self.passes.send_replace(None);
    }

    /// Waits until this many steps have come to it while it was held, those included that may pass.
    pub async fn until_arrived(&self, count: u64) {
        let mut arrived = self.arrived.subscribe();
        let reached = timeout(PATIENCE, arrived.wait_for(|arrived| *arrived >= count)).await;
        let reached =
            reached.unwrap_or_else(|_| panic!("fewer than {count} steps come to the gate"));
        assert!(reached.is_ok(), "the gate lives");
    }
}

/// A program that makes one step at a time.
pub struct Stepped<T> {
    gate: Arc<Gate>,
    made: u64,
    task: JoinHandle<T>,
    has_ended: watch::Receiver<bool>,
}

impl<T: Send + 'static> Stepped<T> {
    /// Starts a program, all of whose steps pass this gate.
    pub fn start(gate: &Arc<Gate>, program: impl Future<Output = T> + Send + 'static) -> Self {
        gate.hold_after(0);
        let (end, has_ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            let outcome = program.await;
            end.send_replace(true);
            outcome
        });
        Self {
            gate: gate.clone(),
            made: 0,
            task,
            has_ended,
        }
    }

    /// Makes up to so many steps, each to its end. Returns whether none is left.
    pub async fn steps(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if !self.has_next().await {
                return true;
            }
            self.made += 1;
            self.gate.hold_after(self.made);
        }
        !self.has_next().await
    }

    /// Waits until the program has come to its next step, or to its end.
    async fn has_next(&mut self) -> bool {
        let mut arrived = self.gate.arrived.subscribe();
        let made = self.made;
        let next = async {
            tokio::select! {
                next = arrived.wait_for(|arrived| *arrived > made) => next.is_ok(),
                // Also where it has panicked.
                _ = self.has_ended.wait_for(|ended| *ended) => false,
            }
        };
        let next = timeout(PATIENCE, next).await;
        next.unwrap_or_else(|_| panic!("neither a step behind {made} nor an end comes"))
    }

    /// How many steps it has made.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Makes all steps that are left.
    ///
    /// # Errors
    /// Where the program has panicked, or does not end.
    pub async fn finish(self) -> Result<T> {
        self.gate.open();
        let ended = timeout(PATIENCE, self.task).await;
        Ok(ended.context("the program does not end")??)
    }

    /// Ends the program before its next step, as when its process is killed.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// A way to a Redis on which each request is a step. Dropped, it ends all connections.
pub struct SteppedRedis {
    url: String,
    _connections: JoinSet<()>,
}

impl SteppedRedis {
    /// A way to the Redis at this address, past this gate.
    ///
    /// # Errors
    /// Where this machine has no free port.
    pub async fn new(redis: &str, gate: &Arc<Gate>) -> Result<Self> {
        let place = redis.strip_prefix("redis://").context("no address")?;
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("redis://{}/{path}", listener.local_addr()?);
        let (host, gate) = (host.to_owned(), gate.clone());
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (host, gate) = (host.clone(), gate.clone());
                open.spawn(async move { drop(relay(client, &host, &gate).await) });
            }
        });
        Ok(Self {
            url,
            _connections: connections,
        })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Sends requests on as they may pass, and answers as they come.
async fn relay(client: TcpStream, host: &str, gate: &Gate) -> std::io::Result<()> {
    let server = TcpStream::connect(host).await?;
    let (mut asked, mut told) = client.into_split();
    let (mut answers, mut requests) = server.into_split();
    let asking = async {
        let mut request = vec![0; REQUEST];
        loop {
            let length = asked.read(&mut request).await?;
            if length == 0 {
                return requests.shutdown().await;
            }
            gate.pass().await;
            requests.write_all(&request[..length]).await?;
        }
    };
    let answering = tokio::io::copy(&mut answers, &mut told);
    tokio::select! {
        ended = asking => ended,
        ended = answering => ended.map(drop),
    }
}
