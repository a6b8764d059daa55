//! OpenAI's files: what batches read and write. A file is stored part by part while it comes in, so that none is held in
//! memory.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai_batches::{DeletedFile, FileList, FileObject, FilePurpose};

use super::query::{PageQuery, pairs};
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body::{self, media_type, unsupported, utf8};
use crate::gateway::body_memory::{BodyKind, HeldMemory};
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::request_path::parameter;
use crate::request_store::files::{self, FileHead, LIFETIME, PART};
use crate::request_store::{is_name, new_name, now, owner_folder};

/// What the names of files begin with.
const PREFIX: &str = "file-";
const FORM: &str = "multipart/form-data";
/// The largest file, in bytes.
const LARGEST: u64 = 200 << 20;
/// The longest name of a file, and what a form's other fields may hold.
const LONGEST_NAME: usize = 255;
const LONGEST_FIELD: usize = 1 << 10;
/// Files in a page: as many where nothing is said, and at most.
const PAGE: usize = 10_000;

/// A file of the caller.
pub(in crate::gateway) struct OwnFile {
    owner: ContentHash,
    name: String,
    head: FileHead,
}

impl FromRequestParts<AppState> for OwnFile {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "file").await;
        own(app, &caller, &id.unwrap_or_default()).await
    }
}

/// Finds a file of the caller. Names that cannot exist, do not exist, or are somebody else's get the same answer.
pub(super) async fn own(app: &AppState, caller: &Caller, id: &str) -> ApiResult<OwnFile> {
    let name = id.strip_prefix(PREFIX).filter(|name| is_name(name));
    let name = name.ok_or_else(no_file)?.to_owned();
    let owner = owner_folder(&caller.owner);
    let head = files::find(&*app.backends.objects, &owner, &name).await?;
    let head = head.ok_or_else(no_file)?;
    Ok(OwnFile { owner, name, head })
}

impl OwnFile {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn purpose(&self) -> FilePurpose {
        self.head.purpose
    }
}

fn no_file() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is no such file; GET /v1/files lists yours",
    )
}

/// How a file is named to clients.
pub(super) fn file_id(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn described(name: &str, head: FileHead) -> FileObject {
    FileObject {
        id: file_id(name),
        object: "file".to_owned(),
        bytes: head.bytes,
        created_at: head.created_at,
        expires_at: head.expires_at,
        filename: head.filename,
        purpose: head.purpose,
        status: "processed".to_owned(),
    }
}

pub(in crate::gateway) async fn list(
    State(app): State<AppState>,
    caller: Caller,
    FileQuery { page, purpose }: FileQuery,
) -> ApiResult<Json<FileList>> {
    let owner = owner_folder(&caller.owner);
    let objects = &*app.backends.objects;
    let names = files::names(objects, &owner).await?;
    let mut data = Vec::new();
    let mut has_more = false;
    for name in page.rest(names, |name| file_id(name))? {
        let head = files::find(objects, &owner, &name).await?;
        let Some(head) = head.filter(|head| purpose.is_none_or(|wanted| head.purpose == wanted))
        else {
            continue;
        };
        if data.len() == page.limit {
            has_more = true;
            break;
        }
        data.push(described(&name, head));
    }
    Ok(Json(FileList {
        object: "list".to_owned(),
        first_id: data.first().map(|file| file.id.clone()),
        last_id: data.last().map(|file| file.id.clone()),
        data,
        has_more,
    }))
}

/// Which files are wanted.
pub(in crate::gateway) struct FileQuery {
    page: PageQuery,
    purpose: Option<FilePurpose>,
}

impl FromRequestParts<AppState> for FileQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let mut purpose = None;
        let page = PageQuery::read(pairs(parts)?, PAGE, PAGE, |name, value| {
            match (name, value) {
                ("purpose", "batch") => {
                    purpose = Some(FilePurpose::Batch);
                    true
                }
                ("purpose", "batch_output") => {
                    purpose = Some(FilePurpose::BatchOutput);
                    true
                }
                _ => false,
            }
        })?;
        Ok(Self { page, purpose })
    }
}

pub(in crate::gateway) async fn get(file: OwnFile) -> Json<FileObject> {
    Json(described(&file.name, file.head))
}

pub(in crate::gateway) async fn content(State(app): State<AppState>, file: OwnFile) -> Response {
    let OwnFile { owner, name, head } = file;
    let content = files::content(app.backends.objects.clone(), &owner, &name, head.parts);
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_LENGTH, head.bytes.to_string()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}.jsonl\""),
        ),
    ];
    (headers, Body::from_stream(content)).into_response()
}

pub(in crate::gateway) async fn delete(
    State(app): State<AppState>,
    file: OwnFile,
) -> ApiResult<Json<DeletedFile>> {
    files::remove(&*app.backends.objects, &file.owner, &file.name).await?;
    Ok(Json(DeletedFile {
        id: file_id(&file.name),
        object: "file".to_owned(),
        deleted: true,
    }))
}

pub(in crate::gateway) async fn upload(
    State(app): State<AppState>,
    caller: Caller,
    form: FileForm,
) -> ApiResult<Json<FileObject>> {
    let (owner, name) = (owner_folder(&caller.owner), new_name());
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
    // The part that is being filled, and the one that is being stored.
    memory.take(2 * PART as u64)?;
    let stored = store(&app, &owner, &name, form.0).await;
    let head = match stored {
        Ok(head) => head,
        Err(error) => {
            // What is not removed now, the sweep removes.
            if let Err(left) = files::remove(&*app.backends.objects, &owner, &name).await {
                tracing::warn!(error = %left, "parts of a refused file stay for a week");
            }
            return Err(error);
        }
    };
    Ok(Json(described(&name, head)))
}

/// A form that is read while it comes in.
pub(in crate::gateway) struct FileForm(Multipart);

impl FromRequest<AppState> for FileForm {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &AppState) -> ApiResult<Self> {
        let kind = media_type(request.headers());
        if kind != FORM {
            body::discard(request).await;
            return Err(unsupported(&kind, FORM));
        }
        let form = Multipart::from_request(request, &()).await;
        let invalid = |error: axum::extract::multipart::MultipartRejection| {
            ApiError::new(ProblemCode::InvalidMultipart, error.body_text())
        };
        form.map(Self).map_err(invalid)
    }
}

/// Reads a form to its end, and stores its file.
async fn store(
    app: &AppState,
    owner: &ContentHash,
    name: &str,
    mut form: Multipart,
) -> ApiResult<FileHead> {
    let mut purpose = None;
    let mut stored: Option<StoredContent> = None;
    while let Some(field) = form.next_field().await.map_err(invalid)? {
        match field.name().unwrap_or_default().to_owned().as_str() {
            "file" if stored.is_some() => return Err(twice("file")),
            "purpose" if purpose.is_some() => return Err(twice("purpose")),
            "file" => stored = Some(store_content(app, owner, name, field).await?),
            "purpose" => match short_text(field).await?.as_str() {
                "batch" => purpose = Some(FilePurpose::Batch),
                other => {
                    let detail = format!(
                        "'purpose' is '{other}'; files are taken for batches: send 'batch'"
                    );
                    return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at("purpose"));
                }
            },
            other => {
                let detail = format!("'{other}' is not supported; send 'purpose' and 'file'");
                return Err(ApiError::new(ProblemCode::InvalidRequest, detail).at(other));
            }
        }
    }
    let missing = |field: &str| {
        ApiError::new(
            ProblemCode::InvalidRequest,
            format!("the form has no '{field}'"),
        )
        .at(field)
    };
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    let StoredContent {
        filename,
        bytes,
        parts,
    } = stored.ok_or_else(|| missing("file"))?;
    if bytes == 0 {
        return Err(ApiError::new(ProblemCode::InvalidRequest, "the file is empty").at("file"));
    }
    let created_at = now();
    let head = FileHead {
        bytes,
        parts,
        created_at,
        expires_at: created_at + LIFETIME.as_secs(),
        filename,
        purpose,
    };
    files::put_head(&*app.backends.objects, owner, name, &head).await?;
    Ok(head)
}

/// What of a file has been stored.
struct StoredContent {
    filename: String,
    bytes: u64,
    parts: u32,
}

async fn store_content(
    app: &AppState,
    owner: &ContentHash,
    name: &str,
    mut field: Field<'_>,
) -> ApiResult<StoredContent> {
    let objects = &*app.backends.objects;
    let given = field.file_name().unwrap_or_default();
    let filename = given
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_NAME)
        .collect();
    let (mut bytes, mut parts) = (0_u64, 0);
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let chunk = tokio::time::timeout(app.config.request_timeout, field.chunk());
        let late = |_| {
            ApiError::new(
                ProblemCode::Timeout,
                "nothing of the body came for as long as a request may take; send it again",
            )
            .after(1)
        };
        let Some(mut chunk) = chunk.await.map_err(late)?.map_err(invalid)? else {
            break;
        };
        bytes += chunk.len() as u64;
        if bytes > LARGEST {
            let detail = format!("the file is over the limit of {LARGEST} bytes; send several");
            return Err(ApiError::new(ProblemCode::BodyTooLarge, detail).at("file"));
        }
        while buffer.len() + chunk.len() >= PART {
            buffer.extend_from_slice(&chunk.split_to(PART - buffer.len()));
            let part = Bytes::from(std::mem::take(&mut buffer));
            files::put_part(objects, owner, name, parts, part).await?;
            parts += 1;
        }
        buffer.extend_from_slice(&chunk);
    }
    if !buffer.is_empty() {
        files::put_part(objects, owner, name, parts, buffer.into()).await?;
        parts += 1;
    }
    Ok(StoredContent {
        filename,
        bytes,
        parts,
    })
}

async fn short_text(mut field: Field<'_>) -> ApiResult<String> {
    let mut content = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(invalid)? {
        content.extend_from_slice(&chunk);
        if content.len() > LONGEST_FIELD {
            let detail = format!("a field is over the limit of {LONGEST_FIELD} bytes");
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
        }
    }
    utf8(&content).map(str::to_owned)
}

fn twice(field: &str) -> ApiError {
    let detail = format!("the form has '{field}' twice");
    ApiError::new(ProblemCode::InvalidRequest, detail).at(field)
}

fn invalid(error: MultipartError) -> ApiError {
    ApiError::new(ProblemCode::InvalidMultipart, error.body_text())
}
