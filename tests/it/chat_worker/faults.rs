//! Workers that die, models that fail, stores that go away, messages that are none.

use radialog_runtime::objects::ObjectError;
use radialog_schemas::queues::RETRY_DELAYS;
use radialog_tests::faults::FaultInjector;

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
        .zip(radialog_tests::fake_stage::chat::words(
            asked,
            answered_before,
            WORDS,
        ))
        .collect()
}

async fn another_worker_continues_the_answer_of_one_that_died(harness: ChatHarness) {
    let id = harness
        .begin("died", &[question("one"), question("two")])
        .await;
    for tokens in [2, 5, 8] {
        let worker = harness.start(&Arc::new(slow_stage()), settings());
        harness.until_tokens(&id, 1, tokens).await;
        worker.crash().await;
    }
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.text(&id, 1).await, fake_text("one", 0));
    assert_eq!(
        harness.tokens(&id, 1).await,
        whole("one", 0),
        "neither gap nor repeat"
    );
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 1));
    worker.stop().await.unwrap();
}

async fn a_worker_that_stops_finishes_what_it_can_and_hands_back_the_rest(harness: ChatHarness) {
    let id = harness
        .begin("stops", &[question("one"), question("two")])
        .await;
    let patient = RunnerSettings {
        grace: SOON,
        ..settings()
    };
    let worker = harness.start(&Arc::new(slow_stage()), patient);
    harness.until_tokens(&id, 1, 2).await;
    worker.stop().await.unwrap();
    assert_eq!(
        harness.turn(&id, 1).await.status,
        TurnStatus::Done,
        "the grace period was long enough"
    );

    // Slower than the stop is late.
    let slow = fake_stage().chat_answers(WORDS, Duration::from_secs(1));
    let worker = harness.start(
        &Arc::new(slow),
        RunnerSettings {
            grace: Duration::from_millis(50),
            ..settings()
        },
    );
    harness.until_tokens(&id, 2, 2).await;
    worker.stop().await.unwrap();
    assert_eq!(harness.turn(&id, 2).await.status, TurnStatus::Running);
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 1));
    assert_eq!(harness.tokens(&id, 2).await, whole("two", 1));
    worker.stop().await.unwrap();
}

async fn what_is_no_turn_is_dead_lettered_and_harms_nobody(harness: ChatHarness) {
    let mut newer =
        serde_json::to_value(ChatTask::new(&"c".into(), 1, &harness.component)).unwrap();
    newer["schema_version"] = 99.into();
    let bodies = [
        "hello",
        "{}",
        r#"{"schema_version":1,"turn":-1}"#,
        &"x".repeat(70_000),
    ];
    let newer = newer.to_string();
    let last = ErrorCode::SchemaVersion.retries() as u32;
    // Of a newer schema: when it comes first, and when it has waited long enough.
    let messages = bodies.map(|body| (body, 0)).into_iter();
    for (body, passed_on) in messages.chain([(&*newer, 0), (&*newer, last)]) {
        let message = Message {
            body: body.to_owned().into(),
            passed_on,
            ..Message::default()
        };
        harness
            .tasks
            .queue
            .publish(queues::CHAT, message)
            .await
            .unwrap();
    }
    let id = harness.begin("innocent", &[question("one")]).await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.text(&id, 1).await, fake_text("one", 0));
    until("the retry", || async {
        let mut waiting = 0;
        for step in 0..RETRY_DELAYS.len() {
            let retry = queues::retry(queues::CHAT, step);
            waiting += harness.tasks.queue.depth(&retry).await.unwrap();
        }
        waiting == 1
    })
    .await;
    worker.stop().await.unwrap();
    let mut codes = Vec::new();
    while let Some(delivery) = harness
        .tasks
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

async fn a_turn_for_another_component_waits_for_its_worker_and_fails_at_last(harness: ChatHarness) {
    let other = ChatHarness {
        component: ContentHash::of(b"another bundle"),
        ..harness.clone()
    };
    let id = other.begin("other", &[question("one")]).await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    let retry = queues::retry(queues::CHAT, 0);
    until("the retry", || async {
        harness.tasks.queue.depth(&retry).await.unwrap() == 1
    })
    .await;
    assert_eq!(
        harness.turn(&id, 1).await.status,
        TurnStatus::Queued,
        "it was not taken"
    );
    // Its attempts are for the worker that has the component.
    other
        .publish_tried(
            &ChatTask::new(&id, 1, &other.component),
            ErrorCode::Model.retries() as u32,
            ErrorCode::BundleMismatch.retries() as u32 - 1,
        )
        .await;
    let last = queues::retry(queues::CHAT, RETRY_DELAYS.len());
    until("its last wait", || async {
        harness.tasks.queue.depth(&last).await.unwrap() >= 1
    })
    .await;
    assert_eq!(harness.turn(&id, 1).await.status, TurnStatus::Queued);
    other
        .publish_tried(
            &ChatTask::new(&id, 1, &other.component),
            0,
            ErrorCode::BundleMismatch.retries() as u32,
        )
        .await;
    assert_eq!(harness.code(&id, 1).await, ErrorCode::BundleMismatch);
    worker.stop().await.unwrap();
}

async fn a_model_that_panics_fails_the_turn_that_it_panics_on(harness: ChatHarness) {
    let poison = harness
        .begin("poison", &[question("this panics"), question("after")])
        .await;
    let mut innocents = Vec::new();
    for number in 0..5 {
        innocents.push(
            harness
                .begin(&format!("innocent-{number}"), &[question("one")])
                .await,
        );
    }
    let worker = harness.start(
        &Arc::new(fake_stage().chat_answers(WORDS, Duration::from_millis(20))),
        settings(),
    );
    assert_eq!(harness.code(&poison, 1).await, ErrorCode::Crash);
    assert_eq!(harness.text(&poison, 2).await, fake_text("after", 0));
    for id in &innocents {
        assert_eq!(harness.text(id, 1).await, fake_text("one", 0));
        assert_eq!(harness.tokens(id, 1).await, whole("one", 0));
    }
    worker.stop().await.unwrap();
}

async fn a_model_that_fails_is_tried_again_and_fails_the_turn_at_last(harness: ChatHarness) {
    let id = harness
        .begin("fails", &[question("this fails"), question("after")])
        .await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    let retry = queues::retry(queues::CHAT, 0);
    until("the retry", || async {
        harness.tasks.queue.depth(&retry).await.unwrap() == 1
    })
    .await;
    assert_eq!(harness.turn(&id, 1).await.status, TurnStatus::Running);
    harness
        .publish_task(&ChatTask::new(&id, 1, &harness.component), 4)
        .await;
    assert_eq!(harness.code(&id, 1).await, ErrorCode::Model);
    assert_eq!(harness.text(&id, 2).await, fake_text("after", 0));
    worker.stop().await.unwrap();
}

async fn a_turn_that_cannot_be_prepared_fails_and_the_next_one_runs(harness: ChatHarness) {
    let id = harness
        .begin("corrupt", &[question("this is corrupt"), question("after")])
        .await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.code(&id, 1).await, ErrorCode::ContextLength);
    assert_eq!(harness.text(&id, 2).await, fake_text("after", 0));
    worker.stop().await.unwrap();
}

async fn an_image_whose_tokens_are_gone_fails_the_turn(harness: ChatHarness) {
    let id = harness
        .begin_with_image("gone", Bytes::from_static(b"gone"), &[request(Ask::Report)])
        .await;
    let image = harness.snapshot(&id).await.conversation.image.unwrap();
    harness
        .tasks
        .objects
        .delete(&image.embedding)
        .await
        .unwrap();
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.code(&id, 1).await, ErrorCode::ObjectMissing);
    worker.stop().await.unwrap();
}

async fn an_object_store_that_is_away_is_waited_for(harness: ChatHarness) {
    let faults = Arc::new(FaultInjector::default());
    let away = faults.over(&harness.tasks.backends());
    let over = ChatHarness {
        tasks: harness
            .tasks
            .with(harness.tasks.queue.clone(), away.objects),
        ..harness.clone()
    };
    faults.set_unreachable(true);
    let id = harness
        .begin_with_image("away", Bytes::from_static(b"away"), &[question("one")])
        .await;
    let image = harness.snapshot(&id).await.conversation.image.unwrap();
    assert!(matches!(
        over.tasks.objects.get(&image.embedding).await,
        Err(ObjectError::Store { .. })
    ));
    let before = faults.refused();
    let worker = over.start(&Arc::new(fake_stage()), settings());
    until("the second try", || async {
        faults.refused() >= before + 2
    })
    .await;
    assert_eq!(harness.turn(&id, 1).await.status, TurnStatus::Running);
    faults.set_unreachable(false);
    assert_eq!(harness.text(&id, 1).await, fake_text("one", 0));
    worker.stop().await.unwrap();
}

async fn a_turn_that_kills_its_workers_is_given_up(harness: ChatHarness) {
    let id = harness
        .begin("killer", &[question("one"), question("two")])
        .await;
    // As if the broker had counted: the last attempt, and two workers are gone already.
    let task = ChatTask::new(&id, 1, &harness.component);
    while let Some(delivery) = harness.tasks.queue.take(queues::CHAT).await.unwrap() {
        delivery.receipt.ack().await.unwrap();
    }
    harness.publish_task(&task, 4).await;
    for _ in 0..2 {
        let worker = harness.start(&Arc::new(slow_stage()), settings());
        let before = harness.tokens(&id, 1).await.len();
        harness.until_tokens(&id, 1, before + 2).await;
        worker.crash().await;
    }
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.code(&id, 1).await, ErrorCode::Crash);
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 0));
    worker.stop().await.unwrap();
}
