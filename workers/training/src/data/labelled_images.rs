//! Labelled images: the tables that say which there are, and the loader that prepares the next batches while a step runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use candle_core::{Device, Tensor};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};
use radialog_schemas::{Finding, Label};
use rayon::prelude::*;

use crate::data::augmentation::Augmentation;
use crate::error::TrainingError;
use crate::prepare::{FindingLabels, TableFile};
use crate::recipe::{BlankLabels, ImageTable};

/// Batches that are ready before they are asked for.
const AHEAD: usize = 2;

/// A training image of the findings classifier, with its 14 labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledImage {
    /// The file; its name is what errors call it.
    pub path: PathBuf,
    /// Its labels, in the published order.
    pub labels: FindingLabels,
}

/// A batch of labelled images is what the findings classifier reads in one pass.
pub struct ImageBatch {
    /// `[B, 3, side, side]`.
    pub images: Tensor,
    /// `[B, 14]`, 1 where a finding is present.
    pub targets: Tensor,
    /// `[B, 14]`, 1 where the label counts.
    pub mask: Tensor,
    /// Names of the files.
    pub names: Vec<String>,
}

/// The settings with which image files become batches.
#[derive(Clone, Debug)]
pub struct Batching {
    /// What the network sees of an image.
    pub input: InputSize,
    /// What blank labels count as.
    pub blank: BlankLabels,
    /// Seed of the augmentation of this pass; none without it.
    pub augment: Option<u64>,
    /// Where batches go.
    pub device: Device,
}

/// Reads which images a split has, in the order of the tables.
///
/// # Errors
/// A table without the columns `image`, `split` and the 14 findings, another label than 1, 0, -1 or nothing, or no image.
pub fn labelled_images(
    tables: &[ImageTable],
    split: &str,
) -> Result<Vec<LabelledImage>, TrainingError> {
    let mut images = Vec::new();
    for table in tables {
        let mut rows =
            TableFile::open(&table.labels)?.with_hint("it needs image, split and the 14 findings");
        let (image, of_split) = (rows.column("image")?, rows.column("split")?);
        let findings = rows.findings()?;
        while let Some(row) = rows.next_row()? {
            if row.cell(of_split) == Some(split) {
                images.push(LabelledImage {
                    path: table.images.join(row.cell(image).unwrap_or_default()),
                    labels: rows.labels(&row, &findings)?,
                });
            }
        }
    }
    if images.is_empty() {
        return Err(TrainingError::Empty(format!(
            "no image of the split '{split}' in the tables of the recipe"
        )));
    }
    Ok(images)
}

impl Batching {
    /// Decodes one batch; images are decoded in parallel.
    ///
    /// # Errors
    /// An image that cannot be read, with its name.
    pub fn batch(&self, images: &[LabelledImage]) -> Result<ImageBatch, TrainingError> {
        let planes = images
            .par_iter()
            .map(|image| self.plane(image))
            .collect::<Result<Vec<_>, _>>()?;
        let cells = |of: &dyn Fn(Label) -> bool| {
            let cells = images
                .iter()
                .flat_map(|image| image.labels)
                .map(|label| f32::from(u8::from(of(label))));
            Tensor::from_iter(cells, &self.device)?.reshape((images.len(), Finding::ALL.len()))
        };
        Ok(ImageBatch {
            images: stack(planes, self.input.side, &self.device)?,
            targets: cells(&|label| label == Label::Positive)?,
            mask: cells(&|label| self.blank == BlankLabels::Absent || label != Label::Blank)?,
            names: images.iter().map(name).collect(),
        })
    }

    /// The pixels as inference sees them, and then augmented.
    fn plane(&self, image: &LabelledImage) -> Result<Vec<f32>, TrainingError> {
        let pixels = pixels(&image.path, self.input)?;
        Ok(match self.augment {
            None => pixels,
            Some(seed) => Augmentation::draw(seed, &name(image)).apply(&pixels, self.input.side),
        })
    }
}

/// The grey pixels of an image file, from 0 to 1, as inference sees them.
pub(crate) fn pixels(path: &Path, input: InputSize) -> Result<Vec<f32>, TrainingError> {
    let bytes = fs::read(path).map_err(TrainingError::io("read", path))?;
    let read = Preprocessed::from_bytes(&bytes, &ImageLimits::default(), input.short_side);
    let read = read.map_err(|failure| TrainingError::content(path)(failure.message))?;
    Ok(read
        .crop(input.side)
        .pixels()
        .iter()
        .map(|&pixel| f32::from(pixel) / 255.0)
        .collect())
}

/// Grey planes as network input `[B, 3, side, side]`.
pub(crate) fn stack(
    planes: Vec<Vec<f32>>,
    side: usize,
    device: &Device,
) -> Result<Tensor, TrainingError> {
    let count = planes.len();
    let planes = Tensor::from_vec(planes.concat(), (count, 1, side, side), device)?;
    Ok(planes.expand((count, 3, side, side))?.contiguous()?)
}

fn name(image: &LabelledImage) -> String {
    image
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Loads batches on a thread of its own, in order, some ahead of use.
pub struct Loader<B> {
    batches: Option<Receiver<Result<B, TrainingError>>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Send + 'static> Loader<B> {
    /// Starts to load each of these batches.
    pub fn start<T: Send + 'static>(
        batches: Vec<T>,
        load: impl Fn(T) -> Result<B, TrainingError> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = thread::spawn(move || {
            for batch in batches {
                let loaded = load(batch);
                let failed = loaded.is_err();
                // Nobody listens any more when a training stops early.
                if sender.send(loaded).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            batches: Some(receiver),
            thread: Some(thread),
        }
    }
}

impl<B> Iterator for Loader<B> {
    type Item = Result<B, TrainingError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl<B> Drop for Loader<B> {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the loader has ended its batches already.
            let _ = thread.join();
        }
    }
}
