//! The files of an import, one after the other, each tensor after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use radialog_schemas::bundle::{Component as ManifestComponent, FORMAT, FileEntry, Manifest};
use radialog_schemas::{ContentHash, RelativePath};
use serde::{Deserialize, Serialize};

use super::error::ImportError;
use super::planned::PlannedFile;
use super::report::ComponentReport;
use super::source_files::{SourceFile, SourceFiles};
use super::staging::{Leftover, PARTIAL, Staging, check_free};
use super::tensor::PlannedTensor;
use super::{Import, ImportProgress, ImportStep, Imported, space};
use crate::bundle::components::TOKENIZER;
use crate::bundle::writer::SafetensorsWriter;
use crate::bundle::{BundleError, HashCache, read_manifest};
use crate::free_space::SpaceNeeded;

/// The record of an import, in the bundle.
const RECORD: &str = "import.json";

/// What a bundle was made of.
#[derive(Serialize)]
struct ImportRecord<'a> {
    /// The published files that were read.
    sources: &'a [SourceFile],
    /// What of them each component has.
    components: &'a [ComponentReport],
}

/// The published files that the bundle in this folder was made of; nothing where there is no whole bundle that an import made.
pub(super) fn sources(bundle: &Path) -> Option<Vec<SourceFile>> {
    #[derive(Deserialize)]
    struct Record {
        sources: Vec<SourceFile>,
    }
    read_manifest(bundle).ok()?;
    let record: Record = serde_json::from_slice(&fs::read(bundle.join(RECORD)).ok()?).ok()?;
    Some(record.sources)
}

pub(super) fn write(
    import: &Import,
    place: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<Imported, ImportError> {
    check_free(place)?;
    space::look(import, place).check()?;
    let staging = Staging::open(place)?;
    let folder = staging.path("");
    write_into(import, place, staging, progress).map_err(|error| ImportError::Kept {
        folder,
        source: Box::new(error),
    })
}

fn write_into(
    import: &Import,
    place: &Path,
    mut staging: Staging,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<Imported, ImportError> {
    let mut hashing = |file: &str, done, total| {
        progress(ImportProgress {
            step: ImportStep::Hash,
            file,
            done,
            total,
        });
    };
    let sources = SourceFiles::hash(&import.components, &mut hashing)?;
    let listed = sources.list();
    let changed = staging.record_sources(&listed)?;
    let plans = fingerprints(import, &sources)?;
    // Now that the files are known, more may have to be written again than it seemed.
    let needed = space::needed(import, |file, _| {
        let plan = plans.get(file.name.as_str());
        plan.is_some_and(|plan| staging.is_finished(&file.name, plan))
    });
    let unfinished = Leftover::of(place).unfinished;
    SpaceNeeded::look(place, needed.saturating_sub(unfinished)).check()?;
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
        let mut component = ManifestComponent::of(part.config.clone());
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
                    step: ImportStep::Write,
                    file: &file.name,
                    done,
                    total,
                });
            };
            let entry = write_weights(&mut staging, file, &plans[file.name.as_str()], &mut step)?;
            add(&file.usage, &file.name, entry)?;
        }
        if let Some((name, json)) = &part.tokenizer {
            let entry = write_text(&mut staging, name, json.as_bytes())?;
            done += entry.size;
            progress(ImportProgress {
                step: ImportStep::Write,
                file: name,
                done,
                total,
            });
            add(TOKENIZER, name, entry)?;
        }
        manifest.components.insert(part.stage, component);
    }
    let record = ImportRecord {
        sources: &listed,
        components: &import.reports,
    };
    write_text(&mut staging, RECORD, &pretty(&record, place)?)?;
    names.push(RECORD.to_owned());
    sources.check_unchanged()?;
    staging.commit(place, &pretty(&manifest, place)?, &names)?;
    // Nobody has to hash again what was hashed while it was written.
    for (path, entry) in &manifest.files {
        let path = place.join(path);
        if let Err(error) = HashCache::user().remember(&path, entry.sha256.clone()) {
            tracing::warn!(%error, "a hash is not remembered and will be computed again");
        }
    }
    Ok(Imported { manifest, changed })
}

fn write_weights(
    staging: &mut Staging,
    file: &PlannedFile,
    plan: &ContentHash,
    step: &mut dyn FnMut(usize),
) -> Result<FileEntry, ImportError> {
    if let Some(entry) = staging.kept(&file.name, plan) {
        step(file.tensors.iter().map(|tensor| tensor.header.size()).sum());
        return Ok(entry);
    }
    let tensors = space::ordered(file);
    let (headers, types) = space::header(&tensors);
    let partial = staging.path(&format!("{}{PARTIAL}", file.name));
    let mut writer = SafetensorsWriter::create_quantized(&partial, &headers, &types)?;
    for tensor in tensors {
        tensor.write(&mut |piece| {
            writer.write(piece)?;
            step(piece.len());
            Ok(())
        })?;
    }
    let entry = writer.finish()?;
    staging.finish(&partial, &file.name, plan.clone(), entry.clone())?;
    Ok(entry)
}

fn write_text(staging: &mut Staging, name: &str, content: &[u8]) -> Result<FileEntry, ImportError> {
    let entry = FileEntry {
        size: content.len() as u64,
        sha256: ContentHash::of(content),
    };
    let partial = staging.path(&format!("{name}{PARTIAL}"));
    fs::write(&partial, content).map_err(BundleError::io("write", &partial))?;
    let file = fs::File::open(&partial).and_then(|file| file.sync_all());
    file.map_err(BundleError::io("write", &partial))?;
    staging.finish(&partial, name, entry.sha256.clone(), entry.clone())?;
    Ok(entry)
}

/// The fingerprint of each weights file, by its name.
fn fingerprints<'a>(
    import: &'a Import,
    sources: &SourceFiles,
) -> Result<BTreeMap<&'a str, ContentHash>, ImportError> {
    let files = import.components.iter().flat_map(|part| &part.files);
    let plans = files.map(|file| Ok((file.name.as_str(), fingerprint(file, sources)?)));
    plans.collect()
}

/// The hash of all that determines a file: its tensors with their sources, and the content of these files.
fn fingerprint(file: &PlannedFile, sources: &SourceFiles) -> Result<ContentHash, ImportError> {
    let mut lines: Vec<String> = file.tensors.iter().map(PlannedTensor::identity).collect();
    let files: BTreeSet<&Path> = file.tensors.iter().flat_map(PlannedTensor::files).collect();
    for source in files {
        let sha256 = sources
            .sha256(source)
            .ok_or_else(|| ImportError::unusable(source)("it was not hashed"))?;
        lines.push(format!("{source:?} {sha256}"));
    }
    Ok(ContentHash::of(lines.join("\n").as_bytes()))
}

fn pretty(value: &impl Serialize, place: &Path) -> Result<Vec<u8>, ImportError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(ImportError::unusable(place))?;
    text.push(b'\n');
    Ok(text)
}
