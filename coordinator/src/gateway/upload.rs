//! A new conversation as it comes in: JSON with a data URI, or a form with a file.

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use radialog_schemas::http::{NewConversation, ProblemCode};
use serde_json::{Map, Number, Value};
use tokio::runtime::Handle;

use super::app_state::AppState;
use super::body::{self, ReadBody, is_json, media_type, unsupported, utf8};
use super::body_memory::HeldMemory;
use super::problem::{ApiError, ApiResult};

const FORM: &str = "multipart/form-data";
/// Starts of what would have to be fetched.
const REMOTE: [&str; 5] = ["http:", "https:", "ftp:", "file:", "//"];
/// Fields of a form that are numbers.
const NUMBERS: [&str; 5] = [
    "max_new_tokens",
    "temperature",
    "top_p",
    "seed",
    "deadline_seconds",
];

/// No number that anybody means has more characters.
const LONGEST_NUMBER: usize = 64;

/// A new conversation as it was uploaded: what was asked, and the image's bytes.
pub(super) struct Upload {
    /// The conversation without its image.
    pub(super) conversation: NewConversation,
    pub(super) image: Option<Bytes>,
    /// Until the image is stored.
    pub(super) memory: HeldMemory,
}

impl FromRequest<AppState> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let limit = app.config.body_limit();
        let kind = media_type(request.headers());
        if is_json(&kind) {
            let ReadBody { content, memory } = body::read(request, app, limit).await?;
            body::beside(move || {
                let mut conversation: NewConversation = body::parse(&content)?;
                drop(content);
                let image = conversation.image.take();
                let image = image.map(|uri| data_uri("image", &uri)).transpose()?;
                Ok(Self {
                    conversation,
                    image,
                    memory,
                })
            })
            .await
        } else if kind == FORM {
            let (head, content) = request.into_parts();
            let request = Request::from_parts(head.clone(), content);
            let ReadBody { content, memory } = body::read(request, app, limit).await?;
            let runtime = Handle::current();
            let reading = async move {
                let form = Request::from_parts(head, Body::from(content));
                let form = Multipart::from_request(form, &()).await.map_err(|error| {
                    ApiError::new(ProblemCode::InvalidMultipart, error.body_text())
                })?;
                let (conversation, image) = read_form(form).await?;
                Ok(Self {
                    conversation,
                    image,
                    memory,
                })
            };
            // All of it is there: nothing is waited for.
            body::beside(move || runtime.block_on(reading)).await
        } else {
            body::discard(request).await;
            Err(unsupported(
                &kind,
                "application/json or multipart/form-data",
            ))
        }
    }
}
/// Decodes the bytes of `data:image/png;base64,...`.
pub(super) fn data_uri(field: &str, uri: &str) -> ApiResult<Bytes> {
    let start: String = uri.chars().take(8).collect::<String>().to_ascii_lowercase();
    if REMOTE.iter().any(|remote| start.starts_with(remote)) {
        let detail = format!(
            "'{field}' is an address, and nothing is ever fetched; send the file as a data URI"
        );
        return Err(ApiError::new(ProblemCode::RemoteUrl, detail));
    }
    let wrong = || {
        let detail =
            format!("'{field}' is not data:image/png;base64,... or data:image/jpeg;base64,...");
        ApiError::new(ProblemCode::InvalidRequest, detail)
    };
    let (head, content) = uri
        .split_once(',')
        .filter(|_| start.starts_with("data:"))
        .ok_or_else(wrong)?;
    let head = head["data:".len()..].to_ascii_lowercase();
    let media_type = head
        .strip_suffix(";base64")
        .ok_or_else(wrong)?
        .split(';')
        .next()
        .unwrap_or_default();
    if !matches!(media_type, "image/png" | "image/jpeg" | "image/jpg") {
        let detail = format!("'{field}' says that it is '{media_type}'; convert it to PNG or JPEG");
        return Err(ApiError::new(ProblemCode::ImageFormatUnsupported, detail));
    }
    let content = STANDARD.decode(content).map_err(|error| {
        ApiError::new(
            ProblemCode::InvalidRequest,
            format!("'{field}' is not base64: {error}"),
        )
    })?;
    Ok(content.into())
}

async fn read_form(mut form: Multipart) -> ApiResult<(NewConversation, Option<Bytes>)> {
    let mut fields = Map::new();
    let mut image = None;
    while let Some(field) = form.next_field().await.map_err(invalid)? {
        let name = field.name().unwrap_or_default().to_owned();
        let content = content(field).await?;
        if fields.contains_key(&name) || name == "image" && image.is_some() {
            let detail = format!(
                "the form has '{name}' twice; a conversation is about one image: begin one for each"
            );
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
        }
        let value = match name.as_str() {
            "image" => {
                image = Some(content);
                continue;
            }
            "title" | "question" | "indication" | "model" => {
                Value::String(utf8(&content)?.to_owned())
            }
            name if NUMBERS.contains(&name) => {
                let number = number(utf8(&content)?.trim()).ok_or_else(|| {
                    let detail = format!("'{name}' is not a number");
                    ApiError::new(ProblemCode::InvalidRequest, detail)
                })?;
                Value::Number(number)
            }
            _ => {
                let known = ["image", "title", "question", "indication", "model"]
                    .into_iter()
                    .chain(NUMBERS);
                let known: Vec<_> = known.collect();
                let detail = format!(
                    "a new conversation has no field '{name}'; it has {}",
                    known.join(", ")
                );
                return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
            }
        };
        fields.insert(name, value);
    }
    let conversation = serde_path_to_error::deserialize(Value::Object(fields));
    Ok((conversation.map_err(body::named)?, image))
}

/// Reads a number, and nothing else: values of other kinds may be many, and take memory each.
fn number(text: &str) -> Option<Number> {
    let is_short = text.len() <= LONGEST_NUMBER;
    is_short.then(|| serde_json::from_str(text).ok()).flatten()
}

async fn content(field: Field<'_>) -> ApiResult<Bytes> {
    field.bytes().await.map_err(invalid)
}

fn invalid(error: MultipartError) -> ApiError {
    ApiError::new(ProblemCode::InvalidMultipart, error.body_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_numbers_has_a_number_and_nothing_else() {
        for right in ["7", "-1", "0.25", "1e-3", &"1".repeat(64)] {
            assert!(number(right).is_some(), "{right}");
        }
        let bomb = format!("[{}0]", r#"{"":0},"#.repeat(1 << 20));
        for wrong in ["", "x", "null", "true", "[1]", "{}", "\"1\"", "1 2"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
        assert_eq!(number(&bomb), None);
        assert_eq!(number(&"1".repeat(65)), None);
    }

    #[test]
    fn only_inline_images_of_the_two_formats_are_taken() {
        assert_eq!(
            data_uri("image", "data:image/png;base64,AQID").unwrap(),
            Bytes::from_static(&[1, 2, 3])
        );
        let code = |uri: &str| data_uri("image", uri).unwrap_err().problem.code;
        for remote in [
            "http://169.254.169.254/latest",
            "HTTPS://host/x.png",
            "file:///etc/passwd",
            "//host/x.png",
        ] {
            assert_eq!(code(remote), ProblemCode::RemoteUrl, "{remote}");
        }
        assert_eq!(
            code("data:image/gif;base64,AQID"),
            ProblemCode::ImageFormatUnsupported
        );
        for wrong in [
            "",
            "AQID",
            "data:image/png,AQID",
            "data:image/png;base64,A-_D",
            "data:image/png;base64,AQI",
        ] {
            assert_eq!(code(wrong), ProblemCode::InvalidRequest, "{wrong}");
        }
    }
}
