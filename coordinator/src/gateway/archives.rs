//! Runs over archives, asked for over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use radialog_runtime::clock;
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;

use super::app_state::AppState;
use super::auth::Caller;
use super::body::JsonBody;
use super::create::{self, Accepted, ChosenModel};
use super::download::download;
use super::problem::{ApiError, ApiResult};
use super::request_path::{ID_LENGTH, IdempotencyKey};
use crate::run::{ArchiveRunView, ArchiveRuns, AskedArchiveRun};

/// The names in the path of a run or of one of its results.
pub(super) struct ArchivePath {
    run: String,
    file: String,
}

impl FromRequestParts<AppState> for ArchivePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let parameters = RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|_| no_run())?;
        let value = |wanted: &str| {
            parameters
                .iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value.to_owned())
        };
        let run = value("run").ok_or_else(no_run)?;
        Ok(Self {
            run,
            file: value("result").unwrap_or_default(),
        })
    }
}

fn no_run() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is no such run over an archive, or it is forgotten after a week",
    )
}

fn runs(app: &AppState) -> ApiResult<&Arc<ArchiveRuns>> {
    app.archive_runs.get().ok_or_else(|| {
        ApiError::new(
            ProblemCode::ArchiveNotAllowed,
            "runs over archives are off here",
        )
    })
}

pub(super) async fn start(
    State(app): State<AppState>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<AskedArchiveRun>,
) -> ApiResult<Accepted<ArchiveRunView>> {
    if request
        .max_new_tokens
        .is_some_and(|tokens| !(1..=radialog_schemas::http::MAX_NEW_TOKENS).contains(&tokens))
    {
        let detail = format!(
            "max_new_tokens is 1 to {}",
            radialog_schemas::http::MAX_NEW_TOKENS
        );
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    ChosenModel::find(&app, request.model.as_deref())?;
    let id = key.map_or_else(
        || create::new_id().0,
        |key| {
            let hash = ContentHash::of_parts([
                b"batch".as_slice(),
                caller.owner.as_bytes(),
                key.as_bytes(),
            ]);
            hash.as_str()[..ID_LENGTH].to_owned()
        },
    );
    let view = runs(&app)?
        .start(&id, &caller.owner, clock::now_ms(), request.into())
        .await?;
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, format!("/v1/archives/{id}"))],
        Json(view),
    ))
}

pub(super) async fn get(
    State(app): State<AppState>,
    caller: Caller,
    at: ArchivePath,
) -> ApiResult<Json<ArchiveRunView>> {
    let view = runs(&app)?.view(&caller.owner, &at.run).await?;
    view.map(Json).ok_or_else(no_run)
}

pub(super) async fn cancel(
    State(app): State<AppState>,
    caller: Caller,
    at: ArchivePath,
) -> ApiResult<StatusCode> {
    match runs(&app)?.cancel(&caller.owner, &at.run).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_run()),
    }
}

pub(super) async fn pause(
    State(app): State<AppState>,
    caller: Caller,
    at: ArchivePath,
) -> ApiResult<Json<ArchiveRunView>> {
    let view = runs(&app)?.pause(&caller.owner, &at.run, true).await?;
    view.map(Json).ok_or_else(no_run)
}

pub(super) async fn resume(
    State(app): State<AppState>,
    caller: Caller,
    at: ArchivePath,
) -> ApiResult<Json<ArchiveRunView>> {
    let view = runs(&app)?.pause(&caller.owner, &at.run, false).await?;
    view.map(Json).ok_or_else(no_run)
}

pub(super) async fn result(
    State(app): State<AppState>,
    caller: Caller,
    at: ArchivePath,
) -> ApiResult<Response> {
    let parts = runs(&app)?
        .result_parts(&caller.owner, &at.run, &at.file)
        .await?;
    let missing = "there is no such file, or the run has not ended; its view lists its results";
    let parts = parts.ok_or_else(|| ApiError::new(ProblemCode::NotFound, missing))?;
    let content = download(&app, &caller, parts)?;
    let disposition = format!("attachment; filename=\"{}\"", at.file);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, content).into_response())
}
