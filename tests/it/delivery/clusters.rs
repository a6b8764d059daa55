//! Brokers and stores of several nodes that lose one: work pauses until the others have agreed, and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::queue::Message;
use radialog_runtime::state::Fact;
use radialog_schemas::{RunId, Stage, queues};
use radialog_tests::services::{BrokerCluster, RedisCluster};
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use super::{SOON, WORK, failure, findings, send_many, settings, studies, until_none_waits};
use crate::adapters::{config, rabbitmq_at};

/// A worker and a harness over two nodes, with so many tasks sent.
async fn working(cluster: &BrokerCluster, tasks: usize) -> (TaskHarness, Vec<String>) {
    let harness = TaskHarness::new(rabbitmq_at(&cluster.address()).await);
    let harness = harness.await.unwrap();
    let sent = send_many(&harness, tasks).await;
    (harness, sent)
}

#[tokio::test]
async fn two_brokers_of_which_one_is_killed_frozen_and_comes_back_lose_nothing() {
    let mut cluster = BrokerCluster::start().await.unwrap();
    let (harness, sent) = working(&cluster, 60).await;
    let second = rabbitmq_at(&cluster.second_address()).await;
    let is_one_cluster = || async { Ok(second.depth(WORK).await? == sent.len() as u64) };
    waiting::until("the nodes are no cluster", SOON, is_one_cluster)
        .await
        .unwrap();
    drop(second);
    let stage = Arc::new(findings().batch_limit(2).delay(Duration::from_millis(100)));
    let worker = harness.start(&stage, settings());
    let mut results = harness.results(5).await.unwrap();
    cluster.stop_second();
    cluster.start_second_again().await.unwrap();
    results.extend(harness.results(5).await.unwrap());
    // The first finds the other one gone; the second finds that as soon as it goes on.
    cluster.freeze_second().unwrap();
    cluster.until_first_has_lost_second().await.unwrap();
    cluster.thaw_second().unwrap();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    assert!(results.iter().all(|result| failure(result).is_none()));
    until_none_waits(&harness).await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn two_living_brokers_that_cannot_reach_each_other_take_nothing_and_lose_nothing() {
    let mut cluster = BrokerCluster::start().await.unwrap();
    let (harness, sent) = working(&cluster, 40).await;
    let stage = Arc::new(findings().batch_limit(2).delay(Duration::from_millis(100)));
    let worker = harness.start(&stage, settings());
    let mut results = harness.results(5).await.unwrap();
    // To a queue of both nodes in which nobody counts.
    let impatient = config(&[
        ("amqp.url", &cluster.second_address()),
        ("amqp.publish_timeout", "2"),
    ]);
    let second = Backends::queue(&impatient).await.unwrap();
    let probe = queues::work(Stage::Scoring);
    let takes = || async { Ok(second.publish(probe, Message::default()).await.is_ok()) };
    waiting::until("the nodes are no cluster", SOON, takes)
        .await
        .unwrap();
    cluster.part().unwrap();
    cluster.until_first_has_lost_second().await.unwrap();
    let takes_nothing = || async { Ok(second.publish(probe, Message::default()).await.is_err()) };
    waiting::until("the nodes are not parted", SOON, takes_nothing)
        .await
        .unwrap();
    cluster.join();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    assert!(results.iter().all(|result| failure(result).is_none()));
    until_none_waits(&harness).await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn every_primary_of_a_redis_cluster_can_be_lost_in_turn() {
    let mut cluster = RedisCluster::with_replicas().await.unwrap();
    // A replica may take long to step in where others keep the machine busy.
    let patient = config(&[("redis.url", &cluster.url()), ("redis.timeout", "120")]);
    let state = Backends::state(&patient).await.unwrap();
    // Runs whose keys lie on all of the nodes.
    let runs: Vec<RunId> = (0..30).map(|run| RunId(format!("run-{run}"))).collect();
    let facts = |field: &str| -> Vec<Fact> {
        let fact = |run: &RunId| Fact {
            run: run.clone(),
            study: "study".into(),
            field: field.into(),
            value: field.into(),
            of: None,
        };
        runs.iter().map(fact).collect()
    };
    state.begin(&facts("begun")).await.unwrap();
    for lost in 0..cluster.primaries() {
        cluster.until_replicated().await.unwrap();
        cluster.stop(lost);
        let during = facts(&format!("while {lost} is lost"));
        let recorded = tokio::time::timeout(SOON, state.record(&during)).await;
        let recorded = recorded.unwrap().unwrap();
        assert!(recorded.iter().all(Option::is_some), "{recorded:?}");
        cluster.start_again(lost).await.unwrap();
    }
    let all = state.record(&facts("last")).await.unwrap();
    for facts in all {
        assert_eq!(facts.unwrap().len(), cluster.primaries() + 2);
    }
}
