//! The part of OpenAI's files and batches APIs that the gateway speaks: a file with a request a line goes in, a file with
//! an answer a line comes out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Unsupported;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilePurpose {
    /// A file of requests.
    Batch,
    /// A file of answers or faults, which a batch has written.
    BatchOutput,
}

/// A new file, as a form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewFileForm {
    /// Only `batch`.
    #[schemars(with = "String", extend("enum" = ["batch"]))]
    pub purpose: FilePurpose,
    /// JSON Lines in UTF-8, one request a line.
    #[schemars(extend("format" = "binary"))]
    pub file: String,
}

/// A file of requests or of answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileObject {
    /// The name by which it is asked for.
    pub id: String,
    /// The kind of this object: `file`.
    pub object: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The time at which it was made, in seconds since 1970.
    pub created_at: u64,
    /// The time at which it is removed, in seconds since 1970.
    pub expires_at: u64,
    /// The name that it was uploaded under.
    pub filename: String,
    /// What it is for.
    pub purpose: FilePurpose,
    /// `processed`: what stands in it is checked by the batch. `error`: what is stored of it is damaged, and it can only be removed.
    pub status: String,
}

/// A page of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileList {
    /// The kind of this object: `list`.
    pub object: String,
    /// The files.
    pub data: Vec<FileObject>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id, behind which the next page begins.
    pub last_id: Option<String>,
    /// There are more behind the last one.
    pub has_more: bool,
}

/// The answer to a removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedFile {
    /// The file that is gone.
    pub id: String,
    /// The kind of this object: `file`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

/// The operation that every line of a batch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchEndpoint {
    /// Chat completions.
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    /// Responses.
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl BatchEndpoint {
    /// The path of the operation.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
        }
    }
}

/// How long a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CompletionWindow {
    /// A day.
    #[serde(rename = "24h")]
    Day,
}

/// A batch that is asked for. What is not listed here is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRequestBatch {
    /// A file of requests with purpose `batch`: each line `{"custom_id": ..., "method": "POST", "url": ..., "body": ...}`, where
    /// `url` is the batch's endpoint and no `custom_id` comes twice.
    pub input_file_id: String,
    /// What every line asks for.
    pub endpoint: BatchEndpoint,
    /// Only `24h`: what is not answered by then is listed as `batch_expired`.
    pub completion_window: CompletionWindow,
    /// The caller's own notes, which come back with the batch.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Not supported: outputs stay for 30 days.
    #[serde(default)]
    #[schemars(with = "Option<()>")]
    pub output_expires_after: Option<Unsupported>,
}

/// The state of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestBatchStatus {
    /// Its lines are being checked.
    Validating,
    /// Its lines are wrong; none was answered.
    Failed,
    /// Its lines are being answered.
    InProgress,
    /// Its outputs are being put together.
    Finalizing,
    /// Every line has its answer or fault.
    Completed,
    /// Its time was over first; what was answered until then is in its outputs.
    Expired,
    /// It is being stopped.
    Cancelling,
    /// It was stopped; what was answered until then is in its outputs.
    Cancelled,
}

impl RequestBatchStatus {
    /// Nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }
}

/// How many lines a batch has, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCounts {
    /// All of them; 0 until they have been checked.
    pub total: u64,
    /// Those that were answered.
    pub completed: u64,
    /// Those with a fault.
    pub failed: u64,
}

/// What is wrong with a line of a batch's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchLineFault {
    /// A stable code.
    pub code: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The field that is at fault.
    pub param: Option<String>,
    /// The line, from 1; none where it is about the whole file.
    pub line: Option<u64>,
}

/// What is wrong with a batch's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchFaults {
    /// The kind of this object: `list`.
    pub object: String,
    /// The first faults.
    pub data: Vec<BatchLineFault>,
}

/// A batch as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestBatch {
    /// The name by which it is asked for.
    pub id: String,
    /// The kind of this object: `batch`.
    pub object: String,
    /// What every line asks for.
    pub endpoint: BatchEndpoint,
    /// Why it failed.
    pub errors: Option<BatchFaults>,
    /// The requests.
    pub input_file_id: String,
    /// How long it may take.
    pub completion_window: CompletionWindow,
    /// Its state.
    pub status: RequestBatchStatus,
    /// It stands still until it is resumed, or its time is over. This field is ours.
    pub paused: bool,
    /// The answers, once it has ended and there are any.
    pub output_file_id: Option<String>,
    /// The faults, once it has ended and there are any.
    pub error_file_id: Option<String>,
    /// The time at which it was asked for, in seconds since 1970, as all of these.
    pub created_at: u64,
    /// The time at which its lines had been checked.
    pub in_progress_at: Option<u64>,
    /// The time until which it may take.
    pub expires_at: u64,
    /// The time at which its outputs began to be put together.
    pub finalizing_at: Option<u64>,
    /// The time at which it was completed.
    pub completed_at: Option<u64>,
    /// The time at which it failed.
    pub failed_at: Option<u64>,
    /// The time at which it had expired.
    pub expired_at: Option<u64>,
    /// The time at which it was told to stop.
    pub cancelling_at: Option<u64>,
    /// The time at which it had stopped.
    pub cancelled_at: Option<u64>,
    /// The number of its lines, and what became of them.
    pub request_counts: RequestCounts,
    /// The caller's notes.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A page of batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestBatchList {
    /// The kind of this object: `list`.
    pub object: String,
    /// The batches, the latest first.
    pub data: Vec<RequestBatch>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id, behind which the next page begins.
    pub last_id: Option<String>,
    /// There are more behind the last one.
    pub has_more: bool,
}

/// A line of a batch's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchLine {
    /// The caller's name of the request, by which its answer is found.
    pub custom_id: String,
    /// Only `POST`.
    pub method: String,
    /// The batch's endpoint.
    pub url: String,
    /// The request.
    pub body: Value,
}

/// A line of a batch's output: a response (in the file of faults too, where the request was refused), or a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchOutputLine {
    /// The name of this line.
    pub id: String,
    /// The caller's name of the request; empty where it cannot be read.
    pub custom_id: String,
    /// What the endpoint has answered.
    pub response: Option<BatchLineResponse>,
    /// Why there is no response.
    pub error: Option<BatchLineError>,
}

/// What the endpoint has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchLineResponse {
    /// The HTTP status.
    pub status_code: u16,
    /// The name of the request in our logs.
    pub request_id: String,
    /// The body: a chat completion, or `{"error": ...}`.
    pub body: Value,
    /// What of the request had no part in the answer, as the header `radialog-warning` says it elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub radialog_warning: Option<String>,
}

/// Why a line has no response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchLineError {
    /// A stable code, e.g. `batch_expired`.
    pub code: String,
    /// What has happened.
    pub message: String,
}
