//! From the published archives to the data sets that the trainings read. `sources` reads what publishers give,
//! `tables` has the CSV and JSON tables that lie between the steps, `datasets` makes what the language model learns from,
//! and `formats` writes and reads the files that are no tables.

mod datasets;
mod formats;
mod pairing;
pub mod sections;
mod sources;
mod synthetic;
mod tables;
mod tokenizer;
mod weak_labels;

pub use datasets::composed::{ComposedDataset, ComposedSummary};
pub use datasets::dialogs::{DialogDataset, DialogSummary};
pub use datasets::instruct::{InstructDataset, InstructSummary, TaskFile};
pub use datasets::labelled_reports::{
    LabelledReport, SelectedReports, report_table_samples, samples,
};
pub use datasets::reports::{
    Coverage, ReportSample, report_samples, selection_words, write_reports,
};
pub use datasets::tasks::answers::{
    ANSWER_TOKENS, AnswerRequest, PredictedReport, answer, corrections, questions, write_task_file,
};
pub use datasets::tasks::from_reports::ReportTasks;
pub use datasets::tasks::prompts::TaskPrompts;
pub use datasets::tasks::{InstructTask, TaskSample};
pub use formats::stored_embeddings::import_embeddings;
pub use formats::tensor_file::{TensorFileData, TensorFileHeader, tensors_made_by};
pub use pairing::{Pairing, PairingSummary};
pub use sources::mimic_cxr::{Sectioning, SectioningSummary};
pub(crate) use sources::nih::class as nih_class;
pub use sources::nih::{NihImages, read_nih};
pub use sources::open_i::{OpenI, OpenIReports, RemovedWords, TagAgreement};
pub use sources::radlabels::read_radlabels;
pub use synthetic::SyntheticReports;
pub use tables::csv_output::CsvOutput;
pub use tables::finding_labels::FindingLabels;
pub use tables::image_table::{ImageRow, write_image_table};
pub use tables::label_table::{LabelKey, LabelTable, LabelTableWriter};
pub use tables::predictions::{PredictionsWriter, read_predictions};
pub(crate) use tables::report_table::write as write_table;
pub use tables::report_table::{
    PAIR_COLUMNS, REPORT_COLUMNS, ReportRow, read_report_table, write_pairs_table,
    write_report_table,
};
pub use tables::sectioned_reports::{SECTIONED_COLUMNS, SectionedReader, SectionedRow};
pub use tables::split_table::SplitTable;
pub(crate) use tables::table_file::{TableFile, text as text_cell};
pub use tokenizer::{TokenizerKind, TokenizerTrainer};
pub use weak_labels::{Mention, WeakLabeler, summary};
