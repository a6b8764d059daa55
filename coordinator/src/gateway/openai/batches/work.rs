//! Works on one batch: answers its lines some at a time, and writes each such piece before the next begins.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::ObjectKey;
use radialog_schemas::http::openai_batches::{BatchLineFault, FilePurpose, RequestBatchStatus};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::input::{self, InputLine, InputLines};
use super::line::{self, AnsweredLine, LineContext};
use super::runner::BatchRunner;
use super::{BatchName, batch_id, no_batch};
use crate::gateway::body;
use crate::gateway::problem::ApiResult;
use crate::request_store::batches::{self, BatchDocument, InputPlace, OutputFile};
use crate::request_store::files::{self, FileHead, LIFETIME, PartWriter};
use crate::request_store::{new_name, now};

/// Lines that are answered at a time.
const AT_ONCE: usize = 8;
/// The most lines and about the most bytes of input that are answered before the outputs are written.
const PIECE_LINES: usize = 32;
const PIECE_BYTES: usize = 4 << 20;
/// How long a batch is worked on while those of other owners wait.
const TURN: Duration = Duration::from_secs(60);
/// A batch of whose lines no worker has begun one for so long makes room for others.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// One gateway's work on one batch, from taking it to giving it back.
pub(super) struct BatchWork<'a> {
    runner: &'a BatchRunner,
    batch: &'a BatchName,
    stop: &'a CancellationToken,
    /// Who has written a part of the outputs: nobody else who has the batch, earlier or later, writes under this name.
    writer: String,
    begun: Instant,
}

/// The outputs of some lines.
struct Piece {
    answers: Vec<u8>,
    refusals: Vec<u8>,
    answered: u64,
    refused: u64,
    /// The place behind the last of them.
    end: InputPlace,
    /// It has all the lines that were asked for.
    is_whole: bool,
}

impl Piece {
    fn at(place: InputPlace) -> Self {
        Self {
            answers: Vec::new(),
            refusals: Vec::new(),
            answered: 0,
            refused: 0,
            end: place,
            is_whole: false,
        }
    }

    fn add(&mut self, line: AnsweredLine, end: InputPlace) {
        self.end = end;
        match line.is_answer {
            true => {
                self.answered += 1;
                self.answers.extend(line.text);
            }
            false => {
                self.refused += 1;
                self.refusals.extend(line.text);
            }
        }
    }
}

impl<'a> BatchWork<'a> {
    pub(super) fn new(
        runner: &'a BatchRunner,
        batch: &'a BatchName,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            runner,
            batch,
            stop,
            writer: new_name(),
            begun: Instant::now(),
        }
    }

    /// Works until the batch ends, is paused or gives way, or this gateway stops.
    pub(super) async fn run(
        &self,
        mut document: BatchDocument,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<()> {
        if document.status == RequestBatchStatus::Finalizing {
            return self.settle(&document).await;
        }
        let objects = self.runner.objects();
        let input = files::find(objects, &self.batch.owner, &document.input).await?;
        let Some(input) = input.filter(|input| !input.is_damaged) else {
            return self.fail(&document, input::gone()).await;
        };
        if document.status == RequestBatchStatus::Validating {
            let lines = self.lines(&input, &document);
            match input::check(lines, document.endpoint).await? {
                Ok(total) => document = self.start(total).await?,
                Err(faults) => return self.fail(&document, faults).await,
            }
        }
        self.answer_all(&input, document, place).await
    }

    fn lines(&self, input: &FileHead, document: &BatchDocument) -> InputLines {
        let app = &self.runner.app;
        InputLines::at(
            app.backends.objects.clone(),
            app.bodies.clone(),
            &self.batch.owner,
            (&document.input, input.parts),
            document.place,
            app.config.body_limit(),
        )
    }

    /// Notes that the lines have been checked.
    async fn start(&self, total: u64) -> ApiResult<BatchDocument> {
        let started = self.runner.change(self.batch, |document| {
            document.counts.total = total;
            document.times.in_progress.get_or_insert_with(now);
            // It may have been cancelled meanwhile.
            if document.status == RequestBatchStatus::Validating {
                document.status = RequestBatchStatus::InProgress;
            }
            true
        });
        started.await?.ok_or_else(no_batch)
    }

    async fn answer_all(
        &self,
        input: &FileHead,
        mut document: BatchDocument,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<()> {
        let mut place = Some(place);
        let mut lines = self.lines(input, &document);
        while !self.runner.app.shutdown.is_cancelled() {
            if document.status == RequestBatchStatus::Cancelling {
                let outcome = RequestBatchStatus::Cancelled;
                return self.conclude(&document, outcome, Vec::new()).await;
            }
            let is_late = document.is_late();
            if !is_late && (document.paused || place.is_none() || self.gives_way()) {
                return Ok(());
            }
            let some = match next_lines(&mut lines).await {
                Err(ObjectError::NotFound(_)) => return self.fail(&document, input::gone()).await,
                some => some?,
            };
            if some.is_empty() {
                let outcome = match document.has_expired {
                    true => RequestBatchStatus::Expired,
                    false => RequestBatchStatus::Completed,
                };
                return self.conclude(&document, outcome, Vec::new()).await;
            }
            let piece = match is_late {
                true => self.expire(&document, some).await?,
                false => self.answer(&document, some, &mut place).await,
            };
            let is_whole = piece.is_whole;
            if piece.end != document.place {
                match self.write(&document, piece, is_late).await? {
                    Some(next) => document = next,
                    None => return Ok(()),
                }
            }
            if !is_whole {
                // Cancelled by its owner, or its time is over.
                let known = self.runner.change(self.batch, |_| false).await?;
                match known.filter(|known| known.is_held_by(&self.runner.name)) {
                    Some(known) => document = known,
                    None => return Ok(()),
                }
                lines = self.lines(input, &document);
            }
            if place.is_none() {
                place = self.runner.running.clone().try_acquire_owned().ok();
            }
        }
        Ok(())
    }

    /// It has had its turn, and others wait.
    fn gives_way(&self) -> bool {
        let is_over = self.begun.elapsed() >= TURN;
        is_over && self.runner.schedule().others_wait(&self.batch.owner)
    }

    /// Answers some lines. While no worker begins one of them, another batch may have the place.
    async fn answer(
        &self,
        document: &BatchDocument,
        lines: Vec<InputLine>,
        place: &mut Option<OwnedSemaphorePermit>,
    ) -> Piece {
        let context = LineContext {
            app: &self.runner.app,
            owner: &document.owner,
            batch: &self.batch.name,
            endpoint: document.endpoint,
            events: AtomicU64::new(0),
        };
        // What holds memory for bodies holds its place, too, so that there is enough for those that run.
        let may_step_aside = lines.iter().all(|line| line.memory.is_none());
        let mut answering = pin!(self.answer_some(&context, lines, document.place));
        let mut _aside = None;
        loop {
            tokio::select! {
                piece = &mut answering => return piece,
                aside = self.stalled(&context.events), if may_step_aside && place.is_some() => {
                    (_aside, *place) = (Some(aside), None);
                    self.runner.app.new_batch.notify_one();
                }
            }
        }
    }

    /// Answers lines, several at a time and in their order, until they are answered or it is told to stop.
    async fn answer_some(
        &self,
        context: &LineContext<'_>,
        lines: Vec<InputLine>,
        place: InputPlace,
    ) -> Piece {
        let answered = stream::iter(lines).map(|line| async {
            let end = line.end;
            (context.answer(line).await, end)
        });
        let mut answered = pin!(answered.buffered(AT_ONCE));
        let mut piece = Piece::at(place);
        loop {
            tokio::select! {
                biased;
                next = answered.next() => match next {
                    Some((line, end)) => piece.add(line, end),
                    None => break,
                },
                () = self.stop.cancelled() => return piece,
            }
        }
        piece.is_whole = true;
        piece
    }

    /// Ends when no line has begun for a while and others wait, with a place aside.
    async fn stalled(&self, events: &AtomicU64) -> OwnedSemaphorePermit {
        loop {
            let before = events.load(Ordering::Relaxed);
            sleep(STALLED_AFTER).await;
            let is_stalled = events.load(Ordering::Relaxed) == before;
            if is_stalled
                && self.runner.schedule().any_waits()
                && let Ok(aside) = self.runner.aside.clone().try_acquire_owned()
            {
                return aside;
            }
        }
    }

    /// Says of lines that they were not answered in time.
    async fn expire(&self, document: &BatchDocument, lines: Vec<InputLine>) -> ApiResult<Piece> {
        let (mut piece, batch) = (Piece::at(document.place), self.batch.name.clone());
        body::beside(move || {
            for line in lines {
                piece.add(line::expired(&batch, &line), line.end);
            }
            piece.is_whole = true;
            Ok(piece)
        })
        .await
    }

    /// Writes the outputs of some lines; none where another gateway has done so meanwhile.
    async fn write(
        &self,
        document: &BatchDocument,
        piece: Piece,
        is_late: bool,
    ) -> Result<Option<BatchDocument>, ObjectError> {
        let answers = self.write_part(&document.answers, piece.answers).await?;
        let refusals = self.write_part(&document.refusals, piece.refusals).await?;
        let holder = &self.runner.name;
        let (mut is_first, done, failed) = (false, piece.answered, piece.refused);
        let written = self.runner.change(self.batch, |known| {
            let is_next = known.place == document.place && known.is_held_by(holder);
            if is_next {
                known.place = piece.end;
                known.answers = answers.clone();
                known.refusals = refusals.clone();
                known.counts.completed += piece.answered;
                known.counts.failed += piece.refused;
                known.has_expired |= is_late;
            }
            is_first |= is_next;
            is_next
        });
        let written = written.await?;
        if is_first && written.is_some() {
            metrics().request_batches.wrote(done, failed, is_late);
        }
        Ok(written.filter(|known| known.place == piece.end && known.is_held_by(holder)))
    }

    async fn write_part(
        &self,
        file: &OutputFile,
        content: Vec<u8>,
    ) -> Result<OutputFile, ObjectError> {
        let mut file = file.clone();
        if content.is_empty() {
            return Ok(file);
        }
        let is_mine = |last: &PartWriter| last.name == self.writer;
        if !file.writers.last().is_some_and(is_mine) {
            file.writers.push(PartWriter {
                from: file.parts,
                name: self.writer.clone(),
            });
        }
        let owner = &self.batch.owner;
        let part = ObjectKey::request_file_part(owner, &file.name, file.parts, Some(&self.writer));
        file.bytes += content.len() as u64;
        file.parts += 1;
        let content = Bytes::from(content);
        self.runner.objects().put(&part, content).await?;
        Ok(file)
    }

    async fn fail(&self, document: &BatchDocument, faults: Vec<BatchLineFault>) -> ApiResult<()> {
        let outcome = RequestBatchStatus::Failed;
        self.conclude(document, outcome, faults).await
    }

    /// Decides how the batch ends, and ends it.
    async fn conclude(
        &self,
        document: &BatchDocument,
        outcome: RequestBatchStatus,
        faults: Vec<BatchLineFault>,
    ) -> ApiResult<()> {
        let is_open = |known: &BatchDocument| {
            !known.status.is_final() && known.status != RequestBatchStatus::Finalizing
        };
        let concluded = self.runner.change(self.batch, |known| {
            let is_mine = known.is_held_by(&self.runner.name) && known.place == document.place;
            let is_mine = is_mine && is_open(known);
            if is_mine {
                known.conclude(outcome, faults.clone());
            }
            is_mine
        });
        match concluded.await? {
            Some(known) if known.status == RequestBatchStatus::Finalizing => {
                self.settle(&known).await
            }
            _ => Ok(()),
        }
    }

    /// Puts the outputs together and ends the batch. Whoever does this for a concluded batch does the same.
    async fn settle(&self, document: &BatchDocument) -> ApiResult<()> {
        let (objects, owner) = (self.runner.objects(), &self.batch.owner);
        let finalizing = document.times.finalizing.unwrap_or_else(now);
        for (file, kind) in [(&document.answers, "output"), (&document.refusals, "error")] {
            if file.parts == 0 {
                continue;
            }
            let head = FileHead {
                bytes: file.bytes,
                parts: file.parts,
                created_at: finalizing,
                expires_at: finalizing + LIFETIME.as_secs(),
                filename: format!("{}_{kind}.jsonl", batch_id(&self.batch.name)),
                purpose: FilePurpose::BatchOutput,
                writers: file.writers.clone(),
                is_damaged: false,
            };
            files::put_head(objects, owner, &file.name, &head).await?;
        }
        let ended = self.runner.change(self.batch, |known| {
            let is_concluded = known.status == RequestBatchStatus::Finalizing;
            if is_concluded {
                known.end();
            }
            is_concluded
        });
        let Some(ended) = ended.await?.filter(|known| known.status.is_final()) else {
            return Ok(());
        };
        batches::close(objects, owner, &self.batch.name).await?;
        info!(batch = self.batch.name, status = ?ended.status, "a batch of requests has ended");
        Ok(())
    }
}

/// The next lines to answer together.
async fn next_lines(lines: &mut InputLines) -> Result<Vec<InputLine>, ObjectError> {
    let (mut some, mut size) = (Vec::new(), 0);
    while some.len() < PIECE_LINES && size < PIECE_BYTES {
        let Some(line) = lines.next().await? else {
            break;
        };
        size += line.size();
        some.push(line);
    }
    Ok(some)
}
