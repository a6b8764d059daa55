//! What a response goes on from: a copy of what was said and shown before, which is the new response's own.

use radialog_runtime::objects::ObjectError;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::{Ask, ChatImage, Exchange, TurnOutcome, TurnStatus};

use super::lookup;
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body_memory::{BodyKind, HeldMemory};
use crate::gateway::image::CheckedImage;
use crate::gateway::problem::{ApiError, ApiResult};

/// The field that names a response to go on from.
const PARAM: &str = "previous_response_id";

/// What stands before a question.
#[derive(Default)]
pub(super) struct History {
    pub(super) opening: Vec<Exchange>,
    pub(super) image: Option<CheckedImage>,
    /// Where the response before keeps the image, if it has it.
    pub(super) known_image: Option<ChatImage>,
    /// The memory that the image takes.
    pub(super) memory: Option<HeldMemory>,
}

impl History {
    /// Copies what was said and shown up to the end of this response.
    pub(super) async fn of(app: &AppState, caller: &Caller, id: &str) -> ApiResult<Self> {
        let previous = lookup::own(app, caller, id).await;
        let previous = previous.map_err(|error| error.at(PARAM))?;
        let turn = previous.turns.first().ok_or_else(ApiError::no_turn)?;
        let answer = match (&turn.outcome, turn.status) {
            (Some(TurnOutcome::Done(answer)), _) => answer,
            (_, TurnStatus::Queued | TurnStatus::Running) => {
                return Err(refused(
                    "this response is not complete yet; go on from it then",
                ));
            }
            _ => {
                return Err(refused(
                    "this response has no answer; go on from an earlier one, or begin anew",
                ));
            }
        };
        let (user, task) = match &turn.request.ask {
            Ask::Question { text } => (text.clone(), None),
            task => (String::new(), Some(task.clone())),
        };
        let mut opening = previous.conversation.opening;
        opening.push(Exchange {
            user,
            assistant: answer.as_written(),
            task,
        });
        let mut history = Self {
            opening,
            ..Self::default()
        };
        if let Some(image) = &previous.conversation.image {
            history.read_image(app, caller, image).await?;
        }
        Ok(history)
    }

    async fn read_image(
        &mut self,
        app: &AppState,
        caller: &Caller,
        image: &ChatImage,
    ) -> ApiResult<()> {
        let none = || refused("the image of this response is not stored any more; begin anew");
        let objects = &app.backends.objects;
        let length = objects.size(&image.image).await?.ok_or_else(none)?;
        let mut memory =
            HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
        memory.take(length)?;
        let content = match objects.get(&image.image).await {
            Err(ObjectError::NotFound(_)) => return Err(none()),
            content => content?,
        };
        self.image = Some(CheckedImage::new(content, &app.config).await?);
        self.known_image = Some(image.clone());
        self.memory = Some(memory);
        Ok(())
    }

    /// Adds what the request itself says and shows before its question.
    pub(super) fn go_on(
        &mut self,
        app: &AppState,
        opening: Vec<Exchange>,
        ask: &Ask,
        image: Option<CheckedImage>,
    ) -> ApiResult<()> {
        if image.is_some() && self.image.is_some() {
            let detail = "the response that this one goes on from has an image already, and the model reads one; \
                          begin anew for the other one";
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("input"));
        }
        self.image = self.image.take().or(image);
        self.opening.extend(opening);
        let asked = match ask {
            Ask::Question { text } => text.chars().count(),
            _ => 0,
        };
        let said = self
            .opening
            .iter()
            .map(|exchange| exchange.user.chars().count() + exchange.assistant.chars().count());
        let (chars, most) = (said.sum::<usize>() + asked, app.config.max_opening_chars);
        if chars as u64 > most {
            let detail = format!(
                "with what was said before there are {chars} characters, and the limit is {most}; begin anew"
            );
            return Err(ApiError::new(ProblemCode::TextTooLong, detail).at(PARAM));
        }
        Ok(())
    }
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(ProblemCode::InvalidRequest, detail).at(PARAM)
}
