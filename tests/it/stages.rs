//! The four stages with their models (a tiny random bundle) over the memory queue and a folder as object store.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use candle_core::Device;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_models::image_tokens;
use radialog_runtime::queue::memory::MemoryQueue;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{
    ComparisonMark, ContentHash, ErrorCode, Finding, FindingsReport, GeneratedReport, Generation,
    Manifest, ObjectKey, Outcome, ReportLabels, Stage, Task, Work,
};
use radialog_tests::fixtures::xray;
use radialog_tests::task_harness::TaskHarness;
use radialog_workers::{StageOptions, load_stage};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const IMAGES: [&str; 2] = ["00001300_000.jpg", "2cd63b76.jpg"];

/// One bundle for all tests of this file.
pub(crate) static BUNDLE: LazyLock<(TempDir, Bundle)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    RandomBundle::tiny(7)
        .write(&dir.path().join("bundle"))
        .unwrap();
    let cache = HashCache::at(dir.path().join("hashes.json"));
    let bundle = Bundle::open_with(&dir.path().join("bundle"), &Stage::ALL, &cache).unwrap();
    (dir, bundle)
});

/// Workers of all four stages, and what a coordinator would hold.
struct StageCluster {
    harness: TaskHarness,
    manifest: &'static Manifest,
    generation: Generation,
    shutdown: CancellationToken,
}

impl StageCluster {
    async fn new(batch_limit: usize, generation: Generation) -> Result<Self> {
        let harness = TaskHarness::new(Arc::new(MemoryQueue::default())).await?;
        let shutdown = CancellationToken::new();
        let options = StageOptions {
            batch_limit,
            ..StageOptions::default()
        };
        for stage in Stage::ALL {
            let stage = load_stage(stage, &BUNDLE.1, &Device::Cpu, &options)?;
            let (backends, shutdown) = (harness.backends(), shutdown.clone());
            tokio::spawn(async move {
                stage
                    .run(&backends, RunnerSettings::default(), shutdown)
                    .await
            });
        }
        Ok(Self {
            harness,
            manifest: BUNDLE.1.manifest(),
            generation,
            shutdown,
        })
    }

    fn component(&self, stage: Stage) -> ContentHash {
        self.manifest.component_hash(stage)
    }

    /// Sends all tasks at once and returns their outputs by key.
    async fn run(&self, tasks: &[Task]) -> Result<BTreeMap<ObjectKey, Bytes>> {
        for task in tasks {
            self.harness.send(task).await?;
        }
        let mut outputs = BTreeMap::new();
        for result in self.harness.results(tasks.len()).await? {
            match result.outcome {
                Outcome::Done { output } => {
                    drop(outputs.insert(output.clone(), self.harness.objects.get(&output).await?))
                }
                Outcome::Failed(failure) => bail!("{failure}"),
            }
        }
        Ok(outputs)
    }

    fn task(&self, study: &str, output: ObjectKey, work: Work) -> Task {
        Task::new(
            &"run".into(),
            &study.into(),
            &self.component(work.stage()),
            output,
            work,
        )
    }

    /// Every output of all four stages for these images.
    async fn all_outputs(&self, images: &[&str]) -> Result<BTreeMap<ObjectKey, Bytes>> {
        let reference = ObjectKey::reference(&ContentHash::of(b"reference"));
        self.harness
            .objects
            .put(&reference, Bytes::from_static(b"No pleural effusion."))
            .await?;
        let [mut of_images, mut reports, mut labels] = [const { Vec::new() }; 3];
        for name in images {
            let content = std::fs::read(xray(name))?;
            let image = ObjectKey::image(&ContentHash::of(&content));
            self.harness.objects.put(&image, content.into()).await?;
            let embedding = ObjectKey::embedding(&self.component(Stage::Embedding), &image);
            let findings = ObjectKey::findings(&self.component(Stage::Findings), &image);
            let report = ObjectKey::report(
                &self.component(Stage::Language),
                &embedding,
                &findings,
                &self.generation,
            );
            let scored =
                ObjectKey::labels(&self.component(Stage::Scoring), &report, Some(&reference));
            of_images.push(self.task(
                name,
                embedding.clone(),
                Work::Embedding {
                    image: image.clone(),
                },
            ));
            of_images.push(self.task(name, findings.clone(), Work::Findings { image }));
            let generation = self.generation.clone();
            reports.push(self.task(
                name,
                report.clone(),
                Work::Report {
                    embedding,
                    findings,
                    generation,
                },
            ));
            labels.push(self.task(
                name,
                scored,
                Work::Scoring {
                    report,
                    reference: Some(reference.clone()),
                },
            ));
        }
        let mut outputs = self.run(&of_images).await?;
        outputs.append(&mut self.run(&reports).await?);
        outputs.append(&mut self.run(&labels).await?);
        Ok(outputs)
    }
}

impl Drop for StageCluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn greedy() -> Generation {
    Generation {
        max_new_tokens: 40,
        ..Generation::default()
    }
}

#[tokio::test]
async fn four_stages_turn_an_xray_into_tokens_findings_a_report_and_labels() -> Result<()> {
    let outputs = StageCluster::new(8, greedy())
        .await?
        .all_outputs(&IMAGES[..1])
        .await?;
    let of = |stage: &str| {
        let found = outputs
            .iter()
            .find(|(key, _)| key.as_str().starts_with(stage));
        found
            .map(|(_, content)| content)
            .with_context(|| format!("no output of {stage}"))
    };
    assert_eq!(image_tokens::decode(of("embedding")?)?.dims(), [32, 64]);
    let findings: FindingsReport = serde_json::from_slice(of("findings")?)?;
    assert!(
        findings
            .findings
            .iter()
            .map(|predicted| predicted.finding)
            .eq(Finding::ALL)
    );
    assert!(
        findings
            .findings
            .iter()
            .all(|predicted| predicted.present == predicted.probability.is_some_and(|p| p > 0.5))
    );
    let report: GeneratedReport = serde_json::from_slice(of("language")?)?;
    assert!(!report.text.is_empty() && report.prompt_tokens > 32 && report.tokens <= 40);
    let labels: ReportLabels = serde_json::from_slice(of("scoring")?)?;
    assert_eq!(
        (
            labels.report.len(),
            labels.reference.map(|labels| labels.len())
        ),
        (14, Some(14))
    );
    Ok(())
}

#[tokio::test]
async fn sentences_of_a_stored_report_that_compare_with_an_earlier_image_are_marked() -> Result<()>
{
    let cluster = StageCluster::new(8, greedy()).await?;
    let text = " Größe normal. The heart is unchanged. No effusion.";
    let stored = GeneratedReport {
        text: text.to_owned(),
        prompt_tokens: 0,
        tokens: 0,
        complete: true,
        consistency: None,
    };
    let stored = serde_json::to_vec(&stored)?;
    let report = ObjectKey::text(&ContentHash::of(&stored));
    cluster.harness.objects.put(&report, stored.into()).await?;
    let output = ObjectKey::labels(&cluster.component(Stage::Scoring), &report, None);
    let reference = None;
    let task = cluster.task("study", output.clone(), Work::Scoring { report, reference });
    let outputs = cluster.run(&[task]).await?;
    let labels: ReportLabels = serde_json::from_slice(&outputs[&output])?;
    let mark = ComparisonMark {
        sentence: 1,
        range: [15, 38],
        words: "unchanged".to_owned(),
        words_range: [28, 37],
    };
    assert_eq!(labels.comparisons, Some(vec![mark]));
    let old: ReportLabels = serde_json::from_str(r#"{"report": {}}"#)?;
    assert_eq!(old.comparisons, None, "an earlier release wrote none");
    Ok(())
}

#[tokio::test]
async fn outputs_have_the_same_bytes_one_by_one_and_in_batches() -> Result<()> {
    for generation in [
        greedy(),
        Generation {
            temperature: Some(0.8),
            top_p: Some(0.9),
            seed: 3,
            ..greedy()
        },
    ] {
        let alone = StageCluster::new(1, generation.clone())
            .await?
            .all_outputs(&IMAGES)
            .await?;
        let together = StageCluster::new(8, generation)
            .await?
            .all_outputs(&IMAGES)
            .await?;
        assert_eq!(alone.len(), 4 * IMAGES.len());
        assert_eq!(alone, together);
    }
    Ok(())
}

#[tokio::test]
async fn images_differ_in_their_outputs() -> Result<()> {
    let outputs = StageCluster::new(8, greedy())
        .await?
        .all_outputs(&IMAGES)
        .await?;
    for stage in ["embedding", "findings", "language"] {
        let contents: Vec<_> = outputs
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(stage))
            .collect();
        assert_ne!(contents[0].1, contents[1].1, "{stage}");
    }
    Ok(())
}

#[tokio::test]
async fn an_input_that_cannot_be_decoded_fails_with_its_code() -> Result<()> {
    let cluster = StageCluster::new(8, greedy()).await?;
    let truncated = std::fs::read(xray(IMAGES[0]))?[..5000].to_vec();
    let image = ObjectKey::image(&ContentHash::of(&truncated));
    let findings = ObjectKey::findings(&cluster.component(Stage::Findings), &image);
    let embedding = ObjectKey::embedding(&cluster.component(Stage::Embedding), &image);
    cluster
        .harness
        .objects
        .put(&image, truncated.into())
        .await?;
    cluster
        .harness
        .objects
        .put(&embedding, Bytes::from_static(b"not safetensors"))
        .await?;
    cluster
        .harness
        .objects
        .put(
            &findings,
            Bytes::from_static(b"{\"findings\":[],\"text\":\"\"}"),
        )
        .await?;
    let other = ObjectKey::findings(&cluster.component(Stage::Findings), &findings);
    let report = ObjectKey::report(
        &cluster.component(Stage::Language),
        &embedding,
        &findings,
        &greedy(),
    );
    let work = Work::Report {
        embedding,
        findings,
        generation: greedy(),
    };
    for (task, code) in [
        (
            cluster.task("image", other, Work::Findings { image }),
            ErrorCode::ImageCorrupt,
        ),
        (
            cluster.task("tokens", report, work),
            ErrorCode::ObjectCorrupt,
        ),
    ] {
        cluster.harness.send(&task).await?;
        match &cluster.harness.results(1).await?[0].outcome {
            Outcome::Failed(failure) => assert_eq!(failure.code, code),
            Outcome::Done { .. } => bail!("it was done"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_task_for_an_adapter_that_the_component_has_not_fails_for_good() -> Result<()> {
    let cluster = StageCluster::new(1, greedy()).await?;
    let prompt = ObjectKey::text(&ContentHash::of(b"prompt"));
    let content = Bytes::from_static(br#"{"messages": ["Why?"]}"#);
    cluster.harness.objects.put(&prompt, content).await?;
    let generation = Generation {
        adapter: Some("rg".parse()?),
        ..greedy()
    };
    let output = ObjectKey::answer(&cluster.component(Stage::Language), &prompt, &generation);
    let task = cluster.task("study", output, Work::Answer { prompt, generation });
    cluster.harness.send(&task).await?;
    let results = cluster.harness.results(1).await?;
    let Some(Outcome::Failed(failure)) = results.first().map(|result| &result.outcome) else {
        bail!("{results:?}");
    };
    assert_eq!(failure.code, ErrorCode::MessageInvalid);
    assert!(failure.message.contains("no adapter 'rg'"), "{failure}");
    Ok(())
}
