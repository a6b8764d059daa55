//! Which studies were scored, and why the others were not.

use std::collections::HashSet;
use std::path::Path;

use radialog_coordinator::run::FinishedRun;
use radialog_coordinator::run::output::read_problems;
use radialog_schemas::{StudyRecord, counted};
use radialog_training::evaluation::follow_ups::{RowPlace, StudyCells, Truth};
use serde::Serialize;

use super::output::FaultsTable;
use super::truth::{Gap, Truths};
use crate::exit::UsageError;

/// Studies that are named.
const LISTED: usize = 10;

/// Studies, by what became of them. Whatever was not scored is in a table of faults, too.
#[derive(Serialize)]
pub(in crate::commands::evaluate) struct Coverage {
    /// Studies that were scored.
    pub(in crate::commands::evaluate) scored: u64,
    /// Studies of which it is not known what is true.
    pub(in crate::commands::evaluate) without_truth: u64,
    /// Studies that a stratified selection left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub(in crate::commands::evaluate) not_selected: u64,
    /// Studies that failed before there was anything to score.
    pub(in crate::commands::evaluate) failed: u64,
    /// Entries of the archive that are no study, or one that came before.
    left_out: u64,
    /// The first of those that were not scored, each with its reason.
    pub(in crate::commands::evaluate) skipped: Vec<String>,
    /// Rows of the table of what is true that belong to no study of the run; none where there is no table.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_without_study: Option<u64>,
    /// The lines of the rows that belong to one.
    #[serde(skip)]
    used: HashSet<u64>,
    /// Where the archive names the study that was looked up last.
    #[serde(skip)]
    place: String,
    #[serde(skip)]
    faults: Option<FaultsTable>,
    #[serde(skip)]
    faults_file: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The file, and the line where the place has one.
fn file_and_line(place: &str) -> (&str, Option<u64>) {
    let split = place.rsplit_once(" line ");
    let split = split.and_then(|(file, line)| Some((file, line.parse().ok()?)));
    split.map_or((place, None), |(file, line)| (file, Some(line)))
}

impl Coverage {
    /// Begins with none. What is not scored goes to this table, which appears when it is whole.
    pub(in crate::commands::evaluate) fn create(faults: &Path) -> anyhow::Result<Self> {
        let name = faults.file_name().unwrap_or_default();
        Ok(Self {
            scored: 0,
            without_truth: 0,
            not_selected: 0,
            failed: 0,
            left_out: 0,
            skipped: Vec::new(),
            rows_without_study: None,
            used: HashSet::new(),
            place: String::new(),
            faults: Some(FaultsTable::create(faults)?),
            faults_file: name.to_string_lossy().into_owned(),
        })
    }

    /// What is true of a study that the archive names at this place; one that cannot be scored is counted.
    pub(in crate::commands::evaluate) fn truth(
        &mut self,
        record: &StudyRecord,
        place: &str,
        truths: &Truths,
    ) -> anyhow::Result<Option<Truth>> {
        if !self.look_at(record, place, truths.place(record))? {
            return Ok(None);
        }
        match truths.of(record) {
            None => {
                self.without_truth += 1;
                let gap = truths.gap(record);
                let gap = gap.unwrap_or_else(|reason| self.gap(reason));
                self.skip(record, gap)?;
                Ok(None)
            }
            Some(_) if !truths.selects(record) => {
                self.not_selected += 1;
                Ok(None)
            }
            truth => Ok(truth),
        }
    }

    /// What a table (the flag that names it) has of a study that the archive names at this place; one that cannot be scored is counted.
    pub(in crate::commands::evaluate) fn found<'a, const N: usize>(
        &mut self,
        record: &StudyRecord,
        place: &str,
        table: &'a StudyCells<N>,
        flag: &str,
    ) -> anyhow::Result<Option<&'a [String; N]>> {
        if !self.look_at(record, place, table.place(record))? {
            return Ok(None);
        }
        let found = table.get(record);
        if found.is_none() {
            self.without_truth += 1;
            let gap = Gap::of_table(
                table.path(),
                table.place(record),
                table.is_of_another(record),
                flag,
            );
            self.skip(record, gap)?;
        }
        Ok(found)
    }

    /// Notes which study is looked at, and the row that a table has of it. False where it failed, which is counted.
    fn look_at(
        &mut self,
        record: &StudyRecord,
        place: &str,
        row: Option<RowPlace>,
    ) -> anyhow::Result<bool> {
        place.clone_into(&mut self.place);
        self.used.extend(row.map(|row| row.line));
        match &record.error {
            None => Ok(true),
            Some(error) => self.fail(record, &error.to_string()).map(|()| false),
        }
    }

    /// Counts the study that was looked up last, and failed.
    pub(in crate::commands::evaluate) fn fail(
        &mut self,
        record: &StudyRecord,
        reason: &str,
    ) -> anyhow::Result<()> {
        self.failed += 1;
        let gap = self.gap(reason);
        self.skip(record, gap)
    }

    /// A reason that is about the study as the archive names it.
    fn gap(&self, reason: &str) -> Gap {
        let (file, line) = file_and_line(&self.place);
        Gap {
            file: file.to_owned(),
            line,
            reason: reason.to_owned(),
        }
    }

    /// Counts and names what a run has left out of its archive.
    pub(in crate::commands::evaluate) fn name_left_out(
        &mut self,
        run: &FinishedRun,
    ) -> anyhow::Result<()> {
        for problem in read_problems(&run.folder)? {
            let problem = problem?;
            self.left_out += 1;
            if self.skipped.len() < LISTED {
                self.skipped.push(problem.to_string());
            }
            let (file, line) = file_and_line(&problem.place);
            if let Some(faults) = &mut self.faults {
                faults.add(file, line, "", &problem.failure.to_string())?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, record: &StudyRecord, gap: Gap) -> anyhow::Result<()> {
        let Gap { file, line, reason } = gap;
        if self.skipped.len() < LISTED {
            self.skipped.push(format!("{}: {reason}", record.study));
        }
        match &mut self.faults {
            Some(faults) => faults.add(&file, line, record.study.as_str(), &reason),
            None => Ok(()),
        }
    }

    /// Names the rows of the truths' table that belong to no study, and finishes the table of faults.
    pub(in crate::commands::evaluate) fn name_unused(
        &mut self,
        truths: &Truths,
    ) -> anyhow::Result<()> {
        self.close(truths.unused(&self.used))
    }

    /// The same of a table of cells, with its rows that have an empty one.
    pub(in crate::commands::evaluate) fn name_unused_cells<const N: usize>(
        &mut self,
        table: &StudyCells<N>,
    ) -> anyhow::Result<()> {
        self.close(Some((table.path(), table.unused(&self.used))))
    }

    fn close(&mut self, unused: Option<(&Path, Vec<RowPlace>)>) -> anyhow::Result<()> {
        let Some(mut faults) = self.faults.take() else {
            return Ok(());
        };
        if let Some((path, rows)) = unused {
            let file = path.display().to_string();
            for RowPlace { line, id } in &rows {
                faults.add(
                    &file,
                    Some(*line),
                    id,
                    "no study of the run belongs to the row",
                )?;
            }
            self.rows_without_study = Some(rows.len() as u64);
        }
        faults.finish()
    }

    /// Refuses an evaluation in which nothing can be scored.
    pub(in crate::commands::evaluate) fn check(&self) -> Result<(), UsageError> {
        if self.scored > 0 {
            return Ok(());
        }
        let first = self.skipped.first();
        let reason = first.map_or_else(String::new, |first| format!("; {first}"));
        Err(UsageError(format!("nothing can be scored{reason}")))
    }

    /// Tells what was scored and what was not.
    pub(in crate::commands::evaluate) fn print(&self) {
        self.lines().iter().for_each(|line| outln!("{line}"));
    }

    /// What was scored and what was not.
    pub(in crate::commands::evaluate) fn lines(&self) -> Vec<String> {
        let Self {
            scored,
            without_truth,
            not_selected,
            failed,
            left_out,
            skipped,
            rows_without_study,
            faults_file,
            ..
        } = self;
        let mut lines = vec![format!(
            "{} scored, {without_truth} without a truth, {failed} failed",
            counted(*scored, "study", "studies")
        )];
        if *not_selected > 0 {
            lines.push(format!("  {not_selected} not selected"));
        }
        if *left_out > 0 {
            let left_out = counted(
                *left_out,
                "entry of the archive is",
                "entries of the archive are",
            );
            lines.push(format!("  {left_out} left out"));
        }
        let skipped_lines = skipped.iter();
        lines.extend(skipped_lines.map(|skipped| format!("  not scored: {skipped}")));
        if without_truth + failed + left_out > skipped.len() as u64 {
            lines.push(format!(
                "  not scored: ... and more; all are in {faults_file}"
            ));
        }
        if let Some(rows) = rows_without_study.filter(|rows| *rows > 0) {
            lines.push(format!(
                "  {} to no study of the run: {faults_file}",
                counted(rows, "row of the table belongs", "rows of the table belong")
            ));
        }
        lines
    }
}
