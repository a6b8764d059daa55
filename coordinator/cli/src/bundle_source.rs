//! Where a bundle comes from: a folder, an S3 prefix, or the demo bundle that the binary brings.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::builder::{PathBufValueParser, TypedValueParser};
use radialog_models::bundle::{Bundle, BundleError, HashCache, read_manifest};
use radialog_runtime::backends::{OpenBucketError, open_bucket};
use radialog_runtime::config::Config;
use radialog_runtime::health::Readiness;
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::Objects;
use radialog_schemas::Stage;
use radialog_schemas::bundle::MANIFEST_FILE;
use radialog_training::recipe::DEMO;
use radialog_workers::bundle_cache::{FetchProgress, fetch_bundle};

use crate::args::BundleSource;
use crate::cache_folder::cache_folder;
use crate::demo_bundle;
use crate::exit::UsageError;

/// How often the log says how far a download is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Opens the bundle for these stages. Hashes are verified, once per file.
pub(crate) async fn open(
    source: &BundleSource,
    stages: &[Stage],
    config: &Config,
) -> anyhow::Result<Bundle> {
    open_for(source, stages, config, &Readiness::default()).await
}

/// As [`open`], for a process that says how far its start is.
pub(crate) async fn open_for(
    source: &BundleSource,
    stages: &[Stage],
    config: &Config,
    readiness: &Readiness,
) -> anyhow::Result<Bundle> {
    let BundleSource { bundle, precision } = source;
    let dir = match bundle.as_deref() {
        None => demo()?,
        Some(url) if url.starts_with("s3://") => fetch(url, stages, config, readiness).await?,
        Some(dir) => named(Path::new(dir))?,
    };
    let _verifying = readiness.step("verifying the bundle");
    let stages = stages.to_vec();
    let open = move || Bundle::open_with(&dir, &stages, &HashCache::user());
    let bundle = tokio::task::spawn_blocking(open)
        .await
        .context("reading the bundle was interrupted")??
        .with_precision(precision)
        .map_err(|error| UsageError(format!("--precision: {error}")))?;
    if source.bundle.as_deref().is_none_or(|name| name == DEMO) {
        errln!(
            "note: the demo bundle: small models, trained on a few public images and reports; often wrong. Name another \
             one with --bundle."
        );
    }
    if bundle.manifest().random_weights {
        errln!(
            "note: bundle '{}' has random weights: its findings and text mean nothing yet. Name a trained one with --bundle.",
            bundle.manifest().name
        );
    }
    Ok(bundle)
}

/// The folder of a bundle that lies in one: the one that is named, or by its name the demo bundle's.
///
/// # Errors
/// A folder here that has the demo bundle's name and a bundle in it, since either may be meant.
pub(crate) fn named(dir: &Path) -> anyhow::Result<PathBuf> {
    match dir.as_os_str() == DEMO {
        true => named_demo(dir),
        false => Ok(dir.to_owned()),
    }
}

/// Reads the folder of a bundle that is to be written: none that nobody could name.
pub(crate) fn new_bundle() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|dir| match dir.as_os_str() == DEMO {
        true => Err(format!(
            "'{DEMO}' is the name of the bundle in the program: name another folder, or write ./{DEMO}"
        )),
        false => Ok(dir),
    })
}

/// The demo bundle's folder, where its name does not lead to `dir`, too.
pub(crate) fn named_demo(dir: &Path) -> anyhow::Result<PathBuf> {
    if dir.join(MANIFEST_FILE).is_file() {
        return Err(UsageError(format!(
            "'{DEMO}' is the name of the demo bundle, and '{}' is a bundle, too: write ./{DEMO} for the folder, or give it another name",
            dir.display()
        ))
        .into());
    }
    demo()
}

/// The demo bundle's folder, written where it is not there yet.
fn demo() -> anyhow::Result<PathBuf> {
    demo_bundle::unpack(&cache_folder()?.join("bundles"))
}

/// What is wrong with a bundle's place, as far as it can be seen without asking a service.
pub(crate) fn fault(bundle: &str, config: &Config) -> Option<String> {
    if bundle == DEMO {
        return None;
    }
    if bundle.starts_with("s3://") {
        let unknown = OpenBucketError::NotConfigured(bundle.to_owned());
        return config.s3.is_none().then(|| unknown.to_string());
    }
    let manifest = read_manifest(Path::new(bundle));
    let missing = manifest
        .err()
        .filter(|error| matches!(error, BundleError::NotABundle(_)));
    missing.map(|error| error.to_string())
}

async fn fetch(
    url: &str,
    stages: &[Stage],
    config: &Config,
    readiness: &Readiness,
) -> anyhow::Result<PathBuf> {
    let step = readiness.step("downloading weights");
    let (store, prefix) = bucket(url, config).await?;
    let cache = cache_folder()?.join("bundles");
    let said = Mutex::new(Instant::now());
    let progress = move |progress: FetchProgress| {
        let FetchProgress { fetched, wanted } = progress;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let text = format!(
            "downloading weights, {:.2} of {:.2} GiB",
            gib(fetched),
            gib(wanted)
        );
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics().bundle_fetched.set(bytes(fetched));
        metrics().bundle_wanted.set(bytes(wanted));
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.elapsed() >= SAY_EVERY {
            *said = Instant::now();
            tracing::info!("{text}");
        }
        step.says(text);
    };
    let hashes = HashCache::user();
    let fetched = fetch_bundle(&*store, &prefix, &cache, stages, &hashes, &progress).await;
    fetched.with_context(|| format!("--bundle {url}"))
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
