//! What must be true of every delivery, whatever goes wrong: nothing lost, nothing blamed on the innocent, and the worker
//! lives.

use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::queue::{Consumer, Delivery, Queue};
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{ErrorCode, Outcome, Stage, StageResult};
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

mod alarms;
mod clusters;
mod forgotten;
mod links;
mod messages;
mod outages;
mod shutdown;
mod starts;

/// The work queue of the stage that these tests run.
const WORK: &str = "radialog.findings";
/// Longer than anything here takes, on a machine that others keep busy, too.
const SOON: Duration = Duration::from_secs(180);

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::queue::memory::MemoryQueue;
    use radialog_tests::task_harness::TaskHarness;

    pub(super) async fn memory() -> TaskHarness {
        TaskHarness::new(Arc::new(MemoryQueue::default()))
            .await
            .unwrap()
    }

    pub(super) async fn rabbitmq() -> TaskHarness {
        TaskHarness::new(crate::adapters::rabbitmq().await)
            .await
            .unwrap()
    }
}

fn findings() -> FakeStage {
    FakeStage::new(Stage::Findings)
}

/// Settings of a worker that does not make a test wait.
fn settings() -> RunnerSettings {
    RunnerSettings {
        grace: Duration::from_secs(30),
        ..RunnerSettings::default()
    }
}

fn failure(result: &StageResult) -> Option<ErrorCode> {
    match &result.outcome {
        Outcome::Done { .. } => None,
        Outcome::Failed(failure) => Some(failure.code),
    }
}

/// The studies of these results, each once.
fn studies(results: &[StageResult]) -> Vec<String> {
    let mut studies: Vec<_> = results
        .iter()
        .map(|result| result.study.as_str().to_owned())
        .collect();
    studies.sort();
    studies.dedup();
    studies
}

async fn send_many(harness: &TaskHarness, count: usize) -> Vec<String> {
    let mut sent = Vec::new();
    for number in 0..count {
        let study = format!("study-{number:03}");
        harness
            .send(&harness.task(&study).await.unwrap())
            .await
            .unwrap();
        sent.push(study);
    }
    sent
}

/// Waits until no task waits, also none that the broker has given once more: it is done from what is stored.
async fn until_none_waits(harness: &TaskHarness) {
    let none_waits = || async {
        Ok(harness
            .queue
            .depth(WORK)
            .await
            .is_ok_and(|depth| depth == 0))
    };
    waiting::until("tasks wait", SOON, none_waits)
        .await
        .unwrap();
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    tokio::time::timeout(SOON, consumer.next()).await.unwrap()
}

/// The next message of a queue, as soon as there is one; its delivery is held.
async fn take(queue: &Arc<dyn Queue>, name: &str) -> Delivery {
    let look = || async { Ok(queue.take(name).await?) };
    let what = format!("{name} holds nothing");
    waiting::found(&what, SOON, look).await.unwrap()
}
