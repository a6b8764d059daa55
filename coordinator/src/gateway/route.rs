//! Every operation of the API, once: the router and the OpenAPI document are both made from this table.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware;
use axum::routing::MethodRouter;
use radialog_schemas::http::ProblemCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::problem::Refusal;
use super::{Shared, guard, openai, page};

mod table;

pub(super) use table::operations;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody: it is the same for all.
    Open,
    /// A caller, with an answer within the request's time.
    Key,
    /// A caller, with an answer that takes as long as the model does.
    Unhurried,
}

/// Makes a type's schema in a document.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Unique, for generated clients.
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) access: Access,
    pub(super) parameters: Vec<&'static str>,
    /// Media types that it reads.
    pub(super) bodies: Vec<(&'static str, SchemaOf)>,
    pub(super) answers: Vec<Documented>,
    /// Besides those that every operation may give.
    pub(super) problems: Vec<u16>,
    handler: MethodRouter<Shared>,
}

/// A good answer.
pub(super) struct Documented {
    pub(super) status: u16,
    pub(super) description: &'static str,
    /// Media type and form, where there is a body.
    pub(super) content: Option<(&'static str, SchemaOf)>,
}

pub(super) const JSON: &str = "application/json";

impl Operation {
    fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Shared>,
    ) -> Self {
        Self {
            method,
            path,
            id,
            tag: "conversations",
            summary: "",
            description: "",
            access: Access::Key,
            parameters: Vec::new(),
            bodies: Vec::new(),
            answers: Vec::new(),
            problems: Vec::new(),
            handler,
        }
    }

    fn says(self, summary: &'static str, description: &'static str) -> Self {
        Self {
            summary,
            description,
            ..self
        }
    }

    fn tag(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Names of entries under `components/parameters`.
    fn with(self, parameters: &[&'static str]) -> Self {
        Self {
            parameters: parameters.to_vec(),
            ..self
        }
    }

    fn reads<T: JsonSchema>(mut self, media_type: &'static str) -> Self {
        self.bodies
            .push((media_type, |generator| generator.subschema_for::<T>()));
        self
    }

    fn gives<T: JsonSchema>(mut self, status: u16, description: &'static str) -> Self {
        let content = (
            JSON,
            (|generator| generator.subschema_for::<T>()) as SchemaOf,
        );
        self.answers.push(Documented {
            status,
            description,
            content: Some(content),
        });
        self
    }

    fn gives_bytes(
        mut self,
        status: u16,
        media_type: &'static str,
        description: &'static str,
    ) -> Self {
        let schema = |_: &mut SchemaGenerator| Schema::default();
        self.answers.push(Documented {
            status,
            description,
            content: Some((media_type, schema)),
        });
        self
    }

    fn gives_nothing(mut self, status: u16, description: &'static str) -> Self {
        self.answers.push(Documented {
            status,
            description,
            content: None,
        });
        self
    }

    fn refuses(self, problems: &[u16]) -> Self {
        Self {
            problems: problems.to_vec(),
            ..self
        }
    }

    fn route(self, shared: &Shared) -> MethodRouter<Shared> {
        let state = shared.clone();
        let admitted = match self.access {
            Access::Open => self.handler,
            Access::Key => self
                .handler
                .layer(middleware::from_fn_with_state(state, guard::admit)),
            Access::Unhurried => self
                .handler
                .layer(middleware::from_fn_with_state(state, guard::unhurried)),
        };
        let spoken = match self.tag {
            table::OPENAI => admitted.layer(middleware::from_fn(openai::errors)),
            _ => admitted,
        };
        guard::observed(spoken, self.path)
    }
}

/// All of it.
pub(super) fn router(shared: &Shared) -> Router {
    let mut router = page::files();
    for operation in operations() {
        let path = operation.path;
        router = router.route(path, operation.route(shared));
    }
    let router = router
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        // Bodies have limits of their own, each with its words.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(guard::secure));
    let router = match shared.config.origins.as_slice() {
        [] => router,
        origins => router.layer(guard::cors(origins)),
    };
    router.with_state(shared.clone())
}

async fn unknown() -> Refusal {
    Refusal::new(
        ProblemCode::NotFound,
        "there is nothing at this path; /docs lists what there is",
    )
}

async fn other_method(request: Request) -> Refusal {
    let detail = format!(
        "{} is not possible here; the header Allow lists what is",
        request.method()
    );
    Refusal::new(ProblemCode::MethodNotAllowed, detail)
}
