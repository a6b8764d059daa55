use super::*;

/// Numbers without a pattern, from -1 to 1.
pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let mixed = (index as u32)
            .wrapping_add(seed.wrapping_mul(7919))
            .wrapping_mul(0x9E37_79B9);
        ((mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(value).collect()
}

struct Case {
    rows: usize,
    left: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    depth: usize,
    width: usize,
}

fn case(rows: usize, depth: usize, width: usize) -> Case {
    Case {
        rows,
        left: noise(rows * depth, 1),
        weight: noise(width * depth, 2),
        bias: noise(width, 3),
        residual: noise(rows * width, 4),
        depth,
        width,
    }
}

impl Case {
    fn naive(&self, round: impl Fn(f32) -> f32) -> Vec<f64> {
        let mut result = Vec::new();
        for row in 0..self.rows {
            for column in 0..self.width {
                let left = &self.left[row * self.depth..][..self.depth];
                let weight = &self.weight[column * self.depth..][..self.depth];
                let product = |(a, b): (&f32, &f32)| f64::from(round(*a)) * f64::from(round(*b));
                let sum: f64 = left.iter().zip(weight).map(product).sum();
                let place = row * self.width + column;
                result.push(
                    (sum + f64::from(self.bias[column]) + f64::from(self.residual[place])).max(0.0),
                );
            }
        }
        result
    }

    fn compute(&self, features: Features, precision: Precision) -> Vec<f32> {
        let weights = PackedMatrix::transposed(&self.weight, self.depth, precision);
        let finish = Finish {
            bias: Some(&self.bias),
            residual: Some(&self.residual),
            activation: Activation::Relu,
        };
        let mut result = vec![f32::NAN; self.rows * self.width];
        multiply_rows_with(features, &self.left, &weights, finish, &mut result);
        result
    }
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (2, 3, 33),
    (13, 256, 32),
    (14, 257, 31),
    (15, 300, 64),
    (33, 511, 65),
    (100, 544, 40),
    (449, 70, 17),
    (905, 33, 96),
];

#[test]
fn products_agree_with_the_naive_ones_over_odd_shapes() {
    for (rows, depth, width) in SHAPES {
        let case = case(rows, depth, width);
        let expected = case.naive(|value| value);
        for features in Features::each() {
            let found = case.compute(features, Precision::F32);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 2e-5,
                    "{rows} {depth} {width}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn bf16_products_agree_with_naive_ones_of_rounded_numbers_over_odd_shapes() {
    for (rows, depth, width) in SHAPES {
        let case = case(rows, depth, width);
        let expected = case.naive(|value| half::bf16::from_f32(value).to_f32());
        for features in Features::each() {
            let found = case.compute(features, Precision::Bf16);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 5e-5,
                    "{rows} {depth} {width}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn portable_and_vector_kernels_give_the_same_bytes() {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        let case = case(31, 300, 70);
        let [portable, found] = [Features::PORTABLE, Features::detected()]
            .map(|features| case.compute(features, Precision::F32));
        assert_eq!(portable, found);
    }
}

#[test]
fn a_row_has_the_same_bytes_alone_in_any_batch_and_with_any_number_of_threads() {
    for precision in [Precision::F32, Precision::Bf16] {
        let all = case(500, 600, 70);
        let whole = all.compute(Features::detected(), precision);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let found = pool.install(|| all.compute(Features::detected(), precision));
            assert_eq!(found, whole, "{threads} threads");
        }
        for row in [0, 250, 499] {
            let alone = Case {
                rows: 1,
                left: all.left[row * 600..][..600].to_vec(),
                residual: all.residual[row * 70..][..70].to_vec(),
                weight: all.weight.clone(),
                bias: all.bias.clone(),
                ..all
            };
            assert_eq!(
                alone.compute(Features::detected(), precision),
                whole[row * 70..][..70],
                "row {row}"
            );
        }
    }
}

#[test]
fn bf16_that_is_widened_has_the_bytes_of_f32_products_of_rounded_numbers() {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        for (rows, depth, width) in SHAPES {
            let case = case(rows, depth, width);
            let round = |values: &[f32]| -> Vec<f32> {
                let round = |value: &f32| half::bf16::from_f32(*value).to_f32();
                values.iter().map(round).collect()
            };
            let rounded = Case {
                left: round(&case.left),
                weight: round(&case.weight),
                ..self::case(rows, depth, width)
            };
            for features in Features::each() {
                if !features.avx512_bf16 {
                    assert_eq!(
                        case.compute(features, Precision::Bf16),
                        rounded.compute(features, Precision::F32),
                        "{rows} {depth} {width} {features:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_are_not_there_are_not_read() {
    for precision in [Precision::F32, Precision::Bf16] {
        for (values, results) in [(0, 4), (5, 4), (6, 2), (9, 4)] {
            let outcome = std::panic::catch_unwind(|| {
                let weights = PackedMatrix::transposed(&noise(6, 1), 3, precision);
                let mut result = vec![0.0; results];
                multiply_rows(&noise(values, 2), &weights, Finish::default(), &mut result);
            });
            assert!(outcome.is_err(), "{values} {results}");
        }
    }
}

#[test]
fn what_is_not_a_number_passes_a_relu() {
    let weights = PackedMatrix::transposed(&[1.0], 1, Precision::F32);
    for features in Features::each() {
        let mut result = [0.0; 2];
        let finish = Finish {
            activation: Activation::Relu,
            ..Finish::default()
        };
        multiply_rows_with(features, &[f32::NAN, -2.0], &weights, finish, &mut result);
        assert!(result[0].is_nan() && result[1] == 0.0);
    }
}

/// Sums in f64 over the definition.
fn naive_outer(left: &[f32], outputs: usize, right: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0f64; outputs * width];
    for (left, right) in left.chunks_exact(outputs).zip(right.chunks_exact(width)) {
        for (left, sums) in left.iter().zip(sums.chunks_exact_mut(width)) {
            for (right, sum) in right.iter().zip(sums) {
                *sum += f64::from(*left) * f64::from(*right);
            }
        }
    }
    sums
}

#[test]
fn products_over_rows_agree_with_naive_ones_and_do_not_depend_on_the_number_of_threads() {
    let shapes = [
        (1, 1, 1),
        (3, 14, 33),
        (511, 15, 64),
        (513, 40, 100),
        (9_000, 16, 31),
        (4_100, 3, 32),
        (600, 7, 900),
    ];
    for (rows, outputs, width) in shapes {
        let (left, right) = (noise(rows * outputs, 1), noise(rows * width, 2));
        let expected = naive_outer(&left, outputs, &right, width);
        let source = Dense {
            values: &right,
            depth: width,
        };
        let compute = |features| {
            let mut found = vec![f32::NAN; outputs * width];
            outer(features, (&left, outputs), (&source, width), &mut found);
            found
        };
        for features in [Features::PORTABLE, Features::detected()] {
            for (found, expected) in compute(features).iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5 * (rows as f64).sqrt(),
                    "{rows} {outputs} {width}: {found}, {expected}"
                );
            }
        }
        let whole = compute(Features::detected());
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            assert_eq!(pool.install(|| compute(Features::detected())), whole);
        }
    }
}

#[test]
fn matrices_for_one_product_are_packed_as_those_that_stay() {
    for (depth, width) in [(1, 1), (17, 33), (600, 70), (1030, 32)] {
        let weight = noise(depth * width, 5);
        let stays = PackedMatrix::transposed(&weight, depth, Precision::F32);
        let turned: Vec<f32> = (0..depth * width)
            .map(|place| weight[place % width * depth + place / width])
            .collect();
        let entry = |row: usize, column: usize| weight[column * depth + row];
        for lent in [
            PackedMatrix::of_columns(&weight, depth),
            PackedMatrix::of_rows(&turned, width),
            PackedMatrix::of_entries(depth, width, entry),
        ] {
            assert_eq!((lent.depth(), lent.width()), (depth, width));
            assert_eq!(lent.values(), stays.values(), "{depth} {width}");
        }
    }
}
