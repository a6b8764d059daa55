//! `/metrics` for Prometheus, `/healthz` for "restart me", `/readyz` for "send me work". A process that starts says at
//! `/readyz` what it is at; `/healthz` fails only where that has stood still, so that slow and stuck can be told apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_server::{self, ConnectionLimits};
use crate::metrics::{BundleLabel, metrics};

/// Probes and scrapers are few, and their requests are short.
const LIMITS: ConnectionLimits = ConnectionLimits {
    server: "health",
    connections: 64,
    header_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(75),
    send_timeout: Duration::from_secs(75),
};

/// How long a start may stand still, where nothing else is configured: longer than any one step without a progress of its
/// own takes, e.g. loading a model of 14 GB from a slow disk.
pub const DEFAULT_STALL: Duration = Duration::from_secs(900);

/// How far the process is: it starts, step by step, can take work, and drains. It also says for which bundles.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<ReadinessInner>);

#[derive(Debug)]
struct ReadinessInner {
    stall: Duration,
    phase: Mutex<Phase>,
    bundles: Mutex<Vec<BundleLabel>>,
}

#[derive(Debug)]
enum Phase {
    Starting(Start),
    Ready,
    Draining,
}

/// What a start is at.
#[derive(Debug)]
struct Start {
    /// By the number of the step.
    steps: BTreeMap<u64, String>,
    begun: u64,
    /// When a step last began, got on, or ended.
    moved: Instant,
}

/// A step of the start, until it is dropped.
#[derive(Debug)]
pub struct StartStep {
    readiness: Readiness,
    number: u64,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::with_stall(DEFAULT_STALL)
    }
}

impl Readiness {
    /// A start that may stand still for so long; after that, `/healthz` asks for a restart.
    pub fn with_stall(stall: Duration) -> Self {
        let start = Start {
            steps: BTreeMap::new(),
            begun: 0,
            moved: Instant::now(),
        };
        metrics().in_phase("starting");
        Self(Arc::new(ReadinessInner {
            stall,
            phase: Mutex::new(Phase::Starting(start)),
            bundles: Mutex::default(),
        }))
    }

    /// Begins a step of the start, e.g. "connecting".
    pub fn step(&self, what: &str) -> StartStep {
        tracing::info!(what, "starting");
        let mut number = 0;
        if let Phase::Starting(start) = &mut *self.phase() {
            start.begun += 1;
            number = start.begun;
            start.steps.insert(number, what.to_owned());
            start.moved = Instant::now();
        }
        StartStep {
            readiness: self.clone(),
            number,
        }
    }

    /// Says that the process can take work from now on, unless it drains already.
    pub fn ready(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Starting(_)) {
            *phase = Phase::Ready;
            metrics().in_phase("ready");
        }
    }

    /// Says that the process takes no new work any more, and finishes what it has.
    pub fn draining(&self) {
        *self.phase() = Phase::Draining;
        metrics().in_phase("draining");
    }

    /// Says whether the process can take work.
    pub fn is_ready(&self) -> bool {
        matches!(*self.phase(), Phase::Ready)
    }

    /// Names a bundle that the process serves, here and in the metrics.
    pub fn serves(&self, bundle: BundleLabel) {
        metrics().serves(&bundle);
        self.bundles().push(bundle);
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bundles(&self) -> MutexGuard<'_, Vec<BundleLabel>> {
        self.0
            .bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `ready`, `draining` or what the start is at, and a line for each bundle.
    fn text(&self) -> String {
        let mut text = match &*self.phase() {
            Phase::Ready => "ready\n".to_owned(),
            Phase::Draining => "draining\n".to_owned(),
            Phase::Starting(start) => format!("starting: {}\n", start.text()),
        };
        for BundleLabel {
            name,
            version,
            hash,
            group,
        } in &*self.bundles()
        {
            // What a person wrote in a manifest stays on its line.
            let line = format!("bundle {name} {version} {}", hash.short());
            text.extend(line.chars().filter(|character| !character.is_control()));
            if let Some(group) = group {
                text += &format!(" group {group}");
            }
            text.push('\n');
        }
        text
    }

    /// What to say of a start that stands still for longer than it may.
    fn stalled(&self) -> Option<String> {
        match &*self.phase() {
            Phase::Starting(start) if start.moved.elapsed() >= self.0.stall => Some(format!(
                "the start has stood still for {} s: {}\n",
                start.moved.elapsed().as_secs(),
                start.text()
            )),
            _ => None,
        }
    }
}

impl Start {
    fn text(&self) -> String {
        let steps: Vec<&str> = self.steps.values().map(String::as_str).collect();
        steps.join("; ")
    }
}

impl StartStep {
    /// Says how far the step is. The start gets on with it, even where the words are the same.
    pub fn says(&self, what: String) {
        if let Phase::Starting(start) = &mut *self.readiness.phase() {
            start.steps.insert(self.number, what);
            start.moved = Instant::now();
        }
    }
}

impl Drop for StartStep {
    fn drop(&mut self) {
        if let Phase::Starting(start) = &mut *self.readiness.phase() {
            start.steps.remove(&self.number);
            start.moved = Instant::now();
        }
    }
}

/// The health address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve health and metrics on {address}: {source}; choose another --health-address")]
pub struct HealthError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves `/metrics`, `/healthz` and `/readyz` until `shutdown`, in the background; returns the bound address (port 0 chooses one).
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> Result<SocketAddr, HealthError> {
    let failed = |source| HealthError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let alive = readiness.clone();
    let ready = move || async move {
        let status = match readiness.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, readiness.text())
    };
    let alive = move || async move {
        match alive.stalled() {
            Some(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            None => (StatusCode::OK, "alive\n".to_owned()),
        }
    };
    let metrics = || async {
        (
            [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
            metrics().render(),
        )
    };
    let routes = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    tokio::spawn(async move {
        if let Err(error) = http_server::serve(listener, routes, LIMITS, shutdown).await {
            tracing::error!(%error, "the health server ended");
        }
    });
    Ok(bound)
}
