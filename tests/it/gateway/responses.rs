//! Responses in OpenAI's format: kept, followed, resumed, gone on from, cancelled and removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_schemas::{Ask, ConversationId};
use radialog_tests::waiting;
use reqwest::Method;
use serde_json::{Value, json};

use super::fake_language_worker::{LEAD, LEADS, answer};
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, data_uri, xray};
use super::sse::{SseEvent, SseStream};

mod faults;
mod keys;

const PATH: &str = "/v1/responses";
const TIMEOUT: Duration = Duration::from_secs(20);

fn asked(input: &str) -> Value {
    json!({"model": "fake", "input": input})
}

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

fn image() -> Value {
    json!({"type": "input_image", "detail": "auto", "image_url": data_uri(&xray())})
}

/// The report of the X-ray.
fn report() -> Value {
    json!({"model": "fake", "input": [{"role": "user", "content": [image()]}]})
}

async fn create(gateway: &RunningGateway, request: &Value) -> Result<Value> {
    let response = gateway.post(PATH, request).await?;
    ensure!(response.status() == 200, "{}", response.text().await?);
    Ok(response.json().await?)
}

fn path_of(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().unwrap_or_default())
}

/// The response, once it has this status.
async fn when(gateway: &RunningGateway, path: &str, status: &str) -> Result<Value> {
    let look = || async {
        let response = gateway.view(path).await?;
        Ok((response["status"] == status).then_some(response))
    };
    waiting::found(&format!("{path} is not {status}"), TIMEOUT, look).await
}

fn said(events: &[SseEvent]) -> Vec<(String, Value)> {
    let events = events.iter().filter(|event| event.name != "comment");
    events
        .map(|event| (event.name.clone(), event.data.clone()))
        .collect()
}

/// The steps behind this one.
async fn resumed(
    gateway: &RunningGateway,
    path: &str,
    after: Option<usize>,
) -> Result<Vec<(String, Value)>> {
    let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
    let stream = gateway.get(&format!("{path}?stream=true{after}")).await?;
    Ok(said(&SseStream::new(stream).rest().await?))
}

/// What is behind a response.
async fn behind(fixture: &GatewayFixture, response: &Value) -> Result<ConversationSnapshot> {
    let id = response["id"].as_str().context("no id")?;
    let id = ConversationId::from(id.trim_start_matches("resp_"));
    let snapshot = fixture.backends.conversations.snapshot(&id).await?;
    snapshot.context("no conversation")
}

async fn turn(fixture: &GatewayFixture, response: &Value) -> Result<TurnSnapshot> {
    let mut turns = behind(fixture, response).await?.turns;
    turns.pop().context("no turn")
}

#[tokio::test]
async fn a_response_is_answered_and_kept_until_it_is_deleted() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let request = with(report(), "metadata", json!({"ward": "7"}));
    let response = create(gateway, &request).await?;
    assert_eq!(
        (&response["object"], &response["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(response["metadata"], json!({"ward": "7"}));
    let message = &response["output"][0];
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["content"][0]["type"], "output_text");
    assert_eq!(message["content"][0]["text"], answer(&Ask::Report));
    assert_eq!(response["usage"]["input_tokens"], 50);
    assert_eq!(
        response["usage"]["input_tokens_details"]["cached_tokens"],
        10
    );
    let path = path_of(&response);
    assert_eq!(gateway.view(&path).await?, response);
    let list = gateway.view("/v1/conversations").await?;
    assert_eq!(list, json!({"conversations": []}));

    assert_eq!(gateway.delete(&path).await?, 200);
    assert_eq!(gateway.get(&path).await?.status(), 404);
    for kind in ["images", "embedding", "findings"] {
        assert_eq!(fixture.stored(kind), Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn what_was_asked_is_listed_in_pages_with_the_image_where_it_is_wanted() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let words = |role: &str, text: &str| json!({"role": role, "content": text});
    let picture =
        json!({"role": "user", "content": [{"type": "input_text", "text": "Edema?"}, image()]});
    let input = json!([picture, words("assistant", "No."), words("user", "Sure?")]);
    let response = create(gateway, &json!({"model": "fake", "input": input})).await?;
    let path = format!("{}/input_items", path_of(&response));
    let all = gateway.view(&path).await?;
    let items = all["data"].as_array().context("no items")?;
    let roles: Vec<&Value> = items.iter().map(|item| &item["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert_eq!(items[0]["content"][0]["text"], "Sure?");
    assert_eq!(items[1]["content"][0]["type"], "output_text");
    assert_eq!(items[2]["content"][1]["image_url"], Value::Null);

    let first = gateway.view(&format!("{path}?order=asc&limit=2")).await?;
    assert_eq!(first["has_more"], true);
    let last = first["last_id"].as_str().context("no last one")?;
    let rest = format!("{path}?order=asc&after={last}&include[]=message.input_image.image_url");
    let rest = gateway.view(&rest).await?;
    assert_eq!(rest["data"][0], items[0]);
    assert_eq!(rest["has_more"], false);
    let whole = format!("{path}?include[]=message.input_image.image_url");
    let whole = gateway.view(&whole).await?;
    assert_eq!(
        whole["data"][2]["content"][1]["image_url"],
        data_uri(&xray())
    );
    for wrong in ["limit=0", "limit=x", "order=up", "after=msg_x", "color=red"] {
        let refused = gateway.get(&format!("{path}?{wrong}")).await?;
        assert_eq!(refused.status(), 400, "{wrong}");
        let body: Value = refused.json().await?;
        assert_eq!(
            body["error"]["param"],
            wrong.split('=').next().unwrap_or_default()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_has_the_same_steps_wherever_and_whenever_it_is_read() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let other = RunningGateway::start(&fixture.backends, |_| {}).await?;
    let request = with(report(), "stream", json!(true));
    let stream = SseStream::new(fixture.gateway.post(PATH, &request).await?);
    let live = said(&stream.rest().await?);
    for (number, (name, data)) in live.iter().enumerate() {
        assert_eq!(data["sequence_number"], number);
        assert_eq!(data["type"], name.as_str());
    }
    let names: Vec<&str> = live.iter().map(|(name, _)| name.as_str()).collect();
    let deltas = "response.output_text.delta";
    let mut steps = names.clone();
    steps.dedup();
    let expected = [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(steps, expected);
    let text: String = live
        .iter()
        .filter_map(|(_, data)| data["delta"].as_str())
        .collect();
    assert_eq!(text, answer(&Ask::Report));
    let end = &live.last().context("no end")?.1["response"];
    let path = path_of(end);
    assert_eq!(other.view(&path).await?, *end);
    assert_eq!(resumed(&other, &path, None).await?, live);
    for after in 0..live.len() {
        let rest = resumed(&other, &path, Some(after)).await?;
        assert_eq!(rest, live[after + 1..], "after {after}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_does_not_go_on_after_an_event_that_nobody_has_read() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let request = with(asked("one two"), "background", json!(true));
    let path = path_of(&create(gateway, &request).await?);
    when(gateway, &path, "in_progress").await?;
    let refused = async |after: usize| -> Result<Value> {
        let asked = format!("{path}?stream=true&starting_after={after}");
        let response = gateway.get(&asked).await?;
        ensure!(response.status() == 400, "after {after}: {response:?}");
        let body: Value = response.json().await?;
        Ok(body["error"]["param"].clone())
    };
    // Of one that is being written, whose end would be left out.
    assert_eq!(refused(99_999).await?, "starting_after");
    fixture.language_worker.allow(UNLIMITED);
    when(gateway, &path, "completed").await?;
    let events = resumed(gateway, &path, None).await?.len();
    assert_eq!(refused(events).await?, "starting_after");
    assert!(resumed(gateway, &path, Some(events - 1)).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_background_response_is_there_at_once_and_ends_without_its_client() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let request = with(asked("one two"), "background", json!(true));
    let response = create(gateway, &request).await?;
    assert_eq!(response["output"], json!([]));
    assert_eq!(response["background"], true);
    let path = path_of(&response);
    when(gateway, &path, "in_progress").await?;
    fixture.language_worker.allow(UNLIMITED);
    let end = when(gateway, &path, "completed").await?;
    assert_eq!(end["output"][0]["content"][0]["text"], "You asked: one two");
    let again = gateway.post(&format!("{path}/cancel"), &json!({})).await?;
    assert_eq!(again.json::<Value>().await?, end, "an end stays as it is");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_response_keeps_what_was_written_and_its_stream_says_so() -> Result<()> {
    let fixture = GatewayFixture::with(2, |_| {}).await?;
    let gateway = &fixture.gateway;
    let request = with(asked("one two"), "background", json!(true));
    let request = with(request, "stream", json!(true));
    let mut stream = SseStream::new(gateway.post(PATH, &request).await?);
    let created = stream.until("response.created").await?;
    let path = path_of(&created.data["response"]);
    stream.until("response.output_text.delta").await?;
    stream.until("response.output_text.delta").await?;
    let (cancel, nothing) = (format!("{path}/cancel"), json!({}));
    let next_word = async {
        // The worker waits for another word, and is told with it.
        let is_cancelling =
            || async { Ok(turn(&fixture, &created.data["response"]).await?.cancelling) };
        waiting::until("nobody cancels it", TIMEOUT, is_cancelling).await?;
        fixture.language_worker.allow(1);
        anyhow::Ok(())
    };
    let (cancelled, told) = tokio::join!(gateway.post(&cancel, &nothing), next_word);
    told?;
    let cancelled: Value = cancelled?.json().await?;
    assert_eq!(cancelled["status"], "cancelled");
    let text = cancelled["output"][0]["content"][0]["text"].clone();
    assert_eq!(text, "You asked: one ", "{cancelled}");
    let rest = said(&stream.rest().await?);
    let (name, end) = rest.last().context("no end")?;
    assert_eq!(
        (name.as_str(), &end["response"]),
        ("response.failed", &cancelled)
    );
    assert_eq!(gateway.view(&path).await?, cancelled);

    fixture.language_worker.allow(UNLIMITED);
    let waited = create(gateway, &report()).await?;
    let refused = gateway
        .post(&format!("{}/cancel", path_of(&waited)), &json!({}))
        .await?;
    assert_eq!(refused.status(), 400, "somebody waits for that one");
    Ok(())
}

#[tokio::test]
async fn a_response_goes_on_from_any_other_one_with_a_copy_of_what_was_before() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let follow = |text: &str, previous: &Value| {
        with(asked(text), "previous_response_id", previous["id"].clone())
    };
    let first = create(gateway, &report()).await?;
    let findings = behind(&fixture, &first).await?.prepared;
    let second = create(gateway, &follow("Is there edema?", &first)).await?;
    assert_eq!(second["previous_response_id"], first["id"]);
    // Two that go on from one, and one that goes on where the first has gone.
    let third = create(gateway, &follow("Are you sure?", &second)).await?;
    assert_eq!(gateway.delete(&path_of(&first)).await?, 200);
    let fork = create(gateway, &follow("And effusion?", &second)).await?;
    for (last, question) in [(&third, "Are you sure?"), (&fork, "And effusion?")] {
        let text = &last["output"][0]["content"][0]["text"];
        assert_eq!(*text, format!("You asked: {question}"));
        let snapshot = behind(&fixture, last).await?;
        // The fake stages would find something else in another conversation.
        assert_eq!(snapshot.prepared, findings, "computed, not copied");
        let behind = snapshot.conversation;
        let before: Vec<_> = behind
            .opening
            .iter()
            .map(|said| {
                (
                    said.task.clone(),
                    said.user.as_str(),
                    said.assistant.as_str(),
                )
            })
            .collect();
        let report = answer(&Ask::Report);
        let expected = [
            (Some(Ask::Report), "", report.as_str()),
            (None, "Is there edema?", "You asked: Is there edema?"),
        ];
        assert_eq!(before, expected);
        let image = behind.image.context("no image")?;
        assert_eq!(fixture.backends.objects.get(&image.image).await?, xray());
    }
    assert_eq!(fixture.stored("images").len(), 3);
    let gone = gateway.post(PATH, &follow("x", &first)).await?;
    assert_eq!(gone.status(), 404);
    let body: Value = gone.json().await?;
    assert_eq!(body["error"]["param"], "previous_response_id");
    let twice = with(report(), "previous_response_id", second["id"].clone());
    let twice = gateway.post(PATH, &twice).await?;
    let status = twice.status();
    let body: Value = twice.json().await?;
    assert_eq!(
        (status.as_u16(), &body["error"]["param"]),
        (400, &json!("input"))
    );
    Ok(())
}

#[tokio::test]
async fn a_response_goes_on_from_what_the_model_wrote_white_space_in_front_of_it_included()
-> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let question = format!("It {LEADS}.");
    let first = create(gateway, &asked(&question)).await?;
    let words = format!("You asked: {question}");
    assert_eq!(first["output"][0]["content"][0]["text"], words);
    let follow = with(asked("x"), "previous_response_id", first["id"].clone());
    let second = create(gateway, &follow).await?;
    let opening = behind(&fixture, &second).await?.conversation.opening;
    assert_eq!(opening[0].assistant, format!("{LEAD}{words}"));
    Ok(())
}

#[tokio::test]
async fn a_response_without_an_answer_cannot_be_gone_on_from() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let open = create(gateway, &with(asked("x"), "background", json!(true))).await?;
    let request = with(asked("y"), "previous_response_id", open["id"].clone());
    let early = gateway.post(PATH, &request).await?;
    assert_eq!(early.status(), 400);
    fixture.language_worker.allow(UNLIMITED);
    when(gateway, &path_of(&open), "completed").await?;
    assert_eq!(create(gateway, &request).await?["status"], "completed");
    let failed = create(gateway, &asked("This fails.")).await?;
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["error"]["code"], "server_error");
    let request = with(asked("y"), "previous_response_id", failed["id"].clone());
    assert_eq!(gateway.post(PATH, &request).await?.status(), 400);
    Ok(())
}

#[tokio::test]
async fn a_response_that_is_not_kept_ends_with_its_answer() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let response = create(gateway, &with(report(), "store", json!(false))).await?;
    assert_eq!(
        (&response["status"], &response["store"]),
        (&json!("completed"), &json!(false))
    );
    assert_eq!(gateway.get(&path_of(&response)).await?.status(), 404);
    let is_clean = || async { Ok(fixture.stored("images").is_empty()) };
    waiting::until("its image stays", TIMEOUT, is_clean).await?;
    let kept = create(gateway, &report()).await?;
    let request = with(asked("x"), "previous_response_id", kept["id"].clone());
    let request = with(request, "store", json!(false));
    assert_eq!(create(gateway, &request).await?["status"], "completed");
    let background = with(
        with(asked("x"), "store", json!(false)),
        "background",
        json!(true),
    );
    assert_eq!(gateway.post(PATH, &background).await?.status(), 400);
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_response_to_end() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let gateway = &fixture.gateway;
    let request = gateway
        .ask(Method::POST, PATH)
        .header("Idempotency-Key", "left")
        .json(&asked("one two"));
    let waiting = tokio::spawn(request.send());
    // It is there once a worker has begun it.
    let conversations = &fixture.backends.conversations;
    let is_begun = || async { Ok(!conversations.begun_before(u64::MAX).await?.is_empty()) };
    waiting::until("no worker begins it", TIMEOUT, is_begun).await?;
    waiting.abort();
    fixture.language_worker.allow(UNLIMITED);
    let again = gateway
        .ask(Method::POST, PATH)
        .header("Idempotency-Key", "left")
        .json(&asked("one two"));
    let response: Value = again.send().await?.json().await?;
    assert_eq!(response["status"], "completed");
    assert_eq!(
        fixture
            .backends
            .conversations
            .begun_before(u64::MAX)
            .await?
            .len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn what_is_refused_names_its_field_in_openais_format() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let picture = |url: &str| {
        let part = json!({"type": "input_image", "image_url": url});
        with(
            asked(""),
            "input",
            json!([{"role": "user", "content": [part]}]),
        )
    };
    for (request, status, code, param) in [
        (
            with(asked("x"), "model", json!("gpt-4o")),
            404,
            "model_not_found",
            "model",
        ),
        (
            with(asked("x"), "instructions", json!("Rhyme.")),
            400,
            "invalid_request",
            "instructions",
        ),
        (
            with(asked("x"), "magic", json!(1)),
            400,
            "invalid_request",
            "magic",
        ),
        (asked(""), 400, "text_empty", "input"),
        (picture("https://host/x.png"), 400, "remote_url", "input"),
        (
            picture(&data_uri(b"GIF89a")),
            415,
            "image_format_unsupported",
            "input",
        ),
        (
            with(asked("x"), "previous_response_id", json!("resp_x")),
            404,
            "not_found",
            "previous_response_id",
        ),
    ] {
        let response = fixture.gateway.post(PATH, &request).await?;
        let found = response.status().as_u16();
        let body: Value = response.json().await?;
        let error = &body["error"];
        assert_eq!((found, &error["code"]), (status, &json!(code)), "{body}");
        assert_eq!(
            (&error["param"], error["message"].is_string()),
            (&json!(param), true)
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
    Ok(())
}
