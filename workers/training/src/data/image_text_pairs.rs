//! Images with texts: the tables that the alignment training reads.

use std::path::{Path, PathBuf};

use crate::data::table_check::{TableCheck, TablePatients};
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

/// The pairs of the sides that a training reads, in the order of the tables.
#[derive(Clone, Debug, Default)]
pub struct PairSides {
    /// Pairs to learn from.
    pub train: Vec<ImageTextPair>,
    /// Pairs that say which checkpoint is the best.
    pub validate: Vec<ImageTextPair>,
    /// What a user should know of the tables.
    pub notes: Vec<String>,
}

impl PairSides {
    /// Reads the pairs that have a text.
    ///
    /// # Errors
    /// A table without its columns, or a side without pairs; every image that is not there and every patient who is on two
    /// sides, together.
    pub fn read(tables: &[PairTable], encode: Encode<'_>) -> Result<Self, TrainingError> {
        let (mut sides, mut check) = (Self::default(), TableCheck::default());
        for table in tables {
            match &table.split_table {
                Some(splits) => {
                    let splits = SplitTable::read(splits)?;
                    sides.add_sectioned(table, &splits, encode, &mut check)?;
                }
                None => sides.add_plain(table, encode, &mut check)?,
            }
        }
        sides.notes = check.finish()?;
        for (split, pairs) in [("train", &sides.train), ("validate", &sides.validate)] {
            if pairs.is_empty() {
                let reason = format!(
                    "no pair with a text of the split '{split}' in the tables of the recipe"
                );
                return Err(TrainingError::Empty(reason));
            }
        }
        Ok(sides)
    }

    fn of(&mut self, side: Option<&str>) -> Option<&mut Vec<ImageTextPair>> {
        match side {
            Some("train") => Some(&mut self.train),
            Some("validate") => Some(&mut self.validate),
            _ => None,
        }
    }

    fn add_plain(
        &mut self,
        table: &PairTable,
        encode: Encode<'_>,
        check: &mut TableCheck,
    ) -> Result<(), TrainingError> {
        let mut rows = TableFile::open(&table.pairs)?
            .with_hint(format!("it needs image, split and {}", table.text));
        let (image, of_split) = (rows.column("image")?, rows.column("split")?);
        let text = rows.column(&table.text)?;
        let mut patients = TablePatients::of(&table.pairs, &rows)?;
        while let Some(row) = rows.next_row()? {
            let side = check.side(&row, of_split, &mut patients);
            let text = strip(row.cell(text).unwrap_or_default());
            let Some(pairs) = self.of(side) else {
                continue;
            };
            if text.is_empty() {
                check.lacks("text");
                continue;
            }
            let image = folder(table).join(row.cell(image).unwrap_or_default());
            check.file(&table.pairs, row.line, &image);
            pairs.push(ImageTextPair {
                image,
                ids: encode(text)?,
            });
        }
        Ok(())
    }

    /// The rows of MIMIC-CXR as the original reads them: findings without newlines.
    fn add_sectioned(
        &mut self,
        table: &PairTable,
        splits: &SplitTable,
        encode: Encode<'_>,
        check: &mut TableCheck,
    ) -> Result<(), TrainingError> {
        let mut patients = TablePatients::unnamed(&table.pairs);
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
            let split = splits.get(&row.dicom_id);
            let side = check.side_of(split, row.patient(), row.line, &mut patients);
            let Some(pairs) = self.of(side) else {
                continue;
            };
            if text.is_empty() {
                check.lacks("text");
                continue;
            }
            let image = folder(table).join(&row.image_folder).join(&row.image_file);
            check.file(&table.pairs, row.line, &image);
            pairs.push(ImageTextPair {
                image,
                ids: encode(text)?,
            });
        }
        Ok(())
    }
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

    fn read(dir: &Path, split_table: Option<&str>) -> Result<PairSides, TrainingError> {
        let table = PairTable {
            pairs: dir.join("pairs.csv"),
            images: None,
            text: "findings".to_owned(),
            split_table: split_table.map(|name| dir.join(name)),
        };
        PairSides::read(&[table], &letters)
    }

    #[test]
    fn a_table_gives_the_pairs_of_its_split_that_have_a_text_with_paths_beside_it_or_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (beside, whole) = (dir.path().join("a.png"), dir.path().join("b.png"));
        for image in [&beside, &whole] {
            fs::write(image, "").unwrap();
        }
        let rows = format!(
            "study_id,split,image,findings,Edema\n1,train,a.png, clear ,1\n2,test,a.png,x,\n3,train,a.png,,\n4,train,{},ok,\n5,val,a.png,v,\n\
             6,extra,a.png,x,\n",
            whole.display()
        );
        fs::write(dir.path().join("pairs.csv"), rows).unwrap();
        let sides = read(dir.path(), None).unwrap();
        assert_eq!(
            sides.validate[0].ids,
            letters("v").unwrap(),
            "a side is known by its other names"
        );
        let notes = [
            "1 row is of a split 'extra': not read",
            "1 row of train and validate has no text: not read",
        ];
        assert_eq!(sides.notes, notes);
        let expected = [("clear", beside), ("ok", whole)].map(|(text, image)| ImageTextPair {
            image,
            ids: letters(text).unwrap(),
        });
        assert_eq!(sides.train, expected);
    }

    #[test]
    fn a_sectioned_table_is_joined_with_the_split_table() {
        let dir = tempfile::tempdir().unwrap();
        let folder = "files/p10/p10000001/s50000001";
        for (folder, image) in [
            (folder, "d1"),
            (folder, "d2"),
            ("files/p10/p2/s50000001", "d3"),
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(format!("{image}.jpg")), "").unwrap();
        }
        let header = crate::prepare::SECTIONED_COLUMNS.join(",");
        let row = |dicom: &str| {
            format!(
                "s50000001,,\"\n all\n is well\",,,{dicom},{dicom}.jpg,{folder},s50000001.txt\n"
            )
        };
        fs::write(
            dir.path().join("pairs.csv"),
            format!(
                "{header}\n{}{}{}",
                row("d1"),
                row("d2"),
                row("d3").replace("p10000001", "p2")
            ),
        )
        .unwrap();
        fs::write(
            dir.path().join("split.csv"),
            "dicom_id,split\nd1,train\nd2,extra\nd3,validate\n",
        )
        .unwrap();
        let pairs = read(dir.path(), Some("split.csv")).unwrap();
        assert_eq!((pairs.train.len(), pairs.validate.len()), (1, 1));
        assert_eq!(pairs.train[0].ids, letters("all is well").unwrap());
        let splits = "dicom_id,split\nd1,train\nd2,test\nd3,validate\n";
        fs::write(dir.path().join("split.csv"), splits).unwrap();
        let error = read(dir.path(), Some("split.csv")).unwrap_err().to_string();
        assert!(
            error.contains("line 5: patient 'p10000001' is on two sides"),
            "{error}"
        );
    }

    #[test]
    fn all_images_that_are_not_there_are_named_before_anything_is_trained() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("pairs.csv"),
            "split,image,findings\ntrain,gone.png,x\nvalidate,lost.png,x\n",
        )
        .unwrap();
        let error = read(dir.path(), None).unwrap_err().to_string();
        assert!(
            error.contains("line 2: there is no image")
                && error.contains("gone.png")
                && error.contains("lost.png"),
            "{error}"
        );
    }
}
