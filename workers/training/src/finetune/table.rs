//! A user's table, read and checked as a whole: what is wrong with it is told at once, with lines, before anything is computed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use radialog_models::preprocess::InputSize;
use radialog_schemas::table::{Header, Row, split_name, with_slashes};
use radialog_schemas::{ContentHash, Finding, Label, counted};
use rayon::prelude::*;

use super::columns::{ColumnNames, Columns};
use super::mistaken::{FilledCell, NoReports};
use super::{cells, mistaken};
use crate::data::pixels::pixels;
use crate::data::table_check::{SIDES, TableCheck, TablePatients};
use crate::error::TrainingError;
use crate::evaluation::subgroups::{GROUPS, Subgroup};
use crate::prepare::{FindingLabels, TableFile, text_cell};

/// An image is decoded as small as this to see whether it can be read.
const LOOK: InputSize = InputSize {
    short_side: 32,
    side: 32,
};

/// An image of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinetuneRow {
    /// Where the row begins.
    pub line: u64,
    /// Its file as the table names it; identifies it.
    pub name: String,
    /// The file.
    pub image: PathBuf,
    /// The patient, or what stands for one.
    pub patient: String,
    /// `train`, `validate` or `test`; none where the table names no side.
    pub side: Option<&'static str>,
    /// The radiologist's text; may be empty.
    pub report: String,
    /// Its labels, in the published order; all blank where the table has none.
    pub labels: FindingLabels,
    /// Sex, age, view and source, as the table has them.
    pub groups: [String; GROUPS.len()],
}

impl FinetuneRow {
    /// Whether the table has any label of it.
    pub fn is_labelled(&self) -> bool {
        self.labels.iter().any(|label| *label != Label::Blank)
    }
}

/// A table that can be trained on.
#[derive(Clone, Debug)]
pub struct FinetuneTable {
    /// The table's file.
    pub path: PathBuf,
    /// The folder of the images.
    pub folder: PathBuf,
    /// Its images, in order.
    pub rows: Vec<FinetuneRow>,
    /// What each column was taken for.
    pub columns: String,
    /// What a user should know of it.
    pub notes: Vec<String>,
    /// Hash of the file.
    pub hash: ContentHash,
}

/// What the cells of a column of names say.
#[derive(Default)]
struct LabelNames {
    /// The labels of each row.
    rows: Vec<FindingLabels>,
    /// Cells that name something else, with their lines.
    faults: Vec<(u64, String)>,
    /// The first line whose cell says "None", and how many do.
    nones: Option<(u64, u64)>,
}

impl LabelNames {
    fn add(&mut self, row: &Row, column: usize) {
        let (line, cell) = (row.line, row.cell(column).unwrap_or_default());
        // A person's word for nothing, and a program's for nothing known.
        if cell.is_empty() && row.text(column).trim() == "None" {
            self.nones.get_or_insert((line, 0)).1 += 1;
        }
        let labels = cells::labels(cell).unwrap_or_else(|reason| {
            self.faults.push((line, reason));
            [Label::Blank; Finding::ALL.len()]
        });
        self.rows.push(labels);
    }

    /// What no cell names is outside of the column's vocabulary, as fractures are of NIH's: nothing is known of it, and it is not
    /// absent everywhere. Returns those findings.
    fn forget_unnamed(&mut self) -> Vec<Finding> {
        let is_unnamed = |finding: &Finding| {
            let mut rows = self.rows.iter();
            rows.all(|row| row[*finding as usize] != Label::Positive)
        };
        let unnamed: Vec<Finding> = Finding::ALL.into_iter().filter(is_unnamed).collect();
        for row in &mut self.rows {
            unnamed
                .iter()
                .for_each(|finding| row[*finding as usize] = Label::Blank);
        }
        unnamed
    }
}

impl FinetuneTable {
    /// Reads a table whose images lie below `folder`, and looks at each of them. `progress` hears how many of how many images were
    /// looked at, from several threads.
    ///
    /// # Errors
    /// A file that is no table; else all faults: columns, rows, labels and splits that cannot be meant, images that are named
    /// twice, not there or cannot be read, patients on two sides.
    pub fn read(
        path: &Path,
        folder: &Path,
        names: &ColumnNames,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, TrainingError> {
        let content = std::fs::read(path).map_err(TrainingError::io("read", path))?;
        let folder = std::path::absolute(folder).map_err(TrainingError::io("find", folder))?;
        let mut table = TableFile::open(path)?;
        let shown = path.display();
        let columns = names.find(table.header()).map_err(|faults| {
            let faults = faults
                .into_iter()
                .map(|fault| format!("'{shown}' line 1: {fault}"));
            TrainingError::Tables(faults.collect())
        })?;
        let mut read = Self {
            path: path.to_owned(),
            columns: columns.words(table.header()),
            folder,
            rows: Vec::new(),
            notes: Vec::new(),
            hash: ContentHash::of(&content),
        };
        if columns.patient.is_none() {
            read.notes.push(
                "no column names patients or studies: each image counts as a patient of its own, so that a patient may be on both \
                 sides; name one with --patient"
                    .to_owned(),
            );
        } else if columns.patient_is_study {
            read.notes.push(
                "no column names patients: each study counts as a patient of its own, so that a patient who has several may be on \
                 both sides; name one with --patient"
                    .to_owned(),
            );
        }
        if let Some(unread) = columns.unread(table.header()) {
            read.notes
                .push(format!("columns that are not read: {unread}"));
        }
        let mut check = TableCheck::default();
        read.take_rows(&mut table, &columns, &mut check)?;
        read.look_at_images(&mut check, progress);
        check.finish()?;
        Ok(read)
    }

    /// The number of images of a side, perhaps only of those with a report, or with a label of the table.
    pub fn count(&self, side: &str, with_report: bool, with_labels: bool) -> usize {
        let is_one = |row: &&FinetuneRow| {
            row.side == Some(side)
                && (!with_report || !row.report.is_empty())
                && (!with_labels || row.is_labelled())
        };
        self.rows.iter().filter(is_one).count()
    }

    /// The findings that no row has a label of, though some have labels: the table does not know them.
    pub fn unlabelled(&self) -> Vec<Finding> {
        let is_unlabelled = |finding: &Finding| {
            let mut rows = self.rows.iter();
            rows.all(|row| row.labels[*finding as usize] == Label::Blank)
        };
        let findings = Finding::ALL.into_iter();
        match self.has_labels() {
            true => findings.filter(is_unlabelled).collect(),
            false => Vec::new(),
        }
    }

    /// How many training images have each finding, and how many have it not, by the labels of the table.
    pub fn label_counts(&self) -> [(usize, usize); Finding::ALL.len()] {
        let mut counts = [(0, 0); Finding::ALL.len()];
        for row in self.rows.iter().filter(|row| row.side == Some("train")) {
            for ((with, without), label) in counts.iter_mut().zip(row.labels) {
                *with += usize::from(label == Label::Positive);
                *without += usize::from(label == Label::Negative);
            }
        }
        counts
    }

    fn take_rows(
        &mut self,
        table: &mut TableFile,
        columns: &Columns,
        check: &mut TableCheck,
    ) -> Result<(), TrainingError> {
        let mut names = LabelNames::default();
        let mut without_patient = 0_u64;
        let mut lines: HashMap<String, u64> = HashMap::new();
        let mut patients = TablePatients::unnamed(&self.path);
        let mut unknown: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        while let Some(row) = table.try_row()? {
            let row = match row {
                Ok(row) => row.row,
                Err(malformed) => {
                    check.fault(&self.path, malformed.line, malformed.reason);
                    continue;
                }
            };
            let line = row.line;
            let Some(name) = row.cell(columns.image) else {
                check.fault(&self.path, line, "it names no image");
                continue;
            };
            let name = with_slashes(name).into_owned();
            if let Some(before) = lines.insert(name.clone(), line) {
                check.fault(
                    &self.path,
                    line,
                    format!("image '{name}' stands in line {before}, too"),
                );
            }
            let patient = columns.patient.and_then(|column| row.cell(column));
            without_patient += u64::from(patient.is_none());
            let patient = patient.unwrap_or(&name).to_owned();
            let split = columns.split.and_then(|column| row.cell(column));
            let side = split.and_then(|split| {
                if !SIDES.contains(&split_name(split)) {
                    unknown.entry(split.to_owned()).or_insert((line, 0)).1 += 1;
                    return None;
                }
                check.side_of(Some(split), Some(patient.clone()), line, &mut patients)
            });
            let mut labels = [Label::Blank; Finding::ALL.len()];
            for (finding, column) in &columns.findings {
                match cells::label(row.cell(*column).unwrap_or_default()) {
                    Ok(label) => labels[*finding as usize] = label,
                    Err(reason) => {
                        check.fault(&self.path, line, format!("{}: {reason}", finding.name()))
                    }
                }
            }
            if let Some(column) = columns.labels {
                names.add(&row, column);
            }
            let report = columns.report.map_or("", |column| text_cell(&row, column));
            self.rows.push(FinetuneRow {
                image: self.folder.join(&name),
                line,
                name,
                patient,
                side,
                report: report.split_whitespace().collect::<Vec<_>>().join(" "),
                labels,
                groups: columns.groups.map(|column| {
                    let cell = column.and_then(|column| row.cell(column));
                    cell.unwrap_or_default().to_owned()
                }),
            });
        }
        for (split, (line, count)) in unknown {
            check.fault(
                &self.path,
                line,
                format!(
                    "split '{split}' ({}) is none of train, validate, test: name the column of the split with --split, or \
                     leave this one out",
                    counted(count, "row", "rows")
                ),
            );
        }
        if let Some(column) = columns.labels {
            let name = table.header().names()[column].clone();
            self.take_names(names, &name, columns, check);
        }
        self.look_at_cells(table.header(), columns, check);
        // Where other faults are told, it is for them that nothing is left.
        let is_faultless = !check.has_faults();
        if is_faultless && self.rows.is_empty() {
            check.fault(&self.path, 1, "it has no row that can be used");
        } else if is_faultless && !self.has_labels() && !self.has_reports() {
            check.fault(
                &self.path,
                1,
                "no row has a label or a report: there is nothing to learn from",
            );
        }
        if columns.patient.is_some() && without_patient > 0 {
            self.notes.push(format!(
                "{} no patient: each counts as a patient of its own",
                counted(without_patient, "row names", "rows name")
            ));
        }
        self.note_contradictions();
        self.note_blanks(columns);
        Ok(())
    }

    /// Takes what a column of names says, where no column of the single finding has a label.
    fn take_names(
        &mut self,
        mut names: LabelNames,
        name: &str,
        columns: &Columns,
        check: &mut TableCheck,
    ) {
        let singles: Vec<&str> = columns.findings.iter().map(|(of, _)| of.name()).collect();
        match names.faults.first() {
            // A column that only looks like one of names.
            Some((line, reason)) if !singles.is_empty() && !columns.labels_are_named => {
                self.notes.push(format!(
                    "column '{name}' is not read, since there are columns of single findings, and it names other things (line {line}: \
                     {reason}); name it with --labels to read it"
                ));
                return;
            }
            Some(_) => {
                for (line, reason) in names.faults {
                    check.fault(&self.path, line, reason);
                }
                return;
            }
            None => {}
        }
        if let Some((line, count)) = names.nones {
            self.notes.push(format!(
                "{} None in '{name}', the first in line {line}: not labelled, as where a program writes it; an image without any \
                 finding has the name 'No Finding'",
                counted(count, "cell says", "cells say")
            ));
        }
        let mut unnamed = names.forget_unnamed();
        if unnamed.len() == Finding::ALL.len() {
            unnamed.clear();
        }
        let mut differing: Option<(u64, u64)> = None;
        for (row, named) in self.rows.iter_mut().zip(&names.rows) {
            for (label, named) in row.labels.iter_mut().zip(named) {
                match *label {
                    Label::Blank => *label = *named,
                    _ if *named == Label::Blank || label == named => {}
                    _ => differing.get_or_insert((row.line, 0)).1 += 1,
                }
            }
        }
        if !singles.is_empty() {
            self.notes.push(format!(
                "columns of single findings ({}) come before what '{name}' names, where they have a label",
                singles.join(", ")
            ));
        }
        if let Some((line, count)) = differing {
            self.notes.push(format!(
                "{} '{name}', the first in line {line}: '{name}' counts less",
                counted(
                    count,
                    "label of a single finding contradicts",
                    "labels of single findings contradict"
                )
            ));
        }
        let unnamed = unnamed.into_iter().map(Finding::name);
        let unnamed: Vec<&str> = unnamed.filter(|name| !singles.contains(name)).collect();
        if !unnamed.is_empty() {
            self.notes.push(format!(
                "no row names {}: nothing is known of it, and it is not learned",
                unnamed.join(", ")
            ));
        }
    }

    /// Looks for columns that hold something else than they were taken for.
    fn look_at_cells(&mut self, header: &Header, columns: &Columns, check: &mut TableCheck) {
        let name = |column: usize| header.names().get(column).map_or("", String::as_str);
        let (mut faults, mut notes) = (Vec::new(), Vec::new());
        let mut is_passed_over = false;
        if let Some(column) = columns.report {
            let texts = self.rows.iter().map(|row| (row.line, row.report.as_str()));
            let texts: Vec<FilledCell<'_>> = texts.filter(|(_, text)| !text.is_empty()).collect();
            let (column, is_named) = (name(column), columns.report_is_named);
            faults.extend(mistaken::failed_formulas(&texts, column));
            match mistaken::no_reports(&texts, column, is_named) {
                // A column that only looks like one of reports, of which there need be none.
                Some(NoReports { line, what, .. }) if !is_named && self.has_labels() => {
                    is_passed_over = true;
                    notes.push(format!(
                        "{what} (line {line}): it is not read, since there are labels; name it with --report to read it"
                    ));
                }
                Some(NoReports { line, what, advice }) => {
                    faults.push((line, format!("{what}: {advice}")));
                }
                None => notes.extend(mistaken::not_english(&texts).map(|others| {
                    format!(
                        "{others} of {} reports have none of the commonest words of English ones: the demo and the published \
                         models know English alone, and what CheXbert reads from other texts means nothing",
                        texts.len()
                    )
                })),
            }
        }
        if is_passed_over {
            self.rows.iter_mut().for_each(|row| row.report.clear());
        }
        if let Some(column) = columns.patient {
            // A row without a patient goes by the name of its image.
            let ids = self.rows.iter().filter(|row| row.patient != row.name);
            let ids = ids.map(|row| (row.line, row.patient.as_str()));
            let ids: Vec<FilledCell<'_>> = ids.collect();
            faults.extend(mistaken::patients(
                &ids,
                name(column),
                columns.patient_is_study,
            ));
        }
        for (at, (kind, _)) in GROUPS.into_iter().enumerate() {
            let is_misread = |row: &&FinetuneRow| Subgroup::is_misread(kind, &row.groups[at]);
            let mut misread = self.rows.iter().filter(is_misread);
            if let Some(first) = misread.next() {
                let (line, count) = (first.line, 1 + misread.count());
                notes.push(format!(
                    "the {kind} of {} cannot be read, the first in line {line}: such rows are in no subgroup by it",
                    counted(count, "row", "rows")
                ));
            }
        }
        for (line, fault) in faults {
            check.fault(&self.path, line, fault);
        }
        self.notes.extend(notes);
    }

    /// Counts the rows that have a finding and none at once.
    fn note_contradictions(&mut self) {
        let is_one = |row: &&FinetuneRow| {
            let is_there = |finding: Finding| row.labels[finding as usize] == Label::Positive;
            let is_finding = |finding: &Finding| {
                !matches!(finding, Finding::NoFinding | Finding::SupportDevices)
            };
            let mut findings = Finding::ALL.into_iter().filter(is_finding);
            is_there(Finding::NoFinding) && findings.any(is_there)
        };
        let rows: Vec<u64> = self
            .rows
            .iter()
            .filter(is_one)
            .map(|row| row.line)
            .collect();
        if let Some(first) = rows.first() {
            self.notes.push(format!(
                "{} No Finding beside a finding, the first in line {first}: both are learned as they stand",
                counted(rows.len(), "row has", "rows have")
            ));
        }
    }

    fn note_blanks(&mut self, columns: &Columns) {
        let count =
            |of: &dyn Fn(&FinetuneRow) -> bool| self.rows.iter().filter(|row| of(row)).count();
        let without = count(&|row| row.report.is_empty());
        let unlabelled = count(&|row| !row.is_labelled());
        let (all, mut notes) = (self.rows.len(), Vec::new());
        if columns.report.is_some() && without > 0 {
            notes.push(format!("{without} of {all} rows have no report"));
        }
        if (columns.labels.is_some() || !columns.findings.is_empty()) && unlabelled > 0 {
            notes.push(format!("{unlabelled} of {all} rows have no label"));
        }
        let unknown: Vec<&str> = self.unlabelled().into_iter().map(Finding::name).collect();
        if self.has_reports() && !unknown.is_empty() {
            notes.push(format!(
                "no row has a label of {}: where there is a report, the start's CheXbert reads them for the parts that learn from \
                 texts, and for the tags beside which texts are scored; the classifier does not learn them",
                unknown.join(", ")
            ));
        }
        self.notes.extend(notes);
    }

    /// Decodes every image, on all cores.
    fn look_at_images(&self, check: &mut TableCheck, progress: &(dyn Fn(u64, u64) + Sync)) {
        let (done, total) = (AtomicU64::new(0), self.rows.len() as u64);
        let look = |row: &FinetuneRow| {
            let fault = match row.image.is_file() {
                false => Some(format!("there is no image '{}'", row.image.display())),
                true => pixels(&row.image, LOOK)
                    .err()
                    .map(|error| error.to_string()),
            };
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Some((row.line, fault?))
        };
        let is_none_there = || self.rows.iter().all(|row| !row.image.is_file());
        if let Some(first) = self.rows.first().filter(|_| is_none_there()) {
            let (images, shown) = (self.rows.len(), first.image.display());
            let fault = format!(
                "none of the {images} images is there, e.g. '{shown}': name the folder of the images with --images, or another column of \
                 them with --image"
            );
            check.fault(&self.path, first.line, fault);
            return;
        }
        let faults: Vec<_> = self.rows.par_iter().filter_map(look).collect();
        for (line, fault) in faults {
            check.fault(&self.path, line, fault);
        }
        // One file by two names is one image.
        let mut files: HashMap<PathBuf, &FinetuneRow> = HashMap::new();
        for row in &self.rows {
            let Ok(file) = row.image.canonicalize() else {
                continue;
            };
            match files.entry(file) {
                Entry::Vacant(free) => _ = free.insert(row),
                Entry::Occupied(first) if first.get().name == row.name => {}
                Entry::Occupied(first) => {
                    let FinetuneRow { line, name, .. } = first.get();
                    let fault = format!(
                        "image '{}' is the file of '{name}' in line {line}, too",
                        row.name
                    );
                    check.fault(&self.path, row.line, fault);
                }
            }
        }
    }

    /// Whether any row has a report.
    pub fn has_reports(&self) -> bool {
        self.rows.iter().any(|row| !row.report.is_empty())
    }

    /// Whether any row has a label.
    pub fn has_labels(&self) -> bool {
        self.rows.iter().any(FinetuneRow::is_labelled)
    }
}

#[cfg(test)]
mod tests;
