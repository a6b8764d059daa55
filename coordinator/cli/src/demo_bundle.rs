//! The demo bundle: small models that `workers/training/recipes/demo` trained on public data. It is part of the binary, so
//! that the first command works wherever the binary does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use radialog_models::durable::NewDirectory;
use radialog_schemas::ContentHash;
use radialog_schemas::bundle::MANIFEST_FILE;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../workers/training/recipes/demo/bundle/", $name)))),+]
    };
}

/// Names and contents. The manifest is the last one.
const FILES: [(&str, &[u8]); 7] = files![
    "embedding.safetensors",
    "findings.safetensors",
    "language.safetensors",
    "language.tokenizer.json",
    "scoring.safetensors",
    "scoring.tokenizer.json",
    "bundle.json",
];

/// Writes the bundle below `cache` where it is not there yet, and returns its folder.
pub(crate) fn unpack(cache: &Path) -> anyhow::Result<PathBuf> {
    let (_, manifest) = FILES[FILES.len() - 1];
    let dir = cache.join(format!("demo-{}", ContentHash::of(manifest).short()));
    if dir.join(MANIFEST_FILE).is_file() {
        return Ok(dir);
    }
    let write = || -> std::io::Result<()> {
        let pending = NewDirectory::create(&dir)?;
        FILES
            .iter()
            .try_for_each(|(name, content)| fs::write(pending.partial().join(name), content))?;
        match pending.commit() {
            // Another process was faster; its bytes are the same.
            Err(_) if dir.join(MANIFEST_FILE).is_file() => Ok(()),
            result => result,
        }
    };
    write().with_context(|| {
        format!(
            "cannot write the demo bundle to {}: set RADIALOG_CACHE",
            dir.display()
        )
    })?;
    Ok(dir)
}
