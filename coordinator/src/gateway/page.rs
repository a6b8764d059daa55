//! Static files: the page and the description of the API. They come with the program, need nothing from elsewhere, and
//! change only with it.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use radialog_schemas::ContentHash;

use super::assets::ASSETS;
use super::{Shared, document, guard};

/// Where the OpenAPI document is.
pub(super) const DOCUMENT: &str = "/openapi.json";

/// A file with its tag.
struct File {
    media_type: HeaderValue,
    content: Bytes,
    tag: HeaderValue,
}

impl File {
    fn new(media_type: &'static str, content: Bytes) -> Self {
        let tag = format!("\"{}\"", ContentHash::of(&content).short());
        let tag = HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self {
            media_type: HeaderValue::from_static(media_type),
            content,
            tag,
        }
    }

    /// The file, or that the browser has it. It asks each time, so that an update shows at once.
    fn answer(&self, headers: &HeaderMap) -> Response {
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

/// Routes of all files but the document.
pub(super) fn files() -> Router<Shared> {
    ASSETS
        .iter()
        .fold(Router::new(), |router, (path, media_type, content)| {
            let file = Arc::new(File::new(media_type, Bytes::from_static(content)));
            let answer = move |headers: HeaderMap| async move { file.answer(&headers) };
            router.route(path, guard::observed(get(answer), path))
        })
}

/// `GET /openapi.json`.
pub(super) async fn openapi(headers: HeaderMap) -> Response {
    static FILE: LazyLock<File> = LazyLock::new(|| {
        let text =
            serde_json::to_vec(&document::document()).expect("a document has string keys only");
        File::new("application/json", text.into())
    });
    FILE.answer(&headers)
}
