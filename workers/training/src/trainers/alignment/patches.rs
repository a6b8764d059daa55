//! Projected patches of images, from the network of inference. The encoder is frozen and images are not augmented, so that
//! those of an image are always the same and can be kept in a file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::hashes;
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::preprocess::InputSize;
use radialog_models::vision::{ImageEncoder, VisionConfig};
use rayon::prelude::*;

use super::encoder;
use crate::data::pixels::{pixels, stack};
use crate::error::TrainingError;

/// The cache's file in the output folder.
const FILE: &str = "patches.cache";
/// Bytes in front of the values of a row: their checksum.
const MARK: usize = 8;

/// Where patches come from.
pub(super) struct Patches {
    encoder: ImageEncoder,
    input: InputSize,
    /// `[channels, rows, columns]` of one image.
    shape: [usize; 3],
    cache: Option<Cache>,
    device: Device,
}

/// A row an image, written when it is first computed. A row that was cut short, or belongs to another image or encoder, does
/// not have its checksum, and is computed again.
struct Cache {
    file: File,
    path: PathBuf,
    rows: HashMap<PathBuf, u64>,
    /// Starts each checksum.
    key: u64,
}

impl Patches {
    /// The encoder of `encoder`, without a cache.
    pub(super) fn new(
        config: &VisionConfig,
        encoder: &Path,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let weights = MappedWeights::open(&[encoder.to_owned()])?.var_builder(DType::F32, device);
        let grid = config.trunk_grid();
        Ok(Self {
            encoder: ImageEncoder::single_image(
                config,
                weights.pp(encoder::ROOT.trim_end_matches('.')),
            )?,
            input: config.input(),
            shape: [config.joint_feature_size, grid, grid],
            cache: None,
            device: device.clone(),
        })
    }

    /// Adds a cache in `out` for these images.
    pub(super) fn cached<'a>(
        mut self,
        images: impl Iterator<Item = &'a Path>,
        encoder: &Path,
        out: &Path,
    ) -> Result<Self, TrainingError> {
        let path = out.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(TrainingError::io("open", &path))?;
        let InputSize { short_side, side } = self.input;
        let seen = [short_side, side].map(|pixels| pixels as u32);
        let key = checksum(
            0,
            hashes::hash_file(encoder)?
                .to_string()
                .bytes()
                .map(u32::from)
                .chain(seen),
        );
        let mut rows = HashMap::new();
        for image in images {
            let next = rows.len() as u64;
            rows.entry(image.to_owned()).or_insert(next);
        }
        self.cache = Some(Cache {
            file,
            path,
            rows,
            key,
        });
        Ok(self)
    }

    /// Patches `[B, channels, h, w]` of images.
    ///
    /// # Errors
    /// An image that cannot be read, with its name; a cache that cannot be written.
    pub(super) fn of(&self, images: &[&Path]) -> Result<Tensor, TrainingError> {
        let known: Vec<Option<Vec<f32>>> =
            images.par_iter().map(|image| self.known(image)).collect();
        let mut missing: Vec<&Path> = images
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(image, _)| *image)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        let planes = missing
            .par_iter()
            .map(|image| pixels(image, self.input))
            .collect::<Result<Vec<_>, _>>()?;
        let mut new: HashMap<&Path, Vec<f32>> = HashMap::new();
        if !planes.is_empty() {
            let computed = self
                .encoder
                .project(&stack(planes, self.input.side, &self.device)?)?;
            for (image, patches) in missing
                .iter()
                .zip(computed.flatten_from(1)?.to_vec2::<f32>()?)
            {
                if let Some(cache) = &self.cache {
                    cache.write(image, &patches)?;
                }
                new.insert(image, patches);
            }
        }
        let mut values = Vec::with_capacity(images.len() * self.shape.iter().product::<usize>());
        for (image, known) in images.iter().zip(&known) {
            values.extend_from_slice(
                known
                    .as_ref()
                    .or_else(|| new.get(image))
                    .map_or(&[][..], Vec::as_slice),
            );
        }
        let [channels, rows, columns] = self.shape;
        Ok(Tensor::from_vec(
            values,
            (images.len(), channels, rows, columns),
            &self.device,
        )?)
    }

    fn known(&self, image: &Path) -> Option<Vec<f32>> {
        self.cache
            .as_ref()?
            .read(image, self.shape.iter().product())
    }
}

impl Cache {
    fn read(&self, image: &Path, count: usize) -> Option<Vec<f32>> {
        let mut row = vec![0; MARK + 4 * count];
        let start = self.rows.get(image)? * row.len() as u64;
        self.file.read_exact_at(&mut row, start).ok()?;
        let values: Vec<f32> = row[MARK..]
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        (row[..MARK] == self.mark(image, &values)).then_some(values)
    }

    fn write(&self, image: &Path, values: &[f32]) -> Result<(), TrainingError> {
        let Some(index) = self.rows.get(image) else {
            return Ok(());
        };
        let mut row = self.mark(image, values).to_vec();
        row.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.file
            .write_all_at(&row, index * row.len() as u64)
            .map_err(TrainingError::io("write", &self.path))
    }

    fn mark(&self, image: &Path, values: &[f32]) -> [u8; MARK] {
        let image = checksum(
            self.key,
            image
                .as_os_str()
                .as_encoded_bytes()
                .iter()
                .copied()
                .map(u32::from),
        );
        checksum(image, values.iter().map(|value| value.to_bits())).to_le_bytes()
    }
}

/// FNV-1a over words instead of bytes: as fast as the disk.
fn checksum(start: u64, words: impl Iterator<Item = u32>) -> u64 {
    words.fold(start ^ 0xCBF2_9CE4_8422_2325, |sum, word| {
        (sum ^ u64::from(word)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cache(dir: &Path, key: u64) -> Cache {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .unwrap();
        let rows = ["a.png", "b.png"]
            .into_iter()
            .zip(0..)
            .map(|(name, row)| (PathBuf::from(name), row))
            .collect();
        Cache {
            file,
            path,
            rows,
            key,
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was_and_only_for_its_image_and_encoder() {
        let dir = tempfile::tempdir().unwrap();
        let first = cache(dir.path(), 1);
        let (a, b) = (Path::new("a.png"), Path::new("b.png"));
        assert_eq!(first.read(a, 2), None);
        first.write(b, &[0.5, -1.0]).unwrap();
        assert_eq!(first.read(b, 2), Some(vec![0.5, -1.0]));
        assert_eq!(first.read(a, 2), None, "a hole in the file is no row");
        assert_eq!(cache(dir.path(), 2).read(b, 2), None, "another encoder");
        let mut bytes = fs::read(&first.path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&first.path, bytes).unwrap();
        assert_eq!(cache(dir.path(), 1).read(b, 2), None, "a damaged row");
    }
}
