//! Following one turn from any event on. What is news is told by the store, what was missed is read again, and nothing is
//! kept for a reader that does not read: the next event is fetched when the last one was taken.

use std::collections::VecDeque;
use std::time::Duration;

use radialog_runtime::conversations::{NumberedEvent, TurnWatch};
use radialog_runtime::metrics::metrics;
use radialog_runtime::state::StateError;
use radialog_schemas::{ConversationId, TurnEvent};
use tokio::time::{Instant, sleep, sleep_until};

use super::problem::ApiResult;
use super::{AppState, publish};

/// Events read at a time.
const PAGE: usize = 64;
/// How often the position of a turn is asked for, at first and when it has waited for long.
const FIRST_POSITION: Duration = Duration::from_secs(1);
const LAST_POSITION: Duration = Duration::from_secs(10);
/// Heartbeats after which a turn that still waits may have been forgotten, at first.
const FORGOTTEN: u32 = 2;
/// Pause after the state store has failed.
const RETRY: Duration = Duration::from_millis(500);

/// What a reader is told.
#[derive(Debug, PartialEq)]
pub(super) enum TurnUpdate {
    /// So many turns wait before this one; only when that changed.
    Queued(u64),
    /// The next event.
    Event(u64, TurnEvent),
    /// Nothing for a while.
    Alive,
}

/// A place in the events of one turn.
pub(super) struct TurnFollower {
    app: AppState,
    id: ConversationId,
    turn: u32,
    /// Number of the last event that was taken.
    after: u64,
    watch: Box<dyn TurnWatch>,
    pending: VecDeque<NumberedEvent>,
    /// When the pending events came.
    arrived: Instant,
    /// There may be events that are neither taken nor pending.
    look: bool,
    /// The turn may be gone.
    doubt: bool,
    waiting: Option<QueueWait>,
    beat: Instant,
    over: bool,
}

/// A turn that no worker has begun.
struct QueueWait {
    position: Option<u64>,
    ask: Instant,
    pause: Duration,
    forgotten: Instant,
    patience: Duration,
}

impl TurnFollower {
    /// Reads the events over number `after`.
    pub(super) async fn open(
        app: &AppState,
        id: &ConversationId,
        turn: u32,
        after: u64,
    ) -> Result<Self, StateError> {
        // Before anything is read, so that nothing falls between.
        let watch = app.backends.conversations.watch(id, turn).await?;
        let now = Instant::now();
        let patience = FORGOTTEN * app.config.heartbeat;
        let waiting = QueueWait {
            position: None,
            ask: now,
            pause: FIRST_POSITION,
            forgotten: now + patience,
            patience,
        };
        Ok(Self {
            app: app.clone(),
            id: id.clone(),
            turn,
            after,
            watch,
            pending: VecDeque::new(),
            arrived: now,
            look: true,
            doubt: false,
            waiting: Some(waiting),
            beat: now + app.config.heartbeat,
            over: false,
        })
    }

    /// The next news; none when the turn is over, its conversation is gone, or this gateway stops. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<TurnUpdate> {
        while !self.over {
            if let Some((number, event)) = self.take() {
                self.over = matches!(event, TurnEvent::Ended(_));
                self.beat = Instant::now() + self.app.config.heartbeat;
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
                        () = sleep(RETRY) => {}
                    }
                    if Instant::now() >= self.beat {
                        self.beat = Instant::now() + self.app.config.heartbeat;
                        return Some(TurnUpdate::Alive);
                    }
                    continue;
                }
            };
            match found {
                ReadOutcome::Events => continue,
                ReadOutcome::TurnUpdate(news) => return Some(news),
                ReadOutcome::Gone => break,
                ReadOutcome::Nothing => {}
            }
            let ask = self
                .waiting
                .as_ref()
                .map_or(self.beat, |waiting| waiting.ask);
            tokio::select! {
                () = self.app.shutdown.cancelled() => return None,
                news = self.watch.next_events() => {
                    self.arrived = Instant::now();
                    self.look = news.is_empty();
                    self.doubt = news.is_empty();
                    self.pending = news.into();
                }
                () = sleep_until(ask.min(self.beat)) => {
                    if Instant::now() >= self.beat {
                        self.beat = Instant::now() + self.app.config.heartbeat;
                        // TurnUpdate can be lost on their way; what was written cannot.
                        (self.look, self.doubt) = (true, true);
                        return Some(TurnUpdate::Alive);
                    }
                }
            }
        }
        None
    }

    /// The next event, if it is pending.
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
                self.look = true;
            }
        }
        None
    }

    /// Looks for what the news did not bring.
    async fn read(&mut self) -> Result<ReadOutcome, StateError> {
        let conversations = self.app.backends.conversations.clone();
        if self.look {
            let events = conversations
                .events(&self.id, self.turn, self.after, PAGE)
                .await?;
            self.look = events.len() == PAGE;
            if !events.is_empty() {
                self.doubt = false;
                self.arrived = Instant::now();
                self.pending = events.into();
                return Ok(ReadOutcome::Events);
            }
        }
        if self.doubt {
            if conversations.snapshot(&self.id).await?.is_none() {
                return Ok(ReadOutcome::Gone);
            }
            self.doubt = false;
        }
        let Some(waiting) = self
            .waiting
            .as_mut()
            .filter(|waiting| waiting.ask <= Instant::now())
        else {
            return Ok(ReadOutcome::Nothing);
        };
        let Some(position) = conversations.position(&self.id, self.turn).await? else {
            self.waiting = None;
            return Ok(ReadOutcome::Nothing);
        };
        waiting.ask = Instant::now() + waiting.pause;
        waiting.pause = waiting.pause.mul_f64(1.5).min(LAST_POSITION);
        if waiting.forgotten <= Instant::now() {
            waiting.patience *= 2;
            waiting.forgotten = Instant::now() + waiting.patience;
            remind(&self.app, &self.id).await?;
        }
        if waiting.position == Some(position) {
            return Ok(ReadOutcome::Nothing);
        }
        waiting.position = Some(position);
        Ok(ReadOutcome::TurnUpdate(TurnUpdate::Queued(position)))
    }
}

async fn remind(app: &AppState, id: &ConversationId) -> Result<(), StateError> {
    let Some(snapshot) = app.backends.conversations.snapshot(id).await? else {
        return Ok(());
    };
    let reminding: ApiResult<()> = publish::forgotten(app, &snapshot).await;
    // Said in the log already; the next reminder comes.
    let _ = reminding;
    Ok(())
}

enum ReadOutcome {
    /// They are pending now.
    Events,
    /// A change of the position.
    TurnUpdate(TurnUpdate),
    /// There is no such conversation any more.
    Gone,
    Nothing,
}
