//! Texts instead of images: a table of reports to label, and a list of prompts to answer.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::table::{Row, split_name};
use radialog_schemas::{GeneratedReport, TextPrompt};
use tracing::warn;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use super::file_place::OutsideFiles;
use super::file_tree::FileTree;
use super::gzip;
use super::image::ImageSource;
use super::manifest::{DICOM, IMAGE_FOLDER, LONGEST_ID, SPLIT, STUDY};
use super::open::{ArchiveLocation, TableFile};
use super::table_rows::{TableRows, unread};
use crate::CoordinatorError;

/// An archive of reports: a CSV with a text in each row, and `dicom_id` or `study_id`; perhaps `split`. Rows without text are
/// not part of it, nor are those that say the report of an id again, as tables with a row for each image of a study do. A row
/// of a table without a column `study_id` may begin with its row's name, for which the header has none, as pandas writes it. A
/// pass keeps sixteen bytes of each id, to know a repeated one.
pub struct ReportTable {
    name: String,
    tree: Arc<dyn FileTree>,
    file: String,
    text: String,
    split: Option<String>,
}

/// The entries of a [`ReportTable`].
struct ReportEntries {
    rows: TableRows,
    id: usize,
    text: usize,
    split: Option<(usize, String)>,
    /// The number of cells in front of those that the header names; of a table that names its studies, none.
    shift: usize,
    /// Rows that were passed over since they have no text.
    blank: u64,
    /// The digest of the text of each id, by that of the id.
    seen: HashMap<u64, u64>,
    /// Rows that were passed over since they say the report of an id again.
    repeated: u64,
}

/// An archive of prompts in memory, each with its id.
pub struct PromptList {
    name: String,
    prompts: Arc<Vec<(String, TextPrompt)>>,
}

/// The entries of a [`PromptList`].
struct PromptEntries {
    prompts: Arc<Vec<(String, TextPrompt)>>,
    next: usize,
}

impl ReportTable {
    /// Opens a table; `text` is the column of the texts.
    ///
    /// # Errors
    /// When it is not there, is no CSV, or lacks a column.
    pub async fn open(
        input: &ArchiveLocation,
        text: &str,
        split: Option<&str>,
    ) -> Result<Self, CoordinatorError> {
        let TableFile { name, tree, file } = TableFile::of(input, OutsideFiles::Refused).await?;
        let split = split.map(str::to_owned);
        let table = Self {
            name,
            tree,
            file,
            text: text.to_owned(),
            split,
        };
        let pass = table.pass().await?;
        // A sectioned table is known to be written so.
        if pass.shift > 0 && pass.rows.column(IMAGE_FOLDER)?.is_none() {
            warn!(
                table = %table.name,
                "all rows have one field more than the header; the first is taken for the row's name. If texts have commas, put \
                 them in quotation marks; if the first field is the id, name it in the header"
            );
        }
        Ok(table)
    }

    /// Counts the rows that have no text, and those that say the report of an id again.
    ///
    /// # Errors
    /// When the table cannot be read any more.
    pub async fn passed_rows(&self) -> Result<(u64, u64), CoordinatorError> {
        let mut pass = self.pass().await?;
        while pass.next().await.is_some() {}
        Ok((pass.blank, pass.repeated))
    }

    async fn pass(&self) -> Result<ReportEntries, CoordinatorError> {
        let lines = gzip::lines(&*self.tree, &self.file).await;
        let lines = lines.map_err(|error| unread(&self.name, &error, error.to_string()))?;
        let mut required = vec![self.text.as_str()];
        required.extend(self.split.as_ref().map(|_| SPLIT));
        let mut rows = TableRows::open(lines, self.tree.name(&self.file), &required).await?;
        let id = match rows.column(DICOM)? {
            Some(id) => Some(id),
            None => rows.column(STUDY)?,
        };
        let Some(id) = id else {
            let name = self.tree.name(&self.file);
            return Err(CoordinatorError::NoTable {
                file: name,
                reason: format!("it has neither {DICOM} nor {STUDY}"),
            });
        };
        let split = match &self.split {
            Some(split) => Some((rows.required(SPLIT)?, split.clone())),
            None => None,
        };
        let shift = match rows.column(STUDY)? {
            Some(_) => 0,
            None => rows.unnamed_cells().await,
        };
        Ok(ReportEntries {
            id,
            text: rows.required(&self.text)?,
            split,
            shift,
            rows,
            blank: 0,
            seen: HashMap::new(),
            repeated: 0,
        })
    }
}

#[async_trait]
impl Archive for ReportTable {
    fn name(&self) -> String {
        let split = self
            .split
            .as_ref()
            .map_or_else(String::new, |split| format!(" ({split})"));
        format!("{}, column {}{split}", self.name, self.text)
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(self.pass().await?))
    }
}

#[async_trait]
impl StudyEntries for ReportEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        loop {
            let row = match self.rows.next().await? {
                Ok(row) => row,
                Err(problem) => return Some(Err(problem)),
            };
            if let Some(entry) = self.entry(&row) {
                return Some(entry);
            }
        }
    }
}

impl ReportEntries {
    /// Makes the study of a row; `None` where the row is not part of the archive.
    fn entry(&mut self, row: &Row) -> Option<Result<StudyEntry, EntryProblem>> {
        let shift = self.shift;
        if let Err(problem) = self.rows.check_width(row, shift) {
            return Some(Err(problem));
        }
        let cell = |column: usize| row.cell(column + shift);
        if let Some((column, wanted)) = &self.split
            && cell(*column).map(split_name) != Some(split_name(wanted))
        {
            return None;
        }
        let Some(text) = cell(self.text) else {
            self.blank += 1;
            return None;
        };
        let Some(id) = cell(self.id).filter(|id| id.len() <= LONGEST_ID) else {
            let message = format!("the row has no id, or one longer than {LONGEST_ID} bytes");
            let problem = self.rows.unreadable(row.line, message);
            return Some(Err(problem.without_id()));
        };
        let hasher = self.seen.hasher();
        let (of_id, of_text) = (hasher.hash_one(id), hasher.hash_one(text));
        match self.seen.get(&of_id) {
            Some(&seen) if seen == of_text => {
                self.repeated += 1;
                return None;
            }
            // Another report under the same id: the run lists it.
            Some(_) => {}
            None => {
                self.seen.insert(of_id, of_text);
            }
        }
        let report = GeneratedReport {
            text: text.to_owned(),
            prompt_tokens: 0,
            tokens: 0,
            complete: true,
            consistency: None,
        };
        Some(Ok(StudyEntry {
            place: self.rows.place(row.line),
            ..StudyEntry::new(id, id, Ok(inline(&report)))
        }))
    }
}

impl PromptList {
    /// Makes an archive of these prompts. `name` must say where they come from: a run is only resumed over the same archive.
    pub fn new(name: String, prompts: Vec<(String, TextPrompt)>) -> Self {
        Self {
            name,
            prompts: Arc::new(prompts),
        }
    }
}

#[async_trait]
impl Archive for PromptList {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(PromptEntries {
            prompts: self.prompts.clone(),
            next: 0,
        }))
    }

    async fn count(&self) -> Result<u64, CoordinatorError> {
        Ok(self.prompts.len() as u64)
    }
}

#[async_trait]
impl StudyEntries for PromptEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        let (id, prompt) = self.prompts.get(self.next)?;
        self.next += 1;
        Some(Ok(StudyEntry::new(id, id, Ok(inline(prompt)))))
    }
}

fn inline(text: &impl serde::Serialize) -> ImageSource {
    let content = serde_json::to_vec(text).expect("texts have string keys only");
    ImageSource::Inline(Bytes::from(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, split: Option<&str>) -> (Vec<Result<String, String>>, (u64, u64)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        std::fs::write(&path, text).unwrap();
        let table = ReportTable::open(&ArchiveLocation::Path(path), "findings", split)
            .await
            .unwrap();
        let mut entries = table.entries().await.unwrap();
        let mut all = Vec::new();
        while let Some(entry) = entries.next().await {
            all.push(match entry {
                Ok(entry) => {
                    let ImageSource::Inline(content) = entry.image.unwrap() else {
                        panic!("texts are inline")
                    };
                    let report: GeneratedReport = serde_json::from_slice(&content).unwrap();
                    Ok(format!("{}: {}", entry.study, report.text))
                }
                Err(problem) => Err(problem.to_string()),
            });
        }
        (all, table.passed_rows().await.unwrap())
    }

    #[tokio::test]
    async fn rows_become_texts_and_those_without_text_are_counted() {
        let text = "study_id,split,findings\ns1,train,\" Clear,\n lungs. \"\ns2,test,Edema.\ns3,train, \ns4,train,nan\n,train,x\n";
        let (all, passed) = read(text, Some("train")).await;
        assert_eq!(all[0], Ok("s1: Clear,\n lungs.".to_owned()));
        assert!(
            all[1]
                .as_ref()
                .unwrap_err()
                .contains("line 7: archive_unreadable: ")
                && all.len() == 2,
            "{all:?}"
        );
        assert_eq!(passed, (2, 0));
    }

    #[tokio::test]
    async fn a_report_that_is_said_again_for_another_image_is_one_text_and_another_report_is_not() {
        let text = "study_id,image,findings\ns1,a.jpg,Clear.\ns1,b.jpg,Clear.\ns2,c.jpg,Clear.\ns1,d.jpg,Edema.\n";
        let (all, passed) = read(text, None).await;
        let expected = ["s1: Clear.", "s2: Clear.", "s1: Edema."];
        assert_eq!(all, expected.map(|text| Ok(text.to_owned())));
        assert_eq!(passed, (0, 1));
    }

    #[tokio::test]
    async fn a_sectioned_table_has_one_field_more_than_names() {
        let (all, _) = read(
            "impression,findings,dicom_id\r\ns1,i,Clear.,d1\r\ns2,i\r\n",
            None,
        )
        .await;
        assert_eq!(all[0], Ok("d1: Clear.".to_owned()));
        assert!(
            all[1]
                .as_ref()
                .unwrap_err()
                .contains("2 fields; rows of this table have 4"),
            "{all:?}"
        );
    }

    #[tokio::test]
    async fn a_stray_comma_makes_no_text_under_another_id() {
        for text in [
            "study_id,findings\ns1,No edema, no effusion\ns2,Clear.\n",
            "dicom_id,findings\ns2,Clear.\ns1,No edema, no effusion\n",
            "dicom_id,findings\ns1,No edema, no effusion\ns2,Clear.\n",
        ] {
            let (mut all, _) = read(text, None).await;
            all.sort();
            assert_eq!(all[0], Ok("s2: Clear.".to_owned()), "{all:?}");
            let problem = all[1].as_ref().unwrap_err();
            assert!(
                problem.contains("archive_unreadable")
                    && problem.contains("3 fields; rows of this table have 2"),
                "{problem}"
            );
        }
    }

    #[tokio::test]
    async fn one_whole_row_says_that_others_have_stray_commas_however_many() {
        let text = "dicom_id,findings\ns1,No edema, no effusion\ns2,Clear, fine\ns3,Clear.\ns4,Edema, mild\n";
        let (all, _) = read(text, None).await;
        let (read, named): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        assert_eq!(read, [Ok("s3: Clear.".to_owned())]);
        let named: Vec<_> = named.into_iter().filter_map(Result::err).collect();
        for (line, problem) in [2, 3, 5].into_iter().zip(&named) {
            assert!(
                problem.contains(&format!("line {line}: "))
                    && problem.contains("archive_unreadable"),
                "{problem}"
            );
        }
        assert_eq!(named.len(), 3, "{named:?}");
    }
}
