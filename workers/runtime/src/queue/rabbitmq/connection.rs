//! The supervised connection. A task connects, waits until the connection breaks, and connects again with growing
//! pauses; everybody else waits for the session of the moment.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::confirms::{self, PublishRequest};
use super::{QueueError, refused};
use crate::backoff::Backoff;
use crate::metrics::metrics;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// One attempt to connect, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether an alarm is over.
const BLOCKED_PAUSE: Duration = Duration::from_millis(100);
/// What an alarm is, and what to do.
pub(super) const ALARM: &str = "it takes no messages for now, since it has an alarm: it is short of memory or disk. Make room \
                                there, or raise vm_memory_high_watermark or lower disk_free_limit; `rabbitmq-diagnostics alarms` \
                                names it";

/// So many refusals in a row are meant: a broker that is just starting may not know its users and virtual hosts yet.
const REFUSALS: u32 = 3;

/// The connection at one moment.
#[derive(Clone)]
enum ConnectionState {
    Up(Arc<Session>),
    /// The connection is down, for this reason.
    Down(String),
    /// The broker refuses the user or the virtual host, for this reason. It is asked again all the same: for a process that
    /// runs already, somebody may be about to change that.
    Refused(String),
}

/// The connection as the rest of the adapter sees it.
pub(super) struct SupervisedConnection {
    current: watch::Receiver<ConnectionState>,
    _supervisor: DropGuard,
}

/// One connection to the broker, from its start until it breaks.
pub(super) struct Session {
    connection: Connection,
    /// Where messages are published; its confirms are looked at by one task.
    channel: Channel,
    pub(super) publishing: UnboundedSender<PublishRequest>,
    taking: tokio::sync::Mutex<Option<Channel>>,
    broken: CancellationToken,
}

impl SupervisedConnection {
    /// Starts to connect in the background.
    pub(super) fn start(url: &str, heartbeat: Duration, name: &str) -> Result<Self, QueueError> {
        let mut uri: AMQPUri = url.parse().map_err(QueueError::Unreachable)?;
        let heartbeat = u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(heartbeat);
        let (sender, current) =
            watch::channel(ConnectionState::Down("not connected yet".to_owned()));
        let stop = CancellationToken::new();
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(supervise(uri, properties, sender)),
        );
        Ok(Self {
            current,
            _supervisor: stop.drop_guard(),
        })
    }

    /// Returns the first session; waits for it until `deadline`, or until it is clear that the broker refuses.
    pub(super) async fn first_session(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Session>, QueueError> {
        let mut current = self.current.clone();
        let is_decided = |current: &ConnectionState| !matches!(current, ConnectionState::Down(_));
        drop(timeout_at(deadline, current.wait_for(is_decided)).await);
        if let ConnectionState::Refused(reason) = &*self.current.borrow() {
            return Err(QueueError::Refused(reason.clone()));
        }
        self.session(deadline).await
    }

    /// Whether the broker has said on the connection of the moment that it takes no messages.
    pub(super) fn is_blocked(&self) -> bool {
        match &*self.current.borrow() {
            ConnectionState::Up(session) => session.is_blocked(),
            ConnectionState::Down(_) | ConnectionState::Refused(_) => false,
        }
    }

    /// Returns the session of the moment; waits for one until `deadline`.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, QueueError> {
        let mut current = self.current.clone();
        let connected = |current: &ConnectionState| matches!(current, ConnectionState::Up(session) if session.is_alive());
        // Either way, what stands there now is the answer: the deadline passed, or a live session came.
        drop(timeout_at(deadline, current.wait_for(connected)).await);
        match &*self.current.borrow() {
            ConnectionState::Up(session) => Ok(session.clone()),
            ConnectionState::Down(reason) | ConnectionState::Refused(reason) => {
                Err(QueueError::Unreachable(reason.clone()))
            }
        }
    }
}

impl Session {
    async fn open(uri: AMQPUri, properties: ConnectionProperties) -> Result<Self, lapin::Error> {
        let connection = Connection::connect_uri(uri, properties).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let (publishing, requests) = unbounded_channel();
        // Ends with the session.
        tokio::spawn(confirms::publish_all(channel.clone(), requests));
        let (taking, broken) = Default::default();
        Ok(Self {
            connection,
            channel,
            publishing,
            taking,
            broken,
        })
    }

    /// Opens a new channel.
    pub(super) async fn channel(&self, deadline: Instant) -> Result<Channel, QueueError> {
        // One that is asked for meanwhile would be opened afterwards, for nobody, and there are only so many.
        while self.is_blocked() && self.is_alive() {
            if Instant::now() >= deadline {
                return Err(QueueError::Alarm(ALARM));
            }
            sleep_until(deadline.min(Instant::now() + BLOCKED_PAUSE)).await;
        }
        self.answered(deadline, self.connection.create_channel())
            .await
    }

    /// The broker's answer to a question whose effect nobody needs who does not hear of it.
    pub(super) async fn answered<T>(
        &self,
        deadline: Instant,
        question: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, QueueError> {
        let question = async { question.await.map_err(refused) };
        self.in_time(deadline, question).await
    }

    /// What the broker answers until `deadline`.
    pub(super) async fn in_time<T>(
        &self,
        deadline: Instant,
        question: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        match timeout_at(deadline, question).await {
            Ok(answer) => answer,
            Err(_) if self.is_blocked() => Err(QueueError::Alarm(ALARM)),
            Err(_) => Err(QueueError::Unreachable("no answer in time".to_owned())),
        }
    }

    /// Returns the channel that single messages are taken on; they stay with it until they are settled.
    pub(super) async fn taking(&self, deadline: Instant) -> Result<Channel, QueueError> {
        let mut taking = self.taking.lock().await;
        match &*taking {
            Some(channel) if channel.status().connected() => Ok(channel.clone()),
            _ => Ok(taking.insert(self.channel(deadline).await?).clone()),
        }
    }

    /// Marks the session as broken: an operation failed in a way that only a new connection repairs.
    pub(super) fn report_broken(&self) {
        self.broken.cancel();
    }

    fn is_alive(&self) -> bool {
        !self.broken.is_cancelled()
            && self.connection.status().connected()
            && self.channel.status().connected()
    }

    /// Whether the broker has said that it takes no messages for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Returns when the connection is of no use any more.
    async fn ended(&self) {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut check = tokio::time::interval(Duration::from_secs(1));
        while self.is_alive() {
            tokio::select! {
                () = self.broken.cancelled() => return,
                _ = check.tick() => {}
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker takes no messages for now: it is short of memory or disk");
                    }
                    Some(Event::ConnectionUnblocked) => tracing::info!("the broker takes messages again"),
                    Some(Event::Error(error)) => {
                        tracing::debug!(%error, "the connection reports an error");
                    }
                    Some(_) => {}
                    None => return,
                },
            }
        }
    }
}

async fn supervise(
    uri: AMQPUri,
    properties: ConnectionProperties,
    current: watch::Sender<ConnectionState>,
) {
    let mut backoff = BACKOFF;
    let mut refusals = 0;
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    loop {
        let opened = timeout(
            CONNECT_TIMEOUT,
            Session::open(uri.clone(), properties.clone()),
        )
        .await;
        let opened = match opened {
            Ok(opened) => opened.map_err(|error| match refusal(&error) {
                Some(advice) => (true, format!("{}; {advice}", said(&error))),
                None => (false, said(&error)),
            }),
            Err(_) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err((false, format!("no answer within {seconds} s")))
            }
        };
        match opened {
            Ok(session) => {
                let session = Arc::new(session);
                current.send_replace(ConnectionState::Up(session.clone()));
                backoff.reset();
                refusals = 0;
                session.ended().await;
                session.report_broken();
                metrics().queue_reconnects.inc();
                tracing::warn!("the connection to the broker broke; connecting again");
                current.send_replace(ConnectionState::Down("the connection broke".into()));
            }
            Err((is_refused, reason)) => {
                let pause = backoff.next();
                let reason = format!("{place}: {reason}");
                refusals = if is_refused { refusals + 1 } else { 0 };
                tracing::warn!(
                    reason,
                    pause_ms = pause.as_millis(),
                    "the broker is unreachable; trying again"
                );
                current.send_replace(match refusals >= REFUSALS {
                    true => ConnectionState::Refused(reason),
                    false => ConnectionState::Down(reason),
                });
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// What to do where the broker refuses who we are or where we want to go; none for every other error.
fn refusal(error: &lapin::Error) -> Option<&'static str> {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return None;
    };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            Some("check user and password in --amqp (RADIALOG_AMQP_URL)")
        }
        // A virtual host that is being started, or started again, is down for a moment.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
            if !error.get_message().as_str().contains("is down") =>
        {
            Some(
                "create the virtual host and give the user its rights there, or name another one at the end of --amqp \
                 (RADIALOG_AMQP_URL)",
            )
        }
        _ => None,
    }
}

/// The broker's own words, where the error is its answer.
fn said(error: &lapin::Error) -> String {
    let text = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    };
    text.trim_end_matches('.').to_owned()
}
