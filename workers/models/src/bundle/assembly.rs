//! Bundles made of components of others: what trainings wrote, put together to be served and handed on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_schemas::bundle::{Component as ManifestComponent, FORMAT, MANIFEST_FILE, Manifest};
use radialog_schemas::{RelativePath, Stage};
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::components::{TOKENIZER, WeightsFile};
use super::weights::MappedWeights;
use super::{Bundle, BundleError, HashCache, hashes};
use crate::findings::Calibration;
use crate::free_space::SpaceNeeded;
use crate::ggml;
use crate::tensors::TensorSpec;
use radialog_files::durable::{self, NewDirectory};

/// A new bundle made of components of others.
#[derive(Clone, Debug)]
pub struct BundleAssembly {
    /// The new bundle's name.
    pub name: String,
    /// The new bundle's version.
    pub version: String,
    /// The terms under which the new bundle may be used; those of all parts without it.
    pub license: Option<String>,
    /// Whether matrices are stored in half precision.
    pub half: bool,
    /// The bundle that each stage's component is taken from.
    pub parts: BTreeMap<Stage, PathBuf>,
    /// What the classifier's logits mean, instead of what its part says.
    pub calibration: Option<Calibration>,
}

impl BundleAssembly {
    /// Writes the bundle beside `dir` and renames it when it is whole. Of each component only what inference reads is taken.
    ///
    /// # Errors
    /// A part that cannot be opened or lacks its component; a language model that has learned from other image tokens than the
    /// embedding component makes; `dir` is there already, or its file system has not the room; files that cannot be written.
    pub fn write(&self, dir: &Path) -> Result<Manifest, BundleError> {
        if dir.exists() {
            return Err(BundleError::IsThere(dir.to_owned()));
        }
        let parts = self.open()?;
        SpaceNeeded::look(dir, self.bytes(&parts)?).check()?;
        let pending = NewDirectory::create(dir).map_err(BundleError::io("create", dir))?;
        let manifest = self.write_files(&parts, pending.partial())?;
        pending
            .commit()
            .map_err(BundleError::io("put in place", dir))?;
        Ok(manifest)
    }

    fn open(&self) -> Result<Vec<(Stage, Bundle)>, BundleError> {
        let cache = HashCache::user();
        let opened = self.parts.iter().map(|(&stage, source)| {
            let bundle = Bundle::open_with(source, &[stage], &cache)?;
            Ok((stage, bundle))
        });
        let parts: Vec<(Stage, Bundle)> = opened.collect::<Result<_, BundleError>>()?;
        let part = |wanted| parts.iter().find(|(stage, _)| *stage == wanted);
        if let (Some((_, language)), Some((_, embedding))) =
            (part(Stage::Language), part(Stage::Embedding))
        {
            let checked = language.manifest.check_image_tokens(&embedding.manifest);
            checked.map_err(language.model_error(Stage::Language))?;
        }
        Ok(parts)
    }

    /// Bytes of all tensors and tokenizers.
    fn bytes(&self, parts: &[(Stage, Bundle)]) -> Result<u64, BundleError> {
        let mut bytes = 0;
        for (stage, bundle) in parts {
            for file in bundle.weights_files(*stage, Dtype::F32)? {
                let weights = bundle.weights(*stage, &file.usage)?;
                for spec in taken(&file) {
                    let header = &spec.header;
                    let size = match weights.quantized_size(&header.name) {
                        Some(size) => size,
                        None => {
                            let dtype = self.dtype(weights, &header.name, &header.shape);
                            header.shape.iter().product::<usize>() * dtype.size_in_bytes()
                        }
                    };
                    bytes += size as u64;
                }
            }
            if bundle.component(*stage)?.tokenizer().is_some() {
                let file = bundle.file(*stage, TOKENIZER)?;
                let meta = fs::metadata(&file).map_err(BundleError::io("read", &file))?;
                bytes += meta.len();
            }
        }
        Ok(bytes)
    }

    /// The type that a tensor is written in: vectors are biases, norms and statistics, small, and the first to suffer.
    fn dtype(&self, weights: &MappedWeights, name: &str, shape: &[usize]) -> DType {
        match self.half && shape.len() > 1 {
            true => DType::F16,
            false => weights.dtype(name).unwrap_or(DType::F32),
        }
    }

    fn write_files(&self, parts: &[(Stage, Bundle)], dir: &Path) -> Result<Manifest, BundleError> {
        let mut manifest = Manifest {
            format: FORMAT,
            name: self.name.clone(),
            version: self.version.clone(),
            random_weights: false,
            license: match &self.license {
                Some(license) => license.clone(),
                None => licenses(parts),
            },
            components: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for (stage, bundle) in parts {
            let stage = *stage;
            manifest.random_weights |= bundle.manifest.random_weights;
            let part = bundle.component(stage)?;
            let mut component = ManifestComponent {
                files: BTreeMap::new(),
                config: self.config(stage, part.inference_config(), dir)?,
                origin: bundle.manifest.origin(stage),
                image_tokens_of: bundle.manifest_component(stage)?.image_tokens_of.clone(),
            };
            let mut add = |usage: &str, name: &str| -> Result<(), BundleError> {
                let path = dir.join(name);
                let entry = hashes::file_entry(&path)?;
                let name = RelativePath::parse(name).map_err(BundleError::unusable(&path))?;
                manifest.files.insert(name.clone(), entry);
                component.files.insert(usage.to_owned(), name);
                Ok(())
            };
            for file in bundle.weights_files(stage, Dtype::F32)? {
                self.write_weights(bundle, stage, &file, &dir.join(&file.name))?;
                add(&file.usage, &file.name)?;
            }
            if let Some(name) = part.tokenizer() {
                let source = bundle.file(stage, TOKENIZER)?;
                durable::copy(&source, &dir.join(name))
                    .map_err(BundleError::io("copy", &source))?;
                add(TOKENIZER, name)?;
            }
            manifest.components.insert(stage, component);
        }
        let path = dir.join(MANIFEST_FILE);
        let mut text =
            serde_json::to_vec_pretty(&manifest).map_err(BundleError::unusable(&path))?;
        text.push(b'\n');
        fs::write(&path, text).map_err(BundleError::io("write", &path))?;
        Ok(manifest)
    }

    /// A component's configuration in the new bundle.
    fn config(&self, stage: Stage, mut config: Value, dir: &Path) -> Result<Value, BundleError> {
        let calibration = self
            .calibration
            .as_ref()
            .filter(|_| stage == Stage::Findings);
        if let (Some(calibration), Some(config)) = (calibration, config.as_object_mut()) {
            let calibration = serde_json::to_value(calibration);
            let calibration =
                calibration.map_err(BundleError::unusable(&dir.join(MANIFEST_FILE)))?;
            config.insert("calibration".to_owned(), calibration);
        }
        Ok(config)
    }

    fn write_weights(
        &self,
        bundle: &Bundle,
        stage: Stage,
        file: &WeightsFile,
        path: &Path,
    ) -> Result<(), BundleError> {
        let weights = bundle.weights(stage, &file.usage)?;
        let builder = |dtype| weights.var_builder(dtype, &Device::Cpu);
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        let mut types = BTreeMap::new();
        for spec in taken(file) {
            let (name, shape) = (&spec.header.name, spec.header.shape.as_slice());
            // Half precision would be more, and no more exact.
            if let Some((ggml, bytes)) = weights
                .quantized_tensor(name)
                .map_err(bundle.model_error(stage))?
            {
                types.insert(name.clone(), ggml);
                tensors.insert(name.clone(), bytes);
                continue;
            }
            let tensor = builder(self.dtype(weights, name, shape))
                .get(shape, name)
                .map_err(bundle.model_error(stage))?;
            tensors.insert(name.clone(), tensor);
        }
        let metadata = (!types.is_empty())
            .then(|| HashMap::from([(ggml::METADATA_KEY.to_owned(), ggml::metadata(&types))]));
        durable::write_by(path, |path| {
            safetensors::serialize_to_file(tensors, metadata, path)
        })
        .map_err(BundleError::unusable(path))
    }
}

/// The terms of all parts, each once; those of a part that went on from another one have that one's in them.
fn licenses(parts: &[(Stage, Bundle)]) -> String {
    let all: BTreeSet<&str> = parts
        .iter()
        .map(|(_, bundle)| bundle.manifest.license.as_str())
        .collect();
    let is_whole = |license: &&&str| {
        all.iter()
            .all(|other| other == *license || !other.contains(**license))
    };
    all.iter()
        .filter(is_whole)
        .copied()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The tensors that inference reads.
fn taken(file: &WeightsFile) -> impl Iterator<Item = &TensorSpec> {
    let tensors = file.tensors.iter();
    tensors.filter(|spec| spec.required && spec.header.dtype != Dtype::I64)
}
