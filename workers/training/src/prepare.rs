//! From the published archives to the data sets that the trainings read: sectioned reports, labels, the report-generation
//! (RG) and the instruction (INS) data set.

mod answers;
mod export;
mod instruct;
mod json_list;
mod labels;
mod mimic_nle;
mod pickle;
mod predictions;
mod reports;
mod sectioned;
mod selection;
mod table;
mod task_prompts;
mod tensor_file;

pub use answers::{ANSWER_TOKENS, PredictedReport, Question, answer, corrections, questions, write_task_file};
pub use export::{Sectioning, SectioningSummary};
pub use instruct::{Instruct, InstructSummary, TaskFile, TaskSample};
pub(crate) use labels::value as label_value;
pub use labels::{LabelFile, LabelTable, LabelValue};
pub use pickle::{StoredArrays, import_embeddings};
pub use predictions::{PredictionFile, read_predictions};
pub use reports::{ReportSample, report_samples, write_reports};
pub use sectioned::{HEADER, SectionedReader, SectionedRow};
pub use table::{Sample, SplitTable, samples};
pub use task_prompts::{Task, TaskPrompts};
pub use tensor_file::{TensorNames, TensorRows};
