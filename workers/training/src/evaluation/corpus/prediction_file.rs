//! Generated reports: the lines of a run, a CSV table, a CSV of texts alone, or ReXrank's JSON.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use radialog_schemas::table::RowParser;
use radialog_schemas::{Finding, Labels, ObjectKey, StudyRecord};

use super::rexrank_file;
use super::stored_texts::{Span, TextStore};
use super::{FaultKind, InputFault, comparable, stem};
use crate::error::TrainingError;
use crate::evaluation::text_rows::TextRows;
use crate::prepare::{FindingLabels, TableFile, text_cell};

/// Names of the columns that have a study's id, the best first.
pub(super) const ID_COLUMNS: [&str; 5] = ["study_id", "dicom_id", "id", "study", "image_id"];
/// Further columns by which a row may be known: names of files, perhaps several with `;` between them.
pub(super) const FILE_COLUMNS: [&str; 5] = ["image", "images", "img_filename", "note_file", "path"];
/// The column of a row's image, by which predictions are told apart where a study has several.
const IMAGE_ID_COLUMN: &str = "dicom_id";
/// Names of the columns that have a generated text, the best first.
const TEXT_COLUMNS: [&str; 8] = [
    "prediction",
    "model_prediction",
    "generated",
    "generated_report",
    "hypothesis",
    "report",
    "findings",
    "text",
];
/// The lines of a run.
const RESULTS_FILE: &str = "results.jsonl";

/// One generated report.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    /// The study, or its image where the file names both.
    pub id: String,
    /// The study, where the file names it beside its image; else empty.
    pub study: String,
    /// The image's name; empty where the file does not say.
    pub image: String,
    /// Where it stands.
    pub line: u64,
    /// The report, where there is one.
    pub text: Option<Span>,
    /// What a labeler says of the report.
    pub labels: Option<FindingLabels>,
    /// What a labeler says of the radiologist's report, as a run over an archive with references has it.
    pub reference_labels: Option<FindingLabels>,
    /// Where the radiologist's report is in the store of the run, and the text itself once it was fetched.
    pub stored_reference: Option<ObjectKey>,
    /// The radiologist's report of the run.
    pub reference: Option<Span>,
    /// What the classifier sees in the image: probabilities of the 14 findings.
    pub probabilities: Option<[f32; Finding::ALL.len()]>,
    /// How far sampled reports agree with the report, 0 to 1, where the run has sampled some.
    pub agreement: Option<f64>,
    /// The side of the data, where the file says.
    pub split: Option<String>,
}

/// All predictions of a file, in its order.
#[derive(Debug, Default)]
pub struct PredictionFile {
    /// The file that was read.
    pub path: PathBuf,
    /// Its predictions, each id once.
    pub predictions: Vec<Prediction>,
    /// Whether predictions have no ids and stand in the order of the references.
    pub by_order: bool,
    /// Whether the file has what they are compared with, too.
    pub has_references: bool,
    /// What is wrong with it.
    pub faults: Vec<InputFault>,
    /// What to know about how it was read.
    pub notes: Vec<String>,
}

impl Prediction {
    /// The ids that the study may have in a table: its own, and those in the path of its image.
    pub(super) fn ids(&self) -> Vec<&str> {
        let mut ids = vec![self.id.as_str(), stem(&self.id)];
        if !self.study.is_empty() {
            ids.push(self.study.as_str());
        }
        if !self.image.is_empty() {
            ids.push(stem(&self.image));
        }
        // The study's folder in MIMIC-CXR's tree.
        for path in [&self.image, &self.id] {
            let mut folders = path.rsplit('/').skip(1);
            if let Some(folder) = folders.next()
                && folder.len() == 9
                && folder.starts_with('s')
            {
                ids.push(folder);
            }
        }
        ids
    }
}

impl PredictionFile {
    /// Reads predictions: the folder of a run, its `results.jsonl`, a CSV table with columns of ids and texts, a CSV without a
    /// header and with one text a row, or ReXrank's JSON.
    ///
    /// # Errors
    /// No such file, or one of another form.
    pub fn read(path: &Path, store: &mut TextStore) -> Result<Self, TrainingError> {
        let path = match path.is_dir() {
            true => path.join(RESULTS_FILE),
            false => path.to_owned(),
        };
        let mut file = Self {
            path,
            ..Self::default()
        };
        let suffix = file.path.extension().and_then(|suffix| suffix.to_str());
        match suffix {
            Some("jsonl") => file.read_records(store)?,
            Some("json") => file.read_rexrank(store)?,
            _ if is_table(&file.path)? => file.read_table(store)?,
            _ => file.read_rows(store)?,
        }
        file.drop_duplicates();
        Ok(file)
    }

    /// The stored references of the run that the predictions are of, each with the place of its prediction.
    pub fn stored_references(&self) -> impl Iterator<Item = (usize, ObjectKey)> + '_ {
        let places = self.predictions.iter().enumerate();
        places.filter_map(|(place, prediction)| Some((place, prediction.stored_reference.clone()?)))
    }

    /// Takes a reference of the run; none where the store does not have it, which is named.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn take_reference(
        &mut self,
        place: usize,
        text: Option<&str>,
        store: &mut TextStore,
    ) -> Result<(), TrainingError> {
        match text {
            Some(text) if text.trim().is_empty() => {}
            Some(text) => {
                let span = store.add(text);
                let span = span.map_err(TrainingError::io("store a text of", &self.path))?;
                self.predictions[place].reference = Some(span);
            }
            None => {
                let (id, line) = (
                    self.predictions[place].id.clone(),
                    self.predictions[place].line,
                );
                self.fault(line, &id, FaultKind::ReferenceGone, String::new());
            }
        }
        Ok(())
    }

    /// Every id that a study may have, as a folder of reports may name it.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let names = self.predictions.iter().flat_map(Prediction::ids);
        names.map(|id| comparable(id).to_owned())
    }

    fn read_records(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let path = self.path.clone();
        let file = File::open(&path).map_err(TrainingError::io("open", &path))?;
        let mut lines = BufReader::with_capacity(1 << 18, file);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let read = lines.read_until(b'\n', &mut text);
            if read.map_err(TrainingError::io("read", &path))? == 0 {
                break;
            }
            let record: StudyRecord = serde_json::from_slice(&text).map_err(|error| {
                TrainingError::line(&path, number, format!("not a study record: {error}"))
            })?;
            let id = record.study.to_string();
            if let Some(error) = &record.error {
                self.fault(number, &id, FaultKind::FailedStudy, error.to_string());
                continue;
            }
            let report = match &record.report {
                Some(report) => self.text(store, number, &id, report)?,
                None => None,
            };
            self.predictions.push(Prediction {
                id,
                study: String::new(),
                line: number,
                text: report,
                labels: record.report_labels.as_ref().map(labels),
                reference_labels: record.reference_labels.as_ref().map(labels),
                stored_reference: record.reference,
                reference: None,
                probabilities: record.findings.as_ref().map(|findings| {
                    let mut all = [0.0; Finding::ALL.len()];
                    for finding in findings {
                        all[finding.finding as usize] = finding.probability;
                    }
                    all
                }),
                agreement: record.consistency.map(|consistency| consistency.agreement),
                split: record.split,
                image: record.file,
            });
        }
        Ok(())
    }

    fn read_rexrank(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let studies = rexrank_file::read(&self.path)?;
        let predicts = |study: &rexrank_file::RexrankStudy| study.model_prediction.is_some();
        if !studies.iter().any(|(_, study)| predicts(study)) {
            return Err(TrainingError::content(&self.path)(
                "no study has a model_prediction: this is the benchmark's input, which `radialog rexrank` answers",
            ));
        }
        for (id, study) in &studies {
            self.has_references |= study.findings().is_some();
            let line = 0;
            let report = rexrank_file::text(study.model_prediction.as_ref());
            let text = self.text(store, line, id, report.as_deref().unwrap_or_default())?;
            self.predictions.push(Prediction {
                id: id.clone(),
                line,
                text,
                image: rexrank_file::text(study.key_image_path.as_ref()).unwrap_or_default(),
                split: rexrank_file::text(study.split.as_ref()),
                ..Prediction::default()
            });
        }
        Ok(())
    }

    fn read_table(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let path = self.path.clone();
        let mut table = TableFile::open(&path)?;
        let find = |names: &[&str]| names.iter().find_map(|name| table.optional(name));
        let (Some(id), Some(column)) = (find(&ID_COLUMNS), find(&TEXT_COLUMNS)) else {
            let reason = format!(
                "a table of predictions has a column of ids ({}) and one of texts ({}); it has {}. A file without a header has one \
                 text a row",
                ID_COLUMNS.join(", "),
                TEXT_COLUMNS.join(", "),
                table.names().join(", ")
            );
            return Err(TrainingError::MissingColumn { path, reason });
        };
        let (of_study, id) = match table.optional(IMAGE_ID_COLUMN) {
            Some(image) if image != id => (Some(id), image),
            _ => (None, id),
        };
        let (split, image) = (table.optional("split"), find(&["image", "file"]));
        self.notes.push(format!(
            "predictions are the column '{}' of {}",
            table.names()[column],
            path.display()
        ));
        loop {
            let row = match table.try_row()? {
                Some(Ok(indexed)) => indexed.row,
                Some(Err(malformed)) => {
                    self.fault(
                        malformed.line,
                        "",
                        FaultKind::MalformedRow,
                        malformed.reason,
                    );
                    continue;
                }
                None => return Ok(()),
            };
            let Some(study) = row.cell(id).map(ToOwned::to_owned) else {
                self.fault(row.line, "", FaultKind::NoId, String::new());
                continue;
            };
            let cell = |column: Option<usize>| column.and_then(|column| row.cell(column));
            let text = self.text(store, row.line, &study, text_cell(&row, column))?;
            self.predictions.push(Prediction {
                id: study,
                study: cell(of_study).unwrap_or_default().to_owned(),
                line: row.line,
                text,
                image: cell(image).unwrap_or_default().to_owned(),
                split: cell(split).map(str::to_owned),
                ..Prediction::default()
            });
        }
    }

    /// Texts alone, as the original's `predictions_*.csv`.
    fn read_rows(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let path = self.path.clone();
        let rows = TextRows::open(&path).map_err(TrainingError::content(&path))?;
        self.by_order = true;
        for (place, row) in rows.enumerate() {
            let (line, text) = row.map_err(TrainingError::content(&path))?;
            let text = radialog_schemas::table::cell(&text).map_or("", |_| text.as_str());
            let id = format!("row {}", place + 1);
            let text = self.text(store, line, &id, text)?;
            self.predictions.push(Prediction {
                id,
                line,
                text,
                ..Prediction::default()
            });
        }
        Ok(())
    }

    fn drop_duplicates(&mut self) {
        let mut lines = std::collections::HashMap::new();
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for prediction in std::mem::take(&mut self.predictions) {
            match lines.get(comparable(&prediction.id)) {
                Some(&first) => dropped.push((prediction, first)),
                None => {
                    lines.insert(comparable(&prediction.id).to_owned(), prediction.line);
                    kept.push(prediction);
                }
            }
        }
        self.predictions = kept;
        for (prediction, first) in dropped {
            let detail = match first {
                0 => "the first one is scored".to_owned(),
                first => format!("line {first} has this id already, and is scored"),
            };
            let (line, id) = (prediction.line, prediction.id);
            self.fault(line, &id, FaultKind::DuplicatePrediction, detail);
        }
    }

    fn fault(&mut self, line: u64, id: &str, kind: FaultKind, detail: String) {
        self.faults.push(InputFault {
            file: self.path.to_string_lossy().into(),
            line,
            id: id.to_owned(),
            kind,
            detail,
        });
    }

    /// Stores a report; one without text is named.
    fn text(
        &mut self,
        store: &mut TextStore,
        line: u64,
        id: &str,
        text: &str,
    ) -> Result<Option<Span>, TrainingError> {
        if text.trim().is_empty() {
            self.fault(line, id, FaultKind::EmptyPrediction, String::new());
        }
        let span = store.add(text);
        span.map(Some)
            .map_err(TrainingError::io("store a text of", &self.path))
    }
}

/// The labels of a record; what it does not name is blank.
fn labels(labels: &Labels) -> FindingLabels {
    Finding::ALL.map(|finding| {
        let label = labels.get(&finding).copied();
        label.unwrap_or(radialog_schemas::Label::Blank)
    })
}

/// Whether a CSV begins with a header: it has a column of ids. A text is one cell.
pub(super) fn is_table(path: &Path) -> Result<bool, TrainingError> {
    if path
        .extension()
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case("gz"))
    {
        return Ok(true);
    }
    let file = File::open(path).map_err(TrainingError::io("open", path))?;
    let mut first = Vec::new();
    let read = BufReader::new(file).read_until(b'\n', &mut first);
    read.map_err(TrainingError::io("read", path))?;
    if RowParser::declared_separator(&first).is_some() {
        return Ok(true);
    }
    let Ok(header) = RowParser::header(&first, None) else {
        return Ok(false);
    };
    // A text may have semicolons.
    let is_named = |name: &&str| header.column(name).is_some();
    let named = ID_COLUMNS.iter().chain(&FILE_COLUMNS).any(is_named);
    Ok(named || (header.width() > 1 && header.separator() == ','))
}
