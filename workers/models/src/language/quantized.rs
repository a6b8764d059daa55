//! Matrices that stay quantised in memory. The input of a product is quantised to eight bits, as llama.cpp does, and each
//! output is a sum over whole numbers of the blocks: by kernels of our own for the types that most files have, else by
//! candle's product of two rows.
//!
//! An output depends on its row of the input and its row of the matrix alone, so that an answer has the same bytes in any
//! batch. Candle's own product of a matrix chooses another kernel for many rows than for one, and is not used.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, GgmlType,
};
use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use crate::ggml;
use crate::kernels::quantised::PackedBlocks;
use crate::layers::storage::with_floats;

/// Output columns that one thread takes at a time.
const COLUMNS: usize = 32;
/// Work below which waking other threads costs more than it saves, in multiplications.
const PARALLEL: usize = 1 << 19;

/// A matrix `[rows, columns]` of quantised blocks, on a CPU.
#[derive(Clone, Debug)]
pub struct QuantizedMatrix(Stored);

/// The one copy of a matrix.
#[derive(Clone, Debug)]
enum Stored {
    /// Laid out for kernels of our own.
    Packed(PackedBlocks),
    /// As in a file.
    Blocks(Blocks),
}

/// A matrix's blocks, row by row.
#[derive(Clone, Debug)]
struct Blocks {
    /// The blocks, aligned for every type of them.
    words: Arc<[u64]>,
    dtype: GgmlDType,
    rows: usize,
    columns: usize,
}

/// Where a decoder finds the matrices that stay quantised.
pub trait QuantizedMatrices {
    /// The matrix of this name, where it is quantised and there is a kernel for its type.
    ///
    /// # Errors
    /// Another shape than `[rows, columns]`.
    fn quantized(&self, name: &str, shape: (usize, usize)) -> Result<Option<QuantizedMatrix>>;
}

/// The source of a base model's tensors, in the names of a Hugging Face checkpoint.
#[derive(Clone, Copy)]
pub struct BaseWeights<'a> {
    /// All tensors; a quantised one comes out of it widened.
    pub weights: &'a VarBuilder<'a>,
    /// The matrices that stay quantised, where there are such and the model computes on a CPU.
    pub quantized: Option<&'a dyn QuantizedMatrices>,
}

impl<'a> From<&'a VarBuilder<'a>> for BaseWeights<'a> {
    fn from(weights: &'a VarBuilder<'a>) -> Self {
        Self {
            weights,
            quantized: None,
        }
    }
}

/// Calls a function with the block type of a matrix.
macro_rules! with_blocks {
    ($matrix:expr, $function:ident($($argument:expr),*)) => {
        match $matrix.dtype {
            GgmlDType::Q4_0 => $function::<BlockQ4_0>($matrix, $($argument),*),
            GgmlDType::Q4_1 => $function::<BlockQ4_1>($matrix, $($argument),*),
            GgmlDType::Q5_0 => $function::<BlockQ5_0>($matrix, $($argument),*),
            GgmlDType::Q5_1 => $function::<BlockQ5_1>($matrix, $($argument),*),
            GgmlDType::Q8_0 => $function::<BlockQ8_0>($matrix, $($argument),*),
            GgmlDType::Q2K => $function::<BlockQ2K>($matrix, $($argument),*),
            GgmlDType::Q3K => $function::<BlockQ3K>($matrix, $($argument),*),
            GgmlDType::Q4K => $function::<BlockQ4K>($matrix, $($argument),*),
            GgmlDType::Q5K => $function::<BlockQ5K>($matrix, $($argument),*),
            GgmlDType::Q6K => $function::<BlockQ6K>($matrix, $($argument),*),
            other => bail!("there is no kernel for weights of type {}", ggml::name(other)),
        }
    };
}

impl QuantizedMatrix {
    /// Whether products are computed with this type; else a matrix has to be widened.
    pub fn has_kernel(dtype: GgmlDType) -> bool {
        matches!(
            dtype,
            GgmlDType::Q4_0
                | GgmlDType::Q4_1
                | GgmlDType::Q5_0
                | GgmlDType::Q5_1
                | GgmlDType::Q8_0
                | GgmlDType::Q2K
                | GgmlDType::Q3K
                | GgmlDType::Q4K
                | GgmlDType::Q5K
                | GgmlDType::Q6K
        )
    }

    /// A matrix from its bytes, row by row, in the layout of its kernel.
    ///
    /// # Errors
    /// A type without a kernel, rows that are no whole number of blocks, or another number of bytes.
    pub fn new(bytes: &[u8], dtype: GgmlDType, shape: (usize, usize)) -> Result<Self> {
        match PackedBlocks::has_kernel(dtype) {
            true => {
                PackedBlocks::new(bytes, dtype, shape).map(|matrix| Self(Stored::Packed(matrix)))
            }
            false => Blocks::new(bytes, dtype, shape).map(|blocks| Self(Stored::Blocks(blocks))),
        }
    }

    /// All numbers of a matrix in its bytes, as f32 `[rows, columns]`.
    ///
    /// # Errors
    /// As [`QuantizedMatrix::new`].
    pub fn widened(bytes: &[u8], dtype: GgmlDType, shape: (usize, usize)) -> Result<Tensor> {
        let ids: Vec<u32> = (0..shape.0 as u32).collect();
        Blocks::new(bytes, dtype, shape)?.select(&ids)
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        match &self.0 {
            Stored::Packed(matrix) => matrix.shape(),
            Stored::Blocks(blocks) => (blocks.rows, blocks.columns),
        }
    }

    /// The type of the blocks.
    pub fn dtype(&self) -> GgmlDType {
        match &self.0 {
            Stored::Packed(matrix) => matrix.dtype(),
            Stored::Blocks(blocks) => blocks.dtype,
        }
    }

    /// `x · matrixᵀ`: `[n, columns]` in f32 to `[n, rows]`.
    ///
    /// # Errors
    /// Another width or type, or an input that has a gradient: none passes through whole numbers.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        let ((count, width), (rows, columns)) = (x.dims2()?, self.shape());
        if width != columns {
            bail!("a linear layer of {columns} inputs cannot take {width}")
        }
        if x.track_op() {
            bail!("no gradient passes through quantised weights: widen them to train")
        }
        match &self.0 {
            Stored::Packed(matrix) => {
                let out = with_floats([x], |[x]| matrix.product(&matrix.quantise(x)))?;
                Tensor::from_vec(out, (count, rows), &Device::Cpu)
            }
            Stored::Blocks(blocks) => blocks.product(x),
        }
    }

    /// The rows of these numbers as f32, `[ids, columns]`.
    ///
    /// # Errors
    /// A number that is no row.
    pub fn select(&self, ids: &[u32]) -> Result<Tensor> {
        let matrix = match &self.0 {
            Stored::Packed(matrix) => matrix,
            Stored::Blocks(blocks) => return blocks.select(ids),
        };
        let (rows, columns) = matrix.shape();
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            bail!("row {id} of a table of {rows}")
        }
        let values: Vec<f32> = ids.iter().flat_map(|id| matrix.row(*id as usize)).collect();
        Tensor::from_vec(values, (ids.len(), columns), &Device::Cpu)
    }
}

impl Blocks {
    /// A copy of the bytes.
    fn new(bytes: &[u8], dtype: GgmlDType, (rows, columns): (usize, usize)) -> Result<Self> {
        let expected = ggml::row_bytes(dtype, columns).and_then(|row| row.checked_mul(rows));
        if expected != Some(bytes.len()) || columns == 0 || !QuantizedMatrix::has_kernel(dtype) {
            bail!(
                "{} bytes are no matrix [{rows}, {columns}] of type {}",
                bytes.len(),
                ggml::name(dtype)
            )
        }
        let words = bytes.chunks(size_of::<u64>()).map(|chunk| {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Ok(Self {
            words: words.collect(),
            dtype,
            rows,
            columns,
        })
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let count = x.dim(0)?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        let out = with_blocks!(self, products(&x))?;
        Tensor::from_vec(out, (self.rows, count), &Device::Cpu)?
            .t()?
            .contiguous()
    }

    fn select(&self, ids: &[u32]) -> Result<Tensor> {
        let values = with_blocks!(self, selected(ids))?;
        Tensor::from_vec(values, (ids.len(), self.columns), &Device::Cpu)
    }
}

fn products<T: GgmlType>(matrix: &Blocks, x: &[f32]) -> Result<Vec<f32>> {
    let (rows, inner) = (x.len() / matrix.columns, matrix.columns);
    let blocks = inner / T::BLCK_SIZE;
    let mut quantized = vec![T::VecDotType::zeros(); rows * blocks];
    for (row, quantized) in x.chunks(inner).zip(quantized.chunks_mut(blocks)) {
        T::VecDotType::from_float(row, quantized);
    }
    let weight = typed::<T>(matrix);
    let mut out = vec![0.0; matrix.rows * rows];
    // Column-major: all rows of the first output column, then of the second.
    let columns = |(out, weight): (&mut [f32], &[T])| {
        for (out, weight) in out.chunks_mut(rows).zip(weight.chunks(blocks)) {
            for (out, row) in out.iter_mut().zip(quantized.chunks(blocks)) {
                *out = T::vec_dot(inner, weight, row);
            }
        }
    };
    if rows * matrix.rows * inner < PARALLEL {
        columns((&mut out, weight));
    } else {
        out.par_chunks_mut(COLUMNS * rows)
            .zip(weight.par_chunks(COLUMNS * blocks))
            .for_each(columns);
    }
    Ok(out)
}

fn selected<T: GgmlType>(matrix: &Blocks, ids: &[u32]) -> Result<Vec<f32>> {
    let blocks = matrix.columns / T::BLCK_SIZE;
    let weight = typed::<T>(matrix);
    let mut values = vec![0.0; ids.len() * matrix.columns];
    for (id, values) in ids.iter().zip(values.chunks_mut(matrix.columns)) {
        let row = *id as usize;
        if row >= matrix.rows {
            bail!("row {id} of a table of {}", matrix.rows)
        }
        T::to_float(&weight[row * blocks..][..blocks], values);
    }
    Ok(values)
}

#[expect(
    unsafe_code,
    reason = "candle's blocks are plain numbers without padding (its assertions hold their sizes), in any bit pattern; their \
              alignment is at most that of a u64, and `Blocks::new` holds the number of bytes"
)]
fn typed<T: GgmlType>(matrix: &Blocks) -> &[T] {
    const { assert!(align_of::<T>() <= align_of::<u64>()) };
    let count = matrix.rows * (matrix.columns / T::BLCK_SIZE);
    assert!(count * size_of::<T>() <= size_of_val(&*matrix.words));
    unsafe { std::slice::from_raw_parts(matrix.words.as_ptr().cast::<T>(), count) }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;

    use super::*;
    use crate::kernels::quantised::tests::{values, wave};

    const TYPES: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    fn quantized(dtype: GgmlDType, rows: usize, columns: usize) -> (QuantizedMatrix, Tensor) {
        let tensor = QTensor::quantize(&wave(rows, columns, 0.5), dtype).unwrap();
        let bytes = tensor.data().unwrap();
        let matrix = QuantizedMatrix::new(&bytes, dtype, (rows, columns)).unwrap();
        (matrix, tensor.dequantize(&Device::Cpu).unwrap())
    }

    #[test]
    fn a_product_is_that_of_the_widened_matrix_in_every_type() {
        for dtype in TYPES {
            let (matrix, widened) = quantized(dtype, 37, 512);
            let x = wave(5, 512, 2.0);
            let found = values(&matrix.product(&x).unwrap());
            let expected = values(&x.matmul(&widened.t().unwrap()).unwrap());
            // Eight bits of the input: half a step of the largest value of a block, in 512 products of values near 1.
            let largest = expected
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 0.01 * largest,
                    "{dtype:?}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_product_is_exact_where_eight_bits_hold_the_input() {
        for dtype in TYPES {
            let (matrix, widened) = quantized(dtype, 11, 256);
            // Whole numbers up to 127, of which each block has the largest, are what they are in eight bits.
            let whole: Vec<f32> = (0..3 * 256)
                .map(|i| {
                    if i % 32 == 0 {
                        127.0
                    } else {
                        ((i * 37) % 255) as f32 - 127.0
                    }
                })
                .collect();
            let x = Tensor::from_vec(whole, (3, 256), &Device::Cpu).unwrap();
            let found = values(&matrix.product(&x).unwrap());
            let expected = values(&x.matmul(&widened.t().unwrap()).unwrap());
            let scale = expected
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                // The sum of a block's input is kept in half precision beside types with a smallest value.
                assert!(
                    (found - expected).abs() < 2e-3 * scale,
                    "{dtype:?}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bytes_alone_and_among_others_in_every_type() {
        for dtype in TYPES {
            // Enough work for all threads together, too little alone.
            let (matrix, _) = quantized(dtype, 515, 768);
            let x = wave(7, 768, 1.0);
            let together = values(&matrix.product(&x).unwrap());
            for row in 0..7 {
                let alone = values(&matrix.product(&x.narrow(0, row, 1).unwrap()).unwrap());
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(&alone),
                    bits(&together[row * 515..][..515]),
                    "{dtype:?}"
                );
            }
        }
    }

    #[test]
    fn a_row_that_is_looked_up_is_that_of_the_widened_table() {
        for dtype in TYPES {
            let (matrix, widened) = quantized(dtype, 9, 256);
            let ids = [8u32, 0, 8, 3];
            let expected = widened
                .index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0)
                .unwrap();
            assert_eq!(values(&matrix.select(&ids).unwrap()), values(&expected));
            assert!(matrix.select(&[9]).is_err());
        }
    }

    #[test]
    fn bytes_of_another_size_or_type_are_refused() {
        let refused = |bytes: usize, dtype, shape| {
            QuantizedMatrix::new(&vec![0; bytes], dtype, shape).is_err()
        };
        assert!(refused(39, GgmlDType::Q4_1, (2, 32)));
        assert!(refused(40, GgmlDType::Q4_1, (2, 33)));
        assert!(refused(0, GgmlDType::Q4_1, (2, 0)));
        assert!(refused(72, GgmlDType::Q8_1, (2, 32)));
        let (matrix, _) = quantized(GgmlDType::Q4_1, 4, 64);
        assert!(matrix.product(&wave(1, 32, 0.0)).is_err());
    }
}
