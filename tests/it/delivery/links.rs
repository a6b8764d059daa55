//! Links to the broker that break, seen from both ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use radialog_runtime::backends::Backends;
use radialog_runtime::queue::rabbitmq::RabbitQueue;
use radialog_runtime::queue::{Message, Queue};
use radialog_schemas::{ConversationId, RunId};
use radialog_tests::services::{Redis, Services, TcpProxy};
use radialog_tests::task_harness::TaskHarness;
use radialog_tests::waiting;

use super::{SOON, WORK, failure, findings, next, send_many, settings, studies};
use crate::adapters::{config, rabbitmq_at};

/// A harness with a safe link of its own, and a queue behind a link that can be cut.
async fn harness_behind_proxy() -> (TaskHarness, TcpProxy, Arc<dyn Queue>) {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let harness = TaskHarness::new(rabbitmq_at(&url).await).await.unwrap();
    let proxy = TcpProxy::start(&url).await.unwrap();
    let behind = rabbitmq_at(&proxy.in_front_of(&url)).await;
    (harness, proxy, behind)
}

fn message(text: &str) -> Message {
    Message {
        body: text.to_owned().into(),
        ..Message::default()
    }
}

#[tokio::test]
async fn a_subscription_comes_back_after_a_cut_with_its_prefetch() {
    let (harness, proxy, behind) = harness_behind_proxy().await;
    let mut consumer = behind.consume(WORK, 2).await.unwrap();
    for text in ["a", "b", "c", "d"] {
        harness.queue.publish(WORK, message(text)).await.unwrap();
    }
    let held = [next(&mut consumer).await, next(&mut consumer).await];
    proxy.disconnect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.restore();
    let again = [next(&mut consumer).await, next(&mut consumer).await];
    for delivery in held {
        assert!(
            delivery.receipt.ack().await.is_err(),
            "a stale receipt must not settle another delivery"
        );
    }
    let more = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
    assert!(
        more.is_err(),
        "the prefetch of 2 holds for the new subscription, too"
    );
    // The broker may learn late that the first link is cut.
    let are_back = || async { Ok(harness.queue.depth(WORK).await? == 2) };
    waiting::until("the others do not come back", SOON, are_back)
        .await
        .unwrap();
    let mut bodies = BTreeSet::new();
    for delivery in again {
        bodies.insert(String::from_utf8_lossy(&delivery.message.body).into_owned());
        delivery.receipt.ack().await.unwrap();
    }
    for _ in bodies.len()..4 {
        let delivery = next(&mut consumer).await;
        bodies.insert(String::from_utf8_lossy(&delivery.message.body).into_owned());
        delivery.receipt.ack().await.unwrap();
    }
    assert_eq!(bodies.into_iter().collect::<String>(), "abcd");
}

#[tokio::test]
async fn a_subscription_that_is_dropped_half_made_keeps_no_message() {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let harness = TaskHarness::new(rabbitmq_at(&url).await).await.unwrap();
    // However far each one came.
    for step in 0..60 {
        let making = harness.queue.consume(WORK, 2);
        drop(tokio::time::timeout(Duration::from_micros(step * 100), making).await);
    }
    let mut consumer = harness.queue.consume(WORK, 20).await.unwrap();
    for number in 0..20_u32 {
        let message = message(&number.to_string());
        harness.queue.publish(WORK, message).await.unwrap();
    }
    for _ in 0..20 {
        next(&mut consumer).await.receipt.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_that_somebody_deletes_is_declared_again_by_those_who_use_it() {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let harness = TaskHarness::new(rabbitmq_at(&url).await).await.unwrap();
    let mut consumer = harness.queue.consume(WORK, 2).await.unwrap();
    let amqp = config(&[("amqp.url", &url)]).amqp.unwrap();
    let somebody = RabbitQueue::connect(&amqp, "somebody", SOON).await.unwrap();
    somebody.delete_queues().await.unwrap();
    harness.queue.publish(WORK, message("a")).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.body, "a");
    delivery.receipt.ack().await.unwrap();
}

#[tokio::test]
async fn publishes_wait_for_the_link_and_lose_nothing() {
    let (harness, proxy, behind) = harness_behind_proxy().await;
    let publishers = (0..600).map(|number: u32| {
        let behind = behind.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::from(number) * 2)).await;
            behind.publish(WORK, message(&number.to_string())).await
        })
    });
    let publishing = tokio::spawn(join_all(publishers));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        proxy.disconnect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.restore();
    }
    let all = tokio::time::timeout(SOON, publishing).await;
    for published in all.expect("a publisher waits").unwrap() {
        published.unwrap().unwrap();
    }
    let mut consumer = harness.queue.consume(WORK, 500).await.unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 600 {
        let delivery = next(&mut consumer).await;
        seen.insert(String::from_utf8_lossy(&delivery.message.body).into_owned());
        delivery.receipt.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_message_whose_confirm_was_lost_is_published_again() {
    let (harness, proxy, behind) = harness_behind_proxy().await;
    proxy.drop_responses();
    let publishing = tokio::spawn(async move { behind.publish(WORK, message("a")).await });
    let is_there = || async { Ok(harness.queue.depth(WORK).await? > 0) };
    waiting::until("nothing is published", SOON, is_there)
        .await
        .unwrap();
    assert!(!publishing.is_finished(), "nobody has told the publisher");
    proxy.disconnect();
    proxy.restore();
    let published = tokio::time::timeout(SOON, publishing).await;
    published.expect("the publisher waits").unwrap().unwrap();
    assert_eq!(
        harness.queue.depth(WORK).await.unwrap(),
        2,
        "a duplicate, which is harmless, instead of a loss"
    );
}

#[tokio::test]
async fn a_worker_outlives_cuts_of_its_link() {
    let (harness, proxy, behind) = harness_behind_proxy().await;
    let sent = send_many(&harness, 60).await;
    let stage = Arc::new(findings().batch_limit(4).delay(Duration::from_millis(50)));
    let worker = harness
        .with(behind, harness.objects.clone())
        .start(&stage, settings());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.disconnect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.restore();
    }
    let mut results = Vec::new();
    while studies(&results).len() < sent.len() {
        results.extend(harness.results(1).await.unwrap());
    }
    assert_eq!(studies(&results), sent);
    assert!(results.iter().all(|result| failure(result).is_none()));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_link_that_falls_silent_is_noticed_by_its_heartbeats() {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let proxy = TcpProxy::start(&url).await.unwrap();
    let config = config(&[
        ("amqp.url", &proxy.in_front_of(&url)),
        ("amqp.heartbeat", "1"),
        // Nothing but heartbeats finds it in time.
        ("amqp.publish_timeout", "3600"),
    ]);
    let behind = Backends::queue(&config).await.unwrap();
    proxy.drop_responses();
    let publishing = tokio::spawn(async move { behind.publish(WORK, message("a")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // New connections work again; nobody closes the deaf one.
    proxy.restore();
    let published = tokio::time::timeout(SOON, publishing).await;
    published.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_link_to_redis_whose_answers_were_lost_is_replaced() {
    // One of its own: the nodes of a cluster are reached past the proxy.
    let redis = Redis::start().await.unwrap();
    let proxy = TcpProxy::start(redis.url()).await.unwrap();
    let behind = proxy.in_front_of(redis.url());
    let config = config(&[("redis.url", &behind), ("redis.timeout", "4")]);
    let state = Backends::state(&config).await.unwrap();
    let conversations = Backends::conversations(&config).await.unwrap();
    let (run, id) = (RunId::from("lost-answers"), ConversationId::from("lost"));
    state
        .put_document(&run, "before", "1".into())
        .await
        .unwrap();
    let _watch = conversations.watch(&id, 1).await.unwrap();
    // What is lost stays lost: the connections stand, and are silent for ever.
    proxy.drop_responses();
    state.document(&run, "before").await.unwrap_err();
    conversations.watch(&id, 2).await.err().unwrap();
    proxy.restore();
    let works = async {
        while state.document(&run, "before").await.is_err() {}
        while conversations.watch(&id, 3).await.is_err() {}
    };
    tokio::time::timeout(SOON, works).await.unwrap();
}
