//! The router, made from the table of operations and the page's files.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware;
use axum::routing::MethodRouter;
use radialog_schemas::http::ProblemCode;

use super::app_state::AppState;
use super::guard::Unread;
use super::operation::{Access, OPENAI_TAG, Operation};
use super::operations::operations;
use super::problem::ApiError;
use super::{files, guard, openai, openapi};

/// Makes the router of all operations and files.
pub(super) fn router(app: &AppState) -> Router {
    let mut router = files::assets();
    for operation in operations() {
        let path = operation.path;
        router = router.route(path, guarded(operation, app));
    }
    let router = router
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn(openai::rewrite_errors))
        // Bodies have limits of their own, each with its words.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(guard::security_headers));
    let router = match app.config.origins.as_slice() {
        [] => router,
        origins => router.layer(guard::cors(origins)),
    };
    router.with_state(app.clone())
}

/// Puts everything before a handler that its requests have to pass.
fn guarded(operation: Operation, app: &AppState) -> MethodRouter<AppState> {
    let state = app.clone();
    let unread = Unread {
        query: !openapi::reads_query(&operation),
        version: operation.method != Method::GET && !operation.parameters.contains(&"IfMatch"),
        is_openais: operation.tag == OPENAI_TAG,
    };
    let admitted = match operation.access {
        Access::Public => operation.handler,
        Access::Timed => guard::refusing(operation.handler, unread)
            .layer(middleware::from_fn_with_state(state, guard::admit_timed)),
        Access::Unhurried => guard::refusing(operation.handler, unread).layer(
            middleware::from_fn_with_state(state, guard::admit_unhurried),
        ),
    };
    guard::observed(admitted, operation.path)
}

async fn unknown() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is nothing at this path; /docs lists what there is",
    )
}

async fn other_method(request: Request) -> ApiError {
    let detail = format!(
        "{} is not possible here; the header Allow lists what is",
        request.method()
    );
    ApiError::new(ProblemCode::MethodNotAllowed, detail)
}
