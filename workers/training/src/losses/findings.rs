//! Binary cross entropy of the findings classifier: positives weigh more where they are rare, blank labels do not count.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// The weighting of positives by their number `n` among `N` training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// `N / n`.
    Lin,
    /// `ln(N / n)`, as published.
    #[default]
    Log,
    /// 1.
    None,
}

impl Weighting {
    /// The weight of a label with this many positives among `known` images. A label without any positive weighs 1, since
    /// its quotient is not a number.
    pub fn weight(self, positives: usize, known: usize) -> f32 {
        if positives == 0 {
            return 1.0;
        }
        let quotient = known as f64 / positives as f64;
        match self {
            Weighting::Lin => quotient as f32,
            Weighting::Log => quotient.ln() as f32,
            Weighting::None => 1.0,
        }
    }
}

/// The loss of `logits [B, 14]` for `targets [B, 14]` of 0 and 1, mean over the cells where `mask [B, 14]` is 1; positives
/// count `weights [14]` times. A batch without any such cell has the loss 0.
///
/// # Errors
/// Shapes that do not fit.
pub fn binary_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    mask: &Tensor,
    weights: &Tensor,
) -> Result<Tensor> {
    // As torch computes it: never the exponential of a large number.
    let softplus = ((logits.abs()?.neg()?.exp()? + 1.0)?.log()? + logits.neg()?.relu()?)?;
    let factor = (targets.broadcast_mul(&(weights - 1.0)?)? + 1.0)?;
    let cells = (((1.0 - targets)? * logits)? + (factor * softplus)?)?;
    let known = mask.sum_all()?.maximum(1.0)?;
    (cells * mask)?.sum_all()?.div(&known)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// The textbook form, in f64.
    fn expected(x: f64, y: f64, w: f64) -> f64 {
        let p = 1.0 / (1.0 + (-x).exp());
        -(w * y * p.ln() + (1.0 - y) * (1.0 - p).ln())
    }

    #[test]
    fn weights_and_mask_count_as_in_the_textbook_form_and_so_do_gradients() {
        let (x, y) = (
            [[1.5f32, -0.3, 2.0], [-4.0, 0.7, 0.1]],
            [[1f32, 0.0, 1.0], [0.0, 1.0, 0.0]],
        );
        let (mask, w) = ([[1f32, 1.0, 0.0], [1.0, 1.0, 1.0]], [3f32, 0.5, 1.0]);
        let tensor = |rows: &[[f32; 3]; 2]| Tensor::new(rows, &Device::Cpu).unwrap();
        let logits = Var::from_tensor(&tensor(&x)).unwrap();
        let weights = Tensor::new(&w, &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(&logits, &tensor(&y), &tensor(&mask), &weights).unwrap();
        let mut sum = 0.0;
        let mut gradient = Vec::new();
        for row in 0..2 {
            for c in 0..3 {
                let (m, xv, yv, wv) = (
                    f64::from(mask[row][c]),
                    f64::from(x[row][c]),
                    f64::from(y[row][c]),
                    f64::from(w[c]),
                );
                sum += m * expected(xv, yv, wv) / 5.0;
                let p = 1.0 / (1.0 + (-xv).exp());
                gradient.push((m * (-wv * yv * (1.0 - p) + (1.0 - yv) * p) / 5.0) as f32);
            }
        }
        assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - sum).abs() < 1e-6);
        let found = loss
            .backward()
            .unwrap()
            .get(&logits)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (found, expected) in found.iter().zip(&gradient) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn large_logits_and_an_empty_mask_stay_numbers() {
        let tensor = |value: f32| Tensor::full(value, (1, 2), &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap();
        let loss = |x, mask| {
            let loss =
                binary_cross_entropy(&tensor(x), &tensor(1.0), &tensor(mask), &weights).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        assert_eq!(loss(-500.0, 1.0), 500.0);
        assert_eq!(loss(1.0, 0.0), 0.0);
    }

    #[test]
    fn weights_are_the_published_quotients() {
        assert_eq!(Weighting::Lin.weight(10, 40), 4.0);
        assert!((Weighting::Log.weight(10, 40) - 4f32.ln()).abs() < 1e-6);
        assert_eq!(Weighting::None.weight(10, 40), 1.0);
        assert_eq!(Weighting::Log.weight(0, 40), 1.0);
    }
}
