//! Where a bundle comes from: a folder, an S3 prefix, or the demo bundle that the binary brings.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use radialog_models::bundle::hashes::user_cache_dir;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_runtime::backends::{OpenBucketError, open_bucket};
use radialog_runtime::config::Config;
use radialog_runtime::objects::Objects;
use radialog_schemas::Stage;
use radialog_workers::bundle_cache::fetch_bundle;

use crate::demo_bundle;
use crate::exit::UsageError;

/// Opens the bundle for these stages. Hashes are verified, once per file.
pub(crate) async fn open(
    source: Option<&str>,
    stages: &[Stage],
    config: &Config,
) -> anyhow::Result<Bundle> {
    let dir = match source {
        None => demo_bundle::unpack(&cache_dir()?.join("bundles"))?,
        Some(url) if url.starts_with("s3://") => fetch(url, stages, config).await?,
        Some(dir) => PathBuf::from(dir),
    };
    let stages = stages.to_vec();
    let open = move || Bundle::open_with(&dir, &stages, &HashCache::user());
    let bundle = tokio::task::spawn_blocking(open)
        .await
        .context("reading the bundle was interrupted")??;
    if source.is_none() {
        eprintln!(
            "note: the demo bundle: small models, trained on a few public images and reports; often wrong. Name another \
             one with --bundle."
        );
    }
    if bundle.manifest().random_weights {
        eprintln!(
            "note: bundle '{}' has random weights: its findings and text mean nothing yet. Name a trained one with --bundle.",
            bundle.manifest().name
        );
    }
    Ok(bundle)
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    user_cache_dir()
        .context("there is no home directory to cache bundles in: set RADIALOG_CACHE to a folder")
}

async fn fetch(url: &str, stages: &[Stage], config: &Config) -> anyhow::Result<PathBuf> {
    let (store, prefix) = bucket(url, config).await?;
    Ok(fetch_bundle(
        store.as_ref(),
        &prefix,
        &cache_dir()?.join("bundles"),
        stages,
        &HashCache::user(),
    )
    .await?)
}

/// The bucket that `s3://bucket/prefix` names, and the prefix. An address that cannot work is an error of the command
/// line.
pub(crate) async fn bucket(
    url: &str,
    config: &Config,
) -> anyhow::Result<(Arc<dyn Objects>, String)> {
    open_bucket(url, config).await.map_err(|error| match error {
        OpenBucketError::Store(error) => error.into(),
        usage => UsageError(usage.to_string()).into(),
    })
}
