//! The files of an import, one after the other, each tensor after the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use radialog_schemas::bundle::{Component as ManifestComponent, FORMAT, FileEntry, Manifest};
use radialog_schemas::{ContentHash, RelativePath};

use super::error::ImportError;
use super::planned::PlannedFile;
use super::staging::Staging;
use super::tensor::PlannedTensor;
use super::{Import, ImportProgress};
use crate::bundle::components::TOKENIZER;
use crate::bundle::writer::SafetensorsWriter;
use crate::bundle::{BundleError, HashCache};
use crate::tensors::TensorHeader;

/// The report of an import, in the bundle.
const REPORT: &str = "import.json";

pub(super) fn write(
    import: &Import,
    place: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<Manifest, ImportError> {
    if place.exists() {
        let reason = "it is there already: name another folder, or remove it";
        return Err(ImportError::unusable(place)(reason));
    }
    let mut staging = Staging::open(place)?;
    let options = &import.options;
    let mut manifest = Manifest {
        format: FORMAT,
        name: options.name.clone(),
        version: options.version.clone(),
        random_weights: false,
        license: options.license.clone(),
        components: BTreeMap::new(),
        files: BTreeMap::new(),
    };
    let total = import.bytes();
    let mut done = 0;
    let mut names = Vec::new();
    for part in &import.components {
        let mut component = ManifestComponent {
            files: BTreeMap::new(),
            config: part.config.clone(),
        };
        let mut add = |usage: &str, name: &str, entry: FileEntry| -> Result<(), ImportError> {
            let path = RelativePath::parse(name).map_err(ImportError::unusable(place))?;
            component.files.insert(usage.to_owned(), path.clone());
            manifest.files.insert(path, entry);
            names.push(name.to_owned());
            Ok(())
        };
        for file in &part.files {
            let mut step = |bytes: usize| {
                done += bytes as u64;
                progress(ImportProgress {
                    file: &file.name,
                    done,
                    total,
                });
            };
            let entry = write_weights(&mut staging, file, &mut step)?;
            add(&file.usage, &file.name, entry)?;
        }
        if let Some((name, json)) = &part.tokenizer {
            let entry = write_text(&mut staging, name, json.as_bytes())?;
            add(TOKENIZER, name, entry)?;
        }
        manifest.components.insert(part.stage, component);
    }
    let report = pretty(&import.reports, place)?;
    write_text(&mut staging, REPORT, &report)?;
    names.push(REPORT.to_owned());
    staging.commit(place, &pretty(&manifest, place)?, &names)?;
    // Nobody has to hash again what was hashed while it was written.
    for (path, entry) in &manifest.files {
        let path = place.join(path);
        if let Err(error) = HashCache::user().remember(&path, entry.sha256.clone()) {
            tracing::warn!(%error, "a hash is not remembered and will be computed again");
        }
    }
    Ok(manifest)
}

fn write_weights(
    staging: &mut Staging,
    file: &PlannedFile,
    step: &mut dyn FnMut(usize),
) -> Result<FileEntry, ImportError> {
    let plan = fingerprint(file)?;
    if let Some(entry) = staging.kept(&file.name, &plan) {
        step(file.tensors.iter().map(|tensor| tensor.header.size()).sum());
        return Ok(entry);
    }
    // Wide types first, so that every tensor starts at a multiple of its element's size.
    let mut tensors: Vec<_> = file.tensors.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.header.dtype.bitsize()));
    let headers: Vec<TensorHeader> = tensors.iter().map(|tensor| tensor.header.clone()).collect();
    let partial = staging.path(&format!("{}.partial", file.name));
    let types = tensors
        .iter()
        .filter_map(|tensor| Some((tensor.header.name.clone(), tensor.ggml?)));
    let mut writer = SafetensorsWriter::create_quantized(&partial, &headers, &types.collect())?;
    for tensor in tensors {
        tensor.write(&mut |piece| {
            writer.write(piece)?;
            step(piece.len());
            Ok(())
        })?;
    }
    let entry = writer.finish()?;
    staging.finish(&partial, &file.name, plan, entry.clone())?;
    Ok(entry)
}

fn write_text(staging: &mut Staging, name: &str, content: &[u8]) -> Result<FileEntry, ImportError> {
    let entry = FileEntry {
        size: content.len() as u64,
        sha256: ContentHash::of(content),
    };
    let partial = staging.path(&format!("{name}.partial"));
    fs::write(&partial, content).map_err(BundleError::io("write", &partial))?;
    let file = fs::File::open(&partial).and_then(|file| file.sync_all());
    file.map_err(BundleError::io("write", &partial))?;
    staging.finish(&partial, name, entry.sha256.clone(), entry.clone())?;
    Ok(entry)
}

/// The hash of all that determines a file: its tensors with their sources, and what these files look like now.
fn fingerprint(file: &PlannedFile) -> Result<ContentHash, ImportError> {
    let mut lines: Vec<String> = file.tensors.iter().map(PlannedTensor::identity).collect();
    let mut sources: Vec<_> = file
        .tensors
        .iter()
        .flat_map(|tensor| tensor.files())
        .collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        let meta = fs::metadata(source).map_err(BundleError::io("read", source))?;
        lines.push(format!(
            "{source:?} {} {} {} {}",
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ino()
        ));
    }
    Ok(ContentHash::of(lines.join("\n").as_bytes()))
}

fn pretty(value: &impl serde::Serialize, place: &Path) -> Result<Vec<u8>, ImportError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(ImportError::unusable(place))?;
    text.push(b'\n');
    Ok(text)
}
