//! Batches of responses: each line is answered as `POST /v1/responses` would, and kept where that would keep it.

use std::time::Duration;

use anyhow::{Context, Result};
use radialog_schemas::{Ask, Stage, queues};
use radialog_tests::embedded;
use serde_json::{Value, json};

use super::batch_places::{make_late, tell};
use super::fake_language_worker::{BLOCKS, FakeLanguageWorker, answer};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, data_uri, xray};
use super::limits::eventually;
use super::request_batches::{answered, ended, jsonl, lines_of, uploaded};

const ENDPOINT: &str = "/v1/responses";

fn line(custom_id: &str, body: &Value) -> Value {
    json!({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body})
}

fn question(text: &str) -> Value {
    json!({"model": "fake", "input": text})
}

fn with(field: &str, value: Value) -> Value {
    let mut request = question("x");
    request[field] = value;
    request
}

async fn begin(gateway: &RunningGateway, lines: &[Value]) -> Result<String> {
    begin_with(gateway, jsonl(lines)).await
}

async fn begin_with(gateway: &RunningGateway, content: String) -> Result<String> {
    let file = uploaded(gateway, content).await?;
    let asked = json!({"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"});
    let batch = gateway.post("/v1/batches", &asked).await?;
    let batch: Value = batch.error_for_status()?.json().await?;
    assert_eq!(batch["endpoint"], ENDPOINT);
    let id = batch["id"].as_str().context("no id")?;
    Ok(format!("/v1/batches/{id}"))
}

/// The bodies of a file's lines with their callers' names.
async fn bodies(gateway: &RunningGateway, file: &Value) -> Result<Vec<(String, Value)>> {
    let lines = lines_of(gateway, file).await?;
    let named = lines.into_iter().map(|mut line| {
        let name = line["custom_id"].as_str().unwrap_or_default().to_owned();
        (name, line["response"]["body"].take())
    });
    Ok(named.collect())
}

fn words(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

#[tokio::test]
async fn a_greeting_is_told_as_unused_alone_and_in_a_batch() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let greeted =
        json!([{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "x"}]);
    for stream in [false, true] {
        let mut request = with("input", greeted.clone());
        request["stream"] = json!(stream);
        let alone = gateway.post(ENDPOINT, &request).await?;
        let told = alone.headers()["radialog-warning"].to_str()?;
        assert!(told.starts_with("not used: input[0]; "), "{told}");
    }
    let plain = gateway.post(ENDPOINT, &question("x")).await?;
    assert!(!plain.headers().contains_key("radialog-warning"));
    let path = begin(gateway, &[line("greeted", &with("input", greeted))]).await?;
    let view = ended(gateway, &path, "completed").await?;
    let lines = lines_of(gateway, &view["output_file_id"]).await?;
    let told = lines[0]["response"]["radialog_warning"].as_str();
    assert!(
        told.is_some_and(|told| told.contains("input[0]")),
        "{lines:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_batch_of_responses_is_answered_and_keeps_what_is_to_be_kept() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let image = json!({"type": "input_image", "detail": "auto", "image_url": data_uri(&xray())});
    let report = json!({"model": "fake", "input": [{"role": "user", "content": [image]}], "metadata": {"ward": "7"}});
    let lines = [
        line("kept", &question("Is there edema?")),
        line("report", &report),
        line("not kept", &with("store", json!(false))),
        line("stream", &with("stream", json!(true))),
        line("background", &with("background", json!(true))),
        line(
            "previous_response_id",
            &with("previous_response_id", json!("resp_0")),
        ),
        line("instructions", &with("instructions", json!("Be brief."))),
    ];
    let path = begin(gateway, &lines).await?;
    let view = ended(gateway, &path, "completed").await?;
    let counts = json!({"total": 7, "completed": 3, "failed": 4});
    assert_eq!(view["request_counts"], counts, "{view}");

    let answers = bodies(gateway, &view["output_file_id"]).await?;
    let said: Vec<(&str, &Value)> = answers
        .iter()
        .map(|(name, response)| (name.as_str(), words(response)))
        .collect();
    let expected = [
        ("kept", json!(answered("Is there edema?"))),
        ("report", json!(answer(&Ask::Report))),
        ("not kept", json!(answered("x"))),
    ];
    assert_eq!(said, expected.each_ref().map(|(name, text)| (*name, text)));
    for (name, response) in &answers {
        assert_eq!(response["status"], "completed", "{response}");
        let id = response["id"].as_str().context("no id")?;
        let found = gateway.get(&format!("{ENDPOINT}/{id}")).await?;
        if name == "not kept" {
            assert_eq!(found.status(), 404);
            continue;
        }
        assert_eq!(&found.json::<Value>().await?, response);
        // What is kept can be gone on from.
        let next = json!({"model": "fake", "input": "More?", "previous_response_id": id});
        let next: Value = gateway.post(ENDPOINT, &next).await?.json().await?;
        assert_eq!(words(&next), &json!(answered("More?")), "{next}");
    }
    assert_eq!(answers[1].1["metadata"], json!({"ward": "7"}));

    for (name, body) in bodies(gateway, &view["error_file_id"]).await? {
        assert_eq!(body["error"]["param"], name, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn another_gateway_goes_on_with_the_responses_that_one_has_begun() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let lines = [
        line("first", &question("One?")),
        line("blocked", &question(&format!("This {BLOCKS}."))),
        line("last", &question("Three?")),
    ];
    let path = begin(&fixture.gateway, &lines).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() > 0) }).await?;
    let GatewayFixture {
        backends,
        gateway,
        language_worker,
        ..
    } = fixture;
    gateway.stop().await?;
    let other = RunningGateway::start(&backends, |_| {}).await?;
    language_worker.unblock();
    let view = ended(&other, &path, "completed").await?;
    let answers = bodies(&other, &view["output_file_id"]).await?;
    let names: Vec<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["first", "blocked", "last"]);
    for (_, response) in &answers {
        let id = response["id"].as_str().context("no id")?;
        assert_eq!(&other.view(&format!("{ENDPOINT}/{id}")).await?, response);
    }
    Ok(())
}

#[tokio::test]
async fn of_lines_that_nobody_is_told_an_answer_of_no_response_stays() -> Result<()> {
    for (blank, status) in [
        (0, "cancelled"),
        (100, "cancelled"),
        (0, "expired"),
        (100, "expired"),
    ] {
        let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
        let (gateway, conversations) = (&fixture.gateway, &fixture.backends.conversations);
        let kept = jsonl(&[line("kept", &question("One?"))]);
        let blocked = jsonl(&[line("blocked", &question(&format!("This {BLOCKS}.")))]);
        let path = begin_with(gateway, kept + &"\n".repeat(blank) + &blocked).await?;
        eventually(|| async {
            let begun = conversations.begun_before(u64::MAX).await?.len();
            Ok(fixture.language_worker.blocked() == 1 && begun == 2)
        })
        .await?;
        match status {
            "cancelled" => drop(tell(gateway, &path, "cancel").await?),
            _ => make_late(&fixture, &path).await?,
        }
        let view = ended(gateway, &path, status).await?;
        let answers = match view["output_file_id"].is_null() {
            true => Vec::new(),
            false => bodies(gateway, &view["output_file_id"]).await?,
        };
        let begun = conversations.begun_before(u64::MAX).await?;
        assert_eq!(begun.len(), answers.len(), "{blank} {status}: {begun:?}");
        for (name, response) in &answers {
            let id = response["id"].as_str().context("no id")?;
            let found = gateway.get(&format!("{ENDPOINT}/{id}")).await?;
            assert_eq!(found.status(), 200, "{blank} {status}: {name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn lines_that_ask_for_responses_go_with_the_tasks_and_take_no_place_among_turns() -> Result<()>
{
    let objects = tempfile::tempdir()?;
    let backends = embedded::backends(objects.path())?;
    backends.queue.declare().await?;
    // Without a worker.
    let gateway = RunningGateway::start(&backends, |config| {
        config.max_waiting = 1;
        config.deadline = Some(Duration::from_secs(60));
    })
    .await?;
    let lines = ["a", "b", "c"].map(|name| line(name, &question("x")));
    let path = begin(&gateway, &lines).await?;
    let tasks = queues::work(Stage::Language);
    eventually(|| async { Ok(backends.queue.depth(tasks).await? == 3) }).await?;
    assert_eq!(backends.queue.depth(queues::CHAT).await?, 0);
    assert_eq!(backends.conversations.waiting().await?, 0);
    let begun = backends.conversations.begun_before(u64::MAX).await?;
    assert_eq!(begun.len(), 3);
    for id in begun {
        let known = backends.conversations.snapshot(&id).await?;
        let known = known.context("it is there")?;
        assert_eq!(known.turns[0].request.deadline_ms, None);
    }
    // What a person asks for is refused by none of them, and has the gateway's deadline.
    let asked = json!({"model": "fake", "input": "Is it clear?", "background": true});
    let response = gateway.post(ENDPOINT, &asked).await?;
    assert_eq!(response.status(), 200);
    assert_eq!(backends.queue.depth(queues::CHAT).await?, 1);
    let _worker = FakeLanguageWorker::start(&backends, UNLIMITED);
    ended(&gateway, &path, "completed").await?;
    Ok(())
}
