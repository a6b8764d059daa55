//! What studies are compared with: the labels of their references, or a table of labels.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use radialog_coordinator::run::FinishedRun;
use radialog_schemas::{Labels, StudyRecord};
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::follow_ups::{
    self, RowPlace, Said, StratifiedSelection, Truth, TruthRule, TruthTable,
};
use radialog_training::evaluation::label_source::LabelSource;
use radialog_training::evaluation::patients;
use radialog_training::evaluation::report_scores::BlankAs;

use crate::commands::evaluate::label_rules::{Blank, Uncertain};
use crate::named_path::require;

/// What is true.
#[derive(Args)]
pub(in crate::commands::evaluate) struct TruthArgs {
    /// CSV with dicom_id or study_id and columns named after findings (labels.csv of NIH or Open-i images, MIMIC's CheXpert table):
    /// what is true is there. Without it, it is what CheXbert says of the archive's reference reports, as in the original, whose
    /// scores are not those by another table
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// What an uncertain label counts as, of what is true and of reports
    #[arg(long, value_enum, default_value_t = Uncertain::Negative)]
    uncertain: Uncertain,
    /// What an empty cell of --labels counts as. auto: not there, but of rows and findings without any label nothing is known, and
    /// such findings are left out of the means; unknown: not scored. Default: auto; negative, as in the original, where the table is
    /// CheXbert's by its name
    #[arg(long, value_enum, requires = "labels")]
    blank: Option<Blank>,
    /// Ask about all studies with a finding, and a thirteenth as many without, as RaDialog's --strat_eval, of those that --split and
    /// --limit leave. Studies of which it is not known what is true are counted, and not selected
    #[arg(long)]
    stratified: bool,
}

/// What is true, and of which studies it counts.
pub(in crate::commands::evaluate) struct Truths {
    known: Known,
    uncertain: UncertainAs,
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

/// Columns that are named.
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
        let uncertain = self.uncertain.into();
        let truths = |known| Truths {
            known,
            uncertain,
            is_stratified: self.stratified,
            selection: None,
        };
        let Some(path) = &self.labels else {
            return Ok(truths(Known::References));
        };
        require(path, "--labels is a table of labels")?;
        let rule = TruthRule {
            uncertain,
            blank: self.blank.map(Into::into),
        };
        let table = TruthTable::read(path, rule)?;
        let unknown: Vec<&str> = table.unknown().iter().map(|of| of.name()).collect();
        if !unknown.is_empty() {
            let counted = match table.blank() {
                BlankAs::Negative => "counted as not there",
                BlankAs::Auto | BlankAs::Unknown => "left out of the means",
            };
            errln!(
                "note: {} has no label of {}: {counted}",
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
        let blank = match table.blank() {
            BlankAs::Auto => "",
            BlankAs::Negative => ", blank as negative",
            BlankAs::Unknown => ", blank as unknown",
        };
        let name = format!("labels {}{blank}", table.hash().short());
        Ok(truths(Known::Table(Box::new(table), name)))
    }
}

impl Truths {
    /// Finds out whose the rows of a table are, of the studies of a run, and selects some where that is asked for.
    pub(in crate::commands::evaluate) async fn select(
        mut self,
        run: &FinishedRun,
    ) -> anyhow::Result<Self> {
        if let Known::Table(table, _) = &mut self.known {
            let mut records = run.records().await?;
            while let Some(record) = records.next().await? {
                table.note(&record);
            }
        }
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
            Known::References => {
                let labels = record.reference_labels.as_ref()?;
                Some(follow_ups::truth(labels, self.uncertain))
            }
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

    /// What a report says by its labels.
    pub(in crate::commands::evaluate) fn said(&self, labels: &Labels) -> Said {
        follow_ups::said(labels, self.uncertain)
    }

    /// How the run is called that asks by it: with another truth it is another one.
    pub(in crate::commands::evaluate) fn name(&self) -> String {
        let mut name = match &self.known {
            Known::References => "references",
            Known::Table(_, name) => name,
        }
        .to_owned();
        if self.uncertain == UncertainAs::Positive {
            name += ", uncertain as positive";
        }
        if self.is_stratified {
            name += ", stratified";
        }
        name
    }

    /// What labels count as.
    pub(in crate::commands::evaluate) fn rule(&self) -> (UncertainAs, Option<BlankAs>) {
        let blank = match &self.known {
            Known::References => None,
            Known::Table(table, _) => Some(table.blank()),
        };
        (self.uncertain, blank)
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

    /// Where a table lacks it, and why; the reason alone where the archive does.
    pub(super) fn gap(&self, record: &StudyRecord) -> Result<Gap, &'static str> {
        match &self.known {
            Known::References => Err(
                "it has no reference report: give --labels, or a manifest with a reference column",
            ),
            Known::Table(table, _) => Ok(Gap::of_table(
                table.path(),
                table.place(record),
                table.is_of_another(record),
                "--labels",
            )),
        }
    }

    /// Where the table has the study's row, where there is a table.
    pub(super) fn place(&self, record: &StudyRecord) -> Option<RowPlace> {
        match &self.known {
            Known::References => None,
            Known::Table(table, _) => table.place(record),
        }
    }

    /// The rows of the table that do not begin on one of these lines.
    pub(super) fn unused(&self, used: &HashSet<u64>) -> Option<(&Path, Vec<RowPlace>)> {
        match &self.known {
            Known::References => None,
            Known::Table(table, _) => Some((table.path(), table.unused(used))),
        }
    }
}

/// Why it is not known what is true of a study.
pub(super) struct Gap {
    /// The file in which it is looked for.
    pub(super) file: String,
    /// The line of the study's row, where it has one.
    pub(super) line: Option<u64>,
    pub(super) reason: String,
}

impl Gap {
    /// What a table (the flag that names it) lacks, where the study has a row, which may be another's, and where it has none.
    pub(super) fn of_table(
        path: &Path,
        place: Option<RowPlace>,
        is_of_another: bool,
        flag: &str,
    ) -> Self {
        let file = path.display().to_string();
        match place {
            Some(RowPlace { line, .. }) if is_of_another => Self {
                reason: format!(
                    "only the end of its name leads to a row in the table of {flag}, and that of another study, too ({file} line {line})"
                ),
                line: Some(line),
                file,
            },
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
