//! Turns are answered one after the other, each once.

use super::*;
use crate::adapters::on_each_adapter;

on_each_adapter! { memory, services: {
    turns_are_answered_in_order_and_each_knows_those_before_it,
    conversations_are_answered_side_by_side,
    a_turn_that_is_published_twice_is_answered_once,
    a_turn_begins_with_its_question_and_its_tokens_follow,
}}

async fn turns_are_answered_in_order_and_each_knows_those_before_it(harness: ChatHarness) {
    let id = harness
        .begin("order", &[question("one"), question("two")])
        .await;
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    assert_eq!(harness.ask(&id, question("three")).await, 3);
    for (turn, asked) in (1..).zip(["one", "two", "three"]) {
        assert_eq!(
            harness.text(&id, turn).await,
            fake_text(asked, turn as usize - 1)
        );
    }
    worker.stop().await.unwrap();
    assert_eq!(
        harness.tasks.queue.depth(queues::CHAT).await.unwrap(),
        0,
        "every message is settled"
    );
}

async fn conversations_are_answered_side_by_side(harness: ChatHarness) {
    let word = Duration::from_millis(300);
    let stage = fake_stage().chat_answers(WORDS, word);
    let worker = harness.start(&Arc::new(stage), settings());
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(
            harness
                .begin(&format!("side-{number}"), &[question("one")])
                .await,
        );
    }
    let began = std::time::Instant::now();
    for id in &ids {
        assert_eq!(harness.text(id, 1).await, fake_text("one", 0));
    }
    let in_turn = word * (20 * WORDS) as u32;
    assert!(
        began.elapsed() < in_turn * 3 / 4,
        "twenty answers take little longer than one"
    );
    worker.stop().await.unwrap();
}

async fn a_turn_that_is_published_twice_is_answered_once(harness: ChatHarness) {
    let id = harness
        .begin("twice", &[question("one"), question("two")])
        .await;
    for _ in 0..3 {
        harness.publish(&id, Some(1)).await;
    }
    // A turn whose time has not come.
    harness.publish(&id, Some(2)).await;
    harness.publish(&"nobody".into(), Some(1)).await;
    harness.publish(&id, Some(9)).await;
    let worker = harness.start(&Arc::new(slow_stage()), settings());
    assert_eq!(harness.text(&id, 1).await, fake_text("one", 0));
    assert_eq!(harness.text(&id, 2).await, fake_text("two", 1));
    worker.stop().await.unwrap();
    assert_eq!(harness.tasks.queue.depth(queues::CHAT).await.unwrap(), 0);
    assert_eq!(
        harness
            .tasks
            .queue
            .depth(&queues::dead(queues::CHAT))
            .await
            .unwrap(),
        0
    );
}

async fn a_turn_begins_with_its_question_and_its_tokens_follow(harness: ChatHarness) {
    let worker = harness.start(&Arc::new(fake_stage()), settings());
    let id = harness
        .begin_with_image(
            "events",
            Bytes::from_static(b"any"),
            &[request(Ask::Report)],
        )
        .await;
    harness.ended(&id, 1).await;
    let events = harness.events(&id, 1).await;
    let names: Vec<_> = events
        .iter()
        .map(|event| match event {
            TurnEvent::Findings(_) => "findings",
            TurnEvent::Started { .. } => "started",
            TurnEvent::Token { .. } => "token",
            TurnEvent::Ended(_) => "ended",
        })
        .collect();
    let mut expected = vec!["findings", "started"];
    expected.extend(["token"; WORDS]);
    expected.push("ended");
    assert_eq!(names, expected);
    assert_eq!(harness.turn(&id, 1).await.asked.as_deref(), Some("Report"));
    worker.stop().await.unwrap();
}
