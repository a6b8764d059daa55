//! Every operation of the API, once and in the order of the document: the router and the OpenAPI document are both made
//! from this table.

use axum::http::Method;
use axum::routing::{delete, get, post, put};
use radialog_schemas::http::openai::{ChatCompletion, ChatCompletionRequest, Model, ModelList};
use radialog_schemas::http::openai_batches::{
    DeletedFile, FileList, FileObject, NewFileForm, NewRequestBatch, RequestBatch, RequestBatchList,
};
use radialog_schemas::http::responses::{
    DeletedResponse, InputItemList, ModelResponse, NewResponse,
};
use radialog_schemas::http::{
    AnswerRating, ConversationList, ConversationTitle, ConversationView, EditedAnswer,
    NewConversation, NewConversationForm, NewTurn, TurnView,
};
use serde_json::Value;

use super::openai::{batches, request_files, responses};
use super::operation::{Access, JSON, OPENAI_TAG, Operation};
use super::{archives, conversations, create, events, files, openai, turns};
use crate::run::{ArchiveRunView, AskedArchiveRun};

const DOCUMENT: &str = "/openapi.json";
const CONVERSATIONS: &str = "/v1/conversations";
const CONVERSATION: &str = "/v1/conversations/{id}";
const IMAGE: &str = "/v1/conversations/{id}/image";
const TURNS: &str = "/v1/conversations/{id}/turns";
const TURN: &str = "/v1/conversations/{id}/turns/{turn}";
const EVENTS: &str = "/v1/conversations/{id}/turns/{turn}/events";
const ARCHIVES: &str = "/v1/archives";
const ARCHIVE: &str = "/v1/archives/{run}";
const ARCHIVE_PAUSE: &str = "/v1/archives/{run}/pause";
const ARCHIVE_RESUME: &str = "/v1/archives/{run}/resume";
const ARCHIVE_RESULT: &str = "/v1/archives/{run}/results/{result}";
const FILES: &str = "/v1/files";
const FILE: &str = "/v1/files/{file}";
const FILE_CONTENT: &str = "/v1/files/{file}/content";
const BATCHES: &str = "/v1/batches";
const BATCH: &str = "/v1/batches/{batch}";
const BATCH_CANCEL: &str = "/v1/batches/{batch}/cancel";
const BATCH_PAUSE: &str = "/v1/batches/{batch}/pause";
const BATCH_RESUME: &str = "/v1/batches/{batch}/resume";
const RESPONSES: &str = "/v1/responses";
const RESPONSE: &str = "/v1/responses/{response}";
const RESPONSE_CANCEL: &str = "/v1/responses/{response}/cancel";
const RESPONSE_INPUT: &str = "/v1/responses/{response}/input_items";
const EDIT: &str = "/v1/conversations/{id}/turns/{turn}/edit";
const RATING: &str = "/v1/conversations/{id}/turns/{turn}/rating";
const TITLE: &str = "/v1/conversations/{id}/title";

pub(super) fn operations() -> Vec<Operation> {
    let mut all = conversation_operations();
    all.extend(turn_operations());
    all.extend(archive_operations());
    all.extend(openai_operations());
    all.extend(response_operations());
    all.extend(request_batch_operations());
    all.push(
        Operation::new(
            Method::GET,
            DOCUMENT,
            "getDocument",
            get(files::openapi_document),
        )
        .describe(
            "This document",
            "OpenAPI 3.1. The same for everybody, and needs no key.",
        )
        .tag("about")
        .access(Access::Public)
        .responds::<Value>(200, "The document."),
    );
    all
}

fn conversation_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, CONVERSATIONS, "createConversation", post(create::create))
            .describe(
                "Begin a conversation",
                "Give an image, a question, or both. With an image, its findings are computed, turn 1 writes its report, \
                 and the question becomes turn 2. Answers at once; follow the turns by their events.",
            )
            .parameters(&["IdempotencyKey"])
            .reads_body::<NewConversation>(JSON)
            .reads_body::<NewConversationForm>("multipart/form-data")
            .responds::<ConversationView>(202, "It is queued; `Location` is its address.")
            .fails_with(&[400, 404, 413, 415, 422]),
        Operation::new(Method::GET, CONVERSATIONS, "listConversations", get(conversations::list))
            .describe("List your conversations", "The latest first, at most 200.")
            .responds::<ConversationList>(200, "The list."),
        Operation::new(Method::GET, CONVERSATION, "getConversation", get(conversations::get))
            .describe("Look at a conversation", "Its findings, and all its turns with their states and texts so far.")
            .parameters(&["Conversation"])
            .responds::<ConversationView>(200, "The conversation.")
            .fails_with(&[404]),
        Operation::new(Method::PUT, TITLE, "renameConversation", put(conversations::rename))
            .describe("Rename a conversation", "The title that lists show, one line. With its `title_tag` as `If-Match`, only the title that you have seen is replaced.")
            .parameters(&["Conversation", "IfMatch"])
            .reads_body::<ConversationTitle>(JSON)
            .responds_empty(204, "It is called so.")
            .tagged()
            .fails_with(&[400, 404, 412, 413, 415, 422]),
        Operation::new(Method::DELETE, CONVERSATION, "deleteConversation", delete(conversations::delete))
            .describe(
                "Remove a conversation",
                "Running turns stop. Its image and what was computed from it go too, when nothing else uses them.",
            )
            .parameters(&["Conversation"])
            .responds_empty(204, "It is gone.")
            .fails_with(&[404]),
        Operation::new(Method::GET, IMAGE, "getImage", get(conversations::image))
            .describe("The image, as it was uploaded", "Send its `ETag` as `If-None-Match` to get it only once.")
            .parameters(&["Conversation"])
            .responds_bytes(200, "image/*", "The file.")
            .responds_empty(304, "You have it.")
            .fails_with(&[404]),
    ]
}

fn turn_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, TURNS, "addTurn", post(turns::add))
            .describe(
                "Ask something",
                "A question in your words, or one of the tasks that the model was trained on. Turns are answered in order.",
            )
            .tag("turns")
            .parameters(&["Conversation", "IdempotencyKey"])
            .reads_body::<NewTurn>(JSON)
            .responds::<TurnView>(202, "It is queued; `Location` is its address.")
            .fails_with(&[400, 404, 409, 413, 415, 422]),
        Operation::new(Method::GET, TURN, "getTurn", get(turns::get))
            .describe("Look at a turn", "Its state and its text so far.")
            .tag("turns")
            .parameters(&["Conversation", "Turn"])
            .responds::<TurnView>(200, "The turn.")
            .fails_with(&[404]),
        Operation::new(Method::DELETE, TURN, "cancelTurn", delete(turns::cancel))
            .describe(
                "Stop a turn",
                "A queued one never runs, a running one stops at its next token, one that is over stays as it is. What was \
                 written stays.",
            )
            .tag("turns")
            .parameters(&["Conversation", "Turn"])
            .responds_empty(204, "It stops, or has stopped.")
            .fails_with(&[404]),
        Operation::new(Method::GET, EVENTS, "followTurn", get(events::follow))
            .describe(
                "Follow a turn",
                "Server-Sent Events: `queued` ({\"position\"}, whenever it changes), `findings` (of the image, in turn 1), \
                 `started` ({\"asked\"}), `token` ({\"text\"}), and at the end `done` (the turn) or `error` ({\"code\", \
                 \"message\"}; `not_found` where the conversation was deleted). A comment comes when nothing else does. After a \
                 lost connection go on with the last id in `Last-Event-ID`, at any gateway: no event is missed, none comes \
                 twice.",
            )
            .tag("turns")
            .parameters(&["Conversation", "Turn", "LastEventId", "After"])
            .responds_bytes(200, "text/event-stream", "The events, until the turn is over.")
            .responds_empty(204, "The turn is over and you have read its last event.")
            .fails_with(&[404, 422]),
        Operation::new(Method::PUT, EDIT, "editAnswer", put(turns::edit))
            .describe(
                "Rewrite an answer",
                "Keeps your version of a report beside the model's. Later turns build on it, and it can be exported for \
                 training. Where a person's version is there already, send the turn's `edit_tag` as `If-Match`: nothing is lost \
                 that you have not seen.",
            )
            .tag("turns")
            .parameters(&["Conversation", "Turn", "IfMatch"])
            .reads_body::<EditedAnswer>(JSON)
            .responds::<TurnView>(200, "The turn with your version.")
            .tagged()
            .fails_with(&[400, 404, 409, 412, 413, 415, 422, 428]),
        Operation::new(Method::DELETE, EDIT, "forgetEdit", delete(turns::forget_edit))
            .describe(
                "Forget a rewritten answer",
                "The model's own answer counts again. Send the turn's `edit_tag` as `If-Match`, as for rewriting it.",
            )
            .tag("turns")
            .parameters(&["Conversation", "Turn", "IfMatch"])
            .responds_empty(204, "It is forgotten.")
            .tagged()
            .fails_with(&[404, 409, 412, 422, 428]),
        Operation::new(Method::PUT, RATING, "rateAnswer", put(turns::rate))
            .describe(
                "Rate an answer",
                "Keeps whether it is good or bad, with the answer as data until the conversation is removed. Nothing that the \
                 model reads changes. A turn that was cancelled or has failed has no answer to rate.",
            )
            .tag("turns")
            .parameters(&["Conversation", "Turn"])
            .reads_body::<AnswerRating>(JSON)
            .responds::<TurnView>(200, "The turn with its rating.")
            .fails_with(&[400, 404, 409, 413, 415, 422]),
        Operation::new(Method::DELETE, RATING, "forgetRating", delete(turns::forget_rating))
            .describe("Forget a rating", "The answer is neither good nor bad.")
            .tag("turns")
            .parameters(&["Conversation", "Turn"])
            .responds_empty(204, "It is forgotten.")
            .fails_with(&[404, 409]),
    ]
}

fn archive_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, ARCHIVES, "startArchive", post(archives::start))
            .describe(
                "Score an archive",
                "The run of `radialog batch` over a prefix of the S3 store that this gateway may read. Answers at once.",
            )
            .tag("archives")
            .parameters(&["IdempotencyKey"])
            .reads_body::<AskedArchiveRun>(JSON)
            .responds::<ArchiveRunView>(202, "It is queued; `Location` is its address.")
            .fails_with(&[400, 403, 404, 413, 415, 422]),
        Operation::new(Method::GET, ARCHIVE, "getArchive", get(archives::get))
            .describe("Look at a run over an archive", "Counts, rates and time left; the names of its results once it has ended.")
            .tag("archives")
            .parameters(&["ArchiveRun"])
            .responds::<ArchiveRunView>(200, "The run.")
            .fails_with(&[404]),
        Operation::new(Method::DELETE, ARCHIVE, "cancelArchive", delete(archives::cancel))
            .describe("Cancel a run over an archive", "What is done stays, and becomes its results.")
            .tag("archives")
            .parameters(&["ArchiveRun"])
            .responds_empty(204, "It stops, or has stopped.")
            .fails_with(&[404]),
        Operation::new(Method::POST, ARCHIVE_PAUSE, "pauseArchive", post(archives::pause))
            .describe("Pause a run over an archive", "It stands still, and keeps what is done, until it is resumed or cancelled.")
            .tag("archives")
            .parameters(&["ArchiveRun"])
            .responds::<ArchiveRunView>(200, "The run.")
            .fails_with(&[404]),
        Operation::new(Method::POST, ARCHIVE_RESUME, "resumeArchive", post(archives::resume))
            .describe("Go on with a paused run", "No study is computed twice.")
            .tag("archives")
            .parameters(&["ArchiveRun"])
            .responds::<ArchiveRunView>(200, "The run.")
            .fails_with(&[404]),
        Operation::new(Method::GET, ARCHIVE_RESULT, "getArchiveResult", get(archives::result))
            .describe("Download a result", "`results.jsonl` (one line a study), `results.csv`, `summary.json`, or `problems.jsonl` (what of the archive is no study, and why; not there where all is).")
            .tag("archives")
            .parameters(&["ArchiveRun", "ResultFile"])
            .access(Access::Unhurried)
            .responds_bytes(200, "application/octet-stream", "The file.")
            .fails_with(&[404]),
    ]
}

fn request_batch_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, FILES, "createFile", post(request_files::upload))
            .describe(
                "Upload requests",
                "JSON Lines, one request a line, at most 200 MiB; kept for 30 days or until it is deleted.",
            )
            .tag(OPENAI_TAG)
            .access(Access::Unhurried)
            .reads_body::<NewFileForm>("multipart/form-data")
            .responds::<FileObject>(200, "The file.")
            .fails_with(&[400, 413, 415]),
        Operation::new(Method::GET, FILES, "listFiles", get(request_files::list))
            .describe("List your files", "The latest first: uploaded ones, and what batches have written.")
            .tag(OPENAI_TAG)
            .parameters(&["FileAfter", "FileLimit", "ItemOrder", "FilePurpose"])
            .responds::<FileList>(200, "A page of them.")
            .fails_with(&[400]),
        Operation::new(Method::GET, FILE, "getFile", get(request_files::get))
            .describe("Look at a file", "What is known of it.")
            .tag(OPENAI_TAG)
            .parameters(&["File"])
            .responds::<FileObject>(200, "The file.")
            .fails_with(&[404]),
        Operation::new(Method::DELETE, FILE, "deleteFile", delete(request_files::delete))
            .describe("Remove a file", "Also one that is damaged. A batch that still reads it fails.")
            .tag(OPENAI_TAG)
            .parameters(&["File"])
            .responds::<DeletedFile>(200, "It is gone.")
            .fails_with(&[404]),
        Operation::new(Method::GET, FILE_CONTENT, "getFileContent", get(request_files::content))
            .describe("Download a file", "The requests as they were uploaded, or the answers of a batch.")
            .tag(OPENAI_TAG)
            .access(Access::Unhurried)
            .parameters(&["File"])
            .responds_bytes(200, "application/jsonl", "The lines.")
            .fails_with(&[400, 404]),
        Operation::new(Method::POST, BATCHES, "createBatch", post(batches::create))
            .describe(
                "Answer a file of requests",
                "As OpenAI's clients speak it. Every line is answered as `POST /v1/chat/completions` or `POST /v1/responses` would, a few at a time; \
                 answers and faults come as two files, in the order of the lines, unless it is cancelled or expires. Whatever gateway \
                 is free works on it, and goes on where another one has stopped. Keys take turns.",
            )
            .tag(OPENAI_TAG)
            .parameters(&["IdempotencyKey"])
            .reads_body::<NewRequestBatch>(JSON)
            .responds::<RequestBatch>(200, "The batch.")
            .fails_with(&[400, 404, 413, 415]),
        Operation::new(Method::GET, BATCHES, "listBatches", get(batches::list))
            .describe("List your batches", "The latest first.")
            .tag(OPENAI_TAG)
            .parameters(&["BatchAfter", "ItemLimit", "ItemOrder"])
            .responds::<RequestBatchList>(200, "A page of them.")
            .fails_with(&[400]),
        Operation::new(Method::GET, BATCH, "getBatch", get(batches::get))
            .describe("Look at a batch", "Its state and counts; its files once it has ended.")
            .tag(OPENAI_TAG)
            .parameters(&["Batch"])
            .responds::<RequestBatch>(200, "The batch.")
            .fails_with(&[404]),
        Operation::new(Method::POST, BATCH_CANCEL, "cancelBatch", post(batches::cancel))
            .describe("Cancel a batch", "What was answered by then is in its files.")
            .tag(OPENAI_TAG)
            .parameters(&["Batch"])
            .responds::<RequestBatch>(200, "The batch, which ends within seconds.")
            .fails_with(&[404]),
        Operation::new(Method::POST, BATCH_PAUSE, "pauseBatch", post(batches::pause))
            .describe("Pause a batch", "Ours. Lines that have begun are answered; the batch's time goes on.")
            .tag(OPENAI_TAG)
            .parameters(&["Batch"])
            .responds::<RequestBatch>(200, "The batch.")
            .fails_with(&[404]),
        Operation::new(Method::POST, BATCH_RESUME, "resumeBatch", post(batches::resume))
            .describe("Go on with a paused batch", "Ours. No line is answered twice.")
            .tag(OPENAI_TAG)
            .parameters(&["Batch"])
            .responds::<RequestBatch>(200, "The batch.")
            .fails_with(&[404]),
    ]
}

fn openai_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, "/v1/chat/completions", "createChatCompletion", post(openai::complete))
            .describe(
                "Chat completions, as OpenAI's clients speak them",
                "You keep the conversation and send all of it each time. At most one image, as a data URI. A last message \
                 without words asks for the image's report; one with words asks about it. System messages are taken and \
                 not used: the model was trained with one system text, which its bundle holds; nor is a greeting before the user's \
                 first words. What a field says is done or refused with its name in `param`. Nothing is kept.",
            )
            .tag(OPENAI_TAG)
            .access(Access::Unhurried)
            .reads_body::<ChatCompletionRequest>(JSON)
            .responds::<ChatCompletion>(200, "The answer; with `stream`, Server-Sent Events of chunks and `[DONE]`.")
            .responds_bytes(200, "text/event-stream", "Chunks.")
            .fails_with(&[400, 404, 413, 415]),
        Operation::new(Method::GET, "/v1/models", "listModels", get(openai::models))
            .describe("Models", "The bundles that this gateway's workers hold, and their adapters. `radialog` names the first, too, and `radialog-ADAPTER` its adapters.")
            .tag(OPENAI_TAG)
            .responds::<ModelList>(200, "The list."),
        Operation::new(Method::GET, "/v1/models/{model}", "retrieveModel", get(openai::model))
            .describe("One model", "As it stands in the list.")
            .tag(OPENAI_TAG)
            .parameters(&["Model"])
            .responds::<Model>(200, "The model.")
            .fails_with(&[404]),
    ]
}

fn response_operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, RESPONSES, "createResponse", post(responses::create))
            .describe(
                "Responses, as OpenAI's clients speak them",
                "Like a chat completion, and kept for 30 days after its last use: with `background` the answer goes on without a \
                 client, and any gateway shows it. `previous_response_id` goes on from another response, as often as you like. \
                 What a field says is done or refused with its name in `param`; `instructions` are refused, since the model was \
                 trained with one system text, which its bundle holds.",
            )
            .tag(OPENAI_TAG)
            .access(Access::Unhurried)
            .parameters(&["IdempotencyKey"])
            .reads_body::<NewResponse>(JSON)
            .responds::<ModelResponse>(200, "The response: at its end, or with `background` at once; with `stream`, Server-Sent Events.")
            .responds_bytes(200, "text/event-stream", "Events with `sequence_number`, from `response.created` to `response.completed`, `.incomplete` or `.failed` (a cancelled one, too).")
            .fails_with(&[400, 404, 413, 415]),
        Operation::new(Method::GET, RESPONSE, "getResponse", get(responses::get))
            .describe(
                "Look at a response",
                "Its state and its text so far. With `stream=true`, its events, which are the same for every reader: after a lost \
                 connection go on with the last `sequence_number` in `starting_after`, at any gateway.",
            )
            .tag(OPENAI_TAG)
            .parameters(&["Response", "ResponseStream", "StartingAfter", "IncludeObfuscation"])
            .responds::<ModelResponse>(200, "The response, or its events.")
            .responds_bytes(200, "text/event-stream", "The events.")
            .fails_with(&[400, 404]),
        Operation::new(Method::DELETE, RESPONSE, "deleteResponse", delete(responses::delete))
            .describe(
                "Remove a response",
                "It stops where it is being answered. Its image and what was computed from it go too. Responses that went on from \
                 it have copies of their own and stay.",
            )
            .tag(OPENAI_TAG)
            .parameters(&["Response"])
            .responds::<DeletedResponse>(200, "It is gone.")
            .fails_with(&[404]),
        Operation::new(Method::POST, RESPONSE_CANCEL, "cancelResponse", post(responses::cancel))
            .describe(
                "Stop a response",
                "Only one with `background`. The answer says how it ended: `completed` where its last word was faster.",
            )
            .tag(OPENAI_TAG)
            .parameters(&["Response"])
            .responds::<ModelResponse>(200, "The response; `in_progress` where its worker has not stopped within five seconds.")
            .fails_with(&[400, 404]),
        Operation::new(Method::GET, RESPONSE_INPUT, "listResponseInput", get(responses::input_items))
            .describe(
                "What was asked",
                "The messages of the request itself, the latest first. Images come as data URIs where `include` asks for them.",
            )
            .tag(OPENAI_TAG)
            .parameters(&["Response", "ItemAfter", "ItemLimit", "ItemOrder", "ItemInclude"])
            .responds::<InputItemList>(200, "A page of them.")
            .fails_with(&[400, 404]),
    ]
}
