//! Chat completions in OpenAI's format.

use std::time::Duration;

use anyhow::{Context, Result};
use radialog_runtime::clock;
use radialog_schemas::{Ask, Generation, TurnRequest};
use radialog_tests::waiting;
use serde_json::{Value, json};

use super::fake_language_worker::answer;
use super::fixture::{GatewayFixture, UNLIMITED, data_uri, key, xray};
use super::sse::SseStream;

const PATH: &str = "/v1/chat/completions";

fn image() -> Value {
    json!({"type": "image_url", "image_url": {"url": data_uri(&xray())}})
}

fn asked(content: Value) -> Value {
    json!({"model": "fake", "messages": [{"role": "user", "content": content}]})
}

fn streamed(mut request: Value) -> Value {
    request["stream"] = json!(true);
    request
}

/// The seconds since 1970, as answers tell them.
fn now() -> u64 {
    clock::now_ms() / 1000
}

/// The data of all events up to `[DONE]`, which must be there.
async fn chunks(fixture: &GatewayFixture, request: &Value) -> Result<Vec<Value>> {
    let events = SseStream::new(fixture.gateway.post(PATH, request).await?)
        .rest()
        .await?;
    let mut data: Vec<Value> = events
        .into_iter()
        .filter(|event| event.name != "comment")
        .map(|event| event.data)
        .collect();
    anyhow::ensure!(data.pop() == Some(json!("[DONE]")));
    Ok(data)
}

fn content(chunks: &[Value]) -> String {
    let pieces = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    pieces.collect()
}

/// Waits until nothing of any conversation is left.
async fn nothing_is_kept(fixture: &GatewayFixture) -> Result<()> {
    let is_clean = || async {
        let turns = fixture.backends.conversations.waiting().await?;
        Ok(turns == 0 && fixture.stored("images").is_empty())
    };
    waiting::until("something was kept", Duration::from_secs(60), is_clean).await
}

#[tokio::test]
async fn an_image_alone_is_answered_with_its_report_and_nothing_is_kept() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let before = now();
    let response = fixture.gateway.post(PATH, &asked(json!([image()]))).await?;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await?;
    assert_eq!(body["object"], "chat.completion");
    let created = body["created"].as_u64().context("no time")?;
    assert!((before..=now()).contains(&created), "{created}");
    let choice = &body["choices"][0];
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": answer(&Ask::Report)})
    );
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens"], 50);
    let details = &body["usage"]["prompt_tokens_details"];
    assert_eq!(details["cached_tokens"], 10);
    assert_eq!(
        body["usage"]["total_tokens"].as_u64(),
        Some(50 + body["usage"]["completion_tokens"].as_u64().unwrap())
    );
    let list: Value = fixture
        .gateway
        .get("/v1/conversations")
        .await?
        .json()
        .await?;
    assert_eq!(list, json!({"conversations": []}));
    nothing_is_kept(&fixture).await
}

#[tokio::test]
async fn a_streamed_answer_comes_in_chunks_with_its_usage_where_asked_for() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let mut request = streamed(asked(json!("one two three")));
    let before = now();
    let plain = chunks(&fixture, &request).await?;
    assert_eq!(content(&plain), "You asked: one two three");
    let created = plain[0]["created"].as_u64().context("no time")?;
    assert!((before..=now()).contains(&created), "{created}");
    assert!(plain.iter().all(|chunk| chunk["created"] == created));
    assert_eq!(
        plain[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(plain.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(
        plain.iter().all(
            |chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == plain[0]["id"]
        )
    );
    request["stream_options"] = json!({"include_usage": true});
    let counted = chunks(&fixture, &request).await?;
    let last = counted.last().unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["prompt_tokens"]),
        (&json!([]), &json!(50))
    );
    nothing_is_kept(&fixture).await
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_answer() -> Result<()> {
    let fixture = GatewayFixture::with(1, |_| {}).await?;
    let mut reader = SseStream::new(
        fixture
            .gateway
            .post(PATH, &streamed(asked(json!([image()]))))
            .await?,
    );
    while reader.next().await?.context("the stream ended")?.data["choices"][0]["delta"]["content"]
        != "The "
    {}
    drop(reader);
    nothing_is_kept(&fixture).await?;
    let request = fixture
        .gateway
        .ask(reqwest::Method::POST, PATH)
        .json(&asked(json!([image()])));
    let abandoned = tokio::time::timeout(Duration::from_millis(500), request.send()).await;
    assert!(abandoned.is_err(), "no word was allowed");
    nothing_is_kept(&fixture).await
}

#[tokio::test]
async fn models_are_listed_by_the_bundles_name() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let list: Value = fixture.gateway.get("/v1/models").await?.json().await?;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    let model = &list["data"][0];
    for (field, value) in [
        ("id", json!("fake")),
        ("object", json!("model")),
        ("created", json!(0)),
        ("owned_by", json!("radialog")),
        ("adapter", json!(null)),
    ] {
        assert_eq!(model[field], value, "{model}");
    }
    let mut alias = asked(json!("x"));
    alias["model"] = json!("radialog");
    assert_eq!(fixture.gateway.post(PATH, &alias).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn errors_have_openais_format() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.keys = vec![key("ward", "rd-ward")]
    })
    .await?;
    let ward = fixture.gateway.as_owner("rd-ward");
    let with = |field: &str, value: Value| {
        let mut request = asked(json!("x"));
        request[field] = value;
        request
    };
    let remote = json!([{"type": "image_url", "image_url": {"url": "https://host/x.png"}}]);
    for (request, status, code) in [
        (asked(remote), 400, "remote_url"),
        (
            asked(json!([{"type": "image_url", "image_url": {"url": data_uri(b"GIF89a")}}])),
            415,
            "image_format_unsupported",
        ),
        (asked(json!("")), 400, "text_empty"),
        (
            asked(json!("x".repeat(100_000))),
            400,
            "string_above_max_length",
        ),
        (asked(json!("This fails.")), 500, "model"),
        (with("model", json!("gpt-4o")), 404, "model_not_found"),
        (with("n", json!(2)), 400, "invalid_request"),
        (with("temperature", json!(3)), 400, "invalid_request"),
        (
            with("tools", json!([{"type": "function"}])),
            400,
            "invalid_request",
        ),
        (with("messages", json!([])), 400, "invalid_request"),
        (with("top_k", json!(5)), 400, "invalid_request"),
        (
            with("functions", json!([{"name": "f"}])),
            400,
            "invalid_request",
        ),
        (
            with("messages", json!([{"role": "wizard", "content": "x"}])),
            400,
            "invalid_request",
        ),
    ] {
        let response = ward.post(PATH, &request).await?;
        let found = response.status().as_u16();
        let body: Value = response.json().await?;
        assert_eq!(
            (found, &body["error"]["code"]),
            (status, &json!(code)),
            "{body}"
        );
        assert!(
            body["error"]["type"].is_string() && body["error"]["message"].is_string(),
            "{body}"
        );
        let param = &body["error"]["param"];
        match code {
            "model_not_found" => assert_eq!(param, "model"),
            "image_format_unsupported" => assert_eq!(param, "messages[0].content[0]"),
            "text_empty" => assert_eq!(param, "messages[0].content"),
            _ => {}
        }
    }
    let stranger = fixture.gateway.post(PATH, &asked(json!("x"))).await?;
    assert_eq!(stranger.status(), 401);
    let body: Value = stranger.json().await?;
    assert_eq!(body["error"]["type"], "authentication_error");
    assert_eq!(body["error"]["code"], "invalid_api_key");
    let failing = streamed(asked(json!("This fails.")));
    let events = SseStream::new(ward.post(PATH, &failing).await?)
        .rest()
        .await?;
    assert_eq!(events.last().unwrap().data["error"]["code"], "model");
    Ok(())
}

/// What clients send that their users did not ask for, and what they keep of an answer.
#[tokio::test]
async fn what_clients_send_by_default_changes_nothing() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let mut request = asked(json!("one two"));
    let defaults = json!({
        "response_format": {"type": "text"}, "stop": [], "n": 1, "tools": [], "tool_choice": "auto", "functions": null,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": false, "top_logprobs": null,
        "metadata": {}, "modalities": ["text"], "parallel_tool_calls": true, "priority": 0, "service_tier": "auto",
        "store": false, "user": "ward", "max_completion_tokens": 50, "deadline_seconds": 600, "verbosity": null, "top_p": 1,
    });
    for (field, value) in defaults.as_object().context("an object")? {
        request[field] = value.clone();
    }
    for empty in [json!(""), json!([])] {
        request["stop"] = empty;
        let response = fixture.gateway.post(PATH, &request).await?;
        anyhow::ensure!(response.status() == 200, "{}", response.text().await?);
    }
    request["messages"] = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "How can I help?"},
        {"role": "user", "content": "First.", "name": "ann"},
        {"role": "assistant", "content": null, "refusal": null, "annotations": [], "audio": null, "tool_calls": null,
         "function_call": null},
        {"role": "user", "content": [{"type": "text", "text": "one two"}]},
    ]);
    let response = fixture.gateway.post(PATH, &request).await?;
    let warning = response.headers()["radialog-warning"].to_str()?;
    assert!(warning.contains("not used: messages[2].name"), "{warning}");
    let body: Value = response.json().await?;
    assert_eq!(
        body["choices"][0]["message"]["content"], "You asked: one two",
        "{body}"
    );
    let one: Value = fixture.gateway.get("/v1/models/fake").await?.json().await?;
    let list: Value = fixture.gateway.get("/v1/models").await?.json().await?;
    assert_eq!(one, list["data"][0]);
    Ok(())
}

/// The turn that a completion with these fields is answered by.
async fn turn_of(fields: &Value) -> Result<TurnRequest> {
    // No word is answered, so that it is there for as long as it is looked for.
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let mut request = asked(json!("one two"));
    for (field, value) in fields.as_object().context("an object")? {
        request[field] = value.clone();
    }
    let conversations = &fixture.backends.conversations;
    let turn = || async {
        let Some(id) = conversations.begun_before(u64::MAX).await?.pop() else {
            return Ok(None);
        };
        let known = conversations.snapshot(&id).await?;
        Ok(known.and_then(|mut known| known.turns.pop()))
    };
    let looking = waiting::found("no turn", Duration::from_secs(60), turn);
    tokio::select! {
        turn = looking => Ok(turn?.request),
        answer = fixture.gateway.post(PATH, &request) => anyhow::bail!("it was answered: {answer:?}"),
    }
}

#[tokio::test]
async fn where_and_how_an_answer_is_written_reaches_its_turn() -> Result<()> {
    let sampled = Generation {
        max_new_tokens: 7,
        temperature: Some(0.5),
        top_p: Some(0.75),
        seed: 11,
        ..Generation::default()
    };
    let shorter = Generation {
        max_new_tokens: 9,
        ..Generation::default()
    };
    for (fields, stop, generation) in [
        (
            json!({"stop": "END", "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.75, "seed": 11}),
            &["END"][..],
            sampled,
        ),
        (
            json!({"stop": ["\n\n", "Q:"], "max_tokens": 9}),
            &["\n\n", "Q:"],
            shorter,
        ),
    ] {
        let turn = turn_of(&fields).await?;
        assert_eq!(turn.stop, stop, "{fields}");
        assert_eq!(turn.generation, generation, "{fields}");
    }
    Ok(())
}

#[tokio::test]
async fn tools_may_be_offered_and_none_is_called() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let mut request = asked(json!("one two"));
    request["tools"] = json!([{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]);
    for choice in [json!(null), json!("auto"), json!("none")] {
        request["tool_choice"] = choice;
        let response = fixture.gateway.post(PATH, &request).await?;
        assert_eq!(response.status(), 200);
        let warning = response.headers()["radialog-warning"].to_str()?.to_owned();
        assert!(warning.contains("calls none"), "{warning}");
        let body: Value = response.json().await?;
        let message = json!({"role": "assistant", "content": "You asked: one two"});
        assert_eq!(body["choices"][0]["message"], message);
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
    let named = json!({"type": "function", "function": {"name": "clock"}});
    for choice in [json!("required"), named] {
        request["tool_choice"] = choice;
        let response = fixture.gateway.post(PATH, &request).await?;
        assert_eq!(response.status(), 400);
        let body: Value = response.json().await?;
        assert_eq!(body["error"]["param"], "tool_choice", "{body}");
    }
    request["tool_choice"] = json!("auto");
    for tool in [
        json!({"type": "function"}),
        json!({"type": "web_search"}),
        json!("clock"),
    ] {
        request["tools"] = json!([request["tools"][0], tool]);
        let response = fixture.gateway.post(PATH, &request).await?;
        assert_eq!(response.status(), 400);
        let body: Value = response.json().await?;
        assert_eq!(body["error"]["param"], "tools[1]", "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_the_name_of_its_field() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let long = format!("data:image/png;base64,{}", "A".repeat(5000));
    for (param, value) in [
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!(["a", ""])),
        ("presence_penalty", json!(0.5)),
        ("logit_bias", json!({"50256": -100})),
        ("response_format.type", json!({"type": "json_object"})),
        ("response_format.foo", json!({"type": "text", "foo": 1})),
        ("response_format.type", json!({})),
        ("stream_options.foo", json!({"foo": true})),
        ("tool_choice", json!("required")),
        ("reasoning_effort", json!("low")),
        ("top_k", json!(40)),
        ("priority", json!(1)),
        ("store", json!(true)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(5000)),
        ("temperature", json!(2.5)),
        ("top_p", json!(0)),
        ("top_p", json!(0.9)),
        ("seed", json!(-1)),
        ("deadline_seconds", json!(0)),
        ("stream_options", json!({"include_usage": true})),
        (
            "messages[0].content[0]",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": long}]}]),
        ),
        (
            "messages[0].content[0]",
            json!([{"role": "user", "content": [{"type": "text", "text": "x", "foo": 1}]}]),
        ),
        (
            "messages[0].content[0]",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(&xray()), "foo": 1}}]}]),
        ),
        // A list has no named fields, in whatever order its values stand.
        (
            "messages[0].content[0]",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": [data_uri(&xray())]}]}]),
        ),
        (
            "messages[0].content[0]",
            json!([{"role": "user", "content": [["text", "x"]]}]),
        ),
        ("messages[0]", json!([["user", "x"]])),
        ("stream_options", json!([true])),
        ("response_format", json!(["text"])),
        (
            "messages[0].content",
            json!([{"role": "user", "content": 7}]),
        ),
        (
            "messages[1].tool_calls",
            json!([{"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, {"role": "user", "content": "y"}]),
        ),
        (
            "messages[0].weight",
            json!([{"role": "user", "content": "x", "weight": 1}]),
        ),
    ] {
        let mut request = asked(json!("x"));
        let field = if param.starts_with("messages") {
            "messages"
        } else {
            param.split('.').next().unwrap_or(param)
        };
        request[field] = value;
        let response = fixture.gateway.post(PATH, &request).await?;
        assert_eq!(response.status(), 400, "{param}");
        let error = response.json::<Value>().await?["error"].take();
        assert_eq!(error["param"], param, "{error}");
        let message = error["message"].as_str().context("a text")?;
        assert!(
            message.contains(param.split('.').next_back().unwrap_or(param)) && message.len() < 1000,
            "{message}"
        );
        for of_serde in ["struct", "enum", "sequence", "invalid"] {
            assert!(!message.contains(of_serde), "{message}");
        }
        if param.contains(".content") {
            assert!(message.contains("data:image/png;base64,..."), "{message}");
        }
    }
    for path in ["/v1/chat/nothing", "/v1/models/gpt-4o", "/v1/models/a/b"] {
        let response = fixture.gateway.get(path).await?;
        assert_eq!(response.status(), 404);
        let body: Value = response.json().await?;
        assert!(body["error"]["message"].is_string(), "{body}");
    }
    let response = fixture.gateway.get(PATH).await?;
    assert_eq!(response.status(), 405);
    assert!(response.json::<Value>().await?["error"]["message"].is_string());
    Ok(())
}
