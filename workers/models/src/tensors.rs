//! The tensors of a network, as its own loading asks for them. A recorder takes the place of a weights file: what the
//! network gets from it is written down, with shape and initialisation. So a list of tensors, against which a bundle is
//! checked and from which random weights are drawn, follows from the code that reads them and cannot drift from it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::tensor::Dtype;

/// A name that a recorder says it holds, and no weights file does.
const RECORDER: &str = "<recorder>";

/// A name that a recorder says it does not hold, and sources do that hold whatever one asks for (zeros, noise).
const ANYTHING: &str = "<anything>";

/// A step in the path of tensors that published files carry and inference does not read.
const UNREAD: &str = "<unread>";

/// The distance from 0 up to which random biases lie.
const BIAS_SPREAD: f32 = 0.1;

/// Name, shape and stored type of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorHeader {
    /// The name as in the published checkpoint.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The type that the values are stored in.
    pub dtype: Dtype,
}

/// One tensor of a weights file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name, shape and stored type.
    pub header: TensorHeader,
    /// The way in which random weights are drawn.
    pub init: Initialization,
    /// False for what the published files carry and inference does not read.
    pub required: bool,
}

/// The values of a tensor with random weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    /// Uniform in `centre ± spread`; a constant where the spread is 0.
    Uniform {
        /// Mean of the values.
        centre: f32,
        /// Largest distance from the mean.
        spread: f32,
    },
    /// The output head of a language model that only says words and the end token: uniform in their rows, 0 in the
    /// rows of bytes and fragments.
    Words {
        /// Largest distance from 0.
        spread: f32,
        /// Elements of a row.
        width: usize,
        /// First row of a word.
        first: usize,
        /// The row of the end token.
        end: usize,
    },
    /// 0, 1, 2, …
    Counting,
}

impl TensorHeader {
    /// Bytes of the tensor's data.
    pub fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Takes the place of a weights file. Nothing is computed from what it gives out: its tensors have no memory of their own
/// (every element is the same zero) and count as trained ones, which layers keep as they are.
#[derive(Clone)]
pub struct TensorRecorder {
    stored: Dtype,
    recorded: Arc<Mutex<Recorded>>,
}

#[derive(Default)]
struct Recorded {
    specs: Vec<TensorSpec>,
    names: HashSet<String>,
}

impl TensorRecorder {
    /// A recorder of tensors that are stored as `stored`, apart from those of whole numbers.
    pub fn new(stored: Dtype) -> Self {
        Self {
            stored,
            recorded: Arc::default(),
        }
    }

    /// The source from which a network loads its tensors, to have them recorded.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// The tensors that were asked for, in that order.
    pub fn into_specs(self) -> Vec<TensorSpec> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut recorded.specs)
    }

    fn record(&self, name: &str, shape: &Shape, init: Init, dtype: DType) -> Result<()> {
        let header = TensorHeader {
            name: name.replace(&format!("{UNREAD}."), ""),
            shape: shape.dims().to_vec(),
            dtype: if dtype == DType::I64 {
                Dtype::I64
            } else {
                self.stored
            },
        };
        let spec = TensorSpec {
            init: initialization(init, dtype, &header.name)?,
            required: header.name == name,
            header,
        };
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.names.insert(spec.header.name.clone()) {
            recorded.specs.push(spec);
        }
        Ok(())
    }
}

impl SimpleBackend for TensorRecorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.record(name, &shape, init, dtype)?;
        Var::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        Err(Error::msg(format!("'{name}' is asked for without a shape")))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        !name.ends_with(ANYTHING)
    }
}

/// The place to ask for tensors that the published files carry at this place and that inference does not read: nothing
/// unless they are being recorded.
pub(crate) fn unread<'a>(vb: &VarBuilder<'a>) -> Option<VarBuilder<'a>> {
    let records = vb.contains_tensor(RECORDER) && !vb.contains_tensor(ANYTHING);
    records.then(|| vb.pp(UNREAD))
}

/// Records a linear layer, `weight [outputs, inputs]` and `bias [outputs]`, that the published files carry and that
/// inference does not read.
pub(crate) fn unread_linear(inputs: usize, outputs: usize, vb: &VarBuilder<'_>) -> Result<()> {
    if let Some(vb) = unread(vb) {
        matrix(inputs, outputs, "weight", &vb)?;
        bias(outputs, &vb)?;
    }
    Ok(())
}

/// Records whole numbers that the published files carry and that inference does not read, as `name`.
pub(crate) fn unread_integers(
    shape: impl Into<Shape>,
    name: &str,
    vb: &VarBuilder<'_>,
) -> Result<()> {
    if let Some(vb) = unread(vb) {
        vb.get_with_hints_dtype(shape, name, Init::default(), DType::I64)?;
    }
    Ok(())
}

/// A linear layer's matrix `[outputs, inputs]`. Random ones have unit variance in and out: a uniform value has variance
/// spread² / 3.
pub(crate) fn matrix(
    inputs: usize,
    outputs: usize,
    name: &str,
    vb: &VarBuilder<'_>,
) -> Result<Tensor> {
    vb.get_with_hints((outputs, inputs), name, unit_variance(inputs))
}

/// A layer's `bias [width]`.
pub(crate) fn bias(width: usize, vb: &VarBuilder<'_>) -> Result<Tensor> {
    vb.get_with_hints(width, "bias", uniform(BIAS_SPREAD))
}

/// A table `[rows, width]` of learned vectors, its `weight`.
pub(crate) fn embedding(
    rows: usize,
    width: usize,
    spread: f32,
    vb: &VarBuilder<'_>,
) -> Result<Tensor> {
    vb.get_with_hints((rows, width), "weight", uniform(spread))
}

/// The way in which a matrix of so many inputs is drawn.
pub(crate) fn unit_variance(inputs: usize) -> Init {
    uniform((3.0 / inputs as f32).sqrt())
}

/// The way in which the matrix `[outputs, inputs]` or the bias `[outputs]` of a linear layer is drawn.
pub(crate) fn linear_init(shape: &[usize]) -> Init {
    match shape {
        [_, inputs] => unit_variance(*inputs),
        _ => uniform(BIAS_SPREAD),
    }
}

/// A hint for values that are uniform in `± spread`.
pub(crate) fn uniform(spread: f32) -> Init {
    Init::Uniform {
        lo: -f64::from(spread),
        up: f64::from(spread),
    }
}

/// A hint for values that are all the same.
pub(crate) fn constant(value: f32) -> Init {
    Init::Const(f64::from(value))
}

fn initialization(init: Init, dtype: DType, name: &str) -> Result<Initialization> {
    match init {
        _ if dtype == DType::I64 => Ok(Initialization::Counting),
        Init::Const(value) => Ok(Initialization::Uniform {
            centre: value as f32,
            spread: 0.0,
        }),
        Init::Uniform { lo, up } => Ok(Initialization::Uniform {
            centre: ((lo + up) / 2.0) as f32,
            spread: ((up - lo) / 2.0) as f32,
        }),
        other => Err(Error::msg(format!("'{name}' cannot be drawn as {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_recorded_once_and_in_order_with_its_initialisation() {
        let recorder = TensorRecorder::new(Dtype::F16);
        let vb = recorder.var_builder().pp("layer");
        let weight = matrix(3, 2, "weight", &vb).unwrap();
        vb.get_with_hints(2, "scale", constant(1.0)).unwrap();
        matrix(3, 2, "weight", &vb).unwrap();
        unread_integers((), "count", &vb).unwrap();
        assert_eq!(weight.dims(), [2, 3]);
        assert!(weight.track_op(), "layers must not compute with it");
        let specs = recorder.into_specs();
        let found: Vec<_> = specs
            .iter()
            .map(|spec| (spec.header.name.as_str(), spec.header.dtype, spec.required))
            .collect();
        let expected = [
            ("layer.weight", Dtype::F16, true),
            ("layer.scale", Dtype::F16, true),
            ("layer.count", Dtype::I64, false),
        ];
        assert_eq!(found, expected);
        let drawn = |centre, spread| Initialization::Uniform { centre, spread };
        let init: Vec<_> = specs.iter().map(|spec| spec.init).collect();
        assert_eq!(
            init,
            [drawn(0.0, 1.0), drawn(1.0, 0.0), Initialization::Counting]
        );
    }

    #[test]
    fn only_a_recorder_is_asked_for_what_nobody_reads() {
        let zeros = VarBuilder::zeros(DType::F32, &Device::Cpu);
        assert!(unread(&zeros).is_none());
        let empty = std::collections::HashMap::new();
        let empty = VarBuilder::from_tensors(empty, DType::F32, &Device::Cpu);
        assert!(unread(&empty).is_none());
    }
}
