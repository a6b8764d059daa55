//! The places of published files, as data: repositories of the model hub, releases, and hashes where they are known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use radialog_schemas::{ContentHash, RelativePath};
use serde::Deserialize;

/// The list that this program brings.
const PUBLISHED: &str = include_str!("published.json");

/// All systems that can be fetched.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Places(BTreeMap<String, System>);

/// The files of a system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct System {
    pub(super) about: String,
    pub(super) files: Vec<Place>,
}

/// One file: in a repository of the hub, or of a release.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Where it is put, below the folder of downloads.
    pub(super) path: RelativePath,
    hub: Option<String>,
    #[serde(default = "main")]
    revision: String,
    file: Option<String>,
    release: Option<String>,
    /// Its size in bytes, where the publisher tells it.
    pub(super) size: Option<u64>,
    /// Its MD5, where the publisher tells it.
    pub(super) md5: Option<String>,
    /// Its SHA-256, where the publisher tells it.
    pub(super) sha256: Option<ContentHash>,
    /// The folder that it is unpacked into.
    pub(super) unpack: Option<RelativePath>,
    /// Whether it is an index of shards, which are fetched, too.
    #[serde(default)]
    pub(super) shards: bool,
    /// Another form of the file in the same repository, where this one is not there.
    or: Option<OtherForm>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherForm {
    path: RelativePath,
    file: String,
}

/// The files that an index names.
pub(super) struct Shards {
    pub(super) places: Vec<Place>,
    /// Bytes of all their tensors, where the index tells.
    pub(super) bytes: Option<u64>,
}

fn main() -> String {
    "main".into()
}

impl System {
    /// Whether a file of the folder of downloads is one of this system's: a named one, one beside it as shards are, or one that
    /// was unpacked.
    pub(super) fn has(&self, file: &Path) -> bool {
        self.files.iter().any(|place| {
            let path = Path::new(place.path.as_str());
            let unpacked = place.unpack.as_ref().map(|folder| folder.as_str());
            file == path
                || (place.shards && file.parent() == path.parent())
                || unpacked.is_some_and(|folder| file.starts_with(folder))
        })
    }
}

impl Places {
    pub(super) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let places: Self = match file {
            None => serde_json::from_str(PUBLISHED)?,
            Some(file) => {
                let text =
                    fs::read(file).with_context(|| format!("cannot read '{}'", file.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("'{}'", file.display()))?
            }
        };
        for place in places.0.values().flat_map(|system| &system.files) {
            let whole = place.release.is_some() != (place.hub.is_some() && place.file.is_some());
            ensure!(whole, "'{}': name hub and file, or release", place.path);
        }
        Ok(places)
    }

    pub(super) fn system(&self, name: &str) -> Option<&System> {
        self.0.get(name)
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl Place {
    /// The address, and whether it is one of the hub.
    pub(super) fn url(&self, hub: &str, releases: &str) -> (String, bool) {
        match (&self.hub, &self.file, &self.release) {
            (Some(repository), Some(file), _) => {
                let revision = &self.revision;
                (
                    format!("{hub}/{repository}/resolve/{revision}/{file}"),
                    true,
                )
            }
            (_, _, release) => (
                format!("{releases}/{}", release.as_deref().unwrap_or_default()),
                false,
            ),
        }
    }

    /// The place of the file's other form.
    pub(super) fn other(&self) -> Option<Self> {
        let other = self.or.clone()?;
        Some(Self {
            path: other.path,
            file: Some(other.file),
            or: None,
            // What was published is of the first form.
            size: None,
            md5: None,
            sha256: None,
            ..self.clone()
        })
    }

    /// The places of the shards that a downloaded index names; they lie beside it.
    pub(super) fn shards_in(&self, index: &Path) -> anyhow::Result<Shards> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            /// Some writers have it as a number with a point.
            total_size: Option<f64>,
        }
        let text = fs::read(index).with_context(|| format!("cannot read '{}'", index.display()))?;
        let index: Index = serde_json::from_slice(&text)
            .with_context(|| format!("'{}' is no index", index.display()))?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        let shard = |name: String| {
            ensure!(
                !name.contains('/'),
                "the index names '{name}', which is no file of its folder"
            );
            let beside = |path: &str| match path.rsplit_once('/') {
                Some((folder, _)) => format!("{folder}/{name}"),
                None => name.clone(),
            };
            Ok(Self {
                path: RelativePath::parse(&beside(self.path.as_str()))?,
                file: self.file.as_deref().map(beside),
                release: self.release.as_deref().map(beside),
                size: None,
                md5: None,
                sha256: None,
                shards: false,
                ..self.clone()
            })
        };
        Ok(Shards {
            places: names
                .into_iter()
                .map(shard)
                .collect::<anyhow::Result<_>>()?,
            bytes: index.metadata.total_size.map(|bytes| bytes as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_that_is_brought_names_a_place_for_every_file() {
        let places = Places::read(None).unwrap();
        assert_eq!(places.names(), ["radialog-v1", "radialog-v2"]);
        for place in places.0.values().flat_map(|system| &system.files) {
            let (url, _) = place.url("https://hub", "https://releases");
            assert!(
                url.split('/').all(|part| !part.is_empty()) || url.starts_with("https://"),
                "{url}"
            );
        }
    }
}
