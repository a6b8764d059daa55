//! What is said about one operation of the API: enough to route it and to describe it in the OpenAPI document.

use axum::http::Method;
use axum::routing::MethodRouter;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::app_state::AppState;

/// Operations of this tag answer errors in OpenAI's format.
pub(super) const OPENAI_TAG: &str = "openai";
pub(super) const JSON: &str = "application/json";

/// The rule for who may use an operation, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody may: the answer is the same for all.
    Public,
    /// A known caller may, and gets an answer within the request's time.
    Timed,
    /// A known caller may, and the answer takes as long as the model does.
    Unhurried,
}

/// A function that makes a type's schema in a document.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// An operation of the API: one method of one path.
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
    pub(super) responses: Vec<DocumentedResponse>,
    /// What it answers has the tag of the version that was written.
    pub(super) is_tagged: bool,
    /// Besides those that every operation may give.
    pub(super) problems: Vec<u16>,
    pub(super) handler: MethodRouter<AppState>,
}

/// A response that is no error.
pub(super) struct DocumentedResponse {
    pub(super) status: u16,
    pub(super) description: &'static str,
    /// Media type and form, where there is a body.
    pub(super) content: Option<(&'static str, SchemaOf)>,
}

impl Operation {
    pub(super) fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<AppState>,
    ) -> Self {
        Self {
            method,
            path,
            id,
            tag: "conversations",
            summary: "",
            description: "",
            access: Access::Timed,
            parameters: Vec::new(),
            bodies: Vec::new(),
            responses: Vec::new(),
            is_tagged: false,
            problems: Vec::new(),
            handler,
        }
    }

    pub(super) fn describe(self, summary: &'static str, description: &'static str) -> Self {
        Self {
            summary,
            description,
            ..self
        }
    }

    pub(super) fn tag(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    pub(super) fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Names the parameters, which stand under `components/parameters` of the document.
    pub(super) fn parameters(self, parameters: &[&'static str]) -> Self {
        Self {
            parameters: parameters.to_vec(),
            ..self
        }
    }

    pub(super) fn reads_body<T: JsonSchema>(mut self, media_type: &'static str) -> Self {
        self.bodies
            .push((media_type, |generator| generator.subschema_for::<T>()));
        self
    }

    pub(super) fn responds<T: JsonSchema>(
        mut self,
        status: u16,
        description: &'static str,
    ) -> Self {
        let content = (
            JSON,
            (|generator| generator.subschema_for::<T>()) as SchemaOf,
        );
        self.responses.push(DocumentedResponse {
            status,
            description,
            content: Some(content),
        });
        self
    }

    pub(super) fn responds_bytes(
        mut self,
        status: u16,
        media_type: &'static str,
        description: &'static str,
    ) -> Self {
        let schema = |_: &mut SchemaGenerator| Schema::default();
        self.responses.push(DocumentedResponse {
            status,
            description,
            content: Some((media_type, schema)),
        });
        self
    }

    pub(super) fn responds_empty(mut self, status: u16, description: &'static str) -> Self {
        self.responses.push(DocumentedResponse {
            status,
            description,
            content: None,
        });
        self
    }

    /// Says that what it answers has an `ETag`.
    pub(super) fn tagged(self) -> Self {
        Self {
            is_tagged: true,
            ..self
        }
    }

    pub(super) fn fails_with(self, problems: &[u16]) -> Self {
        Self {
            problems: problems.to_vec(),
            ..self
        }
    }
}
