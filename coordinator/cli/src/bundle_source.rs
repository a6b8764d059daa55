//! Where a bundle comes from: a folder, an S3 prefix, or the demo bundle that the binary brings.

use std::path::PathBuf;

use anyhow::Context;
use radialog_models::bundle::hashes::user_cache_dir;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_runtime::config::Config;
use radialog_runtime::objects::s3::S3Objects;
use radialog_schemas::Stage;
use radialog_workers::bundle_cache::fetch_bundle;

use crate::args::UsageError;
use crate::demo_bundle;

/// Opens the bundle for these stages; hashes are verified, once per file.
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
        &store,
        &prefix,
        &cache_dir()?.join("bundles"),
        stages,
        &HashCache::user(),
    )
    .await?)
}

/// The store behind `s3://bucket/prefix`, with the endpoint and keys of the configured one, and the prefix.
pub(crate) async fn bucket(url: &str, config: &Config) -> anyhow::Result<(S3Objects, String)> {
    let Some(configured) = &config.s3 else {
        return Err(UsageError(format!(
            "to read {url}, give the store's address with --s3 URL"
        ))
        .into());
    };
    let path = url.strip_prefix("s3://").unwrap_or(url);
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err(
            UsageError(format!("'{url}' names no bucket; write s3://bucket/prefix")).into(),
        );
    }
    let mut other = configured.clone();
    (other.bucket, other.prefix) = (bucket.to_owned(), String::new());
    let store = S3Objects::connect(&other, config.start_timeout).await?;
    Ok((store, prefix.trim_matches('/').to_owned()))
}
