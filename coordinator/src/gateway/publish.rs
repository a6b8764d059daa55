//! Giving turns to the workers. A turn is in the shared state before it is published, so a broker that is away delays it
//! and loses nothing: it is published as soon as that works, and again where a reader finds it forgotten.

use std::time::Duration;

use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::{ConversationId, Stage, TurnStatus, queues};

use super::app_state::AppState;
use super::problem::ApiResult;
use crate::conversation;
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
            tracing::warn!(conversation = %id, turn, "stopped before a turn was published; its reader publishes it again");
        }
    });
    // It goes on by itself where it takes longer.
    let _ = tokio::time::timeout(WAIT, publishing).await;
}

/// Publishes again what a queued turn waits for, where nothing like it is in the broker: a gateway was killed between
/// writing and publishing, or the broker has lost its queues. Whoever has it twice does it once.
pub(super) async fn republish_forgotten(
    app: &AppState,
    snapshot: &ConversationSnapshot,
) -> ApiResult<()> {
    let first = snapshot.turns.iter().find(|turn| !turn.status.is_final());
    if first.is_none_or(|turn| turn.status != TurnStatus::Queued) {
        return Ok(());
    }
    let is_prepared = snapshot.conversation.image.is_none() || snapshot.prepared.is_some();
    let queues = match is_prepared {
        true => vec![queues::CHAT],
        false => vec![
            queues::work(Stage::Embedding),
            queues::work(Stage::Findings),
            queues::RESULTS,
        ],
    };
    for queue in queues {
        if app.backends.queue.depth(queue).await? > 0 {
            return Ok(());
        }
    }
    tracing::info!(conversation = %snapshot.conversation.id, "a turn waits and nothing for it is in the broker: again");
    Ok(conversation::begin(
        &app.backends,
        &app.bundle,
        &snapshot.conversation,
        &[],
        None,
    )
    .await?)
}
