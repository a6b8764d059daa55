//! The queue contract.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use radialog_runtime::queue::{Consumer, Death, Delivery, Message, Queue};
use radialog_schemas::{Stage, queues};

use crate::adapters::on_each_adapter;

const WORK: &str = "radialog.findings";
/// Longer than anything here takes, on a machine that others keep busy, too.
const SOON: Duration = Duration::from_secs(180);
/// Long enough to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(300);

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::queue::Queue;
    use radialog_runtime::queue::memory::MemoryQueue;

    pub(super) async fn memory() -> Arc<dyn Queue> {
        declared(Arc::new(MemoryQueue::default())).await
    }

    pub(super) async fn rabbitmq() -> Arc<dyn Queue> {
        declared(crate::adapters::rabbitmq().await).await
    }

    async fn declared(queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        queue.declare().await.unwrap();
        queue
    }
}

on_each_adapter! { memory, rabbitmq: {
    a_message_arrives_as_it_was_published,
    messages_come_in_the_order_of_publishing_and_acknowledged_ones_are_gone,
    no_more_than_the_prefetch_is_given_out,
    the_prefetch_can_be_changed_and_stopped,
    what_a_dropped_consumer_held_comes_again_marked,
    what_is_handed_back_comes_again_soon,
    a_retried_message_comes_back_to_the_work_queue_after_its_delay,
    taking_gives_one_message_and_dropping_it_hands_it_back,
    publishing_to_a_queue_that_does_not_exist_is_an_error_and_harms_nobody,
    declaring_twice_is_harmless,
    many_publishers_at_once_lose_nothing,
    two_consumers_share_a_queue,
    next_can_be_cut_short_without_losing_a_message,
}}

fn message(text: &str) -> Message {
    Message {
        body: text.to_owned().into(),
        ..Message::default()
    }
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).unwrap()
}

async fn publish(queue: &Arc<dyn Queue>, texts: &[&str]) {
    for text in texts {
        queue.publish(WORK, message(text)).await.unwrap();
    }
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    tokio::time::timeout(SOON, consumer.next()).await.unwrap()
}

async fn nothing_comes(consumer: &mut Box<dyn Consumer>) -> bool {
    tokio::time::timeout(A_WHILE, consumer.next())
        .await
        .is_err()
}

async fn a_message_arrives_as_it_was_published(queue: Arc<dyn Queue>) {
    let death = Death {
        code: "model".into(),
        reason: "ä".into(),
        source: WORK.into(),
        worker: "w".into(),
    };
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let sent = Message {
        attempt: 3,
        passed_on: 2,
        traceparent,
        death: Some(death),
        ..message("{\"a\": 1}")
    };
    queue.publish(WORK, sent.clone()).await.unwrap();
    let delivery = next(&mut queue.consume(WORK, 1).await.unwrap()).await;
    assert!(delivery.message.published.unwrap().elapsed().unwrap() < SOON);
    assert_eq!(
        Message {
            published: None,
            ..delivery.message
        },
        sent
    );
    assert!(!delivery.redelivered);
    assert_eq!(delivery.delivery_count, 0);
}

async fn messages_come_in_the_order_of_publishing_and_acknowledged_ones_are_gone(
    queue: Arc<dyn Queue>,
) {
    publish(&queue, &["a", "b", "c"]).await;
    let mut consumer = queue.consume(WORK, 10).await.unwrap();
    for expected in ["a", "b", "c"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(body(&delivery), expected);
        delivery.receipt.ack().await.unwrap();
    }
    drop(consumer);
    let mut consumer = queue.consume(WORK, 10).await.unwrap();
    assert!(nothing_comes(&mut consumer).await);
    assert_eq!(queue.depth(WORK).await.unwrap(), 0);
}

async fn no_more_than_the_prefetch_is_given_out(queue: Arc<dyn Queue>) {
    publish(&queue, &["a", "b", "c"]).await;
    let mut consumer = queue.consume(WORK, 2).await.unwrap();
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    assert!(nothing_comes(&mut consumer).await);
    assert_eq!(queue.depth(WORK).await.unwrap(), 1);
    first.receipt.ack().await.unwrap();
    assert_eq!(body(&next(&mut consumer).await), "c");
}

async fn the_prefetch_can_be_changed_and_stopped(queue: Arc<dyn Queue>) {
    publish(&queue, &["a", "b", "c", "d"]).await;
    let mut consumer = queue.consume(WORK, 1).await.unwrap();
    let first = next(&mut consumer).await;
    consumer.set_prefetch(2).await;
    // A changed prefetch may or may not count what was out before.
    let second = next(&mut consumer).await;
    first.receipt.ack().await.unwrap();
    let third = next(&mut consumer).await;
    consumer.set_prefetch(0).await;
    second.receipt.ack().await.unwrap();
    third.receipt.ack().await.unwrap();
    assert!(nothing_comes(&mut consumer).await);
    consumer.set_prefetch(5).await;
    assert_eq!(body(&next(&mut consumer).await), "d");
}

async fn what_a_dropped_consumer_held_comes_again_marked(queue: Arc<dyn Queue>) {
    publish(&queue, &["a", "b", "c"]).await;
    let mut first = queue.consume(WORK, 2).await.unwrap();
    let held = [next(&mut first).await, next(&mut first).await];
    drop(first);
    let mut second = queue.consume(WORK, 10).await.unwrap();
    let mut came = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut second).await;
        came.push((
            body(&delivery),
            delivery.redelivered,
            delivery.delivery_count,
        ));
        delivery.receipt.ack().await.unwrap();
    }
    // A broker may give out the third before it knows that the first consumer is gone.
    came.sort();
    assert_eq!(
        came,
        [
            ("a".into(), true, 1),
            ("b".into(), true, 1),
            ("c".into(), false, 0)
        ]
    );
    for delivery in held {
        assert!(
            delivery.receipt.ack().await.is_err(),
            "the receipt went with its consumer"
        );
    }
}

async fn what_is_handed_back_comes_again_soon(queue: Arc<dyn Queue>) {
    publish(&queue, &["a"]).await;
    let mut consumer = queue.consume(WORK, 1).await.unwrap();
    next(&mut consumer).await.receipt.requeue().await.unwrap();
    let again = next(&mut consumer).await;
    assert_eq!(
        (body(&again).as_str(), again.message.attempt),
        ("a", 0),
        "a hand-back is not an attempt"
    );
    assert!(again.redelivered);
}

async fn a_retried_message_comes_back_to_the_work_queue_after_its_delay(queue: Arc<dyn Queue>) {
    let mut consumer = queue.consume(WORK, 10).await.unwrap();
    let mut sent = Vec::new();
    for text in ["a", "b"] {
        sent.push(Instant::now());
        let retried = Message {
            attempt: 1,
            ..message(text)
        };
        queue
            .publish(&queues::retry(WORK, 0), retried)
            .await
            .unwrap();
    }
    for (expected, sent) in ["a", "b"].into_iter().zip(sent) {
        let delivery = next(&mut consumer).await;
        let waited = sent.elapsed();
        assert!(waited >= queues::RETRY_DELAYS[0], "{waited:?}");
        assert_eq!(
            (body(&delivery).as_str(), delivery.message.attempt),
            (expected, 1)
        );
        assert!(!delivery.redelivered, "waiting is no crash");
        delivery.receipt.ack().await.unwrap();
    }
}

async fn taking_gives_one_message_and_dropping_it_hands_it_back(queue: Arc<dyn Queue>) {
    let dead = queues::dead(WORK);
    assert!(queue.take(&dead).await.unwrap().is_none());
    queue.publish(&dead, message("a")).await.unwrap();
    queue.publish(&dead, message("b")).await.unwrap();
    let (first, second) = (
        queue.take(&dead).await.unwrap().unwrap(),
        queue.take(&dead).await.unwrap().unwrap(),
    );
    assert_eq!((body(&first).as_str(), body(&second).as_str()), ("a", "b"));
    assert!(queue.take(&dead).await.unwrap().is_none());
    second.receipt.ack().await.unwrap();
    drop(first);
    let began = Instant::now();
    let again = loop {
        match queue.take(&dead).await.unwrap() {
            Some(delivery) => break delivery,
            None => assert!(began.elapsed() < SOON),
        }
    };
    assert_eq!(body(&again), "a");
}

async fn publishing_to_a_queue_that_does_not_exist_is_an_error_and_harms_nobody(
    queue: Arc<dyn Queue>,
) {
    let publish = |number: usize| {
        let queue = queue.clone();
        async move {
            let to = if number.is_multiple_of(3) {
                "radialog.nowhere"
            } else {
                WORK
            };
            (to, queue.publish(to, message("x")).await)
        }
    };
    for (to, published) in join_all((0..60).map(publish)).await {
        assert_eq!(published.is_ok(), to == WORK, "{to}: {published:?}");
    }
    assert!(queue.depth(WORK).await.unwrap() >= 40);
    assert!(queue.consume("radialog.nowhere", 1).await.is_err());
    assert!(queue.depth("radialog.nowhere").await.is_err());
    assert!(queue.take("radialog.nowhere").await.is_err());
    assert_eq!(queue.depth(&queues::dead(WORK)).await.unwrap(), 0);
}

async fn declaring_twice_is_harmless(queue: Arc<dyn Queue>) {
    publish(&queue, &["a"]).await;
    queue.declare().await.unwrap();
    assert_eq!(queue.depth(WORK).await.unwrap(), 1);
    for stage in Stage::ALL {
        assert!(queue.depth(queues::work(stage)).await.is_ok());
    }
}

async fn many_publishers_at_once_lose_nothing(queue: Arc<dyn Queue>) {
    const MANY: usize = 2000;
    let publishers = (0..MANY).map(|number| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.publish(WORK, message(&number.to_string())).await })
    });
    for published in join_all(publishers).await {
        published.unwrap().unwrap();
    }
    let mut consumer = queue.consume(WORK, 200).await.unwrap();
    let mut seen = vec![false; MANY];
    for _ in 0..MANY {
        let delivery = next(&mut consumer).await;
        seen[body(&delivery).parse::<usize>().unwrap()] = true;
        delivery.receipt.ack().await.unwrap();
    }
    assert!(seen.into_iter().all(|seen| seen));
}

async fn two_consumers_share_a_queue(queue: Arc<dyn Queue>) {
    let mut first = queue.consume(WORK, 1).await.unwrap();
    let mut second = queue.consume(WORK, 1).await.unwrap();
    publish(&queue, &["a", "b"]).await;
    let (one, other) = (next(&mut first).await, next(&mut second).await);
    let mut texts = [body(&one), body(&other)];
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
}

async fn next_can_be_cut_short_without_losing_a_message(queue: Arc<dyn Queue>) {
    let mut consumer = queue.consume(WORK, 100).await.unwrap();
    let publisher = tokio::spawn({
        let queue = queue.clone();
        async move {
            for number in 0..50 {
                queue
                    .publish(WORK, message(&number.to_string()))
                    .await
                    .unwrap();
            }
        }
    });
    let mut received = Vec::new();
    while received.len() < 50 {
        // Shorter than a message takes to come, most of the time.
        if let Ok(delivery) =
            tokio::time::timeout(Duration::from_micros(200), consumer.next()).await
        {
            received.push(body(&delivery));
            delivery.receipt.ack().await.unwrap();
        }
    }
    publisher.await.unwrap();
    assert_eq!(
        received,
        (0..50).map(|number| number.to_string()).collect::<Vec<_>>()
    );
}
