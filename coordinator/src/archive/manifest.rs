//! A CSV manifest: `study_id` and `image` (relative to the manifest), and where there are any `reference` (the
//! radiologist's text), `indication` and `split`. Further columns are ignored. The image tables that trainings read are
//! manifests, too, with other ids; so is the sectioned table of MIMIC-CXR, whose images have a folder and a name and whose rows
//! begin with the study, for which its header has no name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use radialog_schemas::table::{Row, cell, split_name, with_slashes};
use radialog_schemas::{ErrorCode, Failure};

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use super::file_tree::FileTree;
use super::gzip;
use super::table_rows::{TableRows, unread};
use crate::CoordinatorError;

pub(super) const STUDY: &str = "study_id";
pub(super) const DICOM: &str = "dicom_id";
const IMAGE: &str = "image";
/// The columns of an image in a sectioned table.
pub(super) const IMAGE_FOLDER: &str = "Img_Folder";
const IMAGE_NAME: &str = "Img_Filename";
pub(super) const SPLIT: &str = "split";
/// An id travels in every message of its study.
pub(super) const LONGEST_ID: usize = 1024;

/// An archive whose studies are the rows of a table.
pub(super) struct ManifestArchive {
    pub(super) name: String,
    pub(super) tree: Arc<dyn FileTree>,
    pub(super) file: String,
    /// The tree that holds the images.
    pub(super) images: Arc<dyn FileTree>,
    /// The rows that alone are read.
    pub(super) split: Option<SplitOfTable>,
    pub(super) ids: StudyIdColumn,
}

/// The rows of a table that are read: those of one split, by the table's own column or by another table's.
#[derive(Clone, Debug, Default)]
pub struct SplitOfTable {
    /// The split, by any of its names.
    pub name: String,
    /// The split and the table that tells it, in words that another table changes: part of the archive's name.
    pub description: String,
    /// The split of each image by its id, where another table tells it; an image that it does not have is of none.
    pub of_images: Option<Arc<HashMap<String, String>>>,
}

/// Where a row names its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImageColumns {
    /// In one column.
    File(usize),
    /// In two, as folder and name, in a sectioned table.
    Sectioned { folder: usize, name: usize },
}

/// The columns that name a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StudyIdColumn {
    /// The column `study_id`.
    Studies,
    /// The column `dicom_id`, else `study_id`, else the image's name without folder and suffix.
    Images,
}

struct ManifestEntries {
    images: Arc<dyn FileTree>,
    rows: TableRows,
    /// The column of the study's id; where it is none, the image's name is the id.
    study: Option<usize>,
    image: ImageColumns,
    /// Whether rows begin with a cell for which the header has no name: in the original's sectioned table, the study.
    is_unnamed: bool,
    wanted_split: Option<SplitOfTable>,
    reference: Option<usize>,
    indication: Option<usize>,
    split: Option<usize>,
}

#[async_trait]
impl Archive for ManifestArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        let lines = gzip::lines(&*self.tree, &self.file)
            .await
            .map_err(|error| unread(&self.name, &error, error.to_string()))?;
        let mut required = Vec::new();
        required.extend((self.ids == StudyIdColumn::Studies).then_some(STUDY));
        let by_column = |split: &&SplitOfTable| split.of_images.is_none();
        required.extend(self.split.as_ref().filter(by_column).map(|_| SPLIT));
        let rows = TableRows::open(lines, self.tree.name(&self.file), &required).await?;
        let (mut entries, may_be_unnamed) = self.entries_of(rows)?;
        entries.is_unnamed = may_be_unnamed && entries.rows.unnamed_cells().await > 0;
        Ok(Box::new(entries))
    }
}

impl ManifestArchive {
    /// The entries of these rows, and whether the column of the studies may be one without a name.
    fn entries_of(&self, rows: TableRows) -> Result<(ManifestEntries, bool), CoordinatorError> {
        let column = |name| rows.column(name);
        let of_images = |name| match self.ids {
            StudyIdColumn::Images => column(name),
            StudyIdColumn::Studies => Ok(None),
        };
        let sectioned = of_images(IMAGE_FOLDER)?.zip(of_images(IMAGE_NAME)?);
        let sectioned = sectioned.map(|(folder, name)| ImageColumns::Sectioned { folder, name });
        let image = match (column(IMAGE)?, sectioned) {
            (Some(image), _) => ImageColumns::File(image),
            (None, Some(sectioned)) => sectioned,
            (None, None) => ImageColumns::File(rows.required(IMAGE)?),
        };
        let is_sectioned = matches!(image, ImageColumns::Sectioned { .. });
        let may_be_unnamed = is_sectioned && column(STUDY)?.is_none();
        let study = match (self.ids, of_images(DICOM)?) {
            (StudyIdColumn::Images, Some(image)) => Some(image),
            _ => column(STUDY)?,
        };
        let (reference, indication) = (column("reference")?, column("indication")?);
        let split = column(SPLIT)?;
        let entries = ManifestEntries {
            is_unnamed: false,
            images: self.images.clone(),
            study,
            wanted_split: self.split.clone(),
            image,
            reference,
            indication,
            split,
            rows,
        };
        Ok((entries, may_be_unnamed))
    }
}

#[async_trait]
impl StudyEntries for ManifestEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        loop {
            let mut row = match self.rows.next().await? {
                Ok(row) => row,
                Err(problem) => return Some(Err(problem)),
            };
            if self.is_unnamed {
                if let Err(problem) = self.rows.check_width(&row, 1) {
                    return Some(Err(problem));
                }
                row.cells.remove(0);
            }
            if !self.is_readable(&row) || self.is_wanted(&row) {
                return Some(self.entry(&row));
            }
        }
    }
}

impl ManifestEntries {
    /// Whether the row can say of which split it is. Cells that are too many or too few stand under other columns' names.
    fn is_readable(&self, row: &Row) -> bool {
        let of_images = |split: &SplitOfTable| split.of_images.is_some();
        let needs_id = self.wanted_split.as_ref().is_some_and(of_images);
        let has_id = || self.id(row, self.file(row).as_deref()).is_some();
        row.cells.len() == self.rows.width() && (!needs_id || has_id())
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let Some(wanted) = &self.wanted_split else {
            return true;
        };
        let of_row = match &wanted.of_images {
            None => self.split.and_then(|column| row.cell(column)),
            Some(images) => {
                let file = self.file(row);
                let id = self.id(row, file.as_deref());
                id.and_then(|id| images.get(id)).map(String::as_str)
            }
        };
        of_row.map(split_name) == Some(split_name(&wanted.name))
    }

    /// The file of a row's image, below the folder of the images.
    fn file<'a>(&self, row: &'a Row) -> Option<Cow<'a, str>> {
        match self.image {
            ImageColumns::File(column) => row.cell(column).map(with_slashes),
            ImageColumns::Sectioned { folder, name } => {
                let (folder, name) = (row.cell(folder)?, row.cell(name)?);
                Some(Cow::Owned(format!("{folder}/{name}")))
            }
        }
    }

    fn id<'a>(&self, row: &'a Row, file: Option<&'a str>) -> Option<&'a str> {
        match self.study {
            Some(column) => row.cell(column),
            None => file.map(stem),
        }
        .filter(|id| !id.is_empty())
    }

    /// Whether the id stands in front of all others, where a cell too many or too few does not move it.
    fn id_is_first(&self) -> bool {
        match (self.study, self.image) {
            (Some(column), _) | (None, ImageColumns::File(column)) => column == 0,
            (None, ImageColumns::Sectioned { .. }) => false,
        }
    }

    fn entry(&self, row: &Row) -> Result<StudyEntry, EntryProblem> {
        let optional = |column: Option<usize>| row.cell(column?).map(str::to_owned);
        let file = self.file(row);
        let Some(study) = self.id(row, file.as_deref()) else {
            let message = "the row has no id: fill in its study_id or dicom_id";
            let is_about_nothing = row.cells.iter().all(|text| cell(text).is_none());
            let is_whole = row.cells.len() == self.rows.width();
            return Err(match is_about_nothing || (is_whole && file.is_none()) {
                true => self.rows.problem(row.line, message),
                false if is_whole => self.rows.unreadable(row.line, message).without_id(),
                // An image is lost, or its cells stand under other columns' names: what it is about, nobody can say.
                false => self.rows.unreadable(row.line, message),
            });
        };
        let (cells, columns) = (row.cells.len(), self.rows.width());
        if cells != columns && !self.id_is_first() {
            let message = format!(
                "the row has {cells} fields, the header {columns}, so that nobody can say which study it is"
            );
            return Err(self.rows.unreadable(row.line, message));
        }
        if study.len() > LONGEST_ID {
            let message =
                format!("its id is longer than {LONGEST_ID} bytes: give it a shorter one");
            let problem = self.rows.unreadable(row.line, message);
            return Err(match cells == columns {
                true => problem.without_id(),
                false => problem,
            });
        }
        let place = self.rows.place(row.line);
        let unusable = |reason: String| {
            let message = format!("{place}: {reason}");
            Err(Failure::new(ErrorCode::ArchiveEntry, message))
        };
        let image = match file {
            _ if cells != columns => {
                unusable(format!("the row has {cells} fields, the header {columns}"))
            }
            None => unusable(format!("the row has no {IMAGE}")),
            Some(ref file) => self.images.image(file),
        };
        Ok(StudyEntry {
            reference: optional(self.reference),
            indication: optional(self.indication),
            split: optional(self.split),
            place,
            ..StudyEntry::new(study, file.as_deref().unwrap_or_default(), image)
        })
    }
}

/// Takes the name without folder and suffix: `a/b.png` is `b`.
fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::super::image::ImageSource;
    use super::super::open::{ArchiveLocation, open};
    use super::*;

    async fn read(text: &str) -> Vec<Result<StudyEntry, EntryProblem>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.csv");
        std::fs::write(&path, text).unwrap();
        let archive = open(&ArchiveLocation::Path(path)).await.unwrap();
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
        assert_eq!(
            (first.study.as_str(), first.file.as_str()),
            ("s1", "png/1.png")
        );
        assert_eq!(first.reference.as_deref(), Some("Clear, lungs."));
        assert_eq!(first.split.as_deref(), Some("test"));
        assert!(
            matches!(first.image.as_ref().unwrap(), ImageSource::File(place) if place.path().ends_with("png/1.png"))
        );
        let second = all[1].as_ref().unwrap();
        assert_eq!((&second.reference, &second.split), (&None, &None));
    }

    /// What an image table gives, as a training reads it, with the id and the file of each row.
    async fn images(text: &str, split: Option<SplitOfTable>) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sectioned.csv");
        std::fs::write(&path, text).unwrap();
        let location = ArchiveLocation::Path(path);
        let outside = super::super::OutsideFiles::Refused;
        let archive = super::super::open_image_table(&location, None, split, outside).await;
        let mut entries = archive.unwrap().entries().await.unwrap();
        let mut all = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = entry.unwrap();
            assert!(entry.image.is_ok(), "{entry:?}");
            all.push((entry.study.to_string(), entry.file));
        }
        all
    }

    #[tokio::test]
    async fn a_sectioned_table_names_images_by_folder_and_name_and_splits_by_another_table() {
        let header = "impression,findings,last_paragraph,comparison,dicom_id,Img_Filename,Img_Folder,Note_file\n";
        let row = |study: &str, dicom: &str| {
            format!("{study},i,\"f, f\",,,{dicom},{dicom}.jpg,files/p10/p1/{study},{study}.txt\n")
        };
        let rows = [row("s1", "d1"), row("s1", "d2"), row("s2", "d3")].concat();
        let as_written = format!("{header}{rows}");
        let expected = |dicom: &str, study: &str| {
            let file = format!("files/p10/p1/{study}/{dicom}.jpg");
            (dicom.to_owned(), file)
        };
        let all = [
            expected("d1", "s1"),
            expected("d2", "s1"),
            expected("d3", "s2"),
        ];
        assert_eq!(images(&as_written, None).await, all);
        assert_eq!(
            images(&format!("study_id,{as_written}"), None).await,
            all,
            "with a name for the study"
        );
        let sides = [("d1", "train"), ("d3", "validate")];
        let sides = sides.map(|(image, side)| (image.to_owned(), side.to_owned()));
        let split = SplitOfTable {
            name: "val".to_owned(),
            description: "val".to_owned(),
            of_images: Some(Arc::new(sides.into())),
        };
        assert_eq!(images(&as_written, Some(split)).await, all[2..]);
    }

    #[tokio::test]
    async fn rows_of_a_sectioned_table_are_read_by_one_rule() {
        let header = "findings,dicom_id,Img_Filename,Img_Folder\n";
        let text = |rows: &[&str]| format!("{header}{}\n", rows.join("\n"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sectioned.csv");
        for (rows, expected, lines) in [
            // Rows begin with the study; one is cut.
            (
                ["s1,clear,d1,d1.jpg,f", "s2,clear,d2", "s3,,d3,d3.jpg,f"],
                &["f/d1.jpg", "f/d3.jpg"][..],
                &[3][..],
            ),
            // They do not; some have a stray comma, the first of all among them.
            (
                [
                    "No edema, clear,d1,d1.jpg,f",
                    "clear,d2,d2.jpg,f",
                    "clear, no edema,d3,d3.jpg,f",
                ],
                &["f/d2.jpg"][..],
                &[2, 4][..],
            ),
        ] {
            std::fs::write(&path, text(&rows)).unwrap();
            let location = ArchiveLocation::Path(path.clone());
            let outside = super::super::OutsideFiles::Refused;
            let archive = super::super::open_image_table(&location, None, None, outside).await;
            let mut entries = archive.unwrap().entries().await.unwrap();
            let (mut files, mut problems) = (Vec::new(), Vec::new());
            while let Some(entry) = entries.next().await {
                match entry {
                    Ok(entry) => files.push(entry.file),
                    Err(problem) => problems.push(problem),
                }
            }
            assert_eq!(files, expected);
            assert_eq!(problems.len(), lines.len(), "{problems:?}");
            for (problem, line) in problems.iter().zip(lines) {
                assert!(
                    problem.may_hide_studies() && problem.place.ends_with(&format!(" line {line}")),
                    "{problem}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_row_that_cannot_say_its_split_is_named_also_where_one_is_wanted() {
        let split = |of_images| {
            Some(SplitOfTable {
                name: "test".to_owned(),
                description: "test".to_owned(),
                of_images,
            })
        };
        let by_table: HashMap<String, String> = [("a".to_owned(), "test".to_owned())].into();
        let by_table = Some(Arc::new(by_table));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        for (text, split, named) in [
            (
                "image,split\na.jpg,test\nb.jpg,x,test\nc.jpg\nd.jpg,train\n",
                split(None),
                vec![3, 4],
            ),
            (
                "dicom_id,image\na,a.jpg\n,b.jpg\nc,c.jpg\n",
                split(by_table),
                vec![3],
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let location = ArchiveLocation::Path(path.clone());
            let outside = super::super::OutsideFiles::Refused;
            let archive = super::super::open_image_table(&location, None, split, outside).await;
            let mut entries = archive.unwrap().entries().await.unwrap();
            let (mut read, mut told) = (0, Vec::new());
            while let Some(entry) = entries.next().await {
                match entry {
                    Err(problem) => told.push(problem.to_string()),
                    Ok(entry) => match entry.image {
                        Err(failure) => told.push(failure.message),
                        Ok(_) => read += 1,
                    },
                }
            }
            assert_eq!((read, told.len()), (1, named.len()), "{told:?}");
            for (line, told) in named.iter().zip(&told) {
                assert!(told.contains(&format!("line {line}: ")), "{told}");
            }
        }
    }

    #[tokio::test]
    async fn a_stray_comma_in_a_sectioned_table_with_a_name_for_the_study_shifts_nothing() {
        let text =
            "study_id,findings,dicom_id,Img_Filename,Img_Folder\ns1,clear, lungs,d1,d1.jpg,files\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sectioned.csv");
        std::fs::write(&path, text).unwrap();
        let outside = super::super::OutsideFiles::Refused;
        let location = ArchiveLocation::Path(path);
        let archive = super::super::open_image_table(&location, None, None, outside).await;
        let mut entries = archive.unwrap().entries().await.unwrap();
        let problem = entries.next().await.unwrap().unwrap_err();
        assert!(
            problem.may_hide_studies()
                && problem.failure.message.contains("6 fields, the header 5"),
            "{problem}"
        );
    }

    #[tokio::test]
    async fn a_stray_comma_in_front_of_the_id_makes_no_other_study() {
        let rows = "reference,study_id,image\nClear, lungs,1,a.jpg\nClear.,2,b.jpg\n";
        let all = read(rows).await;
        let problem = all[0].as_ref().unwrap_err();
        assert!(
            problem.may_hide_studies() && problem.to_string().contains("list.csv line 2: "),
            "{problem}"
        );
        assert_eq!(all[1].as_ref().unwrap().study.as_str(), "2");
        // In front of all others the id is what it is.
        let all = read("study_id,reference,image\n1,Clear, lungs,a.jpg\n").await;
        let entry = all[0].as_ref().unwrap();
        assert_eq!(entry.study.as_str(), "1");
        assert!(entry.image.is_err());
    }

    #[tokio::test]
    async fn columns_are_found_in_any_case_and_a_cell_that_programs_leave_out_is_none() {
        let all =
            read("\u{feff}Study_ID, IMAGE ,Reference,Split\ns1,1.png,nan,\nNA,2.png,x,test\ns3,3.png,,nan\n")
                .await;
        let first = all[0].as_ref().unwrap();
        assert_eq!((first.study.as_str(), first.file.as_str()), ("s1", "1.png"));
        assert_eq!((&first.reference, &first.split), (&None, &None));
        let message = all[1].as_ref().unwrap_err().to_string();
        assert!(
            message.contains("line 3: ") && message.contains("no id"),
            "{message}"
        );
        let last = all[2].as_ref().unwrap();
        assert_eq!((&last.reference, &last.split), (&None, &None));
    }

    #[tokio::test]
    async fn folders_may_be_separated_as_on_windows() {
        let all = read("study_id,image\ns1,im\\1.jpg\ns2,..\\1.jpg\n").await;
        let first = all[0].as_ref().unwrap();
        assert_eq!(first.file, "im/1.jpg");
        assert!(first.image.is_ok());
        let second = all[1].as_ref().unwrap();
        let failure = second.image.as_ref().unwrap_err();
        assert!(
            failure.message.contains("outside of the archive"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn rows_that_cannot_be_used_are_named_with_their_line() {
        let all = read("study_id,image\n,1.png\ns2,\ns3\ns4,4.png,extra\ns5,5.png\n").await;
        assert!(
            all[0]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("list.csv line 2"),
            "{all:?}"
        );
        for (index, line) in [(1, 3), (2, 4), (3, 5)] {
            let failure = all[index].as_ref().unwrap().image.as_ref().unwrap_err();
            assert_eq!(failure.code, ErrorCode::ArchiveEntry);
            assert!(
                failure.message.contains(&format!("list.csv line {line}: ")),
                "{failure}"
            );
        }
        assert!(all[4].as_ref().unwrap().image.is_ok());
    }
}
