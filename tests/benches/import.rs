//! The import of a release of random weights, in every published container and shape: time, and the largest memory of the
//! process that imports. `cargo benchmark import -- v1 DIR` writes 14 GB of files below DIR (they are used again by the next
//! call), imports them into DIR/bundle-v1, and says what `radialog bundle import` took. `-- v1 DIR tiny` does it in miniature,
//! and without arguments both systems are done so in a temporary folder.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::Geometry;
use radialog_tests::benchmark::Usage;
use radialog_tests::processes::radialog;
use radialog_tests::release::{Release, write_release};

/// Bytes that are shown as one.
const GIB: f64 = 1_073_741_824.0;

fn main() -> Result<()> {
    let usage = Usage("cargo benchmark import -- [v1|v2 DIR [tiny]]");
    let arguments = usage.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            let dir = tempfile::tempdir()?;
            measure(Release::V1, "v1", dir.path(), Geometry::Tiny)?;
            measure(Release::V2, "v2", dir.path(), Geometry::Tiny)
        }
        ["v1", dir] => measure(Release::V1, "v1", Path::new(dir), Geometry::Published),
        ["v2", dir] => measure(Release::V2, "v2", Path::new(dir), Geometry::Published),
        ["v1", dir, "tiny"] => measure(Release::V1, "v1", Path::new(dir), Geometry::Tiny),
        ["v2", dir, "tiny"] => measure(Release::V2, "v2", Path::new(dir), Geometry::Tiny),
        _ => usage.refuse("nothing was imported"),
    }
}

fn measure(release: Release, name: &str, dir: &Path, geometry: Geometry) -> Result<()> {
    let files = dir.join(format!("release-{name}-{geometry}"));
    let written = files.join("written");
    if !written.is_file() {
        let started = Instant::now();
        fs::create_dir_all(&files)?;
        let bytes = write_release(release, geometry, &files)?;
        fs::write(&written, bytes.to_string())?;
        println!(
            "{name}, {geometry}: {:.2} GiB of files written in {:.1} s",
            bytes as f64 / GIB,
            started.elapsed().as_secs_f64()
        );
    }
    let bytes: u64 = fs::read_to_string(&written)?.parse()?;
    let bundle = dir.join(format!("bundle-{name}-{geometry}"));
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    let mut command = radialog(&["bundle", "import"])?;
    command.arg(&bundle).arg("--from").arg(&files);
    let (seconds, peak) = watched(command)?;
    let size = folder_size(&bundle)?;
    println!(
        "{name}, {geometry}: {:.2} GiB imported into {:.2} GiB in {seconds:.1} s ({:.0} MB/s), largest memory {:.0} MiB",
        bytes as f64 / GIB,
        size as f64 / GIB,
        size as f64 / 1e6 / seconds,
        peak as f64 / 1_048_576.0
    );
    Ok(())
}

/// Seconds that a command takes, and its largest memory in bytes, which Linux keeps until the process ends.
fn watched(mut command: Command) -> Result<(f64, u64)> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let status: PathBuf = format!("/proc/{}/status", child.id()).into();
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default() * 1024);
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(ended.success(), "the import failed: {ended}");
    Ok((started.elapsed().as_secs_f64(), peak))
}

fn folder_size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
