//! Conversations in an installation that breaks: every turn ends once, each event comes once and in order, and the texts
//! are the undisturbed ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use radialog_schemas::http::{ConversationView, NewTurn, TurnOptions, TurnView};
use radialog_schemas::{Ask, ConversationId, TurnStatus};
use radialog_training::random::Random;
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::journal::Journal;
use super::watchdog::Watchdog;
use crate::server_sent_events::{SseEvent, SseParser};

const QUESTIONS: [&str; 2] = ["Is there any effusion?", "And is the heart enlarged?"];
/// Long enough to be interrupted.
const ANSWER_TOKENS: u32 = 64;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream that brings nothing for so long is left for another gateway.
const SILENCE: Duration = Duration::from_secs(5);

/// A client that goes on at any gateway after every loss, as a page does.
pub(super) struct ConversationClient {
    pub(super) http: reqwest::Client,
    pub(super) gateways: Vec<String>,
    journal: Arc<Journal>,
    pub(super) patience: Duration,
}

/// What a reader has of a turn so far.
#[derive(Default)]
struct ReadTurn {
    last: u64,
    text: String,
    end: Option<(String, Value)>,
}

impl ConversationClient {
    pub(super) fn new(
        gateways: &[String],
        journal: Arc<Journal>,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(2))
                .build()?,
            gateways: gateways.to_vec(),
            journal,
            patience,
        })
    }

    /// Begins a conversation, which this key gives the same name however often it is tried. None where the run was stopped.
    pub(super) async fn begin(&self, image: &Bytes, key: &str) -> Option<ConversationId> {
        let view: ConversationView = self
            .ask(&format!("conversation '{key}'"), |http, gateway| {
                let part = Part::bytes(image.to_vec()).file_name("xray");
                let form = Form::new().part("image", part);
                let tokens = ANSWER_TOKENS.to_string();
                http.post(format!("{gateway}/v1/conversations"))
                    .header("Idempotency-Key", key)
                    .multipart(form.text("max_new_tokens", tokens))
            })
            .await?;
        Some(view.id)
    }

    /// Reads the report, asks the questions, and returns the texts of all turns. None where the run was stopped.
    pub(super) async fn answers(&self, id: &ConversationId) -> Option<Vec<String>> {
        let mut texts = vec![self.read(id, 1).await?];
        for (number, question) in (2..).zip(QUESTIONS) {
            let turn = NewTurn {
                ask: Ask::Question {
                    text: question.to_owned(),
                },
                options: TurnOptions {
                    max_new_tokens: Some(ANSWER_TOKENS),
                    ..TurnOptions::default()
                },
            };
            let what = format!("question {number} of conversation {id}");
            let view: TurnView = self
                .ask(&what, |http, gateway| {
                    http.post(format!("{gateway}/v1/conversations/{id}/turns"))
                        .header("Idempotency-Key", question)
                        .json(&turn)
                })
                .await?;
            if view.turn != number {
                let twice = format!("{what} became turn {}", view.turn);
                self.journal.violated(twice);
                return None;
            }
            texts.push(self.read(id, number).await?);
        }
        self.all_done(id).await?;
        Some(texts)
    }

    /// Every turn has ended as done.
    async fn all_done(&self, id: &ConversationId) -> Option<()> {
        let what = format!("conversation {id}");
        let view: ConversationView = self
            .ask(&what, |http, gateway| {
                http.get(format!("{gateway}/v1/conversations/{id}"))
            })
            .await?;
        let open = view
            .turns
            .iter()
            .find(|turn| turn.status != TurnStatus::Done);
        if let Some(turn) = open {
            let stuck = format!(
                "turn {} of {what} is {:?} after its end",
                turn.turn, turn.status
            );
            self.journal.violated(stuck);
        }
        Some(())
    }

    /// Deletes a conversation, which may be gone already: an answer can get lost.
    pub(super) async fn delete(&self, id: &ConversationId) -> Option<()> {
        let what = format!("the end of conversation {id}");
        let request = |http: &reqwest::Client, gateway: &str| {
            http.delete(format!("{gateway}/v1/conversations/{id}"))
        };
        let gone = Some(StatusCode::NOT_FOUND);
        self.until_said(&what, request, gone).await.map(drop)
    }

    /// Reads a turn to its end, through any number of lost streams.
    async fn read(&self, id: &ConversationId, turn: u32) -> Option<String> {
        let what = format!("turn {turn} of conversation {id}");
        let mut reading = ReadTurn::default();
        let mut watchdog = Watchdog::new(&self.journal, self.patience);
        for attempt in 0.. {
            let gateway = &self.gateways[attempt % self.gateways.len()];
            if attempt > 0 {
                self.journal.counts().streams_resumed += 1;
            }
            let path = format!("{gateway}/v1/conversations/{id}/turns/{turn}/events");
            let request = self
                .http
                .get(path)
                .header("Last-Event-ID", reading.last.to_string());
            let take = |event: &SseEvent| {
                reading.take(event)?;
                Ok(reading.end.is_some())
            };
            if let Err(fault) = self.follow(request, take, &mut watchdog).await {
                self.journal.violated(format!("{what}: {fault}"));
                return None;
            }
            if let Some((name, end)) = &reading.end {
                self.journal.counts().turns += 1;
                if name != "done" || end["text"] != reading.text.as_str() {
                    let text = &reading.text;
                    let other = format!("{what} ended with {end}, and its reader has '{text}'");
                    self.journal.violated(other);
                    return None;
                }
                return Some(reading.text);
            }
            if !watchdog.goes_on(|| what.clone()).await {
                return None;
            }
        }
        None
    }

    /// Gives what one stream brings to `take`, as far as it goes or until that says that it is over. An error is what must not
    /// come in any stream.
    pub(super) async fn follow(
        &self,
        request: RequestBuilder,
        mut take: impl FnMut(&SseEvent) -> Result<bool, String>,
        watchdog: &mut Watchdog<'_>,
    ) -> Result<(), String> {
        let Ok(Ok(response)) = tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await else {
            return Ok(());
        };
        let status = response.status();
        if status != StatusCode::OK {
            let body = response.bytes().await.unwrap_or_default();
            return refusal(status, &body).map_or(Ok(()), Err);
        }
        let mut body = response.bytes_stream();
        let mut parser = SseParser::default();
        while let Ok(Some(Ok(piece))) = tokio::time::timeout(SILENCE, body.next()).await {
            for event in parser.push(&piece) {
                let is_over = take(&event)?;
                self.journal.counts().events += u64::from(event.id.is_some());
                watchdog.moved();
                if is_over {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks one gateway after the other until one says yes, and returns what it says. None where the run was stopped.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        request: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
    ) -> Option<T> {
        let said = self.until_said(what, request, None).await?;
        let read = serde_json::from_slice(&said);
        if let Err(error) = &read {
            let unread = format!("{what}: the answer cannot be read: {error}");
            self.journal.violated(unread);
        }
        read.ok()
    }

    /// The same, where `also` is as good as yes.
    pub(super) async fn until_said(
        &self,
        what: &str,
        request: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
        also: Option<StatusCode>,
    ) -> Option<Bytes> {
        let watchdog = Watchdog::new(&self.journal, self.patience);
        for attempt in 0.. {
            let gateway = &self.gateways[attempt % self.gateways.len()];
            let asking = request(&self.http, gateway).timeout(REQUEST_TIMEOUT);
            // An answer that breaks off is asked for again, with the same key.
            if let Ok(response) = asking.send().await {
                let status = response.status();
                if let Ok(said) = response.bytes().await {
                    if status.is_success() || Some(status) == also {
                        return Some(said);
                    }
                    if let Some(refusal) = refusal(status, &said) {
                        self.journal.violated(format!("{what}: {refusal}"));
                        return None;
                    }
                }
            }
            if !watchdog.goes_on(|| what.to_owned()).await {
                return None;
            }
        }
        None
    }
}

impl ReadTurn {
    fn take(&mut self, event: &SseEvent) -> Result<(), String> {
        if let Some(id) = event.id {
            if id != self.last + 1 {
                return Err(format!("event {id} came after {}", self.last));
            }
            self.last = id;
        }
        let data: Value = serde_json::from_str(&event.data)
            .map_err(|error| format!("event '{}' is no JSON: {error}", event.name))?;
        match event.name.as_str() {
            "token" => self
                .text
                .push_str(data["text"].as_str().unwrap_or_default()),
            "done" | "error" => self.end = Some((event.name.clone(), data)),
            _ => {}
        }
        Ok(())
    }
}

/// What must not be answered. Too many requests, a body that came late, and a service that is away, are answers while things break.
fn refusal(status: StatusCode, body: &[u8]) -> Option<String> {
    let passes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    let may_be = status.is_server_error() || passes.contains(&status);
    (!may_be).then(|| format!("{status}: {}", String::from_utf8_lossy(body)))
}

/// People who talk about the images, one conversation after the other.
pub(super) struct Conversations {
    pub(super) client: ConversationClient,
    pub(super) journal: Arc<Journal>,
    pub(super) images: Vec<Bytes>,
    /// The undisturbed texts about each image.
    pub(super) expected: Vec<Vec<String>>,
    pub(super) seed: u64,
    /// Conversations that nobody has deleted yet.
    pub(super) kept: Mutex<Vec<ConversationId>>,
}

impl Conversations {
    /// One person, until the time is over. Every second conversation stays until the end of the run.
    pub(super) async fn talk(&self, person: usize) {
        let mut random = Random::stream(self.seed, &format!("person {person}"));
        for number in 0.. {
            if self.journal.closing.is_cancelled() {
                return;
            }
            let image = random.below(self.images.len());
            let key = format!("{}-{person}-{number}", self.seed);
            if self
                .conversation(image, &key, random.below(2) == 0)
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn conversation(&self, image: usize, key: &str, is_kept: bool) -> Option<()> {
        let id = self.client.begin(&self.images[image], key).await?;
        let texts = self.client.answers(&id).await?;
        if texts != self.expected[image] {
            let expected = &self.expected[image];
            let differ = format!("conversation {id} has\n{texts:?}\ninstead of\n{expected:?}");
            self.journal.violated(differ);
            return None;
        }
        self.journal.counts().conversations += 1;
        if is_kept {
            self.kept.lock().await.push(id);
            return Some(());
        }
        self.client.delete(&id).await
    }

    /// Deletes what is left.
    pub(super) async fn delete_all(&self) {
        for id in std::mem::take(&mut *self.kept.lock().await) {
            if self.client.delete(&id).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, name: &str, data: &str) -> SseEvent {
        SseEvent {
            id: Some(id),
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    #[test]
    fn a_gap_and_a_repeat_among_the_events_are_violations() {
        let mut reading = ReadTurn::default();
        let token = |id| event(id, "token", r#"{"text": "word "}"#);
        assert_eq!(reading.take(&token(1)), Ok(()));
        assert!(reading.take(&token(3)).is_err(), "event 2 is lost");
        assert!(reading.take(&token(1)).is_err(), "event 1 has been read");
        assert_eq!(
            reading.take(&event(2, "done", r#"{"text": "word "}"#)),
            Ok(())
        );
        assert!(
            reading
                .end
                .is_some_and(|(_, end)| end["text"] == reading.text.as_str())
        );
    }

    #[test]
    fn services_that_are_away_are_no_violation_and_an_answer_that_denies_is() {
        assert_eq!(refusal(StatusCode::SERVICE_UNAVAILABLE, b""), None);
        assert_eq!(refusal(StatusCode::TOO_MANY_REQUESTS, b""), None);
        assert_eq!(refusal(StatusCode::REQUEST_TIMEOUT, b""), None);
        assert!(refusal(StatusCode::NOT_FOUND, b"gone").is_some_and(|said| said.contains("gone")));
        assert!(refusal(StatusCode::CONFLICT, b"").is_some());
    }
}
