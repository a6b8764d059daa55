//! Works on one batch: answers its lines some at a time, and writes each such piece before the next begins.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::ObjectError;
use radialog_schemas::ObjectKey;
use radialog_schemas::http::openai_batches::{BatchLineError, BatchLineFault, RequestBatchStatus};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::input::{self, InputLine, InputLines};
use super::line::{self, LineContext, LineCounts};
use super::piece::Piece;
use super::runner::{BatchRunner, PlaceAside};
use super::schedule::{FreeBatch, WantedWork};
use super::{BatchName, no_batch};
use crate::gateway::body;
use crate::gateway::problem::ApiResult;
use crate::request_store::batches::{self, BatchDocument, InputPlace, OutputFile};
use crate::request_store::files::{self, FileHead, PartWriter};
use crate::request_store::{new_name, now};

mod ending;

/// Lines that are answered at a time.
const AT_ONCE: usize = 8;
/// The most lines of what may kill its holder that are answered before the output is written: so it is known which one does.
const PIECE_OF_SUSPECTED: usize = 1;
/// The most lines and about the most bytes of input that are answered before the outputs are written.
const PIECE_LINES: usize = 32;
const PIECE_BYTES: usize = 4 << 20;

/// One gateway's work on one batch, from taking it to giving it back.
pub(super) struct BatchWork<'a> {
    runner: &'a BatchRunner,
    batch: &'a BatchName,
    stop: &'a CancellationToken,
    /// Who has written a part of the outputs: nobody else who has the batch, earlier or later, writes under this name.
    writer: String,
    begun: Instant,
    /// No other batch's lines are answered beside it.
    is_alone: bool,
    /// The lines that are being answered.
    lines: LineCounts,
    /// No worker has begun one of its lines, and it has made room for others.
    has_stalled: AtomicBool,
    /// The lines that are being answered have been with workers for so long, or waited for them, that they kill nobody.
    has_survived: AtomicBool,
    /// This gateway's clock is ahead of the store's.
    is_ahead: AtomicBool,
    /// It has had its turn, and makes room for one that waits.
    makes_room: AtomicBool,
}

impl<'a> BatchWork<'a> {
    pub(super) fn new(
        runner: &'a BatchRunner,
        batch: &'a FreeBatch,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            runner,
            batch: &batch.name,
            is_alone: batch.is_alone,
            stop,
            writer: new_name(),
            begun: Instant::now(),
            lines: LineCounts::default(),
            has_stalled: AtomicBool::new(false),
            has_survived: AtomicBool::new(false),
            is_ahead: AtomicBool::new(false),
            makes_room: AtomicBool::new(false),
        }
    }

    /// Whether it was given back because no worker has begun one of its lines.
    pub(super) fn has_stalled(&self) -> bool {
        self.has_stalled.load(Ordering::Relaxed)
    }

    /// Whether this gateway has survived the lines that it has: none of them has killed those who had it before.
    pub(super) fn has_survived(&self) -> bool {
        self.has_stalled() || self.has_survived.load(Ordering::Relaxed)
    }

    /// Whether it is left alone for a while: it has stalled, or this gateway cannot end it yet.
    pub(super) fn rests(&self) -> bool {
        self.has_stalled() || self.is_ahead.load(Ordering::Relaxed)
    }

    /// Works until the batch ends, is paused or gives way, or this gateway stops.
    pub(super) async fn run(
        &self,
        mut document: BatchDocument,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<()> {
        match document.status {
            RequestBatchStatus::Finalizing => return self.settle(&document).await,
            // Whatever has become of its input.
            RequestBatchStatus::Cancelling => {
                let outcome = RequestBatchStatus::Cancelled;
                return self.conclude(&document, outcome, Vec::new()).await;
            }
            _ => {}
        }
        let killed = document.killed();
        if let Some(killed) = killed.filter(|_| !document.is_one_line_deadly()) {
            let is_checked = document.status == RequestBatchStatus::InProgress;
            let next = is_checked.then_some(document.place.line + 1);
            warn!(
                batch = self.batch.name,
                killed, "a batch of requests fails: the gateways that had it went away"
            );
            return self.fail(&document, input::deadly(killed, next)).await;
        }
        let objects = self.runner.objects();
        let input = match files::find(objects, &self.batch.owner, &document.input).await {
            Err(error @ ObjectError::Refused { .. }) => {
                return self.fail(&document, self.refused(&error)).await;
            }
            input => input?,
        };
        let Some(input) = input.filter(|input| !input.is_damaged) else {
            return self.fail(&document, input::gone()).await;
        };
        if document.status == RequestBatchStatus::Validating {
            let lines = self.input_lines(&input, &document);
            match input::check(lines, document.endpoint).await? {
                Ok(total) => match self.start(total).await? {
                    Some(started) => document = started,
                    None => return Ok(()),
                },
                Err(faults) => return self.fail(&document, faults).await,
            }
        }
        if let Some(killed) = killed {
            match self.refuse_next(&input, &document, killed).await? {
                Some(next) => document = next,
                None => return Ok(()),
            }
        }
        self.answer_all(&input, document, place).await
    }

    /// Refuses the line that killed its holders; none where another gateway has the batch meanwhile, or it has ended.
    async fn refuse_next(
        &self,
        input: &FileHead,
        document: &BatchDocument,
        killed: u32,
    ) -> ApiResult<Option<BatchDocument>> {
        let mut lines = self.input_lines(input, document);
        let Some(some) = self.next_lines(&mut lines, document, 1).await? else {
            return Ok(None);
        };
        let line = some.first().map(|line| line.number);
        warn!(
            batch = self.batch.name,
            killed, line, "a line of a batch is refused: the gateways that had it went away"
        );
        let why = input::deadly_line(killed);
        let mut piece = self.without_answers(document, some, why).await?;
        piece.is_deadly = true;
        self.write_or_fail(document, piece, false).await
    }

    fn input_lines(&self, input: &FileHead, document: &BatchDocument) -> InputLines {
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

    /// Notes that the lines have been checked; none where another gateway has the batch meanwhile.
    async fn start(&self, total: u64) -> ApiResult<Option<BatchDocument>> {
        let holder = &self.runner.name;
        let started = self.runner.change(self.batch, |document| {
            if !document.is_held_by(holder) {
                return false;
            }
            document.counts.total = total;
            document.times.in_progress.get_or_insert_with(now);
            document.got_on();
            // It may have been cancelled meanwhile.
            if document.status == RequestBatchStatus::Validating {
                document.status = RequestBatchStatus::InProgress;
            }
            true
        });
        let started = started.await?.ok_or_else(no_batch)?;
        Ok(Some(started).filter(|document| document.is_held_by(holder)))
    }

    async fn answer_all(
        &self,
        input: &FileHead,
        mut document: BatchDocument,
        place: OwnedSemaphorePermit,
    ) -> ApiResult<()> {
        let (mut place, mut has_written) = (Some(place), false);
        let mut lines = self.input_lines(input, &document);
        let most = match self.is_alone {
            true => PIECE_OF_SUSPECTED,
            false => PIECE_LINES,
        };
        let mut survived = 0;
        while !self.runner.app.shutdown.is_cancelled() {
            if document.status == RequestBatchStatus::Cancelling {
                let outcome = RequestBatchStatus::Cancelled;
                return self.conclude(&document, outcome, Vec::new()).await;
            }
            let is_late = document.is_late();
            if is_late && !self.is_late_for_the_store(&document).await? {
                return Ok(());
            }
            let gives_way = match is_late {
                // Its holders had a piece of so many lines when they vanished, and none of these has done it: what is left does not
                // need all places.
                _ if self.is_alone && survived >= PIECE_LINES => true,
                true => has_written && self.runner.schedule().end_waits(),
                // A turn has an answer, however long its file was read.
                false => document.paused || place.is_none() || (has_written && self.gives_way()),
            };
            if gives_way {
                return Ok(());
            }
            let Some(some) = self.next_lines(&mut lines, &document, most).await? else {
                return Ok(());
            };
            if some.is_empty() {
                let outcome = match document.has_expired {
                    true => RequestBatchStatus::Expired,
                    false => RequestBatchStatus::Completed,
                };
                return self.conclude(&document, outcome, Vec::new()).await;
            }
            let piece = match is_late {
                true => {
                    let why = line::expired();
                    self.without_answers(&document, some, why).await?
                }
                false => self.answer(&document, some, &mut place).await,
            };
            let is_whole = piece.is_whole;
            if !piece.is_empty() {
                match self.write_or_fail(&document, piece, is_late).await? {
                    Some(next) => (document, has_written, survived) = (next, true, survived + 1),
                    None => return Ok(()),
                }
            }
            if !is_whole {
                let known = self.runner.change(self.batch, |_| false).await?;
                // Cancelled by its owner, or its time is over. Else it has stalled, or a clock that went on has gone back: it is
                // taken again.
                let is_mine = |known: &BatchDocument| {
                    known.is_held_by(&self.runner.name)
                        && WantedWork::of(known) != WantedWork::Answers
                };
                match known.filter(is_mine) {
                    Some(known) => document = known,
                    None => return Ok(()),
                }
                lines = self.input_lines(input, &document);
            }
            // What waits comes before what has stepped aside.
            if place.is_none() && !self.runner.schedule().any_waits() {
                place = self.runner.running.clone().try_acquire_owned().ok();
                if place.is_some() {
                    self.runner.schedule().come_back(self.batch);
                }
            }
        }
        Ok(())
    }

    /// Whether the store's clock says so, too. Where it does not, the batch rests.
    async fn is_late_for_the_store(&self, document: &BatchDocument) -> ApiResult<bool> {
        let (objects, owner) = (self.runner.objects(), &self.batch.owner);
        let is_late =
            batches::is_late_for_the_store(objects, owner, &self.batch.name, document).await?;
        if !is_late {
            warn!("this gateway's clock is ahead of the store's: no batch is ended by it");
            self.is_ahead.store(true, Ordering::Relaxed);
        }
        Ok(is_late)
    }

    /// Whether it has had its turn and makes room for one that waits; once it does, it leaves.
    fn gives_way(&self) -> bool {
        let is_over = self.begun.elapsed() >= self.runner.app.config.batch_pace.turn;
        let mut gives_way = self.makes_room.load(Ordering::Relaxed);
        if is_over && !gives_way {
            gives_way = self.runner.schedule().makes_room(self.batch);
            self.makes_room.store(gives_way, Ordering::Relaxed);
        }
        gives_way
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
            counts: &self.lines,
        };
        self.has_survived.store(false, Ordering::Relaxed);
        // What holds memory for bodies holds its place, too, so that there is enough for those that run. What is worked on
        // alone gives it up with its lease.
        let may_step_aside = !self.is_alone && lines.iter().all(|line| line.memory.is_none());
        let stop = self.stop.child_token();
        let mut answering = pin!(self.answer_some(&context, lines, document, &stop));
        let mut _aside = None;
        loop {
            tokio::select! {
                piece = &mut answering => return piece,
                () = self.stalled(place.is_some()) => {
                    match self.aside(may_step_aside && place.is_some()) {
                        Some(aside) => {
                            (_aside, *place) = (Some(aside), None);
                            self.runner.has_room.notify_one();
                        }
                        None => {
                            self.has_stalled.store(true, Ordering::Relaxed);
                            stop.cancel();
                        }
                    }
                }
            }
        }
    }

    /// A place aside, unless what waits wants nothing to be answered beside it.
    fn aside(&self, may_step_aside: bool) -> Option<PlaceAside<'a>> {
        let may_step_aside = may_step_aside && !self.runner.schedule().lonely_waits();
        let aside = may_step_aside.then(|| self.runner.step_aside(self.batch));
        aside.flatten()
    }

    /// Answers lines, several at a time, until they are answered or it is told to stop.
    async fn answer_some(
        &self,
        context: &LineContext<'_>,
        lines: Vec<InputLine>,
        document: &BatchDocument,
        stop: &CancellationToken,
    ) -> Piece {
        let ends: Vec<InputPlace> = lines.iter().map(|line| line.end).collect();
        // Once it gives way, it begins no more lines; those that every piece begins make no turn void.
        let goes_on = |(number, _): &(usize, InputLine)| *number < AT_ONCE || !self.gives_way();
        let answering = stream::iter(lines.into_iter().enumerate().take_while(goes_on))
            .map(|(number, line)| async move { (number, context.answer(line).await) });
        let mut answering = pin!(answering.buffer_unordered(AT_ONCE));
        let mut answered = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                next = answering.next() => match next {
                    Some((number, line)) => drop(answered.insert(number, line)),
                    None => break,
                },
                () = stop.cancelled() => break,
            }
        }
        // Cancelled, or late. Otherwise the outputs keep the order of the input.
        let is_ending = self.stop.is_cancelled() && !self.runner.app.shutdown.is_cancelled();
        Piece::of(document, &ends, answered, is_ending)
    }

    /// Ends when no line has begun for a while and others wait for a place; for what has none, when one waits that wants nothing to
    /// be answered beside it.
    async fn stalled(&self, has_place: bool) {
        loop {
            let before = self.lines.news();
            sleep(self.runner.app.config.batch_pace.stalled_after).await;
            let is_stalled = self.lines.news() == before;
            if is_stalled && self.lines.are_asked() {
                self.has_survived.store(true, Ordering::Relaxed);
            }
            let waits = match has_place {
                true => self.runner.schedule().any_waits(),
                false => self.runner.schedule().lonely_waits(),
            };
            if is_stalled && waits {
                return;
            }
        }
    }

    /// The next lines to answer together: those that have no output yet. None where their file cannot be read any more, and
    /// the batch has failed.
    async fn next_lines(
        &self,
        lines: &mut InputLines,
        document: &BatchDocument,
        most: usize,
    ) -> ApiResult<Option<Vec<InputLine>>> {
        let (mut some, mut size) = (Vec::new(), 0);
        while some.len() < most && size < PIECE_BYTES {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.fail(document, input::unreadable(error)?).await?;
                    return Ok(None);
                }
            };
            if !document.ahead.contains(&line.number) {
                size += line.size();
                some.push(line);
            }
        }
        Ok(Some(some))
    }

    /// Says of lines why they are not answered. What is stored of such that were begun goes: nobody is told of it.
    async fn without_answers(
        &self,
        document: &BatchDocument,
        lines: Vec<InputLine>,
        why: BatchLineError,
    ) -> ApiResult<Piece> {
        let numbers = lines.iter().map(|line| line.number).collect();
        self.remove_begun(numbers, |_, _| true).await?;
        let (document, batch) = (document.clone(), self.batch.name.clone());
        body::beside(move || {
            let ends: Vec<InputPlace> = lines.iter().map(|line| line.end).collect();
            let told = lines
                .iter()
                .map(|line| line::not_asked(&batch, line, why.clone()));
            Ok(Piece::of(
                &document,
                &ends,
                told.enumerate().collect(),
                true,
            ))
        })
        .await
    }

    /// Writes the outputs of some lines; none where another gateway has done so meanwhile, or the batch has failed because the
    /// store takes none.
    async fn write_or_fail(
        &self,
        document: &BatchDocument,
        piece: Piece,
        is_late: bool,
    ) -> ApiResult<Option<BatchDocument>> {
        match self.write(document, piece, is_late).await {
            Err(error @ ObjectError::Refused { .. }) => {
                self.fail(document, self.refused(&error)).await?;
                Ok(None)
            }
            written => Ok(written?),
        }
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
            let is_unchanged = known.place == document.place && known.ahead == document.ahead;
            let is_next = is_unchanged && known.is_held_by(holder);
            if is_next {
                known.place = piece.end;
                known.ahead.clone_from(&piece.ahead);
                known.answers = answers.clone();
                known.refusals = refusals.clone();
                known.got_on();
                if piece.is_deadly {
                    known.refused_deadly_line();
                }
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
        let is_this = |known: &BatchDocument| {
            known.place == piece.end && known.ahead == piece.ahead && known.is_held_by(holder)
        };
        Ok(written.filter(is_this))
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

    /// What is told of a batch of whose files the store refuses one, while it answers for others.
    fn refused(&self, error: &ObjectError) -> Vec<BatchLineFault> {
        warn!(batch = self.batch.name, %error, "a batch of requests fails");
        input::refused()
    }
}
