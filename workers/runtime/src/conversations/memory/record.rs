//! A conversation in memory, and its turns.

use std::collections::HashMap;
use std::time::Instant;

use radialog_schemas::{
    ContentHash, Conversation, Failure, FindingsReport, Rating, TurnEvent, TurnOutcome,
    TurnRequest, TurnStatus,
};
use tokio::sync::watch;

use crate::conversations::{AppendOutcome, ConversationSnapshot, TurnClaim, TurnSnapshot};

pub(super) struct ConversationRecord {
    pub(super) conversation: Conversation,
    pub(super) prepared: Option<Result<FindingsReport, Failure>>,
    pub(super) turns: Vec<TurnRecord>,
    pub(super) title: Option<String>,
    /// Of the request that created it.
    pub(super) fingerprint: ContentHash,
    /// Turns by the keys that added them, with the fingerprints of their requests.
    pub(super) idempotency: HashMap<String, (u32, ContentHash)>,
    /// When somebody last saw to its turns, in milliseconds since 1970.
    pub(super) attended_ms: u64,
    /// When somebody last did something with it.
    pub(super) used: Instant,
}

pub(super) struct TurnRecord {
    pub(super) request: TurnRequest,
    pub(super) status: TurnStatus,
    pub(super) cancelling: bool,
    pub(super) asked: Option<String>,
    pub(super) outcome: Option<TurnOutcome>,
    pub(super) edited: Option<String>,
    pub(super) rating: Option<Rating>,
    pub(super) epoch: u64,
    /// Position in the order of all queued turns.
    pub(super) queue_position: u64,
    pub(super) events: Vec<TurnEvent>,
    pub(super) changes: watch::Sender<()>,
}

impl ConversationRecord {
    pub(super) fn turn(&mut self, turn: u32) -> Option<&mut TurnRecord> {
        self.turns.get_mut((turn as usize).checked_sub(1)?)
    }

    pub(super) fn ready(&self) -> Option<u32> {
        let prepared = self.conversation.image.is_none() || matches!(self.prepared, Some(Ok(_)));
        let first = self.turns.iter().position(|turn| !turn.status.is_final())?;
        (prepared && self.turns[first].status == TurnStatus::Queued).then_some(first as u32 + 1)
    }

    pub(super) fn snapshot(&self) -> ConversationSnapshot {
        ConversationSnapshot {
            conversation: self.conversation.clone(),
            prepared: self.prepared.clone(),
            turns: self.turns.iter().map(TurnRecord::snapshot).collect(),
            title: self.title.clone(),
        }
    }

    pub(super) fn claim_turn(&mut self, number: u32) -> TurnClaim {
        let Some(turn) = self.turn(number) else {
            return TurnClaim::NotFound;
        };
        if turn.cancelling && !turn.status.is_final() {
            turn.end(TurnOutcome::Cancelled);
        }
        let ready = self.ready();
        let first = self.turns.iter().position(|turn| !turn.status.is_final());
        let is_running = first.is_some_and(|first| {
            first as u32 + 1 == number && self.turns[first].status == TurnStatus::Running
        });
        if ready != Some(number) && !is_running {
            return TurnClaim::NotRunnable { next: ready };
        }
        let Some(turn) = self.turn(number) else {
            return TurnClaim::NotFound;
        };
        turn.status = TurnStatus::Running;
        turn.epoch += 1;
        let (epoch, events) = (turn.epoch, turn.events.clone());
        TurnClaim::Granted {
            epoch,
            snapshot: Box::new(self.snapshot()),
            events,
        }
    }
}

impl TurnRecord {
    pub(super) fn snapshot(&self) -> TurnSnapshot {
        TurnSnapshot {
            request: self.request.clone(),
            status: self.status,
            cancelling: self.cancelling,
            asked: self.asked.clone(),
            outcome: self.outcome.clone(),
            edited: self.edited.clone(),
            rating: self.rating,
            events: self.events.len() as u64,
        }
    }

    pub(super) fn write(&mut self, event: TurnEvent) {
        if let TurnEvent::Started { asked } = &event {
            self.asked = Some(asked.clone());
        }
        self.events.push(event);
        self.changes.send_replace(());
    }

    pub(super) fn end(&mut self, outcome: TurnOutcome) {
        self.status = outcome.status();
        self.outcome = Some(outcome.clone());
        self.write(TurnEvent::Ended(outcome));
    }

    pub(super) fn append(&mut self, epoch: u64, after: u64, events: &[TurnEvent]) -> AppendOutcome {
        if self.epoch != epoch || self.status != TurnStatus::Running {
            return AppendOutcome::Fenced;
        }
        let last = self.events.len() as u64;
        if last == after {
            events.iter().cloned().for_each(|event| self.write(event));
        } else if last != after + events.len() as u64 {
            return AppendOutcome::Fenced;
        }
        if self.cancelling {
            AppendOutcome::Cancelled
        } else {
            AppendOutcome::Done
        }
    }
}
