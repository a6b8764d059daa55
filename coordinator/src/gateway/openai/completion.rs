//! One completion: a conversation that lasts for one answer, followed to its end and then removed.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use radialog_runtime::clock;
use radialog_schemas::http::openai::{
    AnswerMessage, ChatCompletion, Choice, PromptTokensDetails, Role, Usage,
};
use radialog_schemas::{Answer, ConversationId, Failure, TurnEvent, TurnOutcome};
use tokio::time::sleep;

use super::errors::{failed, stopped};
use super::warning;
use crate::conversation::retention;
use crate::gateway::app_state::AppState;
use crate::gateway::create::ConversationDraft;
use crate::gateway::events::OpenStream;
use crate::gateway::problem::ApiResult;
use crate::gateway::turn_follower::{TurnFollower, TurnUpdate};

/// Pause between attempts to remove a conversation, and how many there are.
const REMOVE_PAUSE: Duration = Duration::from_secs(5);
const REMOVE_ATTEMPTS: u32 = 12;

/// What every piece of an answer repeats.
pub(super) struct CompletionHead {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl CompletionHead {
    /// The head of the answer that this conversation is for.
    pub(super) fn of(conversation: &ConversationId, model: String) -> Self {
        Self {
            id: format!("chatcmpl-{conversation}"),
            created: clock::now_ms() / 1000,
            model,
        }
    }
}

/// An answer that is being waited for.
pub(super) struct PendingCompletion {
    pub(super) reader: TurnFollower,
    #[expect(dead_code, reason = "removed when nobody follows it any more")]
    conversation: EphemeralConversation,
    _open: OpenStream,
}

impl PendingCompletion {
    pub(super) async fn of(
        app: &AppState,
        conversation: EphemeralConversation,
        open: OpenStream,
    ) -> ApiResult<Self> {
        Ok(Self {
            reader: conversation.follow(app).await?,
            conversation,
            _open: open,
        })
    }

    /// Waits for the answer; what people are told of its image is beside it.
    pub(super) async fn whole(
        mut self,
        head: CompletionHead,
    ) -> ApiResult<(Response, Option<String>)> {
        let (outcome, of_image) = outcome_with(&mut self.reader, || {}).await?;
        let answer = match outcome {
            Ok(answer) => Json(completion(head, answer)).into_response(),
            Err(failure) => failed(&failure),
        };
        Ok((answer, of_image))
    }
}

/// Waits for the answer, and for what people are told of its image; `on_event` is called with each of its events. An error says
/// that it was not waited for to its end, or that it was cancelled.
pub(super) async fn outcome_with(
    reader: &mut TurnFollower,
    on_event: impl Fn(),
) -> ApiResult<(Result<Answer, Failure>, Option<String>)> {
    let mut of_image = None;
    while let Some(update) = reader.next().await {
        let TurnUpdate::Event(_, event) = update else {
            continue;
        };
        on_event();
        match event {
            TurnEvent::Findings(findings) => of_image = warning::of_image(&findings),
            TurnEvent::Ended(TurnOutcome::Done(answer)) => return Ok((Ok(answer), of_image)),
            TurnEvent::Ended(TurnOutcome::Failed(failure)) => return Ok((Err(failure), of_image)),
            TurnEvent::Ended(TurnOutcome::Cancelled) => return Err(stopped()),
            _ => {}
        }
    }
    Err(stopped())
}

pub(super) fn completion(head: CompletionHead, answer: Answer) -> ChatCompletion {
    let (usage, finish_reason) = (usage(&answer), finish_reason(&answer));
    let message = AnswerMessage {
        role: Role::Assistant,
        content: answer.text.trim_start().to_owned(),
    };
    ChatCompletion {
        id: head.id,
        object: "chat.completion".into(),
        created: head.created,
        model: head.model,
        choices: vec![Choice {
            index: 0,
            message,
            finish_reason,
        }],
        usage,
    }
}

pub(super) fn finish_reason(answer: &Answer) -> String {
    if answer.complete { "stop" } else { "length" }.to_owned()
}

pub(super) fn usage(answer: &Answer) -> Usage {
    Usage {
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.tokens,
        total_tokens: answer.prompt_tokens.saturating_add(answer.tokens),
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: answer.cached_tokens,
        },
    }
}

/// A conversation that ends with its only answer.
pub(super) struct EphemeralConversation {
    pub(super) app: AppState,
    pub(super) id: ConversationId,
}

impl EphemeralConversation {
    /// Begins it. From here on it may exist even where beginning it fails or is abandoned half way.
    pub(super) async fn begin(app: &AppState, draft: ConversationDraft) -> ApiResult<Self> {
        let conversation = Self {
            app: app.clone(),
            id: draft.id.clone(),
        };
        let (_, conversation) = super::begin(app, draft, conversation).await?;
        Ok(conversation)
    }

    /// Follows its only answer from the beginning.
    pub(super) async fn follow(&self, app: &AppState) -> ApiResult<TurnFollower> {
        Ok(TurnFollower::open(app, &self.id, 1, 0).await?)
    }
}

impl Drop for EphemeralConversation {
    fn drop(&mut self) {
        let (app, id) = (self.app.clone(), self.id.clone());
        tokio::spawn(async move {
            for _ in 0..REMOVE_ATTEMPTS {
                if retention::remove(&app.backends, &id).await.is_ok() {
                    return;
                }
                sleep(REMOVE_PAUSE).await;
            }
        });
    }
}
