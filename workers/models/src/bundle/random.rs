//! Bundles with random weights, for tests and benchmarks: the same seed gives the same bytes on every machine. Weights
//! are drawn and written block by block, so that the published geometry (13.5 GB) needs no more memory than the tiny one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use radialog_schemas::bundle::{
    Component as ManifestComponent, FORMAT, FileEntry, MANIFEST_FILE, Manifest,
};
use radialog_schemas::{AdapterName, ContentHash, RelativePath, Stage};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde::Serialize;

use super::components::{ADAPTER, Component, DefaultAdapters, TOKENIZER, WeightsFile};
use super::configs::ComponentConfigs;
use super::error::BundleError;
use super::geometry::{Geometry, System};
use super::writer::SafetensorsWriter;
use crate::tensors::{Initialization, TensorHeader, TensorSpec};
use radialog_files::durable::NewDirectory;

/// Elements drawn before they are written.
const BLOCK: usize = 1 << 22;

/// Elements that one thread draws at a time.
const GRAIN: usize = 1 << 16;

/// A bundle whose outputs mean nothing.
#[derive(Clone, Debug)]
pub struct RandomBundle {
    /// The size of the networks.
    pub geometry: Geometry,
    /// The published system that they are of.
    pub system: System,
    /// Determines every weight.
    pub seed: u64,
    /// Stored type of the language model, [`Dtype::F16`], [`Dtype::BF16`] or [`Dtype::F32`]. The other networks are f32,
    /// as published.
    pub dtype: Dtype,
    /// Adapters of the language model by name, where there are several: the first one writes reports, the last one
    /// answers. None is the one without a name.
    pub adapters: Vec<AdapterName>,
    /// Blocks of the language model, where they are not those of the geometry: a measurement on a small machine has fewer.
    pub blocks: Option<usize>,
}

impl RandomBundle {
    /// The bundle of the quickstart.
    pub fn tiny(seed: u64) -> Self {
        Self {
            geometry: Geometry::Tiny,
            system: System::V1,
            seed,
            dtype: Dtype::F32,
            adapters: Vec::new(),
            blocks: None,
        }
    }

    /// Published shapes, the language model in f16 as published.
    pub fn published(seed: u64) -> Self {
        Self {
            geometry: Geometry::Published,
            system: System::V1,
            seed,
            dtype: Dtype::F16,
            adapters: Vec::new(),
            blocks: None,
        }
    }

    /// A directory name that says what is in it, and that changes when anything that determines the content does.
    pub fn directory_name(&self) -> String {
        let configs = self.configs();
        let tensors: Vec<_> = Stage::ALL
            .into_iter()
            .flat_map(|stage| self.weights(configs.get(stage)))
            .collect();
        let hash = ContentHash::of(format!("{configs:?} {tensors:?}").as_bytes());
        format!("{}-seed-{}-{}", self.name(), self.seed, hash.short())
    }

    fn name(&self) -> String {
        let system = match self.system {
            System::V1 => "",
            System::V2 => "v2-",
        };
        match self.blocks {
            None => format!("random-{system}{}", self.geometry),
            Some(blocks) => format!("random-{system}{}-{blocks}-blocks", self.geometry),
        }
    }

    /// Writes the bundle where there is none yet.
    ///
    /// # Errors
    /// As [`RandomBundle::write`].
    pub fn ensure(&self, dir: &Path) -> Result<(), BundleError> {
        let there = || dir.join(MANIFEST_FILE).exists();
        if there() {
            return Ok(());
        }
        match self.write(dir) {
            // Another process was faster; its bytes are the same.
            Err(_) if there() => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Writes the bundle beside `dir` and renames it when it is whole.
    ///
    /// # Errors
    /// `dir` exists and is not empty, or files cannot be written.
    pub fn write(&self, dir: &Path) -> Result<Manifest, BundleError> {
        let pending = NewDirectory::create(dir).map_err(BundleError::io("create", dir))?;
        let manifest = self.write_files(pending.partial())?;
        pending.commit().map_err(BundleError::io("replace", dir))?;
        Ok(manifest)
    }

    fn write_files(&self, dir: &Path) -> Result<Manifest, BundleError> {
        let configs = self.configs();
        let mut manifest = Manifest {
            format: FORMAT,
            name: self.name(),
            version: format!("seed-{}", self.seed),
            random_weights: true,
            license: "Random weights, made by `radialog bundle random`: no licence applies. Outputs mean nothing."
                .into(),
            components: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for stage in Stage::ALL {
            let part = configs.get(stage);
            let mut component = ManifestComponent::of(part.config());
            let mut add = |usage: &str, path: &str, entry: FileEntry| {
                let path = RelativePath::parse(path).expect("the files have plain names");
                component.files.insert(usage.to_owned(), path.clone());
                manifest.files.insert(path, entry);
            };
            for file in self.weights(part) {
                // Adapters have tensors of the same names, and are drawn apart.
                let stream = match file.usage.strip_prefix(ADAPTER) {
                    Some(name) if !name.is_empty() => format!("{}:{name}", self.seed),
                    _ => self.seed.to_string(),
                };
                let entry = write_weights(&dir.join(&file.name), file.tensors, &stream)?;
                add(&file.usage, &file.name, entry);
            }
            if let Some((name, json)) = part.tokenizer().zip(part.random_tokenizer()) {
                let entry = write_file(&dir.join(name), json.as_bytes())?;
                add(TOKENIZER, name, entry);
            }
            manifest.components.insert(stage, component);
        }
        write_file(&dir.join(MANIFEST_FILE), &pretty(&manifest))?;
        Ok(manifest)
    }

    fn configs(&self) -> ComponentConfigs {
        let mut configs = ComponentConfigs::of_system(self.system, self.geometry);
        if let Some(blocks) = self.blocks {
            configs.language.llama.num_hidden_layers = blocks;
        }
        if let (Some(first), Some(last)) = (self.adapters.first(), self.adapters.last()) {
            configs.language.adapters = configs
                .language
                .lora
                .take()
                .into_iter()
                .flat_map(|lora| {
                    self.adapters
                        .iter()
                        .map(move |name| (name.clone(), lora.clone()))
                })
                .collect();
            configs.language.default_adapters = Some(DefaultAdapters {
                report: first.clone(),
                chat: last.clone(),
            });
        }
        configs
    }

    fn weights(&self, component: &dyn Component) -> Vec<WeightsFile> {
        let weights = component.random_weights(self.dtype);
        weights.expect("both geometries are those of networks")
    }
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a manifest has only string keys")
}

fn write_file(path: &Path, content: &[u8]) -> Result<FileEntry, BundleError> {
    fs::write(path, content).map_err(BundleError::io("write", path))?;
    Ok(FileEntry {
        size: content.len() as u64,
        sha256: ContentHash::of(content),
    })
}

fn write_weights(
    path: &Path,
    mut specs: Vec<TensorSpec>,
    stream: &str,
) -> Result<FileEntry, BundleError> {
    // Wide types first, so that every tensor starts at a multiple of its element's size.
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.header.dtype.bitsize()));
    let headers: Vec<TensorHeader> = specs.iter().map(|spec| spec.header.clone()).collect();
    let mut writer = SafetensorsWriter::create(path, &headers)?;
    let mut buffer = Vec::new();
    for spec in &specs {
        let width = spec.header.dtype.bitsize() / 8;
        let elements = spec.header.size() / width;
        let key = fnv1a(&format!("{stream}:{}", spec.header.name));
        for start in (0..elements).step_by(BLOCK) {
            buffer.resize(BLOCK.min(elements - start) * width, 0);
            buffer
                .par_chunks_mut(GRAIN * width)
                .enumerate()
                .for_each(|(grain, bytes)| {
                    draw(spec, key, start + grain * GRAIN, bytes);
                });
            writer.write(&buffer)?;
        }
    }
    writer.finish()
}

/// Fills `bytes` with the tensor's elements from index `first` on.
fn draw(spec: &TensorSpec, key: u64, first: usize, bytes: &mut [u8]) {
    let value = |i: usize| match spec.init {
        Initialization::Counting => i as f32,
        Initialization::Uniform {
            centre,
            spread: 0.0,
        } => centre,
        Initialization::Uniform { centre, spread } => centre + spread * uniform(key, i as u64),
        Initialization::Words {
            width, first, end, ..
        } if i / width < first && i / width != end => 0.0,
        Initialization::Words { spread, .. } => spread * uniform(key, i as u64),
    };
    match spec.header.dtype {
        Dtype::F16 => fill(bytes, first, |i| f16::from_f32(value(i)).to_le_bytes()),
        Dtype::BF16 => fill(bytes, first, |i| bf16::from_f32(value(i)).to_le_bytes()),
        Dtype::I64 => fill(bytes, first, |i| (i as i64).to_le_bytes()),
        _ => fill(bytes, first, |i| value(i).to_le_bytes()),
    }
}

fn fill<const WIDTH: usize>(bytes: &mut [u8], first: usize, encode: impl Fn(usize) -> [u8; WIDTH]) {
    for (i, out) in bytes.chunks_exact_mut(WIDTH).enumerate() {
        out.copy_from_slice(&encode(first + i));
    }
}

/// Element `i` of a stream, in [-1, 1): SplitMix64 (Steele et al., 2014), which can start anywhere.
fn uniform(key: u64, i: u64) -> f32 {
    let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    ((z >> 40) as f32 - 8_388_608.0) / 8_388_608.0
}

/// FNV-1a, 64 bits: gives each tensor a stream of its own.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_bytes_that_it_always_gave() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        RandomBundle::tiny(7).write(&bundle).unwrap();
        // The manifest has the hash of every other file.
        let manifest = fs::read(bundle.join(MANIFEST_FILE)).unwrap();
        assert_eq!(
            ContentHash::of(&manifest).to_string(),
            "54e6e5a86c3accf57cd628ee508b2210ac1b45375b36617ce580cad13bd82330"
        );
    }

    #[test]
    fn the_published_geometry_has_the_order_and_the_initialisation_that_it_always_had() {
        let configs = ComponentConfigs::of(Geometry::Published);
        let files = Stage::ALL.into_iter().flat_map(|stage| {
            let component = configs.get(stage);
            component.weights(Dtype::F16).unwrap()
        });
        let digests: Vec<String> = files
            .map(|file| {
                let lines: String = file.tensors.iter().map(line).collect();
                ContentHash::of(lines.as_bytes()).short().to_string()
            })
            .collect();
        let expected = [
            "3ea3692b6ed4",
            "04aef67378c8",
            "0244d44535f2",
            "ec0ee7b92c45",
            "670194dd2955",
        ];
        assert_eq!(digests, expected);
    }

    #[test]
    fn a_bundle_of_fewer_blocks_says_so_and_has_the_weights_of_the_others() {
        let whole = RandomBundle::tiny(7);
        let part = RandomBundle {
            blocks: Some(1),
            ..whole.clone()
        };
        assert_ne!(part.directory_name(), whole.directory_name());
        let names = |bundle: &RandomBundle| -> Vec<String> {
            let files = bundle.weights(bundle.configs().get(Stage::Language));
            let specs = files.into_iter().flat_map(|file| file.tensors);
            specs.map(|spec| spec.header.name).collect()
        };
        let is_of_second = |name: &String| name.contains("layers.1.");
        let mut expected = names(&whole);
        assert!(expected.iter().any(is_of_second));
        expected.retain(|name| !is_of_second(name));
        assert_eq!(names(&part), expected);
        let dir = tempfile::tempdir().unwrap();
        let manifest = part.write(&dir.path().join("bundle")).unwrap();
        assert_eq!(manifest.name, "random-tiny-1-blocks");
    }

    fn line(spec: &TensorSpec) -> String {
        let TensorHeader { name, shape, dtype } = &spec.header;
        let init = match spec.init {
            Initialization::Uniform { centre, spread } => {
                format!("{:x} {:x}", centre.to_bits(), spread.to_bits())
            }
            Initialization::Words { .. } => "words".to_owned(),
            Initialization::Counting => "counting".to_owned(),
        };
        format!("{name} {shape:?} {dtype} {init} {}\n", spec.required)
    }
}
