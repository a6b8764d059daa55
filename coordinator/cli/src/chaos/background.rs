//! Work that nobody waits for, in an installation that breaks: responses in the background, whose steps are read whenever a
//! gateway answers, and batches of requests. Each step comes once and in order, each line is answered once and in order, and
//! all texts are the undisturbed ones.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::conversations::ConversationClient;
use super::journal::Journal;
use super::watchdog::Watchdog;
use crate::server_sent_events::SseEvent;

const QUESTIONS: [&str; 3] = [
    "Is there any effusion?",
    "Is the heart enlarged?",
    "Write the findings in one sentence.",
];
/// Long enough to be interrupted.
const RESPONSE_TOKENS: u32 = 64;
/// More than are written at a time, so that a batch is given up between its pieces.
const LINES: usize = 40;
const LINE_TOKENS: u32 = 24;

/// What is made in the undisturbed installation.
pub(super) struct ExpectedWork {
    pub(super) model: String,
    /// The texts of a response about an image, and of the one that goes on from it.
    responses: Vec<String>,
    lines: Vec<Line>,
}

/// A line of a batch's output, without the names that its batch gives it.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    custom_id: String,
    status: u64,
    text: String,
}

/// A client of responses and batches that goes on at any gateway after every loss.
pub(super) struct BackgroundClient {
    client: ConversationClient,
    journal: Arc<Journal>,
    model: String,
    /// As a data URI.
    image: String,
}

/// The steps of a response that were read so far.
#[derive(Default)]
struct ReadSteps {
    /// How many.
    count: u64,
    text: String,
    /// The response as the last step shows it.
    end: Option<Value>,
}

impl BackgroundClient {
    /// A client that asks a model about this PNG or JPEG file.
    pub(super) fn new(
        client: ConversationClient,
        journal: Arc<Journal>,
        image: &Bytes,
        model: &str,
    ) -> Self {
        let kind = match image.starts_with(b"\x89PNG") {
            true => "png",
            false => "jpeg",
        };
        let image = format!("data:image/{kind};base64,{}", STANDARD.encode(image));
        Self {
            client,
            journal,
            model: model.to_owned(),
            image,
        }
    }

    /// What comes out here, for comparison.
    pub(super) async fn expected(&self) -> Option<ExpectedWork> {
        Some(ExpectedWork {
            model: self.model.clone(),
            responses: self.respond("undisturbed").await?,
            lines: read_lines(&self.batch("undisturbed").await?).ok()?,
        })
    }

    /// Has a question about the image answered in the background and another one after it, reads both, and deletes them.
    async fn respond(&self, key: &str) -> Option<Vec<String>> {
        let (mut texts, mut ids) = (Vec::new(), Vec::<String>::new());
        for (number, question) in QUESTIONS[..2].iter().enumerate() {
            let what = format!("response {number} of '{key}'");
            let mut content = vec![json!({"type": "input_text", "text": question})];
            if number == 0 {
                content.insert(0, json!({"type": "input_image", "image_url": self.image}));
            }
            let asked = json!({
                "model": self.model,
                "input": [{"role": "user", "content": content}],
                "previous_response_id": ids.last(),
                "max_output_tokens": RESPONSE_TOKENS,
                "background": true,
            });
            let made: Value = self
                .client
                .ask(&what, |http, gateway| {
                    http.post(format!("{gateway}/v1/responses"))
                        .header("Idempotency-Key", format!("{key}-{number}"))
                        .json(&asked)
                })
                .await?;
            let id = text(&made["id"]);
            texts.push(self.read(&what, &id).await?);
            ids.push(id);
        }
        for id in ids {
            self.delete(&format!("/v1/responses/{id}")).await?;
        }
        Some(texts)
    }

    /// Reads a response to its end, through any number of lost streams.
    async fn read(&self, what: &str, id: &str) -> Option<String> {
        let mut reading = ReadSteps::default();
        let mut watchdog = Watchdog::new(&self.journal, self.client.patience);
        let mut attempt = 0;
        while reading.end.is_none() {
            let gateways = &self.client.gateways;
            let gateway = &gateways[attempt % gateways.len()];
            if attempt > 0 {
                self.journal.counts().streams_resumed += 1;
            }
            attempt += 1;
            let after = reading.count.checked_sub(1);
            let after = after.map_or_else(String::new, |last| format!("&starting_after={last}"));
            let url = format!("{gateway}/v1/responses/{id}?stream=true{after}");
            let take = |event: &SseEvent| {
                reading.take(event)?;
                Ok(reading.end.is_some())
            };
            let request = self.client.http.get(url);
            if let Err(fault) = self.client.follow(request, take, &mut watchdog).await {
                self.journal.violated(format!("{what}: {fault}"));
                return None;
            }
            if reading.end.is_none() && !watchdog.goes_on(|| what.to_owned()).await {
                return None;
            }
        }
        let shown: Value = self
            .client
            .ask(what, |http, gateway| {
                http.get(format!("{gateway}/v1/responses/{id}"))
            })
            .await?;
        if let Some(fault) = reading.fault(&shown) {
            self.journal.violated(format!("{what}: {fault}"));
            return None;
        }
        self.journal.counts().responses += 1;
        Some(reading.text)
    }

    /// Has a batch of requests answered, and removes its files. Returns its output.
    async fn batch(&self, key: &str) -> Option<Bytes> {
        let what = format!("the batch '{key}'");
        let requests: String = (0..LINES).map(|number| self.line(number)).collect();
        // An upload has no key: where its answer is lost, there are two files. All that is left is deleted at the end.
        let file: Value = self
            .client
            .ask(&format!("the file of {what}"), |http, gateway| {
                let part = Part::bytes(requests.clone().into_bytes()).file_name("requests.jsonl");
                let form = Form::new().text("purpose", "batch").part("file", part);
                self.journal.counts().uploads += 1;
                http.post(format!("{gateway}/v1/files")).multipart(form)
            })
            .await?;
        let input = text(&file["id"]);
        let asked = json!({
            "input_file_id": input, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        });
        let made: Value = self
            .client
            .ask(&what, |http, gateway| {
                http.post(format!("{gateway}/v1/batches"))
                    .header("Idempotency-Key", key)
                    .json(&asked)
            })
            .await?;
        let id = text(&made["id"]);
        let ended = self.ended(&what, &id).await?;
        let output = text(&ended["output_file_id"]);
        if ended["status"] != "completed" || output.is_empty() {
            self.journal.violated(format!("{what} ended as {ended}"));
            return None;
        }
        let content = |http: &reqwest::Client, gateway: &str| {
            http.get(format!("{gateway}/v1/files/{output}/content"))
        };
        let content = self.client.until_said(&what, content, None).await?;
        for file in [&input, &output] {
            self.delete(&format!("/v1/files/{file}")).await?;
        }
        let mut counts = self.journal.counts();
        counts.batches += 1;
        counts.batch_lines += LINES as u64;
        Some(content)
    }

    /// A line of a batch's input.
    fn line(&self, number: usize) -> String {
        let question = QUESTIONS[number % QUESTIONS.len()];
        let content = match number {
            0 => json!([
                {"type": "text", "text": question},
                {"type": "image_url", "image_url": {"url": self.image}},
            ]),
            _ => json!(question),
        };
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": LINE_TOKENS,
            "seed": number,
        });
        let line = json!({
            "custom_id": number.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body,
        });
        format!("{line}\n")
    }

    /// Waits for the end of a batch.
    async fn ended(&self, what: &str, id: &str) -> Option<Value> {
        let mut watchdog = Watchdog::new(&self.journal, self.client.patience);
        let mut counts = Value::Null;
        loop {
            let view: Value = self
                .client
                .ask(what, |http, gateway| {
                    http.get(format!("{gateway}/v1/batches/{id}"))
                })
                .await?;
            let is_final = ["completed", "failed", "expired", "cancelled"]
                .iter()
                .any(|status| view["status"] == *status);
            if is_final {
                return Some(view);
            }
            if view["request_counts"] != counts {
                counts = view["request_counts"].clone();
                watchdog.moved();
            }
            if !watchdog.goes_on(|| format!("{what} with {counts}")).await {
                return None;
            }
        }
    }

    /// Deletes something, which may be gone already: an answer can get lost.
    async fn delete(&self, path: &str) -> Option<()> {
        let request =
            |http: &reqwest::Client, gateway: &str| http.delete(format!("{gateway}{path}"));
        let gone = Some(StatusCode::NOT_FOUND);
        let what = format!("the end of {path}");
        self.client.until_said(&what, request, gone).await.map(drop)
    }
}

impl ReadSteps {
    fn take(&mut self, event: &SseEvent) -> Result<(), String> {
        if event.data.is_empty() {
            return Ok(());
        }
        let data: Value = serde_json::from_str(&event.data)
            .map_err(|error| format!("step '{}' is no JSON: {error}", event.name))?;
        let number = &data["sequence_number"];
        if *number != self.count {
            return Err(format!("step {number} came after {} steps", self.count));
        }
        self.count += 1;
        match event.name.as_str() {
            "response.output_text.delta" => self.text.push_str(&text(&data["delta"])),
            "response.completed" | "response.incomplete" => {
                self.end = Some(data["response"].clone());
            }
            "response.failed" | "error" => return Err(format!("it failed: {data}")),
            _ => {}
        }
        Ok(())
    }

    /// What is wrong with a response that was read to its end, beside the one that is shown afterwards.
    fn fault(&self, shown: &Value) -> Option<String> {
        let end = self.end.as_ref()?;
        let said = text(&end["output"][0]["content"][0]["text"]);
        if said != self.text {
            return Some(format!(
                "it ended with {end}, and its reader has '{}'",
                self.text
            ));
        }
        (shown != end).then(|| format!("it is {shown}, and its stream ended with {end}"))
    }
}

/// Responses and batches, one after the other, until the time is over.
pub(super) struct Background {
    pub(super) client: BackgroundClient,
    pub(super) journal: Arc<Journal>,
    pub(super) expected: ExpectedWork,
    pub(super) seed: u64,
}

impl Background {
    /// Responses, two at a time of which one goes on from the other.
    pub(super) async fn respond(&self) {
        for number in 0.. {
            if self.journal.closing.is_cancelled() {
                return;
            }
            let key = format!("{}-response-{number}", self.seed);
            let Some(texts) = self.client.respond(&key).await else {
                return;
            };
            if texts != self.expected.responses {
                let expected = &self.expected.responses;
                let differ = format!("responses '{key}' are\n{texts:?}\ninstead of\n{expected:?}");
                self.journal.violated(differ);
                return;
            }
        }
    }

    /// Batches, one at a time.
    pub(super) async fn batches(&self) {
        for number in 0.. {
            if self.journal.closing.is_cancelled() {
                return;
            }
            let key = format!("{}-batch-{number}", self.seed);
            let Some(content) = self.client.batch(&key).await else {
                return;
            };
            for fault in faults(&content, &self.expected.lines) {
                self.journal.violated(format!("the batch '{key}': {fault}"));
            }
        }
    }

    /// Deletes all files of requests that are left: of uploads whose answers were lost, and of what was not brought to its end.
    pub(super) async fn delete_all(&self) {
        loop {
            let list: Option<Value> = self
                .client
                .client
                .ask("the files", |http, gateway| {
                    http.get(format!("{gateway}/v1/files"))
                })
                .await;
            let files = list.and_then(|list| list["data"].as_array().cloned());
            let Some(files) = files.filter(|files| !files.is_empty()) else {
                return;
            };
            for file in files {
                let path = format!("/v1/files/{}", text(&file["id"]));
                if self.client.delete(&path).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// The name of the model that is asked where none is chosen. None where the run was stopped.
pub(super) async fn model(client: &ConversationClient) -> Option<String> {
    let models: Value = client
        .ask("the models", |http, gateway| {
            http.get(format!("{gateway}/v1/models"))
        })
        .await?;
    Some(text(&models["data"][0]["id"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read_lines(content: &[u8]) -> serde_json::Result<Vec<Line>> {
    let lines = content.split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    let read = |line: &[u8]| -> serde_json::Result<Line> {
        let line: Value = serde_json::from_slice(line)?;
        let response = &line["response"];
        Ok(Line {
            custom_id: text(&line["custom_id"]),
            status: response["status_code"].as_u64().unwrap_or_default(),
            text: text(&response["body"]["choices"][0]["message"]["content"]),
        })
    };
    lines.map(read).collect()
}

/// What is wrong with a batch's output: each line once, in order, and as it is undisturbed.
fn faults(content: &[u8], expected: &[Line]) -> Vec<String> {
    let lines = match read_lines(content) {
        Ok(lines) => lines,
        Err(error) => return vec![format!("its output cannot be read: {error}")],
    };
    if lines == expected {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for known in expected {
        let id = &known.custom_id;
        let found: Vec<&Line> = lines.iter().filter(|line| line.custom_id == *id).collect();
        match found.as_slice() {
            [] => faults.push(format!("line {id} is lost")),
            [line] if *line != known => {
                faults.push(format!("line {id} is {line:?} instead of {known:?}"));
            }
            [_] => {}
            several => faults.push(format!("line {id} is there {} times", several.len())),
        }
    }
    for line in &lines {
        if !expected
            .iter()
            .any(|known| known.custom_id == line.custom_id)
        {
            faults.push(format!("nobody asked for line {}", line.custom_id));
        }
    }
    if faults.is_empty() {
        faults.push("its lines are out of order".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(custom_id: &str, text: &str) -> Value {
        let message = json!({"role": "assistant", "content": text});
        let body = json!({"id": "chatcmpl-x", "choices": [{"index": 0, "message": message}]});
        json!({
            "id": "batch_req_x", "custom_id": custom_id, "error": null,
            "response": {"status_code": 200, "request_id": "x", "body": body},
        })
    }

    fn jsonl(lines: &[Value]) -> Vec<u8> {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        lines.into_bytes()
    }

    #[test]
    fn a_line_that_is_lost_doubled_different_misplaced_or_of_nobody_is_found() {
        let (a, b) = (line("a", "one"), line("b", "two"));
        let expected = read_lines(&jsonl(&[a.clone(), b.clone()])).unwrap();
        let found = |lines: &[Value]| faults(&jsonl(lines), &expected);
        assert_eq!(found(&[a.clone(), b.clone()]), [""; 0]);
        assert_eq!(found(std::slice::from_ref(&b)), ["line a is lost"]);
        assert_eq!(found(&[]), ["line a is lost", "line b is lost"]);
        let doubled = found(&[a.clone(), b.clone(), a.clone()]);
        assert_eq!(doubled, ["line a is there 2 times"]);
        assert_eq!(
            found(&[b.clone(), a.clone()]),
            ["its lines are out of order"]
        );
        let unknown = found(&[a.clone(), b.clone(), line("c", "one")]);
        assert_eq!(unknown, ["nobody asked for line c"]);
        let mut refused = b.clone();
        refused["response"]["status_code"] = json!(503);
        for other in [line("b", "three"), refused] {
            let found = found(&[a.clone(), other]);
            assert!(
                found.len() == 1 && found[0].starts_with("line b is"),
                "{found:?}"
            );
        }
        let cut = faults(b"{\"custom_id\": \"a", &expected);
        assert!(cut[0].starts_with("its output cannot be read"), "{cut:?}");
    }

    fn step(number: u64, name: &str, more: Value) -> SseEvent {
        let mut data = json!({"type": name, "sequence_number": number});
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        SseEvent {
            id: None,
            name: name.to_owned(),
            data: data.to_string(),
        }
    }

    fn response(text: &str) -> Value {
        json!({"status": "completed", "output": [{"content": [{"text": text}]}]})
    }

    #[test]
    fn a_step_that_is_lost_or_doubled_and_an_end_that_is_another_are_found() {
        let read = || {
            let mut reading = ReadSteps::default();
            let delta = |number, word: &str| {
                step(number, "response.output_text.delta", json!({"delta": word}))
            };
            reading
                .take(&step(0, "response.created", json!({})))
                .unwrap();
            assert!(reading.take(&delta(2, "lost")).is_err(), "step 1 is lost");
            reading.take(&delta(1, "one ")).unwrap();
            assert!(reading.take(&delta(1, "one ")).is_err(), "it was read");
            reading.take(&delta(2, "two")).unwrap();
            reading
        };
        for (end, shown, holds) in [
            ("one two", "one two", true),
            ("one", "one", false),
            ("one two", "one", false),
        ] {
            let mut reading = read();
            let last = json!({"response": response(end)});
            reading.take(&step(3, "response.completed", last)).unwrap();
            let fault = reading.fault(&response(shown));
            assert_eq!(fault.is_none(), holds, "{fault:?}");
        }
        let failed = read().take(&step(3, "response.failed", json!({})));
        assert!(failed.is_err());
    }
}
