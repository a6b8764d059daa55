//! Conversations as their users have them while things break: real RabbitMQ, Redis and S3, two gateways, language workers
//! that are killed in mid-answer. A reader sees neither gap nor repeat, and the text is the one that is written when nothing
//! breaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use radialog_models::bundle::RandomBundle;
use radialog_tests::fixtures::xray;
use radialog_tests::processes::{ProcessCluster, RoleProcess};
use radialog_tests::services::{Broker, Environment, Redis, Services, free_port};
use radialog_tests::waiting;
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::sse::{SseEvent, SseStream};

mod responses;

/// Longer than anything here takes, on a machine that others keep busy, too.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Long enough to be interrupted: a few seconds of the tiny model.
const LONG: u32 = 600;
/// Tokens after which something breaks.
const BREAK_AFTER: u64 = 20;

/// Everything that can break.
struct ChatCluster {
    broker: Broker,
    redis: Redis,
    processes: ProcessCluster,
    _bundle: TempDir,
    client: Client,
}

/// A gateway process.
struct GatewayProcess {
    url: String,
    role: RoleProcess,
}

/// A reader that goes on at any gateway after every loss, as the page does.
#[derive(Default)]
struct ResumingReader {
    last: u64,
    text: String,
    end: Option<Value>,
}

impl ChatCluster {
    async fn new() -> Result<Self> {
        let services = Services::shared().await?;
        let (broker, redis) = tokio::try_join!(Broker::start(1), Redis::durable())?;
        let dir = tempfile::tempdir()?;
        // Random weights rarely end an answer, so that there is time to break things in.
        RandomBundle::tiny(42).write(dir.path())?;
        let environment = Environment::services(broker.virtual_host()?, redis.url())
            .bucket(services.bucket()?)
            .with("RADIALOG_BUNDLE", dir.path().display().to_string());
        Ok(Self {
            broker,
            redis,
            processes: ProcessCluster::new(environment)?,
            _bundle: dir,
            client: waiting::client(),
        })
    }

    fn worker(&self, stage: &str) -> Result<RoleProcess> {
        self.processes.start(&["worker", stage])
    }

    async fn gateway(&self) -> Result<GatewayProcess> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let role = self.processes.start(&["gateway", "--listen", &address])?;
        let gateway = GatewayProcess {
            url: format!("http://{address}"),
            role,
        };
        let began = Instant::now();
        while self
            .client
            .get(format!("{}/v1/models", gateway.url))
            .send()
            .await
            .is_err()
        {
            gateway.role.check()?;
            ensure!(
                began.elapsed() < TIMEOUT,
                "the gateway does not start:\n{}",
                self.processes.log("gateway")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(gateway)
    }

    /// A conversation about a shipped X-ray.
    async fn upload(&self, gateway: &GatewayProcess, tokens: u32) -> Result<String> {
        let image = Part::bytes(std::fs::read(xray("00001300_000.jpg"))?).file_name("xray");
        let form = Form::new()
            .part("image", image)
            .text("max_new_tokens", tokens.to_string());
        let response = self
            .client
            .post(format!("{}/v1/conversations", gateway.url))
            .multipart(form)
            .send()
            .await?;
        ensure!(response.status() == 202, "{}", response.text().await?);
        let view: Value = response.json().await?;
        Ok(view["id"].as_str().context("an id")?.to_owned())
    }

    /// Asks, however often it takes; the key makes that safe.
    async fn ask(&self, gateway: &GatewayProcess, id: &str, text: &str) -> Result<u64> {
        let path = format!("{}/v1/conversations/{id}/turns", gateway.url);
        let turn = json!({"task": "question", "text": text, "max_new_tokens": LONG});
        let began = Instant::now();
        loop {
            let request = self
                .client
                .post(&path)
                .header("Idempotency-Key", text)
                .json(&turn);
            match request.timeout(Duration::from_secs(30)).send().await {
                Ok(response) if response.status() == 202 => {
                    let view: Value = response.json().await?;
                    return view["turn"].as_u64().context("a number");
                }
                Ok(response) if response.status().is_server_error() => {}
                Ok(response) => bail!("{}", response.text().await?),
                Err(_) => {}
            }
            self.processes.check()?;
            ensure!(began.elapsed() < TIMEOUT, "the question is not taken");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Reads on until `tokens` more have come, or to the end; tries the gateways in turn.
    async fn read(
        &self,
        gateways: &[&GatewayProcess],
        id: &str,
        turn: u64,
        reader: &mut ResumingReader,
        tokens: u64,
    ) -> Result<()> {
        let (began, mut left, mut attempt) = (Instant::now(), tokens, 0);
        while left > 0 && reader.end.is_none() {
            ensure!(
                began.elapsed() < TIMEOUT,
                "no end after '{}'; worker said:\n{}",
                reader.text,
                self.processes.log("worker")
            );
            let gateway = gateways[attempt % gateways.len()];
            attempt += 1;
            let path = format!("{}/v1/conversations/{id}/turns/{turn}/events", gateway.url);
            let request = self
                .client
                .get(path)
                .header("Last-Event-ID", reader.last.to_string());
            let response = match request.send().await {
                Ok(response) if response.status() == 200 => response,
                _ => {
                    self.processes.check()?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let mut events = SseStream::new(response);
            while left > 0 && reader.end.is_none() {
                let Ok(Ok(Some(event))) =
                    tokio::time::timeout(Duration::from_secs(5), events.next()).await
                else {
                    break;
                };
                left -= reader.take(event)?;
            }
        }
        Ok(())
    }

    /// The whole answer.
    async fn answer(&self, gateways: &[&GatewayProcess], id: &str, turn: u64) -> Result<String> {
        let mut reader = ResumingReader::default();
        self.read(gateways, id, turn, &mut reader, u64::MAX).await?;
        reader.done()
    }
}

impl ResumingReader {
    /// Takes an event; returns how many tokens it brought.
    fn take(&mut self, event: SseEvent) -> Result<u64> {
        if let Some(id) = event.id {
            ensure!(id == self.last + 1, "event {id} came after {}", self.last);
            self.last = id;
        }
        match event.name.as_str() {
            "token" => self
                .text
                .push_str(event.data["text"].as_str().context("a text")?),
            "done" | "error" => self.end = Some(event.data),
            _ => return Ok(0),
        }
        Ok(1)
    }

    /// The text, which must be that of the finished turn.
    fn done(self) -> Result<String> {
        let end = self.end.context("the turn has not ended")?;
        ensure!(end["status"] == "done", "{end}");
        ensure!(
            end["text"] == self.text.as_str(),
            "the reader has '{}', the turn {}",
            self.text,
            end["text"]
        );
        Ok(self.text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_loses_no_word_while_workers_gateways_broker_and_state_are_killed() -> Result<()> {
    let mut cluster = ChatCluster::new().await?;
    let (mut one, two) = (cluster.gateway().await?, cluster.gateway().await?);
    let _stages = [cluster.worker("embedding")?, cluster.worker("findings")?];
    let mut language = cluster.worker("language")?;

    // What is written when nothing breaks.
    let calm = cluster.upload(&one, 32).await?;
    let report = cluster.answer(&[&one], &calm, 1).await?;
    ensure!(!report.is_empty(), "the report is empty");
    let turn = cluster.ask(&one, &calm, "Is there any effusion?").await?;
    let expected = cluster.answer(&[&two], &calm, turn).await?;

    // The language worker is killed in mid-answer, and another one continues.
    let id = cluster.upload(&two, 32).await?;
    ensure!(
        cluster.answer(&[&two, &one], &id, 1).await? == report,
        "the report differs"
    );
    let turn = cluster.ask(&one, &id, "Is there any effusion?").await?;
    let mut reader = ResumingReader::default();
    cluster
        .read(&[&one], &id, turn, &mut reader, BREAK_AFTER)
        .await?;
    let spare = cluster.worker("language")?;
    language.kill();
    let mut language = spare;
    cluster
        .read(&[&one], &id, turn, &mut reader, BREAK_AFTER)
        .await?;
    ensure!(
        reader.end.is_none(),
        "the answer is over before the next fault: make it longer"
    );

    // Its gateway is killed; the reader goes on at the other one.
    one.role.kill();
    cluster
        .read(&[&two], &id, turn, &mut reader, u64::MAX)
        .await?;
    ensure!(
        reader.done()? == expected,
        "the answer differs after the worker was killed"
    );

    // Broker and state are killed and restarted in mid-answer, and once more the worker.
    let one = cluster.gateway().await?;
    for fault in ["broker", "state", "worker"] {
        let id = cluster.upload(&one, 32).await?;
        cluster.answer(&[&one, &two], &id, 1).await?;
        let turn = cluster.ask(&two, &id, "Is there any effusion?").await?;
        let mut reader = ResumingReader::default();
        cluster
            .read(&[&one], &id, turn, &mut reader, BREAK_AFTER)
            .await?;
        match fault {
            "broker" => {
                cluster.broker.stop();
                cluster.broker.start_again().await?;
            }
            "state" => {
                cluster.redis.stop();
                cluster.redis.start_again().await?;
            }
            _ => {
                language.kill();
                language = cluster.worker("language")?;
            }
        }
        cluster
            .read(&[&one, &two], &id, turn, &mut reader, u64::MAX)
            .await?;
        ensure!(
            reader.done()? == expected,
            "the answer differs after a fault of the {fault}"
        );
    }
    drop(language);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conversations_are_answered_in_order_by_two_workers() -> Result<()> {
    let cluster = ChatCluster::new().await?;
    let (one, two) = (cluster.gateway().await?, cluster.gateway().await?);
    let _workers = [
        cluster.worker("embedding")?,
        cluster.worker("findings")?,
        cluster.worker("language")?,
        cluster.worker("language")?,
    ];
    let mut conversations = Vec::new();
    for _ in 0..4 {
        conversations.push(cluster.upload(&one, 8).await?);
    }
    let mut first = None;
    for question in ["Is there any effusion?", "And a fracture?"] {
        for id in &conversations {
            cluster.ask(&two, id, question).await?;
        }
    }
    for id in &conversations {
        let mut texts = Vec::new();
        for turn in 1..=3 {
            texts.push(cluster.answer(&[&one, &two], id, turn).await?);
        }
        // The same image and the same questions have the same answers, whichever worker gave them.
        ensure!(
            *first.get_or_insert(texts.clone()) == texts,
            "conversations differ"
        );
    }
    Ok(())
}
