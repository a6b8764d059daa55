//! Takes batches that nobody works on, as many as there are places for, and holds them while they are worked on. What a
//! gateway has left in the middle, another one takes over a minute later.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::http::openai_batches::RequestBatchStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BatchName;
use super::runner::BatchRunner;
use super::schedule::FreeBatch;
use super::work::BatchWork;
use crate::gateway::problem::ApiResult;
use crate::request_store::batches::{self, BatchDocument};

/// Batches looked at at a time.
const LOOKED_AT: usize = 16;
/// The time after which batches are looked for again, unless one is told here.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The time after which a lease is renewed, and a cancellation or the end of the batch's time seen.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// What came of the work on a batch.
enum Worked {
    /// It has ended, was paused, has had its turn, or was lost in the middle.
    Onward,
    /// Another gateway was faster.
    Elsewhere,
    /// It did not get on, and is left alone for a while.
    Resting,
}

/// A batch that is worked on here until this is dropped.
struct Here {
    runner: Arc<BatchRunner>,
    name: BatchName,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.runner.schedule().end(&self.name);
        metrics().request_batches.running.dec();
    }
}

impl BatchRunner {
    /// Looks for batches until the shutdown, and ends when all that were worked on have been given back.
    pub(in crate::gateway) async fn run(self: Arc<Self>) {
        let shutdown = self.app.shutdown.clone();
        let mut working = JoinSet::new();
        while !shutdown.is_cancelled() {
            while working.try_join_next().is_some() {}
            let looked = tokio::select! {
                looked = self.look(&mut working) => looked,
                () = shutdown.cancelled() => break,
            };
            if let Err(error) = looked {
                warn!(%error, "batches of requests were not looked for");
            }
            let mut pause = pin!(sleep(LOOK_EVERY));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = self.app.new_batch.notified() => break,
                    () = shutdown.cancelled() => break,
                    // The next one is known: there may be thousands, and a look is at all of them.
                    () = self.has_room.notified() => {
                        let mut free = self.schedule().take_waiting();
                        if free.is_empty() {
                            break;
                        }
                        self.begin_free(&mut free, &mut working);
                        self.schedule().note_waiting(free);
                    }
                    () = self.has_ended.notified() => {
                        let ends = self.schedule().ends();
                        match ends {
                            0 => break,
                            _ => self.begin_ends(&mut working),
                        }
                    }
                }
            }
        }
        while working.join_next().await.is_some() {}
    }

    /// Looks at all open batches, and begins with those that it can take.
    async fn look(self: &Arc<Self>, working: &mut JoinSet<()>) -> Result<(), ObjectError> {
        let open = batches::open(self.objects()).await?;
        let name = |(owner, name)| BatchName { owner, name };
        let open: Vec<BatchName> = open.into_iter().map(name).collect();
        let others: Vec<BatchName> = {
            let schedule = self.schedule();
            let is_other = |name: &&BatchName| !schedule.is_here(name);
            open.iter().filter(is_other).cloned().collect()
        };
        let mut found = stream::iter(others)
            .map(|name| async move {
                let found = batches::find(self.objects(), &name.owner, &name.name).await;
                (name, found)
            })
            .buffered(LOOKED_AT);
        let (mut free, mut ending) = (Vec::new(), Vec::new());
        while let Some((name, found)) = found.next().await {
            match found {
                Ok(Some(document)) => {
                    let Some(batch) = self.check(&name, &document).await else {
                        continue;
                    };
                    match batch.only_ends() {
                        true => ending.push(batch),
                        false => free.push(batch),
                    }
                }
                // Its sign was written and it was not, yet or ever: the sweep takes what is old.
                Ok(None) => {}
                Err(error) => warn!(batch = name.name, %error, "a batch was not looked at"),
            }
        }
        self.schedule().note_ending(ending);
        self.begin_ends(working);
        self.begin_free(&mut free, working);
        let waiting = free.len();
        {
            let mut schedule = self.schedule();
            schedule.note_waiting(free);
            schedule.forget_all_but(&open);
        }
        let count = |some: usize| i64::try_from(some).unwrap_or(i64::MAX);
        let told = &metrics().request_batches;
        told.open.set(count(open.len()));
        let (resting, ends) = {
            let schedule = self.schedule();
            (schedule.resting(Instant::now()), schedule.ends())
        };
        told.waiting.set(count(waiting + ends + resting));
        Ok(())
    }

    /// Begins with those that are free, as far as there are places, and takes them out.
    fn begin_free(self: &Arc<Self>, free: &mut Vec<FreeBatch>, working: &mut JoinSet<()>) {
        while self.running.available_permits() > 0 {
            let next = self.schedule().next(free);
            let Some(next) = next else {
                break;
            };
            let has_places = self.running.available_permits() >= next.places() as usize;
            if !has_places || (next.is_alone && self.schedule().any_aside()) {
                // Nothing more begins until it has them all.
                free.push(next);
                break;
            }
            self.spawn(next, &self.running, working);
        }
    }

    /// Begins with what is to be ended, as far as there is a place.
    fn begin_ends(self: &Arc<Self>, working: &mut JoinSet<()>) {
        while self.ending.available_permits() > 0 {
            let next = self.schedule().next_to_end(Instant::now());
            let Some(next) = next else {
                break;
            };
            self.spawn(next, &self.ending, working);
        }
    }

    /// The batch, where it can be taken.
    async fn check(&self, name: &BatchName, document: &BatchDocument) -> Option<FreeBatch> {
        if document.is_damaged {
            if self.schedule().tell_damaged(name) {
                warn!(batch = name.name, "what is stored of a batch is damaged");
            }
            return None;
        }
        if document.status.is_final() {
            let closed = batches::close(self.objects(), &name.owner, &name.name).await;
            if let Err(error) = closed {
                warn!(batch = name.name, %error, "the sign of a batch that has ended stays");
            }
            return None;
        }
        if !document.wants_work() {
            return None;
        }
        let now = Instant::now();
        self.schedule().free(name, document, &self.name, now)
    }

    /// Works on a batch, if there is a place for it.
    fn spawn(
        self: &Arc<Self>,
        batch: FreeBatch,
        places: &Arc<Semaphore>,
        working: &mut JoinSet<()>,
    ) {
        let Ok(place) = places.clone().try_acquire_many_owned(batch.places()) else {
            return;
        };
        self.schedule().begin(&batch);
        metrics().request_batches.running.inc();
        let here = Here {
            runner: self.clone(),
            name: batch.name.clone(),
        };
        working.spawn(async move {
            let runner = here.runner.clone();
            let worked = runner.work_on(&batch, place).await;
            match &worked {
                Ok(Worked::Onward) => runner.schedule().forget_rest(&batch.name),
                Ok(Worked::Elsewhere) => {}
                Ok(Worked::Resting) | Err(_) => runner.schedule().rest(&batch, Instant::now()),
            }
            drop(here);
            if batch.only_ends() {
                runner.has_ended.notify_one();
            }
            match worked {
                // The next one may have waited for this.
                Ok(Worked::Onward | Worked::Resting) if !batch.only_ends() => {
                    runner.has_room.notify_one();
                }
                Ok(_) => {}
                Err(error) => {
                    metrics().request_batches.retries.inc();
                    let (batch, error) = (batch.name.name, error.problem.detail);
                    warn!(batch, error, "a batch of requests is tried again");
                }
            }
        });
    }

    /// Works on a batch until it ends, is paused or gives way, or this gateway stops or loses it.
    async fn work_on(&self, batch: &FreeBatch, place: OwnedSemaphorePermit) -> ApiResult<Worked> {
        let FreeBatch {
            name, abandoned, ..
        } = batch;
        let mut is_mine = false;
        let taken = self.change(name, |document| {
            is_mine = document.wants_work() && document.hold(&self.name, abandoned.as_ref());
            is_mine
        });
        let taken = taken.await?;
        let Some(document) = taken.filter(|_| is_mine) else {
            return Ok(Worked::Elsewhere);
        };
        let stop = self.app.shutdown.child_token();
        let work = BatchWork::new(self, batch, &stop);
        let worked = tokio::select! {
            worked = work.run(document, place) => worked,
            () = self.keep(name, &work, &stop) => Ok(()),
        };
        // Also after a failure: somebody else may do better.
        let released = self.change(name, |document| {
            let is_mine = document.is_held_by(&self.name);
            if is_mine && work.has_survived() {
                document.got_on();
            }
            document.release();
            is_mine
        });
        released.await?;
        worked?;
        Ok(match work.rests() {
            true => Worked::Resting,
            false => Worked::Onward,
        })
    }

    /// Renews the lease, and notes with it where the lines that are being answered were survived; ends where another gateway has
    /// the batch. A cancellation, and the end of the batch's time, stop those lines.
    async fn keep(&self, batch: &BatchName, work: &BatchWork<'_>, stop: &CancellationToken) {
        loop {
            sleep(RENEW_EVERY).await;
            let (mut is_lost, has_survived) = (false, work.has_survived());
            let kept = self.change(batch, |document| {
                is_lost = document.status.is_final() || !document.hold(&self.name, None);
                if !is_lost && has_survived {
                    document.got_on();
                }
                !is_lost
            });
            match kept.await {
                Ok(Some(document)) if !is_lost => {
                    if document.status == RequestBatchStatus::Cancelling || document.is_late() {
                        stop.cancel();
                    }
                }
                Ok(_) => return,
                // Nobody else takes it for a while.
                Err(error) => warn!(batch = batch.name, %error, "a batch's lease is not renewed"),
            }
        }
    }
}
