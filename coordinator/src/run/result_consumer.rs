//! The consumer of results: what workers report becomes facts, and facts become the next tasks. Any number of coordinators
//! may consume `radialog.results`; a study's results may reach different ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{join_all, try_join_all};
use radialog_runtime::backends::Backends;
use radialog_runtime::queue::{Consumer, Death, Delivery, Message};
use radialog_runtime::state::{Fact, Facts, STUDY_FIELD};
use radialog_schemas::{
    ConversationId, ErrorCode, Failure, Outcome, RunId, RunSpec, SCHEMA_VERSION, Stage,
    StageResult, is_known_schema_version, queues,
};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::executor::{Executor, StudyStep};
use super::pipeline::{StudyCommand, StudyEvent, StudyFacts, next_commands};
use super::retry::RetryUntilShutdown;
use super::run_state::SPEC_DOCUMENT;
use crate::CoordinatorError;

/// Results handled in one go: enough to share round trips and confirms, few enough to keep the memory of a batch small.
const BATCH: usize = 128;
/// One batch in work, one waiting.
const PREFETCH: u16 = 2 * BATCH as u16;
/// A run's specification is a few hundred bytes; old ones are dropped when there are this many.
const CACHED_RUNS: usize = 64;

/// A consumer of the results queue.
pub struct ResultConsumer {
    executor: Executor,
    worker: String,
    wake: Arc<Notify>,
    runs: HashMap<RunId, Arc<RunSpec>>,
}

#[derive(Deserialize)]
struct Envelope {
    schema_version: u32,
}

/// What the state has of a run.
enum KnownRun {
    Known(Arc<RunSpec>),
    /// Another release's, as it seems.
    Unreadable,
    None,
}

/// What is to become of a result of a study that exists.
enum Fate {
    Wanted,
    Dropped,
    /// Its run or study cannot be read here, or its run is not there yet.
    Unreadable,
}

/// The results of a batch by what is to become of them. Those that are in none are dropped.
#[derive(Default)]
struct Sorted {
    /// Those that are of their studies as they are now.
    wanted: Vec<StageResult>,
    /// The facts that these are.
    facts: Vec<Fact>,
    /// Those whose studies do not exist.
    unknown: Vec<StageResult>,
    /// Places of those whose runs or studies cannot be read here, or whose runs are not there yet.
    unreadable: BTreeSet<usize>,
}

impl ResultConsumer {
    /// Creates a consumer that works until `shutdown`. `worker` names it in dead letters.
    pub fn new(backends: Backends, worker: impl Into<String>, shutdown: CancellationToken) -> Self {
        Self::with(
            Executor {
                backends,
                retry: RetryUntilShutdown::new(shutdown),
            },
            worker.into(),
            Arc::default(),
        )
    }

    /// Creates a consumer that tells `wake` whenever studies were finished.
    pub(crate) fn with(executor: Executor, worker: String, wake: Arc<Notify>) -> Self {
        Self {
            executor,
            worker,
            wake,
            runs: HashMap::new(),
        }
    }

    /// Works until the shutdown. What was not settled by then goes back to the queue; handling it again changes nothing.
    ///
    /// # Errors
    /// When the broker refuses the subscription.
    pub async fn run(mut self) -> Result<(), CoordinatorError> {
        let retry = self.executor.retry.clone();
        let queue = self.executor.backends.queue.clone();
        let mut consumer = queue.consume(queues::RESULTS, PREFETCH).await?;
        loop {
            let batch = tokio::select! {
                biased;
                () = retry.shutdown().cancelled() => return Ok(()),
                batch = ready(&mut *consumer) => batch,
            };
            match self.handle(batch).await {
                Ok(()) => {}
                Err(CoordinatorError::Stopped) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn handle(&mut self, batch: Vec<Delivery>) -> Result<(), CoordinatorError> {
        let mut good = Vec::with_capacity(batch.len());
        let mut deliveries = Vec::with_capacity(batch.len());
        let mut bad = Vec::new();
        for delivery in batch {
            match parse(&delivery.message.body) {
                Ok(result) => {
                    good.push(result);
                    deliveries.push(delivery);
                }
                Err(failure) => bad.push((delivery, failure)),
            }
        }
        try_join_all(
            bad.into_iter()
                .map(|(delivery, failure)| self.set_aside(delivery, failure)),
        )
        .await?;

        let sorted = self.sorted(good).await?;
        let known = self.record(&sorted.facts).await?;
        let gone = sorted
            .wanted
            .iter()
            .zip(&known)
            .filter(|(_, facts)| facts.is_none());
        let gone = gone.map(|(result, _)| result);
        let unknown: Vec<&StageResult> = sorted.unknown.iter().chain(gone).collect();
        let mut steps = Vec::new();
        for study in by_study(&sorted.wanted, known) {
            match self.step(&study).await? {
                Some(step) => steps.push(step),
                None => {
                    warn!(run = %study.run, "a result of a run whose facts cannot be read is dropped")
                }
            }
        }
        self.executor.execute(&steps).await?;
        self.remove_late_outputs(unknown).await?;
        if steps
            .iter()
            .any(|step| step.commands.contains(&StudyCommand::Finish))
        {
            self.wake.notify_one();
        }
        let (unreadable, handled): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .enumerate()
            .partition(|(place, _)| sorted.unreadable.contains(place));
        try_join_all(
            unreadable
                .into_iter()
                .map(|(_, delivery)| self.set_aside(delivery, unreadable_run())),
        )
        .await?;
        // A lost acknowledgement only means that the result comes again.
        let acknowledged = handled
            .into_iter()
            .map(|(_, delivery)| delivery.receipt.ack());
        for result in join_all(acknowledged).await {
            if let Err(error) = result {
                warn!(%error, "an acknowledgement was lost; the result comes again");
            }
        }
        Ok(())
    }

    /// Sorts results. Those of images that studies had before are dropped: a fact is written once, and would keep the result of the
    /// study's own task out.
    async fn sorted(&mut self, results: Vec<StageResult>) -> Result<Sorted, CoordinatorError> {
        let descriptions: Vec<Fact> = results.iter().map(description).collect();
        let known = self.record(&descriptions).await?;
        let mut sorted = Sorted::default();
        for (place, (result, facts)) in results.into_iter().zip(known).enumerate() {
            let Some(mut facts) = facts else {
                sorted.unknown.push(result);
                continue;
            };
            match self.fate(&result, &facts).await? {
                Fate::Wanted => {
                    // Behind this look the study may end, and be begun again with another image.
                    let of = facts.remove(STUDY_FIELD);
                    sorted.facts.push(fact(&result, of));
                    sorted.wanted.push(result);
                }
                Fate::Unreadable => {
                    sorted.unreadable.insert(place);
                }
                Fate::Dropped => {}
            }
        }
        Ok(sorted)
    }

    /// Whether a result is of its study as it is now.
    async fn fate(
        &mut self,
        result: &StageResult,
        facts: &Facts,
    ) -> Result<Fate, CoordinatorError> {
        let why_not = match self.spec(&result.run).await? {
            KnownRun::Known(run) => match StudyFacts::parse(facts) {
                Ok(facts) if facts.takes(&run, result) => return Ok(Fate::Wanted),
                Ok(_) => "it is of another input than the study has now",
                Err(_) => return Ok(Fate::Unreadable),
            },
            // A state that has lost everything has a study again before its run.
            KnownRun::Unreadable | KnownRun::None => return Ok(Fate::Unreadable),
        };
        warn!(run = %result.run, study = %result.study, stage = %result.stage, "a result is dropped: {why_not}");
        Ok(Fate::Dropped)
    }

    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, CoordinatorError> {
        let state = &self.executor.backends.state;
        let retry = &self.executor.retry;
        retry.until_success(|| state.record(facts)).await
    }

    async fn step(
        &mut self,
        study: &StudyResults<'_>,
    ) -> Result<Option<StudyStep>, CoordinatorError> {
        let KnownRun::Known(run) = self.spec(study.run).await? else {
            return Ok(None);
        };
        let Ok(facts) = StudyFacts::parse(&study.facts) else {
            return Ok(None);
        };
        let commands = next_commands(&run, &facts, StudyEvent::Reported(&study.stages));
        Ok(Some(StudyStep {
            run,
            facts,
            commands,
        }))
    }

    /// Removes what stages have stored for conversations that are gone, since their studies went with them. Of one that is there
    /// a late duplicate takes nothing.
    async fn remove_late_outputs(
        &mut self,
        unknown: Vec<&StageResult>,
    ) -> Result<(), CoordinatorError> {
        let mut conversations = BTreeSet::new();
        for result in unknown {
            conversations.extend(self.conversation(result).await?);
        }
        let removals = conversations
            .iter()
            .map(|conversation| self.executor.remove_unowned(conversation));
        try_join_all(removals).await?;
        Ok(())
    }

    /// The conversation that a result's output belongs to, as this state knows it by the run. None where it is an archive's, or
    /// the state knows nothing of the run: then it may be of a conversation that lives in another one, beside the same store and
    /// broker. What is nobody's a sweep finds, too.
    async fn conversation(
        &mut self,
        result: &StageResult,
    ) -> Result<Option<ConversationId>, CoordinatorError> {
        // A store that did not say so may have stored the output of what failed all the same.
        if let Outcome::Done { output } = &result.outcome
            && output.conversation().is_none()
        {
            return Ok(None);
        }
        Ok(match self.spec(&result.run).await? {
            KnownRun::Known(run) => run.conversation.clone(),
            KnownRun::Unreadable | KnownRun::None => None,
        })
    }

    async fn spec(&mut self, run: &RunId) -> Result<KnownRun, CoordinatorError> {
        if let Some(spec) = self.runs.get(run) {
            return Ok(KnownRun::Known(spec.clone()));
        }
        let state = self.executor.backends.state.clone();
        let document = self
            .executor
            .retry
            .until_success(|| state.document(run, SPEC_DOCUMENT))
            .await?;
        let Some(document) = document else {
            return Ok(KnownRun::None);
        };
        let Ok(spec) = serde_json::from_str::<RunSpec>(&document) else {
            return Ok(KnownRun::Unreadable);
        };
        let spec = Arc::new(spec);
        if self.runs.len() >= CACHED_RUNS {
            self.runs.clear();
        }
        self.runs.insert(run.clone(), spec.clone());
        Ok(KnownRun::Known(spec))
    }

    /// Moves a message that is no result to the dead letters; one of another release's schema, of a run that another release
    /// has begun, or of a run that is not there, first waits, a few times, for a coordinator of that release or for the run.
    async fn set_aside(
        &self,
        delivery: Delivery,
        failure: Failure,
    ) -> Result<(), CoordinatorError> {
        let tries = delivery.message.tries(failure.code);
        let (target, message) = if tries < failure.code.retries() {
            warn!(%failure, "a message on the results queue is left to another coordinator");
            let message = delivery.message.next_try(failure.code);
            (queues::retry(queues::RESULTS, tries), message)
        } else {
            warn!(code = %failure.code, "a message on the results queue is dead-lettered");
            let death = Death {
                code: failure.code.as_str(),
                reason: failure.message,
                source: queues::RESULTS.to_owned(),
                worker: self.worker.clone(),
            };
            let message = Message {
                death: Some(death),
                ..delivery.message
            };
            (queues::dead(queues::RESULTS), message)
        };
        let queue = &self.executor.backends.queue;
        self.executor
            .retry
            .until_success(|| queue.publish(&target, message.clone()))
            .await?;
        if let Err(error) = delivery.receipt.ack().await {
            warn!(%error, "an acknowledgement was lost; the message is there twice");
        }
        Ok(())
    }
}

/// Waits for one delivery and takes what else is ready.
async fn ready(consumer: &mut dyn Consumer) -> Vec<Delivery> {
    let mut batch = vec![consumer.next().await];
    while batch.len() < BATCH
        && let Some(delivery) = consumer.next().now_or_never()
    {
        batch.push(delivery);
    }
    batch
}

fn parse(body: &[u8]) -> Result<StageResult, Failure> {
    let invalid = |error: serde_json::Error| {
        Failure::new(
            ErrorCode::MessageInvalid,
            format!("the message is not a stage's result: {error}"),
        )
    };
    let envelope: Envelope = serde_json::from_slice(body).map_err(invalid)?;
    if !is_known_schema_version(envelope.schema_version) {
        let message = format!(
            "the message has schema version {}, this coordinator knows {SCHEMA_VERSION}; upgrade the older of the two",
            envelope.schema_version
        );
        return Err(Failure::new(ErrorCode::SchemaVersion, message));
    }
    serde_json::from_slice(body).map_err(invalid)
}

fn unreadable_run() -> Failure {
    let message = "the result's run, or its study, cannot be read by this coordinator, as where another release has begun it (upgrade the older of the two), or the run is not there yet";
    Failure::new(ErrorCode::SchemaVersion, message)
}

/// The fact that a result is, of the study with this description.
fn fact(result: &StageResult, of: Option<String>) -> Fact {
    Fact {
        run: result.run.clone(),
        study: result.study.clone(),
        field: result.stage.name().to_owned(),
        value: serde_json::to_string(result).expect("a result has string keys only"),
        of,
    }
}

/// The fact that a result's study has from its beginning on: recording it tells what is known, and changes nothing.
fn description(result: &StageResult) -> Fact {
    Fact {
        run: result.run.clone(),
        study: result.study.clone(),
        field: STUDY_FIELD.to_owned(),
        value: String::new(),
        of: None,
    }
}

/// What one batch of results says about one study.
struct StudyResults<'a> {
    run: &'a RunId,
    stages: Vec<Stage>,
    /// The study's facts after the whole batch.
    facts: Facts,
}

/// Groups results, so that each study is there once. Studies that do not exist any more (a late duplicate, a conversation that
/// was deleted) are left out.
fn by_study(results: &[StageResult], known: Vec<Option<Facts>>) -> Vec<StudyResults<'_>> {
    let mut studies: Vec<StudyResults<'_>> = Vec::new();
    let mut places = HashMap::new();
    for (result, facts) in results.iter().zip(known) {
        let Some(facts) = facts else { continue };
        let place = *places
            .entry((&result.run, &result.study))
            .or_insert(studies.len());
        match studies.get_mut(place) {
            Some(study) => {
                study.stages.push(result.stage);
                study.facts = facts;
            }
            None => studies.push(StudyResults {
                run: &result.run,
                stages: vec![result.stage],
                facts,
            }),
        }
    }
    studies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_result_has_a_code_and_a_reason() {
        let code = |body: &[u8]| parse(body).unwrap_err().code;
        assert_eq!(code(b"not json"), ErrorCode::MessageInvalid);
        assert_eq!(code(b"{}"), ErrorCode::MessageInvalid);
        assert_eq!(
            code(br#"{"schema_version": 99, "anything": 1}"#),
            ErrorCode::SchemaVersion
        );
        assert_eq!(
            code(br#"{"schema_version": 1, "run": "r"}"#),
            ErrorCode::MessageInvalid
        );
    }
}
