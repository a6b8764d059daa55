//! `/metrics` for Prometheus, `/healthz` for "restart me", `/readyz` for "send me work".

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::metrics;

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
        let server =
            axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the health server ended");
        }
    });
    Ok(bound)
}
