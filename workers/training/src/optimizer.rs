//! AdamW (Loshchilov and Hutter, 2019) over named variables, in the two forms that the original uses, and the clipping of
//! gradients.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use radialog_files::durable;
use serde::{Deserialize, Serialize};

use self::step::Step;
use crate::error::TrainingError;
use crate::variables::Variables;

pub mod schedule;
mod step;

/// Names of the two moments in a checkpoint.
const MOMENTS: [&str; 2] = ["first", "second"];

/// The constants of AdamW, without the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of both moments.
    pub betas: [f64; 2],
    /// Keeps the quotient finite.
    pub eps: f64,
    /// The decay of the variables that [`decays`] names.
    pub weight_decay: f64,
    /// The form of the update.
    pub form: AdamForm,
}

/// The two forms of AdamW that the original's libraries compute, which differ in what `eps` is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdamForm {
    /// The second moment after its bias correction (torch).
    Torch,
    /// The second moment before it (the transformers library, which the findings classifier uses).
    Transformers,
}

impl AdamW {
    /// Returns the constants of the findings classifier, which has no weight decay.
    pub fn findings() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-6,
            weight_decay: 0.0,
            form: AdamForm::Transformers,
        }
    }

    /// Returns the constants of the alignment module.
    pub fn alignment() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.05,
            form: AdamForm::Torch,
        }
    }

    /// Returns the constants of the language model and the labeler, which have no weight decay.
    pub fn language() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            form: AdamForm::Torch,
        }
    }
}

/// Returns whether a variable has weight decay: vectors and scalars have none, nor has what is called a bias or a norm.
pub fn decays(name: &str, dims: usize) -> bool {
    dims >= 2 && !["bias", "ln", "bn"].iter().any(|part| name.contains(part))
}

/// The gradients of a step, by the names of their variables, summed over its micro batches.
#[derive(Default)]
pub struct Gradients {
    sums: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// Adds `scale` times the gradients of one backward pass.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn add(
        &mut self,
        variables: &Variables,
        store: &GradStore,
        scale: f64,
    ) -> Result<(), TrainingError> {
        for (name, variable) in variables.learned() {
            let Some(gradient) = store.get(variable.as_tensor()) else {
                continue;
            };
            let gradient = gradient.detach();
            let gradient = if scale == 1.0 {
                gradient
            } else {
                (gradient * scale)?
            };
            let sum = match self.sums.remove(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        Ok(())
    }

    /// Returns the gradient of a variable.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.sums.get(name)
    }

    /// Computes the Euclidean norm of all gradients together.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn norm(&self) -> Result<f64, TrainingError> {
        let mut sum = 0.0;
        for gradient in self.sums.values() {
            sum += step::sum_of_squares(gradient)?;
        }
        Ok(sum.sqrt())
    }

    /// Clips the gradients to this norm, as torch does, and returns the norm before.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn clip(&mut self, longest: f64) -> Result<f64, TrainingError> {
        let norm = self.norm()?;
        let factor = longest / (norm + 1e-6);
        if factor < 1.0 {
            for gradient in self.sums.values_mut() {
                step::scale(gradient, factor)?;
            }
        }
        Ok(norm)
    }
}

/// AdamW with its state: the two moments of each variable, and the number of steps.
pub struct Optimizer {
    settings: AdamW,
    variables: Variables,
    moments: BTreeMap<String, [Tensor; 2]>,
    steps: u64,
}

impl Optimizer {
    /// Starts an optimizer without any moments.
    pub fn new(settings: AdamW, variables: Variables) -> Self {
        Self {
            settings,
            variables,
            moments: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Returns the number of steps that were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes one step with this learning rate, which moves the variables that have a gradient.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn step(&mut self, gradients: &Gradients, rate: f64) -> Result<(), TrainingError> {
        self.steps += 1;
        for (name, variable) in self.variables.learned() {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            let moments = match self.moments.remove(name) {
                Some(moments) => moments,
                None => [gradient.zeros_like()?, gradient.zeros_like()?],
            };
            let step = Step::of(
                &self.settings,
                self.steps,
                rate,
                decays(name, variable.dims().len()),
            );
            let moments = match variable.device().is_cpu() {
                true => step.in_place(variable, gradient, moments)?,
                false => step.composed(variable, gradient, moments)?,
            };
            self.moments.insert(name.to_owned(), moments);
        }
        Ok(())
    }

    /// Writes the moments as safetensors.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainingError> {
        let tensors = self.moments.iter().flat_map(|(name, moments)| {
            MOMENTS
                .iter()
                .zip(moments)
                .map(move |(moment, tensor)| (format!("{moment}.{name}"), tensor.clone()))
        });
        let tensors: std::collections::HashMap<_, _> = tensors.collect();
        durable::write_by(path, |path| candle_core::safetensors::save(&tensors, path))
            .map_err(TrainingError::content(path))
    }

    /// Goes on from a state that [`Optimizer::save`] wrote after so many steps.
    ///
    /// # Errors
    /// A file that cannot be read or belongs to other variables.
    pub fn restore(&mut self, path: &Path, steps: u64) -> Result<(), TrainingError> {
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(TrainingError::content(path))?;
        self.moments.clear();
        for (name, variable) in self.variables.learned() {
            let [first, second] = MOMENTS.map(|moment| tensors.remove(&format!("{moment}.{name}")));
            let (Some(first), Some(second)) = (first, second) else {
                continue;
            };
            if first.dims() != variable.dims() {
                let reason = format!(
                    "the moments of '{name}' have another shape than the recipe's geometry"
                );
                return Err(TrainingError::Checkpoint {
                    path: path.to_owned(),
                    reason,
                });
            }
            let device = variable.device();
            let moments = [first.to_device(device)?, second.to_device(device)?];
            self.moments.insert(name.to_owned(), moments);
        }
        self.steps = steps;
        Ok(())
    }
}
