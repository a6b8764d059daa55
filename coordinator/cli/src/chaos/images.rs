//! The images of the archive: a person's, or drawn ones that look like chest X-rays to somebody far away.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use bytes::Bytes;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use radialog_training::random::Random;

use crate::exit::UsageError;

/// Sides of a drawn image, in pixels.
const SIDE: usize = 256;
const SUFFIXES: [&str; 3] = ["png", "jpg", "jpeg"];

/// An image of the archive.
#[derive(Clone)]
pub(super) struct ArchiveImage {
    /// With its suffix.
    pub(super) file: String,
    pub(super) content: Bytes,
}

impl ArchiveImage {
    /// The same picture with other bytes: what follows the end of an image changes its hash, and nothing that is decoded.
    pub(super) fn of_round(&self, round: u64) -> Bytes {
        let tail = round.to_le_bytes();
        [&self.content[..], b"round", &tail].concat().into()
    }
}

/// The first `count` images of a folder, by name.
pub(super) fn read(folder: &Path, count: usize) -> anyhow::Result<Vec<ArchiveImage>> {
    let cannot = |path: &Path, error: &std::io::Error| {
        UsageError(format!("cannot read --archive {}: {error}", path.display()))
    };
    let listed = std::fs::read_dir(folder).map_err(|error| cannot(folder, &error))?;
    let mut files = Vec::new();
    for entry in listed {
        let path = entry?.path();
        let suffix = path.extension().map(|suffix| suffix.to_ascii_lowercase());
        if SUFFIXES.iter().any(|known| suffix == Some((*known).into())) {
            files.push(path);
        }
    }
    files.sort();
    files.truncate(count);
    if files.is_empty() {
        bail!(UsageError(format!(
            "--archive {}: there are no PNG or JPEG files in this folder",
            folder.display()
        )));
    }
    let read = |(number, path): (usize, &std::path::PathBuf)| -> anyhow::Result<ArchiveImage> {
        let suffix = path.extension().unwrap_or_default().to_string_lossy();
        Ok(ArchiveImage {
            file: format!("{number:04}.{suffix}"),
            content: std::fs::read(path)
                .map_err(|error| cannot(path, &error))?
                .into(),
        })
    };
    files.iter().enumerate().map(read).collect()
}

/// Draws `count` images. The last one is broken off, so that a study that can never work is among them.
pub(super) fn draw(seed: u64, count: usize) -> anyhow::Result<Vec<ArchiveImage>> {
    let mut images = Vec::new();
    for number in 0..count {
        let mut random = Random::stream(seed, &format!("image {number}"));
        let mut content = png(&pixels(&mut random))?;
        if number > 0 && number + 1 == count {
            content.truncate(content.len() / 2);
        }
        images.push(ArchiveImage {
            file: format!("{number:04}.png"),
            content: content.into(),
        });
    }
    Ok(images)
}

/// Two dark lungs with ribs in a bright thorax, and noise.
fn pixels(random: &mut Random) -> Vec<u8> {
    let side = SIDE as f64;
    let (height, width) = (random.between(0.26, 0.36), random.between(0.12, 0.17));
    let (lift, ribs) = (random.between(-0.05, 0.05), random.between(7.0, 11.0));
    let heart = random.between(0.06, 0.14);
    let mut pixels = Vec::with_capacity(SIDE * SIDE);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (x, y) = (column as f64 / side - 0.5, row as f64 / side - 0.5 + lift);
            let thorax = 200.0 - 260.0 * (x * x + 0.6 * y * y);
            let in_lung = |centre: f64| {
                let (across, along) = ((x - centre) / width, y / height);
                (1.0 - across * across - along * along).clamp(0.0, 1.0)
            };
            let lung = in_lung(-0.2).max(in_lung(0.2));
            let rib = (y * ribs * std::f64::consts::TAU + x * x * 20.0)
                .sin()
                .max(0.0);
            let in_heart = ((x - 0.05) / heart).powi(2) + ((y - 0.12) / 0.13).powi(2) < 1.0;
            let shade = thorax - lung * (130.0 - 40.0 * rib) + 8.0 * random.normal();
            let shade = if in_heart { shade.max(170.0) } else { shade };
            pixels.push(shade.clamp(0.0, 255.0) as u8);
        }
    }
    pixels
}

/// A grey PNG file (ISO 15948) of these pixels, with no filter.
fn png(pixels: &[u8]) -> anyhow::Result<Vec<u8>> {
    let side = u32::try_from(SIDE)?.to_be_bytes();
    // Eight bits of grey, and the one way of compression, filters and no interlacing that there is.
    let header = [&side[..], &side[..], &[8, 0, 0, 0, 0]].concat();
    let mut rows = ZlibEncoder::new(Vec::new(), Compression::fast());
    for row in pixels.chunks(SIDE) {
        rows.write_all(&[0])?;
        rows.write_all(row)?;
    }
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, content) in [("IHDR", header), ("IDAT", rows.finish()?), ("IEND", vec![])] {
        let mut checksum = Crc::new();
        checksum.update(name.as_bytes());
        checksum.update(&content);
        file.extend(u32::try_from(content.len())?.to_be_bytes());
        file.extend(name.as_bytes());
        file.extend(content);
        file.extend(checksum.sum().to_be_bytes());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use radialog_models::preprocess::{ImageLimits, Preprocessed};

    use super::*;

    #[test]
    fn drawn_images_can_be_read_in_every_round_but_for_the_last_one() {
        let images = draw(3, 3).unwrap();
        assert_ne!(images[0].content, images[1].content);
        let read = |content: &[u8]| Preprocessed::from_bytes(content, &ImageLimits::default(), 64);
        for (image, is_whole) in images.iter().zip([true, true, false]) {
            for round in [0, 700] {
                let content = image.of_round(round);
                assert_eq!(read(&content).is_ok(), is_whole, "{} {round}", image.file);
            }
        }
    }
}
