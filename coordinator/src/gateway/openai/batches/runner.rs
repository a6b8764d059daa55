//! What one gateway has for its work on batches: the name that it holds them by, its places, and whose turn it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use radialog_runtime::objects::{ObjectError, Objects};
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use super::BatchName;
use super::schedule::{RUNNING, Schedule};
use crate::gateway::app_state::AppState;
use crate::request_store::batches::{self, BatchDocument};

/// Batches that are only ended, without an answer more, at a time. Each batch that is read may hold the memory of a longest
/// line while it waits for that of its copies: with those that run, half of the least that a gateway has.
const ENDING: u32 = 1;

/// Works on batches until its gateway stops.
pub(in crate::gateway) struct BatchRunner {
    pub(super) app: AppState,
    /// By which leases are told apart.
    pub(super) name: String,
    pub(super) running: Arc<Semaphore>,
    pub(super) ending: Arc<Semaphore>,
    /// Told when a place for being ended is free again.
    pub(super) has_ended: Notify,
    /// Told when a place for being answered is free again.
    pub(super) has_room: Notify,
    schedule: Mutex<Schedule>,
}

/// The place of a batch whose lines wait for workers that do not come, until this is dropped.
pub(super) struct PlaceAside<'a> {
    runner: &'a BatchRunner,
    batch: &'a BatchName,
}

impl Drop for PlaceAside<'_> {
    fn drop(&mut self) {
        self.runner.schedule().step_back(self.batch);
    }
}

impl BatchRunner {
    pub(in crate::gateway) fn new(app: AppState) -> Arc<Self> {
        let places = |count: u32| Arc::new(Semaphore::new(count as usize));
        let schedule = Schedule::new(app.config.batch_pace.abandoned_after);
        Arc::new(Self {
            app,
            name: Uuid::new_v4().simple().to_string(),
            running: places(RUNNING),
            ending: places(ENDING),
            has_ended: Notify::new(),
            has_room: Notify::new(),
            schedule: Mutex::new(schedule),
        })
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place aside for this batch, where there is one for its owner.
    pub(super) fn step_aside<'a>(&'a self, batch: &'a BatchName) -> Option<PlaceAside<'a>> {
        let runner = self;
        let is_aside = self.schedule().step_aside(batch);
        is_aside.then(|| PlaceAside { runner, batch })
    }

    pub(super) fn objects(&self) -> &dyn Objects {
        &*self.app.backends.objects
    }

    pub(super) async fn change(
        &self,
        batch: &BatchName,
        change: impl FnMut(&mut BatchDocument) -> bool + Send,
    ) -> Result<Option<BatchDocument>, ObjectError> {
        batches::change(self.objects(), &batch.owner, &batch.name, change).await
    }
}
