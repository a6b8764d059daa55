//! An archive as a stream of studies. Kinds are told apart by what is there; every kind works on a folder and on an
//! object store. What is wrong with one entry is named and the stream goes on.

mod entries;
mod file_place;
mod file_tree;
mod folder;
mod gzip;
mod image;
mod manifest;
mod mimic_cxr;
mod object_tree;
mod one_split;
mod one_study;
mod open;
mod table_rows;
mod texts;

pub use entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
pub use file_place::{FilePlace, OutsideFiles};
pub use image::{ImageReadError, ImageSource};
pub use manifest::SplitOfTable;
pub use one_split::OneSplit;
pub use one_study::OneStudy;
pub use open::{ArchiveLocation, open, open_image_table, open_with};
pub use texts::{PromptList, ReportTable};
