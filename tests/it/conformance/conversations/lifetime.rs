//! When a conversation is there, and when it is not any more.

use radialog_tests::waiting;

use super::*;

/// Longer than any lifetime here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a conversation's time is over.
async fn until_over(conversations: &dyn Conversations, id: &ConversationId) {
    let is_over = || async { Ok(!conversations.exist(std::slice::from_ref(id)).await?[0]) };
    waiting::until("it stays for ever", PATIENCE, is_over)
        .await
        .unwrap();
}

pub(super) async fn a_deleted_conversation_is_gone(conversations: Arc<dyn Conversations>) {
    let conversation = with_image(&unique());
    let id = &conversation.id;
    let turns = [ask("a")];
    conversations.create(&conversation, &turns).await.unwrap();
    prepared(&conversations, &conversation, Ok(findings())).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    assert!(conversations.delete(id).await.unwrap());
    assert_eq!(
        append(&conversations, id, epoch, 1, &[token(1)]).await,
        AppendOutcome::Fenced
    );
    let finished = conversations.finish(id, 1, epoch, &answer("x")).await;
    assert_eq!(finished.unwrap(), None);
    assert_eq!(conversations.snapshot(id).await.unwrap(), None);
    assert_eq!(conversations.events(id, 1, 0, 9).await.unwrap(), []);
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotFound
    );
    assert_eq!(
        conversations.list(&conversation.owner, 9).await.unwrap(),
        []
    );
    assert!(!conversations.delete(id).await.unwrap());
}

pub(super) async fn conversations_exist_until_they_are_deleted(
    conversations: Arc<dyn Conversations>,
) {
    let ids = [(); 3].map(|()| in_words());
    for conversation in &ids[..2] {
        conversations.create(conversation, &[]).await.unwrap();
    }
    let begun = ids.clone();
    let ids = ids.map(|conversation| conversation.id);
    let exist = async || conversations.exist(&ids).await.unwrap();
    let beginnings = async || {
        let read = conversations.beginnings(&ids).await.unwrap();
        read.into_iter()
            .map(Result::unwrap)
            .collect::<Vec<Option<Conversation>>>()
    };
    let [first, second] = [&begun[0], &begun[1]].map(|one| Some(one.clone()));
    assert_eq!(exist().await, [true, true, false]);
    assert_eq!(beginnings().await, [first, second.clone(), None]);
    conversations.delete(&ids[0]).await.unwrap();
    assert_eq!(exist().await, [false, true, false]);
    assert_eq!(beginnings().await, [None, second, None]);
    assert_eq!(conversations.exist(&[]).await.unwrap(), [false; 0]);
    assert!(conversations.beginnings(&[]).await.unwrap().is_empty());
}

pub(super) async fn a_conversation_ends_when_its_lifetime_is_over(
    conversations: Arc<dyn Conversations>,
) {
    let short = Conversation {
        lifetime_seconds: Some(1),
        ..in_words()
    };
    let long = in_words();
    for conversation in [&short, &long] {
        conversations
            .create(conversation, &[ask("a")])
            .await
            .unwrap();
    }
    let ids = [short.id.clone(), long.id.clone()];
    until_over(&*conversations, &short.id).await;
    assert_eq!(conversations.snapshot(&short.id).await.unwrap(), None);
    assert_eq!(conversations.exist(&ids).await.unwrap(), [false, true]);
}

pub(super) async fn conversations_of_all_owners_are_found_by_their_age(
    conversations: Arc<dyn Conversations>,
) {
    let begun = |created_ms| Conversation {
        created_ms,
        ..in_words()
    };
    // Others may be there, too, where the store is shared.
    let (old, young) = (begun(1000), begun(2000));
    for conversation in [&old, &young] {
        conversations.create(conversation, &[]).await.unwrap();
    }
    for (time, expected) in [
        (1000, (false, false)),
        (1001, (true, false)),
        (2001, (true, true)),
    ] {
        let found = conversations.begun_before(time).await.unwrap();
        let found = (found.contains(&old.id), found.contains(&young.id));
        assert_eq!(found, expected, "before {time}");
    }
}

pub(super) async fn what_has_ended_is_taken_off_its_owners_list(
    conversations: Arc<dyn Conversations>,
) {
    let owner = unique();
    let of_owner = |lifetime_seconds| Conversation {
        owner: owner.clone(),
        lifetime_seconds,
        ..in_words()
    };
    let (short, long) = (of_owner(Some(1)), of_owner(None));
    for conversation in [&short, &long] {
        conversations
            .create(conversation, &[ask("a")])
            .await
            .unwrap();
    }
    until_over(&*conversations, &short.id).await;
    conversations.forget_ended().await.unwrap();
    let listed = conversations.list(&owner, 9).await.unwrap();
    assert_eq!(listed, [long.id]);
}
