//! Giving turns to the workers. A turn is in the shared state before it is published, so a broker that is away delays it
//! and loses nothing: it is published as soon as that works, and again where the sweeper of turns finds it forgotten.

use std::time::Duration;

use radialog_schemas::{ConversationId, Stage};

use super::app_state::AppState;
use crate::run::{RetryUntilShutdown, publish_turn};

/// The time that a request waits for the broker before it goes on in the background.
const WAIT: Duration = Duration::from_secs(2);

/// Publishes a turn that is ready, if one is.
pub(super) async fn publish_ready(app: &AppState, id: &ConversationId, turn: Option<u32>) {
    let Some(turn) = turn else { return };
    let (app, id) = (app.clone(), id.clone());
    let publishing = tokio::spawn(async move {
        let component = app.bundle.component(Stage::Language);
        let once = || publish_turn(&app.backends, &id, turn, component);
        if RetryUntilShutdown::new(app.shutdown.clone())
            .until_success(once)
            .await
            .is_err()
        {
            tracing::warn!(conversation = %id, turn, "stopped before a turn was published; the sweeper publishes it again");
        }
    });
    // It goes on by itself where it takes longer.
    let _ = tokio::time::timeout(WAIT, publishing).await;
}
