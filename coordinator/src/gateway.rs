//! The HTTP gateway: conversations for people and programs. It owns nothing: what it is told goes into the shared state
//! before it answers, so that any gateway can go on where another one stopped.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::http_server::{self, ConnectionLimits};
use radialog_runtime::queue::QueueError;
use radialog_runtime::state::StateError;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ServedBundles;
use crate::conversation::TurnSweeper;
use crate::run::{ArchiveRuns, ArchiveRunsError, ArchiveRunsSettings, OpenArchive};

mod app_state;
mod archives;
mod assets;
mod auth;
mod body;
mod body_memory;
mod config;
mod conversations;
mod create;
mod download;
mod events;
mod files;
mod guard;
mod image;
mod openai;
mod openapi;
mod operation;
mod operations;
mod precondition;
mod problem;
mod publish;
mod query;
mod queue_place;
mod quota;
mod request_path;
mod router;
mod served_groups;
mod static_file;
mod turn_follower;
mod turns;
mod upload;
mod view;

use app_state::{AppState, AppStateInner};
use auth::Authenticator;
use body_memory::BodyMemory;
pub use config::{AlsoServed, ApiKey, BatchPace, GatewayConfig, MOST_CONNECTIONS, is_key_name};
use openai::batches::BatchRunner;
pub use openapi::openapi_document;
use served_groups::ServedGroups;
use static_file::StaticFile;

/// Ports behind a taken one that are tried before any free one is named.
const NEXT_PORTS: u16 = 20;

/// The reason why the gateway does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Nobody may ask, or everybody could.
    #[error(
        "--listen {0} can be reached by other machines, and no API keys are set: whoever reaches it could read every \
         conversation. Make a key with `radialog gateway new-key NAME` and set gateway.keys, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; {}", advice(.reason, .free))]
    Listen {
        /// The address as it is configured.
        address: SocketAddr,
        /// The system's words.
        reason: std::io::Error,
        /// An address beside it that nobody listens on, where the port is taken.
        free: Option<SocketAddr>,
    },
    /// The broker is unreachable or refuses.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The state store is unreachable or refuses.
    #[error(transparent)]
    State(#[from] StateError),
    /// Runs over archives of an earlier process cannot be taken up.
    #[error(transparent)]
    ArchiveRuns(#[from] ArchiveRunsError),
    /// The server ended.
    #[error("the HTTP server ended: {0}; start it again")]
    Serve(std::io::Error),
}

fn advice(error: &std::io::Error, free: &Option<SocketAddr>) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let free = free.map_or_else(String::new, |free| format!(", e.g. --listen {free}"));
            format!("another process has that port: stop it, or choose another one{free}")
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root: choose one above, e.g. 7860".into()
        }
        _ => "give an address of this machine with --listen".into(),
    }
}

/// An address of the same host on which nobody listens: one of the next ports, as a person would choose, else any.
async fn free_beside(taken: SocketAddr) -> Option<SocketAddr> {
    let next = (1..=NEXT_PORTS).filter_map(|step| taken.port().checked_add(step));
    for port in next.chain([0]) {
        if let Ok(free) = TcpListener::bind((taken.ip(), port)).await {
            return free.local_addr().ok();
        }
    }
    None
}

/// A gateway that listens.
pub struct Gateway {
    app: AppState,
    listener: TcpListener,
}

impl Gateway {
    /// Listens on the configured address; port 0 chooses one. Requests wait until [`Gateway::serve`].
    ///
    /// # Errors
    /// Where the address is taken, or open to others without any key; where the queues of a bundle's workers cannot be
    /// declared.
    pub async fn bind(
        config: GatewayConfig,
        bundles: impl Into<ServedBundles>,
        backends: Backends,
        shutdown: CancellationToken,
    ) -> Result<Self, GatewayError> {
        if config.is_open_to_all() {
            return Err(GatewayError::Open(config.listen));
        }
        let listener = match TcpListener::bind(config.listen).await {
            Ok(listener) => listener,
            Err(reason) => {
                let free = match reason.kind() {
                    std::io::ErrorKind::AddrInUse => free_beside(config.listen).await,
                    _ => None,
                };
                return Err(GatewayError::Listen {
                    address: config.listen,
                    reason,
                    free,
                });
            }
        };
        let bundles = bundles.into();
        for bundle in bundles.bundles() {
            if let Some(group) = &bundle.group {
                backends.queue.declare_group(group).await?;
                backends.state.note_group(group).await?;
            }
        }
        ServedGroups::new(&backends, &bundles).tell().await?;
        let authenticator = Authenticator::new(&config);
        let document =
            serde_json::to_vec(&openapi_document()).expect("a document has string keys only");
        let inner = AppStateInner {
            bodies: Arc::new(BodyMemory::of(config.body_memory)),
            backends,
            bundles,
            config,
            authenticator,
            openapi: StaticFile::new("application/json", document.into()),
            archive_runs: OnceLock::new(),
            has_conditions: AtomicBool::new(false),
            new_batch: Notify::new(),
            shutdown,
        };
        Ok(Self {
            app: AppState(Arc::new(inner)),
            listener,
        })
    }

    /// Runs over archives, too: goes on with those that were running when an earlier process stopped.
    ///
    /// # Errors
    /// Where their folder cannot be read.
    pub async fn with_archive_runs(self, open: OpenArchive) -> Result<Self, GatewayError> {
        let AppStateInner {
            backends,
            bundles,
            config,
            shutdown,
            ..
        } = &*self.app;
        let (directory, prefixes) = (config.directory.clone(), config.archives.clone());
        let settings = ArchiveRunsSettings {
            directory,
            prefixes,
            open,
        };
        let runs = ArchiveRuns::new(
            backends.clone(),
            bundles.clone(),
            settings,
            shutdown.clone(),
        );
        runs.resume().await?;
        self.app.archive_runs.get_or_init(|| runs);
        Ok(self)
    }

    /// Says where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> Result<SocketAddr, GatewayError> {
        self.listener.local_addr().map_err(GatewayError::Serve)
    }

    /// How long what is in work at the shutdown may take, as it is configured.
    pub fn grace(&self) -> Duration {
        self.app.config.grace
    }

    /// Answers until the shutdown, and then up to `grace` longer what is in work. Streams end at once: their readers go
    /// on at another gateway.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, grace: Duration) -> Result<(), GatewayError> {
        let shutdown = self.app.shutdown.clone();
        let router = router::router(&self.app);
        let config = &self.app.config;
        let sweeper = TurnSweeper::new(
            self.app.backends.clone(),
            Some(self.app.bundles.clone()),
            config.republish_after,
            shutdown.clone(),
        );
        tokio::spawn(sweeper.run());
        let groups = ServedGroups::new(&self.app.backends, &self.app.bundles);
        tokio::spawn(groups.keep_telling(shutdown.clone()));
        let batches = tokio::spawn(BatchRunner::new(self.app.clone()).run());
        let limits = ConnectionLimits {
            server: "gateway",
            connections: config.connections as usize,
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            send_timeout: config.request_timeout,
        };
        let server = async {
            let ended = http_server::serve(self.listener, router, limits, shutdown.clone()).await;
            if ended.is_ok() {
                // Given back, so that another gateway takes them at once.
                let _ = batches.await;
            }
            ended
        };
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            ended = server => ended.map_err(GatewayError::Serve),
            () = late => Ok(()),
        }
    }
}
