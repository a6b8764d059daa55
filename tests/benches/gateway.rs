//! What the gateway costs: turns taken a second with a model that does nothing, and the time from a token written by a
//! worker to the same token at its reader, for a few and for a thousand streams of 20 tokens a second. One gateway, a process
//! of its own, over real RabbitMQ and Redis; producers and readers are in this process, on the same cores.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use radialog_coordinator::gateway::{Gateway, GatewayConfig};
use radialog_coordinator::{BundleHashes, run::publish_turn};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_runtime::conversations::{Conversations, TurnClaim};
use radialog_schemas::{
    Answer, Ask, ChatTask, ContentHash, Conversation, ConversationId, Generation, PerStage, Stage,
    TurnEvent, TurnOutcome, TurnRequest, queues,
};
use radialog_tests::benchmark::Usage;
use radialog_tests::fake_stage::FakeStage;
use radialog_tests::processes::RoleProcess;
use radialog_tests::services::{Services, free_port};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Makes this program the gateway, at this address.
const ROLE: &str = "RADIALOG_BENCH_GATEWAY";
const CLIENTS: usize = 16;
const TURNS_FOR: Duration = Duration::from_secs(5);
const STREAMS: [usize; 3] = [10, 100, 1000];
const STREAM_FOR: Duration = Duration::from_secs(10);
/// The pause between tokens, for 20 tokens a second.
const TICK: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    Usage("cargo benchmark gateway").takes_nothing();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if let Ok(address) = env::var(ROLE) {
        return runtime.block_on(serve(&address));
    }
    runtime.block_on(measure())
}

async fn serve(address: &str) -> Result<()> {
    let (config, mut gateway) = Config::load_with(None, env::vars(), [], GatewayConfig::read)?;
    gateway.listen = address.parse()?;
    let backends = Backends::connect(&config).await?;
    let gateway = Gateway::bind(gateway, bundle(), backends, CancellationToken::new()).await?;
    Ok(gateway.serve(Duration::ZERO).await?)
}

fn bundle() -> BundleHashes {
    let components = PerStage::from_fn(FakeStage::component_of);
    BundleHashes {
        name: "fake".into(),
        bundle: ContentHash::of(b"fake"),
        components,
    }
}

async fn measure() -> Result<()> {
    let services = Services::shared().await?;
    let dir = tempfile::tempdir()?;
    let plenty = "1000000";
    let environment = services
        .environment()?
        .objects(&dir.path().join("objects"))
        .with("RADIALOG_GATEWAY_RATE", plenty)
        .with("RADIALOG_GATEWAY_CONCURRENT", plenty)
        .with("RADIALOG_GATEWAY_STREAMS", plenty)
        .with("RADIALOG_GATEWAY_MAX_WAITING", plenty)
        .with("RADIALOG_GATEWAY_MAX_TURNS", plenty);
    let backends = environment.connect().await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(env::current_exe()?);
    command.env(ROLE, &address).envs(environment.variables());
    let gateway = RoleProcess::start(&mut command, &dir.path().join("gateway.log"))?;
    let url = format!("http://{address}");
    let client = reqwest::Client::new();
    while client.get(format!("{url}/v1/models")).send().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    turns(&backends, &client, &url, &gateway).await?;
    for streams in STREAMS {
        tokens(&backends, &client, &url, &gateway, streams).await?;
    }
    Ok(())
}

/// Turns a second, each taken, published, answered by a model that does nothing, and stored.
async fn turns(
    backends: &Backends,
    client: &reqwest::Client,
    url: &str,
    gateway: &RoleProcess,
) -> Result<()> {
    let worker = tokio::spawn(answer_everything(backends.clone()));
    let (taken, processor, began) = (
        AtomicU64::new(0),
        processor_seconds(gateway)?,
        Instant::now(),
    );
    try_join_all((0..CLIENTS).map(|_| async {
        let conversation = begin(backends).await?;
        let component = FakeStage::component_of(Stage::Language);
        publish_turn(backends, &ChatTask::new(&conversation, 1, &component)).await?;
        let path = format!("{url}/v1/conversations/{conversation}/turns");
        let mut mine = 0;
        while began.elapsed() < TURNS_FOR {
            let turn = json!({"task": "question", "text": "Is there any effusion?"});
            let response = client.post(&path).json(&turn).send().await?;
            ensure!(response.status() == 202, "{}", response.text().await?);
            response.bytes().await?;
            mine += 1;
        }
        taken.fetch_add(mine, Ordering::Relaxed);
        anyhow::Ok(())
    }))
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    worker.abort();
    let taken = taken.into_inner() as f64;
    let processor = (processor_seconds(gateway)? - processor) / taken * 1e3;
    println!(
        "POST turn, {CLIENTS} clients: {:.0} requests/s, {processor:.2} ms of the gateway's CPU each",
        taken / seconds
    );
    Ok(())
}

async fn answer_everything(backends: Backends) -> Result<()> {
    let mut consumer = backends.queue.consume(queues::CHAT, 64).await?;
    loop {
        let delivery = consumer.next().await;
        let backends = backends.clone();
        tokio::spawn(async move {
            let task: ChatTask = serde_json::from_slice(&delivery.message.body)?;
            let (id, turn) = (&task.conversation, task.turn);
            let next = match backends.conversations.claim_turn(id, turn).await? {
                TurnClaim::Granted { epoch, .. } => {
                    backends
                        .conversations
                        .finish(id, turn, epoch, &answer())
                        .await?
                }
                TurnClaim::NotRunnable { next } => next,
                TurnClaim::NotFound => None,
            };
            if let Some(next) = next {
                publish_turn(&backends, &ChatTask::new(id, next, &task.component)).await?;
            }
            delivery.receipt.ack().await?;
            anyhow::Ok(())
        });
    }
}

/// Latency of tokens in so many streams at a time.
async fn tokens(
    backends: &Backends,
    client: &reqwest::Client,
    url: &str,
    gateway: &RoleProcess,
    streams: usize,
) -> Result<()> {
    let conversations = &backends.conversations;
    let ids = try_join_all((0..streams).map(|_| begin(backends))).await?;
    let epochs = try_join_all(ids.iter().map(|id| async move {
        match conversations.claim_turn(id, 1).await? {
            TurnClaim::Granted { epoch, .. } => Ok(epoch),
            other => anyhow::bail!("a turn does not start: {other:?}"),
        }
    }))
    .await?;
    let readers: Vec<_> = ids
        .iter()
        .map(|id| {
            tokio::spawn(read(
                client.get(format!("{url}/v1/conversations/{id}/turns/1/events")),
            ))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (processor, began) = (processor_seconds(gateway)?, Instant::now());
    let mut ticks = tokio::time::interval(TICK);
    let mut written = 0;
    while began.elapsed() < STREAM_FOR {
        ticks.tick().await;
        let token = [TurnEvent::Token {
            id: 1,
            text: now().to_string(),
        }];
        let append = |(id, epoch): (&ConversationId, &u64)| {
            let (id, epoch, token) = (id.clone(), *epoch, token.clone());
            async move { conversations.append(&id, 1, epoch, written, &token).await }
        };
        try_join_all(ids.iter().zip(&epochs).map(append)).await?;
        written += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let busy = (processor_seconds(gateway)? - processor) / seconds;
    try_join_all(
        ids.iter()
            .zip(&epochs)
            .map(|(id, epoch)| async move { conversations.finish(id, 1, *epoch, &answer()).await }),
    )
    .await?;
    let mut latencies: Vec<u64> = Vec::new();
    for reader in join_all(readers).await {
        let of_one = reader??;
        ensure!(
            of_one.len() as u64 == written,
            "a reader has {} of {written} tokens",
            of_one.len()
        );
        latencies.extend(of_one);
    }
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    println!(
        "{streams} streams, {:.1} tokens/s each: token to reader p50 {:.1} ms, p99 {:.1} ms; gateway {:.0} % of a core, {:.0} MiB",
        written as f64 / seconds,
        at(0.5),
        at(0.99),
        busy * 100.0,
        resident(gateway)?
    );
    Ok(())
}

/// Microseconds from the writing of each token to its arrival.
async fn read(request: reqwest::RequestBuilder) -> Result<Vec<u64>> {
    let mut body = request.send().await?.error_for_status()?.bytes_stream();
    let (mut rest, mut latencies) = (String::new(), Vec::new());
    while let Some(piece) = body.next().await {
        rest.push_str(std::str::from_utf8(&piece?)?);
        while let Some((event, after)) = rest.split_once("\n\n") {
            let data = event
                .lines()
                .find_map(|line| line.strip_prefix("data: "))
                .unwrap_or_default();
            if event.contains("event: token") {
                let token: serde_json::Value = serde_json::from_str(data)?;
                let written: u64 = token["text"]
                    .as_str()
                    .context("a token has a text")?
                    .parse()?;
                latencies.push(now().saturating_sub(written));
            }
            rest = after.to_owned();
        }
    }
    Ok(latencies)
}

async fn begin(backends: &Backends) -> Result<ConversationId> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let conversation = Conversation::new(
        ConversationId(format!(
            "{:016x}{:016x}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        )),
        "local",
        1,
        &FakeStage::component_of(Stage::Language),
    );
    let ask = Ask::Question { text: "?".into() };
    let turn = TurnRequest {
        ask,
        generation: Generation::default(),
        asked_ms: 1,
        deadline_ms: None,
        stop: Vec::new(),
    };
    let conversations: &Arc<dyn Conversations> = &backends.conversations;
    conversations.create(&conversation, &[turn]).await?;
    Ok(conversation.id)
}

fn answer() -> TurnOutcome {
    let (prompt_tokens, cached_tokens, dropped_turns) = Default::default();
    let text = "No.".to_owned();
    TurnOutcome::Done(Answer {
        text,
        lead: String::new(),
        prompt_tokens,
        cached_tokens,
        tokens: 2,
        complete: true,
        dropped_turns,
        comparisons: Vec::new(),
    })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

/// User and system time of the gateway so far.
fn processor_seconds(gateway: &RoleProcess) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.0.id()))?;
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    Ok(fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0)
}

/// Its resident memory, in MiB.
fn resident(gateway: &RoleProcess) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.0.id()))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kibibytes: f64 = line
        .split_whitespace()
        .nth(1)
        .context("VmRSS without a value")?
        .parse()?;
    Ok(kibibytes / 1024.0)
}
