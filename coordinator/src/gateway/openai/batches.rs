//! OpenAI's batches: a file of requests goes in, a file of answers comes out. Any gateway tells how far one is, pauses,
//! resumes and cancels it; whichever is free works on it.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use futures::stream::{self, StreamExt, TryStreamExt};
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai_batches::{
    BatchFaults, CompletionWindow, FilePurpose, NewRequestBatch, RequestBatch, RequestBatchList,
    RequestBatchStatus,
};

use tracing::warn;

use super::request_files::{self, file_id};
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body::JsonBody;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::query::{PageQuery, openai_pairs};
use crate::gateway::request_path::{IdempotencyKey, parameter};
use crate::request_store::batches::{self, BatchDocument, BatchTimes, MadeByKey, OutputFile};
use crate::request_store::{is_name, new_name, now, owner_folder};
use crate::run::RetryUntilShutdown;

mod input;
mod line;
mod piece;
mod runner;
mod schedule;
mod taking;
mod work;

pub(in crate::gateway) use runner::BatchRunner;

/// What the names of batches begin with.
const PREFIX: &str = "batch_";
/// How long a batch may take, in seconds: a day.
const WINDOW: u64 = 24 * 3600;
/// Batches of one key that have not ended, about: every gateway looks at all of them every few seconds. More are refused.
const MOST_OPEN: usize = 500;
/// When to ask again then, in seconds.
const RETRY: u64 = 60;
/// Batches in a page: as many where nothing is said, and at most.
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;
/// Batches read at a time.
const READ_AT_ONCE: usize = 16;
/// The most notes of a caller, and the characters of their names and values.
const MOST_NOTES: usize = 16;
const LONGEST_NOTE_NAME: usize = 64;
const LONGEST_NOTE: usize = 512;

/// Where a batch lies, which need not exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct BatchName {
    owner: ContentHash,
    name: String,
}

/// The name of a batch of the caller, which need not exist.
pub(in crate::gateway) struct OwnBatch(BatchName);

impl FromRequestParts<AppState> for OwnBatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "batch").await.unwrap_or_default();
        let name = id.strip_prefix(PREFIX).filter(|name| is_name(name));
        Ok(Self(BatchName {
            owner: owner_folder(&caller.owner),
            name: name.ok_or_else(no_batch)?.to_owned(),
        }))
    }
}

fn no_batch() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is no such batch; GET /v1/batches lists yours. Runs over archives are at /v1/archives",
    )
}

fn batch_id(name: &str) -> String {
    format!("{PREFIX}{name}")
}

pub(in crate::gateway) async fn create(
    State(app): State<AppState>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(asked): JsonBody<NewRequestBatch>,
) -> ApiResult<Json<RequestBatch>> {
    let fingerprint = ContentHash::of(&serde_json::to_vec(&asked).unwrap_or_default());
    let metadata = asked.metadata.filter(|notes| !notes.is_empty());
    let is_short = |(name, note): (&String, &String)| {
        name.chars().count() <= LONGEST_NOTE_NAME && note.chars().count() <= LONGEST_NOTE
    };
    if let Some(notes) = &metadata
        && (notes.len() > MOST_NOTES || !notes.iter().all(is_short))
    {
        let detail = format!(
            "'metadata' has up to {MOST_NOTES} notes, with names of up to {LONGEST_NOTE_NAME} and values of up to \
             {LONGEST_NOTE} characters"
        );
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("metadata"));
    }
    let (objects, owner) = (&*app.backends.objects, owner_folder(&caller.owner));
    let key = key.map(|key| ContentHash::of(key.as_bytes()));
    let other_had_key = || {
        let detail = "another request had this Idempotency-Key; give each its own";
        ApiError::new(ProblemCode::IdempotencyMismatch, detail)
    };
    if let Some(key) = &key {
        // Whatever has become of its file.
        match batches::made_by_key(objects, &owner, key, &fingerprint).await? {
            MadeByKey::Batch(name, document) => return Ok(Json(view(&name, *document))),
            MadeByKey::Other => return Err(other_had_key()),
            MadeByKey::Nothing => {}
        }
    }
    let at_input = |error: ApiError| error.at("input_file_id");
    let file = request_files::own(&app, &caller, &asked.input_file_id);
    let file = file.await.map_err(at_input)?;
    file.check().map_err(at_input)?;
    if file.purpose() != FilePurpose::Batch {
        let detail = "this file is what a batch has written; give one with purpose 'batch'";
        return Err(at_input(ApiError::new(ProblemCode::InvalidRequest, detail)));
    }
    require_conditions(&app, &owner).await?;
    if batches::are_open(objects, &owner, MOST_OPEN).await? {
        let detail = format!(
            "{MOST_OPEN} of this key's batches have not ended, paused ones among them; wait for one, or cancel one"
        );
        return Err(ApiError::new(ProblemCode::TooManyRequests, detail).after(RETRY));
    }
    let comes_again = key.is_some();
    let name = match key {
        None => new_name(),
        Some(key) => {
            let known = batches::name_by_key(objects, &owner, &key, fingerprint, new_name());
            known.await?.ok_or_else(other_had_key)?
        }
    };
    let created = now();
    let times = BatchTimes {
        created,
        expires: created + WINDOW,
        ..BatchTimes::default()
    };
    let input = file.name().to_owned();
    let document = BatchDocument::new(
        &name,
        caller.owner.to_string(),
        asked.endpoint,
        input,
        metadata,
        times,
    );
    // To its end, also where the client goes away: nothing is begun by half.
    let (inner, at) = (app.clone(), name.clone());
    let creating = tokio::spawn(async move {
        let created = batches::create(&*inner.backends.objects, &owner, &at, &document).await;
        if created.is_err() && !comes_again {
            withdraw(inner, owner, at, document).await;
        }
        created
    });
    let created = creating.await.map_err(|error| {
        tracing::error!(%error, "a batch was not made");
        ApiError::new(ProblemCode::Internal, "the batch was not made")
    })?;
    let document = created?;
    app.new_batch.notify_one();
    Ok(Json(view(&name, document)))
}

/// Refuses batches where the store does not know conditional writes, which is tried until it does.
async fn require_conditions(app: &AppState, owner: &ContentHash) -> ApiResult<()> {
    if app.has_conditions.load(Ordering::Relaxed) {
        return Ok(());
    }
    match batches::are_possible(&*app.backends.objects, owner).await? {
        true => {
            app.has_conditions.store(true, Ordering::Relaxed);
            Ok(())
        }
        false => {
            let detail = "this gateway's store does not know conditional writes (If-Match, If-None-Match), by which one gateway \
                          at a time works on a batch; send the requests one by one, or ask the operator for a store like AWS's";
            Err(ApiError::new(ProblemCode::InvalidRequest, detail))
        }
    }
}

/// Takes back what was stored of a batch that is refused: now, or as soon as the store answers.
async fn withdraw(app: AppState, owner: ContentHash, name: String, document: BatchDocument) {
    let withdraw = || batches::withdraw(&*app.backends.objects, &owner, &name, document.clone());
    let Err(error) = withdraw().await else {
        return;
    };
    warn!(batch = name, %error, "a batch that was refused is removed as soon as the store answers");
    tokio::spawn(async move {
        let retry = RetryUntilShutdown::new(app.shutdown.clone());
        let withdraw =
            || batches::withdraw(&*app.backends.objects, &owner, &name, document.clone());
        if retry.until_success(withdraw).await.is_err() {
            warn!(
                batch = name,
                "a batch that was refused may be worked on: this gateway stops first"
            );
        }
    });
}

pub(in crate::gateway) async fn get(
    State(app): State<AppState>,
    OwnBatch(batch): OwnBatch,
) -> ApiResult<Json<RequestBatch>> {
    let found = batches::find(&*app.backends.objects, &batch.owner, &batch.name).await?;
    let document = found.ok_or_else(no_batch)?;
    Ok(Json(view(&batch.name, document)))
}

/// Which batches are wanted.
pub(in crate::gateway) struct BatchQuery(PageQuery);

impl FromRequestParts<AppState> for BatchQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        PageQuery::read(openai_pairs(&parts.uri)?, PAGE, LARGEST_PAGE, |_, _| false).map(Self)
    }
}

pub(in crate::gateway) async fn list(
    State(app): State<AppState>,
    caller: Caller,
    BatchQuery(page): BatchQuery,
) -> ApiResult<Json<RequestBatchList>> {
    let owner = owner_folder(&caller.owner);
    let objects = &*app.backends.objects;
    let names = batches::names(objects, &owner).await?;
    let mut names = page.rest(names, |name| batch_id(name))?;
    let has_more = names.len() > page.limit;
    names.truncate(page.limit);
    let owner = &owner;
    let data = stream::iter(names)
        .map(|name| async move {
            let found = batches::find(objects, owner, &name).await?;
            ApiResult::Ok(found.map(|document| view(&name, document)))
        })
        .buffered(READ_AT_ONCE)
        // None where it has been swept meanwhile.
        .try_filter_map(async |found| Ok(found));
    let data: Vec<RequestBatch> = data.try_collect().await?;
    Ok(Json(RequestBatchList {
        object: "list".to_owned(),
        first_id: data.first().map(|batch| batch.id.clone()),
        last_id: data.last().map(|batch| batch.id.clone()),
        data,
        has_more,
    }))
}

pub(in crate::gateway) async fn cancel(
    State(app): State<AppState>,
    OwnBatch(batch): OwnBatch,
) -> ApiResult<Json<RequestBatch>> {
    change(&app, &batch, |document| {
        // One that is only ended is not stopped any more.
        let is_ending = [
            RequestBatchStatus::Cancelling,
            RequestBatchStatus::Finalizing,
        ];
        if document.status.is_final() || is_ending.contains(&document.status) {
            return false;
        }
        document.status = RequestBatchStatus::Cancelling;
        document.times.cancelling = Some(now());
        true
    })
    .await
}

pub(in crate::gateway) async fn pause(
    State(app): State<AppState>,
    OwnBatch(batch): OwnBatch,
) -> ApiResult<Json<RequestBatch>> {
    change(&app, &batch, |document| {
        let is_changed = !document.status.is_final() && !document.paused;
        document.paused |= is_changed;
        is_changed
    })
    .await
}

pub(in crate::gateway) async fn resume(
    State(app): State<AppState>,
    OwnBatch(batch): OwnBatch,
) -> ApiResult<Json<RequestBatch>> {
    change(&app, &batch, |document| {
        std::mem::take(&mut document.paused)
    })
    .await
}

/// Changes a batch as its owner, and tells this gateway's runner to look.
async fn change(
    app: &AppState,
    batch: &BatchName,
    change: impl FnMut(&mut BatchDocument) -> bool + Send,
) -> ApiResult<Json<RequestBatch>> {
    let objects = &*app.backends.objects;
    let changed = batches::change(objects, &batch.owner, &batch.name, change).await?;
    app.new_batch.notify_one();
    let document = changed.ok_or_else(no_batch)?;
    Ok(Json(view(&batch.name, document)))
}

fn view(name: &str, document: BatchDocument) -> RequestBatch {
    let BatchDocument { status, times, .. } = document;
    let ended = |wanted: RequestBatchStatus| times.ended.filter(|_| status == wanted);
    let output = |file: &OutputFile| {
        let is_there = status.is_final() && file.parts > 0;
        is_there.then(|| file_id(&file.name))
    };
    let errors = (!document.faults.is_empty()).then(|| BatchFaults {
        object: "list".to_owned(),
        data: document.faults.clone(),
    });
    RequestBatch {
        id: batch_id(name),
        object: "batch".to_owned(),
        endpoint: document.endpoint,
        errors,
        input_file_id: file_id(&document.input),
        completion_window: CompletionWindow::Day,
        status,
        paused: document.paused,
        output_file_id: output(&document.answers),
        error_file_id: output(&document.refusals),
        created_at: times.created,
        in_progress_at: times.in_progress,
        expires_at: times.expires,
        finalizing_at: times.finalizing,
        completed_at: ended(RequestBatchStatus::Completed),
        failed_at: ended(RequestBatchStatus::Failed),
        expired_at: ended(RequestBatchStatus::Expired),
        cancelling_at: times.cancelling,
        cancelled_at: ended(RequestBatchStatus::Cancelled),
        request_counts: document.counts,
        metadata: document.metadata,
    }
}
