use super::super::gemm::tests::noise;
use super::*;

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
            let in_squares = winograd::tile_side(Features::detected(), window, precision).is_some();
            let expected = match precision {
                Precision::Bf16 if !in_squares => {
                    naive(window, &rounded(&weight), &bias, &rounded(&map), extent)
                }
                _ => naive(window, &weight, &bias, &map, extent),
            };
            let convolution = Convolution::new(window, &weight, &bias, precision);
            let mut found = vec![f32::NAN; expected.len()];
            for features in Features::each() {
                let mut check = |residual: Option<&[f32]>| {
                    let finish = Finish {
                        bias: Some(&bias),
                        residual,
                        activation: match residual {
                            None => Activation::None,
                            Some(_) => Activation::Relu,
                        },
                    };
                    found.fill(f32::NAN);
                    convolution.compute_with(features, &map, extent, finish, &mut found);
                    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let expected = match residual {
                            None => *expected,
                            Some(residual) => (expected + f64::from(residual[place])).max(0.0),
                        };
                        assert!(
                            (f64::from(*found) - expected).abs() < tolerance,
                            "{window:?} {precision:?} {features:?}: {found}, {expected}"
                        );
                    }
                };
                check(None);
                check(Some(&residual));
            }
        }
    }
}

#[test]
fn the_pool_keeps_what_is_not_a_number_at_any_place_under_it() {
    let extent = Extent {
        batch: 1,
        rows: 5,
        columns: 5,
    };
    for place in 0..9 {
        // The pool's middle: rows and columns 1 to 3.
        let bad = (1 + place / 3) * 5 + 1 + place % 3;
        let mut map = noise(25, 6)
            .iter()
            .map(|value| value.abs())
            .collect::<Vec<_>>();
        map[bad] = f32::NAN;
        let mut result = [0f32; 9];
        max_pool(&map, extent, &mut result);
        assert!(result[4].is_nan(), "{place}");
        assert!(!result[0].is_nan() || bad == 6);
    }
}

#[test]
fn no_images_give_no_results() {
    let extent = Extent {
        batch: 0,
        rows: 5,
        columns: 5,
    };
    max_pool(&[], extent, &mut []);
    for (window, _) in windows() {
        let weight = noise(
            window.output * window.input * window.kernel * window.kernel,
            1,
        );
        for precision in [Precision::F32, Precision::Bf16] {
            let bias = noise(window.output, 2);
            Convolution::new(window, &weight, &bias, precision).compute(
                &[],
                extent,
                None,
                false,
                &mut [],
            );
        }
    }
}

#[test]
fn portable_and_vector_transforms_give_the_same_bytes() {
    for (window, extent) in windows().filter(|(window, _)| {
        winograd::tile_side(Features::detected(), *window, Precision::F32).is_some()
    }) {
        let weight = noise(window.output * window.input * 9, 1);
        let map = noise(extent.pixels() * window.input, 3);
        for side in [2, 4] {
            let kernel = |column, row| kernel_of(&weight, window, column, row);
            let winograd = Winograd::new(side, window, Buffer::take, kernel);
            let [first, second] = [Features::PORTABLE, Features::detected()].map(|features| {
                let mut result = vec![0f32; extent.pixels() * window.output];
                winograd.compute(features, &map, extent, Finish::default(), &mut result);
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
