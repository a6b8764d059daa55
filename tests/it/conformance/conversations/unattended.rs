//! Conversations whose turns nobody has seen to: what a sweeper finds.

use radialog_runtime::conversations::UnattendedConversation;

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
