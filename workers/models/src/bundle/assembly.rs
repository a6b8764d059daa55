//! Bundles made of components of others: what trainings wrote, put together to be served and handed on.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_schemas::Stage;
use radialog_schemas::bundle::{Component, MANIFEST_FILE, Manifest};
use safetensors::tensor::Dtype;

use super::config::{EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent};
use super::layout::{self, TensorSpec};
use super::{ADAPTER, Bundle, BundleError, FORMAT, HashCache, TOKENIZER, WEIGHTS, hashes};
use crate::durable::PendingDirectory;

/// What a new bundle is made of.
#[derive(Clone, Debug)]
pub struct BundleAssembly {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Under which terms it may be used.
    pub license: String,
    /// Store matrices in half precision.
    pub half: bool,
    /// Bundles that components are taken from.
    pub parts: BTreeMap<Stage, PathBuf>,
}

impl BundleAssembly {
    /// Writes the bundle beside `dir` and renames it when it is whole. Of each component only what inference reads is taken.
    ///
    /// # Errors
    /// A part that cannot be opened or lacks its component; `dir` is there already; files that cannot be written.
    pub fn write(&self, dir: &Path) -> Result<Manifest, BundleError> {
        if dir.exists() {
            let reason = "it is there already: name another folder, or remove it".to_owned();
            return Err(BundleError::Unusable {
                file: dir.to_path_buf(),
                reason,
            });
        }
        let pending = PendingDirectory::create(dir).map_err(BundleError::io("create", dir))?;
        let manifest = self.write_files(pending.partial())?;
        pending
            .persist()
            .map_err(BundleError::io("put in place", dir))?;
        Ok(manifest)
    }

    fn write_files(&self, dir: &Path) -> Result<Manifest, BundleError> {
        let mut manifest = Manifest {
            format: FORMAT,
            name: self.name.clone(),
            version: self.version.clone(),
            random_weights: false,
            license: self.license.clone(),
            components: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        for (&stage, part) in &self.parts {
            let bundle = Bundle::open_with(part, &[stage], &HashCache::user())?;
            manifest.random_weights |= bundle.manifest.random_weights;
            let (config, weights) = contents(&bundle, stage)?;
            let mut component = Component {
                files: BTreeMap::new(),
                config,
            };
            let mut add = |usage: &str, path: String| -> Result<(), BundleError> {
                manifest
                    .files
                    .insert(path.clone(), hashes::file_entry(&dir.join(&path))?);
                component.files.insert(usage.to_owned(), path);
                Ok(())
            };
            for (usage, specs) in weights {
                let path = match usage {
                    ADAPTER => format!("{ADAPTER}.safetensors"),
                    _ => format!("{stage}.safetensors"),
                };
                self.write_weights(&bundle, stage, usage, &specs, &dir.join(&path))?;
                add(usage, path)?;
            }
            if matches!(stage, Stage::Language | Stage::Scoring) {
                let (source, path) = (
                    bundle.file(stage, TOKENIZER)?,
                    format!("{stage}.tokenizer.json"),
                );
                fs::copy(&source, dir.join(&path)).map_err(BundleError::io("copy", &source))?;
                add(TOKENIZER, path)?;
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

    fn write_weights(
        &self,
        bundle: &Bundle,
        stage: Stage,
        usage: &'static str,
        specs: &[TensorSpec],
        path: &Path,
    ) -> Result<(), BundleError> {
        let weights = bundle.weights(stage, usage)?;
        let builder = |dtype| weights.var_builder(dtype, &Device::Cpu);
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for spec in specs
            .iter()
            .filter(|spec| spec.required && spec.header.dtype != Dtype::I64)
        {
            let (name, shape) = (&spec.header.name, spec.header.shape.as_slice());
            let stored = weights.dtype(name).unwrap_or(DType::F32);
            // Vectors are biases, norms and statistics: small, and the first to suffer.
            let dtype = if self.half && shape.len() > 1 {
                DType::F16
            } else {
                stored
            };
            let tensor = builder(dtype)
                .get(shape, name)
                .map_err(bundle.model_error(stage))?;
            tensors.insert(name.clone(), tensor);
        }
        candle_core::safetensors::save(&tensors, path).map_err(BundleError::unusable(path))
    }
}

/// A component's configuration and the tensors that inference reads, by the use of their file.
#[expect(
    clippy::type_complexity,
    reason = "a list of files, each with its list of tensors"
)]
fn contents(
    bundle: &Bundle,
    stage: Stage,
) -> Result<(serde_json::Value, Vec<(&'static str, Vec<TensorSpec>)>), BundleError> {
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.map_err(BundleError::unusable(&bundle.dir.join(MANIFEST_FILE)))
    };
    Ok(match stage {
        Stage::Embedding => {
            let config = EmbeddingComponent {
                text: None,
                ..bundle.config(stage)?
            };
            (
                json(serde_json::to_value(&config))?,
                vec![(WEIGHTS, layout::embedding(&config))],
            )
        }
        Stage::Findings => {
            let config: FindingsComponent = bundle.config(stage)?;
            (
                json(serde_json::to_value(&config))?,
                vec![(WEIGHTS, layout::findings(&config))],
            )
        }
        Stage::Language => {
            let config: LanguageComponent = bundle.config(stage)?;
            let mut files = vec![(WEIGHTS, layout::language_base(&config, Dtype::F32))];
            if config.lora.is_some() {
                files.push((ADAPTER, layout::language_adapter(&config)));
            }
            (json(serde_json::to_value(&config))?, files)
        }
        Stage::Scoring => {
            let config: ScoringComponent = bundle.config(stage)?;
            (
                json(serde_json::to_value(&config))?,
                vec![(WEIGHTS, layout::scoring(&config))],
            )
        }
    })
}
