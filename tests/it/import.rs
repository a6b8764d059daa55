//! The import of published weights: every layout of the golden folders becomes a bundle whose outputs are the recorded ones;
//! bad input is refused by name; what is interrupted goes on and is never taken for a bundle.

use std::path::{Path, PathBuf};

use anyhow::Result;
use radialog_models::bundle::import::{Import, ImportError, ImportOptions, ImportParts};
use tempfile::TempDir;

mod bad_input;
mod check;
mod damaged;
mod fetch;
mod golden;
mod interrupted;
mod layout;
mod tokenizer;
mod v2;

/// How a bundle of a test is called and stored.
fn options() -> ImportOptions {
    ImportOptions {
        name: "imported".into(),
        version: "1".into(),
        license: "none".into(),
        dtype: None,
        merge: None,
        projector_seed: 42,
    }
}

/// Imports parts into a new folder; the folder goes with the first of the two.
fn import(parts: &ImportParts, options: ImportOptions) -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    Import::plan(parts, options)?.write(&bundle, &mut |_| {})?;
    Ok((dir, bundle))
}

/// What is said about parts that cannot be imported.
fn refusal(parts: &ImportParts) -> String {
    match Import::plan(parts, options()) {
        Ok(_) => "it can be imported".into(),
        Err(error) => error.to_string(),
    }
}

/// The same of parts that are only found wrong while they are written.
fn write_refusal(parts: &ImportParts, options: ImportOptions) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let import = Import::plan(parts, options).unwrap();
    import.write(&bundle, &mut |_| {}).unwrap_err()
}

/// A `tokenizer.json` of so many tokens.
fn vocabulary(dir: &Path, tokens: usize) -> Result<PathBuf> {
    let path = dir.join(format!("tokenizer-{tokens}.json"));
    let made = radialog_models::tokenizers::synthetic::llama(tokens)?;
    std::fs::write(&path, made.json)?;
    Ok(path)
}

/// Copies the files of a folder, not those of folders in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}
