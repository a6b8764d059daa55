//! Weights and inputs that a formula makes from their names, so that models of published size need no stored weights:
//! FNV-1a of `<seed>:<name>`, then splitmix64, of which the upper 24 bits become a number in [-1, 1).

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Error, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use serde::Deserialize;

use super::{load_tensors, read_json};

/// A tensor made by the formula.
#[derive(Clone, Debug, Deserialize)]
pub struct Formula {
    /// Decides the values, together with the seed.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Middle of the values.
    pub offset: f64,
    /// Half of their range.
    pub scale: f64,
    /// The seed of the case.
    #[serde(default)]
    pub seed: u64,
}

impl Formula {
    /// The hash that the tensor's values start from.
    pub fn key(&self) -> u64 {
        let bytes = format!("{}:{}", self.seed, self.name).into_bytes();
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// The 24 bits behind element `index`.
    pub fn bits(&self, index: u64) -> u32 {
        bits(self.key(), index)
    }

    /// All values, row-major.
    pub fn values(&self) -> Vec<f32> {
        let (key, count) = (self.key(), self.shape.iter().product::<usize>() as u64);
        let value = |index| {
            let unit = (f64::from(bits(key, index)) - 8_388_608.0) / 8_388_608.0;
            (self.offset + self.scale * unit) as f32
        };
        (0..count).map(value).collect()
    }

    /// The values as an f32 tensor.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(
            self.values(),
            self.shape.as_slice(),
            &Device::Cpu,
        )?)
    }
}

fn bits(key: u64, index: u64) -> u32 {
    let mut z = key.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as u32
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Uniform,
    Const,
    Arange,
    Override,
    Tied,
}

#[derive(Debug, Deserialize)]
struct Entry {
    kind: Kind,
    tied_to: Option<String>,
    #[serde(flatten)]
    formula: Formula,
}

/// The weights of a manifest: made when a network asks for them, so that only what is used takes memory.
pub struct FormulaWeights {
    seed: u64,
    entries: HashMap<String, Entry>,
    overrides: HashMap<String, Tensor>,
}

impl FormulaWeights {
    /// The weights that a manifest in `dir` describes, with the `overrides.safetensors` beside it where it needs them.
    pub fn open(dir: &Path, manifest: &str, seed: u64) -> Result<Self> {
        let entries: Vec<Entry> = read_json(&dir.join(manifest))?;
        let overridden = entries
            .iter()
            .any(|entry| matches!(entry.kind, Kind::Override));
        let overrides = if overridden {
            load_tensors(&dir.join("overrides.safetensors"))?
        } else {
            HashMap::new()
        };
        let entries = entries
            .into_iter()
            .map(|entry| (entry.formula.name.clone(), entry))
            .collect();
        Ok(Self {
            seed,
            entries,
            overrides,
        })
    }

    /// Every tensor's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// One tensor, in f32.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self
            .entries
            .get(name)
            .with_context(|| format!("the manifest has no '{name}'"))?;
        let shape = entry.formula.shape.as_slice();
        match entry.kind {
            Kind::Uniform => Formula {
                seed: self.seed,
                ..entry.formula.clone()
            }
            .tensor(),
            Kind::Const => Ok(Tensor::full(
                entry.formula.offset as f32,
                shape,
                &Device::Cpu,
            )?),
            Kind::Arange => {
                let count = shape.iter().product::<usize>() as u32;
                Ok(Tensor::arange(0, count, &Device::Cpu)?
                    .to_dtype(DType::F32)?
                    .reshape(shape)?)
            }
            Kind::Override => {
                let tensor = self
                    .overrides
                    .get(name)
                    .with_context(|| format!("no override of '{name}'"))?;
                ensure!(
                    tensor.dims() == shape,
                    "override of '{name}': {:?}, not {shape:?}",
                    tensor.dims()
                );
                Ok(tensor.to_dtype(DType::F32)?)
            }
            Kind::Tied => self.tensor(entry.tied_to.as_deref().context("tied to nothing")?),
        }
    }
}

impl SimpleBackend for FormulaWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            let msg = format!("shape mismatch for {name}");
            return Err(Error::UnexpectedShape {
                msg,
                expected: shape,
                got: tensor.shape().clone(),
            });
        }
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if !self.entries.contains_key(name) {
            return Err(Error::CannotFindTensor {
                path: name.to_owned(),
            });
        }
        self.tensor(name)
            .map_err(Error::msg)?
            .to_dtype(dtype)?
            .to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}
