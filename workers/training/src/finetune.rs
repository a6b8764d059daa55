//! Fine-tuning from one table: what a user has (images, reports, labels, in columns of any name) becomes the tables, data sets and
//! recipes of the trainings that are there, and what came of them is measured on patients who were held out.
//!
//! [`table`] reads and checks the table, [`sides`] divides patients, [`data_sets`] writes what trainings read, [`plan`] makes recipes
//! that fit the size. The trainings, evaluations and the assembly are those of everybody else.

pub mod cells;
pub mod columns;
pub mod data_sets;
mod mistaken;
pub mod plan;
pub mod sides;
pub mod table;

pub use columns::ColumnNames;
pub use data_sets::{DataSets, Labelled};
pub use plan::{Plan, TrainedPart};
pub use sides::{SideCounts, divide};
pub use table::{FinetuneRow, FinetuneTable};

pub use crate::evaluation::classification::FEW;
