//! Giving turns to the workers. A turn is in the shared state before it is published, so a broker that is away delays it
//! and loses nothing: it is published as soon as that works, and again where the sweeper of turns finds it forgotten.

use std::time::Duration;

use radialog_schemas::Conversation;

use super::app_state::AppState;
use crate::run::{RetryUntilShutdown, publish_turn};

/// The time that a request waits for the broker before it goes on in the background.
const WAIT: Duration = Duration::from_secs(2);

/// Publishes a turn that is ready, if one is.
pub(super) async fn publish_ready(app: &AppState, conversation: &Conversation, turn: Option<u32>) {
    let Some(turn) = turn else { return };
    let (app, task) = (app.clone(), conversation.task(turn));
    let publishing = tokio::spawn(async move {
        let once = || publish_turn(&app.backends, &task);
        if RetryUntilShutdown::new(app.shutdown.clone())
            .until_success(once)
            .await
            .is_err()
        {
            tracing::warn!(conversation = %task.conversation, turn, "stopped before a turn was published; the sweeper publishes it again");
        }
    });
    // It goes on by itself where it takes longer.
    let _ = tokio::time::timeout(WAIT, publishing).await;
}
