//! Matrix products of the decoder. Weights stay in the type they are stored in (f32, f16 or bf16), so that a 7B model in
//! half precision fits 24 GiB; sums are f32.
//!
//! The CPU kernel computes every output as the same sum in the same order, whatever the other rows of the input are. So
//! an answer has the same bytes alone, in any batch, when others join or leave, and however its prompt is cut. The
//! kernel reads each weight from memory once for all rows, which is what a decode step's time goes into.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::adapter_id::AdapterId;
use super::quantized::QuantizedMatrix;
use super::trained::frozen_product;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Features;
#[cfg(target_arch = "x86_64")]
use crate::kernels::dot_products::PairedRows;
use crate::layers::Dropout;

/// f32 values in one vector register of x86-64-v3.
const LANES: usize = 8;
/// Rows and columns of a register tile: eight sums, enough to hide the latency of a multiply-add.
const TILE: (usize, usize) = (2, 4);
/// Output columns that one thread takes at a time: their weights stay in its cache while the rows pass by.
const COLUMNS: usize = 32;
/// The same beside many rows.
#[cfg(target_arch = "x86_64")]
const COLUMNS_OF_MANY: usize = 48;
/// Work below which waking other threads costs more than it saves, in multiplications.
const PARALLEL: usize = 1 << 21;
/// Reading a weight from memory takes as long as this many multiplications.
const READ: usize = 6;

/// A linear layer `[out, in]` without bias, with a low-rank addition for each adapter that has one here.
#[derive(Clone, Debug)]
pub struct LoraLinear {
    weight: Weight,
    /// By adapter; as long as the last adapter needs that has an addition here.
    additions: Vec<Option<LowRankUpdate>>,
}

/// Consecutive rows of an input that go through the same adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdapterRows {
    /// The adapter.
    pub(super) adapter: AdapterId,
    /// The number of rows.
    pub(super) rows: usize,
}

/// A matrix `[out, in]` as it stays in memory.
#[derive(Clone, Debug)]
enum Weight {
    /// Numbers in f32, f16 or bf16.
    Dense(Tensor),
    /// Blocks of quantised numbers, on a CPU.
    Quantized(QuantizedMatrix),
}

#[derive(Clone, Debug)]
struct LowRankUpdate {
    down: Tensor,
    up: Tensor,
    scale: f64,
    dropout: Dropout,
}

impl LoraLinear {
    /// A layer of `weight [out, in]`.
    pub fn new(weight: Tensor) -> Self {
        Self {
            weight: Weight::Dense(weight),
            additions: Vec::new(),
        }
    }

    /// A layer of a matrix `[out, in]` that stays quantised.
    pub fn quantized(weight: QuantizedMatrix) -> Self {
        Self {
            weight: Weight::Quantized(weight),
            additions: Vec::new(),
        }
    }

    /// Whether the weight stays quantised.
    pub(super) fn is_quantized(&self) -> bool {
        matches!(self.weight, Weight::Quantized(_))
    }

    /// Adds `scale · up (down x)` with `down [r, in]` and `up [out, r]` in f32. An f32 weight takes the addition in; a
    /// weight in half precision would lose it to rounding, and a quantised one cannot hold it, so there it is computed
    /// beside it, as it is in training.
    ///
    /// # Errors
    /// Shapes that do not fit the weight.
    pub fn with_low_rank(self, down: &Tensor, up: &Tensor, scale: f64) -> Result<Self> {
        if let Weight::Dense(weight) = &self.weight
            && weight.dtype() == DType::F32
            && !down.track_op()
        {
            return Ok(Self::new((weight + (up.matmul(down)? * scale)?)?));
        }
        self.with_addition(AdapterId::default(), down, up, scale)
    }

    /// The same for one of several adapters of this layer. They share the weight, so that no addition is taken into it.
    pub(super) fn with_addition(
        mut self,
        AdapterId(adapter): AdapterId,
        down: &Tensor,
        up: &Tensor,
        scale: f64,
    ) -> Result<Self> {
        let dtype = match &self.weight {
            Weight::Dense(weight) => compute_dtype(weight),
            Weight::Quantized(_) => DType::F32,
        };
        let (down, up) = (down.to_dtype(dtype)?, up.to_dtype(dtype)?);
        let low_rank = LowRankUpdate {
            down,
            up,
            scale,
            dropout: Dropout::default(),
        };
        if self.additions.len() <= adapter {
            self.additions.resize_with(adapter + 1, || None);
        }
        self.additions[adapter] = Some(low_rank);
        Ok(self)
    }

    /// The same with dropout of what goes into the low-rank addition, where there is one beside the weight.
    pub(super) fn with_dropout(mut self, dropout: &Dropout) -> Self {
        for low_rank in self.additions.iter_mut().flatten() {
            low_rank.dropout = dropout.clone();
        }
        self
    }

    /// `[rows, in]` to `[rows, out]`, all of them by the first adapter.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.product(x)?;
        self.add(AdapterId::default(), x, y)
    }

    /// The same where some rows go through one adapter and some through another. The weight is read once for all of
    /// them, and a row's output is the one that it has alone.
    pub(super) fn forward_mixed(&self, x: &Tensor, parts: &[AdapterRows]) -> Result<Tensor> {
        let y = self.weight.product(x)?;
        match parts {
            _ if self.additions.is_empty() => Ok(y),
            [AdapterRows { adapter, .. }] => self.add(*adapter, x, y),
            _ => {
                let mut start = 0;
                let mut outputs = Vec::with_capacity(parts.len());
                for &AdapterRows { adapter, rows } in parts {
                    let part = |x: &Tensor| x.narrow(0, start, rows);
                    outputs.push(self.add(adapter, &part(x)?, part(&y)?)?);
                    start += rows;
                }
                Tensor::cat(&outputs, 0)
            }
        }
    }

    /// What the adapter makes of the weight's output `y` for the input `x`.
    fn add(&self, AdapterId(adapter): AdapterId, x: &Tensor, y: Tensor) -> Result<Tensor> {
        match self.additions.get(adapter) {
            None | Some(None) => Ok(y),
            Some(Some(LowRankUpdate {
                down,
                up,
                scale,
                dropout,
            })) => y + (product(&product(&dropout.forward(x)?, down)?, up)? * *scale)?,
        }
    }
}

impl Weight {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Weight::Dense(weight) => product(x, weight),
            Weight::Quantized(weight) => weight.product(x),
        }
    }
}

/// The type that activations have beside this weight.
pub(super) fn compute_dtype(weight: &Tensor) -> DType {
    if weight.device().is_cpu() {
        DType::F32
    } else {
        weight.dtype()
    }
}

/// `x · weightᵀ`.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.track_op() && !weight.track_op() && x.device().is_cpu() {
        return frozen_product(x, weight);
    }
    if x.track_op() || weight.track_op() {
        return x.matmul(&weight.to_dtype(x.dtype())?.t()?);
    }
    if !weight.device().is_cpu() {
        return x.matmul(&weight.t()?);
    }
    let ((rows, inner), (columns, expected)) = (x.dims2()?, weight.dims2()?);
    if inner != expected || inner == 0 {
        bail!("a linear layer of {expected} inputs cannot take {inner}");
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let (x_storage, x_layout) = x.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*x_storage else {
        bail!(
            "the language model computes in f32 on a CPU, not in {:?}",
            x.dtype()
        )
    };
    let values = &values[x_layout.start_offset()..][..rows * inner];
    let (w_storage, w_layout) = weight.storage_and_layout();
    let range = w_layout.start_offset()..w_layout.start_offset() + columns * inner;
    let out = match &*w_storage {
        Storage::Cpu(CpuStorage::F32(weight)) => products(values, &weight[range], inner),
        Storage::Cpu(CpuStorage::F16(weight)) => products(values, &weight[range], inner),
        Storage::Cpu(CpuStorage::BF16(weight)) => products(values, &weight[range], inner),
        _ => bail!(
            "weights of the language model are f32, f16 or bf16, not {:?}",
            weight.dtype()
        ),
    };
    Tensor::from_vec(out, (columns, rows), &Device::Cpu)?
        .t()?
        .contiguous()
}

/// Column-major: all rows of the first output column, then of the second.
fn products<W: StoredWeight>(x: &[f32], weight: &[W], inner: usize) -> Vec<f32> {
    let rows = x.len() / inner;
    let mut out = vec![0.0; weight.len() / inner * rows];
    if (rows + READ) * weight.len() < PARALLEL {
        rows_by_columns(x, weight, inner, &mut out);
        return out;
    }
    let mut share = |columns: usize, work: &(dyn Fn(&[W], &mut [f32]) + Sync)| {
        out.par_chunks_mut(columns * rows)
            .zip(weight.par_chunks(columns * inner))
            .for_each(|(out, weight)| work(weight, out));
    };
    #[cfg(target_arch = "x86_64")]
    if PairedRows::pay(Features::detected(), rows) {
        let paired = PairedRows::new(x, inner);
        let work =
            |weight: &[W], out: &mut [f32]| many_rows_by_columns(&paired, x, weight, inner, out);
        share(COLUMNS_OF_MANY, &work);
        return out;
    }
    share(COLUMNS, &|weight, out| {
        rows_by_columns(x, weight, inner, out)
    });
    out
}

/// What [`rows_by_columns`] gives, of rows that were laid out before.
#[cfg(target_arch = "x86_64")]
fn many_rows_by_columns<W: StoredWeight>(
    paired: &PairedRows,
    x: &[f32],
    weight: &[W],
    inner: usize,
    out: &mut [f32],
) {
    let (rows, columns) = (x.len() / inner, weight.len() / inner);
    let widen = |column: usize, place: usize, to: &mut [f32]| {
        let numbers = &weight[column * inner + place..][..to.len()];
        let (numbers, to) = (numbers.as_chunks().0, to.as_chunks_mut::<LANES>().0);
        for (numbers, to) in numbers.iter().zip(to) {
            *to = W::to_f32(numbers);
        }
    };
    paired.sums(columns, widen, |row, column, parts| {
        let rest = inner / LANES * LANES..inner;
        let (x, weight) = (&x[row * inner..], &weight[column * inner..]);
        out[column * rows + row] = total(*parts, &x[rest.clone()], &weight[rest]);
    });
}

/// All products of rows and columns of `inner` values, on this thread. The output is column-major.
fn rows_by_columns<W: StoredWeight>(x: &[f32], weight: &[W], inner: usize, out: &mut [f32]) {
    let (rows, columns) = (x.len() / inner, weight.len() / inner);
    let mut row = 0;
    while row < rows {
        let mut column = 0;
        let pair = rows - row >= TILE.0;
        while column < columns {
            let weight = &weight[column * inner..];
            let out = &mut out[column * rows..];
            let x = &x[row * inner..];
            column += match (pair, columns - column >= TILE.1) {
                (true, true) => store(
                    tile::<{ TILE.0 }, { TILE.1 }, W>(x, weight, inner),
                    out,
                    rows,
                    row,
                ),
                (true, false) => store(tile::<{ TILE.0 }, 1, W>(x, weight, inner), out, rows, row),
                (false, true) => store(tile::<1, { TILE.1 }, W>(x, weight, inner), out, rows, row),
                (false, false) => store(tile::<1, 1, W>(x, weight, inner), out, rows, row),
            };
        }
        row += if pair { TILE.0 } else { 1 };
    }
}

/// Writes a tile and returns how many columns it had.
fn store<const R: usize, const C: usize>(
    tile: [[f32; C]; R],
    out: &mut [f32],
    rows: usize,
    row: usize,
) -> usize {
    for (r, values) in tile.iter().enumerate() {
        for (c, value) in values.iter().enumerate() {
            out[c * rows + row + r] = *value;
        }
    }
    C
}

/// The products of the first `R` rows with the first `C` columns. Each is summed in [`LANES`] strided parts, then over
/// the parts, then over the rest: in the same order for every `R` and `C`. Arrays go by value because the compiler
/// keeps them in registers then.
#[inline(never)]
fn tile<const R: usize, const C: usize, W: StoredWeight>(
    x: &[f32],
    weight: &[W],
    inner: usize,
) -> [[f32; C]; R] {
    let (count, rest) = (inner / LANES, inner / LANES * LANES..inner);
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * inner..][..inner]);
    let columns: [&[W]; C] = std::array::from_fn(|c| &weight[c * inner..][..inner]);
    let row_chunks = rows.map(|row| &row.as_chunks::<LANES>().0[..count]);
    let column_chunks = columns.map(|column| &column.as_chunks::<LANES>().0[..count]);
    let mut sums = [[[0.0; LANES]; C]; R];
    for index in 0..count {
        let weights: [[f32; LANES]; C] =
            std::array::from_fn(|c| W::to_f32(&column_chunks[c][index]));
        for r in 0..R {
            let values = row_chunks[r][index];
            for c in 0..C {
                sums[r][c] = multiply_add(values, weights[c], sums[r][c]);
            }
        }
    }
    std::array::from_fn(|r| {
        std::array::from_fn(|c| {
            total(
                sums[r][c],
                &rows[r][rest.clone()],
                &columns[c][rest.clone()],
            )
        })
    })
}

/// A sum over its parts, and then over the rest of its row and column.
#[inline(always)]
fn total<W: StoredWeight>(parts: [f32; LANES], row: &[f32], column: &[W]) -> f32 {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = parts;
    let sum = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7));
    let pairs = row.iter().zip(column);
    pairs.fold(sum, |sum, (value, weight)| {
        value.mul_add(weight.value(), sum)
    })
}

#[inline(always)]
fn multiply_add(values: [f32; LANES], weights: [f32; LANES], sums: [f32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for lane in 0..LANES {
        out[lane] = values[lane].mul_add(weights[lane], sums[lane]);
    }
    out
}

/// A type that weights are stored in.
pub(super) trait StoredWeight: Copy + Sync {
    fn to_f32(values: &[Self; LANES]) -> [f32; LANES];
    fn value(self) -> f32;
}

impl StoredWeight for f32 {
    #[inline(always)]
    fn to_f32(values: &[Self; LANES]) -> [f32; LANES] {
        *values
    }
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl StoredWeight for bf16 {
    #[inline(always)]
    fn to_f32(values: &[Self; LANES]) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        for lane in 0..LANES {
            out[lane] = values[lane].value();
        }
        out
    }
    #[inline(always)]
    fn value(self) -> f32 {
        // A bf16 is the upper half of an f32.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl StoredWeight for f16 {
    #[inline(always)]
    fn to_f32(values: &[Self; LANES]) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        values.convert_to_f32_slice(&mut out);
        out
    }
    #[inline(always)]
    fn value(self) -> f32 {
        self.to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5)
            .collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect()
    }

    #[test]
    fn a_row_has_the_same_bytes_alone_among_others_and_on_any_threads_in_every_weight_type() {
        for (inner, columns) in [(64, 512), (172, 67), (1030, 259)] {
            let x = ramp(27, inner);
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let linear = LoraLinear::new(ramp(columns, inner).to_dtype(dtype).unwrap());
                let together = linear.forward(&x).unwrap();
                for threads in [1, 2] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let found = pool
                        .build()
                        .unwrap()
                        .install(|| linear.forward(&x).unwrap());
                    assert_eq!(
                        bits(&found),
                        bits(&together),
                        "{inner} {columns} {dtype:?} {threads}"
                    );
                }
                for row in 0..27 {
                    let alone = linear.forward(&x.narrow(0, row, 1).unwrap()).unwrap();
                    assert_eq!(
                        bits(&alone),
                        bits(&together.narrow(0, row, 1).unwrap()),
                        "{inner} {columns} {dtype:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_equal_candles_within_rounding() {
        let (x, weight) = (ramp(5, 172), ramp(67, 172));
        let ours = LoraLinear::new(weight.clone()).forward(&x).unwrap();
        let theirs = x.matmul(&weight.t().unwrap()).unwrap();
        let worst = (ours - theirs)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(worst < 1e-5, "{worst}");
    }

    #[test]
    fn each_row_has_the_addition_of_its_own_adapter_and_the_bytes_that_it_has_alone() {
        let (x, down, up) = (ramp(5, 64), ramp(8, 64), ramp(40, 8));
        for dtype in [DType::F32, DType::F16] {
            let base = LoraLinear::new(ramp(40, 64).to_dtype(dtype).unwrap());
            let linear = base.clone().with_addition(AdapterId(1), &down, &up, 2.0);
            let other = (down.clone() * 0.5).unwrap();
            let linear = linear
                .unwrap()
                .with_addition(AdapterId(2), &other, &up, 1.0);
            let linear = linear.unwrap();
            let parts = [(0, 1), (2, 1), (1, 3)].map(|(adapter, rows)| AdapterRows {
                adapter: AdapterId(adapter),
                rows,
            });
            let mixed = linear.forward_mixed(&x, &parts).unwrap();
            let mut start = 0;
            for part in parts {
                for row in start..start + part.rows {
                    let alone = linear
                        .forward_mixed(
                            &x.narrow(0, row, 1).unwrap(),
                            &[AdapterRows { rows: 1, ..part }],
                        )
                        .unwrap();
                    assert_eq!(
                        bits(&mixed.narrow(0, row, 1).unwrap()),
                        bits(&alone),
                        "{row}"
                    );
                }
                start += part.rows;
            }
            let without = base.forward(&x).unwrap();
            let same = |row| {
                bits(&mixed.narrow(0, row, 1).unwrap()) == bits(&without.narrow(0, row, 1).unwrap())
            };
            assert_eq!([0, 1, 2].map(same), [true, false, false]);
        }
    }

    #[test]
    fn a_low_rank_addition_is_the_same_merged_and_beside() {
        let (x, weight, down, up) = (ramp(3, 64), ramp(40, 64), ramp(8, 64), ramp(40, 8));
        let half = weight.to_dtype(DType::F16).unwrap();
        let beside = LoraLinear::new(half.clone())
            .with_low_rank(&down, &up, 2.0)
            .unwrap();
        let merged = LoraLinear::new(half.to_dtype(DType::F32).unwrap())
            .with_low_rank(&down, &up, 2.0)
            .unwrap();
        assert!(!beside.additions.is_empty() && merged.additions.is_empty());
        let difference = (beside.forward(&x).unwrap() - merged.forward(&x).unwrap()).unwrap();
        assert!(
            difference
                .abs()
                .unwrap()
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                < 1e-5
        );
    }
}
