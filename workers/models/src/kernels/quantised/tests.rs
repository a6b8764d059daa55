//! Each kind of matrix against the product of the widened one, and against itself on less able processors.

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use super::*;
use crate::kernels::lanes::Portable;

const TYPES: [GgmlDType; 5] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q6K,
];

/// Numbers that repeat nowhere.
pub(crate) fn wave(rows: usize, columns: usize, phase: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * columns)
        .map(|i| (i as f32 * 0.73 + phase).sin() + 0.3 * (i as f32 * 0.011).cos())
        .collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

/// A matrix of such numbers, and its numbers once it is quantised.
fn packed(dtype: GgmlDType, rows: usize, columns: usize) -> (PackedBlocks, Tensor) {
    let tensor = QTensor::quantize(&wave(rows, columns, 0.5), dtype).unwrap();
    let bytes = tensor.data().unwrap();
    let matrix = PackedBlocks::new(&bytes, dtype, (rows, columns)).unwrap();
    (matrix, tensor.dequantize(&Device::Cpu).unwrap())
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_product_is_that_of_the_widened_matrix() {
    for dtype in TYPES {
        let (matrix, widened) = packed(dtype, 37, 512);
        for rows in [1, 5, 19] {
            let x = wave(rows, 512, 2.0);
            let found = matrix.product(&matrix.quantise(&values(&x)));
            let expected = values(&x.matmul(&widened.t().unwrap()).unwrap());
            let largest = expected
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                // Eight bits of the input: half a step of the largest value of a group.
                let error = (found - expected).abs();
                assert!(error < 0.01 * largest, "{dtype:?}: {found} {expected}");
            }
        }
    }
}

/// A matrix of blocks that are random but for their scales, which are small numbers.
fn any(dtype: GgmlDType, rows: usize, columns: usize) -> PackedBlocks {
    let size = dtype.type_size();
    let mut state = 7u64;
    let mut bytes: Vec<u8> = (0..rows * columns / dtype.block_size() * size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    for (at, block) in bytes.chunks_exact_mut(size).enumerate() {
        let scale = half::f16::from_f32(0.001 * (at % 9) as f32 - 0.003).to_le_bytes();
        let places: &[usize] = match dtype {
            GgmlDType::Q6K => &[208],
            GgmlDType::Q4K | GgmlDType::Q4_1 => &[0, 2],
            _ => &[0],
        };
        for place in places {
            block[*place..][..2].copy_from_slice(&scale);
        }
    }
    PackedBlocks::new(&bytes, dtype, (rows, columns)).unwrap()
}

/// The products row by row, without instructions of any one processor.
fn portable(matrix: &PackedBlocks, x: &[f32]) -> Vec<f32> {
    let (rows, columns) = matrix.shape();
    let each = x.chunks_exact(columns).map(|row| {
        let QuantisedRows(x) = matrix.quantise_for(row, Features::PORTABLE);
        let mut out = vec![0f32; rows];
        let output = Output {
            start: out.as_mut_ptr(),
            width: rows,
        };
        // SAFETY: x was made for this matrix, the panels are all of its, and the output is one row of it.
        unsafe { matrix.panels_by::<Portable>(&x, 0..rows.div_ceil(ROWS), &output) };
        out
    });
    each.flatten().collect()
}

#[test]
fn a_row_has_the_same_bits_among_any_others_and_on_any_processor() {
    for dtype in TYPES {
        // Enough for all threads together, too little alone; a last panel of three rows.
        for (rows, columns) in [(515, 768), (35, 256)] {
            for matrix in [packed(dtype, rows, columns).0, any(dtype, rows, columns)] {
                let x = values(&wave(41, columns, 1.0));
                let expected = portable(&matrix, &x);
                for features in Features::each() {
                    for count in [1, 2, 3, 4, 5, 7, 8, 16, 17, 25, 41] {
                        let x = matrix.quantise_for(&x[..count * columns], features);
                        let found = matrix.product_with(&x, features);
                        assert!(
                            bits(&found) == bits(&expected[..count * rows]),
                            "{dtype:?} {count} {features:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_has_the_same_bits_on_one_thread_and_on_several() {
    for dtype in TYPES {
        let matrix = any(dtype, 515, 768);
        let x = values(&wave(19, 768, 1.0));
        let [one, several] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap()
                .install(|| bits(&matrix.product(&matrix.quantise(&x))))
        });
        assert!(one == several, "{dtype:?}");
    }
}

#[test]
#[should_panic(expected = "rows of another matrix")]
fn rows_that_were_quantised_for_another_type_are_refused() {
    let ((matrix, _), (other, _)) = (
        packed(GgmlDType::Q4K, 16, 256),
        packed(GgmlDType::Q6K, 16, 256),
    );
    other.product(&matrix.quantise(&[1.0; 256]));
}

#[test]
fn a_row_that_is_looked_up_is_that_of_the_widened_matrix() {
    for dtype in TYPES {
        let (matrix, widened) = packed(dtype, 19, 512);
        for row in [0, 7, 16, 18] {
            let expected = values(&widened.get(row).unwrap());
            assert!(bits(&matrix.row(row)) == bits(&expected), "{dtype:?}");
        }
    }
}

#[test]
fn an_input_that_is_no_number_shows_in_every_product() {
    let (matrix, _) = packed(GgmlDType::Q4K, 16, 512);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![1f32; 512];
        x[300] = bad;
        let found = matrix.product(&matrix.quantise(&x));
        assert!(found.iter().all(|value| value.is_nan()));
    }
}

#[test]
fn bytes_of_another_size_or_type_are_refused() {
    let refused =
        |bytes: usize, dtype, shape| PackedBlocks::new(&vec![0; bytes], dtype, shape).is_err();
    assert!(refused(35, GgmlDType::Q4_0, (2, 32)));
    assert!(refused(36, GgmlDType::Q4_0, (2, 33)));
    assert!(refused(0, GgmlDType::Q4_0, (2, 0)));
    assert!(refused(0, GgmlDType::Q4_0, (0, 32)));
    assert!(refused(72, GgmlDType::Q8_1, (2, 32)));
    assert!(!refused(36, GgmlDType::Q4_0, (2, 32)));
}
