//! A file that comes with the program and changes only with it.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use radialog_schemas::ContentHash;

/// A file with its `ETag`.
pub(super) struct StaticFile {
    media_type: HeaderValue,
    content: Bytes,
    tag: HeaderValue,
}

impl StaticFile {
    pub(super) fn new(media_type: &'static str, content: Bytes) -> Self {
        let tag = format!("\"{}\"", ContentHash::of(&content).short());
        let tag = HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self {
            media_type: HeaderValue::from_static(media_type),
            content,
            tag,
        }
    }

    /// Answers with the file, or that the browser has it. Browsers ask each time, so that an update shows at once.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let cache = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if headers.get(header::IF_NONE_MATCH) == Some(&self.tag) {
            return (StatusCode::NOT_MODIFIED, cache).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.media_type.clone())];
        (cache, kind, self.content.clone()).into_response()
    }
}
