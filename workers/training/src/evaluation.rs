//! Scores: of labels and predictions, of texts, and of a whole bundle beside trivial baselines.

pub mod bootstrap;
pub mod calibration;
pub mod classification;
pub mod clinical;
pub mod comparisons;
pub mod consistency;
pub mod corpus;
pub mod counted_texts;
pub mod follow_ups;
mod id_digest;
pub mod label_source;
pub mod number_rows;
pub mod original_files;
pub mod patients;
pub mod quality;
pub mod radgraph;
pub mod report_files;
pub mod report_scores;
pub mod severity;
pub mod stored_rows;
pub mod study_answers;
pub(crate) mod subgroups;
pub mod summed_rows;
pub mod text_file;
pub mod text_rows;
pub mod text_scores;
pub mod words;
