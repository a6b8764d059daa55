//! A response that somebody waits for or reads while it is written.

use radialog_runtime::conversations::ConversationSnapshot;
use radialog_schemas::TurnEvent;
use radialog_schemas::http::responses::ModelResponse;

use super::super::completion::EphemeralConversation;
use super::super::errors::stopped;
use super::super::warning;
use super::lookup::TURN;
use super::steps::Steps;
use crate::gateway::app_state::AppState;
use crate::gateway::events::OpenStream;
use crate::gateway::problem::ApiResult;
use crate::gateway::turn_follower::{TurnFollower, TurnUpdate};

/// A response that is followed to its end.
pub(super) struct Following {
    pub(super) snapshot: ConversationSnapshot,
    pub(super) reader: TurnFollower,
    /// Removes the conversation when nobody follows it any more, where the response is not kept.
    _ephemeral: Option<EphemeralConversation>,
    /// The client's place among its open streams; a batch has none.
    _open: Option<OpenStream>,
}

impl Following {
    /// Begins before the first event.
    pub(super) async fn open(
        app: &AppState,
        snapshot: ConversationSnapshot,
        ephemeral: Option<EphemeralConversation>,
        open: Option<OpenStream>,
    ) -> ApiResult<Self> {
        let reader = TurnFollower::open(app, &snapshot.conversation.id, TURN, 0).await?;
        Ok(Self {
            snapshot,
            reader,
            _ephemeral: ephemeral,
            _open: open,
        })
    }

    /// Waits for the end; `on_event` is called with each event. What people are told of the image is beside the response.
    pub(super) async fn whole(
        mut self,
        store: bool,
        on_event: impl Fn(),
    ) -> ApiResult<(ModelResponse, Option<String>)> {
        let mut steps = Steps::of(&self.snapshot, store)?;
        let mut of_image = warning::of_conversation(&self.snapshot);
        while let Some(update) = self.reader.next().await {
            if let TurnUpdate::Event(_, event) = update {
                on_event();
                let is_end = matches!(event, TurnEvent::Ended(_));
                if let TurnEvent::Findings(findings) = &event {
                    of_image = warning::of_image(findings);
                }
                steps.take(event);
                if is_end {
                    return Ok((steps.response(), of_image));
                }
            }
        }
        Err(stopped())
    }
}
