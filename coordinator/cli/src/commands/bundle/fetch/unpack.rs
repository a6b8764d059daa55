//! The release's folders are zip files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use radialog_models::durable::Replacement;
use zip::{CompressionMethod, ZipArchive};

/// The CRC-32 of a file.
fn checksum(path: &Path) -> anyhow::Result<u32> {
    let file = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
    let mut content = CrcReader::new(BufReader::new(file));
    io::copy(&mut content, &mut io::sink())
        .with_context(|| format!("cannot read '{}'", path.display()))?;
    Ok(content.crc().sum())
}

/// Unpacks a zip file into a folder. Files that are there with their content stay.
pub(super) fn unpack(archive: &Path, dir: &Path) -> anyhow::Result<()> {
    let file =
        File::open(archive).with_context(|| format!("cannot open '{}'", archive.display()))?;
    let name = archive.display();
    let mut zip = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("'{name}' is no whole zip file"))?;
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .with_context(|| format!("'{name}'"))?;
        let Some(inner) = entry.enclosed_name() else {
            bail!("'{name}' has an entry outside of its folder");
        };
        let system = inner
            .components()
            .any(|part| part.as_os_str() == "__MACOSX");
        if entry.is_dir() || system {
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
