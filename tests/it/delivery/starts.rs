//! Starting while the broker is not there, or comes and goes: the start waits.

use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::queue::QueueError;
use radialog_tests::services::{Broker, Services, TcpProxy};
use radialog_tests::waiting;

use super::{SOON, WORK};
use crate::adapters::config;

#[tokio::test]
async fn a_process_that_starts_while_the_broker_restarts_is_there_afterwards() {
    let mut broker = Broker::start(1).await.unwrap();
    let url = broker.virtual_host().unwrap();
    broker.stop();
    let config = config(&[("amqp.url", &url), ("start.timeout", "600")]);
    let starting = tokio::spawn(async move { Backends::queue(&config).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!starting.is_finished(), "it waits");
    broker.start_again().await.unwrap();
    let started = tokio::time::timeout(SOON, starting).await;
    let queue = started.expect("it does not start").unwrap().unwrap();
    // The node goes again before the worker has loaded its model, and subscribes.
    broker.stop();
    let subscribing = tokio::spawn(async move { queue.consume(WORK, 1).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!subscribing.is_finished(), "it waits");
    broker.start_again().await.unwrap();
    let subscribed = tokio::time::timeout(SOON, subscribing).await;
    subscribed.expect("it does not subscribe").unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_is_reset_while_the_queues_are_declared_delays_the_start() {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let proxy = TcpProxy::start(&url).await.unwrap();
    let config = config(&[("amqp.url", &proxy.in_front_of(&url))]);
    let starting = tokio::spawn(async move { Backends::queue(&config).await });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxy.disconnect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.restore();
    }
    let started = tokio::time::timeout(SOON, starting).await;
    let queue = started.unwrap().unwrap().unwrap();
    // It may have been there before the last reset, and connects again then.
    let look = || async {
        match queue.depth(WORK).await {
            Err(QueueError::Unreachable(_)) => Ok(None),
            depth => Ok(Some(depth?)),
        }
    };
    let depth = waiting::found("it does not connect again", SOON, look).await;
    assert_eq!(depth.unwrap(), 0);
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_told_at_once_and_not_waited_for() {
    let url = Services::shared().await.unwrap().amqp().unwrap();
    let config = config(&[("amqp.url", &url), ("start.timeout", "600")]);
    let queue = Backends::queue(&config).await.unwrap();
    let missing = tokio::time::timeout(SOON, queue.consume("radialog.missing", 1)).await;
    let error = missing.expect("it does not wait").err().unwrap();
    assert!(error.to_string().contains("no such queue"), "{error}");
}
