//! Reading bodies without trusting them: up to a limit, as UTF-8, as JSON of the right shape. Every fault has its code.

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use radialog_runtime::cpu;
use radialog_schemas::http::{MAX_TEXT, ProblemCode};
use regex::Regex;
use serde::de::DeserializeOwned;

use super::app_state::AppState;
use super::auth::Caller;
use super::body_memory::{BodyKind, HeldMemory};
use super::config::{COPIES, JSON_LIMIT};
use super::problem::{ApiError, ApiResult};

/// What is read of a refused body so that its sender gets to see the refusal, which a reset connection would swallow.
const DISCARDED: u64 = 64 << 20;
const DISCARDING: Duration = Duration::from_secs(5);
/// In characters; what is longer quotes a value.
const LONGEST_ERROR: usize = 400;
/// Values that a JSON body may have. A value takes up to some hundred bytes of memory however short it is, and no request
/// has a tenth of these.
const MOST_VALUES: usize = 20_000;
const BYTE_ORDER_MARK: char = '\u{feff}';
/// What of a request's time its body may take. The rest is for the answer, which says so where the body has taken longer.
const BODY_TIME: f64 = 0.9;
/// Up to so many bytes parsing takes less than handing it to another thread.
const INLINE: usize = 16 << 10;

/// The characters, as a class has them, that have no shape: those of Unicode's property, and others that are blank or beside the
/// text.
pub(super) const UNSEEN: &str =
    r"\p{Default_Ignorable_Code_Point}\p{Bidi_Control}\p{Control}\u{2800}\u{fff9}-\u{fffb}";
/// Matches a character that can be seen.
static SEEN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"[^\s{UNSEEN}]")).expect("the class is one"));

/// A JSON body of this type.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> ApiResult<Self> {
        let ReadBody {
            content,
            memory: _memory,
        } = read_json(request, app, JSON_LIMIT).await?;
        if content.len() <= INLINE {
            return parse(&content).map(Self);
        }
        beside(move || parse(&content).map(Self)).await
    }
}

/// A body that was read, and the memory that it and what is made of it take.
pub(super) struct ReadBody {
    pub(super) content: Bytes,
    pub(super) memory: HeldMemory,
}

/// Reads the whole body of a request that says that it is JSON.
pub(super) async fn read_json(request: Request, app: &AppState, limit: u64) -> ApiResult<ReadBody> {
    let kind = media_type(request.headers());
    if !is_json(&kind) {
        discard(request).await;
        return Err(unsupported(&kind, "application/json"));
    }
    read(request, app, limit).await
}

/// Reads the whole body, within the time that a request may take.
pub(super) async fn read(request: Request, app: &AppState, limit: u64) -> ApiResult<ReadBody> {
    let too_large = || {
        let detail = format!("the body is over the limit of {limit} bytes; send less");
        ApiError::new(ProblemCode::BodyTooLarge, detail)
    };
    let announced = content_length(request.headers());
    if announced.is_some_and(|length| length > limit) {
        discard(request).await;
        return Err(too_large());
    }
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(ApiError::not_admitted)?;
    let kind = match limit > JSON_LIMIT {
        true => BodyKind::Upload,
        false => BodyKind::Text,
    };
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), kind);
    if let Err(full) = memory.take(announced.unwrap_or(0) * COPIES) {
        discard(request).await;
        return Err(full);
    }
    let capacity = usize::try_from(announced.unwrap_or(0)).unwrap_or(0);
    let reading = async {
        let mut pieces = request.into_body().into_data_stream();
        let mut content = Vec::with_capacity(capacity);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| {
                ApiError::new(
                    ProblemCode::IncompleteBody,
                    "the body ended before its announced end; send it again",
                )
            })?;
            let length = content.len() as u64 + piece.len() as u64;
            let refused = match (length > limit, announced) {
                (true, _) => Err(too_large()),
                // What was announced is held already, and no more of it comes.
                (false, Some(_)) => Ok(()),
                (false, None) => memory.take(piece.len() as u64 * COPIES),
            };
            if let Err(refused) = refused {
                drain(pieces).await;
                return Err(refused);
            }
            content.extend_from_slice(&piece);
        }
        Ok(ReadBody {
            content: content.into(),
            memory,
        })
    };
    let late = |_| {
        ApiError::new(
            ProblemCode::SlowBody,
            "the body did not come in the time that a request may take; send it again",
        )
        .after(1)
    };
    tokio::time::timeout(app.config.request_timeout.mul_f64(BODY_TIME), reading)
        .await
        .map_err(late)?
}

/// Parses, checks or decodes beside the async threads.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    cpu::run(work)
        .await
        .map_err(|panicked| ApiError::new(ProblemCode::Internal, panicked))?
}

/// Reads and forgets a body that will not be used. A sender that asked first whether to send it is not made to.
pub(super) async fn discard(request: Request) {
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body().into_data_stream()).await;
    }
}

/// Reads and forgets what is left of a body.
pub(super) async fn drain(mut pieces: axum::body::BodyDataStream) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            read += piece.len() as u64;
            if read > DISCARDED {
                break;
            }
        }
    };
    // Whether it ended does not matter: the refusal is sent.
    let _ = tokio::time::timeout(DISCARDING, reading).await;
}

/// Reads how long a body is said to be.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Reads the media type without parameters, in lower case; it is empty where none is said.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

pub(super) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
}

pub(super) fn unsupported(found: &str, wanted: &str) -> ApiError {
    let found = if found.is_empty() { "none" } else { found };
    let detail = format!("the Content-Type is {found}; send {wanted}");
    ApiError::new(ProblemCode::UnsupportedMediaType, detail)
}

/// Parses a JSON object of this type; an error names the field where the path to it is known.
pub(super) fn parse<T: DeserializeOwned>(content: &[u8]) -> ApiResult<T> {
    let text = object(content)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let is_syntax = error.inner().is_syntax();
        match is_syntax && serde_json::from_str::<serde_json::Value>(text).is_ok() {
            // The reader takes what is no text, where a name is wanted, for no JSON at all.
            true => {
                let param = error.path().to_string();
                let detail =
                    format!("'{param}': expected one of the names that the field has, as a text");
                ApiError::new(ProblemCode::InvalidRequest, detail).at(&param)
            }
            false => named(error),
        }
    })?;
    let ended = reader.end();
    ended.map_err(|error| ApiError::new(ProblemCode::InvalidJson, error))?;
    Ok(parsed)
}

/// Says what is wrong with a body, with the name of the field.
pub(super) fn named(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let (path, error) = (error.path().to_string(), error.into_inner());
    if error.classify() != serde_json::error::Category::Data {
        return ApiError::new(ProblemCode::InvalidJson, error);
    }
    let text = shortened(&in_words(&error));
    // What is not there, or there again, has no path of its own.
    let named = ["missing field `", "duplicate field `"];
    let named = named.iter().find_map(|prefix| text.strip_prefix(prefix));
    let named = named.and_then(|rest| rest.split('`').next());
    let param = match (path.as_str(), named) {
        (".", Some(field)) => field.to_owned(),
        (".", None) => return ApiError::new(ProblemCode::InvalidRequest, text),
        (path, Some(field)) => format!("{path}.{field}"),
        (path, None) => path.to_owned(),
    };
    ApiError::new(ProblemCode::InvalidRequest, format!("'{param}': {text}")).at(&param)
}

/// What is wrong with a value, without its place, which the path says, and without the words of the language that reads it.
fn in_words(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let variant = text.strip_prefix("unknown variant ");
    if let Some((value, known)) = variant.and_then(|text| text.split_once(", expected ")) {
        return format!("{value} is not supported; give {known}");
    }
    let wrong = ["invalid type: ", "invalid value: "];
    let wrong = wrong.iter().find_map(|prefix| text.strip_prefix(prefix));
    // A text that is quoted may have these words, too.
    match wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) {
        Some((given, expected)) => {
            let (given, expected) = (given_value(given), expected_value(expected));
            format!("expected {expected}, got {given}")
        }
        None => text.to_owned(),
    }
}

/// A value as JSON has it, from serde's description of it.
fn given_value(described: &str) -> &str {
    match described {
        "sequence" => "a list",
        "map" => "an object",
        "unit value" => "null",
        described => match described.strip_prefix("string ") {
            Some(text) => text,
            // Numbers, true and false stand between these.
            None => described.split('`').nth(1).unwrap_or(described),
        },
    }
}

/// What JSON calls a value of this type. What our own types expect is said in such words already.
fn expected_value(described: &str) -> &str {
    match described {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number of 0 or more",
        "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string or map" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        described if described.starts_with("enum ") => "a text",
        described
            if described.starts_with("struct ")
                || described.starts_with("internally tagged enum ") =>
        {
            "an object"
        }
        described => described,
    }
}

/// An error's text without the middle of a long value that it quotes, e.g. of an image.
fn shortened(text: &str) -> String {
    let at = |half: usize| text.char_indices().nth(half).map(|(at, _)| at);
    let Some(_) = at(LONGEST_ERROR) else {
        return text.to_owned();
    };
    let start = at(LONGEST_ERROR / 2).unwrap_or(text.len());
    let from_end = text.char_indices().rev().nth(LONGEST_ERROR / 2 - 1);
    let end = from_end.map_or(start, |(at, _)| at);
    format!("{}\u{2026}{}", &text[..start], &text[end..])
}

/// Reads the text of a JSON object. A list is refused: it would be taken for the object's values in the order of our types.
pub(super) fn object(content: &[u8]) -> ApiResult<&str> {
    let text = utf8(content)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        let detail = "the body begins with a byte order mark, which JSON has none of; send it as UTF-8 without one";
        return Err(ApiError::new(ProblemCode::InvalidJson, detail));
    }
    if text.trim_start().starts_with('[') {
        let detail = "the body is a list; send an object with named fields";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    if has_more_values(text, MOST_VALUES) {
        let detail = format!("the body has more than {MOST_VALUES} values; send less");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    Ok(text)
}

/// Whether a JSON text has more values than these, seen by what begins one or stands between two.
fn has_more_values(text: &str, most: usize) -> bool {
    let mut bytes = text.bytes();
    let mut values = 0;
    while let Some(byte) = bytes.next() {
        match byte {
            // To the end of the string.
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => _ = bytes.next(),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b',' | b'[' | b'{' => {
                values += 1;
                if values > most {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

pub(super) fn utf8(content: &[u8]) -> ApiResult<&str> {
    std::str::from_utf8(content).map_err(|error| {
        let detail = format!(
            "byte {} is not UTF-8; encode the text as UTF-8",
            error.valid_up_to()
        );
        ApiError::new(ProblemCode::InvalidUtf8, detail)
    })
}

/// Refuses a text in which nothing can be seen, and one that says too much.
pub(super) fn check_text(field: &str, text: &str) -> ApiResult<()> {
    if !SEEN.is_match(text) {
        return Err(ApiError::new(
            ProblemCode::TextEmpty,
            format!("'{field}' says nothing; write something or leave it out"),
        ));
    }
    // A character has at most 4 bytes.
    let is_long = text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT;
    if is_long {
        let detail = format!("'{field}' is over the limit of {MAX_TEXT} characters; shorten it");
        return Err(ApiError::new(ProblemCode::TextTooLong, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn code(content: &[u8]) -> ProblemCode {
        parse::<std::collections::BTreeMap<String, u32>>(content)
            .unwrap_err()
            .problem
            .code
    }

    #[test]
    fn what_is_wrong_with_a_body_has_its_own_code() {
        assert_eq!(code(b"{\"a\": 1"), ProblemCode::InvalidJson);
        assert_eq!(code(b"{\"a\": -1}"), ProblemCode::InvalidRequest);
        assert_eq!(code(b"{\"a\xff\": 1}"), ProblemCode::InvalidUtf8);
        assert_eq!(code(b""), ProblemCode::InvalidJson);
        let listed = parse::<(u32,)>(b" [1]").unwrap_err().problem.code;
        assert_eq!(listed, ProblemCode::InvalidRequest);
        assert_eq!(
            parse::<Value>(br#""\ud800""#).unwrap_err().problem.code,
            ProblemCode::InvalidJson
        );
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said_without_the_readers_own_words() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Kind {
            Text,
            Image,
        }
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)] // it is never made
        struct Place {
            url: String,
        }
        let detail = |content: &[u8]| {
            let parsed = parse::<std::collections::BTreeMap<String, Kind>>(content);
            parsed.unwrap_err().problem.detail
        };
        assert_eq!(
            detail(br#"{"a": "json_object"}"#),
            "'a': `json_object` is not supported; give `text` or `image`"
        );
        for value in ["5", "null", "[]", "true"] {
            let body = format!("{{\"a\": {value}}}");
            let parsed = parse::<std::collections::BTreeMap<String, Kind>>(body.as_bytes());
            let problem = parsed.unwrap_err().problem;
            assert_eq!(problem.code, ProblemCode::InvalidRequest, "{value}");
            assert!(
                problem.detail.starts_with("'a': expected one of the names"),
                "{value}"
            );
        }
        let number = parse::<std::collections::BTreeMap<String, u32>>(b"{\"a\": -1}");
        assert_eq!(
            number.unwrap_err().problem.detail,
            "'a': expected a whole number from 0 to 4294967295, got -1"
        );
        for (value, said) in [
            (r#"{"url": 7}"#, "'a.url': expected a text, got 7"),
            (r#"{"url": null}"#, "'a.url': expected a text, got null"),
            (
                r#""x, expected y""#,
                "'a': expected an object, got \"x, expected y\"",
            ),
            ("true", "'a': expected an object, got true"),
        ] {
            let body = format!("{{\"a\": {value}}}");
            let parsed = parse::<std::collections::BTreeMap<String, Place>>(body.as_bytes());
            assert_eq!(parsed.unwrap_err().problem.detail, said);
        }
        assert!(detail("\u{feff}{}".as_bytes()).contains("byte order mark"));
        // Of a text that is no JSON, the place is all that there is to say.
        assert!(detail(b"{\"a\": x}").contains("line 1 column 7"));
        let _ = [Kind::Text, Kind::Image];
    }

    #[test]
    fn a_body_of_very_many_values_is_refused_before_it_is_parsed() {
        let body = |values: usize, value: &str| {
            format!(
                r#"{{"a": "{}\" \\", "b": [{}0]}}"#,
                ",[{".repeat(MOST_VALUES),
                format!("{value},").repeat(values)
            )
        };
        for value in ["0", "{}", "[]", r#"{"":0}"#] {
            assert!(
                parse::<Value>(body(MOST_VALUES / 2 - 2, value).as_bytes()).is_ok(),
                "{value}"
            );
            let error = parse::<Value>(body(MOST_VALUES, value).as_bytes()).unwrap_err();
            assert!(
                error.problem.detail.contains("more than 20000 values"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn texts_are_counted_in_characters() {
        assert!(check_text("text", &"ü".repeat(MAX_TEXT)).is_ok());
        assert_eq!(
            check_text("text", &"ü".repeat(MAX_TEXT + 1))
                .unwrap_err()
                .problem
                .code,
            ProblemCode::TextTooLong
        );
        for empty in ["", " \n", " \n\u{200b}", "\u{feff}", "\u{2800}\u{200d}"] {
            assert_eq!(
                check_text("text", empty).unwrap_err().problem.code,
                ProblemCode::TextEmpty
            );
        }
        for seen in ["?", "\u{200b}x", "\u{1fac1}", "胸"] {
            assert!(check_text("text", seen).is_ok(), "{seen}");
        }
    }
}
