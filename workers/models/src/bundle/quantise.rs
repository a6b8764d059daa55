//! A bundle whose language model's base is quantised, made of one that has it in numbers. Everything else, the adapters among
//! it, is taken as it is. Some rows of a matrix are in memory at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{RelativePath, Stage};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde::Serialize;

use super::components::{LanguageComponent, WEIGHTS};
use super::weight_types::WeightTypes;
use super::weights::MappedWeights;
use super::writer::SafetensorsWriter;
use super::{Bundle, BundleError, HashCache, hashes};
use crate::free_space::SpaceNeeded;
use crate::ggml;
use crate::tensors::TensorHeader;
use radialog_files::durable::{self, NewDirectory};

/// Values that one thread quantises at a time, some rows of a matrix.
const PART: usize = 1 << 18;
/// Parts that are in memory at a time.
const PARTS: usize = 32;
/// What the bundle was made of, in the bundle.
const RECORD: &str = "quantised.json";

/// A bundle to make of another one.
#[derive(Clone, Debug)]
pub struct BundleQuantisation {
    /// The new bundle's name.
    pub name: String,
    /// The types of its matrices.
    pub to: WeightTypes,
}

/// A bundle that was made.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// Its manifest.
    pub manifest: Manifest,
    /// The number of its matrices of each type, by the type's name; matrices whose rows are no whole number of blocks of 32
    /// keep the numbers that they had, and are counted as "unchanged".
    pub matrices: BTreeMap<String, usize>,
}

/// What is written into the bundle for people.
#[derive(Serialize)]
struct Record<'a> {
    source: &'a str,
    source_version: &'a str,
    source_hash: String,
    to: WeightTypes,
    matrices: &'a BTreeMap<String, usize>,
}

/// A tensor of the new file.
struct Planned {
    /// As it stands in the source.
    name: String,
    shape: Vec<usize>,
    header: TensorHeader,
    ggml: Option<GgmlDType>,
}

impl BundleQuantisation {
    /// Writes the bundle beside `dir` and renames it when it is whole. `progress` gets the bytes of weights that are written,
    /// and all of them.
    ///
    /// # Errors
    /// A source that cannot be opened, has no language model, or has a quantised one; `dir` is there already, or its file
    /// system has not the room; files that cannot be read or written.
    pub fn write(
        &self,
        source: &Path,
        dir: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Quantised, BundleError> {
        if dir.exists() {
            return Err(BundleError::IsThere(dir.to_owned()));
        }
        let manifest = super::read_manifest(source)?;
        let stages: Vec<Stage> = manifest.components.keys().copied().collect();
        let bundle = Bundle::open_with(source, &stages, &HashCache::user())?;
        let planned = self.plan(&bundle)?;
        let headers: Vec<TensorHeader> = planned.iter().map(|one| one.header.clone()).collect();
        let types = planned
            .iter()
            .filter_map(|one| Some((one.name.clone(), one.ggml?)))
            .collect();
        let mut manifest = bundle.manifest.clone();
        take_base(&mut manifest);
        let copied: u64 = manifest.files.values().map(|entry| entry.size).sum();
        let written = SafetensorsWriter::size(&headers, &types);
        SpaceNeeded::look(dir, copied + written).check()?;

        let pending = NewDirectory::create(dir).map_err(BundleError::io("create", dir))?;
        let place = pending.partial();
        for (path, entry) in &manifest.files {
            copy(&source.join(path), &place.join(path), entry)?;
        }
        let name = free_name(&manifest);
        let weights = bundle.weights(Stage::Language, WEIGHTS)?;
        let writer = SafetensorsWriter::create_quantized(&place.join(&name), &headers, &types)?;
        let entry = write_tensors(&bundle, weights, &planned, writer, &mut |done| {
            progress(done, written);
        })?;
        let path = RelativePath::parse(&name).map_err(BundleError::unusable(dir))?;
        manifest.files.insert(path.clone(), entry);
        if let Some(component) = manifest.components.get_mut(&Stage::Language) {
            component.files.insert(WEIGHTS.to_owned(), path);
        }
        manifest.name.clone_from(&self.name);
        let mut matrices = BTreeMap::new();
        for one in planned.iter().filter(|one| is_matrix(&one.name)) {
            let name = one.ggml.map_or_else(|| "unchanged".to_owned(), ggml::name);
            *matrices.entry(name).or_default() += 1;
        }
        let record = Record {
            source: &bundle.manifest.name,
            source_version: &bundle.manifest.version,
            source_hash: bundle.manifest.hash().to_string(),
            to: self.to,
            matrices: &matrices,
        };
        write_json(&place.join(RECORD), &record)?;
        write_json(&place.join(MANIFEST_FILE), &manifest)?;
        pending
            .commit()
            .map_err(BundleError::io("put in place", dir))?;
        // Nobody has to hash again what was hashed while it was written.
        for (path, entry) in &manifest.files {
            if let Err(error) = HashCache::user().remember(&dir.join(path), entry.sha256.clone()) {
                tracing::warn!(%error, "a hash is not remembered and will be computed again");
            }
        }
        Ok(Quantised { manifest, matrices })
    }

    /// The tensors of the base in the order in which they are written: wide types first, so that every tensor starts at a
    /// multiple of its element's size.
    fn plan(&self, bundle: &Bundle) -> Result<Vec<Planned>, BundleError> {
        let stage = Stage::Language;
        let config: LanguageComponent = bundle.config(stage)?;
        let weights = bundle.weights(stage, WEIGHTS)?;
        if !weights.quantized_types().is_empty() {
            let reason = "its language model is quantised already, and would lose twice: name the bundle that it was made of, \
                          or import its GGUF file with --dtype f32 and quantise that";
            return Err(BundleError::unusable(bundle.dir())(reason));
        }
        let llama = &config.llama;
        let (layers, tied) = (llama.num_hidden_layers, llama.tie_word_embeddings);
        let mut planned = Vec::new();
        for (name, shape) in weights.shapes() {
            let ggml = match shape {
                &[_, columns] if is_matrix(name) => self.to.of(name, columns, layers, tied),
                _ => None,
            };
            let (stored, dtype) = match (ggml, shape) {
                (Some(ggml), &[rows, columns]) => {
                    let row = ggml::row_bytes(ggml, columns).unwrap_or_default();
                    (vec![rows, row], Dtype::U8)
                }
                _ => (
                    shape.to_vec(),
                    weights.stored(name).map_or(Dtype::F32, |(dtype, _)| dtype),
                ),
            };
            planned.push(Planned {
                name: name.to_owned(),
                shape: shape.to_vec(),
                header: TensorHeader {
                    name: name.to_owned(),
                    shape: stored,
                    dtype,
                },
                ggml,
            });
        }
        planned.sort_by(|a, b| {
            let width = |one: &Planned| std::cmp::Reverse(one.header.dtype.bitsize());
            (width(a), &a.name).cmp(&(width(b), &b.name))
        });
        Ok(planned)
    }
}

/// Whether a tensor is a matrix of the decoder, its table of tokens or its head. The image projection is small, and what an
/// adapter trains; it keeps its numbers.
fn is_matrix(name: &str) -> bool {
    name.ends_with("_proj.weight") && name.starts_with("model.layers.")
        || ["model.embed_tokens.weight", "lm_head.weight"].contains(&name)
}

/// Takes the files of the base out of a manifest.
fn take_base(manifest: &mut Manifest) {
    let Manifest {
        components, files, ..
    } = manifest;
    if let Some(component) = components.get_mut(&Stage::Language) {
        let shards = format!("{WEIGHTS}.");
        component.files.retain(|usage, path| {
            let is_base = usage == WEIGHTS || usage.starts_with(&shards);
            if is_base {
                files.remove(path);
            }
            !is_base
        });
    }
}

/// A name for the file of the base that no other file has.
fn free_name(manifest: &Manifest) -> String {
    let taken = |name: &str| manifest.files.keys().any(|path| path.to_string() == name);
    let name = "language.safetensors".to_owned();
    match taken(&name) {
        true => format!("base.{name}"),
        false => name,
    }
}

/// Copies a file, and holds the copy to what the manifest says of it.
fn copy(from: &Path, to: &Path, entry: &FileEntry) -> Result<(), BundleError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(BundleError::io("create", folder))?;
    }
    durable::copy(from, to).map_err(BundleError::io("copy", from))?;
    match hashes::file_entry(to)? == *entry {
        true => Ok(()),
        false => {
            let reason = "it changed while it was copied: start again when nobody writes to it";
            Err(BundleError::unusable(from)(reason))
        }
    }
}

fn write_tensors(
    bundle: &Bundle,
    weights: &MappedWeights,
    planned: &[Planned],
    mut writer: SafetensorsWriter,
    progress: &mut dyn FnMut(u64),
) -> Result<FileEntry, BundleError> {
    let mut done = 0;
    for one in planned {
        let Some(ggml) = one.ggml else {
            let bytes = weights
                .stored(&one.name)
                .map_or(&[][..], |(_, bytes)| bytes);
            writer.write(bytes)?;
            done += bytes.len() as u64;
            progress(done);
            continue;
        };
        let (rows, columns) = (one.shape[0], one.shape[1]);
        let part = (PART / columns).max(1);
        let firsts: Vec<usize> = (0..rows).step_by(part).collect();
        for some in firsts.chunks(PARTS) {
            let quantised: Vec<Vec<u8>> = some
                .par_iter()
                .map(|first| {
                    let values = weights.rows(&one.name, *first..rows.min(first + part))?;
                    quantise(&values, columns, ggml)
                })
                .collect::<candle_core::Result<_>>()
                .map_err(bundle.model_error(Stage::Language))?;
            for bytes in quantised {
                writer.write(&bytes)?;
                done += bytes.len() as u64;
            }
            progress(done);
        }
    }
    writer.finish()
}

/// Rows in blocks of a type, as GGML writes them.
fn quantise(values: &[f32], columns: usize, ggml: GgmlDType) -> candle_core::Result<Vec<u8>> {
    let rows = Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu)?;
    Ok(QTensor::quantize(&rows, ggml)?.data()?.into_owned())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BundleError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(BundleError::unusable(path))?;
    text.push(b'\n');
    fs::write(path, text).map_err(BundleError::io("write", path))
}
