//! Conversations of the embedded mode; they end with the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use radialog_schemas::{
    ChatImage, Conversation, ConversationId, Failure, FindingsReport, ObjectKey, TurnEvent,
    TurnOutcome, TurnRequest, TurnStatus,
};
use tokio::sync::watch;

use super::{
    AddedTurn, AppendOutcome, ConversationSnapshot, Conversations, DeletedConversation,
    LONGEST_REMOVAL, NumberedEvent, TurnClaim, TurnSnapshot, TurnWatch,
};
use crate::state::StateError;

/// Conversations in this process's memory.
#[derive(Default)]
pub struct MemoryConversations {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    records: BTreeMap<ConversationId, ConversationRecord>,
    /// Images of conversations.
    images: HashMap<ObjectKey, ImageUsers>,
    /// Number of turns that were ever queued.
    queued: u64,
}

/// The conversations that an image belongs to.
#[derive(Default)]
struct ImageUsers {
    conversations: HashSet<ConversationId>,
    /// The image was stored before any of them claimed it.
    stored_before: bool,
    /// The time at which its removal began, where it is being removed.
    removing: Option<Instant>,
}

struct ConversationRecord {
    conversation: Conversation,
    prepared: Option<Result<FindingsReport, Failure>>,
    turns: Vec<TurnRecord>,
    idempotency: HashMap<String, u32>,
}

struct TurnRecord {
    request: TurnRequest,
    status: TurnStatus,
    cancelling: bool,
    asked: Option<String>,
    outcome: Option<TurnOutcome>,
    edited: Option<String>,
    epoch: u64,
    /// Position in the order of all queued turns.
    queue_position: u64,
    events: Vec<TurnEvent>,
    changes: watch::Sender<()>,
}

impl MemoryConversations {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on a conversation; none where there is no such conversation.
    fn with<T>(
        &self,
        id: &ConversationId,
        change: impl FnOnce(&mut ConversationRecord) -> T,
    ) -> Option<T> {
        self.lock().records.get_mut(id).map(change)
    }
}

impl Inner {
    fn turn(&mut self, request: &TurnRequest) -> TurnRecord {
        self.queued += 1;
        TurnRecord {
            request: request.clone(),
            status: TurnStatus::Queued,
            cancelling: false,
            asked: None,
            outcome: None,
            edited: None,
            epoch: 0,
            queue_position: self.queued,
            events: Vec::new(),
            changes: watch::Sender::default(),
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &TurnRecord> {
        self.records
            .values()
            .flat_map(|record| &record.turns)
            .filter(|turn| turn.status == TurnStatus::Queued)
    }
}

impl ConversationRecord {
    fn turn(&mut self, turn: u32) -> Option<&mut TurnRecord> {
        self.turns.get_mut((turn as usize).checked_sub(1)?)
    }

    fn ready(&self) -> Option<u32> {
        let prepared = self.conversation.image.is_none() || matches!(self.prepared, Some(Ok(_)));
        let first = self.turns.iter().position(|turn| !turn.status.is_final())?;
        (prepared && self.turns[first].status == TurnStatus::Queued).then_some(first as u32 + 1)
    }

    fn snapshot(&self) -> ConversationSnapshot {
        ConversationSnapshot {
            conversation: self.conversation.clone(),
            prepared: self.prepared.clone(),
            turns: self.turns.iter().map(TurnRecord::snapshot).collect(),
        }
    }

    fn claim_turn(&mut self, number: u32) -> TurnClaim {
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
    fn snapshot(&self) -> TurnSnapshot {
        TurnSnapshot {
            request: self.request.clone(),
            status: self.status,
            cancelling: self.cancelling,
            asked: self.asked.clone(),
            outcome: self.outcome.clone(),
            edited: self.edited.clone(),
            events: self.events.len() as u64,
        }
    }

    fn write(&mut self, event: TurnEvent) {
        if let TurnEvent::Started { asked } = &event {
            self.asked = Some(asked.clone());
        }
        self.events.push(event);
        self.changes.send_replace(());
    }

    fn end(&mut self, outcome: TurnOutcome) {
        self.status = outcome.status();
        self.outcome = Some(outcome.clone());
        self.write(TurnEvent::Ended(outcome));
    }

    fn append(&mut self, epoch: u64, after: u64, events: &[TurnEvent]) -> AppendOutcome {
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

#[async_trait]
impl Conversations for MemoryConversations {
    async fn claim_image(
        &self,
        id: &ConversationId,
        image: &ObjectKey,
        stored: bool,
    ) -> Result<bool, StateError> {
        let mut inner = self.lock();
        let users = inner.images.entry(image.clone()).or_default();
        if users
            .removing
            .is_some_and(|since| since.elapsed() < LONGEST_REMOVAL)
        {
            return Ok(false);
        }
        users.stored_before |= stored && users.conversations.is_empty();
        users.removing = None;
        users.conversations.insert(id.clone());
        Ok(true)
    }

    async fn image_removed(&self, image: &ObjectKey) -> Result<(), StateError> {
        let mut inner = self.lock();
        if inner
            .images
            .get(image)
            .is_some_and(|users| users.removing.is_some())
        {
            inner.images.remove(image);
        }
        Ok(())
    }

    async fn create(
        &self,
        conversation: &Conversation,
        turns: &[TurnRequest],
    ) -> Result<Option<u32>, StateError> {
        let mut inner = self.lock();
        if !inner.records.contains_key(&conversation.id) {
            let turns = turns.iter().map(|turn| inner.turn(turn)).collect();
            let (conversation, idempotency) = (conversation.clone(), HashMap::new());
            let record = ConversationRecord {
                conversation,
                prepared: None,
                turns,
                idempotency,
            };
            inner.records.insert(record.conversation.id.clone(), record);
        }
        Ok(inner
            .records
            .get(&conversation.id)
            .and_then(ConversationRecord::ready))
    }

    async fn snapshot(
        &self,
        id: &ConversationId,
    ) -> Result<Option<ConversationSnapshot>, StateError> {
        Ok(self.with(id, |record| record.snapshot()))
    }

    async fn list(&self, owner: &str, limit: usize) -> Result<Vec<ConversationId>, StateError> {
        let inner = self.lock();
        let mut owned: Vec<&Conversation> = inner
            .records
            .values()
            .map(|record| &record.conversation)
            .filter(|c| c.owner == owner)
            .collect();
        owned.sort_by_key(|conversation| std::cmp::Reverse(conversation.created_ms));
        Ok(owned
            .into_iter()
            .take(limit)
            .map(|conversation| conversation.id.clone())
            .collect())
    }

    async fn add_turn(
        &self,
        id: &ConversationId,
        request: &TurnRequest,
        idempotency: Option<&str>,
    ) -> Result<Option<AddedTurn>, StateError> {
        let mut inner = self.lock();
        let new = inner.turn(request);
        let Some(record) = inner.records.get_mut(id) else {
            return Ok(None);
        };
        let known = idempotency
            .and_then(|key| record.idempotency.get(key))
            .copied();
        let turn = known.unwrap_or_else(|| {
            record.turns.push(new);
            record.turns.len() as u32
        });
        if let Some(key) = idempotency {
            record.idempotency.insert(key.to_owned(), turn);
        }
        if let (None, Some(Err(failure))) = (known, record.prepared.clone())
            && let Some(added) = record.turn(turn)
        {
            added.end(TurnOutcome::Failed(failure));
        }
        Ok(Some(AddedTurn {
            turn,
            ready: record.ready() == Some(turn),
        }))
    }

    async fn image_prepared(
        &self,
        id: &ConversationId,
        outcome: &Result<FindingsReport, Failure>,
    ) -> Result<Option<u32>, StateError> {
        let prepare = |record: &mut ConversationRecord| {
            if record.prepared.is_none() {
                record.prepared = Some(outcome.clone());
                match outcome {
                    Ok(findings) => {
                        if let Some(first) = record
                            .turns
                            .first_mut()
                            .filter(|turn| !turn.status.is_final())
                        {
                            first.write(TurnEvent::Findings(findings.clone()));
                        }
                    }
                    Err(failure) => record
                        .turns
                        .iter_mut()
                        .filter(|turn| !turn.status.is_final())
                        .for_each(|turn| turn.end(TurnOutcome::Failed(failure.clone()))),
                }
            }
            record.ready()
        };
        Ok(self.with(id, prepare).flatten())
    }

    async fn claim_turn(&self, id: &ConversationId, turn: u32) -> Result<TurnClaim, StateError> {
        Ok(self
            .with(id, |record| record.claim_turn(turn))
            .unwrap_or(TurnClaim::NotFound))
    }

    async fn append(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        after: u64,
        events: &[TurnEvent],
    ) -> Result<AppendOutcome, StateError> {
        let append =
            |record: &mut ConversationRecord| Some(record.turn(turn)?.append(epoch, after, events));
        Ok(self
            .with(id, append)
            .flatten()
            .unwrap_or(AppendOutcome::Fenced))
    }

    async fn finish(
        &self,
        id: &ConversationId,
        turn: u32,
        epoch: u64,
        outcome: &TurnOutcome,
    ) -> Result<Option<u32>, StateError> {
        let finish = |record: &mut ConversationRecord| {
            let current = record.turn(turn)?;
            if current.epoch == epoch && current.status == TurnStatus::Running {
                current.end(outcome.clone());
            }
            record.ready()
        };
        Ok(self.with(id, finish).flatten())
    }

    async fn cancel(&self, id: &ConversationId, turn: u32) -> Result<Option<u32>, StateError> {
        let cancel = |record: &mut ConversationRecord| {
            let current = record.turn(turn)?;
            match current.status {
                TurnStatus::Queued => current.end(TurnOutcome::Cancelled),
                TurnStatus::Running => current.cancelling = true,
                _ => {}
            }
            record.ready()
        };
        Ok(self.with(id, cancel).flatten())
    }

    async fn edit(
        &self,
        id: &ConversationId,
        turn: u32,
        text: Option<&str>,
    ) -> Result<bool, StateError> {
        let edit = |record: &mut ConversationRecord| {
            let current = record.turn(turn).filter(|turn| turn.status.is_final());
            current
                .map(|turn| turn.edited = text.map(str::to_owned))
                .is_some()
        };
        Ok(self.with(id, edit).unwrap_or(false))
    }

    async fn events(
        &self,
        id: &ConversationId,
        turn: u32,
        after: u64,
        limit: usize,
    ) -> Result<Vec<NumberedEvent>, StateError> {
        let read = |record: &mut ConversationRecord| {
            let events = &record.turn(turn)?.events;
            let skipped = usize::try_from(after).unwrap_or(usize::MAX);
            let numbered = (after + 1..).zip(events.iter().skip(skipped).take(limit).cloned());
            Some(numbered.collect())
        };
        Ok(self.with(id, read).flatten().unwrap_or_default())
    }

    async fn watch(
        &self,
        id: &ConversationId,
        turn: u32,
    ) -> Result<Box<dyn TurnWatch>, StateError> {
        let subscribe = |record: &mut ConversationRecord| {
            record.turn(turn).map(|turn| turn.changes.subscribe())
        };
        Ok(Box::new(MemoryWatch(self.with(id, subscribe).flatten())))
    }

    async fn delete(&self, id: &ConversationId) -> Result<Option<DeletedConversation>, StateError> {
        let mut inner = self.lock();
        let Some(ConversationRecord { conversation, .. }) = inner.records.remove(id) else {
            return Ok(None);
        };
        let Some(ChatImage { image, .. }) = &conversation.image else {
            return Ok(Some(DeletedConversation {
                conversation,
                image_stays: false,
            }));
        };
        let users = inner.images.entry(image.clone()).or_default();
        users.conversations.remove(id);
        let stays = users.stored_before || !users.conversations.is_empty();
        if !stays {
            users.removing = Some(Instant::now());
        } else if users.conversations.is_empty() {
            inner.images.remove(image);
        }
        Ok(Some(DeletedConversation {
            conversation,
            image_stays: stays,
        }))
    }

    async fn waiting(&self) -> Result<u64, StateError> {
        Ok(self.lock().waiting().count() as u64)
    }

    async fn position(&self, id: &ConversationId, turn: u32) -> Result<Option<u64>, StateError> {
        let mut inner = self.lock();
        let queue_position = inner
            .records
            .get_mut(id)
            .and_then(|record| record.turn(turn))
            .map(|turn| (turn.status, turn.queue_position));
        let Some((TurnStatus::Queued, queue_position)) = queue_position else {
            return Ok(None);
        };
        Ok(Some(
            inner
                .waiting()
                .filter(|other| other.queue_position < queue_position)
                .count() as u64,
        ))
    }
}

/// A subscription to a turn; none once the turn is gone.
struct MemoryWatch(Option<watch::Receiver<()>>);

#[async_trait]
impl TurnWatch for MemoryWatch {
    async fn next_events(&mut self) -> Vec<NumberedEvent> {
        let Some(changes) = &mut self.0 else {
            return std::future::pending().await;
        };
        if changes.changed().await.is_err() {
            // Said once, so that the reader looks and finds nothing.
            self.0 = None;
        }
        Vec::new()
    }
}
