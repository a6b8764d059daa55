//! The OpenAPI 3.1 document, made from the table of operations and from the types' own schemas.

use radialog_schemas::http::Problem;
use radialog_schemas::http::openai::ErrorBody;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::operation::{Access, JSON, OPENAI_TAG, Operation};
use super::operations::operations;
use crate::run::RESULT_FILES;

/// Statuses that every operation with a caller may answer.
const ALWAYS: [u16; 5] = [401, 403, 429, 500, 503];
const PROBLEM: &str = "application/problem+json";

/// Describes every operation.
pub fn openapi_document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in operations() {
        let described = describe(&operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = described;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "RaDialog",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Findings, reports and dialog about chest X-rays.",
            "description": "Research software, not a medical device. Every error has a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "conversations", "description": "An X-ray and what is said about it."},
            {"name": "turns", "description": "Questions and their answers."},
            {"name": "archives", "description": "Runs over archives in an S3 store."},
            {"name": "openai", "description": "For clients of OpenAI's API."},
            {"name": "about", "description": "The API itself."},
        ],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key. A gateway without keys listens on its own machine only and needs none.",
            }},
            "parameters": parameters(),
            "schemas": schemas,
        },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "responses": responses(operation, generator),
    });
    if operation.access == Access::Public {
        described["security"] = json!([]);
    }
    if !operation.parameters.is_empty() {
        let reference = |name: &&str| json!({"$ref": format!("#/components/parameters/{name}")});
        described["parameters"] = operation.parameters.iter().map(reference).collect();
    }
    if !operation.bodies.is_empty() {
        let mut content = Map::new();
        for (media_type, schema) in &operation.bodies {
            content.insert(
                (*media_type).to_owned(),
                json!({"schema": schema(generator)}),
            );
        }
        described["requestBody"] = json!({"required": true, "content": content});
    }
    described
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for answer in &operation.responses {
        let known = responses.entry(answer.status.to_string());
        let known = known.or_insert_with(|| json!({"description": answer.description}));
        if let Some((media_type, schema)) = answer.content {
            known["content"][media_type] = json!({"schema": schema(generator)});
        }
        if answer.status == 202 {
            known["headers"]["Location"] = json!({"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}});
        }
        if operation.is_tagged {
            known["headers"]["ETag"] = json!({"description": "The tag of what was written, for `If-Match`.", "schema": {"type": "string"}});
        }
    }
    let always = if operation.access == Access::Public {
        Vec::new()
    } else {
        // What an operation would not look at, such as the query of one that has none, is refused.
        let refused = match operation.tag {
            OPENAI_TAG => 400,
            _ => 422,
        };
        [ALWAYS.as_slice(), &[refused]].concat()
    };
    let slow = (!operation.bodies.is_empty()).then_some(&408);
    for status in operation.problems.iter().chain(&always).chain(slow) {
        responses.insert(
            status.to_string(),
            error_response(operation, *status, generator),
        );
    }
    Value::Object(responses)
}

fn error_response(operation: &Operation, status: u16, generator: &mut SchemaGenerator) -> Value {
    let (media_type, schema) = match operation.tag {
        OPENAI_TAG => (JSON, generator.subschema_for::<ErrorBody>()),
        _ => (PROBLEM, generator.subschema_for::<Problem>()),
    };
    let mut described =
        json!({"description": meaning(status), "content": {media_type: {"schema": schema}}});
    if matches!(status, 408 | 429 | 503) {
        let seconds =
            json!({"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}});
        described["headers"]["Retry-After"] = seconds;
    }
    described
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be read.",
        401 => "No key, or one that is not known.",
        403 => "The page that asks may not.",
        404 => "There is no such thing, or it is not yours.",
        408 => "The body came too slowly.",
        409 => "Not in this state.",
        412 => "It was changed since: nothing is replaced.",
        413 => "Too many bytes or pixels.",
        415 => "A type that is not read here.",
        422 => "A field is missing, not known, or not what it must be.",
        428 => "What would be replaced must be named by `If-Match`.",
        429 => "Too often, or too much at once.",
        503 => "Too much waits already, or a service is away.",
        _ => "A fault of the gateway.",
    }
}

/// Whether an operation reads its query.
pub(super) fn reads_query(operation: &Operation) -> bool {
    let known = parameters();
    let mut names = operation.parameters.iter();
    names.any(|name| known[name]["in"] == "query")
}

fn parameters() -> Value {
    let path = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema});
    let query = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let id = json!({"type": "string", "pattern": "^[0-9a-f]{32}$"});
    let event = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    json!({
        "Conversation": path("id", "The conversation.", id.clone()),
        "ArchiveRun": path("run", "The run.", id.clone()),
        "Batch": path("batch", "The batch.", json!({"type": "string", "pattern": "^batch_[0-9a-f]{32}$"})),
        "BatchAfter": query("after", "Go on after this batch, which `last_id` of a page names.", json!({"type": "string"})),
        "File": path("file", "The file.", json!({"type": "string", "pattern": "^file-[0-9a-f]{32}$"})),
        "FileAfter": query("after", "Go on after this file, which `last_id` of a page names.", json!({"type": "string"})),
        "FileLimit": query("limit", "How many; 1,000 where nothing is said.", json!({"type": "integer", "minimum": 1, "maximum": 10_000})),
        "FilePurpose": query("purpose", "Only files for this.", json!({"type": "string", "enum": ["batch", "batch_output"]})),
        "ResultFile": path("result", "One of the run's results.", json!({"type": "string", "enum": RESULT_FILES})),
        "Turn": path("turn", "The turn, from 1.", json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})),
        "Model": path("model", "The name of a model.", json!({"type": "string", "minLength": 1})),
        "Response": path("response", "The response.", json!({"type": "string", "pattern": "^resp_[0-9a-f]{32}$"})),
        "ResponseStream": query("stream", "Send the events.", json!({"type": "boolean"})),
        "StartingAfter": query("starting_after", "Go on after the event with this `sequence_number`, which must have been sent; only with `stream=true`.", event.clone()),
        "IncludeObfuscation": query("include_obfuscation", "Only false.", json!({"type": "boolean", "enum": [false]})),
        "ItemAfter": query("after", "Go on after this item, which `last_id` of a page names.", json!({"type": "string"})),
        "ItemLimit": query("limit", "How many; 20 where nothing is said.", json!({"type": "integer", "minimum": 1, "maximum": 100})),
        "ItemOrder": query("order", "`desc` where nothing is said.", json!({"type": "string", "enum": ["asc", "desc"]})),
        "ItemInclude": query("include[]", "What else to show.", json!({"type": "array", "items": {"type": "string", "enum": ["message.input_image.image_url"]}})),
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes repeating the request safe: the same key gives the same conversation, turn or response again.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        },
        "IfMatch": {
            "name": "If-Match",
            "in": "header",
            "description": "The tag of the version that this one replaces, in quotes, or `*` for any: where another one is there, nothing is written.",
            "schema": {"type": "string", "pattern": "^(\\*|(W/)?\"[!#-~]*\"( *, *(W/)?\"[!#-~]*\")*)$"},
        },
        "LastEventId": {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Go on after this event.",
            "schema": event,
        },
        "After": {
            "name": "after",
            "in": "query",
            "description": "The same, for clients that cannot set headers; `lastEventId` is taken as well, and goes before it.",
            "schema": event,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::openapi_document;

    #[test]
    fn the_document_in_the_repository_is_that_of_the_code() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/openapi.json");
        let text = serde_json::to_string_pretty(&openapi_document()).unwrap() + "\n";
        if std::env::var_os("RADIALOG_WRITE_SCHEMAS").is_some() {
            std::fs::write(file, text).unwrap();
        } else {
            let stored = std::fs::read_to_string(file).unwrap_or_default();
            assert_eq!(
                stored, text,
                "openapi.json is out of date: run with RADIALOG_WRITE_SCHEMAS=1"
            );
        }
    }
}
