//! Images with texts: the tables that the alignment training reads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::TrainingError;
use crate::prepare::sections::strip;
use crate::prepare::{SectionedReader, SplitTable, TableFile};
use crate::recipe::PairTable;

/// A pair of the alignment training: one image, and the text that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTextPair {
    /// The file; its name is what errors call the pair.
    pub image: PathBuf,
    /// The text's ids, `[CLS]` first.
    pub ids: Vec<u32>,
}

/// Makes ids of a text.
type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, TrainingError>;

/// Reads the pairs of a split that have a text, in the order of the tables.
///
/// # Errors
/// A table without its columns, an image that is not there, or no pair.
pub fn pairs(
    tables: &[PairTable],
    split: &str,
    encode: Encode<'_>,
) -> Result<Vec<ImageTextPair>, TrainingError> {
    let mut pairs = Vec::new();
    for table in tables {
        match &table.split_table {
            Some(splits) => {
                sectioned(table, &SplitTable::read(splits)?, split, encode, &mut pairs)?
            }
            None => plain(table, split, encode, &mut pairs)?,
        }
    }
    if pairs.is_empty() {
        let reason =
            format!("no pair with a text of the split '{split}' in the tables of the recipe");
        return Err(TrainingError::Empty(reason));
    }
    // Told before hours of training and not in the middle of them.
    let images: BTreeSet<&Path> = pairs.iter().map(|pair| pair.image.as_path()).collect();
    if let Some(missing) = images.iter().find(|image| !image.is_file()) {
        let reason =
            "no such image: a table of the recipe names it; check its folder of images".to_owned();
        return Err(TrainingError::Content {
            path: missing.to_path_buf(),
            line: None,
            reason,
        });
    }
    Ok(pairs)
}

fn plain(
    table: &PairTable,
    split: &str,
    encode: Encode<'_>,
    pairs: &mut Vec<ImageTextPair>,
) -> Result<(), TrainingError> {
    let mut rows = TableFile::open(&table.pairs)?
        .with_hint(format!("it needs image, split and {}", table.text));
    let (image, of_split) = (rows.column("image")?, rows.column("split")?);
    let text = rows.column(&table.text)?;
    while let Some(row) = rows.next_row()? {
        let text = strip(row.cell(text).unwrap_or_default());
        if row.cell(of_split) == Some(split) && !text.is_empty() {
            pairs.push(ImageTextPair {
                image: folder(table).join(row.cell(image).unwrap_or_default()),
                ids: encode(text)?,
            });
        }
    }
    Ok(())
}

/// The rows of MIMIC-CXR as the original reads them: findings without newlines.
fn sectioned(
    table: &PairTable,
    splits: &SplitTable,
    split: &str,
    encode: Encode<'_>,
    pairs: &mut Vec<ImageTextPair>,
) -> Result<(), TrainingError> {
    for row in SectionedReader::open(&table.pairs)? {
        let row = row?;
        let text = match table.text.as_str() {
            "findings" => row.report.findings.replace('\n', ""),
            "impression" => row.report.impression.replace('\n', ""),
            other => {
                let reason = format!("its text is 'findings' or 'impression', not '{other}'");
                return Err(TrainingError::line(&table.pairs, 1, reason));
            }
        };
        let text = strip(&text);
        if splits.get(&row.dicom_id) == Some(split) && !text.is_empty() {
            let image = folder(table).join(&row.image_folder).join(&row.image_file);
            pairs.push(ImageTextPair {
                image,
                ids: encode(text)?,
            });
        }
    }
    Ok(())
}

fn folder(table: &PairTable) -> &Path {
    table
        .images
        .as_deref()
        .or_else(|| table.pairs.parent())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn letters(text: &str) -> Result<Vec<u32>, TrainingError> {
        Ok(text.chars().map(u32::from).collect())
    }

    fn read(dir: &Path, split_table: Option<&str>) -> Result<Vec<ImageTextPair>, TrainingError> {
        let table = PairTable {
            pairs: dir.join("pairs.csv"),
            images: None,
            text: "findings".to_owned(),
            split_table: split_table.map(|name| dir.join(name)),
        };
        pairs(&[table], "train", &letters)
    }

    #[test]
    fn a_table_gives_the_pairs_of_its_split_that_have_a_text_with_paths_beside_it_or_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (beside, whole) = (dir.path().join("a.png"), dir.path().join("b.png"));
        for image in [&beside, &whole] {
            fs::write(image, "").unwrap();
        }
        let rows = format!(
            "study_id,split,image,findings,Edema\n1,train,a.png, clear ,1\n2,test,a.png,x,\n3,train,a.png,,\n4,train,{},ok,\n",
            whole.display()
        );
        fs::write(dir.path().join("pairs.csv"), rows).unwrap();
        let pairs = read(dir.path(), None).unwrap();
        let expected = [("clear", beside), ("ok", whole)].map(|(text, image)| ImageTextPair {
            image,
            ids: letters(text).unwrap(),
        });
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_sectioned_table_is_joined_with_the_split_table() {
        let dir = tempfile::tempdir().unwrap();
        let folder = "files/p10/p10000001/s50000001";
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("d1.jpg"), "").unwrap();
        let header = crate::prepare::SECTIONED_COLUMNS.join(",");
        let row = |dicom: &str| {
            format!(
                "s50000001,,\"\n all\n is well\",,,{dicom},{dicom}.jpg,{folder},s50000001.txt\n"
            )
        };
        fs::write(
            dir.path().join("pairs.csv"),
            format!("{header}\n{}{}", row("d1"), row("d2")),
        )
        .unwrap();
        fs::write(
            dir.path().join("split.csv"),
            "dicom_id,split\nd1,train\nd2,test\n",
        )
        .unwrap();
        let pairs = read(dir.path(), Some("split.csv")).unwrap();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].ids, letters("all is well").unwrap());
    }

    #[test]
    fn an_image_that_is_not_there_is_named_before_anything_is_trained() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("pairs.csv"),
            "split,image,findings\ntrain,gone.png,x\n",
        )
        .unwrap();
        let error = read(dir.path(), None).unwrap_err().to_string();
        assert!(
            error.contains("gone.png") && error.contains("no such image"),
            "{error}"
        );
    }
}
