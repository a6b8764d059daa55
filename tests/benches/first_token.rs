//! Time from asking to the first token of an answer, on a language worker without other work and on one that a batch run
//! saturates. The model is the tiny random one: what is measured is who comes first, not how fast a model is.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_models::image_tokens;
use radialog_runtime::backends::Backends;
use radialog_runtime::queue::Message;
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_schemas::{
    Ask, ChatImage, ChatTask, ContentHash, Conversation, ConversationId, FindingsReport,
    Generation, ObjectKey, Stage, Task, TurnEvent, TurnRequest, Work, queues,
};
use radialog_tests::benchmark::Usage;
use radialog_tests::embedded::backends;
use radialog_workers::StageOptions;
use radialog_workers::language::LanguageStage;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// Conversations of each measurement.
const CONVERSATIONS: usize = 200;
/// More reports than can be done while it is measured.
const REPORTS: u64 = 20_000;
/// The pause between two conversations.
const PAUSE: Duration = Duration::from_millis(20);

struct Setting {
    backends: Backends,
    component: ContentHash,
    embedding: ObjectKey,
    findings: ObjectKey,
}

fn main() -> Result<()> {
    Usage("cargo benchmark first_token").takes_nothing();
    let dir = tempfile::tempdir()?;
    RandomBundle::tiny(7).write(&dir.path().join("bundle"))?;
    let bundle = Bundle::open_with(
        &dir.path().join("bundle"),
        &[Stage::Language],
        &HashCache::at(dir.path().join("hashes.json")),
    )?;
    let options = StageOptions::default();
    let stage = Arc::new(LanguageStage::load(&bundle, &Device::Cpu, &options)?);
    Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let backends = backends(&dir.path().join("objects"))?;
            backends.queue.declare().await?;
            let setting =
                Setting::prepare(backends, bundle.manifest().component_hash(Stage::Language))
                    .await?;
            let (queue, objects) = (
                setting.backends.queue.clone(),
                setting.backends.objects.clone(),
            );
            let runner = Runner::new(stage, queue, objects, RunnerSettings::default());
            let stop = CancellationToken::new();
            let worker = tokio::spawn(
                runner
                    .with_chat(setting.backends.conversations.clone())
                    .run(stop.clone()),
            );

            setting.measure("warm", 20).await?;
            let idle = setting.measure("idle", CONVERSATIONS).await?;
            setting.publish_reports().await?;
            let (before, began) = (setting.waiting().await?, Instant::now());
            let busy = setting.measure("busy", CONVERSATIONS).await?;
            let (after, seconds) = (setting.waiting().await?, began.elapsed().as_secs_f64());
            ensure!(after > 0, "the batch run ended before the measurement");
            println!("worker without other work: {idle}");
            println!(
                "worker saturated by a batch run of {} at a time: {busy}",
                options.batch_limit
            );
            println!(
                "reports meanwhile: {:.1}/s",
                before.saturating_sub(after) as f64 / seconds
            );
            stop.cancel();
            Ok(worker.await??)
        })
}

impl Setting {
    async fn prepare(backends: Backends, component: ContentHash) -> Result<Self> {
        let image = ObjectKey::image(&ContentHash::of(b"image"));
        let (embedding, findings) = (
            ObjectKey::embedding(&component, &image),
            ObjectKey::findings(&component, &image),
        );
        let values: Vec<f32> = (0..32 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let tokens = image_tokens::encode(&Tensor::from_vec(values, (32, 64), &Device::Cpu)?)?;
        backends.objects.put(&embedding, tokens.into()).await?;
        backends
            .objects
            .put(&findings, Bytes::from(serde_json::to_vec(&report())?))
            .await?;
        Ok(Self {
            backends,
            component,
            embedding,
            findings,
        })
    }

    /// Reports that differ in their random numbers only.
    async fn publish_reports(&self) -> Result<()> {
        for seed in 0..REPORTS {
            let generation = Generation {
                temperature: Some(1.0),
                seed,
                ..Generation::default()
            };
            let output = ObjectKey::report(
                &self.component,
                &self.embedding,
                &self.findings,
                &generation,
            );
            let (embedding, findings) = (self.embedding.clone(), self.findings.clone());
            let work = Work::Report {
                embedding,
                findings,
                generation,
            };
            let task = Task::new(
                &"run".into(),
                &format!("{seed}").as_str().into(),
                &self.component,
                output,
                work,
            );
            self.publish(queues::work(Stage::Language), serde_json::to_vec(&task)?)
                .await?;
        }
        Ok(())
    }

    async fn publish(&self, queue: &str, body: Vec<u8>) -> Result<()> {
        Ok(self
            .backends
            .queue
            .publish(
                queue,
                Message {
                    body: body.into(),
                    ..Message::default()
                },
            )
            .await?)
    }

    async fn waiting(&self) -> Result<u64> {
        Ok(self
            .backends
            .queue
            .depth(queues::work(Stage::Language))
            .await?)
    }

    /// Times of the first token, one conversation after the other.
    async fn measure(&self, name: &str, conversations: usize) -> Result<String> {
        let mut times = Vec::with_capacity(conversations);
        for number in 0..conversations {
            times.push(
                self.first_token(&format!("{name}-{number}").as_str().into())
                    .await?,
            );
            tokio::time::sleep(PAUSE).await;
        }
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Ok(format!(
            "first token after {:.1} ms (median), {:.1} ms (p99), {:.1} ms (worst)",
            at(0.5),
            at(0.99),
            at(1.0)
        ))
    }

    async fn first_token(&self, id: &ConversationId) -> Result<Duration> {
        let conversations = &self.backends.conversations;
        let image = ChatImage {
            image: self.embedding.clone(),
            media_type: "image/png".into(),
            embedding: self.embedding.clone(),
            findings: self.findings.clone(),
        };
        let conversation = Conversation {
            image: Some(image),
            ..Conversation::new(id.clone(), "local", 0, &self.component)
        };
        let generation = Generation {
            max_new_tokens: 30,
            ..Generation::default()
        };
        let turn = TurnRequest {
            ask: Ask::Report,
            generation,
            asked_ms: 0,
            deadline_ms: None,
            stop: Vec::new(),
        };
        conversations.create(&conversation, &[turn]).await?;
        let ready = conversations
            .image_prepared(id, &self.embedding, &Ok(report()))
            .await?
            .context("no turn is ready")?;
        let mut watch = conversations.watch(id, ready).await?;
        let began = Instant::now();
        self.publish(
            queues::CHAT,
            serde_json::to_vec(&ChatTask::new(id, ready, &self.component))?,
        )
        .await?;
        loop {
            let events = conversations.events(id, ready, 0, 100).await?;
            if events
                .iter()
                .any(|(_, event)| matches!(event, TurnEvent::Token { .. } | TurnEvent::Ended(_)))
            {
                return Ok(began.elapsed());
            }
            watch.next_events().await;
        }
    }
}

fn report() -> FindingsReport {
    FindingsReport {
        findings: Vec::new(),
        text: "edema".into(),
        warnings: Vec::new(),
        input_gate: None,
    }
}
