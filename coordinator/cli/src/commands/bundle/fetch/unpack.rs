//! The release's folders are zip files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use radialog_files::durable::Replacement;
use radialog_models::free_space::SpaceNeeded;
use zip::{CompressionMethod, ZipArchive};

/// The CRC-32 of a file.
fn checksum(path: &Path) -> anyhow::Result<u32> {
    let file = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
    let mut content = CrcReader::new(BufReader::new(file));
    io::copy(&mut content, &mut io::sink())
        .with_context(|| format!("cannot read '{}'", path.display()))?;
    Ok(content.crc().sum())
}

/// Whether a writer of macOS has put it there, for itself.
fn is_system(inner: &Path) -> bool {
    let mut parts = inner.components();
    parts.any(|part| part.as_os_str() == "__MACOSX")
}

/// Checks that there is room for the files that are not there yet.
fn check_space(zip: &mut ZipArchive<BufReader<File>>, dir: &Path) -> anyhow::Result<()> {
    let mut needed = 0_u64;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index)?;
        let Some(inner) = entry.enclosed_name().filter(|inner| !is_system(inner)) else {
            continue;
        };
        let there = fs::metadata(dir.join(inner)).is_ok_and(|meta| meta.len() == entry.size());
        if !there {
            needed = needed.saturating_add(entry.size());
        }
    }
    SpaceNeeded::look(dir, needed).check()?;
    Ok(())
}

/// Unpacks a zip file into a folder. Files that are there with their content stay.
pub(super) fn unpack(archive: &Path, dir: &Path) -> anyhow::Result<()> {
    let file =
        File::open(archive).with_context(|| format!("cannot open '{}'", archive.display()))?;
    let name = archive.display();
    let mut zip = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("'{name}' is no whole zip file"))?;
    check_space(&mut zip, dir).with_context(|| format!("'{name}'"))?;
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .with_context(|| format!("'{name}'"))?;
        let Some(inner) = entry.enclosed_name() else {
            bail!("'{name}' has an entry outside of its folder");
        };
        if entry.is_dir() || is_system(&inner) {
            continue;
        }
        let path = dir.join(&inner);
        let size = entry.size();
        if fs::metadata(&path).is_ok_and(|meta| meta.len() == size)
            && checksum(&path)? == entry.crc32()
        {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create '{}'", parent.display()))?;
        }
        let (method, crc) = (entry.compression(), entry.crc32());
        let content: Box<dyn Read> = match method {
            CompressionMethod::Stored => Box::new(entry),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(entry)),
            other => bail!(
                "'{name}' has '{}' packed by {other}: unpack it by hand",
                inner.display()
            ),
        };
        // Raw entries are not checked by the library.
        let mut content = CrcReader::new(content);
        let write = || format!("cannot write '{}'", path.display());
        let mut out = Replacement::create(&path).with_context(write)?;
        // One byte more than is announced is enough to see that it lies.
        let written = io::copy(&mut (&mut content).take(size.saturating_add(1)), &mut out)
            .with_context(write)?;
        ensure!(
            written == size && content.crc().sum() == crc,
            "'{}' in '{name}' is damaged: download it again",
            inner.display()
        );
        out.commit().with_context(write)?;
    }
    Ok(())
}
