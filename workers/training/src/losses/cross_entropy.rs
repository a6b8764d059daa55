//! Cross entropy on a CPU as one operation on all threads: with a language model's vocabulary, the tensor library's ten
//! passes over the logits cost as much as a layer.

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// Mean cross entropy of the rows of `logits` and their classes.
pub(super) fn of_rows(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let targets = targets.to_vec1::<u32>()?;
    if targets.len() != rows {
        bail!("{rows} rows of logits and {} targets", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
        bail!("target {target} is none of {classes} classes");
    }
    logits.contiguous()?.apply_op1(CrossEntropy {
        targets,
        classes,
        smoothing: smoothing as f32,
    })
}

struct CrossEntropy {
    targets: Vec<u32>,
    classes: usize,
    smoothing: f32,
}

/// The largest value, and the logarithm of the sum of exponentials over it.
fn log_sum(row: &[f32]) -> (f32, f32) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (
        largest,
        row.iter()
            .map(|value| (value - largest).exp())
            .sum::<f32>()
            .ln(),
    )
}

impl CrossEntropy {
    fn loss(&self, row: &[f32], target: u32) -> f32 {
        let (largest, log_sum) = log_sum(row);
        let of = |value: f32| log_sum - (value - largest);
        let mean = row.iter().sum::<f32>() / self.classes as f32;
        (1.0 - self.smoothing) * of(row[target as usize])
            + if self.smoothing > 0.0 {
                self.smoothing * of(mean)
            } else {
                0.0
            }
    }

    fn gradient(&self, row: &[f32], target: u32, scale: f32, out: &mut [f32]) {
        let (largest, log_sum) = log_sum(row);
        let spread = self.smoothing / self.classes as f32;
        for (out, value) in out.iter_mut().zip(row) {
            *out = scale * ((value - largest - log_sum).exp() - spread);
        }
        out[target as usize] -= scale * (1.0 - self.smoothing);
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = floats(logits, layout)?
            .par_chunks_exact(self.classes)
            .zip(&self.targets)
            .with_min_len(ROWS);
        let losses: Vec<f32> = rows.map(|(row, target)| self.loss(row, *target)).collect();
        let sum: f64 = losses.iter().copied().map(f64::from).sum();
        Ok((
            CpuStorage::F32(vec![(sum / losses.len() as f64) as f32]),
            Shape::from(()),
        ))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = grad.to_scalar::<f32>()? / self.targets.len() as f32;
        let (storage, layout) = logits.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("logits on a CPU have their gradient there")
        };
        let logits = floats(storage, layout)?;
        let mut out = vec![0.0; logits.len()];
        let rows = logits
            .par_chunks_exact(self.classes)
            .zip(&self.targets)
            .with_min_len(ROWS);
        out.par_chunks_exact_mut(self.classes)
            .zip(rows)
            .for_each(|(out, (row, target))| self.gradient(row, *target, scale, out));
        Tensor::from_vec(out, layout.shape(), grad.device()).map(Some)
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::msg("logits must be contiguous"))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}
