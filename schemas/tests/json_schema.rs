//! `schemas/json` and `schemas/asyncapi.json` are generated from the types; these tests hold both together, and write the
//! files when asked to.

use std::path::Path;

use radialog_schemas::{
    ChatTask, Conversation, Correction, DialogPrompt, FindingsReport, GeneratedReport, Manifest,
    ReportLabels, RunSpec, Stage, StageResult, StudyRecord, StudySpec, Task, TextPrompt, TurnEvent,
    TurnRequest, queues,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::{Map, Value, json};

#[test]
fn the_json_schemas_in_the_repository_are_those_of_the_types() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let schemas = [
        ("task", schema_for!(Task)),
        ("stage-result", schema_for!(StageResult)),
        ("run-spec", schema_for!(RunSpec)),
        ("study-spec", schema_for!(StudySpec)),
        ("findings-report", schema_for!(FindingsReport)),
        ("generated-report", schema_for!(GeneratedReport)),
        ("text-prompt", schema_for!(TextPrompt)),
        ("dialog-prompt", schema_for!(DialogPrompt)),
        ("report-labels", schema_for!(ReportLabels)),
        ("study-record", schema_for!(StudyRecord)),
        ("bundle-manifest", schema_for!(Manifest)),
        ("chat-task", schema_for!(ChatTask)),
        ("conversation", schema_for!(Conversation)),
        ("turn-request", schema_for!(TurnRequest)),
        ("correction", schema_for!(Correction)),
        ("turn-event", schema_for!(TurnEvent)),
    ];
    for (name, schema) in schemas {
        std::fs::create_dir_all(&folder)?;
        compare(&folder.join(format!("{name}.json")), &schema)?;
    }
    Ok(())
}

#[test]
fn the_asyncapi_document_in_the_repository_is_that_of_the_types() -> std::io::Result<()> {
    compare(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("asyncapi.json"),
        &asyncapi(),
    )
}

/// Writes the document, or compares it with what is stored.
fn compare(file: &Path, document: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(document)? + "\n";
    if std::env::var_os("RADIALOG_WRITE_SCHEMAS").is_some() {
        return std::fs::write(file, text);
    }
    let stored = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(
        stored,
        text,
        "{} is out of date: run with RADIALOG_WRITE_SCHEMAS=1",
        file.display()
    );
    Ok(())
}

/// The messages on the queues, as AsyncAPI 3.0.
fn asyncapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut messages = Map::new();
    let mut message = |name: &str, summary: &str, schema: Value| {
        let headers = json!({
            "type": "object",
            "properties": {
                queues::header::ATTEMPT: {"type": "integer", "minimum": 0, "description": "How often it was tried before."},
                queues::header::PASSED_ON: {"type": "integer", "minimum": 0, "description": "How often, since the last attempt, it was passed on to wait for a worker of another release or bundle."},
                queues::header::PUBLISHED: {"type": "integer", "description": "Milliseconds since 1970."},
                queues::header::TRACEPARENT: {"type": "string", "description": "W3C trace context."},
            },
        });
        let described = json!({
            "name": name,
            "summary": summary,
            "contentType": "application/json",
            "headers": headers,
            "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": schema},
        });
        messages.insert(name.to_owned(), described);
    };
    message(
        "Task",
        "One study to one stage.",
        reference::<Task>(&mut generator),
    );
    message(
        "ChatTask",
        "One turn of a conversation to answer.",
        reference::<ChatTask>(&mut generator),
    );
    message(
        "StageResult",
        "What came of a task.",
        reference::<StageResult>(&mut generator),
    );
    let (mut channels, mut operations) = (Map::new(), Map::new());
    // What a queue carries, and from whom.
    let work = Stage::ALL.map(|stage| {
        let mut sent = vec![("Task", "coordinator")];
        if stage == Stage::Language {
            // Turns that nobody waits for: lines of batches of requests.
            sent.push(("ChatTask", "gateway"));
        }
        (queues::work(stage), sent, stage.name())
    });
    let turns = vec![("ChatTask", "gateway")];
    let results = vec![("StageResult", "worker")];
    let others = [
        (queues::CHAT, turns, Stage::Language.name()),
        (queues::RESULTS, results, "coordinator"),
    ];
    for (queue, sent, receiver) in work.into_iter().chain(others) {
        let channel = queue.replace('.', "-");
        let description = format!(
            "Durable quorum queue. A failed message waits in {queue}.retry.*, a hopeless one lies in {}.",
            queues::dead(queue)
        );
        let messages = sent.iter().map(|(message, _)| {
            let reference = json!({"$ref": format!("#/components/messages/{message}")});
            ((*message).to_owned(), reference)
        });
        let messages: Map<String, Value> = messages.collect();
        let mut operation = |name: String, action: &str, role: &str, messages: &[&str]| {
            let messages = messages
                .iter()
                .map(|message| json!({"$ref": format!("#/channels/{channel}/messages/{message}")}));
            let operation = json!({
                "action": action,
                "channel": {"$ref": format!("#/channels/{channel}")},
                "summary": format!("The {role} role does."),
                "messages": messages.collect::<Vec<Value>>(),
            });
            operations.insert(name, operation);
        };
        for (number, (message, sender)) in sent.iter().enumerate() {
            let name = match number {
                0 => format!("send-{channel}"),
                _ => format!("send-{channel}-{message}"),
            };
            operation(name, "send", sender, &[message]);
        }
        let all: Vec<&str> = sent.iter().map(|(message, _)| *message).collect();
        operation(format!("receive-{channel}"), "receive", receiver, &all);
        channels.insert(
            channel.clone(),
            json!({
                "address": queue,
                "description": description,
                "messages": messages,
                "bindings": {"amqp": {"is": "queue", "queue": {"name": queue, "durable": true, "exclusive": false}}},
            }),
        );
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "RaDialog queues",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Delivery is at least once; a message of an unknown schema_version is dead-lettered.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": generator.take_definitions(true)},
    })
}

fn reference<T: JsonSchema>(generator: &mut schemars::SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}
