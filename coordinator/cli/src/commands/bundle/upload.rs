//! `radialog bundle upload`: a bundle into the object store, from where workers download it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use radialog_workers::bundle_upload::{UploadError, Uploaded, upload_bundle};

use crate::args::ServiceArgs;
use crate::bundle_source;
use crate::exit::UsageError;

/// Put a bundle into the object store, from where workers download it
///
/// Every file is checked before; one that is in the store already is not sent again, so an upload that was interrupted goes
/// on. Example: radialog bundle upload /bundles/radialog-v1 s3://bundles/radialog-v1 --s3 http://host:9000/radialog
#[derive(Args)]
pub(crate) struct UploadArgs {
    /// The bundle's folder
    dir: PathBuf,
    /// Where it goes: s3://bucket/prefix, in the store of --s3
    #[arg(value_name = "URL")]
    to: String,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: UploadArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    if !args.to.starts_with("s3://") {
        let message = format!(
            "'{}' is no place in a store: write s3://bucket/prefix",
            args.to
        );
        return Err(UsageError(message).into());
    }
    let (store, prefix) = bundle_source::bucket(&args.to, &config).await?;
    let dir = args.dir.clone();
    let opened = tokio::task::spawn_blocking(move || super::open(&dir)).await;
    let bundle = opened.context("reading the bundle was interrupted")??;
    let manifest = bundle.manifest();
    let progress = |file: &str, uploaded: Uploaded| match uploaded {
        Uploaded::Before => outln!("{file}: there already"),
        Uploaded::Now => outln!("{file}: uploaded"),
    };
    let uploaded = upload_bundle(store.as_ref(), &prefix, bundle.dir(), manifest, &progress).await;
    match uploaded {
        Err(error @ (UploadError::Other(_) | UploadError::Claimed(_))) => {
            return Err(UsageError(error.to_string()).into());
        }
        uploaded => uploaded?,
    }
    outln!(
        "bundle '{}' ({}) is at {}: RADIALOG_BUNDLE, or --bundle",
        manifest.name,
        manifest.hash().short(),
        args.to
    );
    Ok(ExitCode::SUCCESS)
}
