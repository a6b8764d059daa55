//! From the published archives to the data sets that the trainings read: sectioned reports, labels, the report-generation
//! (RG) and the instruction (INS) data set.

mod answers;
mod dialogs;
mod export;
mod instruct;
mod json_list;
mod labels;
mod mimic_nle;
mod nih;
mod open_i;
mod pairs;
mod pickle;
mod predictions;
mod report_files;
mod report_table;
mod report_tasks;
mod reports;
mod sectioned;
mod selection;
mod split;
mod table;
mod task_prompts;
mod tensor_file;
mod tokenizer;
mod weak_labels;

pub use answers::{
    ANSWER_TOKENS, PredictedReport, Question, answer, corrections, questions, write_task_file,
};
pub use dialogs::Dialogs;
pub use export::{Sectioning, SectioningSummary};
pub use instruct::{Instruct, InstructSummary, TaskFile, TaskSample};
pub(crate) use labels::value as label_value;
pub use labels::{LabelFile, LabelTable, LabelValue};
pub use nih::{ImageRow, NihImages, read_nih, write_image_table};
pub use open_i::{Agreement, OpenI, OpenIReports, RemovedWords};
pub use pairs::{Pairing, PairingSummary};
pub use pickle::import_embeddings;
pub use predictions::{PredictionFile, read_predictions};
pub(crate) use report_table::Table;
pub use report_table::{
    PAIR_COLUMNS, REPORT_COLUMNS, ReportRow, read_report_table, write_pairs_table,
    write_report_table,
};
pub use report_tasks::ReportTasks;
pub use reports::{Coverage, ReportSample, report_samples, write_reports};
pub use sectioned::{HEADER, SectionedReader, SectionedRow};
pub use table::{Sample, SplitTable, report_table_samples, samples};
pub use task_prompts::{Task, TaskPrompts};
pub use tensor_file::{TensorNames, TensorRows};
pub use tokenizer::{Vocabulary, VocabularyKind};
pub use weak_labels::{Mention, WeakRule, summary};
