//! The tables that lie between the steps of a preparation, each with its reader and its writer.

pub(crate) mod csv_output;
pub(crate) mod finding_labels;
pub(crate) mod image_table;
pub(crate) mod label_table;
pub(crate) mod predictions;
pub(crate) mod report_table;
pub(crate) mod sectioned_reports;
pub(crate) mod split_table;
pub(crate) mod table_file;
