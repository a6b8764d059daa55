//! The losses of the five trainings; that of the input gate is [`cross_entropy()`] alone.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

pub mod alignment;
pub mod chexbert;
mod cross_entropy;
pub mod findings;
pub mod language;

/// Cross entropy of `logits [n, classes]` and the classes `targets [n]` (u32), mean over the rows. `smoothing` of each
/// target is spread evenly over all classes.
///
/// # Errors
/// Shapes that do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    if logits.device().is_cpu() {
        return cross_entropy::of_rows(logits, targets, smoothing);
    }
    composed(logits, targets, smoothing)
}

/// Computes the same with the tensor library's own operations, for devices other than the CPU.
fn composed(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let log_probabilities = log_softmax(logits, D::Minus1)?;
    let of_target = log_probabilities
        .gather(&targets.unsqueeze(1)?, 1)?
        .mean_all()?
        .neg()?;
    if smoothing == 0.0 {
        return Ok(of_target);
    }
    let of_all = log_probabilities.mean_all()?.neg()?;
    (of_target * (1.0 - smoothing))? + (of_all * smoothing)?
}

/// Cross entropy over the rows of `logits [n, classes]` that have a target; none at all is an error, since its mean would
/// not be a number.
pub(crate) fn cross_entropy_of_some(
    logits: &Tensor,
    targets: &[Option<u32>],
    smoothing: f64,
) -> Result<Tensor> {
    let (rows, classes): (Vec<u32>, Vec<u32>) = (0..)
        .zip(targets)
        .filter_map(|(row, target)| target.map(|target| (row, target)))
        .unzip();
    if rows.is_empty() {
        candle_core::bail!(
            "a batch without any target: leave out samples whose prompt fills the cutoff"
        );
    }
    let rows = Tensor::new(rows, logits.device())?;
    cross_entropy(
        &logits.index_select(&rows, 0)?,
        &Tensor::new(classes, logits.device())?,
        smoothing,
    )
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_classes_with_and_without_smoothing() {
        let logits = Tensor::zeros((3, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0u32, 4, 2], &Device::Cpu).unwrap();
        for smoothing in [0.0, 0.1] {
            let loss = cross_entropy(&logits, &targets, smoothing)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!((loss - 5f32.ln()).abs() < 1e-6, "{loss}");
        }
    }

    #[test]
    fn one_operation_equals_the_composed_one_and_so_does_its_gradient() {
        let values: Vec<f32> = (0..140 * 9).map(|i| 3.0 * (i as f32 * 0.7).sin()).collect();
        let values = Tensor::from_vec(values, (140, 9), &Device::Cpu).unwrap();
        let targets = Tensor::from_iter((0..140u32).map(|row| row % 9), &Device::Cpu).unwrap();
        for smoothing in [0.0, 0.1] {
            let logits = candle_core::Var::from_tensor(&values).unwrap();
            let ours = cross_entropy(&logits, &targets, smoothing).unwrap();
            let theirs = composed(&logits, &targets, smoothing).unwrap();
            let gradient = |loss: &Tensor| {
                loss.affine(2.0, 0.0)
                    .unwrap()
                    .backward()
                    .unwrap()
                    .get(&logits)
                    .unwrap()
                    .clone()
            };
            for (ours, theirs) in [
                (ours.clone(), theirs.clone()),
                (gradient(&ours), gradient(&theirs)),
            ] {
                let worst = (ours - theirs)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .max(0)
                    .unwrap();
                assert!(worst.to_scalar::<f32>().unwrap() < 1e-6, "{worst}");
            }
        }
    }

    #[test]
    fn a_target_that_is_no_class_is_an_error() {
        let logits = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(cross_entropy(&logits, &Tensor::new(&[3u32], &Device::Cpu).unwrap(), 0.0).is_err());
    }

    #[test]
    fn rows_without_target_do_not_count_and_a_batch_of_them_is_an_error() {
        let logits = Tensor::new(&[[9f32, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy_of_some(&logits, &[None, Some(1)], 0.0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!((loss - 2f32.ln()).abs() < 1e-6, "{loss}");
        assert!(cross_entropy_of_some(&logits, &[None, None], 0.0).is_err());
    }
}
