//! The revision of a stage is in the keys of its outputs, so that outputs of an older code are not taken for the new one's.
//! This test holds whoever changes outputs to it: the demo bundle's outputs over the shipped X-rays are recorded with the
//! revisions, in `fixtures/revisions.json`, and may differ from the record only where a revision does.
//!
//! On one kind of processor outputs are the same bytes each time; another kind adds in another order, which shows in the last
//! digits of 32 bits. So numbers are recorded with four digits and compared with a tolerance of a few units of the last
//! one, and texts and labels, which are decisions between numbers, are compared as they are.
//!
//! After a revision was raised, or the demo bundle was trained anew, `RADIALOG_WRITE_REVISIONS=1 cargo it revisions` records the
//! outputs anew. It refuses where outputs of the same bundle differ and no revision does.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_coordinator::RunOptions;
use radialog_coordinator::archive::{self, ArchiveLocation};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::image_tokens;
use radialog_models::input_gate::InputGate;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{ContentHash, Generation, ObjectKey, Stage, StageSet, StudyRecord};
use radialog_tests::embedded::{backends, batch_options, run_batch};
use radialog_tests::fixtures;
use radialog_workers::{StageOptions, load_stage};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const VARIABLE: &str = "RADIALOG_WRITE_REVISIONS";
/// Of numbers around 1; four digits are recorded.
const TOLERANCE: f64 = 5e-4;
/// Tokens of an image that are recorded, and values of each.
const TOKENS: usize = 4;
const VALUES: usize = 4;

/// What is recorded of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StageRecord {
    revision: u32,
    /// By X-ray.
    outputs: BTreeMap<String, Output>,
}

/// What is recorded of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Output {
    Numbers(Vec<f64>),
    Text(String),
}

impl Output {
    fn numbers(values: impl IntoIterator<Item = f32>) -> Self {
        let four_digits = |value: f32| (f64::from(value) * 1e4).round() / 1e4;
        Self::Numbers(values.into_iter().map(four_digits).collect())
    }

    fn is_as(&self, recorded: &Self) -> bool {
        match (self, recorded) {
            (Self::Numbers(these), Self::Numbers(those)) => {
                let close = |(this, that): (&f64, &f64)| (this - that).abs() <= TOLERANCE;
                these.len() == those.len() && these.iter().zip(those).all(close)
            }
            (this, that) => this == that,
        }
    }
}

type Records = BTreeMap<Stage, StageRecord>;

/// What is recorded. A demo bundle that was trained anew has other outputs of the same code.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// The bundle whose outputs these are.
    bundle: ContentHash,
    stages: Records,
}

/// A few values of each of the first image tokens, with the token's mean and length.
fn tokens(content: &[u8]) -> Result<Output> {
    let mut numbers = Vec::new();
    for token in image_tokens::decode(content)?
        .to_vec2::<f32>()?
        .iter()
        .take(TOKENS)
    {
        let mean = token.iter().sum::<f32>() / token.len() as f32;
        let square = token.iter().map(|value| value * value).sum::<f32>() / token.len() as f32;
        numbers.extend([mean, square.sqrt()]);
        numbers.extend(token.iter().copied().take(VALUES));
    }
    Ok(Output::numbers(numbers))
}

/// Every stage's outputs of the demo bundle over the shipped X-rays.
async fn outputs() -> Result<Recorded> {
    let dir = tempfile::tempdir()?;
    let demo =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/training/recipes/demo/bundle");
    let cache = HashCache::at(dir.path().join("hashes.json"));
    let bundle = Bundle::open_with(&demo, &Stage::ALL, &cache)?;
    let backends = backends(&dir.path().join("objects"))?;
    backends.queue.declare().await?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    for stage in Stage::ALL {
        let loaded = load_stage(stage, &bundle, &Device::Cpu, &StageOptions::default())?;
        let (backends, stop) = (backends.clone(), stop.clone());
        tokio::spawn(async move { loaded.run(&backends, RunnerSettings::default(), stop).await });
    }
    let out = dir.path().join("out");
    let archive = archive::open(&ArchiveLocation::Path(fixtures::xrays())).await?;
    let components = bundle.manifest().component_hashes();
    let options = RunOptions {
        components: components.clone(),
        stages: StageSet::all(),
        // Enough to say something, little enough to be quick.
        generation: Generation {
            max_new_tokens: 60,
            ..Generation::default()
        },
        ..batch_options(archive, &out)
    };
    let summary = run_batch(options, &backends).await?;
    ensure!(summary.failed == 0 && summary.done == 10, "{summary:?}");

    let mut outputs: BTreeMap<Stage, BTreeMap<String, Output>> = BTreeMap::new();
    for line in std::fs::read_to_string(out.join("results.jsonl"))?.lines() {
        let record: StudyRecord = serde_json::from_str(line)?;
        let study = record.study.0;
        let input = record.input.context("an X-ray")?;
        let embedding = ObjectKey::embedding(components.get(Stage::Embedding), &input);
        let embedding = tokens(&backends.objects.get(&embedding).await?)?;
        let findings = record.findings.context("findings")?;
        let labels = record.report_labels.context("labels")?;
        let marks = record.comparisons.context("marks of comparisons")?;
        let labels = serde_json::to_string(&(labels, marks))?;
        for (stage, output) in [
            (Stage::Embedding, embedding),
            (
                Stage::Findings,
                // A finding that is not assessed has none, so that there are fewer.
                Output::numbers(findings.iter().filter_map(|finding| finding.probability)),
            ),
            (
                Stage::Language,
                Output::Text(record.report.context("a report")?),
            ),
            (Stage::Scoring, Output::Text(labels)),
        ] {
            let of_stage = outputs.entry(stage).or_default();
            of_stage.insert(study.clone(), output);
        }
    }
    let with_revision = |(stage, outputs): (Stage, _)| {
        let revision = *Stage::REVISIONS.get(stage);
        (stage, StageRecord { revision, outputs })
    };
    // The gate's verdict is in the output of the findings stage, whatever the bundle.
    let of_findings = outputs.entry(Stage::Findings).or_default();
    let weights = Output::Text(InputGate::shipped_hash().to_string());
    of_findings.insert("weights of the input gate".to_owned(), weights);
    Ok(Recorded {
        bundle: bundle.manifest().hash(),
        stages: outputs.into_iter().map(with_revision).collect(),
    })
}

/// The stages that make something else than is recorded, though neither they nor a stage whose outputs they read have a
/// new revision.
fn changed_silently(now: &Records, recorded: &Records) -> Vec<Stage> {
    let is_raised = |stage: Stage| {
        let revision = |records: &Records| records.get(&stage).map(|record| record.revision);
        revision(now) != revision(recorded)
    };
    let is_read_anew = |stage: Stage| {
        let mut stages = vec![stage];
        let mut next = 0;
        while let Some(&stage) = stages.get(next) {
            next += 1;
            stages.extend(stage.needs());
        }
        stages.into_iter().any(is_raised)
    };
    let is_changed = |stage: &Stage| {
        let outputs = |records: &Records| records.get(stage).map(|record| record.outputs.clone());
        let (Some(these), Some(those)) = (outputs(now), outputs(recorded)) else {
            return true;
        };
        let same = |(study, output): (&String, &Output)| {
            those.get(study).is_some_and(|known| output.is_as(known))
        };
        these.len() != those.len() || !these.iter().all(same)
    };
    let silent = |stage: &Stage| is_changed(stage) && !is_read_anew(*stage);
    Stage::ALL.into_iter().filter(silent).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_change_only_with_a_revision() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/revisions.json");
    let now = outputs().await?;
    let recorded: Option<Recorded> = match std::fs::read(&file) {
        Ok(text) => Some(serde_json::from_slice(&text)?),
        Err(_) => None,
    };
    let of_this_bundle = recorded.filter(|recorded| recorded.bundle == now.bundle);
    let silent = of_this_bundle.as_ref().map_or_else(Vec::new, |recorded| {
        changed_silently(&now.stages, &recorded.stages)
    });
    ensure!(
        silent.is_empty(),
        "the outputs of {silent:?} are not the recorded ones: raise their numbers in Stage::REVISIONS (schemas/src/stage.rs), \
         or stores keep the old outputs for the new code; then record them with {VARIABLE}=1.\nnow: {now:#?}"
    );
    if std::env::var_os(VARIABLE).is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&now)? + "\n")?;
        return Ok(());
    }
    let recorded = of_this_bundle.with_context(|| {
        format!(
            "{} has no record of the demo bundle {}: run this with {VARIABLE}=1, before any code is changed",
            file.display(),
            now.bundle.short()
        )
    })?;
    for (stage, record) in &now.stages {
        ensure!(
            recorded.stages.get(stage).map(|known| known.revision) == Some(record.revision),
            "revision {} of {stage} is not recorded; run this with {VARIABLE}=1",
            record.revision
        );
    }
    Ok(())
}

#[test]
fn a_change_is_silent_unless_a_stage_before_it_has_a_new_revision() {
    let output = |value| BTreeMap::from([("x".to_owned(), Output::numbers([value]))]);
    let records = |revisions: [u32; 4], values: [f32; 4]| -> Records {
        let stages = Stage::ALL.into_iter().zip(revisions).zip(values);
        let record = |((stage, revision), value)| {
            let outputs = output(value);
            (stage, StageRecord { revision, outputs })
        };
        stages.map(record).collect()
    };
    let before = records([1; 4], [0.5; 4]);
    let last_digit = records([1; 4], [0.500_1; 4]);
    assert_eq!(changed_silently(&last_digit, &before), []);
    let all_new = [0.6; 4];
    assert_eq!(
        changed_silently(&records([1; 4], all_new), &before),
        Stage::ALL
    );
    let of_language = records([1, 1, 2, 1], all_new);
    let image_stages = [Stage::Embedding, Stage::Findings];
    assert_eq!(changed_silently(&of_language, &before), image_stages);
    let of_embedding = records([2, 1, 1, 1], all_new);
    assert_eq!(changed_silently(&of_embedding, &before), [Stage::Findings]);
}
