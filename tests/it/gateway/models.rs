//! One gateway in front of the workers of two bundles: one of RaDialog v1 with two adapters, and one of v2. Real models, tiny
//! and random.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use candle_core::Device;
use radialog_coordinator::{BundleHashes, ResultConsumer, ServedBundle, ServedBundles};
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle, System};
use radialog_runtime::backends::Backends;
use radialog_runtime::runner::RunnerSettings;
use radialog_schemas::{QueueGroup, Stage, queues};
use radialog_tests::embedded;
use radialog_tests::fixtures::xray;
use radialog_tests::waiting;
use radialog_workers::{StageOptions, load_stage};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fixture::{RunningGateway, data_uri, problem};

const COMPLETIONS: &str = "/v1/chat/completions";
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);
/// When the bundles were written.
const CREATED: u64 = 1_790_000_000;

/// Workers of both bundles, and the gateway before them.
pub(crate) struct TwoBundles {
    backends: Backends,
    pub(crate) gateway: RunningGateway,
    served: ServedBundles,
    _folder: TempDir,
    _stop: DropGuard,
}

impl TwoBundles {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let backends = embedded::backends(&folder.path().join("objects"))?;
        backends.queue.declare().await?;
        let stop = CancellationToken::new();
        let adapters = ["rg", "ins"];
        let bundles = [
            (
                bundle(folder.path(), "one", System::V1, &adapters)?,
                None,
                adapters.to_vec(),
            ),
            (
                bundle(folder.path(), "two", System::V2, &[])?,
                Some("two"),
                Vec::new(),
            ),
        ];
        let mut served = Vec::new();
        for (bundle, group, adapters) in bundles {
            let group: Option<QueueGroup> = group.map(str::parse).transpose()?;
            if let Some(group) = &group {
                backends.queue.declare_group(group).await?;
            }
            for stage in [Stage::Embedding, Stage::Findings, Stage::Language] {
                let loaded = load_stage(stage, &bundle, &Device::Cpu, &StageOptions::default())?;
                let (backends, stop) = (backends.clone(), stop.clone());
                let settings = RunnerSettings {
                    group: group.clone(),
                    ..RunnerSettings::default()
                };
                tokio::spawn(async move { loaded.run(&backends, settings, stop).await });
            }
            let manifest = bundle.manifest();
            let hashes = BundleHashes {
                name: manifest.name.clone(),
                bundle: manifest.hash(),
                components: manifest.component_hashes(),
            };
            served.push(ServedBundle {
                created: CREATED,
                adapters: adapters
                    .iter()
                    .map(|name| name.parse())
                    .collect::<Result<_, _>>()?,
                license: manifest.license.clone(),
                random_weights: manifest.random_weights,
                tasks: bundle
                    .config::<LanguageComponent>(Stage::Language)?
                    .prompts
                    .optional_tasks(),
                group,
                ..hashes.into()
            });
        }
        tokio::spawn(ResultConsumer::new(backends.clone(), "results", stop.clone()).run());
        let served = ServedBundles::new(served)?;
        let gateway = RunningGateway::serving(&backends, served.clone(), |_| {}).await?;
        Ok(Self {
            backends,
            gateway,
            served,
            _folder: folder,
            _stop: stop.drop_guard(),
        })
    }

    /// The words of a completion by this model.
    async fn says(&self, model: &str) -> Result<String> {
        let answer = self.gateway.post(COMPLETIONS, &asked(model)).await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        assert_eq!(answer["model"], model);
        let text = answer["choices"][0]["message"]["content"].as_str();
        Ok(text.context("no text")?.to_owned())
    }
}

fn bundle(folder: &Path, name: &str, system: System, adapters: &[&str]) -> Result<Bundle> {
    let dir = folder.join(name);
    let adapters = adapters
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    RandomBundle {
        adapters,
        system,
        ..RandomBundle::tiny(7)
    }
    .write(&dir)?;
    let file = dir.join("bundle.json");
    let manifest = fs::read_to_string(&file)?.replace("random-v2-tiny", "random-tiny");
    let manifest = manifest.replace("\"random-tiny\"", &format!("\"{name}\""));
    fs::write(file, manifest)?;
    let cache = HashCache::at(folder.join("hashes.json"));
    Ok(Bundle::open_with(&dir, &Stage::ALL, &cache)?)
}

fn asked(model: &str) -> Value {
    json!({
        "model": model,
        "max_completion_tokens": 12,
        "messages": [{"role": "user", "content": "Is there any effusion?"}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_answered_by_its_own_bundle_and_adapter_and_by_nobody_else() -> Result<()> {
    let two = TwoBundles::start().await?;
    let list: Value = two.gateway.get("/v1/models").await?.json().await?;
    let models = list["data"].as_array().context("no list")?;
    let ids: Vec<&str> = models
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(ids, ["one", "one-rg", "one-ins", "two"]);
    assert_eq!(models[2]["adapter"], "ins");
    assert_eq!(models[2]["bundle"], "one");
    assert!(models.iter().all(|model| model["random_weights"] == true));
    assert!(models.iter().all(|model| model["created"] == CREATED));
    assert!(
        models[3]["license"]
            .as_str()
            .is_some_and(|text| text.contains("no licence"))
    );

    let [rg, ins, other] = [
        two.says("one-rg").await?,
        two.says("one-ins").await?,
        two.says("two").await?,
    ];
    assert!(
        rg != ins && ins != other && rg != other,
        "{rg}\n{ins}\n{other}"
    );
    // A dialog is the last adapter's by default, and the first bundle has an alias.
    for name in ["one", "radialog", "radialog-ins"] {
        assert_eq!(two.says(name).await?, ins, "{name}");
    }
    // All at once, they are mixed in one model.
    let names = ["one-rg", "two", "one-ins", "one-rg", "one-ins", "two"];
    let together = futures::future::try_join_all(names.map(|name| two.says(name))).await?;
    let expected = [&rg, &other, &ins, &rg, &ins, &other];
    assert_eq!(together.iter().collect::<Vec<_>>(), expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_keeps_its_model_and_what_is_computed_for_it_is_its_bundles() -> Result<()> {
    let two = TwoBundles::start().await?;
    let image = data_uri(&fs::read(xray("00001300_000.jpg"))?);
    for (model, bundle) in [("two", "two"), ("one-rg", "one")] {
        let new = json!({"image": image, "model": model, "max_new_tokens": 8});
        let path = two.gateway.begin(&new).await?;
        let view = two.gateway.view_when(&path, 1, "done").await?;
        assert_eq!(view["model"], model);
        let turn = json!({"task": "question", "text": "Why?", "max_new_tokens": 8});
        let added = two.gateway.post(&format!("{path}/turns"), &turn).await?;
        assert_eq!(added.status(), 202);
        let view = two.gateway.view_when(&path, 2, "done").await?;
        let adapter = model
            .strip_prefix("one-")
            .map_or(Value::Null, |name| json!(name));
        for turn in view["turns"].as_array().context("no turns")? {
            assert_eq!(turn["request"]["generation"]["adapter"], adapter);
        }
        let id = path.rsplit('/').next().context("no id")?;
        let known = two.backends.conversations.snapshot(&id.into()).await?;
        let conversation = known.context("no conversation")?.conversation;
        let served = two.served.of_group(conversation.group.as_ref());
        let served = served.context("no bundle")?;
        assert_eq!(served.hashes.name, bundle);
        assert_eq!(
            conversation.component,
            *served.hashes.component(Stage::Language)
        );
    }
    // Where the second group was given up, nobody waits for its workers.
    let new = json!({"question": "Why?", "model": "two", "max_new_tokens": 8});
    let path = two.gateway.begin(&new).await?;
    two.gateway.view_when(&path, 1, "done").await?;
    let first = ServedBundles::new(vec![two.served.default_bundle().clone()])?;
    let without = RunningGateway::serving(&two.backends, first, |_| {}).await?;
    let turn = json!({"task": "question", "text": "Why?"});
    let (state, group) = (&two.backends.state, "two".parse::<QueueGroup>()?);
    // While another gateway serves it, this one passes turns on, also where somebody has forgotten it.
    for number in [2, 3] {
        let passed_on = without.post(&format!("{path}/turns"), &turn).await?;
        assert_eq!(passed_on.status(), 202);
        two.gateway.view_when(&path, number, "done").await?;
        state.forget_group(&group).await?;
    }
    two.gateway.stop().await?;
    // What it has said is over; a sweep may note the group still.
    state.serve_group(&group, Duration::ZERO).await?;
    let is_over = || async { Ok(!state.is_served(&group).await?) };
    waiting::until("the group is served", SOON, is_over).await?;
    state.note_group(&group).await?;
    let refused = without.post(&format!("{path}/turns"), &turn).await?;
    let (status, code, _) = problem(refused).await?;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    // Nothing was tried by a worker of the other bundle.
    for group in [None, Some("two".parse()?)] {
        for queue in queues::of_group(group.as_ref()) {
            for step in 0..queues::RETRY_DELAYS.len() {
                let retry = queues::retry(&queue, step);
                assert_eq!(two.backends.queue.depth(&retry).await?, 0, "{retry}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_there_is_refused_wherever_one_may_be_named() -> Result<()> {
    let two = TwoBundles::start().await?;
    for model in ["two-ins", "on", "one-", "radialog-two", "gpt-4o", ""] {
        let refused = two.gateway.post(COMPLETIONS, &asked(model)).await?;
        assert_eq!(refused.status(), 404, "{model}");
        let body: Value = refused.json().await?;
        assert_eq!(body["error"]["code"], "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("'one-ins', 'two'"), "{message}");
        for (path, request) in [
            (
                "/v1/conversations",
                json!({"question": "Why?", "model": model}),
            ),
            (
                "/v1/archives",
                json!({"archive": "s3://archive/x", "model": model}),
            ),
        ] {
            let refused = two.gateway.post(path, &request).await?;
            assert_eq!(refused.status(), 404, "{path} {model}");
            let body: Value = refused.json().await?;
            assert_eq!(body["code"], "model_not_found");
        }
    }
    Ok(())
}
