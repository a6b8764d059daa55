//! How many turns may wait for a worker: of all conversations, and of one key's.

use std::time::Duration;

/// A reservation that is not released counts for so long.
pub(crate) const LONGEST_RESERVATION: Duration = Duration::from_secs(60);

/// Places in the queue for turns that are about to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// A name that no other reservation has.
    pub name: String,
    /// The owner of the conversation that the turns are added to.
    pub owner: String,
    /// Number of the turns.
    pub turns: u32,
}

/// Most turns that may wait, those included that have only a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Of all conversations.
    pub all: u64,
    /// Of the conversations of one key.
    pub per_key: u64,
}

/// What came of asking for places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// They are held until [`super::Conversations::release`].
    Reserved,
    /// So many turns of all conversations wait already.
    Full(u64),
    /// So many turns of this key's conversations wait already.
    KeyFull(u64),
}

impl QueueLimits {
    /// Says whether so many more turns may wait where `all` and, of the same key, `of_key` wait already. Where nothing
    /// waits, any number may, so that no conversation is too large for every queue.
    pub(crate) fn admit(&self, turns: u32, all: u64, of_key: u64) -> ReserveOutcome {
        let is_over = |waiting: u64, limit: u64| waiting > 0 && waiting + u64::from(turns) > limit;
        if is_over(all, self.all) {
            ReserveOutcome::Full(all)
        } else if is_over(of_key, self.per_key) {
            ReserveOutcome::KeyFull(of_key)
        } else {
            ReserveOutcome::Reserved
        }
    }
}

/// The key that an owner is: its first word. Completions have owners of their own, which share their key's places.
pub(crate) fn key_of(owner: &str) -> &str {
    owner.split(' ').next().unwrap_or(owner)
}
