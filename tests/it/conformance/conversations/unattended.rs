//! Conversations whose turns nobody has seen to: what a sweeper finds.

use radialog_runtime::conversations::UnattendedConversation;
use radialog_tests::services::Redis;

use super::*;

/// More than all tests leave behind in a store that they share.
const ALL: usize = 100_000;

/// What is unattended of this conversation.
async fn unattended(
    conversations: &Arc<dyn Conversations>,
    id: &ConversationId,
    idle: Duration,
) -> Option<UnattendedConversation> {
    let all = conversations.unattended(idle, ALL).await.unwrap();
    let mut own = all
        .into_iter()
        .filter(|unattended| unattended.snapshot.conversation.id == *id);
    let first = own.next();
    assert_eq!(own.next(), None, "it is listed once");
    first
}

pub(super) async fn a_conversation_is_unattended_until_somebody_sees_to_it(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(unattended(&conversations, id, hour).await, None);
    let found = unattended(&conversations, id, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        Some(found.snapshot.clone()),
        conversations.snapshot(id).await.unwrap()
    );
    // A turn that is added is news, so that the look from before is not good any more.
    tokio::time::sleep(Duration::from_millis(5)).await;
    add(&conversations, id, "b").await;
    assert!(!conversations.attend(&found).await.unwrap());
    let found = unattended(&conversations, id, Duration::ZERO)
        .await
        .unwrap();
    assert!(conversations.attend(&found).await.unwrap());
    tokio::time::sleep(Duration::from_millis(5)).await;
    let again = unattended(&conversations, id, Duration::ZERO)
        .await
        .unwrap();
    assert!(again.since_ms > found.since_ms);
}

pub(super) async fn a_conversation_without_open_turns_is_not_unattended(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a"]).await;
    conversations.cancel(id, 1).await.unwrap();
    assert_eq!(unattended(&conversations, id, Duration::ZERO).await, None);
    add(&conversations, id, "b").await;
    let found = unattended(&conversations, id, Duration::ZERO)
        .await
        .unwrap();
    conversations.delete(id).await.unwrap();
    assert_eq!(unattended(&conversations, id, Duration::ZERO).await, None);
    assert!(!conversations.attend(&found).await.unwrap());
}

pub(super) async fn one_of_several_sweepers_attends(conversations: Arc<dyn Conversations>) {
    let id = &begun(&conversations, &["a"]).await;
    let found = unattended(&conversations, id, Duration::ZERO)
        .await
        .unwrap();
    let attended = join_all((0..8).map(|_| {
        let (conversations, found) = (conversations.clone(), found.clone());
        tokio::spawn(async move { conversations.attend(&found).await.unwrap() })
    }))
    .await;
    let attended = attended
        .into_iter()
        .filter(|first| *first.as_ref().unwrap());
    assert_eq!(attended.count(), 1);
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_hinders_no_sweeper() {
    let redis = Redis::start().await.unwrap();
    let conversations = crate::adapters::redis_conversations_at(redis.url()).await;
    let ids = ["one", "two", "three"].map(ConversationId::from);
    for id in &ids {
        let conversation = Conversation {
            id: id.clone(),
            ..in_words()
        };
        let created = conversations.create(&conversation, &[ask("a")]).await;
        created.unwrap();
    }
    let damaging = redis.ask("HSET radialog:chat:{two} 1:request {}").await;
    damaging.unwrap();
    let listed = conversations.unattended(Duration::ZERO, 9).await.unwrap();
    let listed = listed.into_iter().map(|one| one.snapshot.conversation.id);
    let mut listed: Vec<ConversationId> = listed.collect();
    listed.sort();
    assert_eq!(listed, [ids[0].clone(), ids[2].clone()]);
    // Its image is still known: no sweep takes it for nobody's.
    let begun = conversations.beginnings(&ids).await.unwrap();
    assert!(begun.into_iter().all(|one| one.unwrap().is_some()));
    let damaging = redis.ask("HSET radialog:chat:{two} conversation {}").await;
    damaging.unwrap();
    let begun = conversations.beginnings(&ids).await.unwrap();
    let is_read: Vec<bool> = begun.iter().map(Result::is_ok).collect();
    assert_eq!(is_read, [true, false, true]);
    assert!(conversations.delete(&ids[1]).await.unwrap());
    assert_eq!(
        conversations.exist(&ids).await.unwrap(),
        [true, false, true]
    );
    assert!(!conversations.delete(&ids[1]).await.unwrap());
}

#[tokio::test]
async fn what_is_no_conversation_under_the_name_of_one_hinders_no_sweeper() {
    let redis = Redis::start().await.unwrap();
    let conversations = crate::adapters::redis_conversations_at(redis.url()).await;
    let ids = ["one", "two", "three"].map(ConversationId::from);
    let create = async |id: &ConversationId| {
        let conversation = Conversation {
            id: id.clone(),
            ..in_words()
        };
        let created = conversations.create(&conversation, &[ask("a")]).await;
        created.unwrap();
    };
    for id in &ids {
        create(id).await;
    }
    for (kind, write) in [("string", "SET"), ("list", "RPUSH")] {
        redis.ask("DEL radialog:chat:{two}").await.unwrap();
        let damaging = format!("{write} radialog:chat:{{two}} x");
        redis.ask(&damaging).await.unwrap();
        let begun = conversations.beginnings(&ids).await.unwrap();
        assert!(matches!(&begun[0], Ok(Some(one)) if one.id == ids[0]));
        assert!(matches!(&begun[2], Ok(Some(one)) if one.id == ids[2]));
        let error = begun[1].as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("of the type '{kind}'")), "{error}");
        let listed = conversations.unattended(Duration::ZERO, 9).await.unwrap();
        let listed = listed.into_iter().map(|one| one.snapshot.conversation.id);
        let mut listed: Vec<ConversationId> = listed.collect();
        listed.sort();
        assert_eq!(listed, [ids[0].clone(), ids[2].clone()], "{kind}");
        // Neither its place on its owner's list, nor that of its turn in the queue, keeps those of others.
        assert_eq!(conversations.forget_ended().await.unwrap(), 0, "{kind}");
        assert!(conversations.delete(&ids[1]).await.unwrap(), "{kind}");
        let exist = conversations.exist(&ids).await.unwrap();
        assert_eq!(exist, [true, false, true], "{kind}");
        create(&ids[1]).await;
    }
    let snapshot = conversations.snapshot(&ids[1]).await.unwrap();
    assert!(snapshot.is_some());
}
