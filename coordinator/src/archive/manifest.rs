//! A CSV manifest: `study_id` and `image` (relative to the manifest), and where there are any `reference` (the
//! radiologist's text), `indication` and `split`. Further columns are ignored.

use std::sync::Arc;

use async_trait::async_trait;
use radialog_schemas::{ErrorCode, Failure};

use super::rows::{Row, Rows};
use super::tree::Tree;
use super::{Archive, Entries, Entry, Problem};
use crate::CoordinatorError;

const STUDY: &str = "study_id";
const IMAGE: &str = "image";
/// An id travels in every message of its study.
const LONGEST_ID: usize = 1024;

/// The archive.
pub(super) struct Manifest {
    name: String,
    tree: Arc<dyn Tree>,
    file: String,
}

struct Table {
    tree: Arc<dyn Tree>,
    rows: Rows,
    study: usize,
    image: usize,
    reference: Option<usize>,
    indication: Option<usize>,
    split: Option<usize>,
}

impl Manifest {
    pub(super) fn new(name: String, tree: Arc<dyn Tree>, file: String) -> Self {
        Self { name, tree, file }
    }
}

#[async_trait]
impl Archive for Manifest {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn Entries>, CoordinatorError> {
        let lines = self
            .tree
            .lines(&self.file)
            .await
            .map_err(|error| CoordinatorError::Input { input: self.name.clone(), reason: error.to_string() })?;
        let rows = Rows::open(lines, self.name.clone(), &[STUDY, IMAGE]).await?;
        let column = |name| rows.column(name);
        Ok(Box::new(Table {
            tree: self.tree.clone(),
            study: column(STUDY).unwrap_or_default(),
            image: column(IMAGE).unwrap_or_default(),
            reference: column("reference"),
            indication: column("indication"),
            split: column("split"),
            rows,
        }))
    }
}

#[async_trait]
impl Entries for Table {
    async fn next(&mut self) -> Option<Result<Entry, Problem>> {
        let row = self.rows.next().await?;
        Some(row.and_then(|row| self.entry(row)))
    }
}

impl Table {
    fn entry(&self, row: Row) -> Result<Entry, Problem> {
        let cell = |column: usize| row.fields.get(column).map_or("", |field| field.trim());
        let optional = |column: Option<usize>| column.map(cell).filter(|cell| !cell.is_empty()).map(str::to_owned);
        let (study, file) = (cell(self.study), cell(self.image));
        if study.is_empty() {
            return Err(Problem::new(row.place, ErrorCode::ArchiveEntry, format!("the row has no {STUDY}")));
        }
        if study.len() > LONGEST_ID {
            let message = format!("the {STUDY} is longer than {LONGEST_ID} bytes");
            return Err(Problem::new(row.place, ErrorCode::ArchiveEntry, message));
        }
        let unusable = |reason: String| Err(Failure::new(ErrorCode::ArchiveEntry, format!("{}: {reason}", row.place)));
        let (fields, columns) = (row.fields.len(), self.rows.width());
        let image = if fields != columns {
            unusable(format!("the row has {fields} fields, the header {columns}"))
        } else if file.is_empty() {
            unusable(format!("the row has no {IMAGE}"))
        } else {
            self.tree.image(file)
        };
        Ok(Entry {
            reference: optional(self.reference),
            indication: optional(self.indication),
            split: optional(self.split),
            place: row.place.clone(),
            ..Entry::new(study, file, image)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{ImageSource, Input, open};
    use super::*;

    async fn read(text: &str) -> Vec<Result<Entry, Problem>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.csv");
        std::fs::write(&path, text).unwrap();
        let archive = open(&Input::Path(path)).await.unwrap();
        let mut entries = archive.entries().await.unwrap();
        let mut all = Vec::new();
        while let Some(entry) = entries.next().await {
            all.push(entry);
        }
        all
    }

    #[tokio::test]
    async fn a_row_becomes_a_study_with_its_image_beside_the_manifest() {
        let all =
            read("split,study_id,image,reference,other\ntest,s1,png/1.png,\"Clear, lungs.\",x\n,s2,2.png,,\n").await;
        let first = all[0].as_ref().unwrap();
        assert_eq!((first.study.as_str(), first.file.as_str()), ("s1", "png/1.png"));
        assert_eq!(first.reference.as_deref(), Some("Clear, lungs."));
        assert_eq!(first.split.as_deref(), Some("test"));
        assert!(matches!(first.image.as_ref().unwrap(), ImageSource::File(path) if path.ends_with("png/1.png")));
        let second = all[1].as_ref().unwrap();
        assert_eq!((&second.reference, &second.split), (&None, &None));
    }

    #[tokio::test]
    async fn rows_that_cannot_be_used_are_named_with_their_line() {
        let all = read("study_id,image\n,1.png\ns2,\ns3\ns4,4.png,extra\ns5,5.png\n").await;
        assert!(all[0].as_ref().unwrap_err().to_string().contains("list.csv line 2"), "{all:?}");
        for (index, line) in [(1, 3), (2, 4), (3, 5)] {
            let failure = all[index].as_ref().unwrap().image.as_ref().unwrap_err();
            assert_eq!(failure.code, ErrorCode::ArchiveEntry);
            assert!(failure.message.contains(&format!("list.csv line {line}: ")), "{failure}");
        }
        assert!(all[4].as_ref().unwrap().image.is_ok());
    }
}
