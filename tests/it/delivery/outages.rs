//! Stores and brokers that go away: work pauses, nothing is blamed, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_runtime::objects::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use radialog_runtime::runner::{RunError, RunnerSettings};
use radialog_runtime::state::Fact;
use radialog_schemas::{ContentHash, ObjectKey, RunId, queues};
use radialog_tests::services::{Broker, Redis};
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use super::{SOON, WORK, failure, findings, send_many, settings, studies, until_none_waits};
use crate::adapters::{config, on_each_adapter, rabbitmq_at, redis_at};

use super::adapters;

on_each_adapter! { memory, rabbitmq: {
    while_the_store_is_away_no_attempt_is_burned,
    a_store_that_stays_away_gets_the_tasks_handed_back,
    a_full_store_ends_the_worker_with_a_clear_error,
}}

/// A store whose operations can be made to fail.
struct Failing {
    objects: Arc<dyn Objects>,
    how: Failure,
    left: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Failure {
    Away,
    Full,
}

impl Failing {
    fn new(harness: &TaskHarness, how: Failure, times: usize) -> Arc<Self> {
        Arc::new(Self {
            objects: harness.objects.clone(),
            how,
            left: AtomicUsize::new(times),
        })
    }

    fn check(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        let less = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        match (less, self.how) {
            (Err(_), _) => Ok(()),
            (Ok(_), Failure::Away) => Err(ObjectError::Store {
                key: key.to_string(),
                reason: "unplugged".into(),
            }),
            (Ok(_), Failure::Full) => Err(ObjectError::Full(key.to_string())),
        }
    }
}

#[async_trait]
impl Objects for Failing {
    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.check(key)?;
        self.objects.put(key, content).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        if matches!(self.how, Failure::Away) {
            self.check(key)?;
        }
        self.objects.get(key).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError> {
        self.check(key)?;
        self.objects.put_if(key, content, expected).await
    }

    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError> {
        if matches!(self.how, Failure::Away) {
            self.check(key)?;
        }
        self.objects.get_versioned(key).await
    }

    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.check(key)?;
        self.objects.put_output(key, content).await
    }

    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        if matches!(self.how, Failure::Away) {
            self.check(key)?;
        }
        self.objects.get_output(key).await
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError> {
        if matches!(self.how, Failure::Away) {
            self.check(key)?;
        }
        self.objects.size(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        self.objects.delete(key).await
    }

    async fn list(
        &self,
        p: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError> {
        self.objects.list(p, after, limit).await
    }
}

async fn while_the_store_is_away_no_attempt_is_burned(harness: TaskHarness) {
    let sent = send_many(&harness, 6).await;
    // Every one of them fails two or three times before the store is back.
    let failing = Failing::new(&harness, Failure::Away, 15);
    let worker = harness
        .with(harness.queue.clone(), failing)
        .start(&Arc::new(findings()), settings());
    let results = harness.results(sent.len()).await.unwrap();
    assert_eq!(studies(&results), sent);
    assert!(
        results
            .iter()
            .all(|result| failure(result).is_none() && result.timings.attempt == 0)
    );
    worker.stop().await.unwrap();
    assert!(
        harness
            .queue
            .take("radialog.findings.dead")
            .await
            .unwrap()
            .is_none()
    );
}

async fn a_store_that_stays_away_gets_the_tasks_handed_back(harness: TaskHarness) {
    let sent = send_many(&harness, 2).await;
    let failing = Failing::new(&harness, Failure::Away, usize::MAX);
    // At most two tries for each delivery, of which the second comes after 200 ms.
    let short_timeout = RunnerSettings {
        store_patience: Duration::from_millis(300),
        ..settings()
    };
    let worker = harness
        .with(harness.queue.clone(), failing.clone())
        .start(&Arc::new(findings()), short_timeout);
    // Two tries for each of both, and another one: a task was handed back, and has come again.
    let was_handed_back = || async { Ok(usize::MAX - failing.left.load(Ordering::Relaxed) >= 5) };
    waiting::until("no task is handed back", SOON, was_handed_back)
        .await
        .unwrap();
    failing.left.store(0, Ordering::Relaxed);
    let mut results = Vec::new();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert!(
        results.iter().all(|result| failure(result).is_none()),
        "{results:?}"
    );
    assert!(
        results
            .iter()
            .any(|result| result.timings.queue_ms >= 100.0),
        "waited for in place, a task has left the queue at once: {results:?}"
    );
    worker.stop().await.unwrap();
    assert!(
        harness
            .queue
            .take("radialog.findings.dead")
            .await
            .unwrap()
            .is_none()
    );
}

async fn a_full_store_ends_the_worker_with_a_clear_error(harness: TaskHarness) {
    send_many(&harness, 1).await;
    let full = Failing::new(&harness, Failure::Full, usize::MAX);
    let worker = harness
        .with(harness.queue.clone(), full)
        .start(&Arc::new(findings()), settings());
    let error = worker.ended().await.unwrap();
    assert!(
        matches!(error, RunError::StoreFull(_)) && error.to_string().contains("Free some space"),
        "{error}"
    );
    let worker = harness.start(&Arc::new(findings()), settings());
    assert_eq!(
        failure(&harness.results(1).await.unwrap()[0]),
        None,
        "with room again, the task is done"
    );
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_broker_that_is_restarted_in_mid_run_loses_nothing() {
    let mut broker = Broker::start(1).await.unwrap();
    let harness = TaskHarness::new(rabbitmq_at(&broker.virtual_host().unwrap()).await)
        .await
        .unwrap();
    let sent = send_many(&harness, 60).await;
    let stage = Arc::new(findings().batch_limit(2).delay(Duration::from_millis(100)));
    let worker = harness.start(&stage, settings());
    let mut results = harness.results(5).await.unwrap();
    broker.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.start_again().await.unwrap();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    assert!(
        results
            .iter()
            .all(|result| failure(result).is_none() && result.timings.attempt <= 1)
    );
    until_none_waits(&harness).await;
    worker.stop().await.unwrap();
}

/// Brokers before 3.12 know no such limit of a queue, but one of their own.
#[tokio::test]
async fn a_broker_that_takes_back_what_a_model_takes_long_for_gets_its_result_all_the_same() {
    let often = "-rabbit channel_tick_interval 500";
    let broker = Broker::start_with(1, "consumer_timeout = 1000\n", often);
    let broker = broker.await.unwrap();
    let harness = TaskHarness::new(rabbitmq_at(&broker.virtual_host().unwrap()).await)
        .await
        .unwrap();
    let sent = send_many(&harness, 3).await;
    let stage = Arc::new(findings().batch_limit(1).delay(Duration::from_secs(3)));
    let worker = harness.start(&stage, settings());
    let mut results = Vec::new();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    assert!(results.iter().all(|result| failure(result).is_none()));
    worker.stop().await.unwrap();
    // A task that the broker gave once more may have been handed back: it is done from what is stored.
    while harness.queue.depth(WORK).await.unwrap() > 0 {
        let worker = harness.start(&Arc::new(findings()), settings());
        harness.results(1).await.unwrap();
        worker.stop().await.unwrap();
    }
    assert_eq!(harness.queue.depth(&queues::dead(WORK)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_redis_that_forgets_everything_is_gone_on_with() {
    let mut redis = Redis::start().await.unwrap();
    let state = redis_at(redis.url()).await;
    let run = RunId::from("run");
    let fact = |field: &str| {
        [Fact {
            run: run.clone(),
            study: "s".into(),
            field: field.into(),
            value: "x".into(),
            of: None,
        }]
    };
    state.begin(&fact("study")).await.unwrap();
    assert!(state.record(&fact("findings")).await.unwrap()[0].is_some());
    redis.stop();
    let late = fact("language");
    let (recorded, restarted) = tokio::join!(state.record(&late), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        redis.start_again().await
    });
    restarted.unwrap();
    assert_eq!(
        recorded.unwrap(),
        [None],
        "the study is unknown, and its scripts are loaded again"
    );
    assert_eq!(state.exist(&run, &["s".into()]).await.unwrap(), [false]);
    state.begin(&fact("study")).await.unwrap();
    assert!(state.record(&fact("findings")).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn services_that_are_not_there_are_told_after_the_start_timeout() {
    let nowhere = [
        ("amqp.url", "amqp://127.0.0.1:1"),
        ("redis.url", "redis://127.0.0.1:1/0"),
        ("s3.url", "http://127.0.0.1:1/bucket"),
    ];
    let objects = tempfile::tempdir().unwrap();
    for (name, url) in nowhere {
        let mut config = config(&[(name, url), ("start.timeout", "1")]);
        config.objects.directory = Some(objects.path().to_owned());
        let began = std::time::Instant::now();
        let error = radialog_runtime::backends::Backends::connect(&config)
            .await
            .err()
            .unwrap()
            .to_string();
        // The start timeout that nobody has set is twice as long.
        assert!(began.elapsed() < Duration::from_secs(30), "{name}");
        let flag = format!("--{}", name.split('.').next().unwrap());
        assert!(error.contains(&flag), "{error}");
    }
}
