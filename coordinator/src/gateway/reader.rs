//! Following one turn from any event on. What is news is told by the store, what was missed is read again, and nothing is
//! kept for a reader that does not read: the next event is fetched when the last one was taken.

use std::collections::VecDeque;
use std::time::Duration;

use radialog_runtime::conversations::{NumberedEvent, TurnWatch};
use radialog_runtime::metrics::metrics;
use radialog_runtime::state::StateError;
use radialog_schemas::{ConversationId, TurnEvent};
use tokio::time::{Instant, sleep, sleep_until};

use super::problem::Answer;
use super::{Shared, publish};

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
pub(super) enum News {
    /// So many turns wait before this one; only when that changed.
    Queued(u64),
    /// The next event.
    Event(u64, TurnEvent),
    /// Nothing for a while.
    Alive,
}

/// A place in the events of one turn.
pub(super) struct Reader {
    shared: Shared,
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
    waiting: Option<Waiting>,
    beat: Instant,
    over: bool,
}

/// A turn that no worker has begun.
struct Waiting {
    position: Option<u64>,
    ask: Instant,
    pause: Duration,
    forgotten: Instant,
    patience: Duration,
}

impl Reader {
    /// Reads the events over number `after`.
    pub(super) async fn open(
        shared: &Shared,
        id: &ConversationId,
        turn: u32,
        after: u64,
    ) -> Result<Self, StateError> {
        // Before anything is read, so that nothing falls between.
        let watch = shared.backends.conversations.watch(id, turn).await?;
        let now = Instant::now();
        let patience = FORGOTTEN * shared.config.heartbeat;
        let waiting = Waiting {
            position: None,
            ask: now,
            pause: FIRST_POSITION,
            forgotten: now + patience,
            patience,
        };
        Ok(Self {
            shared: shared.clone(),
            id: id.clone(),
            turn,
            after,
            watch,
            pending: VecDeque::new(),
            arrived: now,
            look: true,
            doubt: false,
            waiting: Some(waiting),
            beat: now + shared.config.heartbeat,
            over: false,
        })
    }

    /// The next news; none when the turn is over, its conversation is gone, or this gateway stops. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<News> {
        while !self.over {
            if let Some((number, event)) = self.take() {
                self.over = matches!(event, TurnEvent::Ended(_));
                self.beat = Instant::now() + self.shared.config.heartbeat;
                metrics()
                    .http_event_lag
                    .observe(self.arrived.elapsed().as_secs_f64());
                return Some(News::Event(number, event));
            }
            let found = match self.read().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "a reader waits for the state store");
                    tokio::select! {
                        () = self.shared.shutdown.cancelled() => return None,
                        () = sleep(RETRY) => {}
                    }
                    if Instant::now() >= self.beat {
                        self.beat = Instant::now() + self.shared.config.heartbeat;
                        return Some(News::Alive);
                    }
                    continue;
                }
            };
            match found {
                Found::Events => continue,
                Found::News(news) => return Some(news),
                Found::Gone => break,
                Found::Nothing => {}
            }
            let ask = self
                .waiting
                .as_ref()
                .map_or(self.beat, |waiting| waiting.ask);
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return None,
                news = self.watch.next_events() => {
                    self.arrived = Instant::now();
                    self.look = news.is_empty();
                    self.doubt = news.is_empty();
                    self.pending = news.into();
                }
                () = sleep_until(ask.min(self.beat)) => {
                    if Instant::now() >= self.beat {
                        self.beat = Instant::now() + self.shared.config.heartbeat;
                        // News can be lost on their way; what was written cannot.
                        (self.look, self.doubt) = (true, true);
                        return Some(News::Alive);
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
    async fn read(&mut self) -> Result<Found, StateError> {
        let conversations = self.shared.backends.conversations.clone();
        if self.look {
            let events = conversations
                .events(&self.id, self.turn, self.after, PAGE)
                .await?;
            self.look = events.len() == PAGE;
            if !events.is_empty() {
                self.doubt = false;
                self.arrived = Instant::now();
                self.pending = events.into();
                return Ok(Found::Events);
            }
        }
        if self.doubt {
            if conversations.snapshot(&self.id).await?.is_none() {
                return Ok(Found::Gone);
            }
            self.doubt = false;
        }
        let Some(waiting) = self
            .waiting
            .as_mut()
            .filter(|waiting| waiting.ask <= Instant::now())
        else {
            return Ok(Found::Nothing);
        };
        let Some(position) = conversations.position(&self.id, self.turn).await? else {
            self.waiting = None;
            return Ok(Found::Nothing);
        };
        waiting.ask = Instant::now() + waiting.pause;
        waiting.pause = waiting.pause.mul_f64(1.5).min(LAST_POSITION);
        if waiting.forgotten <= Instant::now() {
            waiting.patience *= 2;
            waiting.forgotten = Instant::now() + waiting.patience;
            remind(&self.shared, &self.id).await?;
        }
        if waiting.position == Some(position) {
            return Ok(Found::Nothing);
        }
        waiting.position = Some(position);
        Ok(Found::News(News::Queued(position)))
    }
}

async fn remind(shared: &Shared, id: &ConversationId) -> Result<(), StateError> {
    let Some(snapshot) = shared.backends.conversations.snapshot(id).await? else {
        return Ok(());
    };
    let reminding: Answer<()> = publish::forgotten(shared, &snapshot).await;
    // Said in the log already; the next reminder comes.
    let _ = reminding;
    Ok(())
}

enum Found {
    /// They are pending now.
    Events,
    /// A change of the position.
    News(News),
    /// There is no such conversation any more.
    Gone,
    Nothing,
}
