//! One step of AdamW on one variable. On a CPU it goes over the values in place and on all threads: of the tensor library's
//! operations it would take ten, each with a tensor of its own.

use candle_core::{
    CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, Var, bail,
};
use rayon::prelude::*;

use super::{AdamForm, AdamW};

/// Values that one thread takes at a time.
const PART: usize = 1 << 14;

/// The numbers of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    betas: [f64; 2],
    eps: f64,
    form: AdamForm,
    /// What the second moment's root is divided by.
    correction: f64,
    /// Times the quotient of the moments.
    rate: f64,
    /// What the value keeps.
    kept: f64,
}

impl Step {
    /// Step number `steps`, from 1 on.
    pub(super) fn of(settings: &AdamW, steps: u64, rate: f64, decays: bool) -> Self {
        let AdamW {
            betas,
            eps,
            weight_decay,
            form,
        } = *settings;
        let [first, second] = betas.map(|beta| 1.0 - beta.powf(steps as f64));
        let scale = match form {
            AdamForm::Torch => 1.0 / first,
            AdamForm::Transformers => second.sqrt() / first,
        };
        let kept = if decays {
            1.0 - rate * weight_decay
        } else {
            1.0
        };
        Self {
            betas,
            eps,
            form,
            correction: second.sqrt(),
            rate: rate * scale,
            kept,
        }
    }

    /// Moves the variable and returns its moments.
    pub(super) fn in_place(
        self,
        variable: &Var,
        gradient: &Tensor,
        moments: [Tensor; 2],
    ) -> Result<[Tensor; 2]> {
        let gradient = gradient.contiguous()?;
        let [first, second] = &moments;
        first.inplace_op2(
            &gradient,
            &Moment {
                beta: self.betas[0],
                is_square: false,
            },
        )?;
        second.inplace_op2(
            &gradient,
            &Moment {
                beta: self.betas[1],
                is_square: true,
            },
        )?;
        variable.as_tensor().inplace_op3(first, second, &self)?;
        Ok(moments)
    }

    /// Computes the same with the tensor library's operations, for devices other than the CPU.
    pub(super) fn composed(
        self,
        variable: &Var,
        gradient: &Tensor,
        moments: [Tensor; 2],
    ) -> Result<[Tensor; 2]> {
        let [first, second] = moments;
        let [beta1, beta2] = self.betas;
        let first = ((first * beta1)? + (gradient * (1.0 - beta1))?)?;
        let second = ((second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let root = match self.form {
            AdamForm::Torch => ((second.sqrt()? / self.correction)? + self.eps)?,
            AdamForm::Transformers => (second.sqrt()? + self.eps)?,
        };
        let moved = (first.div(&root)? * self.rate)?;
        variable.set(&((variable.as_detached_tensor() * self.kept)? - moved)?)?;
        Ok([first, second])
    }
}

/// Takes the gradient into a moment.
struct Moment {
    beta: f64,
    is_square: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "moment"
    }

    fn cpu_fwd(
        &self,
        moment: &mut CpuStorage,
        l1: &Layout,
        gradient: &CpuStorage,
        l2: &Layout,
    ) -> Result<()> {
        let (moment, gradient) = (floats_mut(moment, l1)?, floats(gradient, l2)?);
        let (kept, taken) = (self.beta as f32, (1.0 - self.beta) as f32);
        moment
            .par_chunks_mut(PART)
            .zip(gradient.par_chunks(PART))
            .for_each(|(moment, gradient)| {
                for (moment, gradient) in moment.iter_mut().zip(gradient) {
                    let new = if self.is_square {
                        gradient * gradient
                    } else {
                        *gradient
                    };
                    *moment = *moment * kept + new * taken;
                }
            });
        Ok(())
    }
}

impl InplaceOp3 for Step {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        values: &mut CpuStorage,
        l1: &Layout,
        first: &CpuStorage,
        l2: &Layout,
        second: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (values, first, second) = (
            floats_mut(values, l1)?,
            floats(first, l2)?,
            floats(second, l3)?,
        );
        let [eps, rate, kept] = [self.eps, self.rate, self.kept].map(|number| number as f32);
        let divisor = match self.form {
            AdamForm::Torch => self.correction as f32,
            AdamForm::Transformers => 1.0,
        };
        let parts = values
            .par_chunks_mut(PART)
            .zip(first.par_chunks(PART))
            .zip(second.par_chunks(PART));
        parts.for_each(|((values, first), second)| {
            for ((value, first), second) in values.iter_mut().zip(first).zip(second) {
                *value = *value * kept - first / (second.sqrt() / divisor + eps) * rate;
            }
        });
        Ok(())
    }
}

/// The sum of the squares of a gradient's values, in parts of a fixed size.
pub(super) fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    const LANES: usize = 16;
    let gradient = gradient.contiguous()?;
    let (storage, layout) = gradient.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
    };
    let parts: Vec<f64> = floats(storage, layout)?
        .par_chunks(PART)
        .map(|part| {
            let mut lanes = [0f32; LANES];
            let (chunks, rest) = part.as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += value * value;
                }
            }
            let rest = rest.iter().map(|value| value * value).sum::<f32>();
            lanes.into_iter().map(f64::from).sum::<f64>() + f64::from(rest)
        })
        .collect();
    Ok(parts.into_iter().sum())
}

/// Multiplies a gradient with a factor; on a CPU in place.
pub(super) fn scale(gradient: &mut Tensor, factor: f64) -> Result<()> {
    if gradient.device().is_cpu() {
        *gradient = gradient.contiguous()?;
        return gradient.inplace_op1(&Scale(factor as f32));
    }
    *gradient = (&*gradient * factor)?;
    Ok(())
}

struct Scale(f32);

impl InplaceOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, values: &mut CpuStorage, layout: &Layout) -> Result<()> {
        floats_mut(values, layout)?
            .par_chunks_mut(PART)
            .for_each(|part| part.iter_mut().for_each(|value| *value *= self.0));
        Ok(())
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("moments and gradients are contiguous")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("variables and moments are contiguous")
    };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("variables are f32"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_norm_and_a_scale_are_those_of_the_tensor_library() {
        let values: Vec<f32> = (0..40_003)
            .map(|index| (index as f32 * 0.7).sin())
            .collect();
        let mut gradient = Tensor::from_vec(values, 40_003, &Device::Cpu).unwrap();
        let squares = |gradient: &Tensor| {
            let sum = gradient.sqr().unwrap().sum_all().unwrap();
            f64::from(sum.to_scalar::<f32>().unwrap())
        };
        let plain = squares(&gradient);
        assert!((sum_of_squares(&gradient).unwrap() - plain).abs() < 1e-5 * plain);
        scale(&mut gradient, 0.5).unwrap();
        assert!((squares(&gradient) - 0.25 * plain).abs() < 1e-5 * plain);
    }

    #[test]
    fn steps_in_place_equal_composed_ones_in_both_forms() {
        let wave = |phase: f32| {
            let values: Vec<f32> = (0..40_000)
                .map(|index| (index as f32 * 0.7 + phase).sin())
                .collect();
            Tensor::from_vec(values, (200, 200), &Device::Cpu).unwrap()
        };
        for settings in [AdamW::findings(), AdamW::alignment()] {
            let (ours, theirs) = (
                Var::from_tensor(&wave(0.0)).unwrap(),
                Var::from_tensor(&wave(0.0)).unwrap(),
            );
            let zeros = || {
                [
                    wave(0.0).zeros_like().unwrap(),
                    wave(0.0).zeros_like().unwrap(),
                ]
            };
            let (mut our_moments, mut their_moments) = (zeros(), zeros());
            for steps in 1..4 {
                let (step, gradient) = (Step::of(&settings, steps, 1e-2, true), wave(steps as f32));
                our_moments = step.in_place(&ours, &gradient, our_moments).unwrap();
                their_moments = step.composed(&theirs, &gradient, their_moments).unwrap();
            }
            let close = |ours: &Tensor, theirs: &Tensor| {
                let worst = (ours - theirs)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap();
                assert!(worst.to_scalar::<f32>().unwrap() < 1e-6, "{worst}");
            };
            close(&ours, &theirs);
            our_moments
                .iter()
                .zip(&their_moments)
                .for_each(|(ours, theirs)| close(ours, theirs));
        }
    }
}
