//! OpenAI's files and batches: a request a line goes in, an answer a line comes out, whichever gateway works on it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use radialog_schemas::{Ask, ObjectKey};
use radialog_tests::waiting;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::fake_language_worker::{BLOCKS, FAILS, answer};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, data_uri, key, xray};
use super::limits::eventually;

const TIMEOUT: Duration = Duration::from_secs(120);
const ENDPOINT: &str = "/v1/chat/completions";

pub(super) fn line(custom_id: &str, body: &Value) -> Value {
    json!({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body})
}

pub(super) fn question(custom_id: &str, text: &str) -> Value {
    let body = json!({"model": "fake", "messages": [{"role": "user", "content": text}]});
    line(custom_id, &body)
}

pub(super) fn answered(text: &str) -> String {
    answer(&Ask::Question { text: text.into() })
}

pub(super) fn jsonl(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub(super) async fn upload(gateway: &RunningGateway, content: String) -> Result<Response> {
    let form = Form::new().text("purpose", "batch").part(
        "file",
        Part::bytes(content.into_bytes()).file_name("requests.jsonl"),
    );
    Ok(gateway
        .ask(Method::POST, "/v1/files")
        .multipart(form)
        .send()
        .await?)
}

pub(super) async fn uploaded(gateway: &RunningGateway, content: String) -> Result<String> {
    let file: Value = upload(gateway, content)
        .await?
        .error_for_status()?
        .json()
        .await?;
    Ok(file["id"].as_str().context("no id")?.to_owned())
}

pub(super) fn asked(file: &str) -> Value {
    json!({"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"})
}

/// Uploads requests and makes a batch of them; returns its path.
pub(super) async fn begin(gateway: &RunningGateway, content: String) -> Result<String> {
    let file = uploaded(gateway, content).await?;
    let batch = gateway.post("/v1/batches", &asked(&file)).await?;
    let batch: Value = batch.error_for_status()?.json().await?;
    Ok(format!(
        "/v1/batches/{}",
        batch["id"].as_str().context("no id")?
    ))
}

pub(super) async fn when(
    gateway: &RunningGateway,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let look = || async {
        let view = gateway.view(path).await?;
        Ok(is_so(&view).then_some(view))
    };
    waiting::found(&format!("{path} never got so far"), TIMEOUT, look).await
}

pub(super) async fn ended(gateway: &RunningGateway, path: &str, status: &str) -> Result<Value> {
    let ends = ["completed", "failed", "expired", "cancelled"];
    let is_over = |view: &Value| ends.iter().any(|end| view["status"] == *end);
    let view = when(gateway, path, is_over).await?;
    ensure!(view["status"] == status, "{view}");
    Ok(view)
}

/// The lines of one of a batch's files.
pub(super) async fn lines_of(gateway: &RunningGateway, file: &Value) -> Result<Vec<Value>> {
    let id = file.as_str().context("no file")?;
    let content = gateway.get(&format!("/v1/files/{id}/content")).await?;
    let content = content.error_for_status()?.text().await?;
    content
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn words(line: &Value) -> &str {
    let text = &line["response"]["body"]["choices"][0]["message"]["content"];
    text.as_str().unwrap_or_default()
}

#[tokio::test]
async fn every_line_has_its_answer_or_its_fault_in_the_order_of_the_file() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let image = json!({"type": "image_url", "image_url": {"url": data_uri(&xray())}});
    let mut lines: Vec<Value> = (0..40)
        .map(|number| question(&format!("q{number}"), &format!("Question {number}?")))
        .collect();
    let about_image = json!({"model": "fake", "messages": [{"role": "user", "content": [image]}]});
    lines.insert(3, line("report", &about_image));
    let of_others = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]});
    lines.insert(5, line("unknown model", &of_others));
    let streamed =
        json!({"model": "fake", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    lines.insert(7, line("streamed", &streamed));
    lines.push(question("failing", &format!("This {FAILS}.")));
    // Blank lines, a byte order mark, Windows' line ends and no last line end.
    let content = format!("\u{feff}{}", jsonl(&lines).replace('\n', "\r\n\r\n"));
    let path = begin(gateway, content.trim_end().to_owned()).await?;
    let view = ended(gateway, &path, "completed").await?;
    assert_eq!(
        view["request_counts"],
        json!({"total": 44, "completed": 41, "failed": 3}),
        "{view}"
    );
    let answers = lines_of(gateway, &view["output_file_id"]).await?;
    let expected: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["custom_id"].as_str())
        .filter(|id| !["unknown model", "streamed", "failing"].contains(id))
        .collect();
    let ids: Vec<&str> = answers
        .iter()
        .filter_map(|line| line["custom_id"].as_str())
        .collect();
    assert_eq!(ids, expected);
    for line in &answers {
        let id = line["custom_id"].as_str().unwrap();
        let wanted = match id.strip_prefix('q') {
            Some(number) => answered(&format!("Question {number}?")),
            None => answer(&Ask::Report),
        };
        assert_eq!(words(line), wanted, "{id}");
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(line["error"], Value::Null);
    }
    let faults = lines_of(gateway, &view["error_file_id"]).await?;
    let told = faults.iter().map(|line| {
        let error = &line["response"]["body"]["error"];
        (
            line["custom_id"].as_str().unwrap(),
            line["response"]["status_code"].as_u64().unwrap(),
            error["param"].clone(),
        )
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told[0], ("unknown model", 404, json!("model")));
    assert_eq!(told[1], ("streamed", 400, json!("stream")));
    assert_eq!(told[2].0, "failing");
    // Nothing stays of the conversations that answered them.
    eventually(|| async {
        Ok(fixture.stored("images").is_empty() && open_batches(&fixture).await? == 0)
    })
    .await
}

#[tokio::test]
async fn a_line_tells_what_of_it_is_not_used_as_its_request_alone_would() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let mut request = json!({"model": "fake", "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Edema?"}]});
    request["tools"] = json!([{"type": "function", "function": {"name": "clock"}}]);
    let alone = gateway.post(ENDPOINT, &request).await?;
    let told = alone.headers()["radialog-warning"].to_str()?.to_owned();
    assert!(
        told.contains("tools") && told.contains("messages[0]"),
        "{told}"
    );

    let mut failing = request.clone();
    failing["messages"][1]["content"] = json!(format!("This {FAILS}."));
    let lines = [
        line("warned", &request),
        question("plain", "Edema?"),
        line("failing", &failing),
    ];
    let path = begin(gateway, jsonl(&lines)).await?;
    let view = ended(gateway, &path, "completed").await?;
    let answers = lines_of(gateway, &view["output_file_id"]).await?;
    assert_eq!(answers[0]["response"]["radialog_warning"], told.as_str());
    let plain = answers[1]["response"].as_object().context("no response")?;
    assert!(!plain.contains_key("radialog_warning"), "{plain:?}");
    let faults = lines_of(gateway, &view["error_file_id"]).await?;
    assert_eq!(faults[0]["response"]["radialog_warning"], told.as_str());
    Ok(())
}

pub(super) async fn open_batches(fixture: &GatewayFixture) -> Result<usize> {
    let objects = &fixture.backends.objects;
    let page = objects
        .list(ObjectKey::OPEN_REQUEST_BATCHES, None, 10)
        .await?;
    Ok(page.entries.len())
}

#[tokio::test]
async fn what_is_wrong_with_an_input_is_told_by_line_and_nothing_is_answered() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let mut elsewhere = question("elsewhere", "x");
    elsewhere["url"] = json!("/v1/embeddings");
    let content = [
        question("same", "x").to_string(),
        String::new(),
        "{\"custom_id\": ".to_owned(),
        question("same", "y").to_string(),
        elsewhere.to_string(),
    ];
    let path = begin(gateway, content.join("\n")).await?;
    let view = ended(gateway, &path, "failed").await?;
    let faults = view["errors"]["data"].as_array().context("no faults")?;
    let told: Vec<_> = faults
        .iter()
        .map(|fault| (fault["line"].as_u64().unwrap(), fault["param"].as_str()))
        .collect();
    assert_eq!(
        told,
        [(3, None), (4, Some("custom_id")), (5, Some("url"))],
        "{view}"
    );
    assert_eq!(view["output_file_id"], Value::Null);
    let empty = begin(gateway, "\n\n".to_owned()).await?;
    let view = ended(gateway, &empty, "failed").await?;
    assert_eq!(view["errors"]["data"][0]["line"], Value::Null);
    eventually(|| async { Ok(open_batches(&fixture).await? == 0) }).await
}

#[tokio::test]
async fn requests_that_cannot_be_done_are_refused_by_name() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let file = uploaded(gateway, jsonl(&[question("a", "x")])).await?;
    let with = |field: &str, value: Value| {
        let mut request = asked(&file);
        request[field] = value;
        request
    };
    for (request, status, param) in [
        (with("input_file_id", json!("file-0")), 404, "input_file_id"),
        (with("endpoint", json!("/v1/embeddings")), 400, "endpoint"),
        (
            with("completion_window", json!("7d")),
            400,
            "completion_window",
        ),
        (
            with("output_expires_after", json!({"seconds": 3600})),
            400,
            "output_expires_after",
        ),
        (
            with("metadata", json!({"long": "x".repeat(513)})),
            400,
            "metadata",
        ),
    ] {
        let response = gateway.post("/v1/batches", &request).await?;
        assert_eq!(response.status(), status, "{param}");
        let body: Value = response.json().await?;
        assert_eq!(body["error"]["param"], param, "{body}");
    }
    let form = |purpose: &str| Form::new().text("purpose", purpose.to_owned());
    let part = || Part::bytes(b"{}".to_vec()).file_name("x");
    for (form, param) in [
        (form("fine-tune").part("file", part()), "purpose"),
        (form("batch"), "file"),
        (
            form("batch").part("file", part()).part("file", part()),
            "file",
        ),
        (
            form("batch").part("file", Part::bytes(Vec::new()).file_name("x")),
            "file",
        ),
        (
            form("batch")
                .text("expires_after[seconds]", "3600")
                .part("file", part()),
            "expires_after[seconds]",
        ),
    ] {
        let response = gateway
            .ask(Method::POST, "/v1/files")
            .multipart(form)
            .send()
            .await?;
        assert_eq!(response.status(), 400, "{param}");
        let body: Value = response.json().await?;
        assert_eq!(body["error"]["param"], param, "{body}");
    }
    // Of what was refused nothing stays.
    let stored = fixture
        .backends
        .objects
        .list(ObjectKey::REQUEST_FILES, None, 10)
        .await?;
    assert_eq!(stored.entries.len(), 2, "{:?}", stored.entries);
    Ok(())
}

#[tokio::test]
async fn files_and_batches_are_their_owners_alone_and_come_in_pages() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.keys = vec![key("ward", "one"), key("lab", "two")]
    })
    .await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("one"),
        fixture.gateway.as_owner("two"),
    );
    let mut paths = Vec::new();
    for number in 0..3 {
        let path = begin(&ward, jsonl(&[question(&number.to_string(), "x")])).await?;
        ended(&ward, &path, "completed").await?;
        paths.push(path);
    }
    let id = |path: &String| path.rsplit('/').next().unwrap().to_owned();
    let page = ward.view("/v1/batches?limit=2").await?;
    let ids = |page: &Value| -> Vec<String> {
        let entries = page["data"].as_array().unwrap().iter();
        entries
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&page), [id(&paths[2]), id(&paths[1])]);
    assert_eq!(page["has_more"], true);
    let after = page["last_id"].as_str().unwrap();
    let rest = ward
        .view(&format!("/v1/batches?limit=2&after={after}"))
        .await?;
    assert_eq!(
        (ids(&rest), &rest["has_more"]),
        (vec![id(&paths[0])], &json!(false))
    );
    let files = ward.view("/v1/files?purpose=batch&order=asc").await?;
    assert_eq!(ids(&files).len(), 3);
    assert_eq!(
        ids(&ward.view("/v1/files").await?).len(),
        6,
        "with the outputs"
    );
    assert!(ids(&lab.view("/v1/batches").await?).is_empty());
    assert!(ids(&lab.view("/v1/files").await?).is_empty());
    let file = &ids(&files)[0];
    for path in [
        paths[0].clone(),
        format!("/v1/files/{file}"),
        format!("/v1/files/{file}/content"),
    ] {
        assert_eq!(lab.get(&path).await?.status(), 404, "{path}");
    }
    let taken = lab.post("/v1/batches", &asked(file)).await?;
    assert_eq!(taken.status(), 404);
    assert_eq!(lab.delete(&format!("/v1/files/{file}")).await?, 404);
    assert_eq!(ward.delete(&format!("/v1/files/{file}")).await?, 200);
    assert_eq!(ward.get(&format!("/v1/files/{file}")).await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn another_gateway_goes_on_where_one_has_stopped_and_no_line_comes_twice() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |_| {}).await?;
    let lines: Vec<Value> = (0..80)
        .map(|number| match number {
            // In the second piece, so that the first one is written and stays.
            40 => question("40", &format!("This {BLOCKS}.")),
            number => question(&number.to_string(), "x"),
        })
        .collect();
    let first = RunningGateway::start(&fixture.backends, |_| {}).await?;
    let path = begin(&first, jsonl(&lines)).await?;
    let is_begun = |view: &Value| view["request_counts"]["completed"].as_u64() >= Some(32);
    when(&first, &path, is_begun).await?;
    let is_blocked = || async { Ok(fixture.language_worker.blocked() > 0) };
    waiting::until("no line is blocked", TIMEOUT, is_blocked).await?;
    // Either of the two gateways may work on it; both are stopped.
    let GatewayFixture {
        backends,
        gateway,
        language_worker,
        ..
    } = fixture;
    first.stop().await?;
    gateway.stop().await?;
    let last = RunningGateway::start(&backends, |_| {}).await?;
    language_worker.unblock();
    let view = ended(&last, &path, "completed").await?;
    assert_eq!(view["request_counts"]["completed"], 80, "{view}");
    let answers = lines_of(&last, &view["output_file_id"]).await?;
    let ids: Vec<u64> = answers
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, (0..80).collect::<Vec<u64>>());
    let names: BTreeSet<String> = answers.iter().map(|line| line["id"].to_string()).collect();
    assert_eq!(names.len(), 80);
    Ok(())
}

#[tokio::test]
async fn a_batch_is_cancelled_paused_and_resumed_at_another_gateway() -> Result<()> {
    // Nothing is answered until words are allowed.
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let (one, other) = (
        &fixture.gateway,
        RunningGateway::start(&fixture.backends, |_| {}).await?,
    );
    let lines: Vec<Value> = (0..64)
        .map(|number| question(&number.to_string(), "x"))
        .collect();
    let in_progress = |view: &Value| view["status"] == "in_progress";
    let tell = async |path: &str, what: &str| -> Result<Value> {
        let told = other.post(&format!("{path}/{what}"), &json!({})).await?;
        Ok(told.error_for_status()?.json().await?)
    };

    let path = begin(one, jsonl(&lines)).await?;
    when(one, &path, in_progress).await?;
    assert_eq!(tell(&path, "cancel").await?["status"], "cancelling");
    let view = ended(one, &path, "cancelled").await?;
    assert_eq!(
        view["request_counts"],
        json!({"total": 64, "completed": 0, "failed": 0})
    );
    assert_eq!(view["output_file_id"], Value::Null);
    assert_eq!(
        tell(&path, "pause").await?["paused"],
        false,
        "what has ended stays as it is"
    );

    let path = begin(one, jsonl(&lines)).await?;
    when(one, &path, in_progress).await?;
    assert_eq!(tell(&path, "pause").await?["paused"], true);
    fixture.language_worker.allow(UNLIMITED);
    // What had begun is answered.
    let view = when(one, &path, |view| view["request_counts"]["completed"] == 32).await?;
    assert_eq!(
        (&view["status"], &view["paused"]),
        (&json!("in_progress"), &json!(true))
    );
    assert_eq!(tell(&path, "resume").await?["paused"], false);
    let view = ended(one, &path, "completed").await?;
    assert_eq!(lines_of(one, &view["output_file_id"]).await?.len(), 64);
    Ok(())
}
