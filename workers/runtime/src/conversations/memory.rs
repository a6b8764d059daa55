//! Conversations of the embedded mode; they end with the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use radialog_schemas::{
    Conversation, ConversationId, Failure, FindingsReport, ObjectKey, Rating, TurnEvent,
    TurnOutcome, TurnRequest, TurnStatus,
};
use record::{ConversationRecord, TurnRecord};
use tokio::sync::watch;

use super::queue_limits::{LONGEST_RESERVATION, QueueLimits, Reservation, ReserveOutcome, key_of};
use super::{
    AddTurnOutcome, AddedTurn, AppendOutcome, ConversationSnapshot, Conversations, CreateOutcome,
    NumberedEvent, ReplaceOutcome, Replaces, TurnClaim, TurnWatch, UnattendedConversation,
    Unreadable, fingerprint, lifetime, now_ms,
};
use crate::state::StateError;

mod record;

/// How often expired conversations are looked for.
const EXPIRY_EVERY: Duration = Duration::from_secs(1);

/// Conversations in this process's memory.
#[derive(Default)]
pub struct MemoryConversations {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    records: BTreeMap<ConversationId, ConversationRecord>,
    /// Number of turns that were ever queued.
    queued: u64,
    /// Places for turns that are about to be added, and when they were taken.
    reserved: HashMap<String, (Reservation, Instant)>,
    /// When expired conversations were last looked for.
    looked: Option<Instant>,
}

impl MemoryConversations {
    /// All conversations that are within their lifetime; the others end here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.end_expired();
        inner
    }

    /// Runs `change` on a conversation; none where there is no such conversation.
    fn with<T>(
        &self,
        id: &ConversationId,
        change: impl FnOnce(&mut ConversationRecord) -> T,
    ) -> Option<T> {
        let mut inner = self.lock();
        let record = inner.records.get_mut(id)?;
        record.used = Instant::now();
        Some(change(record))
    }
}

impl Inner {
    /// Looks at most once a second, so that many conversations cost a call nothing.
    fn end_expired(&mut self) {
        let now = Instant::now();
        if self
            .looked
            .is_some_and(|looked| now - looked < EXPIRY_EVERY)
        {
            return;
        }
        self.looked = Some(now);
        self.records
            .retain(|_, record| now - record.used < lifetime(&record.conversation));
    }

    fn turn(&mut self, request: &TurnRequest) -> TurnRecord {
        self.queued += 1;
        TurnRecord {
            request: request.clone(),
            status: TurnStatus::Queued,
            cancelling: false,
            asked: None,
            outcome: None,
            edited: None,
            rating: None,
            epoch: 0,
            queue_position: self.queued,
            events: Vec::new(),
            changes: watch::Sender::default(),
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &TurnRecord> {
        self.waiting_of(|_| true)
    }

    /// Turns that wait in these conversations, and that somebody waits for.
    fn waiting_of(
        &self,
        is_one: impl Fn(&Conversation) -> bool,
    ) -> impl Iterator<Item = &TurnRecord> {
        self.records
            .values()
            .filter(move |record| !record.conversation.of_batch && is_one(&record.conversation))
            .flat_map(|record| &record.turns)
            .filter(|turn| turn.status == TurnStatus::Queued)
    }

    /// Places in the queue that these owners have taken.
    fn taken(&self, is_theirs: impl Fn(&str) -> bool) -> u64 {
        let reserved = self.reserved.values().map(|(reservation, _)| reservation);
        let reserved: u64 = reserved
            .filter(|reservation| is_theirs(&reservation.owner))
            .map(|reservation| u64::from(reservation.turns))
            .sum();
        let waiting = self.waiting_of(|conversation| is_theirs(&conversation.owner));
        reserved + waiting.count() as u64
    }
}

#[async_trait]
impl Conversations for MemoryConversations {
    async fn create_titled(
        &self,
        conversation: &Conversation,
        turns: &[TurnRequest],
        title: Option<&str>,
    ) -> Result<CreateOutcome, StateError> {
        let fingerprint = fingerprint::of_conversation(conversation, turns, title);
        let mut inner = self.lock();
        if let Some(known) = inner.records.get(&conversation.id) {
            let ready = known.ready();
            return Ok(match known.fingerprint == fingerprint {
                true => CreateOutcome::Existing { ready },
                false => CreateOutcome::Mismatch,
            });
        }
        let record = ConversationRecord {
            conversation: conversation.clone(),
            prepared: None,
            turns: turns.iter().map(|turn| inner.turn(turn)).collect(),
            fingerprint,
            title: title.map(str::to_owned),
            idempotency: HashMap::new(),
            attended_ms: now_ms(),
            used: Instant::now(),
        };
        let ready = record.ready();
        inner.records.insert(conversation.id.clone(), record);
        Ok(CreateOutcome::Created { ready })
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
        max_turns: u32,
    ) -> Result<AddTurnOutcome, StateError> {
        let fingerprint = fingerprint::of_turn(request);
        let mut inner = self.lock();
        let new = inner.turn(request);
        let Some(record) = inner.records.get_mut(id) else {
            return Ok(AddTurnOutcome::NotFound);
        };
        let added = |record: &ConversationRecord, turn: u32| {
            AddTurnOutcome::Added(AddedTurn {
                turn,
                ready: record.ready() == Some(turn),
            })
        };
        if let Some((turn, known)) = idempotency.and_then(|key| record.idempotency.get(key)) {
            return Ok(match *known == fingerprint {
                true => added(record, *turn),
                false => AddTurnOutcome::Mismatch,
            });
        }
        if record.turns.len() >= max_turns as usize {
            return Ok(AddTurnOutcome::Full);
        }
        record.turns.push(new);
        record.used = Instant::now();
        record.attended_ms = now_ms();
        let turn = record.turns.len() as u32;
        if let Some(key) = idempotency {
            record
                .idempotency
                .insert(key.to_owned(), (turn, fingerprint));
        }
        if let (Some(Err(failure)), Some(new)) = (record.prepared.clone(), record.turns.last_mut())
        {
            new.end(TurnOutcome::Failed(failure));
        }
        Ok(added(record, turn))
    }

    async fn image_prepared(
        &self,
        id: &ConversationId,
        image: &ObjectKey,
        outcome: &Result<FindingsReport, Failure>,
    ) -> Result<Option<u32>, StateError> {
        let prepare = |record: &mut ConversationRecord| {
            let own = record.conversation.image.as_ref();
            if own.is_none_or(|own| own.image != *image) {
                return None;
            }
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
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError> {
        let edit = |record: &mut ConversationRecord| {
            let current = record.turn(turn).filter(|turn| turn.status.is_final());
            current.map(|turn| replace(&mut turn.edited, text, replaces))
        };
        let edited = self.with(id, edit).flatten();
        Ok(edited.unwrap_or(ReplaceOutcome::Missing))
    }

    async fn rename(
        &self,
        id: &ConversationId,
        title: &str,
        replaces: Replaces<'_>,
    ) -> Result<ReplaceOutcome, StateError> {
        let rename =
            |record: &mut ConversationRecord| replace(&mut record.title, Some(title), replaces);
        let renamed = self.with(id, rename);
        Ok(renamed.unwrap_or(ReplaceOutcome::Missing))
    }

    async fn rate(
        &self,
        id: &ConversationId,
        turn: u32,
        rating: Option<Rating>,
    ) -> Result<bool, StateError> {
        let rate = |record: &mut ConversationRecord| {
            let current = record.turn(turn).filter(|turn| turn.status.is_final());
            current.map(|turn| turn.rating = rating).is_some()
        };
        Ok(self.with(id, rate).unwrap_or(false))
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

    async fn delete(&self, id: &ConversationId) -> Result<bool, StateError> {
        Ok(self.lock().records.remove(id).is_some())
    }

    async fn exist(&self, ids: &[ConversationId]) -> Result<Vec<bool>, StateError> {
        let inner = self.lock();
        Ok(ids
            .iter()
            .map(|id| inner.records.contains_key(id))
            .collect())
    }

    async fn beginnings(
        &self,
        ids: &[ConversationId],
    ) -> Result<Vec<Result<Option<Conversation>, Unreadable>>, StateError> {
        let inner = self.lock();
        let begun = |id| {
            inner
                .records
                .get(id)
                .map(|record| record.conversation.clone())
        };
        Ok(ids.iter().map(begun).map(Ok).collect())
    }

    async fn begun_before(&self, time_ms: u64) -> Result<Vec<ConversationId>, StateError> {
        let inner = self.lock();
        let conversations = inner.records.values().map(|record| &record.conversation);
        Ok(conversations
            .filter(|conversation| conversation.created_ms < time_ms)
            .map(|conversation| conversation.id.clone())
            .collect())
    }

    async fn forget_ended(&self) -> Result<u64, StateError> {
        // What has ended is not listed here.
        Ok(0)
    }

    async fn unattended(
        &self,
        idle: Duration,
        limit: usize,
    ) -> Result<Vec<UnattendedConversation>, StateError> {
        let before = now_ms().saturating_sub(idle.as_millis() as u64);
        let inner = self.lock();
        let mut unattended: Vec<&ConversationRecord> = inner
            .records
            .values()
            .filter(|record| record.attended_ms <= before)
            .filter(|record| record.turns.iter().any(|turn| !turn.status.is_final()))
            .collect();
        unattended.sort_by_key(|record| record.attended_ms);
        let list = |record: &ConversationRecord| UnattendedConversation {
            snapshot: record.snapshot(),
            since_ms: record.attended_ms,
        };
        Ok(unattended.into_iter().take(limit).map(list).collect())
    }

    async fn attend(&self, unattended: &UnattendedConversation) -> Result<bool, StateError> {
        let UnattendedConversation { snapshot, since_ms } = unattended;
        let attend = |record: &mut ConversationRecord| {
            let is_first = record.attended_ms == *since_ms;
            if is_first {
                // Later in any case, so that nobody else's look from before is still good.
                record.attended_ms = now_ms().max(since_ms + 1);
            }
            is_first
        };
        Ok(self
            .with(&snapshot.conversation.id, attend)
            .unwrap_or(false))
    }

    async fn waiting(&self) -> Result<u64, StateError> {
        Ok(self.lock().waiting().count() as u64)
    }

    async fn reserve(
        &self,
        reservation: &Reservation,
        limits: QueueLimits,
    ) -> Result<ReserveOutcome, StateError> {
        let mut inner = self.lock();
        inner
            .reserved
            .retain(|_, (_, since)| since.elapsed() < LONGEST_RESERVATION);
        if inner.reserved.contains_key(&reservation.name) {
            return Ok(ReserveOutcome::Reserved);
        }
        let key = key_of(&reservation.owner);
        let outcome = limits.admit(
            reservation.turns,
            inner.taken(|_| true),
            inner.taken(|owner| key_of(owner) == key),
        );
        if outcome == ReserveOutcome::Reserved {
            let entry = (reservation.clone(), Instant::now());
            inner.reserved.insert(reservation.name.clone(), entry);
        }
        Ok(outcome)
    }

    async fn release(&self, reservation: &Reservation) -> Result<(), StateError> {
        self.lock().reserved.remove(&reservation.name);
        Ok(())
    }

    async fn position(&self, id: &ConversationId, turn: u32) -> Result<Option<u64>, StateError> {
        let mut inner = self.lock();
        let waits = |record: &&mut ConversationRecord| !record.conversation.of_batch;
        let found = inner.records.get_mut(id).filter(waits).and_then(|record| {
            let group = record.conversation.group.clone();
            let turn = record.turn(turn)?;
            Some((turn.status, turn.queue_position, group))
        });
        let Some((TurnStatus::Queued, queue_position, group)) = found else {
            return Ok(None);
        };
        let of_group = inner.waiting_of(|conversation| conversation.group == group);
        let before = of_group.filter(|other| other.queue_position < queue_position);
        Ok(Some(before.count() as u64))
    }
}

/// Puts what is wanted in the place of what may be replaced.
fn replace(
    there: &mut Option<String>,
    wanted: Option<&str>,
    replaces: Replaces<'_>,
) -> ReplaceOutcome {
    if !replaces.allows(there.as_deref(), wanted) {
        return ReplaceOutcome::Other;
    }
    *there = wanted.map(str::to_owned);
    ReplaceOutcome::Replaced
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
