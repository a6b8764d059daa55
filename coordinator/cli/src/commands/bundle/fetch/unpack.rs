//! The release's folders are zip files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use radialog_files::durable::Replacement;
use radialog_models::free_space::SpaceNeeded;
use radialog_schemas::RelativePath;
use radialog_schemas::system_files::is_below_system_file;
use zip::{CompressionMethod, ZipArchive};

/// The CRC-32 of a file.
fn checksum(path: &Path) -> anyhow::Result<u32> {
    let file = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
    let mut content = CrcReader::new(BufReader::new(file));
    io::copy(&mut content, &mut io::sink())
        .with_context(|| format!("cannot read '{}'", path.display()))?;
    Ok(content.crc().sum())
}

/// The files of the release by their places in the zip file, without those of a system.
///
/// # Errors
/// Where any entry has a name that no file below a folder has: it is not the published zip file.
fn files(zip: &ZipArchive<BufReader<File>>) -> anyhow::Result<Vec<(usize, RelativePath)>> {
    let mut files = Vec::with_capacity(zip.len());
    for (index, name) in zip.file_names().enumerate() {
        let name = name?;
        // Some writers begin every name with the folder itself, and put that there, too.
        let name = name.strip_prefix("./").unwrap_or(&name);
        if name.is_empty() {
            continue;
        }
        // A folder in a zip is closed by a slash.
        let folder = name.strip_suffix('/');
        let inner = folder.unwrap_or(name);
        if is_below_system_file(inner) {
            continue;
        }
        let inner = RelativePath::parse(inner)?;
        if folder.is_none() {
            files.push((index, inner));
        }
    }
    Ok(files)
}

/// Checks that there is room for the files that are not there yet.
fn check_space(
    zip: &mut ZipArchive<BufReader<File>>,
    files: &[(usize, RelativePath)],
    dir: &Path,
) -> anyhow::Result<()> {
    let mut needed = 0_u64;
    for (index, inner) in files {
        let size = zip.by_index_raw(*index)?.size();
        if !fs::metadata(dir.join(inner)).is_ok_and(|meta| meta.len() == size) {
            needed = needed.saturating_add(size);
        }
    }
    SpaceNeeded::look(dir, needed).check()?;
    Ok(())
}

/// Unpacks a zip file into a folder. Files that are there with their content stay; nothing is written where an entry's name could
/// lead out of the folder.
pub(super) fn unpack(archive: &Path, dir: &Path) -> anyhow::Result<()> {
    let file =
        File::open(archive).with_context(|| format!("cannot open '{}'", archive.display()))?;
    let name = archive.display();
    let mut zip = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("'{name}' is no whole zip file"))?;
    let files = files(&zip).with_context(|| {
        format!("'{name}' is not unpacked: it is not the published file; download it again, or unpack it by hand")
    })?;
    check_space(&mut zip, &files, dir).with_context(|| format!("'{name}'"))?;
    for (index, inner) in files {
        let entry = zip
            .by_index_raw(index)
            .with_context(|| format!("'{name}'"))?;
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
            other => bail!("'{name}' has '{inner}' packed by {other}: unpack it by hand"),
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
            "'{inner}' in '{name}' is damaged: download it again"
        );
        out.commit().with_context(write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A zip file of files, each with its name as its content.
    fn zipped(path: &Path, names: &[&str]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for name in names {
            zip.start_file(*name, stored).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn files_are_unpacked_without_folders_and_what_a_system_adds() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("release.zip");
        let finders = ["__MACOSX/a/._b", "a/Icon\r", "a/.DS_Store"];
        let names = [&["./", "a/", "a/b"][..], &finders[..], &["./c"]].concat();
        zipped(&archive, &names);
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        unpack(&archive, &out).unwrap();
        for (file, content) in [("a/b", "a/b"), ("c", "./c")] {
            assert_eq!(fs::read_to_string(out.join(file)).unwrap(), content);
        }
        for file in finders {
            assert!(!out.join(file).exists(), "{file:?}");
        }
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("release.zip");
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        for (bad, reason) in [
            ("../x", "'..'"),
            ("/x", "absolute"),
            ("/x/", "absolute"),
            ("a/../x", "'..'"),
            ("a\\x", "backslash"),
            ("a\nx", "control character"),
        ] {
            zipped(&archive, &["good", bad]);
            let error = unpack(&archive, &out).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(reason), "{bad:?}: {error}");
            assert!(error.contains("download it again"), "{bad:?}: {error}");
            assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{bad:?}");
            assert!(!dir.path().join("x").exists(), "{bad:?}");
        }
    }
}
