//! Turns that are cancelled before and while they run.

use super::*;

pub(super) async fn a_queued_turn_that_is_cancelled_never_runs(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a", "b", "c"]).await;
    assert_eq!(conversations.cancel(id, 2).await.unwrap(), Some(1));
    assert_eq!(
        conversations.cancel(id, 1).await.unwrap(),
        Some(3),
        "the next one is ready now"
    );
    assert_eq!(
        conversations.claim_turn(id, 1).await.unwrap(),
        TurnClaim::NotRunnable { next: Some(3) }
    );
    assert_eq!(status(&conversations, id, 1).await, TurnStatus::Cancelled);
    let ended = TurnEvent::Ended(TurnOutcome::Cancelled);
    assert_eq!(
        conversations.events(id, 1, 0, 9).await.unwrap(),
        [(1, ended)]
    );
    assert_eq!(conversations.position(id, 2).await.unwrap(), None);
}

pub(super) async fn a_running_turn_that_is_cancelled_is_told_so_at_its_next_event(
    conversations: Arc<dyn Conversations>,
) {
    let id = &begun(&conversations, &["a", "b"]).await;
    let (epoch, _) = started_epoch(&conversations, id, 1).await;
    assert_eq!(
        append(&conversations, id, epoch, 0, &[token(1)]).await,
        AppendOutcome::Done
    );
    assert_eq!(conversations.cancel(id, 1).await.unwrap(), None);
    assert_eq!(
        append(&conversations, id, epoch, 1, &[token(2)]).await,
        AppendOutcome::Cancelled
    );
    assert!(conversations.snapshot(id).await.unwrap().unwrap().turns[0].cancelling);
    assert_eq!(
        conversations
            .finish(id, 1, epoch, &TurnOutcome::Cancelled)
            .await
            .unwrap(),
        Some(2)
    );
    assert_eq!(
        conversations.cancel(id, 1).await.unwrap(),
        Some(2),
        "what is over stays"
    );
    // The worker of the second turn dies before it hears of the cancellation: the next one ends the turn.
    started_epoch(&conversations, id, 2).await;
    conversations.cancel(id, 2).await.unwrap();
    assert_eq!(
        conversations.claim_turn(id, 2).await.unwrap(),
        TurnClaim::NotRunnable { next: None }
    );
    assert_eq!(status(&conversations, id, 2).await, TurnStatus::Cancelled);
}
