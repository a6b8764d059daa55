//! Memory-mapped safetensors files as one source of tensors. A tensor is copied out of the map when a network asks
//! for it, so that loading needs one copy of the weights and not two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::safetensors::Load;
use candle_core::{DType, Device, Error, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::error::BundleError;
use crate::ggml;
use crate::language::{QuantizedMatrices, QuantizedMatrix};
use crate::tensors::TensorSpec;

/// Rows of a quantised matrix that are widened at a time.
const WIDENED_ROWS: usize = 4096;

/// The tensors of one component, by their names in the published checkpoints.
#[derive(Clone)]
pub struct MappedWeights(Arc<MappedFiles>);

struct MappedFiles {
    files: Vec<(PathBuf, Mmap)>,
    tensors: HashMap<String, MappedTensor>,
}

struct MappedTensor {
    file: usize,
    dtype: Dtype,
    /// The type of its blocks, where the bytes are quantised numbers.
    ggml: Option<GgmlDType>,
    /// Of the numbers, whatever they are stored as.
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl MappedWeights {
    /// Maps the files and reads their headers; no tensor data is read.
    ///
    /// # Errors
    /// Files that cannot be opened, are truncated or are not safetensors.
    pub fn open(paths: &[PathBuf]) -> Result<Self, BundleError> {
        let mut inner = MappedFiles {
            files: Vec::new(),
            tensors: HashMap::new(),
        };
        for path in paths {
            let map = map_file(path)?;
            let (header, metadata) =
                SafeTensors::read_metadata(&map).map_err(|error| BundleError::Safetensors {
                    file: path.clone(),
                    reason: error.to_string(),
                })?;
            let types = ggml_types(path, &metadata)?;
            // 8 bytes of header length, the header, then the data that offsets count from.
            let data = 8 + header;
            for (name, info) in metadata.tensors() {
                let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
                let ggml = types.get(&name).copied();
                let shape = match ggml {
                    None => info.shape.clone(),
                    Some(ggml) => quantized_shape(path, &name, info, ggml)?,
                };
                let entry = MappedTensor {
                    file: inner.files.len(),
                    dtype: info.dtype,
                    ggml,
                    shape,
                    bytes,
                };
                inner.tensors.insert(name, entry);
            }
            inner.files.push((path.clone(), map));
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Number of tensors and of their elements.
    pub fn count(&self) -> (usize, u64) {
        let elements = self
            .0
            .tensors
            .values()
            .map(|entry| entry.shape.iter().product::<usize>() as u64)
            .sum();
        (self.0.tensors.len(), elements)
    }

    /// Names and shapes of all tensors, in no order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let tensors = self.0.tensors.iter();
        tensors.map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// The shape of a tensor, where there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The shape of a tensor, the first in the order of names; none where there is none.
    pub fn first_shape(&self) -> Option<&[usize]> {
        let first = self.0.tensors.iter().min_by_key(|(name, _)| *name)?;
        Some(&first.1.shape)
    }

    /// The type that a tensor is stored in, where there is such a tensor that is not quantised and candle has the type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        let entry = self.0.tensors.get(name)?;
        match entry.ggml {
            None => entry.dtype.try_into().ok(),
            Some(_) => None,
        }
    }

    /// Bytes of a quantised tensor as it is stored; nothing for one of numbers.
    pub fn quantized_size(&self, name: &str) -> Option<usize> {
        let entry = self.0.tensors.get(name)?;
        entry.ggml.map(|_| self.bytes(entry).len())
    }

    /// The type and the bytes of a tensor as it is stored; none where there is no such tensor.
    pub(super) fn stored(&self, name: &str) -> Option<(Dtype, &[u8])> {
        let entry = self.0.tensors.get(name)?;
        Some((entry.dtype, self.bytes(entry)))
    }

    /// Some rows of a matrix that is not quantised, in f32.
    ///
    /// # Errors
    /// No such matrix, or rows that it does not have.
    pub(super) fn rows(&self, name: &str, rows: Range<usize>) -> candle_core::Result<Vec<f32>> {
        let entry = self.find(name)?;
        let (&[all, columns], None) = (entry.shape.as_slice(), entry.ggml) else {
            candle_core::bail!("'{name}' is no matrix of numbers")
        };
        let row = self.bytes(entry).len() / all.max(1);
        let Some(bytes) = self.bytes(entry).get(rows.start * row..rows.end * row) else {
            candle_core::bail!("rows {rows:?} of '{name}', which has {all}")
        };
        TensorView::new(entry.dtype, vec![rows.len(), columns], bytes)?
            .load(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()
    }

    /// A quantised tensor as it is stored: the type of its blocks, and bytes `[rows, bytes a row]`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn quantized_tensor(&self, name: &str) -> candle_core::Result<Option<(GgmlDType, Tensor)>> {
        let entry = self.0.tensors.get(name);
        let Some((entry, ggml)) = entry.and_then(|entry| Some((entry, entry.ggml?))) else {
            return Ok(None);
        };
        let bytes = self.bytes(entry);
        let shape = (entry.shape[0], bytes.len() / entry.shape[0]);
        let tensor = Tensor::from_slice(bytes, shape, &Device::Cpu)?;
        Ok(Some((ggml, tensor)))
    }

    /// The number of quantised tensors of each type, by its name.
    pub fn quantized_types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        for ggml in self.0.tensors.values().filter_map(|entry| entry.ggml) {
            *types.entry(ggml::name(ggml)).or_default() += 1;
        }
        types
    }

    /// Name, type and columns of each quantised matrix, in no order.
    pub(super) fn quantized_matrices(&self) -> impl Iterator<Item = (&str, GgmlDType, usize)> {
        let tensors = self.0.tensors.iter();
        tensors.filter_map(|(name, entry)| Some((name.as_str(), entry.ggml?, *entry.shape.last()?)))
    }

    /// Bytes that the quantised tensors take as they are stored, and when they are widened to `dtype`.
    pub fn quantized_bytes(&self, dtype: DType) -> (u64, u64) {
        let quantized = self.0.tensors.values().filter(|entry| entry.ggml.is_some());
        quantized.fold((0, 0), |(stored, widened), entry| {
            let elements = entry.shape.iter().product::<usize>();
            let wide = elements * dtype.size_in_bytes();
            (stored + entry.bytes.len() as u64, widened + wide as u64)
        })
    }

    /// Checks names and shapes against what a configuration asks for.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape, with both shapes and the file.
    pub fn check(&self, layout: &[TensorSpec]) -> Result<(), BundleError> {
        for TensorSpec { header, .. } in layout.iter().filter(|spec| spec.required) {
            let (tensor, expected) = (header.name.clone(), header.shape.clone());
            match self.0.tensors.get(&tensor) {
                None => {
                    return Err(BundleError::TensorMissing {
                        tensor,
                        expected,
                        file: self.first_file(),
                    });
                }
                Some(entry) if entry.shape != expected => {
                    let (found, file) = (entry.shape.clone(), self.0.files[entry.file].0.clone());
                    return Err(BundleError::TensorShape {
                        tensor,
                        expected,
                        found,
                        file,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Checks that no low-rank addition of an adapter is left out: one that the configuration does not ask for would change
    /// nothing, and nobody would know.
    ///
    /// # Errors
    /// The first such tensor, in the order of names, with its file.
    pub fn check_additions(&self, layout: &[TensorSpec]) -> Result<(), BundleError> {
        let asked: BTreeSet<&str> = layout
            .iter()
            .map(|spec| spec.header.name.as_str())
            .collect();
        let tensors = self.0.tensors.iter();
        let unasked = tensors
            .filter(|(name, _)| name.contains(".lora_") && !asked.contains(name.as_str()))
            .min_by_key(|(name, _)| name.as_str());
        match unasked {
            None => Ok(()),
            Some((name, entry)) => Err(BundleError::Unusable {
                file: self.0.files[entry.file].0.clone(),
                reason: format!(
                    "it has '{name}', which target_modules and the layers of the base do not ask for: the configuration is of \
                     another adapter"
                ),
            }),
        }
    }

    /// Checks that all values are finite. It reads every byte, on all cores.
    ///
    /// # Errors
    /// The first tensor, in the order of names, that has a value that is NaN or infinite, with its file.
    pub fn check_finite(&self) -> Result<(), BundleError> {
        let mut tensors: Vec<_> = self.0.tensors.iter().collect();
        tensors.sort_unstable_by_key(|(name, _)| *name);
        let not_finite = tensors.into_iter().find(|(_, entry)| match entry.ggml {
            None => has_not_finite(entry.dtype, self.bytes(entry)),
            Some(ggml) => !all_blocks_finite(ggml, self.bytes(entry)),
        });
        match not_finite {
            None => Ok(()),
            Some((name, entry)) => Err(BundleError::NotFinite {
                tensor: name.clone(),
                file: self.0.files[entry.file].0.clone(),
            }),
        }
    }

    fn bytes(&self, entry: &MappedTensor) -> &[u8] {
        &self.0.files[entry.file].1[entry.bytes.clone()]
    }

    /// Takes a tensor's bytes out of this process's memory; they are read again from the file where somebody asks.
    fn forget(&self, entry: &MappedTensor) {
        #[cfg(unix)]
        {
            let map = &self.0.files[entry.file].1;
            #[expect(unsafe_code, reason = "memmap2 leaves it to its callers")]
            // SAFETY: pages of a file that is mapped to be read alone come back as they were, for whoever looks at them.
            let forgotten = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    entry.bytes.start,
                    entry.bytes.len(),
                )
            };
            if let Err(error) = forgotten {
                tracing::debug!(%error, "a file's pages stay in memory until the system needs it");
            }
        }
    }

    /// A builder whose tensors come out as `dtype` on `device`, whatever they are stored as.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    fn first_file(&self) -> PathBuf {
        self.0
            .files
            .first()
            .map(|(path, _)| path.clone())
            .unwrap_or_default()
    }

    fn find(&self, name: &str) -> candle_core::Result<&MappedTensor> {
        let missing = || {
            Error::CannotFindTensor {
                path: name.to_owned(),
            }
            .with_path(self.first_file())
        };
        self.0.tensors.get(name).ok_or_else(missing)
    }

    fn load(
        &self,
        entry: &MappedTensor,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let Some(ggml) = entry.ggml {
            return self.widened(entry, ggml, dtype)?.to_device(device);
        }
        TensorView::new(entry.dtype, entry.shape.clone(), self.bytes(entry))?
            .load(device)?
            .to_dtype(dtype)
    }

    /// A quantised matrix as numbers, some rows at a time, so that no part but the result is whole in f32.
    fn widened(
        &self,
        entry: &MappedTensor,
        ggml: GgmlDType,
        dtype: DType,
    ) -> candle_core::Result<Tensor> {
        let (rows, columns) = (entry.shape[0], entry.shape[1]);
        let row = self.bytes(entry).len() / rows.max(1);
        let parts = self.bytes(entry).chunks((row * WIDENED_ROWS).max(1));
        let parts = parts.map(|bytes| {
            let count = bytes.len() / row;
            QuantizedMatrix::widened(bytes, ggml, (count, columns))?.to_dtype(dtype)
        });
        Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }
}

impl QuantizedMatrices for MappedWeights {
    fn quantized(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> candle_core::Result<Option<QuantizedMatrix>> {
        let Some(entry) = self.0.tensors.get(name) else {
            return Ok(None);
        };
        let Some(ggml) = entry.ggml.filter(|ggml| QuantizedMatrix::has_kernel(*ggml)) else {
            return Ok(None);
        };
        if entry.shape != [shape.0, shape.1] {
            let msg = format!("shape mismatch for {name}");
            let error = Error::UnexpectedShape {
                msg,
                expected: shape.into(),
                got: entry.shape.clone().into(),
            };
            return Err(error.with_path(&self.0.files[entry.file].0));
        }
        let matrix = QuantizedMatrix::new(self.bytes(entry), ggml, shape)?;
        self.forget(entry);
        Ok(Some(matrix))
    }
}

impl SimpleBackend for MappedWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let entry = self.find(name)?;
        if entry.shape != shape.dims() {
            let msg = format!("shape mismatch for {name}");
            let error = Error::UnexpectedShape {
                msg,
                expected: shape,
                got: entry.shape.clone().into(),
            };
            return Err(error.with_path(&self.0.files[entry.file].0));
        }
        self.load(entry, dtype, device)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.load(self.find(name)?, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}

/// The types of a file's quantised tensors, by name.
fn ggml_types(
    path: &Path,
    metadata: &safetensors::tensor::Metadata,
) -> Result<BTreeMap<String, GgmlDType>, BundleError> {
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(ggml::METADATA_KEY));
    match json {
        None => Ok(BTreeMap::new()),
        Some(json) => ggml::parse_metadata(json).map_err(BundleError::unusable(path)),
    }
}

/// Rows and columns of the numbers in bytes of blocks.
fn quantized_shape(
    path: &Path,
    name: &str,
    info: &safetensors::tensor::TensorInfo,
    ggml: GgmlDType,
) -> Result<Vec<usize>, BundleError> {
    match (info.dtype, info.shape.as_slice()) {
        (Dtype::U8, &[rows, bytes])
            if rows > 0 && bytes > 0 && bytes.is_multiple_of(ggml.type_size()) =>
        {
            Ok(vec![rows, bytes / ggml.type_size() * ggml.block_size()])
        }
        (dtype, shape) => {
            let reason = format!(
                "tensor '{name}' is {dtype:?} of shape {shape:?} and should be bytes, each row whole blocks of {} bytes \
                 ({})",
                ggml.type_size(),
                ggml::name(ggml)
            );
            Err(BundleError::unusable(path)(reason))
        }
    }
}

/// Whether all scales of a quantised tensor are finite.
fn all_blocks_finite(ggml: GgmlDType, bytes: &[u8]) -> bool {
    // Whole blocks for one core at a time.
    let part = ggml.type_size() << 12;
    bytes
        .par_chunks(part)
        .all(|part| ggml::all_finite(ggml, part))
}

/// Whether little-endian numbers have one whose exponent is all ones, which is NaN or an infinity.
fn has_not_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    /// Bytes for one core at a time; a multiple of every number's size.
    const BLOCK: usize = 1 << 20;
    fn any<const N: usize>(bytes: &[u8], exponent: u64) -> bool {
        bytes.par_chunks(BLOCK).any(|block| {
            let (numbers, _) = block.as_chunks::<N>();
            numbers.iter().any(|number| {
                let mut wide = [0; 8];
                wide[..N].copy_from_slice(number);
                u64::from_le_bytes(wide) & exponent == exponent
            })
        })
    }
    match dtype {
        Dtype::F16 => any::<2>(bytes, 0x7c00),
        Dtype::BF16 => any::<2>(bytes, 0x7f80),
        Dtype::F32 => any::<4>(bytes, 0x7f80_0000),
        Dtype::F64 => any::<8>(bytes, 0x7ff0_0000_0000_0000),
        _ => false,
    }
}

#[expect(
    unsafe_code,
    reason = "a memory map is only sound while nobody truncates the file; bundles are written once, under a \
              temporary name, and never changed"
)]
fn map_file(path: &Path) -> Result<Mmap, BundleError> {
    let file = File::open(path).map_err(BundleError::io("open", path))?;
    unsafe { Mmap::map(&file) }.map_err(BundleError::io("map", path))
}
