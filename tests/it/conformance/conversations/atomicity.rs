//! Requests that come at the same time: of those that exclude each other exactly one is done, and the others leave nothing.

use super::*;

/// Requests of one race.
const RACERS: usize = 8;

pub(super) async fn of_two_requests_with_one_id_exactly_one_creates_the_conversation(
    conversations: Arc<dyn Conversations>,
) {
    let first = with_image(&unique());
    let second = Conversation {
        image: with_image(&unique()).image,
        ..first.clone()
    };
    // The same two requests again and again, as impatient clients send them.
    let tries = join_all((0..RACERS).map(|number| {
        let conversations = conversations.clone();
        let conversation = if number % 2 == 0 { &first } else { &second }.clone();
        tokio::spawn(async move {
            let outcome = conversations.create(&conversation, &[ask("a")]).await;
            (conversation, outcome.unwrap())
        })
    }))
    .await;
    let tries: Vec<_> = tries.into_iter().map(Result::unwrap).collect();
    let created = CreateOutcome::Created { ready: None };
    let winners: Vec<_> = tries
        .iter()
        .filter(|(_, outcome)| *outcome == created)
        .collect();
    assert_eq!(winners.len(), 1, "{tries:?}");
    let (winner, _) = winners[0];
    for (conversation, outcome) in &tries {
        let expected = match conversation.image == winner.image {
            true => CreateOutcome::Existing { ready: None },
            false => CreateOutcome::Mismatch,
        };
        assert!([created, expected].contains(outcome), "{tries:?}");
    }
    let known = conversations.snapshot(&first.id).await.unwrap().unwrap();
    assert_eq!((&known.conversation, known.turns.len()), (winner, 1));
    assert_eq!(
        conversations.list(&first.owner, 9).await.unwrap(),
        [first.id]
    );
}

pub(super) async fn findings_of_another_image_are_not_taken(conversations: Arc<dyn Conversations>) {
    let conversation = with_image(&unique());
    let id = &conversation.id;
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let other = image_key(&unique());
    let failure = Failure::new(ErrorCode::ImageCorrupt, "the file ends early");
    for outcome in [Ok(findings()), Err(failure)] {
        let ready = conversations.image_prepared(id, &other, &outcome).await;
        assert_eq!(ready.unwrap(), None);
    }
    let known = conversations.snapshot(id).await.unwrap().unwrap();
    assert_eq!((known.prepared, known.turns[0].events), (None, 0));
    assert_eq!(
        prepared(&conversations, &conversation, Ok(findings())).await,
        Some(1)
    );
    let words = &begun(&conversations, &["a"]).await;
    let ready = conversations
        .image_prepared(words, &other, &Ok(findings()))
        .await;
    assert_eq!(ready.unwrap(), None, "a conversation without an image");
}

pub(super) async fn a_conversation_never_has_more_turns_than_it_may(
    conversations: Arc<dyn Conversations>,
) {
    let id = begun(&conversations, &["a"]).await;
    let added = join_all((0..2 * RACERS).map(|number| {
        let (conversations, id) = (conversations.clone(), id.clone());
        tokio::spawn(async move {
            let key = (number % 2 == 0).then(|| number.to_string());
            conversations
                .add_turn(&id, &ask("b"), key.as_deref(), 5)
                .await
                .unwrap()
        })
    }))
    .await;
    let added: Vec<AddTurnOutcome> = added.into_iter().map(Result::unwrap).collect();
    let full = added
        .iter()
        .filter(|outcome| **outcome == AddTurnOutcome::Full)
        .count();
    let mut turns: Vec<u32> = added
        .iter()
        .filter_map(|outcome| Some(outcome.added()?.turn))
        .collect();
    turns.sort_unstable();
    assert_eq!((turns, full), (vec![2, 3, 4, 5], 2 * RACERS - 4));
    let known = conversations.snapshot(&id).await.unwrap().unwrap();
    assert_eq!(known.turns.len(), 5);
}

pub(super) async fn an_idempotency_key_adds_one_turn_and_refuses_another(
    conversations: Arc<dyn Conversations>,
) {
    let id = begun(&conversations, &["a"]).await;
    let asked = join_all((0..RACERS).map(|number| {
        let (conversations, id) = (conversations.clone(), id.clone());
        tokio::spawn(async move {
            let text = if number % 2 == 0 { "b" } else { "c" };
            conversations
                .add_turn(&id, &ask(text), Some("key"), 2)
                .await
                .unwrap()
        })
    }))
    .await;
    let asked: Vec<AddTurnOutcome> = asked.into_iter().map(Result::unwrap).collect();
    let mismatches = asked
        .iter()
        .filter(|outcome| **outcome == AddTurnOutcome::Mismatch);
    assert_eq!(mismatches.count(), RACERS / 2, "{asked:?}");
    let turns: Vec<u32> = asked
        .iter()
        .filter_map(|outcome| Some(outcome.added()?.turn))
        .collect();
    assert_eq!(
        turns,
        [2; RACERS / 2],
        "the same turn, though there is no more room"
    );
    let known = conversations.snapshot(&id).await.unwrap().unwrap();
    assert_eq!(known.turns.len(), 2);
}
