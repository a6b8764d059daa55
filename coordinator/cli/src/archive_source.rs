//! Where an archive comes from: a path, or a prefix of the configured S3 store.

use std::sync::Arc;

use radialog_coordinator::CoordinatorError;
use radialog_coordinator::archive::{self, ArchiveLocation, OutsideFiles};
use radialog_coordinator::run::OpenArchive;
use radialog_runtime::config::Config;

use crate::bundle_source;
use crate::exit::UsageError;

/// What a person names as an archive: a path, or `s3://bucket/prefix`.
pub(crate) async fn input(name: &str, config: &Config) -> anyhow::Result<ArchiveLocation> {
    if !name.starts_with("s3://") {
        return Ok(ArchiveLocation::Path(name.into()));
    }
    let (store, prefix) = bundle_source::bucket(name, config).await?;
    Ok(ArchiveLocation::Objects {
        url: name.to_owned(),
        store,
        prefix,
    })
}

/// What `--allow-outside` means for this archive: a bucket has no outside.
pub(crate) fn outside(allowed: bool, name: &str) -> Result<OutsideFiles, UsageError> {
    match (allowed, name.starts_with("s3://")) {
        (false, _) => Ok(OutsideFiles::Refused),
        (true, false) => Ok(OutsideFiles::Allowed),
        (true, true) => Err(UsageError(format!(
            "--allow-outside is for folders and tables on disk; '{name}' is in a bucket"
        ))),
    }
}

/// What the gateway opens archives with: `s3://bucket/prefix` in the configured store.
pub(crate) fn opener(config: Config) -> OpenArchive {
    Arc::new(move |url| {
        let config = config.clone();
        Box::pin(async move {
            let refused = |error: anyhow::Error| CoordinatorError::Input {
                input: url.clone(),
                reason: format!("{error:#}"),
            };
            let (store, prefix) = bundle_source::bucket(&url, &config)
                .await
                .map_err(refused)?;
            archive::open(&ArchiveLocation::Objects {
                url: url.clone(),
                store,
                prefix,
            })
            .await
        })
    })
}
