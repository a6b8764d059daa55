//! What studies are compared with: the labels of their references, or a table of labels.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use radialog_coordinator::run::FinishedRun;
use radialog_schemas::StudyRecord;
use radialog_training::evaluation::follow_ups::{
    self, RowPlace, StratifiedSelection, StudyCells, Truth, TruthTable,
};
use radialog_training::evaluation::label_source::LabelSource;
use radialog_training::evaluation::patients;
use serde::Serialize;

use super::output::FaultsTable;
use crate::exit::UsageError;
use crate::named_path::require;

/// What is true.
#[derive(Args)]
pub(in crate::commands::evaluate) struct TruthArgs {
    /// CSV with dicom_id or study_id and columns named after findings (labels.csv of NIH or Open-i images, MIMIC's CheXpert table):
    /// what is true is there. Without it, it is what CheXbert says of the archive's reference reports, as in the original, whose
    /// scores are not those by another table. A finding without any label in the table is left out of the means
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Ask about all studies with a finding, and a thirteenth as many without, as RaDialog's --strat_eval, of those that --split and
    /// --limit leave. Studies of which it is not known what is true are counted, and not selected
    #[arg(long)]
    stratified: bool,
}

/// What is true, and of which studies it counts.
pub(in crate::commands::evaluate) struct Truths {
    known: Known,
    is_stratified: bool,
    /// None until it is known which reports there are, and where all studies count.
    selection: Option<StratifiedSelection>,
}

/// Where it is known what is true.
enum Known {
    /// The labels of the reference.
    References,
    /// A table, by study, and how it is called.
    Table(Box<TruthTable>, String),
}

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
    /// The first of those that were not scored, each with its reason.
    pub(in crate::commands::evaluate) skipped: Vec<String>,
    /// Rows of the table of what is true that belong to no study of the run; none where there is no table.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_without_study: Option<u64>,
    /// The lines of the rows that belong to one.
    #[serde(skip)]
    used: HashSet<u64>,
    #[serde(skip)]
    faults: Option<FaultsTable>,
    #[serde(skip)]
    faults_file: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Studies that are named.
const LISTED: usize = 10;

impl TruthArgs {
    /// The table that says what is true, where one is named.
    pub(in crate::commands::evaluate) fn table(&self) -> Option<&Path> {
        self.labels.as_deref()
    }

    /// Whether studies are selected by what is true.
    pub(in crate::commands::evaluate) fn is_stratified(&self) -> bool {
        self.stratified
    }

    pub(in crate::commands::evaluate) fn read(&self) -> anyhow::Result<Truths> {
        let truths = |known| Truths {
            known,
            is_stratified: self.stratified,
            selection: None,
        };
        let Some(path) = &self.labels else {
            return Ok(truths(Known::References));
        };
        require(path, "--labels is a table of labels")?;
        let table = TruthTable::read(path)?;
        let unknown: Vec<&str> = table.unknown().iter().map(|of| of.name()).collect();
        if !unknown.is_empty() {
            errln!(
                "note: {} has no label of {}: left out of the means",
                path.display(),
                unknown.join(", ")
            );
        }
        let others = table.other_columns();
        if !others.is_empty() {
            let more = match others.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            errln!(
                "note: columns of {} that are no findings are not looked at: {}{more}",
                path.display(),
                others[..others.len().min(LISTED)].join(", ")
            );
        }
        // A run is resumed with the same table alone.
        let name = format!("labels {}", table.hash().short());
        Ok(truths(Known::Table(Box::new(table), name)))
    }
}

impl Truths {
    /// Selects studies of a run, where that is asked for.
    pub(in crate::commands::evaluate) async fn select(
        mut self,
        run: &FinishedRun,
    ) -> anyhow::Result<Self> {
        if !self.is_stratified {
            return Ok(self);
        }
        let mut selection = StratifiedSelection::default();
        let mut records = run.records().await?;
        while let Some(record) = records.next().await? {
            let truth = self.of(&record).filter(|_| record.error.is_none());
            if let Some(truth) = truth {
                selection.add(record.study.as_str(), &truth);
            }
        }
        self.selection = Some(selection.finish());
        Ok(self)
    }

    /// Whether anything is asked about a study; of which it is not known what is true, nothing is where studies are selected.
    pub(in crate::commands::evaluate) fn selects(&self, record: &StudyRecord) -> bool {
        self.selection.as_ref().is_none_or(|selection| {
            let truth = self.of(record);
            truth.is_some_and(|truth| selection.has(record.study.as_str(), &truth))
        })
    }

    /// What is true of a study, where that is known.
    pub(in crate::commands::evaluate) fn of(&self, record: &StudyRecord) -> Option<Truth> {
        match &self.known {
            Known::References => record.reference_labels.as_ref().map(follow_ups::truth),
            Known::Table(table, _) => table.get(record),
        }
    }

    /// The patient of a study, where it is known: by the table, or by the folders of MIMIC-CXR.
    pub(in crate::commands::evaluate) fn patient<'a>(
        &'a self,
        record: &'a StudyRecord,
    ) -> Option<&'a str> {
        match &self.known {
            Known::References => patients::of_path(&record.file),
            Known::Table(table, _) => table.patient(record),
        }
    }

    /// How the run is called that asks by it: with another truth it is another one.
    pub(in crate::commands::evaluate) fn name(&self) -> String {
        let name = match &self.known {
            Known::References => "references",
            Known::Table(_, name) => name,
        };
        match self.is_stratified {
            true => format!("{name}, stratified"),
            false => name.to_owned(),
        }
    }

    /// Whose labels say what is true.
    pub(in crate::commands::evaluate) fn source(&self) -> LabelSource {
        match &self.known {
            Known::References => {
                LabelSource::chexbert("references of the archive, by the run's scoring stage")
            }
            Known::Table(table, _) => table.source().clone(),
        }
    }

    /// Where it is not known, and why.
    fn gap(&self, record: &StudyRecord) -> Gap {
        match &self.known {
            Known::References => Gap {
                file: record.file.clone(),
                line: None,
                reason: "it has no reference report: give --labels, or a manifest with a reference column".to_owned(),
            },
            Known::Table(table, _) => Gap::of_table(table.path(), table.place(record), "--labels"),
        }
    }

    /// The rows of the table that do not begin on one of these lines.
    fn unused(&self, used: &HashSet<u64>) -> Option<(&Path, Vec<RowPlace>)> {
        match &self.known {
            Known::References => None,
            Known::Table(table, _) => Some((table.path(), table.unused(used))),
        }
    }
}

/// Why it is not known what is true of a study.
struct Gap {
    /// The file in which it is looked for.
    file: String,
    /// The line of the study's row, where it has one.
    line: Option<u64>,
    reason: String,
}

impl Gap {
    /// What a table (the flag that names it) lacks, where the study has a row, and where it has none.
    fn of_table(path: &Path, place: Option<RowPlace>, flag: &str) -> Self {
        let file = path.display().to_string();
        match place {
            Some(RowPlace { line, .. }) => Self {
                reason: format!("its row in the table of {flag} is empty ({file} line {line})"),
                line: Some(line),
                file,
            },
            None => Self {
                reason: format!("the table of {flag} has no row of it"),
                line: None,
                file,
            },
        }
    }
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
            skipped: Vec::new(),
            rows_without_study: None,
            used: HashSet::new(),
            faults: Some(FaultsTable::create(faults)?),
            faults_file: name.to_string_lossy().into_owned(),
        })
    }

    /// What is true of a study that was scored; one that cannot be is counted.
    pub(in crate::commands::evaluate) fn truth(
        &mut self,
        record: &StudyRecord,
        truths: &Truths,
    ) -> anyhow::Result<Option<Truth>> {
        if let Known::Table(table, _) = &truths.known {
            self.used
                .extend(table.place(record).map(|place| place.line));
        }
        if let Some(error) = &record.error {
            self.fail(record, &error.to_string())?;
            return Ok(None);
        }
        let truth = truths.of(record);
        if truth.is_none() {
            self.without_truth += 1;
            self.skip(record, truths.gap(record))?;
        }
        if truth.is_some() && !truths.selects(record) {
            self.not_selected += 1;
            return Ok(None);
        }
        Ok(truth)
    }

    /// What a table (the flag that names it) has of a study that was scored; one that cannot be is counted.
    pub(in crate::commands::evaluate) fn found<'a, const N: usize>(
        &mut self,
        record: &StudyRecord,
        table: &'a StudyCells<N>,
        flag: &str,
    ) -> anyhow::Result<Option<&'a [String; N]>> {
        self.used
            .extend(table.place(record).map(|place| place.line));
        if let Some(error) = &record.error {
            self.fail(record, &error.to_string())?;
            return Ok(None);
        }
        let found = table.get(record);
        if found.is_none() {
            self.without_truth += 1;
            let gap = Gap::of_table(table.path(), table.place(record), flag);
            self.skip(record, gap)?;
        }
        Ok(found)
    }

    /// Counts a study that failed.
    pub(in crate::commands::evaluate) fn fail(
        &mut self,
        record: &StudyRecord,
        reason: &str,
    ) -> anyhow::Result<()> {
        self.failed += 1;
        let gap = Gap {
            file: record.file.clone(),
            line: None,
            reason: reason.to_owned(),
        };
        self.skip(record, gap)
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
        let Self {
            scored,
            without_truth,
            not_selected,
            failed,
            skipped,
            rows_without_study,
            faults_file,
            ..
        } = self;
        outln!("{scored} studies scored, {without_truth} without a truth, {failed} failed");
        if *not_selected > 0 {
            outln!("  {not_selected} not selected");
        }
        skipped
            .iter()
            .for_each(|skipped| outln!("  not scored: {skipped}"));
        if without_truth + failed > skipped.len() as u64 {
            outln!("  not scored: ... and more; all are in {faults_file}");
        }
        if let Some(rows) = rows_without_study.filter(|rows| *rows > 0) {
            outln!("  {rows} rows of the table belong to no study of the run: {faults_file}");
        }
    }
}
