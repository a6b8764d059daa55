//! Who may ask, how much, and what browsers are told.

use std::time::Duration;

use anyhow::Result;
use radialog_coordinator::BundleHashes;
use radialog_coordinator::gateway::GatewayConfig;
use radialog_coordinator::gateway::{Gateway, GatewayError};
use radialog_schemas::{ContentHash, PerStage};
use radialog_tests::embedded;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::waiting;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::fixture::{GatewayFixture, UNLIMITED, about_xray, key, problem};

/// Longer than a rate limit holds anybody up.
const SOON: Duration = Duration::from_secs(20);

/// Asks until the answer is none of a limit.
async fn until_within_limits(ask: impl Fn() -> RequestBuilder) -> Result<Response> {
    let look = || async {
        let response = ask().send().await?;
        Ok((response.status() != 429).then_some(response))
    };
    waiting::found("a limit refuses it", SOON, look).await
}

fn two_owners(config: &mut GatewayConfig) {
    config.keys = vec![key("ward", "rd-ward"), key("lab", "rd-lab")];
}

#[tokio::test]
async fn only_known_keys_may_ask_and_the_description_is_for_everybody() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, two_owners).await?;
    for stranger in [None, Some("rd-nobody"), Some("ward"), Some("")] {
        let mut request = fixture.gateway.ask(Method::GET, "/v1/conversations");
        if let Some(key) = stranger {
            request = request.bearer_auth(key);
        }
        let response = request.send().await?;
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(
            problem(response).await?,
            (401, "unauthorized".into(), None),
            "{stranger:?}"
        );
    }
    assert_eq!(
        fixture
            .gateway
            .as_owner("rd-ward")
            .get("/v1/conversations")
            .await?
            .status(),
        200
    );
    let document: Value = fixture.gateway.get("/openapi.json").await?.json().await?;
    assert_eq!(document["openapi"], "3.1.0");
    Ok(())
}

#[tokio::test]
async fn another_keys_conversation_is_not_there_in_any_way() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, two_owners).await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("rd-ward"),
        fixture.gateway.as_owner("rd-lab"),
    );
    let path = ward.begin(&about_xray()).await?;
    ward.view_when(&path, 1, "done").await?;
    let nobody = format!("/v1/conversations/{}", "0".repeat(32));
    for (method, below, body) in [
        (Method::GET, "", None),
        (Method::GET, "/image", None),
        (Method::GET, "/turns/1", None),
        (Method::GET, "/turns/1/events", None),
        (Method::POST, "/turns", Some(json!({"task": "summary"}))),
        (Method::PUT, "/turns/1/edit", Some(json!({"text": "x"}))),
        (Method::DELETE, "/turns/1/edit", None),
        (
            Method::PUT,
            "/turns/1/rating",
            Some(json!({"rating": "good"})),
        ),
        (Method::DELETE, "/turns/1/rating", None),
        (Method::PUT, "/title", Some(json!({"title": "x"}))),
        (Method::DELETE, "/turns/1", None),
        (Method::DELETE, "", None),
    ] {
        let mut answers = Vec::new();
        for conversation in [&path, &nobody] {
            let mut request = lab.ask(method.clone(), &format!("{conversation}{below}"));
            if let Some(body) = &body {
                request = request.json(body);
            }
            let response = request.send().await?;
            let mut headers: HeaderMap = response.headers().clone();
            headers.remove("date");
            answers.push((response.status(), headers, response.text().await?));
        }
        assert_eq!(answers[0].0, 404, "{method} {below}");
        assert_eq!(
            answers[0], answers[1],
            "{method} {below}: the answers tell the two apart"
        );
    }
    let list: Value = lab.get("/v1/conversations").await?.json().await?;
    assert_eq!(list, json!({"conversations": []}));
    assert_eq!(ward.view(&path).await?["turns"][0]["status"], "done");
    Ok(())
}

#[tokio::test]
async fn the_same_idempotency_key_of_another_owner_is_another_conversation() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, two_owners).await?;
    let mut ids = Vec::new();
    for owner in ["rd-ward", "rd-lab"] {
        let request = fixture
            .gateway
            .as_owner(owner)
            .ask(Method::POST, "/v1/conversations");
        let request = request
            .header("Idempotency-Key", "same")
            .json(&json!({"question": "x"}));
        let view: Value = request.send().await?.json().await?;
        ids.push(view["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up()
-> Result<()> {
    let limits = |config: &mut GatewayConfig| {
        two_owners(config);
        config.rate = 1;
        config.streams = 1;
    };
    let fixture = GatewayFixture::with(0, limits).await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("rd-ward"),
        fixture.gateway.as_owner("rd-lab"),
    );
    for _ in 0..2 {
        assert_eq!(ward.get("/v1/conversations").await?.status(), 200);
    }
    assert_eq!(
        problem(ward.get("/v1/conversations").await?).await?,
        (429, "rate_limited".into(), Some(1))
    );
    assert_eq!(lab.get("/v1/conversations").await?.status(), 200);
    let question = json!({"question": "x"});
    let begun =
        until_within_limits(|| ward.ask(Method::POST, "/v1/conversations").json(&question)).await?;
    assert_eq!(begun.status(), 202);
    let path = begun.headers()["location"].to_str()?.to_owned();
    let events = format!("{path}/turns/1/events");
    let stream = until_within_limits(|| ward.ask(Method::GET, &events)).await?;
    assert_eq!(stream.status(), 200);
    let refused = || async {
        let refusal = problem(ward.get(&events).await?).await?;
        Ok((refusal.1 != "rate_limited").then_some(refusal))
    };
    assert_eq!(
        waiting::found("the rate refuses it", SOON, refused).await?,
        (429, "too_many_requests".into(), Some(1))
    );
    drop(stream);
    let third = until_within_limits(|| ward.ask(Method::GET, &events)).await?;
    assert_eq!(third.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_full_queue_is_back_pressure_and_not_a_longer_queue() -> Result<()> {
    let fixture = GatewayFixture::with(0, |config| config.max_waiting = 2).await?;
    let path = fixture.gateway.begin(&json!({"question": "runs"})).await?;
    fixture.gateway.view_when(&path, 1, "running").await?;
    let turns = format!("{path}/turns");
    for _ in 0..2 {
        assert_eq!(
            fixture
                .gateway
                .post(&turns, &json!({"task": "summary"}))
                .await?
                .status(),
            202
        );
    }
    let refused = fixture
        .gateway
        .post(&turns, &json!({"task": "summary"}))
        .await?;
    assert_eq!(problem(refused).await?, (503, "busy".into(), Some(10)));
    let refused = fixture
        .gateway
        .post("/v1/conversations", &about_xray())
        .await?;
    assert_eq!(problem(refused).await?.1, "busy");
    assert_eq!(fixture.stored("images").len(), 0, "nothing of it is kept");
    fixture.language_worker.allow(UNLIMITED);
    fixture.gateway.view_when(&path, 3, "done").await?;
    assert_eq!(
        fixture
            .gateway
            .post(&turns, &json!({"task": "summary"}))
            .await?
            .status(),
        202
    );
    Ok(())
}

#[tokio::test]
async fn a_conversation_has_a_last_turn() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| config.max_turns = 2).await?;
    let path = fixture.gateway.begin(&json!({"question": "x"})).await?;
    let turns = format!("{path}/turns");
    assert_eq!(
        fixture
            .gateway
            .post(&turns, &json!({"task": "summary"}))
            .await?
            .status(),
        202
    );
    let refused = fixture
        .gateway
        .post(&turns, &json!({"task": "summary"}))
        .await?;
    assert_eq!(
        problem(refused).await?,
        (409, "conversation_full".into(), None)
    );
    Ok(())
}

#[tokio::test]
async fn without_keys_web_pages_of_others_and_other_names_of_this_machine_are_refused() -> Result<()>
{
    let fixture = GatewayFixture::start().await?;
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "evil.example")] {
        let response = fixture
            .gateway
            .ask(Method::GET, "/v1/conversations")
            .header(name, value)
            .send()
            .await?;
        assert_eq!(
            problem(response).await?,
            (403, "forbidden_origin".into(), None),
            "{name}"
        );
    }
    let own = fixture
        .gateway
        .ask(Method::GET, "/v1/conversations")
        .header("Origin", &fixture.gateway.url);
    assert_eq!(own.send().await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn cross_origin_requests_are_off_until_an_origin_is_listed() -> Result<()> {
    // What an edit and a second look at an image take, and what OpenAI's JavaScript client sends.
    const SENT: [&str; 17] = [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "last-event-id",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "x-stainless-arch",
        "x-stainless-helper-method",
        "x-stainless-lang",
        "x-stainless-os",
        "x-stainless-package-version",
        "x-stainless-retry-count",
        "x-stainless-runtime",
        "x-stainless-timeout",
    ];
    let preflight = |fixture: &GatewayFixture| {
        fixture
            .gateway
            .ask(Method::OPTIONS, "/v1/conversations")
            .header("Origin", "https://viewer.example")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", SENT.join(","))
            .send()
    };
    let closed = GatewayFixture::start().await?;
    assert_eq!(
        preflight(&closed)
            .await?
            .headers()
            .get("access-control-allow-origin"),
        None
    );
    let listed = |config: &mut GatewayConfig| {
        two_owners(config);
        config.origins = vec!["https://viewer.example".into()];
    };
    let open = GatewayFixture::with(UNLIMITED, listed).await?;
    let response = preflight(&open).await?;
    assert_eq!(
        response.headers()["access-control-allow-origin"],
        "https://viewer.example"
    );
    let taken = response.headers()["access-control-allow-headers"].to_str()?;
    for sent in SENT {
        assert!(taken.split(',').any(|name| name == sent), "{taken}");
    }
    // There are no cookies to send along.
    let credentials = "access-control-allow-credentials";
    assert_eq!(response.headers().get(credentials), None);
    // What pages are told to read.
    let models = open.gateway.ask(Method::GET, "/v1/models");
    let models = models.header("Origin", "https://viewer.example");
    let models = models.send().await?;
    let told = models.headers()["access-control-expose-headers"].to_str()?;
    for read in [
        "allow",
        "content-disposition",
        "etag",
        "location",
        "radialog-warning",
        "retry-after",
    ] {
        assert!(told.split(',').any(|name| name == read), "{told}");
    }
    let other = open
        .gateway
        .ask(Method::GET, "/v1/models")
        .header("Origin", "https://evil.example")
        .send()
        .await?;
    assert_eq!(other.headers().get("access-control-allow-origin"), None);
    Ok(())
}

#[tokio::test]
async fn every_answer_has_strict_headers() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    for path in [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/conversations",
        "/nothing",
    ] {
        let response = fixture.gateway.get(path).await?;
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str()?;
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{path}: {policy}"
        );
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
    }
    assert_eq!(
        fixture.gateway.get("/v1/conversations").await?.headers()["cache-control"],
        "no-store"
    );
    Ok(())
}

#[tokio::test]
async fn a_gateway_for_everybody_without_keys_and_one_on_a_busy_port_do_not_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let start = async |listen: &str| {
        let config = GatewayConfig {
            listen: listen.parse()?,
            ..GatewayConfig::default()
        };
        let bundle = BundleHashes {
            name: "fake".into(),
            bundle: ContentHash::of(b"fake bundle"),
            components: PerStage::from_fn(FakeStage::component_of),
        };
        let backends = embedded::backends(folder.path())?;
        anyhow::Ok(Gateway::bind(config, bundle, backends, CancellationToken::new()).await)
    };
    let open = start("0.0.0.0:0").await?.err().unwrap();
    assert!(
        matches!(open, GatewayError::Open(_)) && open.to_string().contains("new-key"),
        "{open}"
    );
    let first = start("127.0.0.1:0").await?.ok().unwrap();
    let taken = first.address()?;
    let busy = start(&taken.to_string()).await?.err().unwrap();
    let words = busy.to_string();
    let (_, named) = words
        .split_once("choose another one, e.g. --listen ")
        .unwrap();
    assert_ne!(named, taken.to_string());
    assert_eq!(
        named.parse::<std::net::SocketAddr>()?.ip(),
        taken.ip(),
        "{busy}"
    );
    Ok(())
}

#[tokio::test]
async fn requests_and_streams_are_counted() -> Result<()> {
    let fixture = GatewayFixture::with(0, |_| {}).await?;
    let path = fixture.gateway.begin(&json!({"question": "x"})).await?;
    let _reader = fixture.gateway.follow(&path, 1, None).await?;
    let text = radialog_runtime::metrics::metrics().render();
    for line in [
        "radialog_http_requests_total{method=\"POST\",route=\"/v1/conversations\",status=\"202\"}",
        "radialog_http_request_seconds_count{route=\"/v1/conversations/{id}/turns/{turn}/events\"}",
        "radialog_http_open_streams",
        "radialog_http_event_lag_seconds_count",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    Ok(())
}
