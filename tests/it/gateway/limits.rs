//! What silent, slow and greedy clients cannot do to the others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use radialog_coordinator::gateway::GatewayConfig;
use radialog_tests::waiting;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_language_worker::BLOCKS;
use super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, key, problem};

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

fn owners(config: &mut GatewayConfig) {
    config.keys = ["ward", "lab", "other"]
        .map(|name| key(name, &format!("rd-{name}")))
        .to_vec();
}

pub(super) async fn connect(gateway: &RunningGateway) -> Result<TcpStream> {
    Ok(TcpStream::connect(gateway.url.trim_start_matches("http://")).await?)
}

/// Whatever comes until the gateway ends the connection.
pub(super) async fn rest(mut socket: TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    // A connection that is cut may end with a reset.
    let reading = async {
        let _ = socket.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(SOON, reading)
        .await
        .context("the connection was not ended")?;
    Ok(answer)
}

/// A request with the head and all but the last byte of its body sent.
struct SlowUpload {
    socket: TcpStream,
}

impl SlowUpload {
    async fn begin(gateway: &RunningGateway, key: &str, path: &str, body: &[u8]) -> Result<Self> {
        let mut socket = connect(gateway).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&body[..body.len() - 1]).await?;
        Ok(Self { socket })
    }

    async fn end(mut self, body: &[u8]) -> Result<String> {
        self.socket.write_all(&body[body.len() - 1..]).await?;
        Ok(String::from_utf8(rest(self.socket).await?)?)
    }
}

/// Repeats until it is true.
pub(super) async fn eventually<F: Future<Output = Result<bool>>>(
    is: impl FnMut() -> F,
) -> Result<()> {
    waiting::until("it is not so", SOON, is).await
}

#[tokio::test]
async fn hundreds_of_silent_connections_do_not_make_the_gateway_unreachable() -> Result<()> {
    let few = |config: &mut GatewayConfig| {
        config.connections = 16;
        config.header_timeout = LONG;
        config.idle_timeout = LONG;
    };
    let fixture = GatewayFixture::with(0, few).await?;
    let path = fixture.gateway.begin(&json!({"question": "x"})).await?;
    let reader = fixture.gateway.follow(&path, 1, None).await?;
    let mut silent = Vec::new();
    for _ in 0..460 {
        silent.push(connect(&fixture.gateway).await?);
    }
    let fresh = reqwest::Client::new();
    let models = format!("{}/v1/models", fixture.gateway.url);
    assert_eq!(fresh.get(models).send().await?.status(), 200);
    assert_eq!(
        rest(silent.remove(0)).await?,
        b"",
        "the first has made room"
    );
    fixture.language_worker.allow(UNLIMITED);
    let events = reader.rest().await?;
    assert!(
        events.last().is_some_and(|event| event.name == "done"),
        "a stream makes no room"
    );
    Ok(())
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_its_senders_fault() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| {
        config.request_timeout = Duration::from_secs(1)
    })
    .await?;
    for path in ["/v1/conversations", "/v1/chat/completions"] {
        let mut socket = connect(&fixture.gateway).await?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        );
        socket.write_all(request.as_bytes()).await?;
        let answer = String::from_utf8(rest(socket).await?)?;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("slow_body"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_cut_and_a_slow_answer_is_not() -> Result<()> {
    let hasty = |config: &mut GatewayConfig| {
        config.header_timeout = Duration::from_millis(300);
        config.idle_timeout = Duration::from_millis(300);
    };
    let fixture = GatewayFixture::with(0, hasty).await?;
    let path = fixture.gateway.begin(&json!({"question": "x"})).await?;
    let reader = fixture.gateway.follow(&path, 1, None).await?;
    let mut slow = connect(&fixture.gateway).await?;
    slow.write_all(b"GET /v1/models HTTP/1.1\r\nHost: ").await?;
    assert_eq!(rest(slow).await?, b"");
    assert_eq!(rest(connect(&fixture.gateway).await?).await?, b"");
    fixture.language_worker.allow(UNLIMITED);
    let events = reader.rest().await?;
    assert!(events.last().is_some_and(|event| event.name == "done"));
    let mut kept = connect(&fixture.gateway).await?;
    kept.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await?;
    let answer = rest(kept).await?;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        answer.escape_ascii()
    );
    Ok(())
}

#[tokio::test]
async fn keys_that_upload_stay_within_the_memory_for_bodies_and_leave_room_for_texts() -> Result<()>
{
    const BODY: usize = 2 << 20;
    let small = |config: &mut GatewayConfig| {
        owners(config);
        config.max_image_bytes = 1 << 20;
        // Of 16 MiB uploads have 14, and each key has half of that: one of these bodies.
        config.body_memory = 16 << 20;
    };
    let fixture = GatewayFixture::with(UNLIMITED, small).await?;
    let body = json!({"question": 7, "more": "x".repeat(BODY)}).to_string();
    let send = async |name: &str| {
        let gateway = fixture.gateway.as_owner(name);
        let request = gateway.ask(reqwest::Method::POST, "/v1/conversations");
        let request = request.header("Content-Type", "application/json");
        problem(request.body(body.clone()).send().await?).await
    };
    let path = "/v1/conversations";
    let ward = SlowUpload::begin(&fixture.gateway, "rd-ward", path, body.as_bytes()).await?;
    eventually(|| async { Ok(send("rd-ward").await?.1 == "too_many_requests") }).await?;
    let lab = SlowUpload::begin(&fixture.gateway, "rd-lab", path, body.as_bytes()).await?;
    eventually(|| async { Ok(send("rd-lab").await?.1 == "too_many_requests") }).await?;
    assert_eq!(
        send("rd-other").await?,
        (503, "busy".into(), Some(2)),
        "the memory is used up"
    );
    for owner in ["rd-other", "rd-ward"] {
        let gateway = fixture.gateway.as_owner(owner);
        let path = gateway.begin(&json!({"question": "x"})).await?;
        gateway.view_when(&path, 1, "done").await?;
    }
    let refused = ward.end(body.as_bytes()).await?;
    assert!(refused.contains("invalid_request"), "{refused}");
    drop(lab);
    eventually(|| async { Ok(send("rd-other").await?.1 == "invalid_request") }).await
}

#[tokio::test]
async fn huge_requests_of_one_key_do_not_hold_up_another_keys_turn() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, owners).await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("rd-ward"),
        fixture.gateway.as_owner("rd-lab"),
    );
    // Four that are being sent, 15 MB each, and four as long as allowed that are being answered.
    let system = vec![json!({"role": "system", "content": "x".repeat(16_000)}); 940];
    let mut messages = system.clone();
    messages.push(json!({"role": "user", "content": "x"}));
    let huge = json!({"model": "radialog", "messages": messages}).to_string();
    assert!(huge.len() > 15_000_000);
    let completions = "/v1/chat/completions";
    let mut uploads = Vec::new();
    for _ in 0..4 {
        let upload = SlowUpload::begin(&fixture.gateway, "rd-ward", completions, huge.as_bytes());
        uploads.push(upload.await?);
    }
    let said = [
        json!({"role": "user", "content": "x".repeat(15_000)}),
        json!({"role": "assistant", "content": "y".repeat(15_000)}),
    ];
    let mut long: Vec<Value> = said.iter().cycle().take(8).cloned().collect();
    long.push(json!({"role": "user", "content": BLOCKS}));
    let long = json!({"model": "radialog", "messages": long});
    let mut answers = Vec::new();
    for _ in 0..4 {
        let request = ward.ask(reqwest::Method::POST, completions).json(&long);
        answers.push(tokio::spawn(request.send()));
    }
    eventually(|| async { Ok(fixture.language_worker.blocked() == 4) }).await?;
    let path = lab.begin(&json!({"question": "small"})).await?;
    lab.view_when(&path, 1, "done").await?;
    assert_eq!(fixture.language_worker.blocked(), 4);
    assert!(answers.iter().all(|answer| !answer.is_finished()));
    fixture.language_worker.unblock();
    for answer in answers {
        assert_eq!(answer.await??.status(), 200);
    }
    for upload in uploads {
        let answer = upload.end(huge.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn all_messages_of_a_completion_together_have_a_limit() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, |config| config.max_opening_chars = 1000).await?;
    let ask = async |answer: usize| {
        let body = json!({"model": "radialog", "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "é".repeat(answer)},
            {"role": "user", "content": "y"},
        ]});
        fixture.gateway.post("/v1/chat/completions", &body).await
    };
    assert_eq!(ask(998).await?.status(), 200);
    let refused: Value = ask(999).await?.json().await?;
    assert_eq!(
        refused["error"]["code"], "context_length_exceeded",
        "{refused}"
    );
    assert_eq!(refused["error"]["param"], "messages", "{refused}");
    let words = refused["error"]["message"].as_str().unwrap_or_default();
    ensure!(
        words.contains("1000") && words.contains("oldest"),
        "{words}"
    );
    Ok(())
}

#[tokio::test]
async fn a_key_has_its_own_part_of_the_queue_however_many_requests_come_at_a_time() -> Result<()> {
    let few = |config: &mut GatewayConfig| {
        owners(config);
        config.max_waiting_per_key = 3;
    };
    let fixture = GatewayFixture::with(0, few).await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("rd-ward"),
        fixture.gateway.as_owner("rd-lab"),
    );
    let path = ward.begin(&json!({"question": "runs"})).await?;
    ward.view_when(&path, 1, "running").await?;
    let turns = format!("{path}/turns");
    let summary = json!({"task": "summary"});
    let racing = (0..12).map(|_| ward.post(&turns, &summary));
    let mut accepted = 0;
    for response in futures::future::join_all(racing).await {
        let response = response?;
        if response.status() == 202 {
            accepted += 1;
        } else {
            let refused = problem(response).await?;
            assert_eq!(refused, (429, "too_many_requests".into(), Some(10)));
        }
    }
    assert!((1..=3).contains(&accepted), "{accepted} of 3 places");
    eventually(|| async {
        let response = ward.post(&turns, &summary).await?;
        Ok(response.status() == 429)
    })
    .await?;
    assert_eq!(
        ward.view(&path).await?["turns"].as_array().map(Vec::len),
        Some(4)
    );
    let completion = json!({"model": "radialog", "messages": [{"role": "user", "content": "x"}]});
    let refused = ward.post("/v1/chat/completions", &completion).await?;
    assert_eq!(refused.status(), 429, "completions are the same key's");
    assert_eq!(
        fixture
            .gateway
            .as_owner("rd-other")
            .get("/v1/models")
            .await?
            .status(),
        200
    );
    lab.begin(&json!({"question": "small"})).await?;
    Ok(())
}
