//! Following one turn from any event on. What is news is told by the store, what was missed is read again, and nothing is
//! kept for a reader that does not read: the next event is fetched when the last one was taken.

use std::collections::VecDeque;
use std::time::Duration;

use radialog_runtime::conversations::{NumberedEvent, TurnWatch};
use radialog_runtime::metrics::metrics;
use radialog_runtime::state::StateError;
use radialog_schemas::{ConversationId, TurnEvent};
use tokio::time::{Instant, sleep, sleep_until};

use super::AppState;

/// Events read at a time.
const PAGE: usize = 64;
/// Pauses between two looks at a turn's position, at first and when it has waited for long.
const FIRST_POSITION_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_POSITION_PAUSE: Duration = Duration::from_secs(10);
/// Pause after the state store has failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Something new about a turn, as a reader is told it.
#[derive(Debug, PartialEq)]
pub(super) enum TurnUpdate {
    /// The number of turns that wait before this one; told only when it changed.
    Queued(u64),
    /// The next event.
    Event(u64, TurnEvent),
    /// There was nothing for a while.
    Alive,
}

/// A place in the events of one turn, from which reading goes on.
pub(super) struct TurnFollower {
    app: AppState,
    id: ConversationId,
    turn: u32,
    /// Number of the last event that was taken.
    after: u64,
    watch: Box<dyn TurnWatch>,
    pending: VecDeque<NumberedEvent>,
    /// The time at which the pending events came.
    arrived: Instant,
    /// There may be events that are neither taken nor pending.
    read_again: bool,
    /// The turn may be gone.
    maybe_deleted: bool,
    waiting: Option<QueueWait>,
    heartbeat_at: Instant,
    over: bool,
    /// The conversation is gone, and nobody was told yet.
    gone: bool,
}

/// The state of a follower whose turn no worker has begun.
struct QueueWait {
    position: Option<u64>,
    ask_at: Instant,
    ask_pause: Duration,
}

impl TurnFollower {
    /// Begins behind the event with number `after`.
    pub(super) async fn open(
        app: &AppState,
        id: &ConversationId,
        turn: u32,
        after: u64,
    ) -> Result<Self, StateError> {
        // Before anything is read, so that nothing falls between.
        let watch = app.backends.conversations.watch(id, turn).await?;
        let now = Instant::now();
        let waiting = QueueWait {
            position: None,
            ask_at: now,
            ask_pause: FIRST_POSITION_PAUSE,
        };
        Ok(Self {
            app: app.clone(),
            id: id.clone(),
            turn,
            after,
            watch,
            pending: VecDeque::new(),
            arrived: now,
            read_again: true,
            maybe_deleted: false,
            waiting: Some(waiting),
            heartbeat_at: now + app.config.heartbeat,
            over: false,
            gone: false,
        })
    }

    /// Waits for the next update; none when the turn is over, its conversation is gone, or this gateway stops. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<TurnUpdate> {
        while !self.over {
            if let Some((number, event)) = self.take() {
                self.over = matches!(event, TurnEvent::Ended(_));
                self.heartbeat_at = Instant::now() + self.app.config.heartbeat;
                metrics()
                    .http_event_lag
                    .observe(self.arrived.elapsed().as_secs_f64());
                return Some(TurnUpdate::Event(number, event));
            }
            let found = match self.read().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "a reader waits for the state store");
                    tokio::select! {
                        () = self.app.shutdown.cancelled() => return None,
                        () = sleep(RETRY_PAUSE) => {}
                    }
                    if Instant::now() >= self.heartbeat_at {
                        self.heartbeat_at = Instant::now() + self.app.config.heartbeat;
                        return Some(TurnUpdate::Alive);
                    }
                    continue;
                }
            };
            match found {
                ReadOutcome::Events => continue,
                ReadOutcome::Update(update) => return Some(update),
                ReadOutcome::Gone => {
                    (self.over, self.gone) = (true, true);
                    break;
                }
                ReadOutcome::Nothing => {}
            }
            let ask_at = self
                .waiting
                .as_ref()
                .map_or(self.heartbeat_at, |waiting| waiting.ask_at);
            tokio::select! {
                () = self.app.shutdown.cancelled() => return None,
                events = self.watch.next_events() => {
                    self.arrived = Instant::now();
                    self.read_again = events.is_empty();
                    self.maybe_deleted = events.is_empty();
                    self.pending = events.into();
                }
                () = sleep_until(ask_at.min(self.heartbeat_at)) => {
                    if Instant::now() >= self.heartbeat_at {
                        self.heartbeat_at = Instant::now() + self.app.config.heartbeat;
                        // News can be lost on its way; what was written cannot.
                        (self.read_again, self.maybe_deleted) = (true, true);
                        return Some(TurnUpdate::Alive);
                    }
                }
            }
        }
        None
    }

    /// Whether it ended because the conversation is gone: true once.
    pub(super) fn take_gone(&mut self) -> bool {
        std::mem::take(&mut self.gone)
    }

    /// Takes the next event, if it is pending.
    fn take(&mut self) -> Option<NumberedEvent> {
        while let Some((number, event)) = self.pending.pop_front() {
            if number == self.after + 1 {
                self.after = number;
                if !matches!(event, TurnEvent::Findings(_)) {
                    self.waiting = None;
                }
                return Some((number, event));
            }
            if number > self.after {
                self.pending.clear();
                self.read_again = true;
            }
        }
        None
    }

    /// Reads what the watch did not bring.
    async fn read(&mut self) -> Result<ReadOutcome, StateError> {
        let conversations = self.app.backends.conversations.clone();
        if self.read_again {
            let events = conversations
                .events(&self.id, self.turn, self.after, PAGE)
                .await?;
            self.read_again = events.len() == PAGE;
            if !events.is_empty() {
                self.maybe_deleted = false;
                self.arrived = Instant::now();
                self.pending = events.into();
                return Ok(ReadOutcome::Events);
            }
        }
        if self.maybe_deleted {
            if conversations.snapshot(&self.id).await?.is_none() {
                return Ok(ReadOutcome::Gone);
            }
            self.maybe_deleted = false;
        }
        let Some(waiting) = self
            .waiting
            .as_mut()
            .filter(|waiting| waiting.ask_at <= Instant::now())
        else {
            return Ok(ReadOutcome::Nothing);
        };
        let Some(position) = conversations.position(&self.id, self.turn).await? else {
            self.waiting = None;
            return Ok(ReadOutcome::Nothing);
        };
        waiting.ask_at = Instant::now() + waiting.ask_pause;
        waiting.ask_pause = waiting.ask_pause.mul_f64(1.5).min(LONGEST_POSITION_PAUSE);
        if waiting.position == Some(position) {
            return Ok(ReadOutcome::Nothing);
        }
        waiting.position = Some(position);
        Ok(ReadOutcome::Update(TurnUpdate::Queued(position)))
    }
}

enum ReadOutcome {
    /// They are pending now.
    Events,
    /// A change of the position.
    Update(TurnUpdate),
    /// There is no such conversation any more.
    Gone,
    Nothing,
}
