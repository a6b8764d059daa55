//! What is known about downloaded files: the hash that each had when it was first whole, so that a later change is noticed where
//! no publisher tells a hash.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use md5::{Digest, Md5};
use radialog_files::durable;
use radialog_models::bundle::HashCache;
use radialog_models::bundle::hashes::hash_file;
use radialog_schemas::ContentHash;
use serde::{Deserialize, Serialize};

use super::places::Place;

/// The file in the folder of downloads.
const FILE: &str = "fetched.json";

pub(super) struct Records {
    path: PathBuf,
    files: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    size: u64,
    sha256: ContentHash,
}

impl Records {
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let files = match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("'{}'", path.display()))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read '{}'", path.display()));
            }
        };
        Ok(Self { path, files })
    }

    /// Whether nothing is known of a file's content that this hash contradicts.
    pub(super) fn agree(&self, path: &str, sha256: &ContentHash) -> bool {
        let known = self.files.get(path);
        known.is_none_or(|record| record.sha256 == *sha256)
    }

    /// Whether a file is there as it was recorded, or, downloaded by hand, has the published hash.
    pub(super) fn is_whole(&mut self, place: &Place, path: &Path) -> anyhow::Result<bool> {
        let Ok(meta) = fs::metadata(path) else {
            return Ok(false);
        };
        if let Some(record) = self.files.get(place.path.as_str())
            && record.size == meta.len()
            && record.sha256 == hash_file(path)?
        {
            return Ok(true);
        }
        // It was put there by hand, or is another than was downloaded.
        if self.files.contains_key(place.path.as_str()) {
            bail!(
                "'{}' is not what was downloaded first: remove it to download it again, or remove its line in '{}' to keep it",
                path.display(),
                self.path.display()
            );
        }
        self.record(place, path)?;
        Ok(true)
    }

    /// Holds a file to the published size and hashes, and writes down its own. Returns what was found, in words.
    pub(super) fn record(&mut self, place: &Place, path: &Path) -> anyhow::Result<String> {
        let refuse = |what: &str, found: &str, expected: &str| {
            anyhow!(
                "'{}' has {what} {found}, and the published file {expected}: it is damaged or another file; remove it and run \
                 this again",
                path.display()
            )
        };
        let size = fs::metadata(path)?.len();
        if let Some(expected) = place.size.filter(|expected| *expected != size) {
            return Err(refuse("size", &size.to_string(), &expected.to_string()));
        }
        let mut held = Vec::new();
        if let Some(expected) = &place.md5 {
            let found = md5(path)?;
            if found != *expected {
                return Err(refuse("MD5", &found, expected));
            }
            held.push("MD5");
        }
        let sha256 = hash_file(path)?;
        if let Some(expected) = &place.sha256 {
            if sha256 != *expected {
                return Err(refuse("SHA-256", sha256.as_str(), expected.as_str()));
            }
            held.push("SHA-256");
        }
        let found = match held.is_empty() {
            false => format!("it has the published {}", held.join(" and ")),
            true => "no hash of it was published; that of this download is recorded".to_owned(),
        };
        // The import need not read the file once more to know it.
        if let Err(error) = HashCache::user().remember(path, sha256.clone()) {
            tracing::warn!(%error, "a hash is not remembered and will be computed again");
        }
        let found = format!("{found} (SHA-256 {sha256})");
        self.files
            .insert(place.path.to_string(), Record { size, sha256 });
        durable::replace(&self.path, &serde_json::to_vec_pretty(&self.files)?)
            .with_context(|| format!("cannot write '{}'", self.path.display()))?;
        Ok(found)
    }
}

fn md5(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
    let mut hasher = Md5::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
