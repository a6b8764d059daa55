//! Which batches a gateway works on, and how those end that it does not: nobody's batch is in the way of another one, and
//! none outlives its day.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use radialog_schemas::{ObjectKey, Stage, queues};
use radialog_tests::embedded;
use radialog_tests::faults::{Denial, FaultInjector};
use reqwest::Method;
use serde_json::{Value, json};

use super::fake_language_worker::{BLOCKS, FakeLanguageWorker};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, data_uri, key, xray};
use super::limits::eventually;
use super::request_batches::{
    asked, begin, ended, jsonl, line, lines_of, open_batches, question, uploaded, when,
};

pub(super) fn blocking() -> String {
    jsonl(&[question("a", &format!("This {BLOCKS}."))])
}

fn some(count: usize) -> String {
    let lines: Vec<Value> = (0..count)
        .map(|number| question(&number.to_string(), "x"))
        .collect();
    jsonl(&lines)
}

pub(super) async fn tell(gateway: &RunningGateway, path: &str, what: &str) -> Result<Value> {
    let told = gateway.post(&format!("{path}/{what}"), &json!({})).await?;
    Ok(told.error_for_status()?.json().await?)
}

/// Changes a batch's document behind everybody's back.
pub(super) async fn alter(
    fixture: &GatewayFixture,
    path: &str,
    mut change: impl FnMut(&mut Value),
) -> Result<()> {
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
pub(super) async fn make_late(fixture: &GatewayFixture, path: &str) -> Result<()> {
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
    // Nothing gives way, so that what waits gets no place but that for being ended.
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.batch_pace.stalled_after = Duration::from_secs(600)
    })
    .await?;
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
    // The last one of a piece is begun when those before it, but for the few at once, are answered.
    for number in [5, 31] {
        lines[number] = question(&number.to_string(), &format!("This {BLOCKS}."));
    }
    let path = begin(gateway, jsonl(&lines)).await?;
    eventually(|| async { Ok(fixture.language_worker.blocked() == 2) }).await?;
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
    assert!((24..=30).contains(&answered.len()), "{answered:?}");
    let mut all = [answered, ids(&faults)].concat();
    all.sort_unstable();
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

    // Stores that do what they are told whatever was expected, or whatever version was, or say that they do not know it.
    for fault in [
        FaultInjector::ignore_conditions,
        FaultInjector::ignore_versions,
        FaultInjector::refuse_conditions,
    ] {
        let faults = Arc::new(FaultInjector::default());
        let careless = faults.over(&fixture.backends);
        fault(&faults);
        let careless = RunningGateway::start(&careless, |_| {}).await?;
        for key in ["", "k2"] {
            let request = careless
                .ask(Method::POST, "/v1/batches")
                .json(&asked(&file));
            let request = match key {
                "" => request,
                key => request.header("Idempotency-Key", key),
            };
            let refused = request.send().await?;
            assert_eq!(refused.status(), 400);
            let error: Value = refused.json().await?;
            let message = error["error"]["message"].to_string();
            assert!(message.contains("conditional writes"), "{message}");
        }
        assert_eq!(open_batches(&fixture).await?, 0);
        let list = gateway.view("/v1/batches").await?;
        assert_eq!(list["data"].as_array().context("a list")?.len(), 1);
        tokio::time::timeout(Duration::from_secs(60), careless.stop()).await??;
    }
    // Whose answer was lost may delete the file and ask again.
    assert_eq!(gateway.delete(&format!("/v1/files/{file}")).await?, 200);
    let (status, again) = send(gateway, &asked(&file)).await?;
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    Ok(())
}

#[tokio::test]
async fn a_batch_that_was_refused_is_removed_when_the_store_answers_again() -> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, |_| {}).await?;
    let gateway = &fixture.gateway;
    let file = uploaded(gateway, some(1)).await?;
    // From here on the store is known.
    let first = gateway.post("/v1/batches", &asked(&file)).await?;
    let first: Value = first.error_for_status()?.json().await?;
    let path = format!("/v1/batches/{}", first["id"].as_str().context("no id")?);
    ended(gateway, &path, "completed").await?;
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await?;
    let objects = &fixture.backends.objects;
    let documents = async || -> Result<Vec<ObjectKey>> {
        let all = objects.list(ObjectKey::REQUEST_BATCHES, None, 100).await?;
        let keys = all.entries.into_iter().map(|entry| entry.key);
        Ok(keys.filter(|key| key.as_str().ends_with(".json")).collect())
    };
    let known = documents().await?;
    let (owner, _) = known[0].as_str().rsplit_once('/').context("an owner")?;
    faults.deny(owner, Denial::Silent);
    let refused = gateway.post("/v1/batches", &asked(&file)).await?;
    assert_eq!(refused.status(), 503);
    faults.allow_all();
    // What stands in its place keeps out a write that the store does late, and is no batch.
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await?;
    let mut left = documents().await?;
    left.retain(|key| !known.contains(key));
    assert_eq!(left.len(), 1);
    let late = objects.put_if(&left[0], "{}".into(), None).await?;
    assert!(late.is_none());
    let list = gateway.view("/v1/batches").await?;
    assert_eq!(list["data"].as_array().context("a list")?.len(), 1);
    let name = left[0].as_str().rsplit('/').next().context("a name")?;
    let id = format!("batch_{}", name.trim_end_matches(".json"));
    let path = format!("/v1/batches/{id}");
    assert_eq!(gateway.get(&path).await?.status(), 404);
    let cancelled = gateway.post(&format!("{path}/cancel"), &json!({})).await?;
    assert_eq!(cancelled.status(), 404);
    Ok(())
}

/// The prefix of the parts of a file of requests.
fn parts_of(fixture: &GatewayFixture, file: &str) -> Result<String> {
    let name = file.strip_prefix("file-").context("a name")?;
    let mut owners = std::fs::read_dir(fixture.objects().join("request-files/parts"))?;
    let owner = owners.next().context("an owner")??.file_name();
    let owner = owner.to_str().context("a name")?;
    Ok(format!("{}{owner}/{name}/", ObjectKey::REQUEST_FILE_PARTS))
}

#[tokio::test]
async fn a_batch_that_cannot_be_ended_keeps_no_other_from_its_end_and_a_refused_input_ends_it()
-> Result<()> {
    let faults = Arc::new(FaultInjector::default());
    let fixture = GatewayFixture::faulty(&faults, |_| {}).await?;
    let (gateway, worker) = (&fixture.gateway, &fixture.language_worker);
    let first = begin(gateway, blocking()).await?;
    eventually(|| async { Ok(worker.blocked() == 1) }).await?;
    let input = gateway.view(&first).await?;
    let input = input["input_file_id"].as_str().context("an input")?;
    let input = parts_of(&fixture, input)?;
    faults.deny(&input, Denial::Failing);
    make_late(&fixture, &first).await?;
    // It has failed for the first time, and is tried in the place for ending from now on.
    eventually(|| async { Ok(faults.denials_met() > 0) }).await?;
    let mut running = Vec::new();
    for count in 2..4 {
        running.push(begin(gateway, blocking()).await?);
        eventually(|| async { Ok(worker.blocked() == count) }).await?;
    }
    let cancelled = begin(gateway, some(1)).await?;
    let tried = faults.denials_met();
    eventually(|| async { Ok(faults.denials_met() > tried) }).await?;
    tell(gateway, &cancelled, "cancel").await?;
    ended(gateway, &cancelled, "cancelled").await?;
    assert_ne!(gateway.view(&first).await?["status"], "expired");
    faults.allow_all();
    faults.deny(&input, Denial::Refused);
    let view = ended(gateway, &first, "failed").await?;
    assert_eq!(view["errors"]["data"][0]["code"], "object_refused");
    let refused = uploaded(gateway, some(1)).await?;
    faults.deny(&parts_of(&fixture, &refused)?, Denial::Refused);
    worker.unblock();
    let batch = gateway.post("/v1/batches", &asked(&refused)).await?;
    let batch: Value = batch.error_for_status()?.json().await?;
    let path = format!("/v1/batches/{}", batch["id"].as_str().context("no id")?);
    let view = ended(gateway, &path, "failed").await?;
    assert_eq!(view["errors"]["data"][0]["code"], "object_refused");
    for path in &running {
        ended(gateway, path, "completed").await?;
    }
    Ok(())
}

#[tokio::test]
async fn batches_whose_lines_nobody_begins_give_way_to_those_of_another_key_and_lose_nothing()
-> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.keys = vec![key("ward", "one"), key("lab", "two")];
        (config.rate, config.concurrent) = (1000, 1000);
        config.batch_pace.stalled_after = Duration::from_millis(300);
    })
    .await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("one"),
        fixture.gateway.as_owner("two"),
    );
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(begin(&ward, some(2) + &blocking()).await?);
    }
    // As many as there were places, those aside among them.
    eventually(|| async { Ok(fixture.language_worker.blocked() >= 8) }).await?;
    let other = begin(&lab, some(1)).await?;
    ended(&lab, &other, "completed").await?;
    fixture.language_worker.unblock();
    for path in &stalled {
        let view = ended(&ward, path, "completed").await?;
        assert_eq!(view["request_counts"]["completed"], 3, "{view}");
        let answers = lines_of(&ward, &view["output_file_id"]).await?;
        let mut ids: Vec<&str> = answers
            .iter()
            .map(|line| line["custom_id"].as_str().unwrap())
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, ["0", "1", "a"]);
    }
    Ok(())
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

#[tokio::test]
async fn a_batch_that_has_had_its_turn_gives_way_to_those_of_another_key() -> Result<()> {
    // Nothing is answered until words are allowed, and nothing stalls.
    let fixture = GatewayFixture::with(0, |config| {
        config.keys = vec![key("ward", "one"), key("lab", "two")];
        (config.rate, config.concurrent) = (1000, 1000);
        config.batch_pace.stalled_after = Duration::from_secs(600);
        config.batch_pace.turn = Duration::ZERO;
    })
    .await?;
    let worker = &fixture.language_worker;
    let (ward, lab) = (
        fixture.gateway.as_owner("one"),
        fixture.gateway.as_owner("two"),
    );
    // A piece, and lines that are answered only when they are unblocked.
    let blocked =
        |number: usize| question(&format!("blocked {number}"), &format!("This {BLOCKS}."));
    let blocked = jsonl(&(0..8).map(blocked).collect::<Vec<Value>>());
    let mut long = Vec::new();
    for _ in 0..2 {
        let path = begin(&ward, some(32) + &blocked).await?;
        when(&ward, &path, |view| view["status"] == "in_progress").await?;
        long.push(path);
    }
    let short = begin(&lab, some(1)).await?;
    // What is ended was looked for after the short one had come: from here on that is known to wait.
    let cancelled = begin(&lab, some(1)).await?;
    tell(&lab, &cancelled, "cancel").await?;
    ended(&lab, &cancelled, "cancelled").await?;
    assert_ne!(lab.view(&short).await?["status"], "completed");
    worker.allow(UNLIMITED);
    ended(&lab, &short, "completed").await?;
    // One has made room, the other has not, and the first goes on when there is room again.
    eventually(|| async { Ok(worker.blocked() == 16) }).await?;
    worker.unblock();
    for path in &long {
        let view = ended(&ward, path, "completed").await?;
        let counts = json!({"total": 40, "completed": 40, "failed": 0});
        assert_eq!(view["request_counts"], counts);
        let lines = lines_of(&ward, &view["output_file_id"]).await?;
        assert_eq!(lines.len(), 40);
    }
    Ok(())
}

/// An X-ray and so many bytes behind its end, in a line of a batch.
fn large(text: &str, bytes: usize) -> Value {
    let image = data_uri(&[xray(), vec![0; bytes]].concat());
    let content = json!([
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": text},
    ]);
    json!({"model": "fake", "messages": [{"role": "user", "content": content}]})
}

#[tokio::test]
async fn lines_give_the_memory_back_that_their_requests_have_taken() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.max_image_bytes = 8 << 20;
        config.body_memory = 57 << 20;
        config.batch_pace.stalled_after = Duration::from_secs(600);
    })
    .await?;
    let (gateway, worker) = (&fixture.gateway, &fixture.language_worker);
    // Two lines of a batch at a time, whose requests take 11 MiB each while they are read.
    let blocked = large(&format!("This {BLOCKS}."), 2_800_000);
    let mut paths = Vec::new();
    for _ in 0..2 {
        let lines = [line("a", &blocked), line("b", &blocked)];
        paths.push(begin(gateway, jsonl(&lines)).await?);
    }
    eventually(|| async { Ok(worker.blocked() == 4) }).await?;
    // Somebody's image takes 20 of 50 MiB.
    let image = data_uri(&[xray(), vec![0; 5 << 20]].concat());
    eventually(|| async {
        let response = gateway
            .post("/v1/conversations", &json!({"image": image}))
            .await?;
        Ok(response.status().is_success())
    })
    .await?;
    worker.unblock();
    for path in &paths {
        ended(gateway, path, "completed").await?;
    }
    // Lines that hold memory until they are answered, together more than there is.
    let lines: Vec<Value> = (0..5)
        .map(|number| line(&number.to_string(), &large("x", 3_400_000)))
        .collect();
    let path = begin(gateway, jsonl(&lines)).await?;
    let view = ended(gateway, &path, "completed").await?;
    assert_eq!(view["request_counts"]["completed"], 5, "{view}");
    Ok(())
}
