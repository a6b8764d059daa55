//! Broken image files, made from whole ones: a clear failure, never a panic.

use std::fs;

use radialog_models::preprocess::{ImageLimits, decode};
use radialog_schemas::{ErrorClass, ErrorCode, Failure};
use radialog_tests::fixtures::preprocessing_images;

fn file(name: &str) -> Vec<u8> {
    fs::read(preprocessing_images().join(name)).unwrap()
}

fn failure(bytes: &[u8]) -> Failure {
    decode(bytes, &ImageLimits::default()).unwrap_err()
}

#[test]
fn a_file_cut_at_any_length_is_corrupt() {
    for name in ["gray_jpeg.jpg", "noise_tiny.png", "rgba.png", "gray16.png"] {
        let whole = file(name);
        let lengths = (16..whole.len())
            .step_by(whole.len() / 40)
            .chain([whole.len() - 1]);
        for length in lengths {
            assert_eq!(
                failure(&whole[..length]).code,
                ErrorCode::ImageCorrupt,
                "{name} cut to {length} bytes"
            );
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
}
