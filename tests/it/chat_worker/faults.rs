//! Workers that die, models that fail, stores that go away, messages that are none.

use radialog_runtime::objects::ObjectError;
use radialog_tests::chaos::Chaos;

use super::*;
use crate::adapters::on_each_adapter;

on_each_adapter! { memory, services: {
    another_worker_continues_the_answer_of_one_that_died,
    a_worker_that_stops_finishes_what_it_can_and_hands_back_the_rest,
    what_is_no_turn_is_dead_lettered_and_harms_nobody,
    a_turn_for_another_component_waits_for_its_worker_and_fails_at_last,
    a_model_that_panics_fails_the_turn_that_it_panics_on,
    a_model_that_fails_is_tried_again_and_fails_the_turn_at_last,
    a_turn_that_cannot_be_prepared_fails_and_the_next_one_runs,
    an_image_whose_tokens_are_gone_fails_the_turn,
    an_object_store_that_is_away_is_waited_for,
    a_turn_that_kills_its_workers_is_given_up,
}}

/// The tokens of an answer, each once and in order.
fn whole(asked: &str, answered_before: usize) -> Vec<(u32, String)> {
    (0..)
        .zip(radialog_tests::stages::chat::words(
            asked,
            answered_before,
            WORDS,
        ))
        .collect()
}

async fn another_worker_continues_the_answer_of_one_that_died(table: Table) {
    let id = table
        .begin("died", &[question("one"), question("two")])
        .await;
    for tokens in [2, 5, 8] {
        let worker = table.start(&Arc::new(slow_toy()), settings());
        table.until_tokens(&id, 1, tokens).await;
        worker.crash().await;
    }
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.text(&id, 1).await, toy_text("one", 0));
    assert_eq!(
        table.tokens(&id, 1).await,
        whole("one", 0),
        "neither gap nor repeat"
    );
    assert_eq!(table.text(&id, 2).await, toy_text("two", 1));
    worker.stop().await.unwrap();
}

async fn a_worker_that_stops_finishes_what_it_can_and_hands_back_the_rest(table: Table) {
    let id = table
        .begin("stops", &[question("one"), question("two")])
        .await;
    let worker = table.start(&Arc::new(slow_toy()), settings());
    table.until_tokens(&id, 1, 2).await;
    worker.stop().await.unwrap();
    assert_eq!(
        table.turn(&id, 1).await.status,
        TurnStatus::Done,
        "the grace period was long enough"
    );

    let worker = table.start(
        &Arc::new(slow_toy()),
        RunnerSettings {
            grace: Duration::from_millis(50),
            ..settings()
        },
    );
    table.until_tokens(&id, 2, 2).await;
    worker.stop().await.unwrap();
    assert_eq!(table.turn(&id, 2).await.status, TurnStatus::Running);
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.text(&id, 2).await, toy_text("two", 1));
    assert_eq!(table.tokens(&id, 2).await, whole("two", 1));
    worker.stop().await.unwrap();
}

async fn what_is_no_turn_is_dead_lettered_and_harms_nobody(table: Table) {
    let mut newer = serde_json::to_value(ChatTask::new(&"c".into(), 1, &table.component)).unwrap();
    newer["schema_version"] = 99.into();
    let bodies = [
        "hello",
        "{}",
        r#"{"schema_version":1,"turn":-1}"#,
        &newer.to_string(),
        &"x".repeat(70_000),
    ];
    for body in bodies {
        let message = Message {
            body: body.to_owned().into(),
            ..Message::default()
        };
        table
            .desk
            .queue
            .publish(queues::CHAT, message)
            .await
            .unwrap();
    }
    let id = table.begin("innocent", &[question("one")]).await;
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.text(&id, 1).await, toy_text("one", 0));
    worker.stop().await.unwrap();
    let mut codes = Vec::new();
    while let Some(delivery) = table
        .desk
        .queue
        .take(&queues::dead(queues::CHAT))
        .await
        .unwrap()
    {
        let death = delivery.message.death.clone().unwrap();
        assert_eq!(death.source, queues::CHAT);
        assert!(!death.reason.is_empty());
        codes.push(death.code);
        delivery.receipt.ack().await.unwrap();
    }
    codes.sort();
    let invalid = ["message_invalid"; 4];
    assert_eq!(codes[..4], invalid);
    assert_eq!(codes[4..], ["schema_version"]);
}

async fn a_turn_for_another_component_waits_for_its_worker_and_fails_at_last(table: Table) {
    let other = Table {
        component: ContentHash::of(b"another bundle"),
        ..table.clone()
    };
    let id = other.begin("other", &[question("one")]).await;
    let worker = table.start(&Arc::new(toy()), settings());
    let retry = queues::retry(queues::CHAT, 0);
    until("the retry", || async {
        table.desk.queue.depth(&retry).await.unwrap() == 1
    })
    .await;
    assert_eq!(
        table.turn(&id, 1).await.status,
        TurnStatus::Queued,
        "it was not taken"
    );
    other
        .publish_task(&ChatTask::new(&id, 1, &other.component), 4)
        .await;
    assert_eq!(table.code(&id, 1).await, ErrorCode::BundleMismatch);
    worker.stop().await.unwrap();
}

async fn a_model_that_panics_fails_the_turn_that_it_panics_on(table: Table) {
    let poison = table
        .begin("poison", &[question("this panics"), question("after")])
        .await;
    let mut innocents = Vec::new();
    for number in 0..5 {
        innocents.push(
            table
                .begin(&format!("innocent-{number}"), &[question("one")])
                .await,
        );
    }
    let worker = table.start(
        &Arc::new(toy().speech(WORDS, Duration::from_millis(20))),
        settings(),
    );
    assert_eq!(table.code(&poison, 1).await, ErrorCode::Crash);
    assert_eq!(table.text(&poison, 2).await, toy_text("after", 0));
    for id in &innocents {
        assert_eq!(table.text(id, 1).await, toy_text("one", 0));
        assert_eq!(table.tokens(id, 1).await, whole("one", 0));
    }
    worker.stop().await.unwrap();
}

async fn a_model_that_fails_is_tried_again_and_fails_the_turn_at_last(table: Table) {
    let id = table
        .begin("fails", &[question("this fails"), question("after")])
        .await;
    let worker = table.start(&Arc::new(toy()), settings());
    let retry = queues::retry(queues::CHAT, 0);
    until("the retry", || async {
        table.desk.queue.depth(&retry).await.unwrap() == 1
    })
    .await;
    assert_eq!(table.turn(&id, 1).await.status, TurnStatus::Running);
    table
        .publish_task(&ChatTask::new(&id, 1, &table.component), 4)
        .await;
    assert_eq!(table.code(&id, 1).await, ErrorCode::Model);
    assert_eq!(table.text(&id, 2).await, toy_text("after", 0));
    worker.stop().await.unwrap();
}

async fn a_turn_that_cannot_be_prepared_fails_and_the_next_one_runs(table: Table) {
    let id = table
        .begin("corrupt", &[question("this is corrupt"), question("after")])
        .await;
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.code(&id, 1).await, ErrorCode::ContextLength);
    assert_eq!(table.text(&id, 2).await, toy_text("after", 0));
    worker.stop().await.unwrap();
}

async fn an_image_whose_tokens_are_gone_fails_the_turn(table: Table) {
    let id = table
        .begin_with_image("gone", Bytes::from_static(b"gone"), &[request(Ask::Report)])
        .await;
    let image = table.snapshot(&id).await.conversation.image.unwrap();
    table.desk.objects.delete(&image.embedding).await.unwrap();
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.code(&id, 1).await, ErrorCode::ObjectMissing);
    worker.stop().await.unwrap();
}

async fn an_object_store_that_is_away_is_waited_for(table: Table) {
    let chaos = Arc::new(Chaos::default());
    let away = chaos.over(&table.desk.backends());
    let over = Table {
        desk: table.desk.with(table.desk.queue.clone(), away.objects),
        ..table.clone()
    };
    chaos.down(true);
    let id = table
        .begin_with_image("away", Bytes::from_static(b"away"), &[question("one")])
        .await;
    let image = table.snapshot(&id).await.conversation.image.unwrap();
    assert!(matches!(
        over.desk.objects.get(&image.embedding).await,
        Err(ObjectError::Store { .. })
    ));
    let worker = over.start(&Arc::new(toy()), settings());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(table.turn(&id, 1).await.status, TurnStatus::Running);
    chaos.down(false);
    assert_eq!(table.text(&id, 1).await, toy_text("one", 0));
    worker.stop().await.unwrap();
}

async fn a_turn_that_kills_its_workers_is_given_up(table: Table) {
    let id = table
        .begin("killer", &[question("one"), question("two")])
        .await;
    // As if the broker had counted: the last attempt, and two workers are gone already.
    let task = ChatTask::new(&id, 1, &table.component);
    while let Some(delivery) = table.desk.queue.take(queues::CHAT).await.unwrap() {
        delivery.receipt.ack().await.unwrap();
    }
    table.publish_task(&task, 4).await;
    for _ in 0..2 {
        let worker = table.start(&Arc::new(slow_toy()), settings());
        let before = table.tokens(&id, 1).await.len();
        table.until_tokens(&id, 1, before + 2).await;
        worker.crash().await;
    }
    let worker = table.start(&Arc::new(toy()), settings());
    assert_eq!(table.code(&id, 1).await, ErrorCode::Crash);
    assert_eq!(table.text(&id, 2).await, toy_text("two", 0));
    worker.stop().await.unwrap();
}
