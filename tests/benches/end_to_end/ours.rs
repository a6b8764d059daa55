//! Our side: the embedded pipeline over a bundle, as `radialog batch` runs it, with stages that stay loaded between runs.

use std::env;
use std::fs;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_coordinator::RunOptions;
use radialog_coordinator::archive::{self, ArchiveLocation};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_runtime::runner::{Runner, RunnerSettings};
use radialog_schemas::{Generation, Stage, StageSet, StudyRecord};
use radialog_tests::embedded::{backends, batch_options, run_long_batch};
use radialog_workers::StageOptions;
use radialog_workers::embedding::EmbeddingStage;
use radialog_workers::findings::FindingsStage;
use radialog_workers::language::LanguageStage;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Answered, Asked};

/// Tokens that a step drafts.
pub(super) const DRAFTS: &str = "RADIALOG_BENCH_DRAFTS";

struct Ours {
    bundle: Bundle,
    embedding: Arc<EmbeddingStage>,
    findings: Arc<FindingsStage>,
    language: Arc<LanguageStage>,
}

/// Answers lines of the standard input until it ends.
pub(super) fn serve(bundle: &Path) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let ours = Ours::load(bundle)?;
    // What is loaded lazily is there afterwards.
    let image = super::images()?.remove(0);
    let warm = Asked {
        folder: image,
        at_once: 1,
        tokens: 2,
    };
    runtime.block_on(ours.answer(&warm))?;
    let mut answers = stdout();
    writeln!(answers, "ready")?;
    for line in stdin().lock().lines() {
        let answered = runtime.block_on(ours.answer(&serde_json::from_str(&line?)?))?;
        writeln!(answers, "{}", serde_json::to_string(&answered)?)?;
        answers.flush()?;
    }
    Ok(())
}

impl Ours {
    fn load(bundle: &Path) -> Result<Self> {
        let stages = [Stage::Embedding, Stage::Findings, Stage::Language];
        let bundle = Bundle::open_with(bundle, &stages, &HashCache::user())?;
        let options = StageOptions {
            speculate: env::var(DRAFTS)?.parse()?,
            ..StageOptions::default()
        };
        Ok(Self {
            embedding: Arc::new(EmbeddingStage::load(&bundle, &Device::Cpu, &options)?),
            findings: Arc::new(FindingsStage::load(&bundle, &Device::Cpu, &options)?),
            language: Arc::new(LanguageStage::load(&bundle, &Device::Cpu, &options)?),
            bundle,
        })
    }

    /// A run of its own, over stores that know nothing yet.
    async fn answer(&self, asked: &Asked) -> Result<Answered> {
        let dir = tempfile::tempdir()?;
        let backends = backends(&dir.path().join("objects"))?;
        backends.queue.declare().await?;
        let archive = archive::open(&ArchiveLocation::Path(asked.folder.clone())).await?;
        let out = dir.path().join("out");
        let manifest = self.bundle.manifest();
        let run = RunOptions {
            stages: StageSet::closure(&[Stage::Language]),
            bundle: manifest.hash(),
            components: manifest.component_hashes(),
            window: asked.at_once,
            generation: Generation {
                max_new_tokens: u32::try_from(asked.tokens)?,
                ..Generation::default()
            },
            ..batch_options(archive, &out)
        };
        let (started, stop, mut workers) =
            (Instant::now(), CancellationToken::new(), JoinSet::new());
        let place = || {
            let (queue, objects) = (backends.queue.clone(), backends.objects.clone());
            (queue, objects, RunnerSettings::default())
        };
        let (queue, objects, settings) = place();
        let runner = Runner::new(self.embedding.clone(), queue, objects, settings);
        workers.spawn(runner.run(stop.clone()));
        let (queue, objects, settings) = place();
        let runner = Runner::new(self.findings.clone(), queue, objects, settings);
        workers.spawn(runner.run(stop.clone()));
        let (queue, objects, settings) = place();
        let runner = Runner::new(self.language.clone(), queue, objects, settings)
            .with_chat(backends.conversations.clone());
        workers.spawn(runner.run(stop.clone()));
        let summary = run_long_batch(run, &backends).await?;
        let seconds = started.elapsed().as_secs_f64();
        stop.cancel();
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        ensure!(
            summary.failed == 0 && summary.done == asked.at_once as u64,
            "{} done and {} failed of {}",
            summary.done,
            summary.failed,
            asked.at_once
        );
        let lines = fs::read_to_string(out.join("results.jsonl"))?;
        let records = lines.lines().map(serde_json::from_str::<StudyRecord>);
        let mut records = records.collect::<Result<Vec<_>, _>>()?;
        records.sort_by(|a, b| a.file.cmp(&b.file));
        let report = |record: &StudyRecord| record.report.clone().context("no report");
        let tokens = |record: &StudyRecord| record.report_tokens.map(|tokens| tokens as usize);
        Ok(Answered {
            seconds,
            tokens: records
                .iter()
                .map(|record| tokens(record).context("no tokens"))
                .collect::<Result<_>>()?,
            reports: records.iter().map(report).collect::<Result<_>>()?,
        })
    }
}
