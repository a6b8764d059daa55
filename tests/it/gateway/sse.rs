//! A reader of Server-Sent SseStream, as strict as the tests need.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Response;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(20);

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SseEvent {
    /// Its number, where it has one.
    pub(crate) id: Option<u64>,
    /// Its name; `comment` for a comment, `message` where it has none.
    pub(crate) name: String,
    /// Its data, parsed; a text where it is no JSON.
    pub(crate) data: Value,
}

/// A stream being read.
pub(crate) struct SseStream {
    response: Response,
    buffer: String,
}

impl SseStream {
    pub(crate) fn new(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            buffer: String::new(),
        }
    }

    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<SseEvent>> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let event = parse(block);
                self.buffer = rest.to_owned();
                return Ok(Some(event));
            }
            let chunk = tokio::time::timeout(TIMEOUT, self.response.chunk())
                .await
                .context("no event came")??;
            let Some(chunk) = chunk else { return Ok(None) };
            self.buffer.push_str(std::str::from_utf8(&chunk)?);
        }
    }

    /// The next event of this name.
    pub(crate) async fn until(&mut self, name: &str) -> Result<SseEvent> {
        loop {
            let event = self
                .next()
                .await?
                .with_context(|| format!("the stream ended before '{name}'"))?;
            if event.name == name {
                return Ok(event);
            }
        }
    }

    /// All events up to the end.
    pub(crate) async fn rest(mut self) -> Result<Vec<SseEvent>> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// What the token events among these say together.
pub(crate) fn text(events: &[SseEvent]) -> String {
    events
        .iter()
        .filter(|event| event.name == "token")
        .map(|event| event.data["text"].as_str().unwrap())
        .collect()
}

fn parse(block: &str) -> SseEvent {
    let mut event = SseEvent {
        id: None,
        name: "comment".into(),
        data: Value::Null,
    };
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.parse().unwrap()),
            "event" => event.name = value.to_owned(),
            "data" => {
                event.data =
                    serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
                if event.name == "comment" {
                    event.name = "message".into();
                }
            }
            _ => {}
        }
    }
    event
}
