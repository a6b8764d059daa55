//! An answer while it is being written: from the model, token by token, into the conversation.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use radialog_schemas::{Answer, ConversationId, ErrorCode, Failure, TurnEvent, TurnOutcome};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Chat;
use crate::conversations::{AppendOutcome, ConversationSnapshot};
use crate::runner::held::Held;
use crate::runner::model::Answered;
use crate::runner::task::{Setback, Worker};
use crate::stage::{OpenTurn, PreparedTurn, StageOutput, StageWork};

/// Most events in one call; more than a decode step makes.
const EVENTS: usize = 64;
/// How often a turn that has no token yet looks whether anybody still wants it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The turn as this worker has taken it.
pub(super) struct Page<'a> {
    pub(super) conversation: &'a ConversationId,
    pub(super) turn: u32,
    pub(super) epoch: u64,
    pub(super) snapshot: &'a ConversationSnapshot,
    pub(super) events: &'a [TurnEvent],
}

/// What this worker has written.
struct Written {
    /// Number of the turn's last event.
    last: u64,
    /// Every token of the answer, those of earlier workers included.
    tokens: Vec<u32>,
}

/// Why nobody writes on.
enum Stop {
    /// Another worker has the turn, or it is gone.
    Fenced,
    /// Nobody wants it.
    Cancelled,
    Setback(Setback),
}

impl From<Setback> for Stop {
    fn from(setback: Setback) -> Self {
        Stop::Setback(setback)
    }
}

impl<W: StageWork> Worker<W> {
    /// Writes the answer; none where another worker has the turn now.
    pub(super) async fn write(
        &self,
        chat: &Chat<W::Input>,
        page: &Page<'_>,
        held: &mut Held,
    ) -> Result<Option<TurnOutcome>, Setback> {
        match self.write_all(chat, page, held).await {
            Ok(answer) => Ok(Some(TurnOutcome::Done(answer))),
            Err(Stop::Cancelled) => Ok(Some(TurnOutcome::Cancelled)),
            Err(Stop::Fenced) => Ok(None),
            Err(Stop::Setback(setback)) => Err(setback),
        }
    }

    async fn write_all(
        &self,
        chat: &Chat<W::Input>,
        page: &Page<'_>,
        held: &mut Held,
    ) -> Result<Answer, Stop> {
        let suspect = self.suspect_turn(held).await?;
        let tokens = page.events.iter().filter_map(token).collect();
        let mut written = Written {
            last: page.events.len() as u64,
            tokens,
        };
        // Coming back once is no suspicion here: the reader waits, and a second crash gives the turn away.
        let mut alone = suspect.is_some();
        let mut started = false;
        loop {
            let (sender, mut said) = unbounded_channel();
            let prepare = self
                .patience
                .wait(|| self.prepare(chat, page, &written.tokens, sender.clone()));
            let PreparedTurn { input, asked } = self
                .unless_stopping(prepare)
                .await?
                .map_err(Setback::from)?;
            drop(sender);
            if !started {
                page.append(chat, &mut written, vec![TurnEvent::Started { asked }])
                    .await?;
                started = true;
            }
            let answered = self.model.ask(input, alone, true);
            match page
                .follow(chat, &mut written, &mut said, answered, held)
                .await?
            {
                Some(answer) => {
                    let output = answer.map_err(Setback::Failure)?;
                    self.metrics
                        .model_time
                        .observe(output.model_time.as_secs_f64());
                    self.metrics.batch.observe(f64::from(output.batch));
                    self.metrics.tokens.inc_by(u64::from(output.tokens));
                    return serde_json::from_slice(&output.content).map_err(|error| {
                        let message =
                            format!("the model's answer is none: {error}; please report this");
                        Setback::Failure(Failure::new(ErrorCode::Model, message)).into()
                    });
                }
                None => alone = self.alone_after_silence(alone)?,
            }
        }
    }

    async fn prepare(
        &self,
        chat: &Chat<W::Input>,
        page: &Page<'_>,
        written: &[u32],
        sender: UnboundedSender<TurnEvent>,
    ) -> Result<PreparedTurn<W::Input>, Failure> {
        let turn = OpenTurn {
            snapshot: page.snapshot,
            number: page.turn,
            written,
            events: sender,
        };
        let prepare =
            AssertUnwindSafe(chat.work.prepare(turn, self.objects.as_ref())).catch_unwind();
        let crashed = |_| {
            Err(Failure::new(
                ErrorCode::Crash,
                "preparing the turn panicked; see the worker's log",
            ))
        };
        prepare.await.unwrap_or_else(crashed)
    }
}

impl Page<'_> {
    /// Writes what the model says until it has answered; none where it went silent.
    async fn follow<I>(
        &self,
        chat: &Chat<I>,
        written: &mut Written,
        said: &mut UnboundedReceiver<TurnEvent>,
        mut answered: Answered,
        held: &Held,
    ) -> Result<Option<Result<StageOutput, Failure>>, Stop> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut is_first = written.tokens.is_empty();
        let mut goes_on = true;
        loop {
            let mut events = Vec::new();
            let answer = tokio::select! {
                biased;
                count = said.recv_many(&mut events, EVENTS), if goes_on => {
                    goes_on = count > 0;
                    None
                }
                answer = &mut answered => {
                    while let Ok(event) = said.try_recv() {
                        events.push(event);
                    }
                    Some(answer.ok())
                }
                _ = look.tick(), if goes_on => {
                    self.append(chat, written, Vec::new()).await?;
                    None
                }
            };
            if !events.is_empty() {
                self.append(chat, written, events).await?;
                if std::mem::take(&mut is_first) {
                    chat.metrics
                        .first_token
                        .observe(held.waited().as_secs_f64());
                }
                look.reset();
            }
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }

    /// Adds events to the turn. No events only ask whether anybody still wants them.
    async fn append<I>(
        &self,
        chat: &Chat<I>,
        written: &mut Written,
        events: Vec<TurnEvent>,
    ) -> Result<(), Stop> {
        let after = written.last;
        let append = || {
            chat.conversations
                .append(self.conversation, self.turn, self.epoch, after, &events)
        };
        match chat.until_answered(append).await? {
            AppendOutcome::Fenced => return Err(Stop::Fenced),
            AppendOutcome::Cancelled => return Err(Stop::Cancelled),
            AppendOutcome::Done => {}
        }
        written.last += events.len() as u64;
        written.tokens.extend(events.iter().filter_map(token));
        Ok(())
    }
}

fn token(event: &TurnEvent) -> Option<u32> {
    match event {
        TurnEvent::Token { id, .. } => Some(*id),
        _ => None,
    }
}
