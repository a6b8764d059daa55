//! Images by what they are, for the input gate: frontal chest X-rays, lateral ones, and others.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::input_gate;
use radialog_models::preprocess::{self, ImageLimits};
use radialog_schemas::ImageKind;
use rayon::prelude::*;

use crate::data::table_check::{TableCheck, TablePatients};
use crate::error::TrainingError;
use crate::prepare::TableFile;
use crate::recipe::GateTable;

/// Side in which images are kept, in pixels: twice the gate's, so that they can be turned and moved without getting blurred.
pub(crate) const KEPT_SIDE: usize = 2 * input_gate::SIDE;

/// An image as the gate's training keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateImage {
    /// The file's name.
    pub name: String,
    /// The folder that its table stands in, or the table's name where it stands beside the recipe.
    pub source: String,
    /// What it is.
    pub kind: ImageKind,
    /// The whole image, stretched to 128 x 128 grey levels, row-major.
    pub levels: Vec<u8>,
}

/// The images of the three sides, in the order of the tables.
#[derive(Clone, Debug, Default)]
pub struct GateSides {
    /// Images to learn from.
    pub train: Vec<GateImage>,
    /// Images that the checkpoint and the threshold are chosen by.
    pub validate: Vec<GateImage>,
    /// Images that no training reads.
    pub test: Vec<GateImage>,
    /// What a user should know of the tables.
    pub notes: Vec<String>,
}

/// A row of a table that is read.
struct Row {
    side: &'static str,
    path: PathBuf,
    source: String,
    kind: ImageKind,
}

impl GateSides {
    /// Reads tables with the columns `image`, `split` and, where there is one, `view`; and the images of the sides in `wanted`.
    ///
    /// # Errors
    /// A table without its columns; every view that is none, every image that is not there and every patient who is on two sides,
    /// together; an image that cannot be decoded.
    pub fn read(tables: &[GateTable], wanted: &[&str]) -> Result<Self, TrainingError> {
        let (mut rows, mut check) = (Vec::new(), TableCheck::default());
        for table in tables {
            add_rows(table, wanted, &mut rows, &mut check)?;
        }
        let mut sides = Self {
            notes: check.finish()?,
            ..Self::default()
        };
        let images = rows
            .par_iter()
            .map(read_image)
            .collect::<Result<Vec<_>, _>>()?;
        for (row, image) in rows.iter().zip(images) {
            match row.side {
                "train" => sides.train.push(image),
                "validate" => sides.validate.push(image),
                _ => sides.test.push(image),
            }
        }
        Ok(sides)
    }
}

fn add_rows(
    table: &GateTable,
    wanted: &[&str],
    rows: &mut Vec<Row>,
    check: &mut TableCheck,
) -> Result<(), TrainingError> {
    let path = &table.table;
    let mut file = TableFile::open(path)?.with_hint("it needs image and split, and may have view");
    let (image, split) = (file.column("image")?, file.column("split")?);
    let view = file.optional("view")?;
    let mut patients = TablePatients::of(path, &file)?;
    let folder = path.parent().and_then(Path::file_name);
    let source = folder.or(path.file_stem()).unwrap_or_default();
    let source = source.to_string_lossy().into_owned();
    while let Some(row) = file.next_row()? {
        let Some(side) = check.side(&row, split, &mut patients) else {
            continue;
        };
        if !wanted.contains(&side) {
            continue;
        }
        // Without a column of views all images are frontal.
        let written = view.map_or("frontal", |view| row.cell(view).unwrap_or_default());
        let Some(kind) = kind_of(written) else {
            check.fault(
                path,
                row.line,
                format!("'{written}' is no view: use PA, AP, frontal, lateral or other"),
            );
            continue;
        };
        let image = table.images.join(row.cell(image).unwrap_or_default());
        check.file(path, row.line, &image);
        rows.push(Row {
            side,
            path: image,
            source: source.clone(),
            kind,
        });
    }
    Ok(())
}

/// What a cell of the column `view` says.
fn kind_of(view: &str) -> Option<ImageKind> {
    Some(match view.trim().to_lowercase().as_str() {
        "pa" | "ap" | "frontal" => ImageKind::Frontal,
        "l" | "ll" | "lateral" => ImageKind::Lateral,
        "other" => ImageKind::Other,
        _ => return None,
    })
}

fn read_image(row: &Row) -> Result<GateImage, TrainingError> {
    let path = &row.path;
    let bytes = fs::read(path).map_err(TrainingError::io("read", path))?;
    let decoded = preprocess::decode(&bytes, &ImageLimits::default());
    let decoded = decoded.map_err(|failure| TrainingError::content(path)(failure.message))?;
    let levels = input_gate::sampled(&decoded.image, KEPT_SIDE);
    let name = path.file_name().unwrap_or_default();
    Ok(GateImage {
        name: name.to_string_lossy().into_owned(),
        source: row.source.clone(),
        kind: row.kind,
        levels: levels
            .into_iter()
            .map(|level| level.round() as u8)
            .collect(),
    })
}
