//! Whose a response is, and which request made it.

use anyhow::{Context, Result};
use futures::future::{try_join, try_join_all};
use radialog_coordinator::gateway::GatewayConfig;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::super::fixture::{GatewayFixture, RunningGateway, UNLIMITED, key};
use super::{PATH, asked, create, path_of, with};

/// Pairs of requests with one key, and how many are under way at a time.
const PAIRS: usize = 60;
const AT_ONCE: usize = 6;

fn two_owners(config: &mut GatewayConfig) {
    config.keys = vec![key("ward", "rd-ward"), key("lab", "rd-lab")];
    (config.rate, config.concurrent) = (100_000, 1000);
}

async fn post(gateway: &RunningGateway, key: &str, body: &Value) -> Result<Response> {
    let request = gateway
        .ask(Method::POST, PATH)
        .header("Idempotency-Key", key);
    Ok(request.json(body).send().await?)
}

#[tokio::test]
async fn another_keys_response_is_not_there_in_any_way() -> Result<()> {
    let fixture = GatewayFixture::with(UNLIMITED, two_owners).await?;
    let (ward, lab) = (
        fixture.gateway.as_owner("rd-ward"),
        fixture.gateway.as_owner("rd-lab"),
    );
    let response = create(&ward, &with(asked("x"), "background", json!(true))).await?;
    let (path, nobody) = (
        path_of(&response),
        format!("{PATH}/resp_{}", "0".repeat(32)),
    );
    for (method, below) in [
        (Method::GET, ""),
        (Method::GET, "?stream=true"),
        (Method::GET, "/input_items"),
        (Method::POST, "/cancel"),
        (Method::DELETE, ""),
    ] {
        let mut answers = Vec::new();
        for response in [&path, &nobody] {
            let asked = lab.ask(method.clone(), &format!("{response}{below}"));
            let answer = asked.send().await?;
            let mut headers: HeaderMap = answer.headers().clone();
            headers.remove("date");
            answers.push((answer.status(), headers, answer.text().await?));
        }
        assert_eq!(answers[0].0, 404, "{method} {below}");
        assert_eq!(
            answers[0], answers[1],
            "{method} {below}: the answers tell the two apart"
        );
    }
    let mut foreign = Vec::new();
    for id in [&response["id"], &json!(format!("resp_{}", "0".repeat(32)))] {
        let request = with(asked("y"), "previous_response_id", id.clone());
        let answer = lab.post(PATH, &request).await?;
        foreign.push((answer.status(), answer.text().await?));
    }
    assert_eq!(foreign[0], foreign[1]);
    // Nor is it one of the key's conversations.
    let id = path.rsplit('_').next().context("no id")?;
    let conversation = ward.get(&format!("/v1/conversations/{id}")).await?;
    assert_eq!(conversation.status(), 404);
    let (one, two) = (asked("x"), asked("y"));
    let (same, other) = (post(&ward, "same", &one), post(&lab, "same", &two));
    let (same, other) = try_join(same, other).await?;
    assert_eq!(
        (same.status(), other.status()),
        (reqwest::StatusCode::OK, reqwest::StatusCode::OK)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_requests_with_one_key_one_is_answered_at_whichever_gateway() -> Result<()> {
    let unlimited = |config: &mut GatewayConfig| {
        (config.rate, config.concurrent, config.max_waiting) = (100_000, 1000, 100_000);
    };
    let fixture = GatewayFixture::with(UNLIMITED, unlimited).await?;
    let other = RunningGateway::start(&fixture.backends, unlimited).await?;
    let before = create(&fixture.gateway, &asked("before")).await?;
    let (gateways, before) = ([&fixture.gateway, &other], &before);
    let race = |pair: usize| async move {
        let key = format!("pair-{pair}");
        let one = asked(&format!("one {pair}"));
        // Another question, another place in the history, or other notes.
        let two = match pair % 3 {
            0 => asked(&format!("two {pair}")),
            1 => with(one.clone(), "previous_response_id", before["id"].clone()),
            _ => with(one.clone(), "metadata", json!({"try": "two"})),
        };
        let second = gateways[pair % 2];
        let answers = try_join(post(gateways[0], &key, &one), post(second, &key, &two));
        let (first, second) = answers.await?;
        let (place, yes, no) = match first.status().as_u16() {
            200 => (0, first, second),
            _ => (1, second, first),
        };
        assert_eq!((yes.status().as_u16(), no.status().as_u16()), (200, 400));
        let refused: Value = no.json().await?;
        assert_eq!(refused["error"]["code"], "idempotency_mismatch");
        let response: Value = yes.json().await?;
        // The same request again, twice at a time, is the same response.
        let same = [&one, &two][place];
        let again = try_join(post(gateways[0], &key, same), post(gateways[1], &key, same));
        let (first, second) = again.await?;
        assert_eq!(first.json::<Value>().await?, response);
        assert_eq!(second.json::<Value>().await?, response);
        anyhow::Ok(())
    };
    for pairs in (0..PAIRS).collect::<Vec<_>>().chunks(AT_ONCE) {
        try_join_all(pairs.iter().map(|pair| race(*pair))).await?;
    }
    let begun = fixture
        .backends
        .conversations
        .begun_before(u64::MAX)
        .await?;
    assert_eq!(begun.len(), PAIRS + 1);
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_finds_its_response_where_the_one_before_is_gone_since() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    let before = create(gateway, &asked("before")).await?;
    let request = with(asked("x"), "previous_response_id", before["id"].clone());
    let response: Value = post(gateway, "once", &request).await?.json().await?;
    assert_eq!(gateway.delete(&path_of(&before)).await?, 200);
    let again: Value = post(gateway, "once", &request).await?.json().await?;
    assert_eq!(again, response);
    assert_eq!(post(gateway, "new", &request).await?.status(), 404);
    Ok(())
}
