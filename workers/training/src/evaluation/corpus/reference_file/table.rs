//! References in a table: rows of texts, of labels, or of both.

use radialog_schemas::table::{Row, listed};
use radialog_schemas::{Finding, Label};

use super::columns::Columns;
use super::{ReferenceEntry, ReferenceFile, References};
use crate::error::TrainingError;
use crate::evaluation::corpus::FaultKind;
use crate::evaluation::corpus::stored_texts::TextStore;
use crate::evaluation::label_source::LabelSource;
use crate::prepare::{TableFile, text_cell};

impl References {
    pub(super) fn read_table(
        &mut self,
        file: &mut ReferenceFile,
        store: &mut TextStore,
        labelled: &mut [bool; Finding::ALL.len()],
    ) -> Result<(), TrainingError> {
        let mut table = TableFile::open(&file.path)?;
        let columns = Columns::of(&table, &file.path)?;
        file.has_texts = columns.text.is_some();
        file.has_labels = columns.findings.iter().any(Option::is_some);
        file.labels_by = file
            .has_labels
            .then(|| LabelSource::table(&file.path, table.names()));
        if let Some(column) = columns.text {
            self.notes.push(format!(
                "reference texts are the column '{}' of {}",
                table.names()[column],
                file.path.display()
            ));
        }
        let mut unknown = vec![(true, false); columns.unused.len()];
        while let Some(row) = table.try_row()? {
            let row = match row {
                Ok(row) => row,
                Err(malformed) => {
                    self.fault(
                        file,
                        malformed.line,
                        "",
                        FaultKind::MalformedRow,
                        malformed.reason,
                    );
                    continue;
                }
            };
            let (index, row) = (row.index, row.row);
            for ((labels, any), &column) in unknown.iter_mut().zip(&columns.unused) {
                match row.text(column).parse::<Label>() {
                    Ok(Label::Blank) => {}
                    Ok(_) => *any = true,
                    Err(_) => *labels = false,
                }
            }
            self.take_row(file, &columns, index, &row, store, labelled)?;
        }
        let names = |columns: &[usize]| {
            let names = columns.iter().map(|&column| table.names()[column].as_str());
            listed(names)
        };
        let (like_labels, others): (Vec<_>, Vec<_>) = columns
            .unused
            .iter()
            .zip(&unknown)
            .partition(|(_, (labels, any))| file.has_labels && *labels && *any);
        let places = |columns: Vec<(&usize, &(bool, bool))>| -> Vec<usize> {
            columns.into_iter().map(|(column, _)| *column).collect()
        };
        let (like_labels, others) = (places(like_labels), places(others));
        let shown = file.path.display();
        if !like_labels.is_empty() {
            self.notes.push(format!(
                "{shown} line 1: columns with labels that are none of the 14 findings, not scored: {}",
                names(&like_labels)
            ));
        }
        if !others.is_empty() && !file.has_texts {
            self.notes.push(format!(
                "{shown} line 1: columns that are not used: {}",
                names(&others)
            ));
        }
        if file.has_labels {
            let missing: Vec<&str> = Finding::ALL
                .into_iter()
                .filter(|finding| columns.findings[*finding as usize].is_none())
                .map(Finding::name)
                .collect();
            if !missing.is_empty() {
                self.notes.push(format!(
                    "{shown} line 1: no column for {}: not scored",
                    missing.join(", ")
                ));
            }
        }
        Ok(())
    }

    fn take_row(
        &mut self,
        file: &mut ReferenceFile,
        columns: &Columns,
        index: Option<String>,
        row: &Row,
        store: &mut TextStore,
        labelled: &mut [bool; Finding::ALL.len()],
    ) -> Result<(), TrainingError> {
        let cell = |column: Option<usize>| column.and_then(|column| row.cell(column));
        let mut keys: Vec<String> = Vec::new();
        keys.extend(
            columns
                .ids
                .iter()
                .filter_map(|&id| row.cell(id))
                .map(str::to_owned),
        );
        keys.extend(index);
        keys.extend(
            columns
                .files
                .iter()
                .filter_map(|&column| row.cell(column))
                .flat_map(|paths| paths.split(';'))
                .map(|path| path.trim().to_owned()),
        );
        let Some(id) = keys.first().cloned() else {
            self.fault(file, row.line, "", FaultKind::NoId, String::new());
            return Ok(());
        };
        let text = columns.text.map_or("", |column| text_cell(row, column));
        let labels = match columns.labels(row) {
            Ok(labels) => labels,
            Err(reason) => {
                self.fault(file, row.line, &id, FaultKind::NoLabel, reason);
                return Ok(());
            }
        };
        for (labelled, label) in labelled.iter_mut().zip(labels.iter().flatten()) {
            *labelled |= *label != Label::Blank;
        }
        let entry = ReferenceEntry {
            id,
            line: row.line,
            labels,
            patient: cell(columns.patient).map(str::to_owned),
            split: cell(columns.split).map(str::to_owned),
            image: cell(columns.image).unwrap_or_default().to_owned(),
            ..ReferenceEntry::default()
        };
        file.add(entry, text, keys, store)
    }
}
