//! The gateway's API as the terminal needs it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use radialog_schemas::http::{
    ConversationView, NewTurn, Problem, TurnError, TurnOptions, TurnView,
};
use radialog_schemas::{Ask, FindingsReport};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::server_sent_events::{SseEvent, SseParser};

/// A stream that brings nothing for this long, not even a heartbeat, is broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(45);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to go on with a stream before the gateway is given up.
const ATTEMPTS: u32 = 30;

/// A gateway, and the key to it.
pub(super) struct GatewayClient {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

/// What comes of a turn, for the terminal.
pub(super) enum TurnUpdate {
    Queued(u64),
    Findings(FindingsReport),
    Token(String),
    Done(Box<TurnView>),
    Failed(TurnError),
    /// The connection was lost; what follows goes on where it broke.
    Lost,
}

impl GatewayClient {
    pub(super) fn new(url: &str, key: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            key,
        })
    }

    /// Sends an image.
    pub(super) async fn begin(
        &self,
        image: &Path,
        indication: Option<&str>,
        model: Option<&str>,
        options: &TurnOptions,
    ) -> anyhow::Result<ConversationView> {
        let content = tokio::fs::read(image)
            .await
            .with_context(|| format!("cannot read {}", image.display()))?;
        let name = image.file_name().map_or_else(
            || "image".into(),
            |name| name.to_string_lossy().into_owned(),
        );
        let mut form = Form::new().part("image", Part::bytes(content).file_name(name));
        if let Some(indication) = indication {
            form = form.text("indication", indication.to_owned());
        }
        if let Some(model) = model {
            form = form.text("model", model.to_owned());
        }
        if let Some(tokens) = options.max_new_tokens {
            form = form.text("max_new_tokens", tokens.to_string());
        }
        self.json(self.http.post(self.at("/v1/conversations")).multipart(form))
            .await
    }

    pub(super) async fn conversation(&self, id: &str) -> anyhow::Result<ConversationView> {
        self.json(self.http.get(self.at(&format!("/v1/conversations/{id}"))))
            .await
    }

    pub(super) async fn ask(
        &self,
        id: &str,
        ask: Ask,
        options: &TurnOptions,
    ) -> anyhow::Result<TurnView> {
        let turn = NewTurn {
            ask,
            options: options.clone(),
        };
        self.json(
            self.http
                .post(self.at(&format!("/v1/conversations/{id}/turns")))
                .json(&turn),
        )
        .await
    }

    pub(super) async fn cancel(&self, id: &str, turn: u32) -> anyhow::Result<()> {
        let path = format!("/v1/conversations/{id}/turns/{turn}");
        self.send(self.http.delete(self.at(&path))).await.map(drop)
    }

    /// Follows a turn to its end, through any number of lost connections.
    pub(super) async fn follow(
        &self,
        turn: &TurnView,
        mut tell: impl FnMut(TurnUpdate),
    ) -> anyhow::Result<()> {
        let mut last = turn.last_event;
        let mut failed = 0;
        loop {
            let request = self.events_after(&turn.events, last);
            let before = last;
            match self.read(request, &mut last, &mut tell).await {
                Ok(true) => return Ok(()),
                Err(error) if error.is::<RefusedRequest>() => return Err(error),
                Ok(false) | Err(_) => {}
            }
            failed = if last > before { 0 } else { failed + 1 };
            if failed > ATTEMPTS {
                bail!(
                    "the gateway at {} does not answer any more; the answer goes on there, look again later",
                    self.url
                );
            }
            if failed == 1 {
                tell(TurnUpdate::Lost);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Asks for the events of a turn with numbers over `last`.
    fn events_after(&self, path: &str, last: u64) -> RequestBuilder {
        let request = self.http.get(self.at(path));
        request.header("Last-Event-ID", last.to_string())
    }

    /// Whether the turn has ended; false where the stream ended before.
    async fn read(
        &self,
        request: RequestBuilder,
        last: &mut u64,
        tell: &mut impl FnMut(TurnUpdate),
    ) -> anyhow::Result<bool> {
        let mut body = self.send(request).await?.bytes_stream();
        let mut parser = SseParser::default();
        while let Some(piece) = tokio::time::timeout(STALL_TIMEOUT, body.next()).await? {
            for event in parser.push(&piece?) {
                *last = event.id.unwrap_or(*last);
                if let Some(news) = turn_update(&event)? {
                    let is_end = matches!(news, TurnUpdate::Done(_) | TurnUpdate::Failed(_));
                    tell(news);
                    if is_end {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        Ok(self.send(request).await?.json().await?)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request
            .send()
            .await
            .with_context(|| format!("the gateway at {} does not answer", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let words = match response.json::<Problem>().await {
            Ok(problem) => problem.detail,
            Err(_) => status.to_string(),
        };
        let advice = if status == StatusCode::UNAUTHORIZED {
            "; give the key with --api-key"
        } else {
            ""
        };
        let passes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
        let may_pass = status.is_server_error() || passes.contains(&status);
        match may_pass {
            true => bail!("{words}"),
            false => Err(RefusedRequest(format!("{words}{advice}")).into()),
        }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

/// The gateway says no, and would say so again.
#[derive(Debug)]
pub(super) struct RefusedRequest(String);

impl std::fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RefusedRequest {}

/// What an event says; none for kinds that this version does not know.
fn turn_update(event: &SseEvent) -> anyhow::Result<Option<TurnUpdate>> {
    #[derive(serde::Deserialize)]
    struct Queued {
        position: u64,
    }
    #[derive(serde::Deserialize)]
    struct Token {
        text: String,
    }
    let data = event.data.as_str();
    Ok(match event.name.as_str() {
        "queued" => Some(TurnUpdate::Queued(
            serde_json::from_str::<Queued>(data)?.position,
        )),
        "findings" => Some(TurnUpdate::Findings(serde_json::from_str(data)?)),
        "token" => Some(TurnUpdate::Token(serde_json::from_str::<Token>(data)?.text)),
        "done" => Some(TurnUpdate::Done(Box::new(serde_json::from_str(data)?))),
        "error" => Some(TurnUpdate::Failed(serde_json::from_str(data)?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_stream_is_taken_up_behind_the_last_event() {
        let client = GatewayClient::new("http://127.0.0.1:1/", None).unwrap();
        let request = client.events_after("/turns/1/events", 7).build().unwrap();
        assert_eq!(request.url().path(), "/turns/1/events");
        // The name that the standard gives it (WHATWG HTML, section 9.2), and the gateway reads.
        assert_eq!(request.headers()["last-event-id"], "7");
    }
}
