//! The values of one tensor of the bundle: from a file as they are, in another type, with an adapter folded in, or made.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use super::error::ImportError;
use crate::bundle::stored::stored_header;
use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::ggml;
use crate::language::QuantizedMatrix;
use crate::tensors::TensorHeader;

/// Values that are converted before they are written.
const PIECE: usize = 1 << 18;

/// Rows of a matrix that an adapter is folded into, or that are widened, at a time.
const ROWS: usize = 256;

/// A tensor as the bundle has it, and where its values come from.
#[derive(Clone)]
pub(super) struct PlannedTensor {
    pub(super) header: TensorHeader,
    /// The type of its blocks, where it stays quantised: it is bytes in the bundle then.
    pub(super) ggml: Option<GgmlDType>,
    source: TensorSource,
}

/// Where values come from.
#[derive(Clone)]
pub(super) enum TensorSource {
    /// A published file.
    Stored {
        checkpoint: Arc<dyn Checkpoint + Send + Sync>,
        tensor: StoredTensor,
    },
    /// f32 that no file has.
    Made(Arc<Vec<f32>>),
    /// A matrix `[outputs, inputs]` with `scale · up · down` added to it, of `up [outputs, r]` and `down [r, inputs]`.
    Merged {
        base: Box<PlannedTensor>,
        down: Box<PlannedTensor>,
        up: Box<PlannedTensor>,
        scale: f64,
    },
}

impl PlannedTensor {
    /// A tensor in the type that its source has; a quantised matrix stays as it is.
    ///
    /// # Errors
    /// A type that no network computes with.
    pub(super) fn new(mut header: TensorHeader, source: TensorSource) -> Result<Self, ImportError> {
        if let TensorSource::Stored { tensor, .. } = &source
            && let StoredType::Ggml(stored) = tensor.dtype
            && QuantizedMatrix::has_kernel(stored)
        {
            let (TensorHeader { shape, dtype, .. }, ggml) = stored_header(tensor)?;
            let name = header.name;
            let header = TensorHeader { name, shape, dtype };
            return Ok(Self {
                header,
                ggml,
                source,
            });
        }
        header.dtype = match &source {
            TensorSource::Stored { tensor, .. } => match tensor.dtype {
                StoredType::Dense(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16)) => dtype,
                // No network has use for the other half of it.
                StoredType::Dense(Dtype::F64) => Dtype::F32,
                StoredType::Ggml(GgmlDType::F32) => Dtype::F32,
                StoredType::Ggml(GgmlDType::F16) => Dtype::F16,
                StoredType::Ggml(GgmlDType::BF16) => Dtype::BF16,
                other => {
                    let name = match other {
                        StoredType::Dense(dtype) => dtype.to_string(),
                        StoredType::Ggml(dtype) => format!("{dtype:?}"),
                    };
                    let reason = format!("its type is {name}, and numbers with a point are needed");
                    return Err(tensor.fault(reason).into());
                }
            },
            TensorSource::Made(_) => Dtype::F32,
            TensorSource::Merged { base, .. } => base.header.dtype,
        };
        Ok(Self {
            header,
            ggml: None,
            source,
        })
    }

    /// The same tensor stored in another type; a quantised one is widened.
    pub(super) fn stored_as(mut self, dtype: Dtype) -> Self {
        if let TensorSource::Stored { tensor, .. } = &self.source {
            self.header.shape.clone_from(&tensor.shape);
        }
        self.header.dtype = dtype;
        self.ggml = None;
        self
    }

    /// The same tensor as numbers, where it is quantised: in f32, of which nothing is lost.
    pub(super) fn into_numbers(self) -> Self {
        match self.ggml {
            None => self,
            Some(_) => self.stored_as(Dtype::F32),
        }
    }

    /// The type of the blocks that the source has, their bytes and the number of values, where it is quantised, whatever the
    /// bundle makes of it.
    pub(super) fn quantized(&self) -> Option<(GgmlDType, usize, usize)> {
        match &self.source {
            TensorSource::Stored { tensor, .. } => match tensor.dtype {
                StoredType::Ggml(dtype) if QuantizedMatrix::has_kernel(dtype) => {
                    Some((dtype, tensor.size()?, tensor.elements()?))
                }
                _ => None,
            },
            TensorSource::Made(_) => None,
            TensorSource::Merged { base, .. } => base.quantized(),
        }
    }

    /// Whether an adapter is folded in.
    pub(super) fn is_merged(&self) -> bool {
        matches!(self.source, TensorSource::Merged { .. })
    }

    /// What determines the values, for a fingerprint of the plan.
    pub(super) fn identity(&self) -> String {
        let source = match &self.source {
            TensorSource::Stored { tensor, .. } => format!("{:?} {:?}", tensor.file, tensor.place),
            TensorSource::Made(values) => format!("made, first {:?}", values.first()),
            TensorSource::Merged {
                base,
                down,
                up,
                scale,
            } => format!(
                "{} + {scale} {} {}",
                base.identity(),
                up.identity(),
                down.identity()
            ),
        };
        match self.ggml {
            None => format!("{:?} from {source}", self.header),
            Some(ggml) => format!("{:?} in {} from {source}", self.header, ggml::name(ggml)),
        }
    }

    /// The files that the values are read from.
    pub(super) fn files(&self) -> Vec<&std::path::Path> {
        match &self.source {
            TensorSource::Stored { tensor, .. } => vec![&tensor.file],
            TensorSource::Made(_) => Vec::new(),
            TensorSource::Merged { base, down, up, .. } => {
                [base.files(), down.files(), up.files()].concat()
            }
        }
    }

    /// Hands the values out in pieces, row-major, little-endian, in the type of the header.
    ///
    /// # Errors
    /// A file that cannot be read, values that are not finite, or an error of `write`.
    pub(super) fn write(
        &self,
        write: &mut dyn FnMut(&[u8]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        match &self.source {
            TensorSource::Stored { checkpoint, tensor } => {
                let bytes = checkpoint.read(tensor)?;
                if let StoredType::Ggml(stored) = tensor.dtype
                    && QuantizedMatrix::has_kernel(stored)
                {
                    return self.write_quantized(tensor, stored, &bytes, write);
                }
                let stored = match tensor.dtype {
                    StoredType::Dense(dtype) => dtype,
                    StoredType::Ggml(_) => self.header.dtype,
                };
                let width = stored.bitsize() / 8;
                for piece in bytes.chunks(PIECE * width) {
                    self.check_finite(stored, piece)?;
                    if stored == self.header.dtype {
                        write(piece)?;
                    } else {
                        let values = widened(stored, piece);
                        write(&self.narrowed(&values)?)?;
                    }
                }
                Ok(())
            }
            TensorSource::Made(values) => values
                .chunks(PIECE)
                .try_for_each(|piece| write(&self.narrowed(piece)?)),
            TensorSource::Merged {
                base,
                down,
                up,
                scale,
            } => self.merge((base, down, up), *scale, write),
        }
    }

    /// A quantised matrix as it is, or widened some rows at a time.
    fn write_quantized(
        &self,
        tensor: &StoredTensor,
        stored: GgmlDType,
        bytes: &[u8],
        write: &mut dyn FnMut(&[u8]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        if !ggml::all_finite(stored, bytes) {
            return Err(self.not_finite(&ggml::name(stored)));
        }
        if self.ggml.is_some() {
            return bytes.chunks(PIECE).try_for_each(write);
        }
        let &[rows, columns] = tensor.shape.as_slice() else {
            return Err(tensor.fault("only matrices are quantised").into());
        };
        let failed = |error: candle_core::Error| tensor.fault(error.to_string());
        for part in bytes.chunks((bytes.len() / rows).max(1) * ROWS) {
            let count = part.len() * rows / bytes.len();
            let values = QuantizedMatrix::widened(part, stored, (count, columns))
                .and_then(|values| values.flatten_all()?.to_vec1());
            write(&self.narrowed(&values.map_err(failed)?)?)?;
        }
        Ok(())
    }

    /// The sum is computed in f32 and rounded once.
    fn merge(
        &self,
        (base, down, up): (&Self, &Self, &Self),
        scale: f64,
        write: &mut dyn FnMut(&[u8]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let failed = |error: candle_core::Error| {
            ImportError::Parts(format!("merging '{}': {error}", self.header.name))
        };
        let (down, up) = (down.matrix()?, up.matrix()?);
        let (mut row, inputs) = (0, self.header.shape.last().copied().unwrap_or(1));
        let mut rest: Vec<f32> = Vec::new();
        let block = ROWS * inputs;
        let mut flush = |values: &[f32]| -> Result<(), ImportError> {
            let rows = values.len() / inputs;
            let part = || -> candle_core::Result<Vec<f32>> {
                let weight = Tensor::from_slice(values, (rows, inputs), &Device::Cpu)?;
                let addition = (up.narrow(0, row, rows)?.matmul(&down)? * scale)?;
                (weight + addition)?.flatten_all()?.to_vec1()
            };
            let sum = part().map_err(failed)?;
            row += rows;
            write(&self.narrowed(&sum)?)
        };
        base.write(&mut |piece| {
            rest.extend(widened(base.header.dtype, piece));
            let whole = rest.len() / block * block;
            for values in rest[..whole].chunks(block) {
                flush(values)?;
            }
            rest.drain(..whole);
            Ok(())
        })?;
        match rest.is_empty() {
            true => Ok(()),
            false => flush(&rest),
        }
    }

    /// All values as an f32 matrix.
    fn matrix(&self) -> Result<Tensor, ImportError> {
        let mut values = Vec::new();
        self.write(&mut |piece| {
            values.extend(widened(self.header.dtype, piece));
            Ok(())
        })?;
        let tensor = Tensor::from_vec(values, self.header.shape.as_slice(), &Device::Cpu);
        tensor
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|error| ImportError::Parts(format!("'{}': {error}", self.header.name)))
    }

    fn narrowed(&self, values: &[f32]) -> Result<Vec<u8>, ImportError> {
        let bytes: Vec<u8> = match self.header.dtype {
            Dtype::F16 => bytes_of(values, |value| f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => bytes_of(values, |value| bf16::from_f32(value).to_le_bytes()),
            _ => bytes_of(values, f32::to_le_bytes),
        };
        self.check_finite(self.header.dtype, &bytes)?;
        Ok(bytes)
    }

    fn check_finite(&self, dtype: Dtype, bytes: &[u8]) -> Result<(), ImportError> {
        // The exponent of all ones, which NaN and the infinite have.
        let half = |mask: u16| {
            bytes
                .chunks_exact(2)
                .all(|pair| u16::from_le_bytes([pair[0], pair[1]]) & mask != mask)
        };
        let finite = match dtype {
            Dtype::F16 => half(0x7c00),
            Dtype::BF16 => half(0x7f80),
            Dtype::F32 => widened(dtype, bytes).iter().all(|value| value.is_finite()),
            _ => true,
        };
        match finite {
            true => Ok(()),
            false => Err(self.not_finite(&dtype.to_string())),
        }
    }

    fn not_finite(&self, dtype: &str) -> ImportError {
        ImportError::NotFinite {
            tensor: self.header.name.clone(),
            file: self
                .files()
                .first()
                .map(|file| file.to_path_buf())
                .unwrap_or_default(),
            dtype: dtype.to_owned(),
        }
    }
}

fn bytes_of<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| encode(*value)).collect()
}

/// Stored numbers as f32.
fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    }
}
