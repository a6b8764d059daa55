//! Answering one line of a batch, as `POST /v1/chat/completions` or `POST /v1/responses` would.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai::{ChatCompletionRequest, ErrorBody};
use radialog_schemas::http::openai_batches::{
    BatchEndpoint, BatchLineError, BatchLineResponse, BatchOutputLine,
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
use crate::gateway::openai::responses::{self, AskedResponse};
use crate::gateway::openai::{draft, errors, parse};
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::request_path::ID_LENGTH;

/// A line as it stands in the batch's outputs.
pub(super) struct AnsweredLine {
    /// It was answered with 200.
    pub(super) is_answer: bool,
    /// With its line end.
    pub(super) text: Vec<u8>,
}

/// What a line is answered with.
struct LineResponse {
    status: u16,
    body: Value,
    /// What of the request is not used.
    warning: Option<String>,
}

/// What a line asks for.
enum AskedLine {
    Completion(Box<ChatCompletionRequest>),
    Response(Box<AskedResponse>),
}

/// What becomes of the lines of a batch that are being answered.
#[derive(Default)]
pub(super) struct LineCounts {
    /// Raised with whatever happens to a line: while it stands still, no worker has any of them.
    news: AtomicU64,
    /// Lines that are being read, whose requests are not published.
    unasked: AtomicUsize,
}

impl LineCounts {
    /// Counts what has happened to lines until now.
    pub(super) fn news(&self) -> u64 {
        self.news.load(Ordering::Relaxed)
    }

    /// Whether all lines that were begun wait for workers, or are answered: nothing of them is being read here.
    pub(super) fn are_asked(&self) -> bool {
        self.unasked.load(Ordering::Relaxed) == 0
    }

    fn note(&self) {
        self.news.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line that is being read, until its request is published or refused.
struct UnaskedLine<'a>(&'a LineCounts);

impl<'a> UnaskedLine<'a> {
    fn of(counts: &'a LineCounts) -> Self {
        counts.unasked.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for UnaskedLine<'_> {
    fn drop(&mut self) {
        self.0.note();
        self.0.unasked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The batch that a line is of.
pub(super) struct LineContext<'a> {
    pub(super) app: &'a AppState,
    /// The key's name.
    pub(super) owner: &'a str,
    /// The batch's name.
    pub(super) batch: &'a str,
    pub(super) endpoint: BatchEndpoint,
    pub(super) counts: &'a LineCounts,
}

impl LineContext<'_> {
    /// Answers the line. What is full or away is waited for: dropped, the line can be answered again.
    pub(super) async fn answer(&self, line: InputLine) -> AnsweredLine {
        let id = conversation(self.batch, line.number);
        let (custom_id, answered) = self.complete(&id, &line).await;
        let LineResponse {
            status,
            body,
            warning,
        } = answered.unwrap_or_else(|error| refusal(&error));
        let line = BatchOutputLine {
            id: format!("batch_req_{id}"),
            custom_id,
            response: Some(BatchLineResponse {
                status_code: status,
                request_id: id.to_string(),
                body,
                radialog_warning: warning,
            }),
            error: None,
        };
        AnsweredLine {
            is_answer: status == 200,
            text: text(&line),
        }
    }

    /// The line's name, and its answer.
    async fn complete(
        &self,
        id: &ConversationId,
        line: &InputLine,
    ) -> (String, ApiResult<LineResponse>) {
        loop {
            let unasked = UnaskedLine::of(self.counts);
            // Of the line, as long as its request is not stored; the line itself holds its own.
            let bytes = line.size() as u64 * COPIES;
            let memory = HeldMemory::wait(&self.app.bodies, bytes).await;
            let (content, endpoint) = (line.content.clone(), self.endpoint);
            let most = self.app.config.max_opening_chars;
            let read = body::beside(move || Ok(read(content.as_deref(), endpoint, most)));
            let (custom_id, asked) = match read.await {
                Ok(read) => read,
                Err(error) => return (String::new(), Err(error)),
            };
            let answered = match asked {
                Ok(asked) => self.try_complete(id, asked, (memory, unasked)).await,
                Err(mut error) if custom_id.is_empty() => {
                    // Nothing else tells which one it is.
                    let detail = &error.problem.detail;
                    error.problem.detail = format!("line {}: {detail}", line.number);
                    Err(error)
                }
                Err(error) => Err(error),
            };
            match answered.as_ref().err().and_then(|error| error.retry_after) {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => return (custom_id, answered),
            }
        }
    }

    async fn try_complete(
        &self,
        id: &ConversationId,
        asked: AskedLine,
        (memory, unasked): (HeldMemory, UnaskedLine<'_>),
    ) -> ApiResult<LineResponse> {
        let count = || self.counts.note();
        let asked = match asked {
            AskedLine::Completion(asked) => *asked,
            AskedLine::Response(request) => {
                let (place, mut unused) = ((self.owner, id.clone()), request.unused());
                let asked = || drop(unasked);
                let answered =
                    responses::answer_line(self.app, place, *request, memory, (asked, count));
                let (response, of_image) = answered.await?;
                unused.of_image = of_image;
                return Ok(LineResponse {
                    status: 200,
                    body: value(&response),
                    warning: unused.warning(),
                });
            }
        };
        let head = CompletionHead::of(id, asked.model.clone());
        let has_deadline = asked.deadline_seconds.is_some();
        let (mut draft, mut unused) = draft(self.app, self.owner, id.clone(), asked).await?;
        draft.of_batch = true;
        if !has_deadline {
            // The gateway's own is for those who wait; a batch has its day.
            draft
                .turns
                .iter_mut()
                .for_each(|turn| turn.deadline_ms = None);
        }
        let conversation = EphemeralConversation::begin(self.app, draft).await?;
        drop((memory, unasked));
        let mut reader = conversation.follow(self.app).await?;
        let (outcome, of_image) = completion::outcome_with(&mut reader, count).await?;
        unused.of_image = of_image;
        let (status, body) = match outcome {
            Ok(answer) => (200, value(&completion::completion(head, answer))),
            Err(failure) => {
                let (status, error) = errors::failure(&failure);
                (status, value(&ErrorBody { error }))
            }
        };
        Ok(LineResponse {
            status,
            body,
            warning: unused.warning(),
        })
    }
}

/// Reads a line's name, and its request or what is wrong with it. The whole file was checked before; what is wrong now was
/// not there then, or was right for a gateway with other limits.
fn read(
    content: Option<&[u8]>,
    endpoint: BatchEndpoint,
    max_chars: u64,
) -> (String, ApiResult<AskedLine>) {
    let line = match input::parse(content, endpoint) {
        Ok(line) => line,
        Err(error) => return (input::custom_id(content), Err(error)),
    };
    let body = serde_json::to_vec(&line.body).unwrap_or_default();
    drop(line.body);
    let asked = match endpoint {
        BatchEndpoint::ChatCompletions => completion_request(&body),
        BatchEndpoint::Responses => AskedResponse::of_line(&body, max_chars)
            .map(|asked| AskedLine::Response(Box::new(asked))),
    };
    (line.custom_id, asked)
}

fn completion_request(body: &[u8]) -> ApiResult<AskedLine> {
    let asked = parse(body)?;
    if asked.stream == Some(true) {
        let detail = "'stream' is not for batches; leave it out";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("stream"));
    }
    Ok(AskedLine::Completion(Box::new(asked)))
}

/// What is told of a line when the batch's time was over before it was answered.
pub(super) fn expired() -> BatchLineError {
    BatchLineError {
        code: "batch_expired".to_owned(),
        message:
            "the batch's time was over before this request was answered; send it again in another batch"
                .to_owned(),
    }
}

/// Says why a line was not asked.
pub(super) fn not_asked(batch: &str, line: &InputLine, why: BatchLineError) -> AnsweredLine {
    let line = BatchOutputLine {
        id: format!("batch_req_{}", conversation(batch, line.number)),
        custom_id: input::custom_id(line.content.as_deref()),
        response: None,
        error: Some(why),
    };
    AnsweredLine {
        is_answer: false,
        text: text(&line),
    }
}

/// The conversation that answers a line, by a name that every gateway gives it: whoever takes the batch over goes on with
/// it.
pub(super) fn conversation(batch: &str, number: u64) -> ConversationId {
    let number = number.to_le_bytes();
    let parts = [b"batch line".as_slice(), batch.as_bytes(), &number];
    ConversationId(ContentHash::of_parts(parts).as_str()[..ID_LENGTH].to_owned())
}

/// What a request that is refused is answered with.
fn refusal(error: &ApiError) -> LineResponse {
    let (status, error) = errors::described(error);
    LineResponse {
        status,
        body: value(&ErrorBody { error }),
        warning: None,
    }
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

fn text(line: &BatchOutputLine) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}
