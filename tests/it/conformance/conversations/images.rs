//! Images that several conversations share: stored once, and removed with the last one that claims them.

use super::*;

pub(super) async fn a_deleted_conversation_is_gone_and_tells_whether_its_image_is_in_use(
    conversations: Arc<dyn Conversations>,
) {
    let image = unique();
    let (one, two) = (with_image(&image), with_image(&image));
    for conversation in [&one, &two] {
        begin_with_image(&conversations, conversation, false).await;
        prepared(&conversations, conversation, Ok(findings())).await;
    }
    let (epoch, _) = started_epoch(&conversations, &one.id, 1).await;
    assert_eq!(
        conversations.delete(&one.id).await.unwrap(),
        deleted(one.clone(), true)
    );
    assert_eq!(
        append(&conversations, &one.id, epoch, 1, &[token(1)]).await,
        AppendOutcome::Fenced
    );
    assert_eq!(
        conversations
            .finish(&one.id, 1, epoch, &answer("x"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(conversations.snapshot(&one.id).await.unwrap(), None);
    assert_eq!(conversations.events(&one.id, 1, 0, 9).await.unwrap(), []);
    assert_eq!(
        conversations.claim_turn(&one.id, 1).await.unwrap(),
        TurnClaim::NotFound
    );
    assert_eq!(conversations.list(&one.owner, 9).await.unwrap(), []);
    assert_eq!(conversations.delete(&one.id).await.unwrap(), None);
    assert_eq!(
        conversations.delete(&two.id).await.unwrap(),
        deleted(two, false)
    );
}

pub(super) async fn an_image_stays_that_was_stored_before_its_first_conversation(
    conversations: Arc<dyn Conversations>,
) {
    for (first_finds_it, stays) in [(true, true), (false, false)] {
        let name = unique();
        let (one, two) = (with_image(&name), with_image(&name));
        // The second one finds it in any case.
        for (conversation, stored) in [(&one, first_finds_it), (&two, true)] {
            begin_with_image(&conversations, conversation, stored).await;
        }
        assert_eq!(
            conversations.delete(&one.id).await.unwrap(),
            deleted(one, true)
        );
        assert_eq!(
            conversations.delete(&two.id).await.unwrap(),
            deleted(two, stays)
        );
    }
}

pub(super) async fn an_image_that_is_being_removed_cannot_be_claimed(
    conversations: Arc<dyn Conversations>,
) {
    let name = unique();
    let (one, two) = (with_image(&name), with_image(&name));
    begin_with_image(&conversations, &one, false).await;
    let key = one.image.as_ref().unwrap().image.clone();
    assert_eq!(
        conversations.delete(&one.id).await.unwrap(),
        deleted(one, false)
    );
    assert!(
        !conversations
            .claim_image(&ImageClaim::new(&two.id), &key, true)
            .await
            .unwrap()
    );
    for _ in 0..2 {
        conversations.image_removed(&key).await.unwrap();
    }
    begin_with_image(&conversations, &two, false).await;
    conversations.image_removed(&key).await.unwrap();
    assert_eq!(
        conversations.delete(&two.id).await.unwrap(),
        deleted(two, false)
    );
}

/// Claims the conversation's image and creates it.
async fn begin_with_image(
    conversations: &Arc<dyn Conversations>,
    conversation: &Conversation,
    stored: bool,
) {
    let image = &conversation.image.as_ref().unwrap().image;
    let claim = ImageClaim::new(&conversation.id);
    for _ in 0..2 {
        // Again is harmless.
        let claimed = conversations.claim_image(&claim, image, stored).await;
        assert!(claimed.unwrap());
    }
    conversations
        .create(conversation, &[ask("a")], Some(&claim))
        .await
        .unwrap();
}
