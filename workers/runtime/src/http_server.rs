//! An HTTP server that silent and slow clients cannot use up. A connection has a time for the header of its first request,
//! one for its next requests, and one for taking each piece of an answer; of connections there are so many at a time, and
//! where all places are taken, the one that has been without a request for longest makes room.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use connections::{Connection, Connections};
use watched_body::WatchedBody;

mod connections;
mod open_files;
mod watched_body;

pub use open_files::open_files;

/// Most bytes of a request's header, and of a connection's buffer for reading.
const HEADER_BYTES: usize = 32 << 10;
/// What a connection takes in memory besides the bodies of its requests, in bytes.
pub const CONNECTION_BYTES: u64 = 48 << 10;
/// How long nothing is accepted after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How many connections a server has at a time, and for how long they may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The name of the server in metrics.
    pub server: &'static str,
    /// Connections at a time. Others wait to be accepted.
    pub connections: usize,
    /// How long a new connection may take until the header of its first request is there.
    pub header_timeout: Duration,
    /// How long a connection may take from the end of an answer until the header of its next request is there.
    pub idle_timeout: Duration,
    /// How long a piece of an answer may take until its reader has it, about.
    pub send_timeout: Duration,
}

/// Answers until `shutdown`, and then whatever is in work; connections without a request end at once. Dropping the
/// future ends all of them.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let connections = Connections::new(limits);
    let mut running = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = running.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) if is_about_the_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, server = limits.server, "no connection can be accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = tokio::select! {
            () = shutdown.cancelled() => break,
            connection = connections.enter() => connection,
        };
        running.spawn(answer(socket, router.clone(), connection, shutdown.clone()));
    }
    drop(listener);
    while running.join_next().await.is_some() {}
    Ok(())
}

fn is_about_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Answers the requests of one connection.
async fn answer(
    socket: TcpStream,
    router: Router,
    connection: Connection,
    shutdown: CancellationToken,
) {
    // Small events must not wait for the reader's acknowledgement of the last one.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "events of one connection may be late");
    }
    let (state, router) = (connection.state(), TowerToHyperService::new(router));
    let service = service_fn(move |request: Request<Incoming>| {
        let in_work = state.begin_request();
        let answering = router.call(request);
        async move {
            let response = answering.await?;
            Ok::<_, Infallible>(response.map(|body| WatchedBody::new(body, in_work)))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().max_buf_size(HEADER_BYTES);
    let served = builder.serve_connection(TokioIo::new(socket), service);
    let mut served = std::pin::pin!(served);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A request that has just come is seen before its connection's time is over.
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            // Without a request, or without a reader: nobody misses an answer.
            () = connection.overdue() => return,
            () = shutdown.cancelled(), if !is_stopping => {
                is_stopping = true;
                served.as_mut().graceful_shutdown();
                connection.end_when_idle();
            }
        }
    }
}
