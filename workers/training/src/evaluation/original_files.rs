//! The files of scores that the original's test program writes, under its names and in its words, so that scripts made for it still
//! read them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use radialog_files::durable::{self, Replacement};
use radialog_schemas::Finding;

use super::follow_ups::FindingScores;
use crate::error::TrainingError;
use crate::prepare::{CsvOutput, FindingLabels};

/// The folder of predictions and labels.
const PREDICTIONS: &str = "chexbert/outputs/predictions";
/// The folder of scores.
const RESULTS: &str = "vicuna_results";

/// What a line is a score of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalScore {
    /// A score of texts, by our name.
    Text(&'static str),
    /// A score of labels, by our name.
    Labels(&'static str),
}

/// The scores of reports in the original's order: its words, and ours.
const LINES: [(&str, OriginalScore); 11] = [
    ("Avg Bleu 1", OriginalScore::Text("BLEU-1")),
    ("Avg Bleu 2", OriginalScore::Text("BLEU-2")),
    ("Avg Bleu 3", OriginalScore::Text("BLEU-3")),
    ("Avg Bleu 4", OriginalScore::Text("BLEU-4")),
    // Without its data METEOR has another name and is another score, which scripts would take for the original's.
    ("Avg Meteor", OriginalScore::Text("METEOR 1.5")),
    ("Avg Rouge", OriginalScore::Text("ROUGE-L")),
    ("Mean Chexpert F1", OriginalScore::Labels("macro F1")),
    (
        "Mean Chexpert Precision",
        OriginalScore::Labels("macro precision"),
    ),
    (
        "Mean Chexpert Recall",
        OriginalScore::Labels("macro recall"),
    ),
    ("Sample Chexpert F1", OriginalScore::Labels("sample F1")),
    ("Mean Chexpert Accuracy", OriginalScore::Labels("accuracy")),
];

/// Where the files of one run lie.
pub struct OriginalFiles {
    folder: PathBuf,
    name: String,
}

impl OriginalFiles {
    /// The files of a run of this name below a folder; `_` stands in their names for `/`, as in the original.
    pub fn of(folder: &Path, name: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name.trim_matches('/').replace('/', "_"),
        }
    }

    /// The generated texts, by the end of the name that says what was asked.
    pub fn predictions(&self, suffix: &str) -> PathBuf {
        let name = format!("predictions_{}{suffix}.csv", self.name);
        self.folder.join(PREDICTIONS).join(name)
    }

    /// What the labeler says of them.
    pub fn labels(&self, suffix: &str) -> PathBuf {
        let name = format!("labels_{}{suffix}.csv", self.name);
        self.folder.join(PREDICTIONS).join(name)
    }

    /// All files by this end of the name: texts, labels and scores.
    pub fn all(&self, suffix: &str) -> [PathBuf; 3] {
        [
            self.predictions(suffix),
            self.labels(suffix),
            self.scores(suffix),
        ]
    }

    /// Begins both files; `has_labels` says whether there is anything to write into the second.
    ///
    /// # Errors
    /// A file or its folder cannot be created.
    pub fn reports(
        &self,
        suffix: &str,
        has_labels: bool,
    ) -> Result<OriginalReports, TrainingError> {
        let path = self.predictions(suffix);
        make_folder_of(&path)?;
        let texts = Replacement::create(&path).map_err(TrainingError::io("create", &path))?;
        let names = Finding::chexbert_order().map(Finding::name);
        let names = std::iter::once("findings").chain(names);
        let labels = self.labels(suffix);
        let labels = match has_labels {
            true => Some((CsvOutput::create_as_pandas(&labels, names)?, labels)),
            false => None,
        };
        Ok(OriginalReports {
            texts: (texts, path),
            labels,
        })
    }

    /// Scores, by the end of the name that says what was asked.
    pub fn scores(&self, suffix: &str) -> PathBuf {
        let name = format!("results_{}{suffix}.txt", self.name);
        self.folder.join(RESULTS).join(name)
    }

    /// Writes scores.
    ///
    /// # Errors
    /// The file or its folder cannot be written.
    pub fn write_scores(&self, suffix: &str, lines: &str) -> Result<PathBuf, TrainingError> {
        let path = self.scores(suffix);
        make_folder_of(&path)?;
        durable::replace(&path, lines.as_bytes()).map_err(TrainingError::io("write", &path))?;
        Ok(path)
    }
}

/// The files of texts and labels in the making; they appear when they are whole.
pub struct OriginalReports {
    texts: (Replacement, PathBuf),
    labels: Option<(CsvOutput, PathBuf)>,
}

impl OriginalReports {
    /// Adds a report: its text in a line, between quotes and without any of its own, and what the labeler says of it as its own
    /// program writes that: the text, then the findings in the order of its heads.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(&mut self, text: &str, labels: &FindingLabels) -> Result<(), TrainingError> {
        let (file, path) = &mut self.texts;
        let line = format!("\"{}\"\n", text.replace('"', ""));
        let written = file.write_all(line.as_bytes());
        written.map_err(TrainingError::io("write", path))?;
        if let Some((table, _)) = &mut self.labels {
            let cells = Finding::chexbert_order().map(|of| labels[of as usize].csv_value());
            table.row(std::iter::once(text).chain(cells))?;
        }
        Ok(())
    }

    /// Finishes the files, and returns their paths.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(self) -> Result<Vec<PathBuf>, TrainingError> {
        let (file, path) = self.texts;
        file.commit().map_err(TrainingError::io("write", &path))?;
        let mut written = vec![path];
        if let Some((table, path)) = self.labels {
            table.finish()?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Makes the folder that a file will lie in.
pub(crate) fn make_folder_of(file: &Path) -> Result<(), TrainingError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(TrainingError::io("create", folder))
}

/// The lines of a report's scores: the heading, which is a prompt there, then every score that there is.
pub fn report_lines(heading: &str, value: impl Fn(OriginalScore) -> Option<f64>) -> String {
    let mut lines = format!("{heading}\n");
    for (words, score) in LINES {
        if let Some(value) = value(score) {
            line(&mut lines, words, value);
        }
    }
    lines
}

/// Whether scores are of all findings, as the original's are. Those of fewer are others, which scripts would take for the original's.
pub fn are_of_all_findings(scores: &FindingScores) -> bool {
    scores.findings == Finding::ALL.len()
}

/// A score of labels by our name; none of another name, or where it is of fewer findings than the original's.
pub fn label_score(scores: &FindingScores, name: &str) -> Option<f64> {
    let place = FindingScores::NAMES
        .iter()
        .position(|known| *known == name)?;
    are_of_all_findings(scores).then(|| scores.values()[place])
}

/// The lines of the scores of answers.
pub fn answer_lines(scores: &FindingScores) -> String {
    let mut lines = String::new();
    for (words, value) in [
        ("Mean Chexpert F1", scores.macro_f1),
        ("Mean Chexpert Precision", scores.macro_precision),
        ("Mean Chexpert Recall", scores.macro_recall),
        ("Mean Chexpert Accuracy", scores.accuracy),
        ("Mean Chexpert AUC", scores.auc),
    ] {
        line(&mut lines, words, value);
    }
    lines
}

/// As Python writes a number: a whole one with its fraction.
fn line(lines: &mut String, name: &str, value: f64) {
    // A string takes everything.
    let _ = writeln!(lines, "{name}: {value:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::follow_ups::FindingCounts;

    #[test]
    fn the_lines_are_the_originals_in_its_order() {
        let mut counts = FindingCounts::default();
        counts.add(&[Some(true); 14], &[true; 14]);
        let scores = counts.scores();
        let lines = answer_lines(&scores);
        let expected = "Mean Chexpert F1: 1.0\nMean Chexpert Precision: 1.0\nMean Chexpert Recall: 1.0\n\
                        Mean Chexpert Accuracy: 1.0\nMean Chexpert AUC: -1.0\n";
        assert_eq!(lines, expected);
        let of = |texts: &'static [&'static str]| {
            report_lines("P ASSISTANT:", |score| match score {
                OriginalScore::Text(name) => texts.contains(&name).then_some(0.5),
                OriginalScore::Labels(name) => label_score(&scores, name),
            })
        };
        let without_texts = of(&[]);
        assert!(
            without_texts.starts_with("P ASSISTANT:\nMean Chexpert F1: 1.0\n"),
            "{without_texts}"
        );
        let last = "Sample Chexpert F1: 1.0\nMean Chexpert Accuracy: 1.0\n";
        assert!(without_texts.ends_with(last), "{without_texts}");
        let with_texts = of(&["ROUGE-L", "METEOR 1.5", "BLEU-4"]);
        let texts = "P ASSISTANT:\nAvg Bleu 4: 0.5\nAvg Meteor: 0.5\nAvg Rouge: 0.5\nMean";
        assert!(with_texts.starts_with(texts), "{with_texts}");
        let files = OriginalFiles::of("out".as_ref(), "/runs/v1/");
        let expected = Path::new("out/vicuna_results/results_runs_v1_after.txt");
        assert_eq!(files.scores("_after"), expected);
    }
}
