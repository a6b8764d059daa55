//! `/metrics` for Prometheus, `/healthz` for "restart me", `/readyz` for "send me work".

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_server::{self, ConnectionLimits};
use crate::metrics::metrics;

/// Probes and scrapers are few, and their requests are short.
const LIMITS: ConnectionLimits = ConnectionLimits {
    server: "health",
    connections: 64,
    header_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(75),
};

/// A flag that says whether the process can take work; it is not ready until [`Readiness::set`] says so.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether the process can take work from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
    let ready = move || async move {
        match readiness.get() {
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        }
    };
    let metrics = || async {
        (
            [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
            metrics().render(),
        )
    };
    let routes = Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    tokio::spawn(async move {
        if let Err(error) = http_server::serve(listener, routes, LIMITS, shutdown).await {
            tracing::error!(%error, "the health server ended");
        }
    });
    Ok(bound)
}
