//! Works on batches: takes those that nobody works on, answers their lines some at a time, and writes each such piece
//! before the next begins. What a gateway has left in the middle, another one takes over a minute later.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai_batches::{FilePurpose, RequestBatchStatus};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::input::{self, InputLine, InputLines};
use super::line::{AnsweredLine, LineContext};
use crate::gateway::app_state::AppState;
use crate::gateway::body_memory::HeldMemory;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::request_store::batches::{self, BatchDocument, InputPlace, OutputFile};
use crate::request_store::files::{self, FileHead, LIFETIME};
use crate::request_store::now;

/// Batches that this gateway works on at a time; the others wait.
const RUNNING: u32 = 2;
/// The time after which batches are looked for again, unless one is told here.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The time after which a lease is renewed and a cancellation seen.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Lines that are answered at a time.
const AT_ONCE: usize = 8;
/// The most lines and about the most bytes of input that are answered before the outputs are written.
const PIECE_LINES: usize = 32;
const PIECE_BYTES: usize = 4 << 20;

/// Works on batches until its gateway stops.
pub(in crate::gateway) struct BatchRunner {
    app: AppState,
    /// By which leases are told apart.
    name: String,
    slots: Arc<Semaphore>,
    /// The names of the batches that are worked on here.
    here: Mutex<HashSet<String>>,
}

/// Where a batch lies.
#[derive(Clone)]
struct BatchName {
    owner: ContentHash,
    name: String,
}

/// The outputs of some lines.
#[derive(Default)]
struct Piece {
    answers: Vec<u8>,
    refusals: Vec<u8>,
    answered: u64,
    refused: u64,
}

impl BatchRunner {
    pub(in crate::gateway) fn new(app: AppState) -> Arc<Self> {
        Arc::new(Self {
            app,
            name: Uuid::new_v4().simple().to_string(),
            slots: Arc::new(Semaphore::new(RUNNING as usize)),
            here: Mutex::default(),
        })
    }

    /// Looks for batches until the shutdown, and ends when all that were worked on have been given back.
    pub(in crate::gateway) async fn run(self: Arc<Self>) {
        let shutdown = self.app.shutdown.clone();
        loop {
            if let Err(error) = self.look().await {
                warn!(%error, "batches of requests were not looked for");
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.app.new_batch.notified() => {}
                () = shutdown.cancelled() => break,
            }
        }
        let _all = self.slots.acquire_many(RUNNING).await;
    }

    async fn look(self: &Arc<Self>) -> Result<(), ObjectError> {
        for (owner, name) in batches::open(self.objects()).await? {
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                return Ok(());
            };
            let batch = BatchName { owner, name };
            if !self.begin_here(&batch.name) {
                continue;
            }
            let runner = self.clone();
            tokio::spawn(async move {
                let worked = runner.work_on(&batch).await;
                runner.end_here(&batch.name);
                drop(slot);
                match worked {
                    // The next one may have waited for this.
                    Ok(true) => runner.app.new_batch.notify_one(),
                    Ok(false) => {}
                    Err(error) => {
                        let (batch, error) = (batch.name, error.problem.detail);
                        warn!(batch, error, "a batch of requests is tried again");
                    }
                }
            });
        }
        Ok(())
    }

    fn begin_here(&self, name: &str) -> bool {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        here.insert(name.to_owned())
    }

    fn end_here(&self, name: &str) {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        here.remove(name);
    }

    fn objects(&self) -> &dyn Objects {
        &*self.app.backends.objects
    }

    async fn change(
        &self,
        batch: &BatchName,
        change: impl FnMut(&mut BatchDocument) -> bool + Send,
    ) -> Result<Option<BatchDocument>, ObjectError> {
        batches::change(self.objects(), &batch.owner, &batch.name, change).await
    }

    /// Works on a batch until it ends, is paused, or this gateway stops or loses it. False where there is
    /// nothing to do.
    async fn work_on(&self, batch: &BatchName) -> ApiResult<bool> {
        let mut is_mine = false;
        let taken = self.change(batch, |document| {
            is_mine = document.wants_work() && document.hold(&self.name);
            is_mine
        });
        let Some(document) = taken.await? else {
            // Its sign was written and it was not, yet or ever: the sweep takes what is old.
            return Ok(false);
        };
        if document.status.is_final() {
            batches::close(self.objects(), &batch.owner, &batch.name).await?;
            return Ok(false);
        }
        if !is_mine {
            return Ok(false);
        }
        let stop = self.app.shutdown.child_token();
        let worked = tokio::select! {
            worked = self.answer_all(batch, document, &stop) => worked,
            () = self.keep(batch, &stop) => Ok(()),
        };
        // Also after a failure: somebody else may do better.
        let released = self.change(batch, |document| {
            let is_mine = document.is_held_by(&self.name);
            document.release();
            is_mine
        });
        released.await?;
        worked.map(|()| true)
    }

    /// Renews the lease; ends where another gateway has it. A cancellation stops the lines that are being answered.
    async fn keep(&self, batch: &BatchName, stop: &CancellationToken) {
        loop {
            sleep(RENEW_EVERY).await;
            let mut is_lost = false;
            let kept = self.change(batch, |document| {
                is_lost = document.status.is_final() || !document.hold(&self.name);
                !is_lost
            });
            match kept.await {
                Ok(Some(document)) if !is_lost => {
                    if document.status == RequestBatchStatus::Cancelling {
                        stop.cancel();
                    }
                }
                Ok(_) => return,
                // The lease holds for a while.
                Err(error) => warn!(batch = batch.name, %error, "a batch's lease is not renewed"),
            }
        }
    }

    async fn answer_all(
        &self,
        batch: &BatchName,
        mut document: BatchDocument,
        stop: &CancellationToken,
    ) -> ApiResult<()> {
        let input = files::find(self.objects(), &batch.owner, &document.input).await?;
        let Some(input) = input else {
            let error = ApiError::new(
                ProblemCode::NotFound,
                "the file of requests was deleted, or its time is over; upload it again",
            );
            document.faults = vec![input::fault(&error, None)];
            return self
                .finish(batch, document, RequestBatchStatus::Failed)
                .await;
        };
        let lines = |document: &BatchDocument| {
            let file = (document.input.as_str(), input.parts);
            let objects = self.app.backends.objects.clone();
            let longest = self.app.config.body_limit();
            InputLines::at(objects, &batch.owner, file, document.place, longest)
        };
        if document.status == RequestBatchStatus::Validating {
            match input::check(lines(&document), document.endpoint).await? {
                Ok(total) => document = self.start(batch, total).await?,
                Err(faults) => {
                    document.faults = faults;
                    return self
                        .finish(batch, document, RequestBatchStatus::Failed)
                        .await;
                }
            }
        }
        let mut lines = lines(&document);
        loop {
            if document.status == RequestBatchStatus::Cancelling {
                return self
                    .finish(batch, document, RequestBatchStatus::Cancelled)
                    .await;
            }
            let is_late = document.is_late();
            if document.paused && !is_late {
                return Ok(());
            }
            let (some, end) = next_lines(&mut lines, document.place).await?;
            if some.is_empty() {
                let status = match document.has_expired {
                    true => RequestBatchStatus::Expired,
                    false => RequestBatchStatus::Completed,
                };
                return self.finish(batch, document, status).await;
            }
            let piece = tokio::select! {
                piece = self.answer(batch, &document, some, is_late) => piece?,
                () = stop.cancelled() => match self.change(batch, |_| false).await? {
                    // Cancelled by its owner: what of this piece was answered is not written.
                    Some(known) if !self.app.shutdown.is_cancelled() => {
                        document = known;
                        continue;
                    }
                    _ => return Ok(()),
                }
            };
            match self.write(batch, &document, piece, end, is_late).await? {
                Some(next) => document = next,
                None => return Ok(()),
            }
        }
    }

    /// Notes that the lines have been checked.
    async fn start(&self, batch: &BatchName, total: u64) -> ApiResult<BatchDocument> {
        let started = self.change(batch, |document| {
            document.counts.total = total;
            document.times.in_progress.get_or_insert_with(now);
            // It may have been cancelled meanwhile.
            if document.status == RequestBatchStatus::Validating {
                document.status = RequestBatchStatus::InProgress;
            }
            true
        });
        started.await?.ok_or_else(super::no_batch)
    }

    /// Answers some lines, several at a time; the outputs have their order.
    async fn answer(
        &self,
        batch: &BatchName,
        document: &BatchDocument,
        lines: Vec<InputLine>,
        is_late: bool,
    ) -> ApiResult<Piece> {
        let context = LineContext {
            app: &self.app,
            owner: &document.owner,
            batch: &batch.name,
            endpoint: document.endpoint,
        };
        let size: usize = lines.iter().map(InputLine::size).sum();
        let _memory = HeldMemory::wait(&self.app.bodies, size as u64).await;
        let answered = stream::iter(lines).map(|line| async {
            match is_late {
                true => context.expire(&line),
                false => context.answer(line).await,
            }
        });
        let answered: Vec<AnsweredLine> = answered.buffered(AT_ONCE).try_collect().await?;
        let mut piece = Piece::default();
        for line in answered {
            match line.is_answer {
                true => {
                    piece.answered += 1;
                    piece.answers.extend(line.text);
                }
                false => {
                    piece.refused += 1;
                    piece.refusals.extend(line.text);
                }
            }
        }
        Ok(piece)
    }

    /// Writes the outputs of some lines; none where another gateway has done so meanwhile.
    async fn write(
        &self,
        batch: &BatchName,
        document: &BatchDocument,
        piece: Piece,
        end: InputPlace,
        is_late: bool,
    ) -> Result<Option<BatchDocument>, ObjectError> {
        let Piece {
            answers,
            refusals,
            answered,
            refused,
        } = piece;
        let answers = self.write_part(batch, &document.answers, answers).await?;
        let refusals = self.write_part(batch, &document.refusals, refusals).await?;
        let written = self.change(batch, |known| {
            let is_next = known.place == document.place && known.is_held_by(&self.name);
            if is_next {
                known.place = end;
                known.answers = answers.clone();
                known.refusals = refusals.clone();
                known.counts.completed += answered;
                known.counts.failed += refused;
                known.has_expired |= is_late;
            }
            is_next
        });
        let written = written.await?;
        Ok(written.filter(|known| known.place == end && known.is_held_by(&self.name)))
    }

    async fn write_part(
        &self,
        batch: &BatchName,
        file: &OutputFile,
        content: Vec<u8>,
    ) -> Result<OutputFile, ObjectError> {
        let mut file = file.clone();
        if !content.is_empty() {
            file.bytes += content.len() as u64;
            let content = Bytes::from(content);
            files::put_part(
                self.objects(),
                &batch.owner,
                &file.name,
                file.parts,
                content,
            )
            .await?;
            file.parts += 1;
        }
        Ok(file)
    }

    /// Puts the outputs together and ends the batch.
    async fn finish(
        &self,
        batch: &BatchName,
        document: BatchDocument,
        status: RequestBatchStatus,
    ) -> ApiResult<()> {
        let (objects, finalizing) = (self.objects(), now());
        for (file, kind) in [(&document.answers, "output"), (&document.refusals, "error")] {
            if file.parts == 0 {
                continue;
            }
            let head = FileHead {
                bytes: file.bytes,
                parts: file.parts,
                created_at: finalizing,
                expires_at: finalizing + LIFETIME.as_secs(),
                filename: format!("{}_{kind}.jsonl", super::batch_id(&batch.name)),
                purpose: FilePurpose::BatchOutput,
            };
            files::put_head(objects, &batch.owner, &file.name, &head).await?;
        }
        let ended = self.change(batch, |known| {
            let is_mine = known.is_held_by(&self.name) && known.place == document.place;
            if is_mine {
                known.times.finalizing = Some(finalizing);
                known.faults = document.faults.clone();
                known.end(status);
            }
            is_mine
        });
        let Some(ended) = ended.await?.filter(|known| known.status.is_final()) else {
            return Ok(());
        };
        batches::close(objects, &batch.owner, &batch.name).await?;
        info!(batch = batch.name, status = ?ended.status, "a batch of requests has ended");
        Ok(())
    }
}

/// The next lines to answer together, and the place behind them.
async fn next_lines(
    lines: &mut InputLines,
    mut end: InputPlace,
) -> Result<(Vec<InputLine>, InputPlace), ObjectError> {
    let (mut some, mut size) = (Vec::new(), 0);
    while some.len() < PIECE_LINES && size < PIECE_BYTES {
        let Some(line) = lines.next().await? else {
            break;
        };
        size += line.size();
        end = line.end;
        some.push(line);
    }
    Ok((some, end))
}
