//! Opened bundles as a gateway serves them: their names, adapters, licences and limits.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use radialog_coordinator::gateway::GatewayConfig;
use radialog_coordinator::{ServedBundle, ServedBundles};
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::LanguageComponent;
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use radialog_runtime::metrics::BundleLabel;
use radialog_schemas::{AdapterName, QueueGroup, Stage};

use crate::args::BundleSource;
use crate::bundle_source;
use crate::exit::UsageError;

/// A bundle whose workers take their tasks from the queues of this group.
pub(crate) struct OpenedBundle {
    pub(crate) bundle: Bundle,
    pub(crate) group: Option<QueueGroup>,
}

/// Opens the bundle of the command line, and those that the configuration names beside it.
pub(crate) async fn open_all(
    source: &BundleSource,
    stages: &[Stage],
    config: &Config,
    gateway: &GatewayConfig,
    readiness: &Readiness,
) -> anyhow::Result<Vec<OpenedBundle>> {
    let bundle = bundle_source::open_for(source, stages, config, readiness).await?;
    let group = config.worker.group.clone();
    let mut opened = vec![OpenedBundle { bundle, group }];
    for also in &gateway.also {
        let source = &BundleSource::of(Some(also.bundle.as_str()));
        opened.push(OpenedBundle {
            bundle: bundle_source::open_for(source, stages, config, readiness).await?,
            group: Some(also.group.clone()),
        });
    }
    Ok(opened)
}

/// Describes these bundles for a gateway.
pub(crate) fn served<'a>(
    opened: impl IntoIterator<Item = &'a OpenedBundle>,
) -> anyhow::Result<ServedBundles> {
    let bundles = opened
        .into_iter()
        .map(|OpenedBundle { bundle, group }| describe(bundle, group.as_ref()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ServedBundles::new(bundles).map_err(|error| UsageError(error.to_string()).into())
}

/// What operators are told of a bundle.
pub(crate) fn label(bundle: &Bundle, group: Option<&QueueGroup>) -> BundleLabel {
    let manifest = bundle.manifest();
    BundleLabel {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        hash: manifest.hash(),
        group: group.cloned(),
    }
}

/// Finds the adapter that a model of this name writes with; none is the bundle's own for the task.
pub(crate) fn adapter(bundle: &Bundle, model: Option<&str>) -> anyhow::Result<Option<AdapterName>> {
    let served = ServedBundles::new(vec![describe(bundle, None)?])?;
    let found = served.find(model).map(|(_, adapter)| adapter.cloned());
    found.ok_or_else(|| {
        let (model, names) = (model.unwrap_or_default(), served.names());
        anyhow!(UsageError(format!(
            "--model '{model}' is none of the bundle's models: {names}"
        )))
    })
}

fn describe(bundle: &Bundle, group: Option<&QueueGroup>) -> anyhow::Result<ServedBundle> {
    let manifest = bundle.manifest();
    // A bundle of other stages alone has nothing to choose from.
    let language = match manifest.components.contains_key(&Stage::Language) {
        true => Some(bundle.config::<LanguageComponent>(Stage::Language)?),
        false => None,
    };
    let context = language
        .as_ref()
        .map(|language| language.llama.max_position_embeddings);
    let tasks = language
        .as_ref()
        .map_or_else(Vec::new, |language| language.prompts.optional_tasks());
    Ok(ServedBundle {
        hashes: radialog_coordinator::BundleHashes {
            name: manifest.name.clone(),
            bundle: manifest.hash(),
            components: manifest.component_hashes(),
        },
        version: manifest.version.clone(),
        created: bundle.written().map_or(0, seconds),
        license: manifest.license.clone(),
        random_weights: manifest.random_weights,
        adapters: language
            .map_or_else(Vec::new, |language| language.adapters.into_keys().collect()),
        context_tokens: context.and_then(|tokens| u32::try_from(tokens).ok()),
        tasks,
        group: group.cloned(),
    })
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
