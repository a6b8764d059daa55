//! The data sets of the language model, from reports with labels: report generation (RG), instructions (INS), dialogs.

pub(crate) mod composed;
pub(crate) mod dialogs;
pub(crate) mod instruct;
pub(crate) mod labelled_reports;
pub(crate) mod reports;
mod selection;
pub(crate) mod tasks;
