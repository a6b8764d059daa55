//! Labelled images: the tables that say which there are, and batches of them.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use radialog_models::preprocess::InputSize;
use radialog_schemas::{Finding, Label};
use rayon::prelude::*;

use crate::data::augmentation::Augmentation;
use crate::data::pixels::{pixels, stack};
use crate::error::TrainingError;
use crate::prepare::{FindingLabels, TableFile};
use crate::recipe::{BlankLabels, ImageTable};

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

fn name(image: &LabelledImage) -> String {
    image
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
