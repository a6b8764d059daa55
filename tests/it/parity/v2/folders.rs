//! Model folders as v2 was published in: a base in shards, an adapter, and all other trained weights in one file. They are put
//! together here by the rules of the original's loader, so that the check does not lean on the import.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::checkpoint::torch::TorchFile;
use radialog_models::checkpoint::{Checkpoint, StoredType};
use radialog_models::language::{LanguageModel, LlamaConfig, LoraAdapter, LoraConfig};
use radialog_models::tokenizers::{LlamaTokenizer, TokenizerRules};
use radialog_models::vision::{BatchNormStatistics, ImageEncoder, VisionConfig};
use radialog_tests::golden::{Case, load_tensors, read_json};

use super::end_to_end::image;
use super::{Entry, Speaker, close, entries, grid, llama, tokenizer};

/// Entries in half precision on other devices, which are for orientation.
const INFORMATIONAL: &str = "bf16_";
/// The prefix of what was recorded with the stored statistics of the batch norms.
const RUNNING: &str = "running_stats.";
const OWN: &str = "batch_stats.";
/// The image encoder among the other trained weights.
const TOWER: &str = "model.vision_tower.";

pub(crate) type Tensors = HashMap<String, Tensor>;

/// What a pair of folders holds, in f32.
pub(crate) struct ModelFolder {
    /// The base with the projector, unless the adapter has it.
    pub(crate) base: Tensors,
    pub(crate) adapter: Tensors,
    pub(crate) lora: LoraConfig,
    pub(crate) tower: Tensors,
}

/// A model with the tokens of the case's images in every kind of statistics.
struct SeeingModel<'a> {
    vision: VisionConfig,
    encoders: [ImageEncoder; 3],
    images: Vec<Tensor>,
    speaker: Speaker<'a>,
}

/// Tensors of a file of torch or safetensors, in f32; whole numbers are left out.
pub(crate) fn tensors(path: &Path) -> Result<Tensors> {
    if path
        .extension()
        .is_some_and(|suffix| suffix == "safetensors")
    {
        let tensors = load_tensors(path)?.into_iter();
        let read = tensors.map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)));
        return read.collect();
    }
    let file = TorchFile::open(path, &[])?;
    let mut tensors = Tensors::new();
    for stored in file.tensors() {
        let StoredType::Dense(dtype) = stored.dtype else {
            bail!("'{}' is quantised", stored.name);
        };
        if dtype == safetensors::Dtype::I64 {
            continue;
        }
        let (bytes, dtype) = (file.read(stored)?, DType::try_from(dtype)?);
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &stored.shape, &Device::Cpu)?;
        tensors.insert(stored.name.clone(), tensor.to_dtype(DType::F32)?);
    }
    Ok(tensors)
}

/// The files of a folder whose names begin like this, without indices and configurations.
fn files(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_weights = [".bin", ".safetensors"]
            .iter()
            .any(|suffix| name.ends_with(suffix));
        if name.starts_with(prefix) && is_weights {
            found.push(path.clone());
        }
    }
    ensure!(!found.is_empty(), "no '{prefix}' in '{}'", folder.display());
    Ok(found)
}

/// The names of the other trained weights as the original's loader has them in the end.
fn normalised(tensors: Tensors, extended: bool) -> Tensors {
    let stripped = tensors.into_iter().map(|(name, tensor)| {
        let name = match extended {
            true => name.strip_prefix("module.").unwrap_or(&name).to_owned(),
            false => name,
        };
        (
            name.strip_prefix("base_model.").unwrap_or(&name).to_owned(),
            tensor,
        )
    });
    let stripped: Tensors = stripped.collect();
    if !stripped.keys().any(|name| name.starts_with("model.model.")) {
        return stripped;
    }
    let inner = stripped.into_iter();
    inner
        .map(|(name, tensor)| {
            (
                name.strip_prefix("model.").unwrap_or(&name).to_owned(),
                tensor,
            )
        })
        .collect()
}

impl ModelFolder {
    fn open(base: &Path, model: &Path, tower: Option<&Path>) -> Result<Self> {
        let mut weights = Tensors::new();
        for file in files(base, "model-").or_else(|_| files(base, "pytorch_model-"))? {
            weights.extend(tensors(&file)?);
        }
        // CLIP's, which v2 does not have.
        weights.retain(|name, _| !name.starts_with("model.mm_projector."));
        let extended = model.join("non_lora_trainables_extended.bin");
        let others = match extended.is_file() {
            true => normalised(tensors(&extended)?, true),
            false => normalised(tensors(&model.join("non_lora_trainables.bin"))?, false),
        };
        let mut encoder = tower.map(tensors).transpose()?.unwrap_or_default();
        for (name, tensor) in others {
            match name.strip_prefix(TOWER) {
                Some(name) => drop(encoder.insert(name.to_owned(), tensor)),
                None if name.starts_with("model.mm_projector.") => {
                    weights.insert(name, tensor);
                }
                None => {}
            }
        }
        let mut adapter = Tensors::new();
        for file in files(model, "adapter_model")? {
            adapter.extend(tensors(&file)?);
        }
        Ok(Self {
            base: weights,
            adapter,
            lora: read_json(&model.join("adapter_config.json"))?,
            tower: encoder,
        })
    }

    fn language(&self, config: &LlamaConfig) -> Result<LanguageModel> {
        let builder =
            |tensors: &Tensors| VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
        let adapter = LoraAdapter::new(self.lora.clone(), builder(&self.adapter));
        Ok(LanguageModel::load(
            config,
            &builder(&self.base),
            Some(&adapter),
        )?)
    }

    fn encoder(
        &self,
        vision: &VisionConfig,
        statistics: BatchNormStatistics,
    ) -> Result<ImageEncoder> {
        let weights = VarBuilder::from_tensors(self.tower.clone(), DType::F32, &Device::Cpu);
        Ok(ImageEncoder::patches_only(vision, statistics, weights)?)
    }
}

impl<'a> SeeingModel<'a> {
    fn new(case: &Case, folder: &ModelFolder, load: &'a super::Load<'a>) -> Result<Self> {
        let vision = VisionConfig {
            stem_width: case.field("/config/tower/stem_width")?,
            vit_dim: case.field("/config/tower/vit_dim")?,
            joint_feature_size: case.field("/config/tower/joint_feature_size")?,
            bn_eps: case.field("/config/tower/bn_eps")?,
            ..VisionConfig::published()
        };
        let encoder = |statistics| folder.encoder(&vision, statistics);
        let encoders = [
            encoder(BatchNormStatistics::Running)?,
            encoder(BatchNormStatistics::Image)?,
            encoder(BatchNormStatistics::Batch)?,
        ];
        let paths: Vec<String> = case.field("/images")?;
        let images = paths
            .iter()
            .map(|path| image(case, path, vision.image_size));
        let config = llama(case, 2 * vision.vit_dim)?;
        Ok(Self {
            images: images.collect::<Result<_>>()?,
            encoders,
            vision,
            speaker: Speaker::new(&config, load)?,
        })
    }

    /// Tokens of all images by the stored statistics, or each by its own.
    fn each(&self, running: bool) -> Result<Vec<Tensor>> {
        let [stored, own, _] = &self.encoders;
        let encoder = if running { stored } else { own };
        let tokens = self
            .images
            .iter()
            .map(|image| Ok(encoder.grid_tokens(image)?.get(0)?));
        tokens.collect()
    }

    /// Tokens of all images, encoded together.
    fn together(&self) -> Result<Vec<Tensor>> {
        let [_, _, shared] = &self.encoders;
        let tokens = shared.grid_tokens(&Tensor::cat(&self.images, 0)?)?;
        (0..self.images.len())
            .map(|place| Ok(tokens.get(place)?))
            .collect()
    }

    /// What the images of an entry are for the language model.
    fn images_of(&self, name: &str, entry: &Entry) -> Result<Vec<Tensor>> {
        match entry.images.len() {
            0 | 1 => self.each(name.starts_with(RUNNING)),
            _ => self.together(),
        }
    }

    fn grids(&self, tokens: &[Tensor]) -> Result<Tensor> {
        let grids = tokens.iter().map(|tokens| grid(tokens, &self.vision, 1));
        Ok(Tensor::stack(&grids.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn projected(&self, tokens: &[Tensor]) -> Result<Tensor> {
        let projected = tokens.iter().map(|tokens| self.speaker.projected(tokens));
        Ok(Tensor::stack(&projected.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// What is recorded of images, and not of an entry.
    fn of_images(&self, what: &str) -> Result<Option<Tensor>> {
        let first =
            |running| -> Result<Vec<Tensor>> { Ok(vec![self.each(running)?.swap_remove(0)]) };
        Ok(Some(match what {
            "running_stats.grid" => self.grids(&first(true)?)?.get(0)?,
            "running_stats.projected" => self.projected(&first(true)?)?.get(0)?,
            "batch_stats.grid" | "grid" => self.grids(&first(false)?)?.get(0)?,
            "batch_stats.projected" => self.projected(&first(false)?)?.get(0)?,
            "batch_stats.grid_of_three" => self.grids(&self.together()?)?,
            "batch_stats.projected_of_three" => self.projected(&self.together()?)?,
            _ => return Ok(None),
        }))
    }

    fn check_entry(
        &self,
        name: &str,
        entry: &Entry,
        tokenizer: Option<&LlamaTokenizer>,
    ) -> Result<()> {
        let rows = entry.rows(self.speaker.config(), &self.images_of(name, entry)?)?;
        if let Some(tokenizer) = tokenizer {
            entry.check_prompts(&rows, tokenizer)?;
        }
        self.speaker.check_answers(entry, &rows, tokenizer)
    }
}

/// Holds a folder with everything that it was recorded to say.
pub(in super::super) fn check(case: &Case) -> Result<()> {
    let folder = ModelFolder::open(&case.dir().join("base"), &case.dir().join("model"), None)?;
    let rules = TokenizerRules::v2(case.field("/config/tokenizer_legacy")?);
    check_folder(case, &folder, &tokenizer(case, rules)?)
}

/// The same of a folder and a tokenizer that may have come another way.
pub(crate) fn check_folder(
    case: &Case,
    folder: &ModelFolder,
    tokenizer: &LlamaTokenizer,
) -> Result<()> {
    let load = |config: &LlamaConfig| folder.language(config);
    let model = SeeingModel::new(case, folder, &load)?;
    let entries = entries(case, "tokens.json")?;
    for (name, recorded) in case.tensors("outputs.safetensors")? {
        let actual = match model.of_images(&name)? {
            Some(actual) => actual,
            None => {
                ensure!(!name.starts_with(OWN), "nobody computes '{name}'");
                let named = entries.iter().rfind(|(entry, _)| is_of(&name, entry));
                let (entry_name, entry) = named.with_context(|| name.clone())?;
                let images = model.images_of(entry_name, entry)?;
                let rows = entry.rows(model.speaker.config(), &images)?;
                let quantity = &name[entry_name.len() + 1..];
                model
                    .speaker
                    .output(entry, &rows, quantity, &recorded)
                    .with_context(|| name.clone())?
            }
        };
        close(case, &name, &actual, &recorded)?;
    }
    for (name, entry) in entries
        .iter()
        .filter(|(name, _)| !name.starts_with(INFORMATIONAL))
    {
        let checked = model.check_entry(name, entry, Some(tokenizer));
        checked.with_context(|| format!("'{name}'"))?;
    }
    Ok(())
}

/// Holds two folders of other layouts with the same base, and the image encoder in a file of its own.
pub(in super::super) fn check_layouts(case: &Case) -> Result<()> {
    check_variants(case, &|variant| {
        let at = |name: &str| case.dir().join(name);
        let tower = at("biovil_t_image_model.pt");
        let model = at(&format!("model_{variant}"));
        ModelFolder::open(&at("base_bin"), &model, Some(&tower))
    })
}

/// The same of folders that may have come another way.
pub(crate) fn check_variants(
    case: &Case,
    open: &dyn Fn(&str) -> Result<ModelFolder>,
) -> Result<()> {
    let all = entries(case, "tokens.json")?;
    let mut outputs = case.tensors("outputs.safetensors")?;
    for variant in ["a", "b"] {
        let folder = open(variant)?;
        let load = |config: &LlamaConfig| folder.language(config);
        let model = SeeingModel::new(case, &folder, &load)?;
        for (name, entry) in all
            .iter()
            .filter(|(name, _)| *name == variant || is_of(name, variant))
        {
            let images = model.images_of(name, entry)?;
            let rows = entry.rows(model.speaker.config(), &images)?;
            let quantities = ["last_logits", "logits_every4"];
            for quantity in quantities {
                let key = format!("{name}.{quantity}");
                if let Some(recorded) = outputs.remove(&key) {
                    let actual = model.speaker.output(entry, &rows, quantity, &recorded)?;
                    close(case, &key, &actual, &recorded)?;
                }
            }
            model
                .check_entry(name, entry, None)
                .with_context(|| name.clone())?;
        }
        let key = format!("{variant}.grid");
        let recorded = outputs.remove(&key).with_context(|| key.clone())?;
        let actual = model.of_images("grid")?.context("no grid")?;
        close(case, &key, &actual, &recorded)?;
    }
    ensure!(outputs.is_empty(), "nobody computes {:?}", outputs.keys());
    Ok(())
}

/// Whether an output's name, or an entry's, is one of this entry.
fn is_of(name: &str, entry: &str) -> bool {
    name.strip_prefix(entry)
        .is_some_and(|rest| rest.starts_with('.'))
}
