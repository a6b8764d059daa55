//! The order of turns: each is ready, runs and ends once, in its place.

use super::*;

pub(super) async fn a_conversation_in_words_is_ready_at_once_and_one_with_an_image_when_it_is_prepared(
    conversations: Arc<dyn Conversations>,
) {
    assert_eq!(
        conversations
            .create(&in_words(), &[ask("a")])
            .await
            .unwrap(),
        CreateOutcome::Created { ready: Some(1) }
    );
    let conversation = with_image(&unique());
    assert_eq!(
        conversations
            .create(&conversation, &[ask("a"), ask("b")])
            .await
            .unwrap(),
        CreateOutcome::Created { ready: None }
    );
    let id = &conversation.id;
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: None },
        "not before it is prepared"
    );
    for _ in 0..2 {
        let ready = prepared(&conversations, &conversation, Ok(findings())).await;
        assert_eq!(ready, Some(1), "again is harmless");
    }
    let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
    assert_eq!(snapshot.conversation, conversation);
    assert_eq!(snapshot.prepared, Some(Ok(findings())));
    assert_eq!(
        conversations.events(id, 1, 0, 10).await.unwrap(),
        [(1, TurnEvent::Findings(findings()))]
    );
    assert_eq!(conversations.events(id, 2, 0, 10).await.unwrap(), []);
}

pub(super) async fn turns_are_answered_in_order(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a", "b"]).await;
    assert_eq!(
        add(&conversations, id, "c").await,
        AddedTurn {
            turn: 3,
            ready: false
        }
    );
    assert_eq!(conversations.position(id, 4).await.unwrap(), None);
    let places = join_all((1..=3).map(|turn| conversations.position(id, turn))).await;
    let places: Vec<u64> = places
        .into_iter()
        .map(|place| place.unwrap().unwrap())
        .collect();
    assert!(places[0] < places[1] && places[1] < places[2], "{places:?}");
    assert!(conversations.waiting().await.unwrap() >= 3);

    assert_eq!(
        conversations.claim_turn(id, 2).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(1) },
        "not before the first"
    );
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    assert_eq!(
        conversations.position(id, 1).await.unwrap(),
        None,
        "it does not wait any more"
    );
    assert_eq!(finish(&conversations, id, 1, epoch, "A").await, Some(2));
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(2) },
        "a duplicate"
    );
    let (epoch, _) = started_epoch(&conversations, id, 2).await;
    let failure = Failure::new(ErrorCode::Model, "it failed");
    assert_eq!(
        conversations
            .finish(id, 2, epoch, &TurnOutcome::Failed(failure))
            .await
            .unwrap(),
        Some(3)
    );
    let (epoch, _) = started_epoch(&conversations, id, 3).await;
    assert_eq!(finish(&conversations, id, 3, epoch, "C").await, None);
    let turns = conversations.snapshot(id).await.unwrap().unwrap().turns;
    assert_eq!(turns[0].outcome, Some(answer("A")));
    assert_eq!(turns[0].request, ask("a"));
    assert_eq!(turns[1].status, TurnStatus::Failed);
    assert_eq!(
        add(&conversations, id, "d").await,
        AddedTurn {
            turn: 4,
            ready: true
        }
    );
}

pub(super) async fn an_idempotency_key_gives_the_same_turn_again(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    let ask_b = |key: &'static str, asked_ms: u64| {
        let request = TurnRequest {
            asked_ms,
            ..ask("b")
        };
        let conversations = conversations.clone();
        async move {
            let added = conversations
                .add_turn(id, &request, Some(key), u32::MAX)
                .await;
            added.unwrap().added().unwrap()
        }
    };
    let first = ask_b("key", 1).await;
    assert_eq!(ask_b("key", 5).await, first, "later, and the same");
    assert_eq!((first.turn, ask_b("another", 1).await.turn), (2, 3));
    let turns = conversations.snapshot(id).await.unwrap().unwrap().turns;
    assert_eq!(turns.len(), 3);
}

pub(super) async fn an_image_that_failed_fails_all_turns_also_later_ones(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = with_image(&unique());
    let id = &conversation.id;
    let failure = Failure::new(ErrorCode::ImageCorrupt, "the file ends early");
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let ready = prepared(&conversations, &conversation, Err(failure.clone())).await;
    assert_eq!(ready, None);
    assert_eq!(
        add(&conversations, id, "b").await,
        AddedTurn {
            turn: 2,
            ready: false
        }
    );
    let turns = conversations.snapshot(id).await.unwrap().unwrap().turns;
    for (turn, number) in turns.iter().zip(1..) {
        assert_eq!(turn.outcome, Some(TurnOutcome::Failed(failure.clone())));
        let ended = TurnEvent::Ended(TurnOutcome::Failed(failure.clone()));
        assert_eq!(
            conversations.events(id, number, 0, 9).await.unwrap(),
            [(1, ended)]
        );
        assert_eq!(conversations.position(id, number).await.unwrap(), None);
    }
}

pub(super) async fn a_final_answer_can_be_edited(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a"]).await;
    let edit = async |turn, text| {
        let edited = conversations.edit(id, turn, text, Replaces::Anything);
        edited.await.unwrap()
    };
    let missing = ReplaceOutcome::Missing;
    assert_eq!(edit(1, Some("x")).await, missing, "not before it is final");
    assert_eq!(edit(2, Some("x")).await, missing, "no such turn");
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    finish(&conversations, id, 1, epoch, "A").await;
    for text in [Some("mine"), Some(""), None] {
        assert_eq!(edit(1, text).await, ReplaceOutcome::Replaced);
        assert_eq!(
            conversations.snapshot(id).await.unwrap().unwrap().turns[0]
                .edited
                .as_deref(),
            text
        );
    }
}

pub(super) async fn only_what_was_expected_is_replaced(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a"]).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    finish(&conversations, id, 1, epoch, "A").await;
    let (mine, theirs, empty) = (Some("mine"), Some("theirs"), Some(""));
    let (replaced, other) = (ReplaceOutcome::Replaced, ReplaceOutcome::Other);
    let mut there = None;
    for (expected, text, outcome) in [
        (mine, mine, other),
        (empty, mine, other),
        (None, empty, replaced),
        // An empty text is a version, and none is another one.
        (None, mine, other),
        (empty, mine, replaced),
        (None, mine, replaced),
        (None, theirs, other),
        (None, None, other),
        (mine, theirs, replaced),
        (theirs, None, replaced),
        (theirs, None, replaced),
        (theirs, mine, other),
    ] {
        // What is wanted may be there already.
        let outcome = if there == text { replaced } else { outcome };
        let edited = conversations.edit(id, 1, text, Replaces::Only(expected));
        assert_eq!(edited.await.unwrap(), outcome, "{expected:?} to {text:?}");
        if outcome == replaced {
            there = text;
        }
        let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
        assert_eq!(snapshot.turns[0].edited.as_deref(), there);
    }
    for (expected, title, outcome) in [
        (Some("x"), "first", other),
        (None, "first", replaced),
        (None, "first", replaced),
        (None, "second", other),
        (Some("first"), "second", replaced),
    ] {
        let renamed = conversations.rename(id, title, Replaces::Only(expected));
        assert_eq!(renamed.await.unwrap(), outcome, "{expected:?} to {title}");
    }
    let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
    assert_eq!(snapshot.title.as_deref(), Some("second"));
}

pub(super) async fn of_editors_that_expect_the_same_one_is_heard(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    finish(&conversations, id, 1, epoch, "A").await;
    let editors = (0..16).map(|editor| {
        let (conversations, id) = (conversations.clone(), id.clone());
        tokio::spawn(async move {
            let text = editor.to_string();
            let edited = conversations.edit(&id, 1, Some(&text), Replaces::Only(None));
            (edited.await.unwrap() == ReplaceOutcome::Replaced).then_some(text)
        })
    });
    let mut heard = Vec::new();
    for editor in editors.collect::<Vec<_>>() {
        heard.extend(editor.await.unwrap());
    }
    let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(snapshot.turns[0].edited.as_ref(), heard.first());
}

pub(super) async fn a_final_answer_can_be_rated_and_a_conversation_renamed(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    let good = Some(Rating::Good);
    assert!(
        !conversations.rate(id, 1, good).await.unwrap(),
        "not before it is final"
    );
    assert!(
        !conversations.rate(id, 2, good).await.unwrap(),
        "no such turn"
    );
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    finish(&conversations, id, 1, epoch, "A").await;
    for rating in [good, Some(Rating::Bad), None] {
        assert!(conversations.rate(id, 1, rating).await.unwrap());
        let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
        assert_eq!(snapshot.turns[0].rating, rating);
        assert_eq!(snapshot.title, None);
    }
    for title in ["Ward 1", "{\"not\": \"read\"}"] {
        let renamed = conversations.rename(id, title, Replaces::Anything).await;
        assert_eq!(renamed.unwrap(), ReplaceOutcome::Replaced);
        let snapshot = conversations.snapshot(id).await.unwrap().unwrap();
        assert_eq!(snapshot.title.as_deref(), Some(title));
    }
}

pub(super) async fn a_conversation_is_created_with_its_title_and_keeps_it_when_it_is_created_again(
    conversations: Arc<dyn Conversations>,
) {
    let titled = in_words();
    let create = async |title| {
        let turns = [ask("a")];
        let created = conversations.create_titled(&titled, &turns, title);
        let outcome = created.await.unwrap();
        let snapshot = conversations.snapshot(&titled.id).await.unwrap().unwrap();
        assert_eq!(snapshot.turns.len(), 1);
        (outcome, snapshot.title)
    };
    let (created, existing) = (
        CreateOutcome::Created { ready: Some(1) },
        CreateOutcome::Existing { ready: Some(1) },
    );
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(create(Some("first")).await, (created, text("first")));
    for other in [Some("second"), None] {
        let refused = (CreateOutcome::Mismatch, text("first"));
        assert_eq!(create(other).await, refused, "{other:?}");
    }
    let renamed = conversations.rename(&titled.id, "mine", Replaces::Anything);
    assert_eq!(renamed.await.unwrap(), ReplaceOutcome::Replaced);
    assert_eq!(create(Some("first")).await, (existing, text("mine")));
    let untitled = begun(&conversations, &["a"]).await;
    let snapshot = conversations.snapshot(&untitled).await.unwrap().unwrap();
    assert_eq!(snapshot.title, None);
}

pub(super) async fn racing_submitters_each_get_a_turn_of_their_own(
    conversations: Arc<dyn Conversations>,
) {
    let conversation = in_words();
    conversations
        .create(&conversation, &[ask("a")])
        .await
        .unwrap();
    let added = join_all((0..16).map(|number| {
        let (conversations, id) = (conversations.clone(), conversation.id.clone());
        tokio::spawn(async move { add(&conversations, &id, &number.to_string()).await })
    }))
    .await;
    let mut turns: Vec<u32> = added.into_iter().map(|added| added.unwrap().turn).collect();
    turns.sort_unstable();
    assert_eq!(turns, (2..=17).collect::<Vec<_>>());
}
