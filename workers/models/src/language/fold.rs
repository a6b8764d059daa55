//! An adapter folded into its base: `W + (alpha / r) B A`, which says the same as both beside each other up to one rounding
//! of each weight. In half precision that rounding is larger than most additions, so that an adapter beside its base is
//! closer to what was trained; a folded one needs no second product and no second file.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use rayon::prelude::*;

use super::lora::LoraAdapter;

impl LoraAdapter<'_> {
    /// The weight `[outputs, inputs]` of the layer of this name, e.g. `model.layers.0.self_attn.q_proj`, with the adapter's
    /// addition taken in. Sums are f64 and rounded once, to the type that the weight has (f32, f16 or bf16). A layer that
    /// the adapter does not target comes back as it is.
    ///
    /// # Errors
    /// An adapter without this layer, or of another shape; a weight of another type, e.g. a quantised one.
    pub fn fold(&self, path: &str, weight: &Tensor) -> Result<Tensor> {
        if !self.targets(path) {
            return Ok(weight.clone());
        }
        let (outputs, inputs) = weight.dims2()?;
        let rank = self.config.r;
        let wide = |tensor: Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let down = wide(self.matrix(path, "lora_A", (rank, inputs))?)?;
        let up = wide(self.matrix(path, "lora_B", (outputs, rank))?)?;
        let scale = self.config.lora_alpha / rank as f64;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let range = layout.start_offset()..layout.start_offset() + outputs * inputs;
        let addition = Addition {
            down: &down,
            up: &up,
            scale,
            inputs,
        };
        let (shape, device) = ((outputs, inputs), weight.device());
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                let folded = addition.added(&values[range], f64::from, |value| value as f32);
                Tensor::from_vec(folded, shape, device)
            }
            Storage::Cpu(CpuStorage::F16(values)) => {
                let folded = addition.added(&values[range], f16::to_f64, f16::from_f64);
                Tensor::from_vec(folded, shape, device)
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let folded = addition.added(&values[range], bf16::to_f64, bf16::from_f64);
                Tensor::from_vec(folded, shape, device)
            }
            _ => bail!(
                "an adapter is folded into weights of f32, f16 or bf16 in main memory, and '{path}' is {:?}: widen it first",
                weight.dtype()
            ),
        }
    }
}

/// What is added to a weight.
struct Addition<'a> {
    /// `[rank, inputs]`.
    down: &'a [f64],
    /// `[outputs, rank]`.
    up: &'a [f64],
    scale: f64,
    inputs: usize,
}

impl Addition<'_> {
    fn added<W: Copy + Send + Sync>(
        &self,
        weight: &[W],
        widen: impl Fn(W) -> f64 + Sync + Copy,
        round: impl Fn(f64) -> W + Sync + Copy,
    ) -> Vec<W> {
        let rank = self.down.len() / self.inputs.max(1);
        let rows = weight.par_chunks(self.inputs.max(1));
        rows.zip(self.up.par_chunks(rank.max(1)))
            .flat_map_iter(|(row, up)| {
                let mut sums = vec![0.0; self.inputs];
                for (up, down) in up.iter().zip(self.down.chunks(self.inputs)) {
                    let sums = sums.iter_mut().zip(down);
                    sums.for_each(|(sum, down)| *sum += up * down);
                }
                let values = row.iter().zip(sums);
                values.map(move |(weight, sum)| round(widen(*weight) + self.scale * sum))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use candle_nn::VarBuilder;

    use super::*;
    use crate::language::LoraConfig;

    const PATH: &str = "model.layers.0.self_attn.q_proj";

    fn ramp(rows: usize, columns: usize, scale: f64) -> Tensor {
        let value = |i: usize| (((i * 7919) % 1009) as f64 / 1009.0 - 0.5) * scale;
        let values: Vec<f32> = (0..rows * columns).map(|i| value(i) as f32).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn adapter(down: &Tensor, up: &Tensor) -> LoraAdapter<'static> {
        let name = |part: &str| format!("base_model.model.{PATH}.{part}.weight");
        let tensors = HashMap::from([(name("lora_A"), down.clone()), (name("lora_B"), up.clone())]);
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            target_modules: vec!["q_proj".into()],
        };
        LoraAdapter::new(
            config,
            VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu),
        )
    }

    #[test]
    fn each_weight_is_the_exact_sum_rounded_once() {
        let (down, up) = (ramp(4, 24, 0.01), ramp(40, 4, 0.01));
        let adapter = adapter(&down, &up);
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
        let addition = (wide(&up).matmul(&wide(&down)).unwrap() * 2.0).unwrap();
        for (dtype, epsilon) in [
            (DType::F32, f64::from(f32::EPSILON)),
            (DType::F16, f64::from(f16::EPSILON)),
            (DType::BF16, f64::from(bf16::EPSILON)),
        ] {
            let weight = ramp(40, 24, 1.0).to_dtype(dtype).unwrap();
            let folded = adapter.fold(PATH, &weight).unwrap();
            assert_eq!((folded.dtype(), folded.dims()), (dtype, &[40, 24][..]));
            let exact = (wide(&weight) + &addition).unwrap();
            let rows = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for (found, exact) in rows(&wide(&folded)).into_iter().zip(rows(&exact)) {
                // Half the distance between neighbours, of which the smallest are subnormal in f16.
                let most = (exact.abs() * epsilon / 2.0).max(3e-8);
                assert!(
                    (found - exact).abs() <= most * 1.0001,
                    "{dtype:?}: {found} {exact}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_targeted_stays_and_what_does_not_fit_is_refused() {
        let adapter = adapter(&ramp(4, 24, 1.0), &ramp(40, 4, 1.0));
        let weight = ramp(40, 24, 1.0);
        let other = adapter
            .fold("model.layers.0.self_attn.k_proj", &weight)
            .unwrap();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&other), values(&weight));
        assert!(adapter.fold(PATH, &ramp(24, 40, 1.0)).is_err());
        let bytes = weight.to_dtype(DType::U8).unwrap();
        let error = adapter.fold(PATH, &bytes).unwrap_err().to_string();
        assert!(error.contains("widen it first"), "{error}");
    }
}
