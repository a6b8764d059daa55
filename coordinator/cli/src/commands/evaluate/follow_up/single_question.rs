//! One question about each image of a run, whose answers a table is compared with.

use std::path::Path;
use std::sync::Arc;

use radialog_coordinator::run::FinishedRun;
use radialog_schemas::{DialogPrompt, ObjectKey, Stage, StudyRecord, counted};
use radialog_training::evaluation::follow_ups::{RowPlace, StudyCells};
use radialog_training::evaluation::patients::Patients;

use super::{AnswersTable, Coverage, Following, Session};
use crate::named_path::require;

/// Rows that are named.
const NAMED: usize = 5;
/// The most tokens of an answer.
const TOKENS: u32 = 300;

/// The question, and what is true: `N` cells of each study, the last of which is beside its answer.
pub(in crate::commands::evaluate) struct SingleQuestion<const N: usize> {
    /// The name of the run that asks, and of its folder.
    pub(in crate::commands::evaluate) run: &'static str,
    /// The table of all answers.
    pub(in crate::commands::evaluate) file: &'static str,
    /// The table of what is not scored.
    pub(in crate::commands::evaluate) faults: &'static str,
    /// The column of what is true in it.
    pub(in crate::commands::evaluate) column: &'static str,
    /// The flag that names the table of what is true.
    pub(in crate::commands::evaluate) flag: &'static str,
    /// What is true.
    pub(in crate::commands::evaluate) truths: StudyCells<N>,
    /// The dialog about a study with these image tokens and cells; none where its line lacks something.
    pub(in crate::commands::evaluate) dialog: Dialog<N>,
}

/// What became of the studies.
pub(in crate::commands::evaluate) struct Asked {
    pub(in crate::commands::evaluate) studies: Coverage,
    /// How the intervals of their scores are made.
    pub(in crate::commands::evaluate) resampled: String,
}

/// What makes a dialog of a study.
pub(in crate::commands::evaluate) type Dialog<const N: usize> =
    fn(&StudyRecord, ObjectKey, &[String; N]) -> Option<DialogPrompt>;

/// Reads what is true, and tells of rows that have not all cells.
pub(in crate::commands::evaluate) fn truths<const N: usize>(
    path: &Path,
    columns: [&[&str]; N],
) -> anyhow::Result<StudyCells<N>> {
    require(path, "it is the table of what is true")?;
    let truths = StudyCells::read(path, columns)?;
    let empty = truths.empty_rows();
    if !empty.is_empty() {
        let named = empty.iter().take(NAMED);
        let named = named.map(|RowPlace { line, id }| format!("line {line} ({id})"));
        let more = if empty.len() > NAMED { ", ..." } else { "" };
        errln!(
            "note: images of {} of {} with an empty cell are not scored: {}{more}",
            counted(empty.len(), "row", "rows"),
            path.display(),
            named.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(truths)
}

impl<const N: usize> SingleQuestion<N> {
    /// Asks about every image whose truth is known, writes all answers, and hands each to `score` with a number for its
    /// patient; none where it was interrupted.
    pub(in crate::commands::evaluate) async fn ask(
        self,
        session: &Session<'_>,
        images: &FinishedRun,
        mut score: impl AsyncFnMut(&str, &[String; N], u32) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Asked>> {
        let mut truths = self.truths;
        let mut records = images.records().await?;
        while let Some(record) = records.next().await? {
            truths.note(&record);
        }
        let truths = Arc::new(truths);
        let ask = {
            let (images, truths, dialog) = (images.clone(), truths.clone(), self.dialog);
            move |record: &StudyRecord| {
                let asked = || dialog(record, images.embedding(record)?, truths.get(record)?);
                let asked = match record.error {
                    Some(_) => None,
                    None => asked(),
                };
                let id = record.study.to_string();
                asked.map(|dialog| (id, dialog)).into_iter().collect()
            }
        };
        // The table says whom to ask, and in part what: a run of another one is not resumed.
        let what = format!("{} by {}", self.run, truths.hash().short());
        let how = (&[Stage::Language][..], TOKENS);
        let answered = session.ask_on(self.run, &what, images, Arc::new(ask), how);
        let Some(answered) = answered.await? else {
            return Ok(None);
        };
        let mut studies = Coverage::create(&session.file(self.faults))?;
        let mut patients = Patients::default();
        let mut records = images.records().await?;
        let mut following = Following::open(&answered).await?;
        let mut table = AnswersTable::create(&session.file(self.file), self.column)?;
        while let Some(record) = records.next().await? {
            let place = records.place();
            let Some(cells) = studies.found(&record, place, &truths, self.flag)? else {
                continue;
            };
            let truth = cells.last().map_or("", String::as_str);
            let found = following.take(record.study.as_str()).await?;
            match found.map(|found| (found.report, found.error)) {
                Some((Some(answer), None)) => {
                    table.add(record.study.as_str(), truth, &answer)?;
                    studies.scored += 1;
                    let patient = patients.number(truths.patient(&record));
                    score(&answer, cells, patient).await?;
                }
                Some((_, Some(error))) => {
                    studies.fail(&record, &format!("its question failed: {error}"))?;
                }
                _ => studies.fail(&record, "its question has no line")?,
            }
        }
        studies.name_left_out(images)?;
        studies.name_unused_cells(&truths)?;
        studies.check()?;
        table.finish()?;
        Ok(Some(Asked {
            studies,
            resampled: session
                .resampling()
                .words("images", patients.named(), patients.others()),
        }))
    }
}
