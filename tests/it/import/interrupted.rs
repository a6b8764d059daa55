//! An import that a signal or a full disk ends: nothing stands in the bundle's place, and the next one goes on from the files
//! that are finished.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::import::{Import, ImportParts, ImportStep, SourceFile};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::{ContentHash, Stage};
use radialog_tests::fixtures;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use serde_json::Value;

use super::{copy_folder, options, vocabulary};

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
    let imported = import.write(&bundle, &mut |progress| {
        if progress.step == ImportStep::Write {
            largest = largest.max(progress.done);
        }
    })?;
    ensure!(imported.changed.is_empty(), "{:?}", imported.changed);
    ensure!(largest == import.bytes(), "{largest} of {}", import.bytes());
    ensure!(
        modified(&bundle.join("language.safetensors"))? == before,
        "it was written again"
    );
    ensure!(!staging(&bundle).exists());
    ensure!(imported.manifest.files.len() == 3);
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

/// The parts with copies of base and adapter, which can be changed.
fn copied_parts(dir: &Path) -> Result<ImportParts> {
    let mut parts = parts(dir)?;
    let base = dir.join("base");
    copy_folder(parts.base.as_deref().context("no base")?, &base)?;
    parts.base = Some(base);
    Ok(parts)
}

/// The published files that a bundle says it was made of.
fn sources(bundle: &Path) -> Result<Vec<SourceFile>> {
    let mut record: Value = serde_json::from_slice(&fs::read(bundle.join("import.json"))?)?;
    Ok(serde_json::from_value(record["sources"].take())?)
}

#[test]
fn a_bundle_names_every_file_that_it_was_made_of_with_its_hash() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let parts = parts(dir.path())?;
    let bundle = dir.path().join("bundle");
    Import::plan(&parts, options())?.write(&bundle, &mut |_| {})?;
    let sources = sources(&bundle)?;
    for source in &sources {
        let content = fs::read(&source.file)?;
        ensure!(source.entry.size == content.len() as u64, "{source:?}");
        ensure!(
            source.entry.sha256 == ContentHash::of(&content),
            "{source:?}"
        );
    }
    let has = |folder: &Path, name: &str| {
        let mut files = sources.iter().map(|source| &source.file);
        files.any(|file| *file == folder.join(name))
    };
    let base = parts.base.context("no base")?;
    for shard in fs::read_dir(&base)? {
        let name = shard?.file_name().to_string_lossy().into_owned();
        let is_read = name.ends_with(".safetensors") || name == "config.json";
        ensure!(!is_read || has(&base, &name), "{name} of {sources:?}");
    }
    let (_, adapter) = &parts.adapters[0];
    ensure!(has(adapter, "adapter_model.safetensors"), "{sources:?}");
    ensure!(has(adapter, "adapter_config.json"), "{sources:?}");
    let tokenizer = parts.tokenizer.context("no tokenizer")?;
    ensure!(
        sources.iter().any(|source| source.file == tokenizer),
        "{sources:?}"
    );
    Ok(())
}

#[test]
fn a_published_file_that_changed_since_the_interruption_is_named_and_read_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let parts = copied_parts(dir.path())?;
    let obstacle = staging(&bundle).join("adapter.safetensors.partial");
    fs::create_dir_all(&obstacle)?;
    let import = Import::plan(&parts, options())?;
    ensure!(import.write(&bundle, &mut |_| {}).is_err());
    fs::remove_dir(&obstacle)?;
    let written = fs::read(staging(&bundle).join("language.safetensors"))?;

    let base = parts.base.as_deref().context("no base")?;
    let mut files = fs::read_dir(base)?.map(|entry| Ok(entry?.path()));
    let weights = files.find(|file: &Result<PathBuf>| {
        file.as_ref()
            .is_ok_and(|file| file.extension().is_some_and(|end| end == "safetensors"))
    });
    let weights = weights.context("no weights")??;
    let mut content = fs::read(&weights)?;
    // The lowest bit of a number, which stays finite.
    let at = content.len() - 4;
    content[at] ^= 1;
    let then = modified(&weights)?;
    fs::write(&weights, content)?;
    // A file system's clock may not have ticked since the copy.
    fs::File::options()
        .write(true)
        .open(&weights)?
        .set_modified(then + Duration::from_secs(1))?;
    let imported = Import::plan(&parts, options())?.write(&bundle, &mut |_| {})?;
    ensure!(
        imported.changed == [weights.clone()],
        "{:?}",
        imported.changed
    );
    ensure!(
        fs::read(bundle.join("language.safetensors"))? != written,
        "the file of the first try was kept"
    );
    Ok(())
}

#[test]
fn a_published_file_that_changes_during_the_import_gives_no_bundle() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let parts = copied_parts(dir.path())?;
    let config = parts
        .base
        .as_deref()
        .context("no base")?
        .join("config.json");
    let text = fs::read_to_string(&config)?;
    let import = Import::plan(&parts, options())?;
    let error = import.write(&bundle, &mut |progress| {
        if progress.step == ImportStep::Write {
            fs::write(&config, format!("{text}\n")).unwrap();
        }
    });
    let error = error.unwrap_err().to_string();
    ensure!(
        error.contains("config.json") && error.contains("was changed while it was imported"),
        "{error}"
    );
    ensure!(!bundle.exists());
    Import::plan(&parts, options())?.write(&bundle, &mut |_| {})?;
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
    let holder = format!("another import writes it (process {}", std::process::id());
    ensure!(error.contains(&holder), "{error}");
    let left = fs::read_dir(&bundle)?.map(|entry| Ok(entry?.file_name()));
    let left = left.collect::<Result<Vec<_>>>()?;
    ensure!(left.iter().all(|name| name != "import.lock"), "{left:?}");
    let error = import.write(&bundle, &mut |_| {}).unwrap_err().to_string();
    ensure!(error.contains("it is there already"), "{error}");
    Ok(())
}

#[test]
fn a_dry_run_says_what_is_needed_and_what_is_free_and_writes_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let parts = parts(dir.path())?;
    let import = Import::plan(&parts, options())?;
    let mut command = radialog(&["bundle", "import"])?;
    command.arg(&bundle).arg("--dry-run");
    command.args([
        "--base".as_ref(),
        parts.base.context("no base")?.as_os_str(),
    ]);
    let tokenizer = parts.tokenizer.context("no tokenizer")?;
    command.args(["--tokenizer".as_ref(), tokenizer.as_os_str()]);
    let (name, adapter) = &parts.adapters[0];
    command.args(["--adapter", &format!("{name}={}", adapter.display())]);
    let output = command.output_in_time()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{output:?}");
    let expected = format!(
        "'{}' needs {} bytes",
        bundle.display(),
        import.space(&bundle).needed
    );
    ensure!(said.contains(&expected), "{expected}: {said}");
    ensure!(said.contains("its file system has"), "{said}");
    ensure!(!bundle.exists() && !staging(&bundle).exists());
    Ok(())
}

/// The command in a shell that allows files of so many blocks; beyond, writing fails as on a full disk, whether or not the shell ignores
/// the signal that would kill the process in the middle of a file.
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
fn a_full_disk_leaves_no_bundle_and_the_next_import_is_whole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bundle = dir.path().join("bundle");
    let parts = parts(dir.path())?;
    for ignored in [true, false] {
        let full = limited(&bundle, &parts, ignored)?.output_in_time()?;
        let message = String::from_utf8_lossy(&full.stderr).into_owned();
        ensure!(full.status.code() == Some(1), "{message}");
        ensure!(
            message.contains("cannot write") && message.contains("language.safetensors"),
            "{message}"
        );
        ensure!(
            message.contains(".bundle.import") && message.contains("run the same command again"),
            "{message}"
        );
        ensure!(!bundle.exists(), "a bundle after a full disk");
        ensure!(
            Bundle::open(&staging(&bundle)).is_err(),
            "what is half made is taken for a bundle"
        );
    }

    Import::plan(&parts, options())?.write(&bundle, &mut |_| {})?;
    Bundle::open_with(&bundle, &[Stage::Language], &HashCache::user())?.verify()?;
    Ok(())
}
