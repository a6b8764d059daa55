//! What every request passes: counting, who it is, how much they may, how long it may take, and the headers that keep
//! browsers from doing more than they should.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use radialog_runtime::metrics::metrics;
use radialog_schemas::http::ProblemCode;
use tokio::time::timeout;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::problem::{ApiError, ApiResult};
use super::{AppState, body, openai, query};

/// A browser may load nothing but our own files, and nobody may frame them.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        // The page itself takes dictation, where the browser has it.
        "camera=(), geolocation=(), microphone=(self)",
    ),
];

/// Counts the requests of a handler under this route.
pub(super) fn observed(
    handler: MethodRouter<AppState>,
    route: &'static str,
) -> MethodRouter<AppState> {
    handler.layer(middleware::from_fn(
        move |request: Request, next: Next| async move {
            let (begun, method) = (Instant::now(), request.method().clone());
            let response = next.run(request).await;
            metrics().http(
                route,
                method.as_str(),
                response.status().as_u16(),
                begun.elapsed(),
            );
            response
        },
    ))
}

/// What of a request an operation does not look at, and its sender may count on.
#[derive(Clone, Copy)]
pub(super) struct Unread {
    /// The query.
    pub(super) query: bool,
    /// The version that `If-Match` names.
    pub(super) version: bool,
    /// It is one of OpenAI's operations.
    pub(super) is_openais: bool,
}

impl Unread {
    fn refuse(self, request: &Request) -> ApiResult<()> {
        if self.query {
            query::refuse(request.uri(), self.is_openais)?;
        }
        if self.version && request.headers().contains_key(header::IF_MATCH) {
            let detail = "If-Match is not taken here: no version is compared; leave it out";
            return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
        }
        Ok(())
    }
}

/// Refuses what a handler would take and not look at.
pub(super) fn refusing(handler: MethodRouter<AppState>, unread: Unread) -> MethodRouter<AppState> {
    handler.layer(middleware::from_fn(
        move |request: Request, next: Next| async move {
            match unread.refuse(&request) {
                Ok(()) => next.run(request).await,
                Err(refused) => {
                    body::discard(request).await;
                    refused.into_response()
                }
            }
        },
    ))
}

/// Lets a caller in who is known and within the quota; the request ends within its time.
pub(super) async fn admit_timed(
    State(app): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let time = app.config.request_timeout;
    let late = || {
        ApiError::new(
            ProblemCode::Timeout,
            format!("there was no answer within {time:?}; ask again"),
        )
        .after(1)
    };
    timeout(time, admit_unhurried(State(app), request, next))
        .await
        .unwrap_or_else(|_| late().into_response())
}

/// Lets a caller in as [`admit_timed`] does, but without a limit of time: the answer may take as long as a model does.
pub(super) async fn admit_unhurried(
    State(app): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = app
        .authenticator
        .caller(request.headers())
        .and_then(|caller| Ok((caller.quota.request()?, caller)));
    match admitted {
        Ok((_permit, caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => {
            body::discard(request).await;
            error.into_response()
        }
    }
}

/// Adds the headers of every response. What a handler has set stays.
pub(super) async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets the listed pages of other hosts ask with a key; they send no cookies, for there are none.
pub(super) fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins
        .iter()
        .filter_map(|origin| origin.parse::<HeaderValue>().ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        // Clients send headers of their own, as `x-stainless-lang`, and more with each release. A header opens nothing.
        .allow_headers(AllowHeaders::mirror_request())
        // Whatever an answer, the documentation or a message tells a client to read.
        .expose_headers([
            header::ALLOW,
            header::CONTENT_DISPOSITION,
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            openai::WARNING,
        ])
}
