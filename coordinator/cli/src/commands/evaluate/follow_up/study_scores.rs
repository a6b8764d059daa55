//! What each study has come to on two sides, as a table.

use std::path::Path;

use radialog_schemas::StudyRecord;
use radialog_training::evaluation::follow_ups::{Said, Truth};
use radialog_training::evaluation::study_answers::{self, decimal};
use radialog_training::prepare::CsvOutput;

/// A table of studies in the making; it appears when it is whole.
pub(in crate::commands::evaluate) struct StudyScoresTable {
    table: CsvOutput,
    /// The number of text scores of a side.
    texts: usize,
}

impl StudyScoresTable {
    /// Begins a table: `study_id`, `patient`, `split`, `image`, the findings that are true, and of each side what of them is said, and
    /// these scores of its text.
    pub(in crate::commands::evaluate) fn create(
        path: &Path,
        sides: [&str; 2],
        texts: &[&str],
    ) -> anyhow::Result<Self> {
        let mut columns = ["study_id", "patient", "split", "image", "true"]
            .map(str::to_owned)
            .to_vec();
        for names in [&study_answers::COLUMNS[..], texts] {
            for side in sides {
                columns.extend(names.iter().map(|name| format!("{side}_{name}")));
            }
        }
        Ok(Self {
            table: CsvOutput::create(path, columns.iter().map(String::as_str))?,
            texts: texts.len(),
        })
    }

    /// The cells of a study up to the scores of its texts.
    pub(in crate::commands::evaluate) fn cells(
        record: &StudyRecord,
        patient: u32,
        truth: &Truth,
        said: [&Said; 2],
    ) -> Vec<String> {
        let mut cells = vec![
            record.study.to_string(),
            patient.to_string(),
            record.split.clone().unwrap_or_default(),
            record.file.clone(),
            study_answers::names(|class| truth[class] == Some(true)),
        ];
        for side in said {
            cells.extend(study_answers::cells(truth, side));
        }
        cells
    }

    /// Adds a study; none of its texts were scored where there are no scores.
    pub(in crate::commands::evaluate) fn row(
        &mut self,
        mut cells: Vec<String>,
        texts: Option<&[Vec<f64>]>,
    ) -> anyhow::Result<()> {
        match texts {
            Some(sides) => cells.extend(sides.iter().flatten().copied().map(decimal)),
            None => cells.resize(cells.len() + 2 * self.texts, String::new()),
        }
        Ok(self.table.row(cells.iter().map(String::as_str))?)
    }

    pub(in crate::commands::evaluate) fn finish(self) -> anyhow::Result<()> {
        self.table.finish()?;
        Ok(())
    }
}
