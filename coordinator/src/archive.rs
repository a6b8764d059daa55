//! An archive as a stream of studies. Kinds are told apart by what is there; every kind works on a folder and on an
//! object store. What is wrong with one entry is named and the stream goes on.

mod entries;
mod folder;
mod image;
mod manifest;
mod mimic;
mod objects;
mod open;
mod rows;
mod texts;
mod tree;

pub use entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
pub use image::{ImageReadError, ImageSource};
pub use open::{ArchiveLocation, open, open_image_table};
pub use texts::{PromptList, ReportTable};
