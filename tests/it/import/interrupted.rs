//! An import that a signal or a full disk ends: nothing stands in the bundle's place, and the next one goes on from the files
//! that are finished.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::import::{Import, ImportParts};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::Stage;
use radialog_tests::fixtures;
use radialog_tests::processes::radialog;

use super::{options, vocabulary};

/// Base and adapter of the fixtures.
fn parts(dir: &Path) -> Result<ImportParts> {
    let golden = fixtures::golden().join("05_llm/tiny_checkpoint");
    Ok(ImportParts {
        base: Some(golden.join("base_safetensors")),
        adapters: vec![("rg".parse()?, golden.join("adapter_safetensors"))],
        tokenizer: Some(vocabulary(dir, 512)?),
        ..ImportParts::default()
    })
}

/// The hidden folder in which a bundle is made.
fn staging(bundle: &Path) -> PathBuf {
    let name = bundle.file_name().unwrap_or_default().to_string_lossy();
    bundle.with_file_name(format!(".{name}.import"))
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(fs::metadata(path)?.modified()?)
}

#[test]
fn an_import_that_fails_goes_on_from_its_finished_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let import = Import::plan(&parts(dir.path())?, options())?;
    // The last file's place is taken, so that it cannot be written.
    let obstacle = staging(&bundle).join("adapter.safetensors.partial");
    fs::create_dir_all(&obstacle)?;
    ensure!(import.write(&bundle, &mut |_| {}).is_err());
    ensure!(!bundle.exists() && !staging(&bundle).join("bundle.json").exists());
    let finished = staging(&bundle).join("language.safetensors");
    let before = modified(&finished)?;

    fs::remove_dir(&obstacle)?;
    let mut largest = 0;
    let manifest = import.write(&bundle, &mut |progress| {
        largest = largest.max(progress.done)
    })?;
    ensure!(largest == import.bytes(), "{largest} of {}", import.bytes());
    ensure!(
        modified(&bundle.join("language.safetensors"))? == before,
        "it was written again"
    );
    ensure!(!staging(&bundle).exists());
    ensure!(manifest.files.len() == 3);
    Bundle::open_with(&bundle, &[Stage::Language], &HashCache::user())?.verify()?;
    Ok(())
}

#[test]
fn a_finished_file_that_was_changed_since_is_written_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let import = Import::plan(&parts(dir.path())?, options())?;
    let obstacle = staging(&bundle).join("adapter.safetensors.partial");
    fs::create_dir_all(&obstacle)?;
    ensure!(import.write(&bundle, &mut |_| {}).is_err());
    fs::remove_dir(&obstacle)?;
    let finished = staging(&bundle).join("language.safetensors");
    let mut content = fs::read(&finished)?;
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&finished, content)?;
    import.write(&bundle, &mut |_| {})?;
    Bundle::open_with(&bundle, &[Stage::Language], &HashCache::user())?.verify()?;
    Ok(())
}

#[test]
fn two_imports_into_one_folder_do_not_mix() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let import = Import::plan(&parts(dir.path())?, options())?;
    let mut other = None;
    import.write(&bundle, &mut |_| {
        other.get_or_insert_with(|| import.write(&bundle, &mut |_| {}).unwrap_err().to_string());
    })?;
    let error = other.context("nothing was written")?;
    ensure!(error.contains("another import writes it"), "{error}");
    let error = import.write(&bundle, &mut |_| {}).unwrap_err().to_string();
    ensure!(error.contains("it is there already"), "{error}");
    Ok(())
}

/// The command in a shell that allows files of so many blocks; beyond, writing fails as on a full disk, or, where the signal
/// is not ignored, the process is killed in the middle of a file.
fn limited(bundle: &Path, parts: &ImportParts, ignored: bool) -> Result<Command> {
    let program = radialog(&["bundle"])?;
    let signal = if ignored { "trap '' XFSZ; " } else { "" };
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("{signal}ulimit -f 200; exec \"$@\""))
        .arg("sh")
        .arg(program.get_program())
        .args(["bundle", "import"])
        .arg(bundle)
        .arg("--base")
        .arg(parts.base.as_ref().context("no base")?)
        .arg("--tokenizer")
        .arg(parts.tokenizer.as_ref().context("no tokenizer")?);
    for (name, dir) in &parts.adapters {
        shell
            .arg("--adapter")
            .arg(format!("{name}={}", dir.display()));
    }
    shell.stdout(Stdio::null());
    Ok(shell)
}

#[test]
fn a_full_disk_and_a_killed_process_leave_no_bundle_and_the_next_import_is_whole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let parts = parts(dir.path())?;
    let full = limited(&bundle, &parts, true)?.output()?;
    let message = String::from_utf8_lossy(&full.stderr).into_owned();
    ensure!(full.status.code() == Some(1), "{message}");
    ensure!(
        message.contains("cannot write") && message.contains("language.safetensors"),
        "{message}"
    );
    ensure!(!bundle.exists(), "a bundle after a full disk");

    let killed = limited(&bundle, &parts, false)?.output()?;
    ensure!(!killed.status.success() && killed.status.code() != Some(1));
    ensure!(!bundle.exists(), "a bundle after a kill");
    ensure!(
        Bundle::open(&staging(&bundle)).is_err(),
        "what is half made is taken for a bundle"
    );

    Import::plan(&parts, options())?.write(&bundle, &mut |_| {})?;
    Bundle::open_with(&bundle, &[Stage::Language], &HashCache::user())?.verify()?;
    Ok(())
}
