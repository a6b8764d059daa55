//! Broken image files, made from whole ones: a clear failure, never a panic.

use std::fs;

mod pillow;

use radialog_coordinator::gateway::GatewayConfig;
use radialog_models::preprocess::{ImageLimits, decode};
use radialog_runtime::config::RunnerSettings;
use radialog_schemas::{ErrorClass, ErrorCode, Failure};
use radialog_tests::fixtures::preprocessing_images;

fn file(name: &str) -> Vec<u8> {
    fs::read(preprocessing_images().join(name)).unwrap()
}

fn failure(bytes: &[u8]) -> Failure {
    decode(bytes, &ImageLimits::default()).unwrap_err()
}

#[test]
fn a_file_cut_in_its_data_is_corrupt_and_one_without_its_end_is_whole_with_a_warning() {
    for (name, end) in [
        ("gray_jpeg.jpg", 2),
        ("noise_tiny.png", 12),
        ("rgba.png", 12),
        ("gray16.png", 12),
    ] {
        let whole = file(name);
        let data = whole.len() - end;
        // Behind the pixels, a PNG file's data end with two checksums of 4 bytes.
        let last = if end == 12 { data - 9 } else { data - 3 };
        for length in (16..last).step_by(whole.len() / 40).chain([last]) {
            assert_eq!(
                failure(&whole[..length]).code,
                ErrorCode::ImageCorrupt,
                "{name} cut to {length} bytes"
            );
        }
        let picture = decode(&whole, &ImageLimits::default()).unwrap();
        assert!(picture.warnings.is_empty(), "{name}");
        for length in [data, whole.len() - 1] {
            let cut = decode(&whole[..length], &ImageLimits::default()).unwrap();
            assert_eq!(cut.image, picture.image, "{name} cut to {length} bytes");
            assert!(cut.warnings[0].contains("end marker"), "{:?}", cut.warnings);
        }
    }
}

#[test]
fn damage_anywhere_is_either_decoded_or_a_permanent_failure() {
    for name in ["gray_jpeg.jpg", "noise_tiny.png", "rgba.png"] {
        let whole = file(name);
        for (round, position) in (0..whole.len()).step_by(whole.len() / 300 + 1).enumerate() {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (round % 8);
            if let Err(failure) = decode(&bytes, &ImageLimits::default()) {
                assert_eq!(
                    failure.class(),
                    ErrorClass::Permanent,
                    "{name}, byte {position}: {failure}"
                );
            }
        }
    }
}

#[test]
fn a_scanned_film_is_within_the_limits_of_whoever_takes_it() {
    // 35 x 43 cm at 50 micrometres.
    let film = 7000 * 8600;
    let limits = [
        ImageLimits::default().max_pixels,
        RunnerSettings::default().max_image_pixels,
        GatewayConfig::default().max_image_pixels,
    ];
    assert!(limits.iter().all(|limit| *limit >= film), "{limits:?}");
}

#[test]
fn limits_are_checked_before_anything_is_decoded() {
    let png = file("wide_strip.png");
    let few_pixels = ImageLimits {
        max_pixels: 640 * 100 - 1,
        ..ImageLimits::default()
    };
    assert_eq!(
        decode(&png, &few_pixels).unwrap_err().code,
        ErrorCode::ImageTooLarge
    );
    let few_bytes = ImageLimits {
        max_bytes: png.len() as u64 - 1,
        ..ImageLimits::default()
    };
    assert_eq!(
        decode(&png, &few_bytes).unwrap_err().code,
        ErrorCode::ImageTooLarge
    );
    let no_room_to_resize = ImageLimits {
        max_pixels: 640 * 100,
        ..ImageLimits::default()
    };
    assert_eq!(
        decode(&png, &no_room_to_resize).unwrap_err().code,
        ErrorCode::ImageDimensions
    );
    for limits in [few_pixels, few_bytes, no_room_to_resize] {
        let told = |limits: &ImageLimits| decode(&png, limits).unwrap_err().message;
        assert!(!told(&limits).contains("worker."), "nothing raises it here");
        let settings = ImageLimits {
            are_settings: true,
            ..limits
        };
        assert!(told(&settings).contains("or raise worker.max_image_"));
    }
}
