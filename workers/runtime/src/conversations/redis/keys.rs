//! Redis keys of conversations, built here and nowhere else. The conversation stands in braces: in a Redis Cluster all
//! its keys lie together, as the scripts need them.

use radialog_schemas::ConversationId;

/// Sorted set of the turns that wait for a worker, by the time they were queued.
pub(super) const WAITING: &str = "radialog:chat:waiting";

/// Sorted set of the conversations that may have open turns, by the time when somebody last saw to them, in milliseconds.
/// A conversation is in it before its turns are queued.
pub(super) const OPEN: &str = "radialog:chat:open";

/// Hash of a conversation. The scripts derive the keys of its turns from it.
pub(super) fn conversation(id: &ConversationId) -> String {
    format!("radialog:chat:{{{id}}}")
}

/// Stream of a turn's events.
pub(super) fn events(id: &ConversationId, turn: u32) -> String {
    format!("{}:events:{turn}", conversation(id))
}

/// Channel on which a turn's events are announced.
pub(super) fn news(id: &ConversationId, turn: u32) -> String {
    format!("{}:news:{turn}", conversation(id))
}

/// Field of a conversation's hash: the status of a turn.
pub(super) fn status(turn: u32) -> String {
    format!("{turn}:status")
}

/// Field of a conversation's hash: the turn that an idempotency key has added.
pub(super) fn idempotency(key: &str) -> String {
    format!("key:{key}")
}

/// The same for one call without a key, so that the call can be repeated.
pub(super) fn once(nonce: &str) -> String {
    format!("once:{nonce}")
}

/// A member of [`WAITING`].
pub(super) fn waiting(id: &ConversationId, turn: u32) -> String {
    format!("{id}:{turn}")
}

/// Sorted set of an owner's conversations, by their beginning.
pub(super) fn owner(owner: &str) -> String {
    format!("radialog:chat:owner:{owner}")
}
