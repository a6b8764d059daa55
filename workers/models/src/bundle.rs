//! A bundle: a directory of weights, tokenizers and prompts that belong together, described by `bundle.json`. Opening one
//! finds every fault before any work starts; what it hands out is typed configurations and memory-mapped weights.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, fs};

use candle_core::{DType, Device};
use radialog_schemas::bundle::{Component as ManifestComponent, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, PerStage, Stage};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod acceptance;
mod assembly;
pub mod components;
mod configs;
pub mod error;
mod geometry;
pub mod hashes;
pub mod import;
mod precision;
mod quantise;
pub mod random;
mod stored;
mod weight_types;
pub mod weights;
pub mod writer;

pub use assembly::BundleAssembly;
pub use configs::ComponentConfigs;
pub use error::BundleError;
pub use geometry::{Geometry, System};
pub use hashes::HashCache;
pub use precision::{Precision, PrecisionChoice, PrecisionError};
pub use quantise::{BundleQuantisation, Quantised};
pub use random::RandomBundle;
pub use weight_types::WeightTypes;

use components::{Component, WeightsFile};
use weights::MappedWeights;

/// An opened bundle. Its files are checked: there, whole, with the hashes of the manifest, and with every tensor that the
/// configurations ask for.
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    weights: PerStage<BTreeMap<String, MappedWeights>>,
}

/// A description of a bundle for people: `radialog bundle show` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct BundleSummary {
    /// The directory.
    pub dir: PathBuf,
    /// The bundle's name.
    pub name: String,
    /// The version of its weights.
    pub version: String,
    /// The licence and origin of its weights.
    pub license: String,
    /// Whether the weights are random, so that outputs mean nothing.
    pub random_weights: bool,
    /// The hash of the whole bundle.
    pub hash: ContentHash,
    /// One entry for each stage.
    pub components: Vec<ComponentSummary>,
}

/// One component of a [`BundleSummary`].
#[derive(Clone, Debug, Serialize)]
pub struct ComponentSummary {
    /// The stage that loads it.
    pub stage: Stage,
    /// The hash of its configuration and files.
    pub hash: ContentHash,
    /// The number of its tensors.
    pub tensors: usize,
    /// The number of values in them.
    pub parameters: u64,
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// The number of quantised tensors of each GGML type.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quantized: BTreeMap<String, usize>,
    /// Its geometry and options.
    pub config: serde_json::Value,
}

impl Bundle {
    /// Opens all four components, with the user's [`HashCache`].
    ///
    /// # Errors
    /// As [`Bundle::open_with`].
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        Self::open_with(dir, &Stage::ALL, &HashCache::user())
    }

    /// Opens the components of these stages; the files of others need not be there.
    ///
    /// # Errors
    /// No manifest; a file that is missing, incomplete, damaged or not safetensors; a tensor that is missing, has a shape
    /// that the configuration does not ask for, or has values that are not finite.
    pub fn open_with(dir: &Path, stages: &[Stage], cache: &HashCache) -> Result<Self, BundleError> {
        let manifest = read_manifest(dir)?;
        let mut bundle = Self {
            dir: dir.to_path_buf(),
            manifest,
            weights: PerStage::default(),
        };
        for &stage in stages {
            bundle.check_files(stage, |path| cache.hash(path))?;
            bundle.open_weights(stage, cache)?;
        }
        Ok(bundle)
    }

    /// The bundle's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// When the bundle's manifest was written, which is what makes a directory a bundle; none where the file system does not say.
    pub fn written(&self) -> Option<SystemTime> {
        let manifest = fs::metadata(self.dir.join(MANIFEST_FILE));
        manifest.and_then(|file| file.modified()).ok()
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bundle with components that compute in these precisions, a later choice before an earlier one. Theirs are other
    /// components, with hashes of their own: every process of a deployment has to be given the same.
    ///
    /// # Errors
    /// A choice that no component has. Whether matrices are quantised as it says is found when the component loads.
    pub fn with_precision(mut self, choices: &[PrecisionChoice]) -> Result<Self, PrecisionError> {
        for choice in PrecisionChoice::in_order(choices)? {
            let mut honoured = false;
            for (&stage, component) in &mut self.manifest.components {
                honoured |= choice.apply(stage, &mut component.config);
            }
            if !honoured {
                return Err(PrecisionError::NoStage(choice));
            }
        }
        Ok(self)
    }

    /// Hashes every file again, whatever the cache says, and builds the networks on the CPU, one after the other. The
    /// language model may not fit in memory here; its configuration and tokenizer are checked instead.
    ///
    /// # Errors
    /// The first file that is not what the manifest says, or component that does not load.
    pub fn verify(&self) -> Result<(), BundleError> {
        for &stage in self.manifest.components.keys() {
            self.check_files(stage, hashes::hash_file)?;
            for weights in self.weights.get(stage).values() {
                weights.check_finite()?;
            }
            self.component(stage)?.verify(self)?;
        }
        Ok(())
    }

    /// Describes the bundle for people.
    pub fn summary(&self) -> BundleSummary {
        let components = self.manifest.components.iter().map(|(&stage, component)| {
            let weights = self.weights.get(stage).values();
            let counts: Vec<_> = weights.map(MappedWeights::count).collect();
            let sizes = component
                .files
                .values()
                .filter_map(|path| self.manifest.files.get(path));
            ComponentSummary {
                stage,
                hash: self.manifest.component_hash(stage),
                tensors: counts.iter().map(|(tensors, _)| tensors).sum(),
                parameters: counts.iter().map(|(_, parameters)| parameters).sum(),
                bytes: sizes.map(|file| file.size).sum(),
                quantized: self
                    .weights
                    .get(stage)
                    .values()
                    .flat_map(MappedWeights::quantized_types)
                    .fold(BTreeMap::new(), |mut types, (name, count)| {
                        *types.entry(name).or_default() += count;
                        types
                    }),
                config: component.config.clone(),
            }
        });
        BundleSummary {
            dir: self.dir.clone(),
            name: self.manifest.name.clone(),
            version: self.manifest.version.clone(),
            license: self.manifest.license.clone(),
            random_weights: self.manifest.random_weights,
            hash: self.manifest.hash(),
            components: components.collect(),
        }
    }

    /// A stage's configuration.
    ///
    /// # Errors
    /// The stage has no component, or its configuration is of another shape.
    pub fn config<T: DeserializeOwned>(&self, stage: Stage) -> Result<T, BundleError> {
        let config = self.manifest_component(stage)?.config.clone();
        serde_json::from_value(config).map_err(self.config_error(stage))
    }

    /// The type in which the networks of an image or of CheXbert are asked for: bf16 only rounds what is multiplied, on a CPU.
    ///
    /// # Errors
    /// A precision that the stage or the device has not.
    fn network_type(&self, stage: Stage, device: &Device) -> Result<DType, BundleError> {
        let unusable = |reason: String| BundleError::Unusable {
            file: self.dir.join(MANIFEST_FILE),
            reason: format!("the configuration of {stage}: {reason}"),
        };
        let config = &self.manifest_component(stage)?.config;
        match Precision::of_network(stage, config) {
            Ok(Precision::Bf16) if device.is_cpu() => Ok(DType::BF16),
            Ok(Precision::Bf16) => Err(unusable(
                "in bf16 it computes on a CPU only: give f32, or --precision language=bf16 for the language model alone".to_owned(),
            )),
            Ok(_) => Ok(DType::F32),
            Err(error) => Err(unusable(error.to_string())),
        }
    }

    /// The error of a configuration, for `map_err`.
    fn config_error(&self, stage: Stage) -> impl FnOnce(serde_json::Error) -> BundleError {
        let file = self.dir.join(MANIFEST_FILE);
        move |error| BundleError::Unusable {
            file,
            reason: format!("the configuration of {stage}: {error}"),
        }
    }

    /// The error of a network, for `map_err`.
    pub fn model_error<E: fmt::Display>(&self, stage: Stage) -> impl FnOnce(E) -> BundleError {
        let dir = self.dir.clone();
        move |reason| BundleError::Model {
            dir,
            stage,
            reason: reason.to_string(),
        }
    }

    /// The component's file of this use.
    fn file(&self, stage: Stage, usage: &str) -> Result<PathBuf, BundleError> {
        self.files(stage, usage)?
            .into_iter()
            .next()
            .ok_or_else(|| self.no_file(stage, usage))
    }

    fn no_file(&self, stage: Stage, usage: &str) -> BundleError {
        let reason = format!("{stage} has no '{usage}' file, or this stage was not opened");
        BundleError::Unusable {
            file: self.dir.join(MANIFEST_FILE),
            reason,
        }
    }

    fn manifest_component(&self, stage: Stage) -> Result<&ManifestComponent, BundleError> {
        let missing = || BundleError::NoComponent {
            dir: self.dir.clone(),
            stage,
        };
        self.manifest.components.get(&stage).ok_or_else(missing)
    }

    /// The component's files of this use, its shards in order.
    fn files(&self, stage: Stage, usage: &str) -> Result<Vec<PathBuf>, BundleError> {
        let shard_of = |name: &str| {
            name == usage
                || name
                    .strip_prefix(usage)
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        let files = self.manifest_component(stage)?.files.iter();
        Ok(files
            .filter(|(name, _)| shard_of(name))
            .map(|(_, path)| self.dir.join(path))
            .collect())
    }

    fn check_files(
        &self,
        stage: Stage,
        hash: impl Fn(&Path) -> Result<ContentHash, BundleError>,
    ) -> Result<(), BundleError> {
        for path in self.manifest_component(stage)?.files.values() {
            let file = self.dir.join(path);
            let Some(entry) = self.manifest.files.get(path) else {
                let reason = format!("'{path}' of {stage} is not in its list of files");
                return Err(BundleError::Unusable {
                    file: self.dir.join(MANIFEST_FILE),
                    reason,
                });
            };
            let size = fs::metadata(&file)
                .map_err(BundleError::io("open", &file))?
                .len();
            if size != entry.size {
                return Err(BundleError::Size {
                    file,
                    expected: entry.size,
                    found: size,
                });
            }
            let found = hash(&file)?;
            if found != entry.sha256 {
                return Err(BundleError::Hash {
                    file,
                    expected: entry.sha256.clone(),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Maps a component's weights, and checks them against what its configuration asks for.
    fn open_weights(&mut self, stage: Stage, cache: &HashCache) -> Result<(), BundleError> {
        // The stored type has no say in names and shapes.
        let files = self.weights_files(stage, safetensors::Dtype::F32)?;
        for WeightsFile { usage, tensors, .. } in files {
            let paths = self.files(stage, &usage)?;
            if paths.is_empty() {
                return Err(self.no_file(stage, &usage));
            }
            let weights = MappedWeights::open(&paths)?;
            weights.check(&tensors)?;
            if usage.starts_with(components::ADAPTER) {
                weights.check_additions(&tensors)?;
            }
            for path in &paths {
                let file = || MappedWeights::open(std::slice::from_ref(path));
                cache.check_finite(path, || file()?.check_finite())?;
            }
            self.weights.get_mut(stage).insert(usage, weights);
        }
        Ok(())
    }

    /// The files of weights that a component's configuration asks for.
    fn weights_files(
        &self,
        stage: Stage,
        dtype: safetensors::Dtype,
    ) -> Result<Vec<WeightsFile>, BundleError> {
        let files = self.component(stage)?.weights(dtype);
        files.map_err(self.model_error(stage))
    }

    /// A component as its configuration describes it.
    fn component(&self, stage: Stage) -> Result<Box<dyn Component>, BundleError> {
        let config = self.manifest_component(stage)?.config.clone();
        components::parse(stage, config).map_err(self.config_error(stage))
    }

    fn weights(&self, stage: Stage, usage: &str) -> Result<&MappedWeights, BundleError> {
        self.weights
            .get(stage)
            .get(usage)
            .ok_or_else(|| self.no_file(stage, usage))
    }
}

/// The manifest of the bundle in `dir`, without a look at its files.
///
/// # Errors
/// No manifest, or one that this version does not read.
pub fn read_manifest(dir: &Path) -> Result<Manifest, BundleError> {
    let path = dir.join(MANIFEST_FILE);
    let text = match fs::read(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(BundleError::NotABundle(dir.to_path_buf()));
        }
        result => result.map_err(BundleError::io("read", &path))?,
    };
    Manifest::parse(&text).map_err(BundleError::unusable(&path))
}
