//! Which batches a gateway works on, and how those end that it does not: nobody's batch is in the way of another one, and
//! none outlives its day.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use radialog_schemas::{ObjectKey, Stage, queues};
use radialog_tests::embedded;
use radialog_tests::faults::FaultInjector;
use reqwest::Method;
use serde_json::{Value, json};

use super::fake_language_worker::{BLOCKS, FakeLanguageWorker};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED};
use super::limits::eventually;
use super::request_batches::{
    asked, begin, ended, jsonl, line, lines_of, open_batches, question, uploaded, when,
};

fn blocking() -> String {
    jsonl(&[question("a", &format!("This {BLOCKS}."))])
}

fn some(count: usize) -> String {
    let lines: Vec<Value> = (0..count)
        .map(|number| question(&number.to_string(), "x"))
        .collect();
    jsonl(&lines)
}

async fn tell(gateway: &RunningGateway, path: &str, what: &str) -> Result<Value> {
    let told = gateway.post(&format!("{path}/{what}"), &json!({})).await?;
    Ok(told.error_for_status()?.json().await?)
}

/// Changes a batch's document behind everybody's back.
async fn alter(fixture: &GatewayFixture, path: &str, change: impl Fn(&mut Value)) -> Result<()> {
    let objects = &fixture.backends.objects;
    let name = path.rsplit('_').next().context("a name")?;
    let all = objects.list(ObjectKey::REQUEST_BATCHES, None, 100).await?;
    let mut keys = all.entries.into_iter().map(|entry| entry.key);
    let suffix = format!("{name}.json");
    let key = keys.find(|key| key.as_str().ends_with(&suffix));
    let key = key.context("no document")?;
    loop {
        let (content, version) = objects.get_versioned(&key).await?;
        let mut document: Value = serde_json::from_slice(&content)?;
        change(&mut document);
        let content = serde_json::to_vec(&document)?.into();
        if objects
            .put_if(&key, content, Some(&version))
            .await?
            .is_some()
        {
            return Ok(());
        }
    }
}

/// Lets a batch's time be over.
async fn make_late(fixture: &GatewayFixture, path: &str) -> Result<()> {
    alter(fixture, path, |document| {
        document["times"]["expires"] = json!(1)
    })
    .await
}

#[tokio::test]
async fn batches_that_are_paused_or_damaged_keep_no_place() -> Result<()> {
    // Nothing is answered until words are allowed.
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let mut paused = Vec::new();
    for _ in 0..2 {
        let path = begin(gateway, some(40)).await?;
        when(gateway, &path, |view| view["status"] == "in_progress").await?;
        tell(gateway, &path, "pause").await?;
        paused.push(path);
    }
    fixture.language_worker.allow(UNLIMITED);
    for path in &paused {
        when(gateway, path, |view| {
            view["request_counts"]["completed"] == 32
        })
        .await?;
    }
    let damaged = begin(gateway, some(1)).await?;
    ended(gateway, &damaged, "completed").await?;
    let objects = &fixture.backends.objects;
    let all = objects.list(ObjectKey::REQUEST_BATCHES, None, 100).await?;
    let name = damaged.rsplit('_').next().context("a name")?;
    for entry in &all.entries {
        if let Some((owner, _)) = entry.key.as_str().split_once(&format!("/{name}.json")) {
            objects.put(&entry.key, "{".into()).await?;
            let owner = owner.rsplit('/').next().context("an owner")?;
            let sign = format!("{}{owner}.{name}", ObjectKey::OPEN_REQUEST_BATCHES);
            let sign = ObjectKey::parse(&sign).context("a key")?;
            objects.put(&sign, "open".into()).await?;
        }
    }
    let last = begin(gateway, some(40)).await?;
    ended(gateway, &last, "completed").await?;
    let view = gateway.view(&damaged).await?;
    assert_eq!(view["status"], "failed");
    assert_eq!(view["errors"]["data"][0]["code"], "batch_damaged");
    let list = gateway.view("/v1/batches").await?;
    assert_eq!(list["data"].as_array().context("a list")?.len(), 4);
    for path in &paused {
        tell(gateway, path, "resume").await?;
        ended(gateway, path, "completed").await?;
    }
    // The damaged one stays.
    eventually(|| async { Ok(open_batches(&fixture).await? == 1) }).await
}

#[tokio::test]
async fn gateways_share_batches_and_what_waits_is_cancelled_and_expires() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let (one, worker) = (&fixture.gateway, &fixture.language_worker);
    let mut paths = Vec::new();
    for _ in 0..2 {
        paths.push(begin(one, blocking()).await?);
    }
    eventually(|| async { Ok(worker.blocked() == 2) }).await?;
    // Both places are taken.
    let cancelled = begin(one, some(1)).await?;
    tell(one, &cancelled, "cancel").await?;
    ended(one, &cancelled, "cancelled").await?;
    let late = begin(one, some(3)).await?;
    make_late(&fixture, &late).await?;
    let view = ended(one, &late, "expired").await?;
    assert_eq!(
        view["request_counts"],
        json!({"total": 3, "completed": 0, "failed": 3})
    );
    assert_eq!(worker.blocked(), 2);
    for _ in 0..2 {
        paths.push(begin(one, blocking()).await?);
    }
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    eventually(|| async { Ok(worker.blocked() == 4) }).await?;
    worker.unblock();
    for path in &paths {
        ended(&other, path, "completed").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_ends_with_its_day_and_keeps_what_was_answered() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let mut lines: Vec<Value> = (0..40)
        .map(|number| question(&number.to_string(), "x"))
        .collect();
    lines[5] = question("5", &format!("This {BLOCKS}."));
    let path = begin(gateway, jsonl(&lines)).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 1) }).await?;
    make_late(&fixture, &path).await?;
    let view = ended(gateway, &path, "expired").await?;
    assert!(view["expired_at"].is_u64(), "{view}");
    let ids = |lines: &[Value]| -> Vec<u64> {
        let id = |line: &Value| line["custom_id"].as_str().unwrap().parse().unwrap();
        lines.iter().map(id).collect()
    };
    let answers = lines_of(gateway, &view["output_file_id"]).await?;
    let faults = lines_of(gateway, &view["error_file_id"]).await?;
    let answered = ids(&answers);
    assert!(answered.len() <= 5, "the sixth was never answered");
    let all = [answered, ids(&faults)].concat();
    assert_eq!(all, (0..40).collect::<Vec<u64>>());
    for line in &faults {
        assert_eq!(line["error"]["code"], "batch_expired", "{line}");
        assert_eq!(line["response"], Value::Null);
    }
    assert_eq!(
        view["request_counts"],
        json!({"total": 40, "completed": answers.len(), "failed": faults.len()})
    );
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await
}

#[tokio::test]
async fn a_line_that_another_gateway_does_not_take_is_refused_and_an_input_that_is_gone_ends_the_batch()
-> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let long =
        json!({"model": "fake", "messages": [{"role": "user", "content": "x".repeat(3 << 20)}]});
    let lines = [
        question("first", &format!("This {BLOCKS}.")),
        line("long", &long),
    ];
    let path = begin(&fixture.gateway, jsonl(&lines)).await?;
    let gone = begin(&fixture.gateway, blocking() + &some(40)).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 2) }).await?;
    let GatewayFixture {
        backends,
        gateway,
        language_worker,
        ..
    } = fixture;
    gateway.stop().await?;
    let parts = backends.objects.list("request-files/parts/", None, 9);
    let mut parts = parts.await?.entries;
    parts.retain(|part| part.size < 1 << 20);
    for part in parts {
        backends.objects.delete(&part.key).await?;
    }
    language_worker.unblock();
    let smaller =
        RunningGateway::start(&backends, |config| config.max_image_bytes = 1 << 20).await?;
    let view = ended(&smaller, &path, "completed").await?;
    assert_eq!(
        view["request_counts"],
        json!({"total": 2, "completed": 1, "failed": 1})
    );
    let faults = lines_of(&smaller, &view["error_file_id"]).await?;
    assert_eq!(faults[0]["response"]["status_code"], 413);
    let message = &faults[0]["response"]["body"]["error"]["message"];
    assert!(message.to_string().contains("line 2"), "{message}");
    let view = ended(&smaller, &gone, "failed").await?;
    assert_eq!(view["errors"]["data"][0]["code"], "not_found");
    Ok(())
}

#[tokio::test]
async fn a_request_for_a_batch_may_be_sent_again_and_leaves_nothing_where_it_is_refused()
-> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let file = uploaded(gateway, some(1)).await?;
    let send = async |gateway: &RunningGateway, body: &Value| -> Result<(u16, Value)> {
        let request = gateway.ask(Method::POST, "/v1/batches").json(body);
        let response = request.header("Idempotency-Key", "k").send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let (status, first) = send(gateway, &asked(&file)).await?;
    assert_eq!(status, 200, "{first}");
    let path = format!("/v1/batches/{}", first["id"].as_str().context("no id")?);
    ended(gateway, &path, "completed").await?;
    let (_, again) = send(gateway, &asked(&file)).await?;
    assert_eq!(
        (&again["id"], &again["status"]),
        (&first["id"], &json!("completed"))
    );
    let mut other = asked(&file);
    other["metadata"] = json!({"ward": "7"});
    let (status, error) = send(gateway, &other).await?;
    assert_eq!(
        error["error"]["code"], "idempotency_mismatch",
        "{status} {error}"
    );
    let list = gateway.view("/v1/batches").await?;
    assert_eq!(list["data"].as_array().context("a list")?.len(), 1);
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await?;

    // A store that does what it is told whatever was expected.
    let faults = Arc::new(FaultInjector::default());
    let careless = faults.over(&fixture.backends);
    faults.ignore_conditions();
    let careless = RunningGateway::start(&careless, |_| {}).await?;
    let refused = careless.post("/v1/batches", &asked(&file)).await?;
    assert_eq!(refused.status(), 400);
    assert_eq!(open_batches(&fixture).await?, 0);
    let list = gateway.view("/v1/batches").await?;
    assert_eq!(list["data"].as_array().context("a list")?.len(), 1);
    tokio::time::timeout(Duration::from_secs(60), careless.stop()).await?
}

#[tokio::test]
async fn lines_go_with_the_tasks_and_take_no_place_among_the_turns_that_people_wait_for()
-> Result<()> {
    let objects = tempfile::tempdir()?;
    let backends = embedded::backends(objects.path())?;
    backends.queue.declare().await?;
    // Without a worker.
    let gateway = RunningGateway::start(&backends, |config| config.max_waiting = 1).await?;
    let path = begin(&gateway, some(40)).await?;
    let depth = async |queue: &str| anyhow::Ok(backends.queue.depth(queue).await?);
    let tasks = queues::work(Stage::Language);
    eventually(|| async { Ok(depth(tasks).await? == 8) }).await?;
    assert_eq!(depth(queues::CHAT).await?, 0);
    assert_eq!(backends.conversations.waiting().await?, 0);
    let asked = gateway.begin(&json!({"question": "Is it clear?"})).await?;
    assert_eq!(depth(queues::CHAT).await?, 1);
    let view = gateway.view(&asked).await?;
    assert_eq!(view["turns"][0]["position"], 0, "{view}");
    // Whoever answers what people ask first answers it before all lines.
    let _worker = FakeLanguageWorker::start(&backends, UNLIMITED);
    gateway.view_when(&asked, 1, "done").await?;
    ended(&gateway, &path, "completed").await?;
    Ok(())
}
