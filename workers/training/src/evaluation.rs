//! Scores: of labels and predictions, of texts, and of a whole bundle beside trivial baselines.

pub mod classification;
pub mod clinical;
pub mod comparisons;
pub mod consistency;
pub mod follow_ups;
pub mod quality;
pub mod radgraph;
pub mod severity;
pub mod text_rows;
pub mod text_scores;
pub mod words;
