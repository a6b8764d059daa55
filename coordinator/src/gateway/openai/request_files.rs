//! OpenAI's files: what batches read and write. A file is stored part by part while it comes in, so that none is held in
//! memory.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use radialog_schemas::ContentHash;
use radialog_schemas::http::ProblemCode;
use radialog_schemas::http::openai_batches::{DeletedFile, FileList, FileObject, FilePurpose};

use super::form_body::FormBody;
use crate::gateway::app_state::AppState;
use crate::gateway::auth::Caller;
use crate::gateway::body::{self, content_length, media_type, unsupported, utf8};
use crate::gateway::body_memory::{BodyKind, HeldMemory};
use crate::gateway::download::download;
use crate::gateway::problem::{ApiError, ApiResult};
use crate::gateway::query::{PageQuery, openai_pairs};
use crate::gateway::request_path::{parameter, refuse_idempotency_key};
use crate::request_store::files::{self, FileHead, LIFETIME, PART};
use crate::request_store::{is_name, new_name, now, owner_folder};

/// What the names of files begin with.
const PREFIX: &str = "file-";
const FORM: &str = "multipart/form-data";
/// The largest file, in bytes, and the largest form around one.
const LARGEST: u64 = 200 << 20;
const LARGEST_FORM: u64 = LARGEST + (1 << 20);
/// The longest name of a file, and what a form's other fields may hold.
const LONGEST_NAME: usize = 255;
const LONGEST_FIELD: usize = 1 << 10;
/// Files in a page: as many where nothing is said, and at most.
const PAGE: usize = 1000;
const LARGEST_PAGE: usize = 10_000;
/// Files whose heads are read at a time.
const READ_AT_ONCE: usize = 16;

/// The name of a file of the caller, which need not exist.
pub(in crate::gateway) struct FileName {
    owner: ContentHash,
    name: String,
}

/// A file of the caller.
pub(in crate::gateway) struct OwnFile {
    owner: ContentHash,
    name: String,
    head: FileHead,
}

impl FromRequestParts<AppState> for FileName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "file").await;
        Self::of(&caller, &id.unwrap_or_default())
    }
}

impl FileName {
    /// Names that cannot exist get the answer of those that do not, or that are somebody else's.
    fn of(caller: &Caller, id: &str) -> ApiResult<Self> {
        let name = id.strip_prefix(PREFIX).filter(|name| is_name(name));
        Ok(Self {
            owner: owner_folder(&caller.owner),
            name: name.ok_or_else(no_file)?.to_owned(),
        })
    }
}

impl FromRequestParts<AppState> for OwnFile {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> ApiResult<Self> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let id = parameter(parts, app, "file").await;
        own(app, &caller, &id.unwrap_or_default()).await
    }
}

/// Finds a file of the caller.
pub(super) async fn own(app: &AppState, caller: &Caller, id: &str) -> ApiResult<OwnFile> {
    let FileName { owner, name } = FileName::of(caller, id)?;
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

    /// Refuses a file of which nothing is known.
    pub(super) fn check(&self) -> ApiResult<()> {
        match self.head.is_damaged {
            false => Ok(()),
            true => {
                let detail =
                    "what is stored of this file is damaged; delete it, and upload it again";
                Err(ApiError::new(ProblemCode::InvalidRequest, detail))
            }
        }
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
    let status = match head.is_damaged {
        true => "error",
        false => "processed",
    };
    FileObject {
        id: file_id(name),
        object: "file".to_owned(),
        bytes: head.bytes,
        created_at: head.created_at,
        expires_at: head.expires_at,
        filename: head.filename,
        purpose: head.purpose,
        status: status.to_owned(),
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
    let names = page.rest(names, |name| file_id(name))?;
    let owner = &owner;
    let mut found = stream::iter(names)
        .map(|name| async move {
            let head = files::find(objects, owner, &name).await;
            (name, head)
        })
        .buffered(READ_AT_ONCE);
    let mut data = Vec::new();
    let mut has_more = false;
    while let Some((name, head)) = found.next().await {
        let head = head?;
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
        let page = PageQuery::read(
            openai_pairs(&parts.uri)?,
            PAGE,
            LARGEST_PAGE,
            |name, value| match (name, value) {
                ("purpose", "batch") => {
                    purpose = Some(FilePurpose::Batch);
                    true
                }
                ("purpose", "batch_output") => {
                    purpose = Some(FilePurpose::BatchOutput);
                    true
                }
                _ => false,
            },
        )?;
        Ok(Self { page, purpose })
    }
}

pub(in crate::gateway) async fn get(file: OwnFile) -> Json<FileObject> {
    Json(described(&file.name, file.head))
}

pub(in crate::gateway) async fn content(
    State(app): State<AppState>,
    caller: Caller,
    file: OwnFile,
) -> ApiResult<Response> {
    file.check()?;
    let OwnFile { owner, name, head } = file;
    let parts = files::part_keys(&owner, &name, head.parts, &head.writers);
    let content = download(&app, &caller, parts)?;
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_LENGTH, head.bytes.to_string()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}.jsonl\""),
        ),
    ];
    Ok((headers, content).into_response())
}

/// Also of what cannot be read, and of what another removal has left.
pub(in crate::gateway) async fn delete(
    State(app): State<AppState>,
    file: FileName,
) -> ApiResult<Json<DeletedFile>> {
    let removed = files::remove(&*app.backends.objects, &file.owner, &file.name);
    if !removed.await? {
        return Err(no_file());
    }
    Ok(Json(DeletedFile {
        id: file_id(&file.name),
        object: "file".to_owned(),
        deleted: true,
    }))
}

pub(in crate::gateway) async fn upload(
    State(app): State<AppState>,
    caller: Caller,
    FileForm { form, body }: FileForm,
) -> ApiResult<Json<FileObject>> {
    let (owner, name) = (owner_folder(&caller.owner), new_name());
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
    // The part that is being filled, and the one that is being stored.
    let stored = match memory.take(2 * PART as u64) {
        Ok(()) => store(&app, &owner, &name, form, &body).await,
        Err(full) => Err(full),
    };
    match stored {
        Ok(head) => Ok(Json(described(&name, head))),
        Err(error) => {
            // What is not removed now, the sweep removes.
            if let Err(left) = files::remove(&*app.backends.objects, &owner, &name).await {
                tracing::warn!(error = %left, "parts of a refused file stay for a day");
            }
            drop(memory);
            // Who has stopped sending is not waited for once more.
            if error.problem.code != ProblemCode::SlowBody {
                body.drain().await;
            }
            Err(error)
        }
    }
}

/// A form that is read while it comes in.
pub(in crate::gateway) struct FileForm {
    form: Multipart,
    body: FormBody,
}

impl FromRequest<AppState> for FileForm {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let kind = media_type(request.headers());
        if kind != FORM {
            body::discard(request).await;
            return Err(unsupported(&kind, FORM));
        }
        let instead = "every upload is a file of its own. GET /v1/files lists them; delete what is there twice";
        if let Err(refused) = refuse_idempotency_key(request.headers(), instead) {
            body::discard(request).await;
            return Err(refused);
        }
        if content_length(request.headers()).is_some_and(|length| length > LARGEST_FORM) {
            body::discard(request).await;
            return Err(too_large());
        }
        let (parts, incoming) = request.into_parts();
        let body = FormBody::new(incoming, app.config.request_timeout);
        let request = Request::from_parts(parts, Body::from_stream(body.pieces(LARGEST_FORM)));
        match Multipart::from_request(request, &()).await {
            Ok(form) => Ok(Self { form, body }),
            Err(error) => {
                body.drain().await;
                Err(ApiError::new(
                    ProblemCode::InvalidMultipart,
                    error.body_text(),
                ))
            }
        }
    }
}

fn too_large() -> ApiError {
    let detail = format!("the file is over the limit of {LARGEST} bytes; send several");
    ApiError::new(ProblemCode::BodyTooLarge, detail).at("file")
}

/// Reads a form to its end, and stores its file.
async fn store(
    app: &AppState,
    owner: &ContentHash,
    name: &str,
    mut form: Multipart,
    body: &FormBody,
) -> ApiResult<FileHead> {
    let mut purpose = None;
    let mut stored: Option<StoredContent> = None;
    while let Some(field) = form.next_field().await.map_err(|error| body.told(error))? {
        body.was_read();
        match field.name().unwrap_or_default().to_owned().as_str() {
            "file" if stored.is_some() => return Err(twice("file")),
            "purpose" if purpose.is_some() => return Err(twice("purpose")),
            "file" => stored = Some(store_content(app, owner, name, field, body).await?),
            "purpose" => match short_text(field, body).await?.as_str() {
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
        writers: Vec::new(),
        is_damaged: false,
    };
    files::end(&*app.backends.objects, owner, name, &head).await?;
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
    body: &FormBody,
) -> ApiResult<StoredContent> {
    let objects = &*app.backends.objects;
    files::begin(objects, owner, name).await?;
    let given = field.file_name().unwrap_or_default();
    let filename = given
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_NAME)
        .collect();
    let (mut bytes, mut parts) = (0_u64, 0);
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(mut chunk) = field.chunk().await.map_err(|error| body.told(error))? {
        body.was_read();
        bytes += chunk.len() as u64;
        if bytes > LARGEST {
            return Err(too_large());
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

async fn short_text(mut field: Field<'_>, body: &FormBody) -> ApiResult<String> {
    let mut content = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| body.told(error))? {
        body.was_read();
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
