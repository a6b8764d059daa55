//! `/metrics` for Prometheus, `/healthz` for "restart me", `/readyz` for "send me work".

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
};

/// Whether the process can take work, which it cannot until [`Readiness::set`] says so, and for which bundles.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<ReadinessInner>);

#[derive(Debug, Default)]
struct ReadinessInner {
    ready: AtomicBool,
    bundles: Mutex<Vec<BundleLabel>>,
}

impl Readiness {
    /// Says whether the process can take work from now on.
    pub fn set(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Names a bundle that the process serves, here and in the metrics.
    pub fn serves(&self, bundle: BundleLabel) {
        metrics().serves(&bundle);
        self.bundles().push(bundle);
    }

    fn get(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    fn bundles(&self) -> MutexGuard<'_, Vec<BundleLabel>> {
        self.0
            .bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `ready` or `not ready`, and a line for each bundle.
    fn text(&self) -> String {
        let mut text = match self.get() {
            true => "ready\n".to_owned(),
            false => "not ready\n".to_owned(),
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
        let status = match readiness.get() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, readiness.text())
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
