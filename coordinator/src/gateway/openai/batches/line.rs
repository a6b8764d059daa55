//! Answering one line of a batch, as `POST /v1/chat/completions` would.

use std::time::Duration;

use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai::ErrorBody;
use radialog_schemas::http::openai_batches::{
    BatchEndpoint, BatchLine, BatchLineError, BatchLineResponse, BatchOutputLine,
};
use radialog_schemas::{ContentHash, ConversationId};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::input::{self, InputLine};
use crate::gateway::app_state::AppState;
use crate::gateway::body;
use crate::gateway::body_memory::HeldMemory;
use crate::gateway::config::COPIES;
use crate::gateway::openai::completion::{self, CompletionHead, EphemeralConversation};
use crate::gateway::openai::errors;
use crate::gateway::openai::{draft, parse};
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::request_path::ID_LENGTH;

/// A line as it stands in the batch's outputs.
pub(super) struct AnsweredLine {
    /// It was answered with 200.
    pub(super) is_answer: bool,
    /// With its line end.
    pub(super) text: Vec<u8>,
}

/// The batch that a line is of.
pub(super) struct LineContext<'a> {
    pub(super) app: &'a AppState,
    /// The key's name.
    pub(super) owner: &'a str,
    /// The batch's name.
    pub(super) batch: &'a str,
    pub(super) endpoint: BatchEndpoint,
}

impl LineContext<'_> {
    /// Answers the line. What is full or away is waited for: dropped, the line can be answered again.
    pub(super) async fn answer(&self, line: InputLine) -> ApiResult<AnsweredLine> {
        let endpoint = self.endpoint;
        let number = line.number;
        let _memory = HeldMemory::wait(&self.app.bodies, line.size() as u64 * COPIES).await;
        let read = move || Ok(input::parse(line.content.as_deref(), endpoint));
        // The whole file was checked before; what is wrong now was not there then.
        let BatchLine {
            custom_id, body, ..
        } = body::beside(read).await??;
        let id = self.conversation(number);
        let (status, body) = match self.complete(&id, body).await {
            Ok((status, body)) => (status, body),
            Err(error) => refusal(&error),
        };
        let line = BatchOutputLine {
            id: format!("batch_req_{id}"),
            custom_id,
            response: Some(BatchLineResponse {
                status_code: status,
                request_id: id.to_string(),
                body,
            }),
            error: None,
        };
        Ok(AnsweredLine {
            is_answer: status == 200,
            text: text(&line),
        })
    }

    /// Says of a line that the batch's time was over before it was answered.
    pub(super) fn expire(&self, line: &InputLine) -> ApiResult<AnsweredLine> {
        let BatchLine { custom_id, .. } = input::parse(line.content.as_deref(), self.endpoint)?;
        let line = BatchOutputLine {
            id: format!("batch_req_{}", self.conversation(line.number)),
            custom_id,
            response: None,
            error: Some(BatchLineError {
                code: "batch_expired".to_owned(),
                message: "the batch's time was over before this request was answered; send it again in another batch"
                    .to_owned(),
            }),
        };
        Ok(AnsweredLine {
            is_answer: false,
            text: text(&line),
        })
    }

    /// The conversation that answers this line, by a name that every gateway gives it: whoever takes the batch over goes on
    /// with it.
    fn conversation(&self, number: u64) -> ConversationId {
        let number = number.to_le_bytes();
        let parts = [b"batch line".as_slice(), self.batch.as_bytes(), &number];
        ConversationId(ContentHash::of_parts(parts).as_str()[..ID_LENGTH].to_owned())
    }

    async fn complete(&self, id: &ConversationId, body: Value) -> ApiResult<(u16, Value)> {
        let asked = body::beside(move || parse(&serde_json::to_vec(&body).unwrap_or_default()));
        let asked = asked.await?;
        if asked.stream == Some(true) {
            let detail = "'stream' is not for batches; leave it out";
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("stream"));
        }
        let model = asked.model.clone();
        loop {
            let answered = self.try_complete(id, &model, asked.clone()).await;
            match answered {
                Err(error) => match error.retry_after {
                    Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                    None => return Err(error),
                },
                answered => return answered,
            }
        }
    }

    async fn try_complete(
        &self,
        id: &ConversationId,
        model: &str,
        asked: radialog_schemas::http::openai::ChatCompletionRequest,
    ) -> ApiResult<(u16, Value)> {
        let draft = draft(self.app, self.owner, id.clone(), asked).await?;
        let head = CompletionHead::of(id, model.to_owned());
        let conversation = EphemeralConversation::begin(self.app, draft).await?;
        let mut reader = conversation.follow(self.app).await?;
        Ok(match completion::outcome(&mut reader).await? {
            Ok(answer) => (200, value(&completion::completion(head, answer))),
            Err(failure) => {
                let status = errors::failure_status(&failure);
                let code = Some(failure.code.as_str());
                let error = errors::detail(status, &failure.message, code);
                (status, value(&ErrorBody { error }))
            }
        })
    }
}

/// Status and body of a request that is refused.
fn refusal(error: &ApiError) -> (u16, Value) {
    let (status, error) = errors::described(error);
    (status, value(&ErrorBody { error }))
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

fn text(line: &BatchOutputLine) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}
