//! The image encoder that the alignment training leaves as it is: where it comes from, and the file that all checkpoints
//! share.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_files::durable::{self, Replacement};
use radialog_models::bundle::components::EmbeddingComponent;
use radialog_models::bundle::read_manifest;
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::tensors::TensorSpec;
use radialog_models::vision::projector_seed;
use radialog_schemas::Stage;

use crate::error::TrainingError;
use crate::recipe::AlignmentRecipe;
use crate::trainers::initial_weights;

/// The prefixes of the encoder's tensors in an embedding component, and in a findings component.
pub(super) const ROOT: &str = "visual_encoder.";
const ROOT_OF_FINDINGS: &str = "model.biovil_encoder.";
const PROJECTOR: &str = "visual_encoder.projector.";
/// The file in the output folder, and in each checkpoint.
pub(super) const FILE: &str = "encoder.safetensors";

/// The encoder's file in `out`: as it is where a training is resumed, so that it goes on with the encoder that it had.
pub(super) fn file(
    recipe: &AlignmentRecipe,
    config: &EmbeddingComponent,
    out: &Path,
    resume: bool,
) -> Result<PathBuf, TrainingError> {
    let path = out.join(FILE);
    if resume && path.is_file() {
        MappedWeights::open(std::slice::from_ref(&path))?.check(&specs(config)?)?;
        return Ok(path);
    }
    let source = recipe
        .image_encoder
        .as_ref()
        .or(recipe.training.start.as_ref());
    let source =
        source.ok_or_else(|| TrainingError::Empty("no bundle with an image encoder".to_owned()))?;
    let tensors = taken(source, config, recipe.training.seed)?;
    fs::create_dir_all(out).map_err(TrainingError::io("create", out))?;
    let file = Replacement::create(&path).map_err(TrainingError::io("create", &path))?;
    durable::write_by(file.partial(), |partial| {
        candle_core::safetensors::save(&tensors, partial)
    })
    .map_err(TrainingError::content(&path))?;
    file.commit().map_err(TrainingError::io("write", &path))?;
    Ok(path)
}

/// The encoder of a bundle under the names of an embedding component.
fn taken(
    dir: &Path,
    config: &EmbeddingComponent,
    seed: u64,
) -> Result<HashMap<String, Tensor>, TrainingError> {
    let components = read_manifest(dir)?.components;
    let sources = [
        (Stage::Embedding, ROOT),
        (Stage::Findings, ROOT_OF_FINDINGS),
    ];
    let (stage, root) = sources
        .into_iter()
        .find(|(stage, _)| components.contains_key(stage))
        .ok_or_else(|| {
            let reason =
                "image_encoder: this bundle has neither an embedding nor a findings component"
                    .to_owned();
            TrainingError::Content {
                path: dir.to_owned(),
                line: None,
                reason,
            }
        })?;
    let (_, weights, _) = initial_weights::component::<serde_json::Value>(dir, stage)?;
    let there = |spec: &TensorSpec| {
        let mut there = spec.clone();
        there.header.name = spec.header.name.replacen(ROOT, root, 1);
        there
    };
    let (projector, trunk): (Vec<_>, Vec<_>) = specs(config)?
        .into_iter()
        .partition(|spec| spec.header.name.starts_with(PROJECTOR));
    weights.check(&trunk.iter().map(there).collect::<Vec<_>>())?;
    let has_projector = weights
        .check(&projector.iter().map(there).collect::<Vec<_>>())
        .is_ok();
    let builder = weights.var_builder(DType::F32, &Device::Cpu);
    let mut tensors = HashMap::new();
    for spec in trunk
        .iter()
        .chain(projector.iter().filter(|_| has_projector))
    {
        let tensor = builder.get(spec.header.shape.as_slice(), &there(spec).header.name)?;
        tensors.insert(spec.header.name.clone(), tensor);
    }
    if !has_projector {
        tensors.extend(drawn_projector(&projector, seed)?);
    }
    Ok(tensors)
}

/// A projector of random weights, which the original never trains: at the published shape the original's own.
fn drawn_projector(
    specs: &[TensorSpec],
    seed: u64,
) -> Result<Vec<(String, Tensor)>, TrainingError> {
    let published = projector_seed::weights(projector_seed::TRAINING_SEED, &Device::Cpu)?;
    let original = |spec: &TensorSpec| {
        let name = spec.header.name.strip_prefix(ROOT).unwrap_or_default();
        Ok((
            spec.header.name.clone(),
            published.get(spec.header.shape.as_slice(), name)?,
        ))
    };
    let original: Result<Vec<_>, TrainingError> = specs.iter().map(original).collect();
    original.or_else(|_| initial_weights::drawn(specs, "", seed))
}

fn specs(config: &EmbeddingComponent) -> Result<Vec<TensorSpec>, TrainingError> {
    let of_encoder = |spec: &TensorSpec| spec.required && spec.header.name.starts_with(ROOT);
    Ok(config.tensors()?.into_iter().filter(of_encoder).collect())
}
