//! `prepare nih`: the NIH ChestX-ray14 collection (Wang et al., 2017) becomes an image table. Its labels were mined from
//! reports that nobody can read: "not named" is 0 here, and three findings have no class there, so that they stay empty.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label};

use crate::error::TrainingError;
use crate::prepare::sources::folder::names;
use crate::prepare::sources::patient_split;
use crate::prepare::tables::finding_labels::FindingLabels;
use crate::prepare::tables::image_table::ImageRow;
use crate::prepare::tables::table_file::TableFile;

/// Classes of the collection and what they are in CheXpert's words. The last ones have no counterpart.
const CLASSES: [(&str, Option<Finding>); 15] = [
    ("No Finding", Some(Finding::NoFinding)),
    ("Cardiomegaly", Some(Finding::Cardiomegaly)),
    ("Infiltration", Some(Finding::LungOpacity)),
    ("Nodule", Some(Finding::LungLesion)),
    ("Mass", Some(Finding::LungLesion)),
    ("Edema", Some(Finding::Edema)),
    ("Consolidation", Some(Finding::Consolidation)),
    ("Pneumonia", Some(Finding::Pneumonia)),
    ("Atelectasis", Some(Finding::Atelectasis)),
    ("Pneumothorax", Some(Finding::Pneumothorax)),
    ("Effusion", Some(Finding::PleuralEffusion)),
    ("Pleural_Thickening", Some(Finding::PleuralOther)),
    ("Emphysema", None),
    ("Fibrosis", None),
    ("Hernia", None),
];

/// The publisher's lists of images, and whose sides they are.
const LISTS: [&str; 2] = ["train_val_list.txt", "test_list.txt"];
/// Share of the publisher's training patients that validate.
const VALIDATE: f64 = 0.1;

/// The image table of an NIH collection, and the number of images that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NihImages {
    /// The images, in the order of the source.
    pub rows: Vec<ImageRow>,
    /// Images that the source names and that are not there.
    pub missing: u64,
    /// Images that are there and that the source does not name.
    pub unnamed: u64,
    /// Rows of images that are in neither of the publisher's lists.
    pub unlisted: u64,
}

/// Reads a `labels.csv` (columns image, split, and `nih_labels` or the 14 findings), whose images lie in `images/` beside it,
/// or the publisher's folder with `Data_Entry_2017*.csv`, `images_*/images/`, and, if they are there, the two lists.
///
/// # Errors
/// No such source, columns that are missing, classes that the collection does not have, or no image.
pub fn read_nih(source: &Path) -> Result<NihImages, TrainingError> {
    let images = if source.is_dir() {
        publisher(source)?
    } else {
        labelled(source)?
    };
    if images.rows.is_empty() {
        let reason = format!(
            "'{}' names {} images, and none of them is there",
            source.display(),
            images.missing
        );
        return Err(TrainingError::Empty(reason));
    }
    Ok(images)
}

fn labelled(path: &Path) -> Result<NihImages, TrainingError> {
    let mut table = TableFile::open(path)?;
    let (image, split) = (table.column("image")?, table.column("split")?);
    let classes = table.optional("nih_labels")?;
    let findings = match classes {
        Some(_) => None,
        None => Some(table.findings()?),
    };
    let folder = path.parent().unwrap_or(Path::new("")).join("images");
    let mut images = NihImages::default();
    while let Some(cells) = table.next_row()? {
        let cell = |column: usize| cells.cell(column).unwrap_or_default();
        let classes = classes.map_or("", cell);
        let labels = match &findings {
            Some(findings) => table.labels(&cells, findings)?,
            None => labels(classes).map_err(|reason| table.fault(&cells, reason))?,
        };
        let row = ImageRow {
            image: cell(image).to_owned(),
            split: cell(split).to_owned(),
            labels,
        };
        images.add(row, folder.join(cell(image)).is_file());
    }
    Ok(images)
}

fn publisher(folder: &Path) -> Result<NihImages, TrainingError> {
    let entry = data_entry(folder)?;
    let files = image_files(folder)?;
    let [train, test] = LISTS.map(|name| list(&folder.join(name)));
    let (train, test) = (train?, test?);
    let mut table = TableFile::open(&entry)?;
    let (image, classes, patient) = (
        table.column("Image Index")?,
        table.column("Finding Labels")?,
        table.column("Patient ID")?,
    );
    let mut images = NihImages::default();
    let mut named = HashSet::new();
    while let Some(row) = table.next_row()? {
        let cell = |column: usize| row.cell(column).unwrap_or_default();
        if let Some((name, _)) = files.get_key_value(cell(image)) {
            named.insert(name);
        }
        let labels = labels(cell(classes)).map_err(|reason| table.fault(&row, reason))?;
        let patient: u64 = cell(patient).parse().map_err(|_| {
            let reason = format!("'{}' is no number of a patient", cell(patient));
            table.fault(&row, reason)
        })?;
        let key = format!("nih:{patient}");
        let name = cell(image);
        let side = match (&train, &test) {
            (_, Some(test)) if test.contains(name) => "test",
            (Some(train), _) if train.contains(name) && patient_split::share(&key) < VALIDATE => {
                "validate"
            }
            (Some(train), _) if train.contains(name) => "train",
            (None, None) => patient_split::side(&key),
            _ => {
                images.unlisted += 1;
                continue;
            }
        };
        let file = files.get(name);
        let path = file.cloned().unwrap_or_default();
        images.add(
            ImageRow {
                image: path,
                split: side.to_owned(),
                labels,
            },
            file.is_some(),
        );
    }
    images.unnamed = (files.len() - named.len()) as u64;
    Ok(images)
}

impl NihImages {
    fn add(&mut self, row: ImageRow, is_there: bool) {
        if is_there {
            self.rows.push(row)
        } else {
            self.missing += 1
        }
    }
}

/// The labels of the classes in a cell, e.g. `Effusion|Mass`.
fn labels(cell: &str) -> Result<FindingLabels, String> {
    let mut labels = [Label::Blank; Finding::ALL.len()];
    for finding in CLASSES.into_iter().filter_map(|(_, finding)| finding) {
        labels[finding as usize] = Label::Negative;
    }
    for class in cell.split('|').map(str::trim) {
        let known = CLASSES.into_iter().find(|(name, _)| *name == class);
        let (_, finding) = known.ok_or_else(|| format!("'{class}' is no class of ChestX-ray14"))?;
        if let Some(finding) = finding {
            labels[finding as usize] = Label::Positive;
        }
    }
    Ok(labels)
}

/// What a class of the collection is in CheXpert's words, in whatever spelling: none of a name that is no class, `Some(None)` of a
/// class without a counterpart.
pub(crate) fn class(name: &str) -> Option<Option<Finding>> {
    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name.trim());
    let known = CLASSES.into_iter().find(|(name, _)| plain(name) == wanted);
    known.map(|(_, finding)| finding)
}

fn data_entry(folder: &Path) -> Result<PathBuf, TrainingError> {
    let is_table = |name: &str| name.ends_with(".csv") || name.ends_with(".csv.gz");
    let named = |name: &str| name.starts_with("Data_Entry_2017") && is_table(name);
    let found = names(folder)?.into_iter().find(|name| named(name));
    found.map(|name| folder.join(name)).ok_or_else(|| {
        let shown = folder.display();
        TrainingError::Empty(format!(
            "no Data_Entry_2017*.csv in '{shown}': give the folder of the collection, or a table of its form, e.g. '{shown}/labels.csv'"
        ))
    })
}

/// The place of each picture below `folder`: in `images_*/images/`, `images_*/` or `images/`.
fn image_files(folder: &Path) -> Result<BTreeMap<String, String>, TrainingError> {
    let mut files = BTreeMap::new();
    for part in names(folder)?
        .into_iter()
        .filter(|name| name.starts_with("images"))
    {
        for below in [part.clone(), format!("{part}/images")] {
            if folder.join(&below).is_dir() {
                let names = names(&folder.join(&below))?.into_iter();
                let named = names.map(|name| (name.clone(), format!("{below}/{name}")));
                files.extend(named.filter(|(_, path)| folder.join(path).is_file()));
            }
        }
    }
    Ok(files)
}

/// The names in a list, or nothing where there is no such file.
fn list(path: &Path) -> Result<Option<HashSet<String>>, TrainingError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
    Ok(Some(text.split_whitespace().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_become_findings_and_what_the_source_has_no_class_for_stays_empty() {
        let of = |cell: &str, finding: Finding| labels(cell).unwrap()[finding as usize];
        assert_eq!(
            of("Infiltration|Emphysema", Finding::LungOpacity),
            Label::Positive
        );
        assert_eq!(of("Infiltration", Finding::NoFinding), Label::Negative);
        assert_eq!(of("No Finding", Finding::NoFinding), Label::Positive);
        assert_eq!(of("Mass", Finding::LungLesion), Label::Positive);
        assert_eq!(of("Mass", Finding::Fracture), Label::Blank);
        assert!(labels("Effusion|Cough").unwrap_err().contains("'Cough'"));
    }

    #[test]
    fn the_publisher_folder_is_read_with_its_lists() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("images_001/images")).unwrap();
        let mut csv = "Image Index,Finding Labels,Follow-up #,Patient ID\n".to_owned();
        for number in 0..40 {
            csv += &format!("{number}.png,Effusion,0,{number}\n");
            fs::write(path(&format!("images_001/images/{number}.png")), "").unwrap();
        }
        csv += "gone.png,No Finding,0,99\n";
        fs::write(path("Data_Entry_2017_v2020.csv"), csv).unwrap();
        let all = read_nih(dir.path()).unwrap();
        assert_eq!((all.rows.len(), all.missing), (40, 1));
        assert_eq!(all.rows[3].image, "images_001/images/3.png");
        let names = |range: std::ops::Range<usize>| {
            range
                .map(|number| format!("{number}.png\n"))
                .collect::<String>()
        };
        fs::write(path("train_val_list.txt"), names(0..30)).unwrap();
        fs::write(path("test_list.txt"), names(30..40)).unwrap();
        let listed = read_nih(dir.path()).unwrap();
        assert!(listed.rows[30..].iter().all(|row| row.split == "test"));
        assert!(
            listed.rows[..30]
                .iter()
                .all(|row| row.split == "train" || row.split == "validate")
        );
        assert!(listed.rows[..30].iter().any(|row| row.split == "validate"));
        assert_eq!((listed.unnamed, listed.unlisted), (0, 1));
        fs::write(path("images_001/images/other.png"), "").unwrap();
        assert_eq!(read_nih(dir.path()).unwrap().unnamed, 1);
    }

    #[test]
    fn a_folder_without_the_table_says_what_to_give() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_nih(dir.path()).unwrap_err().to_string();
        assert!(error.contains("Data_Entry_2017"), "{error}");
    }
}
