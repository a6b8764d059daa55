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
use super::weights::MappedWeights;
use super::writer::SafetensorsWriter;
use super::{Bundle, BundleError, HashCache, hashes};
use crate::durable::NewDirectory;
use crate::free_space::SpaceNeeded;
use crate::ggml;
use crate::tensors::TensorHeader;

/// Values that one thread quantises at a time, some rows of a matrix.
const PART: usize = 1 << 18;
/// Parts that are in memory at a time.
const PARTS: usize = 32;
/// What the bundle was made of, in the bundle.
const RECORD: &str = "quantised.json";

/// The quantised types of a model's matrices together, as llama.cpp names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum WeightTypes {
    /// Eight bits and a scale for 32 numbers: 8.5 bits a number.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Six bits and scales of scales: 6.6 bits a number.
    #[serde(rename = "q6_k")]
    Q6K,
    /// Four bits and scales of scales, six for the matrices that suffer most: 4.8 bits a number.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// Four bits and a scale for 32 numbers, six for the output head: 4.5 bits a number.
    #[serde(rename = "q4_0")]
    Q4_0,
}

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

impl WeightTypes {
    /// All of them, the most exact first.
    pub const ALL: [WeightTypes; 4] = [Self::Q8_0, Self::Q6K, Self::Q4KM, Self::Q4_0];

    /// The name of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q4KM => "q4_k_m",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The type of a matrix of a model of so many layers, as llama.cpp chooses it; a table that is the output head, too,
    /// counts as that. Rows that are no whole number of blocks of 256 get eight bits, those of none of 32 nothing.
    fn of(self, name: &str, columns: usize, layers: usize, tied: bool) -> Option<GgmlDType> {
        let is_head = match tied {
            true => name == "model.embed_tokens.weight",
            false => name == "lm_head.weight",
        };
        let layer = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let finer = ["v_proj", "down_proj"]
            .iter()
            .any(|part| name.contains(part));
        // The first and the last eighth of the layers, and every third between them.
        let suffers = layer.is_some_and(|layer| {
            let eighth = layers / 8;
            layer < eighth || layer >= 7 * layers / 8 || (layer - eighth.min(layer)) % 3 == 2
        });
        let wanted = match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q4KM if is_head || finer && suffers => GgmlDType::Q6K,
            Self::Q4KM => GgmlDType::Q4K,
            Self::Q4_0 if is_head => GgmlDType::Q6K,
            Self::Q4_0 => GgmlDType::Q4_0,
        };
        [wanted, GgmlDType::Q8_0]
            .into_iter()
            .find(|dtype| columns.is_multiple_of(dtype.block_size()))
    }
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
            let reason = "it is there already: name another folder, or remove it";
            return Err(BundleError::unusable(dir)(reason));
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
    fs::copy(from, to).map_err(BundleError::io("copy", from))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_llama_cpp_chooses() {
        let of = |to: WeightTypes, name: &str| to.of(name, 4096, 32, false).unwrap();
        let value = |layer| format!("model.layers.{layer}.self_attn.v_proj.weight");
        let finer: Vec<usize> = (0..32)
            .filter(|layer| of(WeightTypes::Q4KM, &value(*layer)) == GgmlDType::Q6K)
            .collect();
        // The layers of a 7B file that llama.cpp quantised.
        let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        assert_eq!(finer, expected);
        let query = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(of(WeightTypes::Q4KM, query), GgmlDType::Q4K);
        assert_eq!(of(WeightTypes::Q4KM, "lm_head.weight"), GgmlDType::Q6K);
        assert_eq!(of(WeightTypes::Q4_0, "lm_head.weight"), GgmlDType::Q6K);
        let table = "model.embed_tokens.weight";
        assert_eq!(of(WeightTypes::Q4_0, table), GgmlDType::Q4_0);
        assert_eq!(
            WeightTypes::Q4_0.of(table, 4096, 32, true),
            Some(GgmlDType::Q6K)
        );
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_eight_bits_or_stay() {
        let of = |columns| WeightTypes::Q4KM.of("lm_head.weight", columns, 2, false);
        assert_eq!(of(512), Some(GgmlDType::Q6K));
        assert_eq!(of(576), Some(GgmlDType::Q8_0));
        assert_eq!(of(40), None);
    }
}
