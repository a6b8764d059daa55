//! The conversations contract: what gateways and language workers must agree on. A turn has one writer at a time, known by
//! its epoch, the fencing token: a worker that was taken for dead and comes back finds its epoch over, and writes nothing
//! more.

use std::time::Duration;

use async_trait::async_trait;
use radialog_schemas::{
    Conversation, ConversationId, Failure, FindingsReport, ObjectKey, Rating, TurnEvent,
    TurnOutcome, TurnRequest, TurnStatus,
};

use crate::clock::now_ms;
use crate::state::StateError;
use crate::trace;

mod fingerprint;
pub mod memory;
mod queue_limits;
pub mod redis;
mod replacing;

pub use queue_limits::{QueueLimits, Reservation, ReserveOutcome};
pub use replacing::{ReplaceOutcome, Replaces};

/// A conversation as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationSnapshot {
    /// What was written when it began.
    pub conversation: Conversation,
    /// The image's outputs: none while they are being computed, a failure where they cannot be.
    pub prepared: Option<Result<FindingsReport, Failure>>,
    /// The turns in order; turn 1 first.
    pub turns: Vec<TurnSnapshot>,
    /// The title that a person gave it.
    pub title: Option<String>,
}

/// A turn as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnSnapshot {
    /// What was asked.
    pub request: TurnRequest,
    /// The state of the turn.
    pub status: TurnStatus,
    /// Somebody wants it to stop; final once a worker has seen it.
    pub cancelling: bool,
    /// The question as the model reads it, once a worker has begun.
    pub asked: Option<String>,
    /// The end of the turn, once it has ended.
    pub outcome: Option<TurnOutcome>,
    /// The answer as a person has rewritten it; later turns build on this one.
    pub edited: Option<String>,
    /// What a person thinks of the answer.
    pub rating: Option<Rating>,
    /// Number of its events so far.
    pub events: u64,
}

/// What was written of a conversation and is not one: it is damaged, or of a release that this one does not know.
#[derive(Debug, thiserror::Error)]
#[error("a conversation cannot be read: {0}")]
pub struct Unreadable(pub String);

/// A name that was never given before.
fn nonce() -> String {
    format!("{:016x}{:016x}", trace::random(), trace::random())
}

/// What came of creating a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// This request has created it.
    Created {
        /// The turn that must be published now.
        ready: Option<u32>,
    },
    /// The same request had created it before.
    Existing {
        /// The turn that must be published now.
        ready: Option<u32>,
    },
    /// Another request had created it before. Nothing was written.
    Mismatch,
}

impl CreateOutcome {
    /// The turn that must be published now.
    pub fn ready(self) -> Option<u32> {
        match self {
            Self::Created { ready } | Self::Existing { ready } => ready,
            Self::Mismatch => None,
        }
    }
}

/// What came of asking for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddTurnOutcome {
    /// The turn is there.
    Added(AddedTurn),
    /// The idempotency key has added another turn. Nothing was written.
    Mismatch,
    /// The conversation has as many turns as it may have. Nothing was written.
    Full,
    /// There is no such conversation.
    NotFound,
}

impl AddTurnOutcome {
    /// The turn, where it is there.
    pub fn added(self) -> Option<AddedTurn> {
        match self {
            Self::Added(added) => Some(added),
            Self::Mismatch | Self::Full | Self::NotFound => None,
        }
    }
}

/// A conversation with open turns that nobody has attended to for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct UnattendedConversation {
    /// As it stands.
    pub snapshot: ConversationSnapshot,
    /// When somebody last created it, added a turn to it or attended to it, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A turn that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedTurn {
    /// The turn's number, also where the same request had added it before.
    pub turn: u32,
    /// Nothing is before it: it must be published now.
    pub ready: bool,
}

/// What came of claiming a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnClaim {
    /// It is the worker's to answer, until another worker claims it.
    Granted {
        /// The fencing token, which goes into every later call.
        epoch: u64,
        /// The conversation, this turn included.
        snapshot: Box<ConversationSnapshot>,
        /// What earlier workers wrote of this turn, in order.
        events: Vec<TurnEvent>,
    },
    /// It is over, or an earlier turn is not. If that leaves a turn ready, it must be published.
    NotRunnable {
        /// The turn to publish.
        next: Option<u32>,
    },
    /// There is no such turn.
    NotFound,
}

/// What came of appending events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// They are there.
    Done,
    /// They are there, but nobody wants more: end the turn as cancelled.
    Cancelled,
    /// Nothing was written: another worker has the turn, or it is over, or the conversation is gone.
    Fenced,
}

/// A conversation that nobody has touched for so long is forgotten, where it says nothing else
/// ([`Conversation::lifetime_seconds`]).
pub(crate) const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a conversation is kept after its last use.
pub(crate) fn lifetime(conversation: &Conversation) -> Duration {
    conversation
        .lifetime_seconds
        .map_or(LIFETIME, |seconds| Duration::from_secs(seconds.into()))
}

/// An event with its number.
pub type NumberedEvent = (u64, TurnEvent);

/// A subscription to the events of one turn. Dropping it ends the subscription.
#[async_trait]
pub trait TurnWatch: Send {
    /// Waits until something happened, and returns the next events in order, as far as the store sends them along. Some may
    /// be missing and some may come twice; read the rest with [`Conversations::events`]. Empty is a hint to look.
    /// Cancel-safe.
    async fn next_events(&mut self) -> Vec<NumberedEvent>;
}

/// Conversations, their turns, and the events of each turn. One conformance suite, in the tests crate, holds every
/// implementation to this contract. Every call may be repeated when its answer was lost.
///
/// A turn is *ready* when it is queued, the image is prepared (or there is none), and every earlier turn is final.
/// Whoever's call makes a turn ready publishes its [`radialog_schemas::ChatTask`]; publishing twice is harmless.
#[async_trait]
pub trait Conversations: Send + Sync + 'static {
    /// Creates a conversation with its first turns, queued, and a title where a person gave one, or compares: in one step, so
    /// that of several requests with one id exactly one creates it. The title is part of what is compared; one that is there
    /// keeps the title that it has been given since.
    async fn create_titled(
        &self,
        conversation: &Conversation,
        turns: &[TurnRequest],
        title: Option<&str>,
    ) -> Result<CreateOutcome, StateError>;

    /// As [`Conversations::create_titled`], without a title.
    async fn create(
        &self,
        conversation: &Conversation,
        turns: &[TurnRequest],
    ) -> Result<CreateOutcome, StateError> {
        self.create_titled(conversation, turns, None).await
    }

    /// Reads the conversation as it stands; none where there is no such conversation.
    async fn snapshot(
        &self,
        id: &ConversationId,
    ) -> Result<Option<ConversationSnapshot>, StateError>;

    /// Lists the owner's conversations, the latest first. Some may have ended meanwhile.
    async fn list(&self, owner: &str, limit: usize) -> Result<Vec<ConversationId>, StateError>;

    /// Adds a queued turn to a conversation that has less than `max_turns` of them. The same request with the same
    /// `idempotency` key gives the same turn again, also in a full conversation.
    async fn add_turn(
        &self,
        id: &ConversationId,
        request: &TurnRequest,
        idempotency: Option<&str>,
        max_turns: u32,
    ) -> Result<AddTurnOutcome, StateError>;

    /// Keeps the outputs of `image`, once: findings become the first event of turn 1, a failure fails all queued turns.
    /// Nothing happens where the conversation has another image. Returns the turn that is ready.
    async fn image_prepared(
        &self,
        id: &ConversationId,
        image: &ObjectKey,
        outcome: &Result<FindingsReport, Failure>,
    ) -> Result<Option<u32>, StateError>;

    /// Claims a turn for answering, with a new epoch: whoever had it before is fenced off. A turn that is being cancelled
    /// ends here.
    async fn claim_turn(&self, id: &ConversationId, turn: u32) -> Result<TurnClaim, StateError>;

    /// Appends events after number `after`, which must be the turn's last. Repeating a call whose events are already
    /// there is [`AppendOutcome::Done`]. [`TurnEvent::Started`] sets what was asked.
    async fn append(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        after: u64,
        events: &[TurnEvent],
    ) -> Result<AppendOutcome, StateError>;

    /// Ends a turn with its last event. Returns the turn that is ready now. Nothing happens where the epoch is over.
    async fn finish(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        outcome: &TurnOutcome,
    ) -> Result<Option<u32>, StateError>;

    /// Stops a turn: a queued one ends at once, a running one at its worker's next token, a final one stays. Returns the
    /// turn that is ready now; none also where there is no such turn.
    async fn cancel(&self, id: &ConversationId, turn: u32) -> Result<Option<u32>, StateError>;

    /// Keeps a person's version of an answer, or forgets it, and compares with the version that is there in the same step.
    /// [`ReplaceOutcome::Missing`] where there is no such turn or it is not final.
    async fn edit(
        &self,
        id: &ConversationId,
        turn: u32,
        text: Option<&str>,
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError>;

    /// Gives the conversation a title, and compares with the one that is there in the same step. [`ReplaceOutcome::Missing`]
    /// where there is no such conversation.
    async fn rename(
        &self,
        id: &ConversationId,
        title: &str,
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError>;

    /// Keeps what a person thinks of an answer, or forgets it. False where there is no such turn or it is not final.
    async fn rate(
        &self,
        id: &ConversationId,
        turn: u32,
        rating: Option<Rating>,
    ) -> Result<bool, StateError>;

    /// Reads up to `limit` events of a turn with numbers over `after`.
    async fn events(
        &self,
        id: &ConversationId,
        turn: u32,
        after: u64,
        limit: usize,
    ) -> Result<Vec<NumberedEvent>, StateError>;

    /// Subscribes to a turn. Whatever happens after this returns wakes the subscriber.
    async fn watch(&self, id: &ConversationId, turn: u32)
    -> Result<Box<dyn TurnWatch>, StateError>;

    /// Removes the conversation, also one that cannot be read; running turns are fenced off. False where there is no such
    /// conversation. Its objects are the caller's to delete, after this.
    async fn delete(&self, id: &ConversationId) -> Result<bool, StateError>;

    /// Says of each of these conversations whether it exists: is begun, not deleted, and used within its lifetime.
    async fn exist(&self, ids: &[ConversationId]) -> Result<Vec<bool>, StateError>;

    /// Reads what was written when these conversations began, in their order, and nothing of their turns; none where there is no
    /// such conversation. One that cannot be read hinders no other. This is no use of them.
    async fn beginnings(
        &self,
        ids: &[ConversationId],
    ) -> Result<Vec<Result<Option<Conversation>, Unreadable>>, StateError>;

    /// Lists the conversations of all owners that began before this time, in milliseconds since 1970, in no order. Some may
    /// have ended meanwhile.
    async fn begun_before(&self, time_ms: u64) -> Result<Vec<ConversationId>, StateError>;

    /// Takes conversations that have ended by themselves off the lists of their owners, and turns that wait no longer off the
    /// queue, which whoever was killed has left there; returns how many. Nobody else does: they would stay for ever.
    async fn forget_ended(&self) -> Result<u64, StateError>;

    /// Lists up to `limit` conversations with open turns that nobody has attended to for `idle`, the longest first. A
    /// conversation is on this list before its turns can be queued, so that none is forgotten.
    async fn unattended(
        &self,
        idle: Duration,
        limit: usize,
    ) -> Result<Vec<UnattendedConversation>, StateError>;

    /// Attends to an unattended conversation: it is not listed again for a while. False where somebody else has been faster.
    async fn attend(&self, unattended: &UnattendedConversation) -> Result<bool, StateError>;

    /// Counts the turns of all conversations that wait for a worker, but for lines of batches of requests.
    async fn waiting(&self) -> Result<u64, StateError>;

    /// Takes places in the queue for turns that are about to be added, in one step: however many requests come at a time,
    /// no more than the limits' places are taken. The turns take places of their own when they are added; release the
    /// reservation then. One that is not released counts for a minute.
    async fn reserve(
        &self,
        reservation: &Reservation,
        limits: QueueLimits,
    ) -> Result<ReserveOutcome, StateError>;

    /// Frees the places of a reservation. Does nothing where there is none.
    async fn release(&self, reservation: &Reservation) -> Result<(), StateError>;

    /// Counts the turns that were queued before this one for the same group of workers and still wait, those of all
    /// conversations; none where it does not wait.
    async fn position(&self, id: &ConversationId, turn: u32) -> Result<Option<u64>, StateError>;
}
