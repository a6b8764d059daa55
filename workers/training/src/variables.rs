//! Named weights in training: those that the optimizer moves, those that batches move (running statistics), and those that
//! stay. Networks read them through the same builder as in inference.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Error, Result as CandleResult, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::error::TrainingError;

/// Ends of the names of tensors that batches move and the optimizer leaves alone.
const STATISTICS: [&str; 3] = [".running_mean", ".running_var", ".num_batches_tracked"];

/// The weights of a network in training. Clones share them.
#[derive(Clone, Default)]
pub struct Variables {
    variables: BTreeMap<String, Var>,
    frozen: BTreeSet<String>,
}

impl Variables {
    /// Makes a variable of each tensor.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self, TrainingError> {
        let variable = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor)?));
        let variables = tensors
            .into_iter()
            .map(variable)
            .collect::<Result<_, TrainingError>>()?;
        Ok(Self {
            variables,
            frozen: BTreeSet::new(),
        })
    }

    /// Moves the variables to a device, where networks then compute.
    ///
    /// # Errors
    /// Out of the device's memory.
    pub fn to_device(self, device: &Device) -> Result<Self, TrainingError> {
        let moved = |(name, variable): (String, Var)| {
            let tensor = variable.as_detached_tensor().to_device(device)?;
            Ok((name, Var::from_tensor(&tensor)?))
        };
        let variables = self.variables.into_iter().map(moved);
        Ok(Self {
            variables: variables.collect::<Result<_, TrainingError>>()?,
            frozen: self.frozen,
        })
    }

    /// Freezes the variables of such names: they stay in checkpoints, and have no gradient.
    pub fn freeze(mut self, is_frozen: impl Fn(&str) -> bool) -> Self {
        self.frozen = self
            .variables
            .keys()
            .filter(|name| is_frozen(name))
            .cloned()
            .collect();
        self
    }

    /// Returns the variables that the optimizer moves, by name.
    pub fn learned(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.all()
            .filter(|(name, _)| !is_statistic(name) && !self.frozen.contains(*name))
    }

    /// Returns all variables, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.variables
            .iter()
            .map(|(name, variable)| (name.as_str(), variable))
    }

    /// Returns the variable of this name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.variables.get(name)
    }

    /// Copies the values as they are now, which no further step changes: what a network of inference loads.
    ///
    /// # Errors
    /// Out of memory.
    pub fn snapshot(&self) -> Result<HashMap<String, Tensor>, TrainingError> {
        let copy = |(name, variable): (&String, &Var)| {
            Ok((name.clone(), variable.as_detached_tensor().copy()?))
        };
        self.variables.iter().map(copy).collect()
    }

    /// Returns a builder whose tensors are these variables.
    pub fn var_builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    /// Takes the values of a file whose names have `prefix` in front, each on its variable's device.
    ///
    /// # Errors
    /// A variable that the file does not have, or has in another shape.
    pub fn restore(&self, path: &Path, prefix: &str) -> Result<(), TrainingError> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(TrainingError::content(path))?;
        for (name, variable) in &self.variables {
            let fault = |reason: String| TrainingError::Checkpoint {
                path: path.to_owned(),
                reason,
            };
            let found = tensors.get(&format!("{prefix}{name}"));
            let tensor = found.ok_or_else(|| fault(format!("it has no '{prefix}{name}'")))?;
            if tensor.dims() != variable.dims() {
                let (found, expected) = (tensor.dims(), variable.dims());
                return Err(fault(format!(
                    "'{name}' has shape {found:?}, and the recipe's geometry asks for {expected:?}"
                )));
            }
            variable.set(&tensor.to_device(variable.device())?)?;
        }
        Ok(())
    }
}

impl SimpleBackend for Variables {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> CandleResult<Tensor> {
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

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        let value = |variable: &Var| match self.frozen.contains(name) {
            true => variable.as_detached_tensor(),
            false => variable.as_tensor().clone(),
        };
        let found = self.variables.get(name).map(value);
        found.ok_or_else(|| Error::CannotFindTensor {
            path: name.to_owned(),
        })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }
}

fn is_statistic(name: &str) -> bool {
    STATISTICS.iter().any(|end| name.ends_with(end))
}
