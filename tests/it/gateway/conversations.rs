//! From an image to its findings, report and dialog, and what stays when a conversation is removed.

use std::time::Duration;

use anyhow::{Context, Result};
use radialog_coordinator::ResultConsumer;
use radialog_runtime::backends::Backends;
use radialog_schemas::{Ask, ConversationId};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::services::Redis;
use radialog_tests::waiting;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fake_language_worker::answer;
use super::fixture::{GatewayFixture, RunningGateway, about_xray, data_uri, problem, xray};
use super::sse::text;
use crate::adapters::redis_conversations_at;

#[tokio::test]
async fn an_image_and_a_question_become_findings_a_report_and_an_answer() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let body =
        json!({"image": data_uri(&xray()), "question": "Is there edema?", "indication": "Cough."});
    let response = fixture.gateway.post("/v1/conversations", &body).await?;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str()?.to_owned();
    let view: Value = response.json().await?;
    let id = view["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/conversations/{id}"));
    assert_eq!(view["turns"].as_array().unwrap().len(), 2);
    assert_eq!(view["turns"][0]["request"]["task"], "report");
    assert_eq!(view["turns"][1]["request"]["text"], "Is there edema?");

    let events = fixture
        .gateway
        .follow(&location, 1, None)
        .await?
        .rest()
        .await?;
    assert_eq!(text(&events), answer(&Ask::Report));
    let names: Vec<&str> = events
        .iter()
        .map(|event| event.name.as_str())
        .filter(|name| *name != "queued" && *name != "token")
        .collect();
    assert_eq!(names, ["findings", "started", "done"]);
    let findings = events
        .iter()
        .find(|event| event.name == "findings")
        .unwrap();
    assert_eq!(findings.data["findings"].as_array().unwrap().len(), 14);
    let done = &events.last().unwrap().data;
    assert_eq!(
        (&done["status"], &done["text"]),
        (&json!("done"), &json!(answer(&Ask::Report)))
    );
    assert_eq!(done["usage"]["prompt_tokens"], 50);

    let view = fixture.gateway.view_when(&location, 2, "done").await?;
    assert_eq!(view["turns"][1]["text"], "You asked: Is there edema?");
    assert_eq!(view["indication"], "Cough.");
    assert_eq!(view["findings"], findings.data);
    let image = fixture
        .gateway
        .get(view["image"]["href"].as_str().unwrap())
        .await?;
    assert_eq!(image.headers()["content-type"], "image/jpeg");
    let tag = image.headers()["etag"].clone();
    assert_eq!(image.bytes().await?, xray());
    let again = fixture
        .gateway
        .ask(Method::GET, view["image"]["href"].as_str().unwrap());
    assert_eq!(
        again.header("If-None-Match", tag).send().await?.status(),
        304
    );

    let list: Value = fixture
        .gateway
        .get("/v1/conversations")
        .await?
        .json()
        .await?;
    let entry = &list["conversations"][0];
    assert_eq!(
        (&entry["id"], &entry["title"], &entry["turns"]),
        (&json!(id), &json!("Is there edema?"), &json!(2))
    );
    assert_eq!(entry["status"], "done");
    Ok(())
}

#[tokio::test]
async fn a_form_with_a_file_is_the_same_as_a_data_uri() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let form = Form::new()
        .part(
            "image",
            Part::bytes(xray())
                .file_name("x.jpg")
                .mime_str("image/jpeg")?,
        )
        .text("question", "Größe des Herzens?")
        .text("max_new_tokens", "12");
    let response = fixture
        .gateway
        .ask(Method::POST, "/v1/conversations")
        .multipart(form)
        .send()
        .await?;
    assert_eq!(response.status(), 202);
    let view: Value = response.json().await?;
    assert_eq!(view["turns"][1]["request"]["text"], "Größe des Herzens?");
    assert_eq!(
        view["turns"][1]["request"]["generation"]["max_new_tokens"],
        12
    );
    assert_eq!(view["image"]["media_type"], "image/jpeg");
    Ok(())
}

#[tokio::test]
async fn a_question_alone_is_a_conversation_in_words() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let path = fixture
        .gateway
        .begin(&json!({"question": "What is edema?"}))
        .await?;
    let view = fixture.gateway.view_when(&path, 1, "done").await?;
    assert_eq!(
        (&view["image"], &view["findings"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(view["turns"][0]["text"], "You asked: What is edema?");
    let report = fixture
        .gateway
        .post(&format!("{path}/turns"), &json!({"task": "report"}))
        .await?;
    assert_eq!(problem(report).await?.1, "invalid_request");
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_gives_the_same_conversation_again() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let send = |body: Value| {
        let request = fixture
            .gateway
            .ask(Method::POST, "/v1/conversations")
            .header("Idempotency-Key", "first");
        async move { anyhow::Ok(request.json(&body).send().await?) }
    };
    let first: Value = send(about_xray()).await?.json().await?;
    let again: Value = send(about_xray()).await?.json().await?;
    assert_eq!(first["id"], again["id"]);
    let list: Value = fixture
        .gateway
        .get("/v1/conversations")
        .await?
        .json()
        .await?;
    assert_eq!(list["conversations"].as_array().unwrap().len(), 1);
    let other = send(json!({"question": "Something else?"})).await?;
    assert_eq!(
        problem(other).await?,
        (422, "idempotency_mismatch".into(), None)
    );
    Ok(())
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_once_its_image_is_prepared_holds_up_no_other()
-> Result<()> {
    let redis = Redis::start().await?;
    let objects = tempfile::tempdir()?;
    let backends = Backends {
        conversations: redis_conversations_at(redis.url()).await,
        ..embedded::backends(objects.path())?
    };
    backends.queue.declare().await?;
    let gateway = RunningGateway::start(&backends, |_| {}).await?;
    let begin = async || -> Result<String> {
        let path = gateway.begin(&about_xray()).await?;
        Ok(path.rsplit('/').next().context("an id")?.to_owned())
    };
    // Nobody prepares images yet.
    let damaged = begin().await?;
    let key = format!("radialog:chat:{{{damaged}}}");
    redis.ask(&format!("HSET {key} conversation {{}}")).await?;

    let stop = CancellationToken::new();
    let results = ResultConsumer::new(backends.clone(), "results", stop.clone());
    tokio::spawn(results.run());
    let _results = stop.drop_guard();
    let _workers = embedded::start_workers(&backends, FakeStage::new).await?;
    let patience = Duration::from_secs(60);
    let asked = format!("HEXISTS {key} prepared");
    let was_met = || async { Ok(redis.ask(&asked).await?.contains('1')) };
    waiting::until("its image is not prepared", patience, was_met).await?;
    let other = ConversationId::from(begin().await?.as_str());
    let is_prepared = || async {
        let snapshot = backends.conversations.snapshot(&other).await?;
        Ok(snapshot.is_some_and(|snapshot| snapshot.prepared.is_some()))
    };
    waiting::until("the other's image is not prepared", patience, is_prepared).await
}
