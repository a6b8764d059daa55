//! What is true of studies, from a table of labels: `labels.csv` of the NIH or Open-i images, MIMIC's CheXpert table, or any CSV
//! with an id and columns that are named after findings.

use std::collections::HashSet;
use std::path::Path;

use radialog_schemas::{ContentHash, Finding, Label, StudyRecord};

use super::study_table::{IDS, RowPlace, StudyTable};
use super::{CLASSES, Truth};
use crate::error::TrainingError;
use crate::evaluation::clinical::UncertainAs;
use crate::evaluation::label_source::{LabelKind, LabelSource};
use crate::evaluation::report_scores::BlankAs;
use crate::prepare::{FindingLabels, TableFile};

/// What labels of a table count as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TruthRule {
    /// An uncertain one.
    pub uncertain: UncertainAs,
    /// One that is not given. None: negative where the table is CheXbert's by its name, as the original reads it, else
    /// [`BlankAs::Auto`].
    pub blank: Option<BlankAs>,
}

/// Labels by study; about a hundred bytes each.
#[derive(Clone, Debug)]
pub struct TruthTable {
    studies: StudyTable<FindingLabels>,
    uncertain: UncertainAs,
    blank: BlankAs,
    /// Whose labels they are.
    source: LabelSource,
    /// The findings of which any row has a label.
    known: [bool; CLASSES],
    /// The names of columns that are no ids and no findings.
    others: Vec<String>,
}

impl TruthTable {
    /// Reads a CSV with `dicom_id` or `study_id` and at least one column named after a finding: 1, 0, -1 (uncertain), or empty. An
    /// empty cell says that a finding is not mentioned, as in the tables of CheXpert and CheXbert, and counts as `rule` says: under
    /// [`BlankAs::Auto`] as not there; but of a finding that no row has a label of nothing is known, and of a study without any
    /// label neither. Other columns are ignored.
    ///
    /// # Errors
    /// No id or no finding among the columns; with its line, a row without an id, an id that stands twice, or another value.
    pub fn read(path: &Path, rule: TruthRule) -> Result<Self, TrainingError> {
        let mut table = TableFile::open(path)?
            .with_hint("it needs dicom_id or study_id, and columns named after findings");
        let mut columns: Vec<(Finding, usize)> = Vec::new();
        for finding in Finding::ALL {
            let column = table.optional(finding.name())?;
            columns.extend(column.map(|column| (finding, column)));
        }
        if columns.is_empty() {
            table.column(Finding::ALL[0].name())?;
        }
        let names: Vec<(&str, usize)> = columns
            .iter()
            .map(|(finding, column)| (finding.name(), *column))
            .collect();
        let mut known = [false; CLASSES];
        let studies = StudyTable::read(&mut table, &names, |row| {
            let mut labels = [Label::Blank; CLASSES];
            for (finding, column) in &columns {
                let cell = row.text(*column);
                let label: Label = cell.parse().map_err(|_| {
                    let name = finding.name();
                    format!("'{cell}' under {name} is none of 1, 0, -1 and empty")
                })?;
                labels[*finding as usize] = label;
                known[*finding as usize] |= label != Label::Blank;
            }
            Ok(Some(labels))
        })?;
        let is_used = |name: &String| {
            let is_it = |known: &str| table.header().column(known) == table.header().column(name);
            IDS.into_iter().any(is_it) || names.iter().any(|(finding, _)| is_it(finding))
        };
        let others = table.names().iter().filter(|name| !is_used(name));
        let source = LabelSource::table(path, table.names());
        let blank = match source.kind {
            LabelKind::Chexbert => BlankAs::Negative,
            _ => BlankAs::Auto,
        };
        Ok(Self {
            studies,
            uncertain: rule.uncertain,
            blank: rule.blank.unwrap_or(blank),
            source,
            known,
            others: others.cloned().collect(),
        })
    }

    /// What is true of a record's study: by its id, or the last part of it behind a slash, without the `s` before the number of a
    /// study of MIMIC-CXR; or by its image, which is called as its `dicom_id`. None where the table does not have it, or knows
    /// nothing of it.
    pub fn get(&self, record: &StudyRecord) -> Option<Truth> {
        let labels = self.studies.get(record)?;
        let is_labelled = labels.iter().any(|label| *label != Label::Blank);
        let truth = |class: usize| match (labels[class], self.blank) {
            (Label::Blank, BlankAs::Unknown) => None,
            (Label::Blank, BlankAs::Auto) => self.known[class].then_some(false),
            (label, _) => Some(self.uncertain.is_present(label)),
        };
        (is_labelled || self.blank == BlankAs::Negative).then(|| std::array::from_fn(truth))
    }

    /// What a label that is not given counts as.
    pub fn blank(&self) -> BlankAs {
        self.blank
    }

    /// Notes whose the row is that a study of the run leads to: where only the end of a name or path does, it must lead no other there.
    pub fn note(&mut self, record: &StudyRecord) {
        self.studies.note(record);
    }

    /// Whether the row that a study leads to may be another's.
    pub fn is_of_another(&self, record: &StudyRecord) -> bool {
        self.studies.is_of_another(record)
    }

    /// Where the row of a record's study stands, one that says nothing, too.
    pub fn place(&self, record: &StudyRecord) -> Option<RowPlace> {
        self.studies.place(record)
    }

    /// The rows that do not begin on one of these lines, in their order.
    pub fn unused(&self, used: &HashSet<u64>) -> Vec<RowPlace> {
        self.studies.unused(used)
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        self.studies.path()
    }

    /// The patient of a record's study: as the table says, or by the folder of MIMIC-CXR that its image lies in.
    pub fn patient<'a>(&'a self, record: &'a StudyRecord) -> Option<&'a str> {
        self.studies.patient(record)
    }

    /// Whose labels they are.
    pub fn source(&self) -> &LabelSource {
        &self.source
    }

    /// The hash of what was read: ids and labels.
    pub fn hash(&self) -> &ContentHash {
        self.studies.hash()
    }

    /// The names of the columns that were not looked at.
    pub fn other_columns(&self) -> &[String] {
        &self.others
    }

    /// The findings of which no row has a label.
    pub fn unknown(&self) -> Vec<Finding> {
        let all = Finding::ALL.into_iter();
        all.filter(|finding| !self.known[*finding as usize])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::study_table::record;
    use super::*;

    fn read(content: &str) -> Result<TruthTable, TrainingError> {
        read_as("labels.csv", content, TruthRule::default())
    }

    fn read_as(name: &str, content: &str, rule: TruthRule) -> Result<TruthTable, TrainingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        TruthTable::read(&path, rule)
    }

    #[test]
    fn what_is_not_given_or_uncertain_counts_as_told_and_as_in_the_original_for_chexberts_tables() {
        let text = "study_id,Edema,Fracture\na,-1,\nb,1,0\nc,,\n";
        let cells = |table: &TruthTable, study: &str| {
            let truth = table.get(&record(study, "x.png"))?;
            Some(
                [Finding::Edema, Finding::Fracture, Finding::Pneumonia]
                    .map(|of| truth[of as usize]),
            )
        };
        let rule = |uncertain, blank| TruthRule { uncertain, blank };
        let of = |name: &str, rule| read_as(name, text, rule).unwrap();
        let positive = of("t.csv", rule(UncertainAs::Positive, Some(BlankAs::Unknown)));
        assert_eq!(cells(&positive, "a"), Some([Some(true), None, None]));
        assert_eq!(cells(&positive, "c"), None);
        let negative = rule(UncertainAs::Negative, Some(BlankAs::Negative));
        for table in [
            of("t.csv", negative),
            of("finding_chexbert_labels.csv", TruthRule::default()),
        ] {
            assert_eq!(cells(&table, "a"), Some([Some(false); 3]));
            assert_eq!(cells(&table, "c"), Some([Some(false); 3]));
            assert_eq!(
                (cells(&table, "d"), table.blank()),
                (None, BlankAs::Negative)
            );
        }
    }

    #[test]
    fn a_finding_that_is_not_mentioned_is_not_there_and_one_that_nobody_labelled_is_unknown() {
        let text = "study_id,age,Edema,Fracture,Pneumonia\na,50,1.0,,\nb,,-1,0,\nc,,,,\n";
        let table = read(text).unwrap();
        let cells = |study: &str| {
            let truth = table.get(&record(study, "x.png"))?;
            let findings = [Finding::Edema, Finding::Fracture, Finding::Pneumonia];
            Some(findings.map(|finding| truth[finding as usize]))
        };
        assert_eq!(cells("x/a"), Some([Some(true), Some(false), None]));
        assert_eq!(cells("b"), Some([Some(false), Some(false), None]));
        assert_eq!((cells("c"), cells("d")), (None, None));
        assert_eq!(table.unknown().len(), 12);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named_with_its_line() {
        let fault = |content| read(content).unwrap_err().to_string();
        assert!(fault("id,Edema\na,1\n").contains("no column 'study_id'"));
        assert!(fault("study_id,edemas\na,1\n").contains("No Finding"));
        let error = fault("study_id,Edema\na,1\nb,7\n");
        assert!(error.contains("line 3: 'b': '7' under Edema"), "{error}");
        let error = fault("study_id,Edema\na,1\na,0\n");
        assert!(
            error.contains("line 3: a second row of 'a', which line 2 has"),
            "{error}"
        );
        assert!(fault("study_id,Edema\n,1\n").contains("line 2"));
    }
}
