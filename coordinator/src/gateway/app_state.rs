//! What every request works over.

use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use radialog_runtime::backends::Backends;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::body_memory::BodyMemory;
use super::config::GatewayConfig;
use super::static_file::StaticFile;
use crate::ServedBundles;
use crate::run::ArchiveRuns;

/// The handlers' state, which is cheap to clone.
#[derive(Clone)]
pub(super) struct AppState(pub(super) Arc<AppStateInner>);

pub(super) struct AppStateInner {
    pub(super) backends: Backends,
    pub(super) bundles: ServedBundles,
    pub(super) config: GatewayConfig,
    pub(super) authenticator: Authenticator,
    /// Memory for the bodies of all requests.
    pub(super) bodies: Arc<BodyMemory>,
    /// The description of the API, which is the same for everybody.
    pub(super) openapi: StaticFile,
    /// None where this gateway runs over no archives.
    pub(super) archive_runs: OnceLock<Arc<ArchiveRuns>>,
    /// The object store has shown that it knows conditional writes.
    pub(super) has_conditions: AtomicBool,
    /// Told when a batch of requests was made or changed here.
    pub(super) new_batch: Notify,
    pub(super) shutdown: CancellationToken,
}

impl Deref for AppState {
    type Target = AppStateInner;

    fn deref(&self) -> &AppStateInner {
        &self.0
    }
}
