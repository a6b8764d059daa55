//! Responses while a gateway stops, and while two clients want different things.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::fixture::{GatewayFixture, RunningGateway, UNLIMITED};
use super::super::sse::SseStream;
use super::{PATH, asked, create, path_of, resumed, said, when, with};

/// Rounds of a cancellation beside the answer's end.
const ROUNDS: usize = 40;

#[tokio::test]
async fn a_stream_whose_gateway_stops_goes_on_at_another_one_without_gap_or_repeat() -> Result<()> {
    let fixture = GatewayFixture::with(3, |_| {}).await?;
    let stopping = RunningGateway::start(&fixture.backends, |_| {}).await?;
    let request = with(asked("one two three four"), "stream", json!(true));
    let mut stream = SseStream::new(stopping.post(PATH, &request).await?);
    let mut read = vec![stream.until("response.created").await?];
    while read.last().context("nothing")?.data["delta"] != "one " {
        read.push(stream.next().await?.context("the stream ended")?);
    }
    let path = path_of(&read[0].data["response"]);
    stopping.stop().await?;
    let rest = stream.rest().await.unwrap_or_default();
    assert_eq!(said(&rest), [], "an end that is none is not said");
    fixture.language_worker.allow(UNLIMITED);
    let mut all = said(&read);
    let last = all.len() - 1;
    all.extend(resumed(&fixture.gateway, &path, Some(last)).await?);
    assert_eq!(all, resumed(&fixture.gateway, &path, None).await?);
    let end = &all.last().context("nothing")?.1;
    assert_eq!(end["type"], "response.completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancellation_beside_the_last_word_says_how_the_response_ended() -> Result<()> {
    let fixture = GatewayFixture::start().await?;
    let gateway = &fixture.gateway;
    for round in 0..ROUNDS {
        let request = with(asked(&format!("round {round}")), "background", json!(true));
        let response = create(gateway, &request).await?;
        let path = path_of(&response);
        let cancel = format!("{path}/cancel");
        let cancelled: Value = gateway.post(&cancel, &json!({})).await?.json().await?;
        let status = cancelled["status"].as_str().context("no status")?;
        assert!(matches!(status, "cancelled" | "completed"), "{cancelled}");
        assert_eq!(when(gateway, &path, status).await?, cancelled);
        let steps = resumed(gateway, &path, None).await?;
        let (name, end) = steps.last().context("no steps")?;
        let expected = match status {
            "cancelled" => "response.failed",
            _ => "response.completed",
        };
        assert_eq!(*name, expected);
        assert_eq!(end["response"], cancelled);
    }
    Ok(())
}
