//! The demo bundle: small models that `workers/training/recipes/demo` trained on public data. It is part of the binary, so
//! that the first command works wherever the binary does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use radialog_files::durable::NewDirectory;
use radialog_schemas::ContentHash;
use radialog_schemas::bundle::MANIFEST_FILE;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../workers/training/recipes/demo/bundle/", $name)))),+]
    };
}

/// When it was trained, since 1970: the time of its manifest on every machine. Whoever trains it anew changes it, as a test says.
const TRAINED: Duration = Duration::from_secs(1_796_036_207);

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
        date(&dir);
        return Ok(dir);
    }
    let write = || -> std::io::Result<()> {
        let pending = NewDirectory::create(&dir)?;
        FILES
            .iter()
            .try_for_each(|(name, content)| fs::write(pending.partial().join(name), content))?;
        date(pending.partial());
        match pending.commit() {
            // Another process was faster; its bytes are the same.
            Err(_) if dir.join(MANIFEST_FILE).is_file() => Ok(()),
            result => result,
        }
    };
    write().with_context(|| {
        format!(
            "cannot write the demo bundle to {}: name a folder that can be written with RADIALOG_CACHE",
            dir.display()
        )
    })?;
    Ok(dir)
}

/// Gives the manifest in `dir` its time, where it has another one. A folder that cannot be written keeps what it has.
fn date(dir: &Path) {
    let (manifest, trained) = (dir.join(MANIFEST_FILE), UNIX_EPOCH + TRAINED);
    let is_dated = |file: fs::Metadata| file.modified().is_ok_and(|time| time == trained);
    if fs::metadata(&manifest).is_ok_and(is_dated) {
        return;
    }
    let file = fs::File::options().write(true).open(manifest);
    let dated = file.and_then(|file| file.set_modified(trained));
    if let Err(error) = dated {
        tracing::debug!(%error, "the demo bundle keeps the time at which it was unpacked");
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use radialog_models::bundle::{Bundle, HashCache};

    use super::*;

    #[test]
    fn a_demo_bundle_that_was_trained_anew_has_its_own_time() {
        let (_, manifest) = FILES[FILES.len() - 1];
        let known = ContentHash::of(manifest);
        assert_eq!(
            (known.short(), TRAINED.as_secs()),
            ("d0e83fff2ad6", 1_796_036_207),
            "another bundle: set TRAINED to the time of its manifest, and both here"
        );
    }

    #[test]
    fn the_demo_bundle_is_as_old_as_its_training_however_it_was_unpacked() {
        let cache = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let dir = unpack(cache.path()).unwrap();
            let bundle = Bundle::open_with(&dir, &[], &HashCache::at(cache.path().join("hashes")));
            let written = bundle.unwrap().written().unwrap();
            assert_eq!(written, UNIX_EPOCH + TRAINED);
            // As an earlier version has unpacked it.
            let manifest = fs::File::options()
                .write(true)
                .open(dir.join(MANIFEST_FILE));
            manifest.unwrap().set_modified(SystemTime::now()).unwrap();
        }
    }
}
