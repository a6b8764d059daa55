use super::super::cpu::Features;
use super::*;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let mixed = (index as u32)
            .wrapping_add(seed.wrapping_mul(7919))
            .wrapping_mul(0x9E37_79B9);
        ((mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(value).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    let round = |value: &f32| half::bf16::from_f32(*value).to_f32();
    values.iter().map(round).collect()
}

/// Sums in f64 over the definition.
fn naive(window: Window, weight: &[f32], bias: &[f32], map: &[f32], extent: Extent) -> Vec<f64> {
    let Window {
        input,
        output,
        kernel,
        stride,
    } = window;
    let target = extent.halved_by(stride);
    let mut result = Vec::new();
    for pixel in 0..target.pixels() {
        let image = pixel / (target.rows * target.columns);
        let (top, left) = (
            pixel / target.columns % target.rows * stride,
            pixel % target.columns * stride,
        );
        for channel in 0..output {
            let mut sum = f64::from(bias[channel]);
            for place in 0..kernel * kernel {
                let y = (top + place / kernel).wrapping_sub(kernel / 2);
                let x = (left + place % kernel).wrapping_sub(kernel / 2);
                if y < extent.rows && x < extent.columns {
                    let start = ((image * extent.rows + y) * extent.columns + x) * input;
                    for from in 0..input {
                        let weight = weight[(channel * input + from) * kernel * kernel + place];
                        sum += f64::from(map[start + from]) * f64::from(weight);
                    }
                }
            }
            result.push(sum);
        }
    }
    result
}

fn windows() -> impl Iterator<Item = (Window, Extent)> {
    let shapes = [
        (5, 20, 1, 1, 9),
        (5, 20, 1, 2, 9),
        (3, 7, 7, 2, 31),
        (40, 33, 3, 2, 13),
        (5, 20, 3, 1, 6),
        (16, 32, 3, 1, 4),
        (48, 16, 3, 1, 13),
        (32, 40, 3, 1, 9),
        (64, 32, 3, 2, 14),
        (272, 64, 3, 1, 7),
        (272, 256, 3, 1, 3),
    ];
    shapes
        .into_iter()
        .map(|(input, output, kernel, stride, side)| {
            let window = Window {
                input,
                output,
                kernel,
                stride,
            };
            (
                window,
                Extent {
                    batch: 2,
                    rows: side,
                    columns: side + 2,
                },
            )
        })
}

#[test]
fn convolutions_agree_with_the_naive_ones_over_odd_shapes() {
    for (window, extent) in windows() {
        let Window {
            input,
            output,
            kernel,
            stride,
        } = window;
        let weight = noise(output * input * kernel * kernel, 1);
        let (bias, map) = (noise(output, 2), noise(extent.pixels() * input, 3));
        let residual = noise(extent.halved_by(stride).pixels() * output, 4);
        // Sums of so many products of numbers up to 1; Winograd's transforms cost a digit.
        let tolerance = 1e-5 * ((input * kernel * kernel) as f64).sqrt();
        for precision in [Precision::F32, Precision::Bf16] {
            let expected = match precision {
                Precision::F32 => naive(window, &weight, &bias, &map, extent),
                Precision::Bf16 => naive(window, &rounded(&weight), &bias, &rounded(&map), extent),
            };
            let convolution = Convolution::new(window, &weight, &bias, precision);
            let mut found = vec![f32::NAN; expected.len()];
            convolution.compute(&map, extent, None, false, &mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < tolerance,
                    "{window:?} {precision:?}: {found}, {expected}"
                );
            }
            convolution.compute(&map, extent, Some(&residual), true, &mut found);
            for ((found, expected), residual) in found.iter().zip(&expected).zip(&residual) {
                let expected = (expected + f64::from(*residual)).max(0.0);
                assert!(
                    (f64::from(*found) - expected).abs() < tolerance,
                    "{window:?} {precision:?}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn portable_and_vector_transforms_give_the_same_bytes() {
    for (window, extent) in
        windows().filter(|(window, _)| winograd::tile_side(*window, Precision::F32).is_some())
    {
        let weight = noise(window.output * window.input * 9, 1);
        let map = noise(extent.pixels() * window.input, 3);
        for side in [2, 4] {
            let kernel = |column, row| kernel_of(&weight, window, column, row);
            let winograd = Winograd::new(side, window, Buffer::take, kernel);
            let [first, second] = [Features::PORTABLE, Features::detected()].map(|features| {
                let mut result = vec![0f32; extent.pixels() * window.output];
                winograd.compute_with(features, &map, extent, Finish::default(), &mut result);
                result
            });
            if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                assert_eq!(first, second);
            }
            let expected = naive(window, &weight, &vec![0.0; window.output], &map, extent);
            let tolerance = 1e-5 * ((window.input * 9) as f64).sqrt();
            for (found, expected) in first.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < tolerance,
                    "{window:?} {side}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn an_image_has_the_same_bytes_in_any_batch_and_with_any_number_of_threads() {
    for (precision, (window, extent)) in [Precision::F32, Precision::Bf16]
        .into_iter()
        .flat_map(|precision| windows().map(move |shape| (precision, shape)))
    {
        let weight = noise(
            window.output * window.input * window.kernel * window.kernel,
            1,
        );
        let map = noise(extent.pixels() * window.input, 3);
        let convolution = Convolution::new(window, &weight, &noise(window.output, 2), precision);
        let run = |map: &[f32], extent: Extent, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut result = vec![0f32; convolution.extent(extent).pixels() * window.output];
            pool.install(|| convolution.compute(map, extent, None, true, &mut result));
            result
        };
        let whole = run(&map, extent, 2);
        assert_eq!(whole, run(&map, extent, 1), "{window:?} {precision:?}");
        assert_eq!(whole, run(&map, extent, 3), "{window:?} {precision:?}");
        let single = Extent { batch: 1, ..extent };
        let first = run(&map[..map.len() / 2], single, 2);
        assert_eq!(first, whole[..whole.len() / 2], "{window:?} {precision:?}");
    }
}

/// The gradients of map and weights, in f64 over the definition of the forward pass.
fn naive_gradients(
    window: Window,
    weight: &[f32],
    map: &[f32],
    gradient: &[f32],
    extent: Extent,
) -> [Vec<f64>; 2] {
    let Window {
        input,
        output,
        kernel,
        stride,
    } = window;
    let target = extent.halved_by(stride);
    let mut of = [vec![0f64; map.len()], vec![0f64; weight.len()]];
    for (pixel, gradient) in gradient.chunks_exact(output).enumerate() {
        let image = pixel / (target.rows * target.columns);
        let (top, left) = (
            pixel / target.columns % target.rows * stride,
            pixel % target.columns * stride,
        );
        for place in 0..kernel * kernel {
            let y = (top + place / kernel).wrapping_sub(kernel / 2);
            let x = (left + place % kernel).wrapping_sub(kernel / 2);
            if y >= extent.rows || x >= extent.columns {
                continue;
            }
            let start = ((image * extent.rows + y) * extent.columns + x) * input;
            for (channel, gradient) in gradient.iter().enumerate() {
                for from in 0..input {
                    let at = (channel * input + from) * kernel * kernel + place;
                    of[0][start + from] += f64::from(*gradient) * f64::from(weight[at]);
                    of[1][at] += f64::from(*gradient) * f64::from(map[start + from]);
                }
            }
        }
    }
    of
}

#[test]
fn gradients_agree_with_naive_ones_and_do_not_depend_on_the_number_of_threads() {
    for (window, extent) in windows() {
        let Window {
            input,
            output,
            kernel,
            stride,
        } = window;
        let weight = noise(output * input * kernel * kernel, 1);
        let map = noise(extent.pixels() * input, 2);
        let gradient = noise(extent.halved_by(stride).pixels() * output, 3);
        let compute = || {
            let (mut of_map, mut of_weights) =
                (vec![f32::NAN; map.len()], vec![f32::NAN; weight.len()]);
            gradients::of_map(window, &weight, &gradient, extent, &mut of_map);
            gradients::of_weights(window, &map, &gradient, extent, &mut of_weights);
            [of_map, of_weights]
        };
        let found = compute();
        let expected = naive_gradients(window, &weight, &map, &gradient, extent);
        for (found, expected) in found.iter().zip(&expected) {
            let largest = expected
                .iter()
                .fold(1.0, |most: f64, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5 * largest,
                    "{window:?}: {found}, {expected}"
                );
            }
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            assert_eq!(pool.install(compute), found, "{window:?}");
        }
    }
}
