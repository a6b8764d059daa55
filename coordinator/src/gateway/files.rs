//! Static files: the page and the description of the API. They come with the program and need nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use super::app_state::AppState;
use super::assets::ASSETS;
use super::guard;
use super::static_file::StaticFile;

/// Makes the routes of the page's files.
pub(super) fn assets() -> Router<AppState> {
    ASSETS
        .iter()
        .fold(Router::new(), |router, (path, media_type, content)| {
            let file = Arc::new(StaticFile::new(media_type, Bytes::from_static(content)));
            let answer = move |headers: HeaderMap| async move { file.answer(&headers) };
            router.route(path, guard::observed(get(answer), path))
        })
}

/// Answers `GET /openapi.json`.
pub(super) async fn openapi_document(State(app): State<AppState>, headers: HeaderMap) -> Response {
    app.openapi.answer(&headers)
}
