//! What people name as the place of a run's results: a folder, or a prefix of a bucket.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use radialog_coordinator::run::StoredOutput;
use radialog_coordinator::run::output::RunFile;
use radialog_runtime::backends::OpenBucketError;
use radialog_runtime::config::Config;
use radialog_schemas::ObjectKey;

use crate::bundle_source::bucket;
use crate::exit::UsageError;
use crate::private_folder::PrivateFolder;

/// A folder, or `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResultsPlace {
    Folder(PathBuf),
    /// As it was written; it names a bucket and a prefix of keys.
    Store(String),
}

/// Results that this process looks at, and does not change.
pub(crate) struct LookedAt {
    folder: PathBuf,
    /// Holds a copy of what is in a store, and stands for folders that are not there.
    private: PrivateFolder,
}

impl FromStr for ResultsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty: write a folder, or s3://bucket/prefix".to_owned());
        }
        let Some((scheme, path)) = text.split_once("://") else {
            return Ok(Self::Folder(text.into()));
        };
        if scheme != "s3" {
            return Err("write a folder, or s3://bucket/prefix (s3 in small letters)".to_owned());
        }
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err("it names no bucket; write s3://bucket/prefix".to_owned());
        }
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() && ObjectKey::parse(prefix).is_none() {
            return Err(format!(
                "'{prefix}' is no prefix of objects: leave out '.', '..', doubled slashes and what is not printed"
            ));
        }
        Ok(Self::Store(text.to_owned()))
    }
}

impl ResultsPlace {
    /// The folder, where it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Store(_) => None,
        }
    }

    /// Refuses a place in a store where none is configured, or where the store's own objects lie.
    pub(crate) fn check(&self, config: &Config) -> Result<(), UsageError> {
        let Self::Store(url) = self else {
            return Ok(());
        };
        let Some(s3) = &config.s3 else {
            let error = OpenBucketError::NotConfigured(url.clone());
            return Err(UsageError(error.to_string()));
        };
        let own = match s3.prefix.as_str() {
            "" => format!("s3://{}/", s3.bucket),
            prefix => format!("s3://{}/{prefix}/", s3.bucket),
        };
        let first = url
            .strip_prefix(&own)
            .map(|rest| rest.split('/').next().unwrap_or_default());
        match first.filter(|first| ObjectKey::folders().any(|folder| folder == *first)) {
            None => Ok(()),
            Some(first) => Err(UsageError(format!(
                "in '{first}' of this store lie images or outputs of stages: name another prefix than '{url}' for results"
            ))),
        }
    }

    /// Shows what is there, without taking hold of it and without making anything.
    pub(crate) async fn look(&self, config: &Config) -> anyhow::Result<LookedAt> {
        let private = PrivateFolder::new()?;
        let folder = match self {
            Self::Folder(folder) => folder.clone(),
            Self::Store(url) => {
                let (objects, prefix) = bucket(url, config).await?;
                StoredOutput::copy(&*objects, &prefix, private.path()).await?;
                private.path().to_owned()
            }
        };
        Ok(LookedAt { folder, private })
    }
}

/// Whether a path is one of a store.
pub(crate) fn is_in_store(path: &Path) -> bool {
    path.to_string_lossy().starts_with("s3:/")
}

/// Shows a run whose results are at this prefix of a bucket; there must be one.
pub(crate) async fn look_at_run(url: &str, config: &Config) -> anyhow::Result<LookedAt> {
    let place: ResultsPlace = url
        .parse()
        .map_err(|reason| UsageError(format!("'{url}' is no place of results: {reason}")))?;
    let looked_at = place.look(config).await?;
    match RunFile::read(looked_at.folder())? {
        Some(_) => Ok(looked_at),
        None => Err(UsageError(format!(
            "at '{url}' is no run: name what was --out of `radialog batch`"
        ))
        .into()),
    }
}

impl std::fmt::Display for ResultsPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Store(url) => f.write_str(url),
        }
    }
}

impl LookedAt {
    /// What there is where nothing was ever written.
    pub(crate) fn nothing() -> anyhow::Result<Self> {
        let private = PrivateFolder::new()?;
        let folder = private.path().to_owned();
        Ok(Self { folder, private })
    }

    /// The folder in which the results lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets the configured store be looked into: to open a folder of objects that is not there would make it.
    pub(crate) fn without_making_objects(&self, config: &mut Config) {
        let objects = &mut config.objects.directory;
        let wanted = objects.take();
        let wanted = wanted.unwrap_or_else(|| self.folder.join("objects"));
        *objects = Some(match wanted.is_dir() {
            true => wanted,
            false => self.private.path().join("objects"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_prefix_of_a_bucket_and_nothing_else() {
        let place = |text: &str| text.parse::<ResultsPlace>();
        assert_eq!(place("a/../b").unwrap().folder(), Some(Path::new("a/../b")));
        assert_eq!(place("s3://bucket/a/b").unwrap().folder(), None);
        assert!(place("s3://bucket").is_ok() && place("s3://bucket/a/").is_ok());
        for (wrong, words) in [
            ("S3://bucket/a", "small letters"),
            ("http://host/bucket/a", "s3://bucket/prefix"),
            ("s3:///a", "names no bucket"),
            ("s3://bucket/a/../b", "'a/../b' is no prefix"),
            ("s3://bucket/a//b", "doubled slashes"),
        ] {
            let error = place(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
