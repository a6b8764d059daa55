//! Turns beside other work of the same worker.

use super::*;

#[tokio::test]
async fn a_turn_passes_a_queue_of_reports() {
    let harness = harness().await;
    let stage = stage(&StageOptions {
        batch_limit: 2,
        ..StageOptions::default()
    });
    let mut outputs = Vec::new();
    for study in 0..30 {
        let image = ObjectKey::image(&ContentHash::of(format!("{study}").as_bytes()));
        let (tokens, findings) = (
            ObjectKey::embedding(&harness.component, &image),
            ObjectKey::findings(&harness.component, &image),
        );
        harness
            .tasks
            .objects
            .put(&tokens, embedding(study as f32))
            .await
            .unwrap();
        harness
            .tasks
            .objects
            .put(
                &findings,
                Bytes::from_static(b"{\"findings\":[],\"text\":\"edema\"}"),
            )
            .await
            .unwrap();
        let generation = Generation {
            max_new_tokens: 200,
            ..Generation::default()
        };
        let output = ObjectKey::report(&harness.component, &tokens, &findings, &generation);
        let work = Work::Report {
            embedding: tokens,
            findings,
            generation,
        };
        let task = Task::new(
            &"run".into(),
            &format!("{study}").as_str().into(),
            &harness.component,
            output.clone(),
            work,
        );
        harness.tasks.send(&task).await.unwrap();
        outputs.push(output);
    }
    let worker = harness.start(&stage, settings());
    harness.tasks.results(1).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(
            harness
                .begin_with_image(
                    &format!("pass-{number}"),
                    embedding(50.0 + number as f32),
                    &script(),
                )
                .await,
        );
    }
    for id in &ids {
        answers(&harness, id, 5).await;
    }
    let mut done = 0;
    for output in &outputs {
        done += usize::from(harness.tasks.objects.size(output).await.unwrap().is_some());
    }
    assert!(
        done < outputs.len(),
        "fifteen turns were answered before {done} of {} reports",
        outputs.len()
    );
    assert_eq!(
        harness.tasks.results(29).await.unwrap().len(),
        29,
        "the reports go on afterwards"
    );
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_prompt_is_made_beside_the_async_threads() {
    let stage = stage(&no_cache());
    let harness = harness().await;
    let id = ConversationId("beside".to_owned());
    let said = |text: &str| Exchange {
        user: text.to_owned(),
        assistant: text.to_owned(),
        task: None,
    };
    let conversation = Conversation {
        opening: vec![said(&"a word ".repeat(10_000)); 2],
        ..Conversation::new(id.clone(), "local", 1, &harness.component)
    };
    let text = "x".to_owned();
    harness
        .conversations
        .create(&conversation, &[ask(Ask::Question { text })])
        .await
        .unwrap();
    let snapshot = harness.conversations.snapshot(&id).await.unwrap().unwrap();
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let turn = OpenTurn {
        snapshot: &snapshot,
        number: 1,
        written: &[],
        events,
    };
    let mut preparing = ChatWork::prepare(&*stage, turn, harness.tasks.objects.as_ref());
    assert!(
        futures::poll!(preparing.as_mut()).is_pending(),
        "the first poll has done the work"
    );
    // The first exchange alone is longer than the window.
    let failure = preparing.await.err().unwrap();
    assert_eq!(failure.code, ErrorCode::ContextLength);
}
