//! Backends with injected faults: unreachable, responses lost, messages lost or published twice, state lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_runtime::backends::Backends;
use radialog_runtime::objects::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use radialog_runtime::queue::{Consumer, Delivery, Message, Queue, QueueError};
use radialog_runtime::state::memory::MemoryState;
use radialog_runtime::state::{Fact, Facts, State, StateError};
use radialog_schemas::{ContentHash, ObjectKey, QueueGroup, RunId, StudyId};

use crate::stepping::Gate;

/// How a store denies an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A policy refuses it.
    Refused,
    /// There is no room; it can be read.
    Full,
    /// The store is in trouble.
    Failing,
    /// Writes are done, and no answer comes: neither to them nor to anything else.
    Silent,
}

/// Makes what is written of what was to be written.
type Amendment = Box<dyn Fn(&ObjectKey, Bytes) -> Bytes + Send + Sync>;

/// Switches faults on and off in the backends that it wraps.
#[derive(Default)]
pub struct FaultInjector {
    unreachable: AtomicBool,
    duplicates: AtomicBool,
    loses_state_responses: AtomicBool,
    ignores_conditions: AtomicBool,
    ignores_versions: AtomicBool,
    refuses_conditions: AtomicBool,
    /// What the store refuses or has no room for, by prefix.
    denied: RwLock<Vec<(String, Denial)>>,
    loses_store_answers: AtomicBool,
    /// By how many seconds the store's clock is behind.
    behind: AtomicU64,
    messages_to_lose: AtomicU64,
    refused: AtomicU64,
    denials_met: AtomicU64,
    calls: AtomicU64,
    /// Where reads of whole objects and writes of files wait while they are held.
    transfers: Gate,
    /// Where each call of the store waits, where somebody steps through them.
    gate: OnceLock<Arc<Gate>>,
    /// The same for calls of the state.
    state_gate: OnceLock<Arc<Gate>>,
    amendment: OnceLock<Amendment>,
    state: RwLock<Arc<MemoryState>>,
}

impl FaultInjector {
    /// Queue and objects of these backends, and a state of its own, with the faults of this injector.
    pub fn over(self: &Arc<Self>, backends: &Backends) -> Backends {
        Backends {
            queue: Arc::new(FaultyQueue {
                faults: self.clone(),
                inner: backends.queue.clone(),
            }),
            objects: Arc::new(FaultyObjects {
                faults: self.clone(),
                inner: backends.objects.clone(),
            }),
            state: Arc::new(FaultyState {
                faults: self.clone(),
            }),
            conversations: backends.conversations.clone(),
        }
    }

    /// Makes queue, objects and state unreachable, or reachable again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::Relaxed);
    }

    /// Publishes every message twice from now on.
    pub fn duplicate_messages(&self) {
        self.duplicates.store(true, Ordering::Relaxed);
    }

    /// Confirms the next messages, and loses them.
    pub fn lose_messages(&self, count: u64) {
        self.messages_to_lose.store(count, Ordering::Relaxed);
    }

    /// Makes every third call to the state work and its caller hear that it failed, as when a response is lost.
    pub fn lose_state_responses(&self) {
        self.loses_state_responses.store(true, Ordering::Relaxed);
    }

    /// Writes to the object store whatever is expected there, as a store does that does not know conditional writes.
    pub fn ignore_conditions(&self) {
        self.ignores_conditions.store(true, Ordering::Relaxed);
    }

    /// Writes whatever version is expected, and not where nothing is expected and something is.
    pub fn ignore_versions(&self) {
        self.ignores_versions.store(true, Ordering::Relaxed);
    }

    /// Refuses all conditional writes as unknown.
    pub fn refuse_conditions(&self) {
        self.refuses_conditions.store(true, Ordering::Relaxed);
    }

    /// Denies reads of objects and writes below this prefix.
    pub fn deny(&self, prefix: &str, denial: Denial) {
        self.denials().push((prefix.to_owned(), denial));
    }

    /// Denies nothing any more.
    pub fn allow_all(&self) {
        self.denials().clear();
    }

    /// Returns how many calls were denied.
    pub fn denials_met(&self) -> u64 {
        self.denials_met.load(Ordering::Relaxed)
    }

    fn denials(&self) -> RwLockWriteGuard<'_, Vec<(String, Denial)>> {
        self.denied.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self, key: &str) -> Option<Denial> {
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        let denial = denied
            .iter()
            .find(|(place, _)| match place.strip_prefix('*') {
                Some(part) => key.contains(part),
                None => key.starts_with(place),
            });
        denial.map(|(_, denial)| *denial)
    }

    /// Makes every second conditional write work and its caller hear that it failed.
    pub fn lose_store_answers(&self) {
        self.loses_store_answers.store(true, Ordering::Relaxed);
    }

    /// Sets how far the store's clock is behind this machine's.
    pub fn set_store_behind(&self, time: Duration) {
        self.behind.store(time.as_secs(), Ordering::Relaxed);
    }

    /// Lets this many more reads of whole objects and writes of files pass, and keeps the others waiting.
    pub fn hold_transfers_after(&self, passes: u64) {
        self.transfers.hold_after(passes);
    }

    /// Lets the transfers that wait go on.
    pub fn release_transfers(&self) {
        self.transfers.open();
    }

    /// Has every call of the store pass this gate.
    pub fn step(&self, gate: &Arc<Gate>) {
        drop(self.gate.set(gate.clone()));
    }

    /// Has every call of the state pass this gate.
    pub fn step_state(&self, gate: &Arc<Gate>) {
        drop(self.state_gate.set(gate.clone()));
    }

    /// Works over this state, as others do.
    pub fn share_state(&self, state: &Arc<MemoryState>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state.clone();
    }

    /// Has every conditional write changed, or only seen, before it is done.
    pub fn amend_writes(&self, amend: impl Fn(&ObjectKey, Bytes) -> Bytes + Send + Sync + 'static) {
        drop(self.amendment.set(Box::new(amend)));
    }

    /// Waits until this many transfers have come to the store since it holds them, those included that may pass.
    pub async fn until_transfers(&self, count: u64) {
        self.transfers.until_arrived(count).await;
    }

    /// Empties the state, as a restart without persistence does.
    pub fn lose_state(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// Returns how many calls were refused as unreachable.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the call that asks is refused, which is counted.
    fn refuses(&self) -> bool {
        let unreachable = self.unreachable.load(Ordering::Relaxed);
        if unreachable {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        unreachable
    }

    fn state(&self) -> Result<Arc<MemoryState>, StateError> {
        match self.refuses() {
            true => Err(StateError("down".into())),
            false => Ok(self
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()),
        }
    }

    fn answer<T>(&self, answer: T) -> Result<T, StateError> {
        let lost = self.loses_state_responses.load(Ordering::Relaxed)
            && self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        match lost {
            true => Err(StateError("the connection broke".into())),
            false => Ok(answer),
        }
    }
}

struct FaultyQueue {
    faults: Arc<FaultInjector>,
    inner: Arc<dyn Queue>,
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn declare(&self) -> Result<(), QueueError> {
        self.inner.declare().await
    }

    async fn declare_group(&self, group: &QueueGroup) -> Result<(), QueueError> {
        self.inner.declare_group(group).await
    }

    async fn publish(&self, queue: &str, message: Message) -> Result<(), QueueError> {
        if self.faults.refuses() {
            return Err(QueueError::Unreachable("down".into()));
        }
        let left = &self.faults.messages_to_lose;
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            return Ok(());
        }
        if self.faults.duplicates.load(Ordering::Relaxed) {
            self.inner.publish(queue, message.clone()).await?;
        }
        self.inner.publish(queue, message).await
    }

    async fn consume(&self, queue: &str, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        self.inner.consume(queue, prefetch).await
    }

    async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError> {
        self.inner.take(queue).await
    }

    async fn depth(&self, queue: &str) -> Result<u64, QueueError> {
        self.inner.depth(queue).await
    }
}

struct FaultyObjects {
    faults: Arc<FaultInjector>,
    inner: Arc<dyn Objects>,
}

impl FaultyObjects {
    async fn inner(&self, key: &str) -> Result<&dyn Objects, ObjectError> {
        if let Some(gate) = self.faults.gate.get() {
            gate.pass().await;
        }
        match self.faults.refuses() {
            true => Err(ObjectError::Store {
                key: key.to_owned(),
                reason: "down".into(),
            }),
            false => Ok(&*self.inner),
        }
    }

    /// The store for a read or a write of this object.
    async fn at(&self, key: &ObjectKey, is_write: bool) -> Result<&dyn Objects, ObjectError> {
        let inner = self.inner(key.as_str()).await?;
        let (text, reason) = (key.to_string(), "denied".to_owned());
        let denial = self.faults.denied(key.as_str());
        if denial.is_some() {
            self.faults.denials_met.fetch_add(1, Ordering::Relaxed);
        }
        match denial {
            Some(Denial::Refused) => Err(ObjectError::Refused { key: text, reason }),
            Some(Denial::Silent) if is_write => Ok(inner),
            Some(Denial::Failing | Denial::Silent) => Err(ObjectError::Store { key: text, reason }),
            Some(Denial::Full) if is_write => Err(ObjectError::Full(key.to_string())),
            Some(Denial::Full) | None => Ok(inner),
        }
    }
}

#[async_trait]
impl Objects for FaultyObjects {
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.at(key, true).await?.put(key, content).await
    }

    async fn put_file_if(
        &self,
        key: &ObjectKey,
        file: &Path,
        expected: Option<&Version>,
    ) -> Result<bool, ObjectError> {
        let inner = self.inner(key.as_str()).await?;
        self.faults.transfers.pass().await;
        inner.put_file_if(key, file, expected).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        let inner = self.at(key, false).await?;
        self.faults.transfers.pass().await;
        inner.get(key).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError> {
        let inner = self.at(key, true).await?;
        let content = match self.faults.amendment.get() {
            Some(amend) => amend(key, content),
            None => content,
        };
        if self.faults.refuses_conditions.load(Ordering::Relaxed) {
            return Err(ObjectError::NoConditions {
                key: key.to_string(),
                reason: "not implemented".into(),
            });
        }
        let ignores_version =
            expected.is_some() && self.faults.ignores_versions.load(Ordering::Relaxed);
        if ignores_version || self.faults.ignores_conditions.load(Ordering::Relaxed) {
            inner.put(key, content).await?;
            return inner
                .get_versioned(key)
                .await
                .map(|(_, version)| Some(version));
        }
        let put = inner.put_if(key, content, expected).await?;
        let is_second = || self.faults.calls.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let lost = self.faults.denied(key.as_str()) == Some(Denial::Silent)
            || self.faults.loses_store_answers.load(Ordering::Relaxed) && is_second();
        match lost {
            true => Err(ObjectError::Store {
                key: key.to_string(),
                reason: "the connection broke".into(),
            }),
            false => Ok(put),
        }
    }

    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError> {
        self.inner(key.as_str()).await?.get_versioned(key).await
    }

    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.at(key, true).await?.put_output(key, content).await
    }

    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        self.inner(key.as_str()).await?.get_output(key).await
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError> {
        self.inner(key.as_str()).await?.size(key).await
    }

    async fn tidy(&self) -> Result<(), ObjectError> {
        self.inner("").await?.tidy().await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        self.at(key, false).await?.delete(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError> {
        let mut page = self.inner(prefix).await?.list(prefix, after, limit).await?;
        let behind = Duration::from_secs(self.faults.behind.load(Ordering::Relaxed));
        for entry in &mut page.entries {
            entry.modified -= behind;
        }
        Ok(page)
    }
}

struct FaultyState {
    faults: Arc<FaultInjector>,
}

impl FaultyState {
    /// The state, once its next call may be made.
    async fn inner(&self) -> Result<Arc<MemoryState>, StateError> {
        if let Some(gate) = self.faults.state_gate.get() {
            gate.pass().await;
        }
        self.faults.state()
    }
}

#[async_trait]
impl State for FaultyState {
    async fn put_document(&self, run: &RunId, name: &str, value: String) -> Result<(), StateError> {
        self.faults
            .answer(self.inner().await?.put_document(run, name, value).await?)
    }

    async fn create_document(
        &self,
        run: &RunId,
        name: &str,
        value: String,
    ) -> Result<String, StateError> {
        let state = self.inner().await?;
        self.faults
            .answer(state.create_document(run, name, value).await?)
    }

    async fn note_group(&self, group: &QueueGroup) -> Result<(), StateError> {
        self.faults
            .answer(self.inner().await?.note_group(group).await?)
    }

    async fn forget_group(&self, group: &QueueGroup) -> Result<bool, StateError> {
        self.faults
            .answer(self.inner().await?.forget_group(group).await?)
    }

    async fn groups(&self) -> Result<Vec<QueueGroup>, StateError> {
        self.faults.answer(self.inner().await?.groups().await?)
    }

    async fn serve_group(&self, group: &QueueGroup, during: Duration) -> Result<(), StateError> {
        self.faults
            .answer(self.inner().await?.serve_group(group, during).await?)
    }

    async fn is_served(&self, group: &QueueGroup) -> Result<bool, StateError> {
        self.faults
            .answer(self.inner().await?.is_served(group).await?)
    }

    async fn document(&self, run: &RunId, name: &str) -> Result<Option<String>, StateError> {
        self.faults
            .answer(self.inner().await?.document(run, name).await?)
    }

    async fn begin(&self, facts: &[Fact]) -> Result<(), StateError> {
        self.faults.answer(self.inner().await?.begin(facts).await?)
    }

    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, StateError> {
        self.faults.answer(self.inner().await?.record(facts).await?)
    }

    async fn finish(&self, lines: &[Fact]) -> Result<Vec<bool>, StateError> {
        self.faults.answer(self.inner().await?.finish(lines).await?)
    }

    async fn end_run(&self, run: &RunId) -> Result<(), StateError> {
        self.faults.answer(self.inner().await?.end_run(run).await?)
    }

    async fn open_run(&self, run: &RunId) -> Result<(), StateError> {
        self.faults.answer(self.inner().await?.open_run(run).await?)
    }

    async fn forget(&self, run: &RunId, study: &StudyId) -> Result<(), StateError> {
        self.faults
            .answer(self.inner().await?.forget(run, study).await?)
    }

    async fn exist(&self, run: &RunId, studies: &[StudyId]) -> Result<Vec<bool>, StateError> {
        self.faults
            .answer(self.inner().await?.exist(run, studies).await?)
    }

    async fn finished(&self, run: &RunId, limit: usize) -> Result<Vec<String>, StateError> {
        self.faults
            .answer(self.inner().await?.finished(run, limit).await?)
    }

    async fn discard_finished(&self, run: &RunId, count: usize) -> Result<(), StateError> {
        self.faults
            .answer(self.inner().await?.discard_finished(run, count).await?)
    }
}
