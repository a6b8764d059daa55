//! Labelled images: the tables that say which there are, and batches of them.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use radialog_models::preprocess::InputSize;
use radialog_schemas::{Finding, Label, counted};
use rayon::prelude::*;

use crate::data::augmentation::Augmentation;
use crate::data::pixels::{pixels, stack};
use crate::data::table_check::{TableCheck, TablePatients};
use crate::error::TrainingError;
use crate::prepare::{FindingLabels, LabelKey, LabelTable, SectionedReader, SplitTable, TableFile};
use crate::recipe::{ImageTable, LabelRule};

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
    /// What labels count as.
    pub rule: LabelRule,
    /// Seed of the augmentation of this pass; none without it.
    pub augment: Option<u64>,
    /// The device on which batches are put.
    pub device: Device,
}

/// The images of the sides that a training reads, in the order of the tables.
#[derive(Clone, Debug, Default)]
pub struct LabelledSides {
    /// Images to learn from.
    pub train: Vec<LabelledImage>,
    /// Images that say which checkpoint is the best.
    pub validate: Vec<LabelledImage>,
    /// What a user should know of the tables.
    pub notes: Vec<String>,
}

impl LabelledSides {
    /// Reads tables with the columns `image`, `split` and the 14 findings; `patient_id` and its like where there is one.
    ///
    /// # Errors
    /// A table without its columns; every label other than 1, 0, -1 or nothing, every image that is not there and every patient
    /// who is on two sides, together.
    pub fn read(tables: &[ImageTable]) -> Result<Self, TrainingError> {
        let (mut sides, mut check) = (Self::default(), TableCheck::default());
        for table in tables {
            if let (Some(sectioned), Some(splits)) = (&table.sectioned, &table.split_table) {
                sides.add_sectioned(table, sectioned, splits, &mut check)?;
                continue;
            }
            let mut rows = TableFile::open(&table.labels)?
                .with_hint("it needs image, split and the 14 findings");
            let (image, split) = (rows.column("image")?, rows.column("split")?);
            let findings = rows.findings()?;
            let mut patients = TablePatients::of(&table.labels, &rows)?;
            while let Some(row) = rows.next_row()? {
                let images = match check.side(&row, split, &mut patients) {
                    Some("train") => &mut sides.train,
                    Some("validate") => &mut sides.validate,
                    _ => continue,
                };
                let path = table.images.join(row.cell(image).unwrap_or_default());
                check.file(&table.labels, row.line, &path);
                match rows.labels(&row, &findings) {
                    Ok(labels) => images.push(LabelledImage { path, labels }),
                    Err(error) => check.error(&error),
                }
            }
        }
        let notes = check.finish()?;
        sides.notes.extend(notes);
        Ok(sides)
    }

    /// The images of MIMIC-CXR, joined with splits and labels. An image without labels teaches nothing, and is left out and counted.
    fn add_sectioned(
        &mut self,
        table: &ImageTable,
        sectioned: &Path,
        splits: &Path,
        check: &mut TableCheck,
    ) -> Result<(), TrainingError> {
        let (labels, splits) = (LabelTable::read(&table.labels)?, SplitTable::read(splits)?);
        let mut patients = TablePatients::unnamed(sectioned);
        let mut unlabelled = 0_u64;
        for row in SectionedReader::open(sectioned)? {
            let row = row?;
            let split = splits.get(&row.dicom_id);
            let side = check.side_of(split, row.patient(), row.line, &mut patients);
            let images = match side {
                Some("train") => &mut self.train,
                Some("validate") => &mut self.validate,
                _ => continue,
            };
            let key = LabelKey {
                dicom: &row.dicom_id,
                study: &row.study,
            };
            if !labels.has(key) {
                unlabelled += 1;
                continue;
            }
            let path = table.images.join(&row.image_folder).join(&row.image_file);
            check.file(sectioned, row.line, &path);
            images.push(LabelledImage {
                path,
                labels: labels.get(key),
            });
        }
        if unlabelled > 0 {
            let shown = table.labels.display();
            self.notes.push(format!(
                "{} no labels in '{shown}': not read",
                counted(unlabelled, "image has", "images have")
            ));
        }
        Ok(())
    }
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
            targets: cells(&|label| self.rule.truth(label) == Some(true))?,
            mask: cells(&|label| self.rule.truth(label).is_some())?,
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A table of images, each with its patient, split and the label of the first finding.
    fn read(rows: &[[&str; 4]]) -> Result<LabelledSides, TrainingError> {
        read_as("patient_id", rows)
    }

    /// The same, with another name of the column of patients.
    fn read_as(patient: &str, rows: &[[&str; 4]]) -> Result<LabelledSides, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let mut text = format!("image,{patient},split,{}\n", names.join(","));
        for [image, patient, split, label] in rows {
            text += &format!("{image},{patient},{split},{label}{}\n", ",".repeat(13));
            if !image.starts_with("gone") {
                fs::write(dir.path().join(image), "").unwrap();
            }
        }
        let labels = dir.path().join("labels.csv");
        fs::write(&labels, text).unwrap();
        LabelledSides::read(&[ImageTable {
            labels,
            images: dir.path().to_owned(),
            ..ImageTable::default()
        }])
    }

    #[test]
    fn everything_that_would_stop_a_training_later_is_told_at_once() {
        let error = read(&[
            ["gone1.png", "p1", "train", "1"],
            ["a.png", "p2", "train", "1"],
            ["b.png", "p2", "validate", "0"],
            ["c.png", "p3", "train", "7"],
            ["gone2.png", "p4", "val", "1"],
            ["gone3.png", "p5", "test", "1"],
            ["d.png", "p6", "validate", "1"],
            ["e.png", "p6", "test", "1"],
        ]);
        let error = error.unwrap_err().to_string();
        for part in [
            "5 fault(s)",
            "line 2: there is no image",
            "line 4: patient 'p2' is on two sides: validate here, train in line 3",
            "line 5: No Finding: '7'",
            "line 6: there is no image",
            "line 9: patient 'p6'",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("gone3"), "no training reads it: {error}");
    }

    #[test]
    fn patients_are_known_by_usual_names_whatever_their_case_spaces_and_underscores() {
        for column in ["Patient ID", "PatientID", "SUBJECT_ID", "patient"] {
            let rows = [
                ["a.png", "p1", "train", "1"],
                ["b.png", "p1", "validate", "0"],
            ];
            let error = read_as(column, &rows).unwrap_err().to_string();
            assert!(
                error.contains("patient 'p1' is on two sides"),
                "{column}: {error}"
            );
        }
        // Emptied by a program that takes names away, beside the one that is meant.
        for column in ["PatientID,subject_id", "PatientID,patient_id"] {
            let rows = [
                ["a.png", ",p1", "train", "1"],
                ["b.png", ",p1", "validate", "0"],
            ];
            let error = read_as(column, &rows).unwrap_err().to_string();
            assert!(
                error.contains("patient 'p1' is on two sides"),
                "{column}: {error}"
            );
        }
    }

    #[test]
    fn the_tables_of_mimic_cxr_are_joined_as_they_are_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let header = crate::prepare::SECTIONED_COLUMNS.join(",");
        let mut sectioned = header + "\n";
        for (image, study) in [
            ("d1", "s1"),
            ("d2", "s1"),
            ("d3", "s2"),
            ("d4", "s3"),
            ("d5", "s4"),
        ] {
            let folder = format!("files/p10/p{study}/{study}");
            fs::create_dir_all(path(&folder)).unwrap();
            fs::write(path(&folder).join(format!("{image}.jpg")), "").unwrap();
            sectioned += &format!("{study},,,,,{image},{image}.jpg,{folder},{study}.txt\n");
        }
        fs::write(path("sectioned.csv"), sectioned).unwrap();
        let splits = "dicom_id,split\nd1,train\nd2,train\nd3,validate\nd4,test\nd5,train\n";
        fs::write(path("split.csv"), splits).unwrap();
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let row = |study: &str| format!("10,{study},{}\n", ["1.0"; 14].join(","));
        let labels = format!(
            "subject_id,study_id,{}\n{}{}{}",
            names.join(","),
            row("1"),
            row("2"),
            row("3")
        );
        fs::write(path("chexpert.csv"), labels).unwrap();
        let table = ImageTable {
            labels: path("chexpert.csv"),
            images: dir.path().to_owned(),
            sectioned: Some(path("sectioned.csv")),
            split_table: Some(path("split.csv")),
        };
        let sides = LabelledSides::read(&[table]).unwrap();
        let files = |images: &[LabelledImage]| images.iter().map(name).collect::<Vec<_>>();
        assert_eq!(files(&sides.train), ["d1.jpg", "d2.jpg"]);
        assert_eq!(files(&sides.validate), ["d3.jpg"]);
        assert_eq!(sides.train[0].labels, [Label::Positive; 14]);
        assert!(
            sides.notes[0].contains("1 image has no labels"),
            "{:?}",
            sides.notes
        );
    }

    #[test]
    fn a_side_is_known_by_its_other_names_and_rows_of_none_are_counted() {
        let sides = read(&[
            ["a.png", "p1", "Training", "1"],
            ["b.png", "p2", "val", "0"],
            ["c.png", "p3", "extra", "0"],
            ["d.png", "p4", "", "0"],
        ])
        .unwrap();
        assert_eq!((sides.train.len(), sides.validate.len()), (1, 1));
        let notes = [
            "1 row names no split: not read",
            "1 row is of a split 'extra': not read",
        ];
        assert_eq!(sides.notes, notes);
    }
}
