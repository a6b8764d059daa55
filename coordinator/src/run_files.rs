//! The files by which the results of a run are known, to those who write them and to those who come by them in an archive.

/// The name of the file that says what the run is.
pub const RUN_FILE: &str = "run.json";
/// The name of the file that has a line for each study.
pub const RESULTS_FILE: &str = "results.jsonl";
