//! Where weights start: drawn for a geometry, or taken from a bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::tensors::{Initialization, TensorSpec};
use radialog_schemas::Stage;
use serde::de::DeserializeOwned;

use crate::error::TrainingError;
use crate::random::Random;

/// The amplitude of a wave whose values spread as those of words that are uniform in ±1 (by 1 / √3, times √2).
const POSITION_AMPLITUDE: f64 = 0.8;

/// The tensors that a network asks for, drawn by their names, without `prefix` in front of them.
pub(super) fn drawn(
    layout: &[TensorSpec],
    prefix: &str,
    seed: u64,
) -> Result<Vec<(String, Tensor)>, TrainingError> {
    let draw = |spec: &TensorSpec| {
        let name = without(&spec.header.name, prefix);
        let mut random = Random::stream(seed, &name);
        let value = |index: usize| match spec.init {
            Initialization::Uniform { centre, spread } => {
                centre + spread * random.between(-1.0, 1.0) as f32
            }
            Initialization::Words { spread, .. } => spread * random.between(-1.0, 1.0) as f32,
            Initialization::Counting => index as f32,
        };
        let count: usize = spec.header.shape.iter().product();
        let values: Vec<f32> = (0..count).map(value).collect();
        Ok((
            name,
            Tensor::from_vec(values, spec.header.shape.as_slice(), &Device::Cpu)?,
        ))
    };
    layout
        .iter()
        .filter(|spec| spec.required)
        .map(draw)
        .collect()
}

/// A table of positions, `[positions, width]`: sine and cosine of each position in wavelengths from 2 pi to 10,000 times that
/// (Vaswani et al., *Attention is all you need*, 2017), as large as drawn words are.
pub(super) fn sinusoids((positions, width): (usize, usize)) -> Result<Tensor, TrainingError> {
    let value = |index: usize| {
        let (position, place) = (index / width, index % width);
        let exponent = (place - place % 2) as f64 / width as f64;
        let angle = position as f64 / 10_000_f64.powf(exponent);
        let wave = if place % 2 == 0 {
            angle.sin()
        } else {
            angle.cos()
        };
        (wave * POSITION_AMPLITUDE) as f32
    };
    let values: Vec<f32> = (0..positions * width).map(value).collect();
    Ok(Tensor::from_vec(values, (positions, width), &Device::Cpu)?)
}

/// A component's configuration, weights and files by their use.
pub(super) fn component<T: DeserializeOwned>(
    dir: &Path,
    stage: Stage,
) -> Result<(T, MappedWeights, BTreeMap<String, PathBuf>), TrainingError> {
    let bundle = Bundle::open_with(dir, &[stage], &HashCache::user())?;
    let config = bundle.config(stage)?;
    let files = bundle
        .manifest()
        .components
        .get(&stage)
        .map(|component| component.files.clone())
        .unwrap_or_default();
    let files: BTreeMap<String, PathBuf> = files
        .into_iter()
        .map(|(usage, path)| (usage, dir.join(path)))
        .collect();
    let weights = files
        .iter()
        .filter(|(usage, _)| usage.starts_with("weights"))
        .map(|(_, path)| path.clone());
    let weights = MappedWeights::open(&weights.collect::<Vec<_>>())?;
    Ok((config, weights, files))
}

/// Loads the tensors of a layout from a bundle's weights.
pub(super) fn loaded(
    layout: &[TensorSpec],
    prefix: &str,
    weights: &MappedWeights,
) -> Result<Vec<(String, Tensor)>, TrainingError> {
    let builder = weights.var_builder(DType::F32, &Device::Cpu);
    let load = |spec: &TensorSpec| {
        let tensor = builder.get(spec.header.shape.as_slice(), &spec.header.name)?;
        Ok((without(&spec.header.name, prefix), tensor))
    };
    layout
        .iter()
        .filter(|spec| spec.required)
        .map(load)
        .collect()
}

fn without(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}
