//! Generated reports: the lines of a run, a CSV table, a CSV of texts alone, or ReXrank's JSON.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use radialog_schemas::table::{LONGEST_ROW, RowParser, listed};
use radialog_schemas::{Finding, Labels, ObjectKey, Stage, StudyRecord, counted};
use serde::{Deserialize, Serialize};

use super::names::{ends, whole};
use super::rexrank_file::{PREDICTION, RexrankStudies};
use super::stored_texts::{Span, TextStore};
use super::{FaultKind, Faults, InputFault, comparable};
use crate::error::TrainingError;
use crate::evaluation::id_digest::IdDigest;
use crate::evaluation::stored_rows::{StoredRows, temporary};
use crate::evaluation::text_file::{DAMAGED_RECORD, utf_8};
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
/// Predictions whose references are taken at a time.
const TAKEN: usize = 256;
/// The lines of a run.
const RESULTS_FILE: &str = "results.jsonl";

/// One generated report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// Where the radiologist's report is in the store of the run.
    pub stored_reference: Option<ObjectKey>,
    /// The radiologist's report of the run, once it was fetched.
    pub reference: Option<Span>,
    /// What the classifier sees in the image: probabilities of the 14 findings, none of one that it does not assess.
    pub probabilities: Option<[Option<f32>; Finding::ALL.len()]>,
    /// Which of them it calls present, by the bundle's thresholds.
    pub present: Option<[bool; Finding::ALL.len()]>,
    /// How far sampled reports agree with the report, 0 to 1, where the run has sampled some.
    pub agreement: Option<f64>,
    /// The side of the data, where the file says.
    pub split: Option<String>,
    /// The patient, where the file says.
    pub patient: Option<String>,
    /// Whether the findings were given with the run: their probabilities are 0 and 1, and no classifier's.
    pub findings_are_given: bool,
}

/// All predictions of a file, in its order.
#[derive(Debug)]
pub struct PredictionFile {
    /// The file that was read.
    pub path: PathBuf,
    /// What people call it.
    pub(super) name: Arc<str>,
    /// Its predictions, each id once.
    pub predictions: StoredRows<Prediction>,
    /// The line of each id.
    lines: HashMap<IdDigest, u32>,
    /// The side of the data of studies that failed in the run, by line, where it is known.
    pub(super) failed_splits: HashMap<u64, String>,
    /// Whether predictions have no ids and stand in the order of the references.
    pub by_order: bool,
    /// Whether the file has what they are compared with, too.
    pub has_references: bool,
    /// Whether a run's store has what they are compared with.
    pub has_stored_references: bool,
    /// What is wrong with it.
    pub faults: Faults,
    /// What to know about how it was read.
    pub notes: Vec<String>,
}

/// The ids that studies may have.
#[derive(Debug)]
pub struct PredictionNames(HashSet<IdDigest>);

impl Prediction {
    /// The names that the study may have in a table: its own id, its image's path, its folder in MIMIC-CXR's tree.
    pub(super) fn names(&self) -> Vec<&str> {
        let of_file = [&self.id, &self.study, &self.image];
        let of_file = of_file.into_iter().filter(|name| !name.is_empty());
        let mut names: Vec<&str> = of_file
            .flat_map(|name| [comparable(name), whole(name)])
            .collect();
        for path in [&self.image, &self.id] {
            let mut folders = path.rsplit('/').skip(1);
            if let Some(folder) = folders.next()
                && folder.len() == 9
                && folder.starts_with('s')
            {
                names.push(comparable(folder));
            }
        }
        names
    }

    /// The ends of its paths, which may be the whole name that a table has.
    pub(super) fn ends(&self) -> impl Iterator<Item = &str> {
        ends(&self.id).chain(ends(&self.image))
    }
}

impl PredictionNames {
    /// Whether a study may be that of this path.
    pub(super) fn has(&self, path: &str) -> bool {
        let is_one = |name: &str| self.0.contains(&IdDigest::of(name));
        is_one(whole(path)) || ends(path).any(is_one)
    }
}

impl PredictionFile {
    /// Reads predictions: the folder of a run, its `results.jsonl`, a CSV table with columns of ids and texts, a CSV without a
    /// header and with one text a row, or ReXrank's JSON.
    ///
    /// # Errors
    /// No such file, or one of another form.
    pub fn read(path: &Path, store: &mut TextStore) -> Result<Self, TrainingError> {
        Self::read_as(path, None, store)
    }

    /// The same of a copy of a file that people know by this name.
    ///
    /// # Errors
    /// As [`PredictionFile::read`].
    pub fn read_as(
        path: &Path,
        name: Option<&str>,
        store: &mut TextStore,
    ) -> Result<Self, TrainingError> {
        let path = match path.is_dir() {
            true => path.join(RESULTS_FILE),
            false => path.to_owned(),
        };
        let shown = path.to_string_lossy();
        let mut file = Self {
            name: name.unwrap_or(&shown).into(),
            path,
            predictions: StoredRows::new().map_err(temporary)?,
            lines: HashMap::new(),
            failed_splits: HashMap::new(),
            by_order: false,
            has_references: false,
            has_stored_references: false,
            faults: Faults::default(),
            notes: Vec::new(),
        };
        let suffix = file.path.extension().and_then(|suffix| suffix.to_str());
        let has_suffix =
            |name: &str| suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(name));
        match () {
            () if has_suffix("jsonl") => file.read_records(store)?,
            () if has_suffix("json") => file.read_rexrank(store)?,
            _ if is_table(&file.path)? => file.read_table(store)?,
            _ => file.read_rows(store)?,
        }
        // Each id is known.
        file.lines = HashMap::new();
        Ok(file)
    }

    /// Takes the references that the run's store has. `fetch` is asked for some at a time, and has none of what the store has not,
    /// which is named.
    ///
    /// # Errors
    /// An error of `fetch`, or there is no room.
    pub fn take_references<E: From<TrainingError>>(
        &mut self,
        store: &mut TextStore,
        mut fetch: impl FnMut(Vec<ObjectKey>) -> Result<Vec<Option<String>>, E>,
    ) -> Result<(), E> {
        let mut taken = StoredRows::new().map_err(temporary)?;
        let mut gone = Vec::new();
        for predictions in self.predictions.chunks(TAKEN) {
            let mut predictions = predictions.map_err(temporary)?;
            let keys = predictions.iter();
            let keys = keys.filter_map(|prediction| prediction.stored_reference.clone());
            let mut texts = fetch(keys.collect())?.into_iter();
            for prediction in &mut predictions {
                if prediction.stored_reference.is_some() {
                    match texts.next().flatten() {
                        Some(text) if text.trim().is_empty() => {}
                        Some(text) => {
                            prediction.reference = Some(store.add(&text).map_err(temporary)?);
                        }
                        None => gone.push((prediction.line, prediction.id.clone())),
                    }
                }
                taken.add(prediction).map_err(temporary)?;
            }
        }
        self.predictions = taken;
        for (line, id) in gone {
            self.fault(line, &id, FaultKind::ReferenceGone, String::new());
        }
        Ok(())
    }

    /// Every id that a study may have, as a folder of reports may name it.
    ///
    /// # Errors
    /// The predictions cannot be read.
    pub fn names(&self) -> Result<PredictionNames, TrainingError> {
        let mut names = HashSet::new();
        for prediction in self.predictions.iter() {
            let prediction = prediction.map_err(temporary)?;
            let all = prediction.names().into_iter().chain(prediction.ends());
            names.extend(all.map(IdDigest::of));
        }
        Ok(PredictionNames(names))
    }

    /// Takes a prediction whose id no earlier one has.
    fn push(&mut self, prediction: Prediction) -> Result<(), TrainingError> {
        let digest = IdDigest::of(comparable(&prediction.id));
        if let Some(&first) = self.lines.get(&digest) {
            let detail = match first {
                0 => "the first one is scored".to_owned(),
                first => format!("line {first} has this id already, and is scored"),
            };
            let (line, id) = (prediction.line, prediction.id);
            self.fault(line, &id, FaultKind::DuplicatePrediction, detail);
            return Ok(());
        }
        let line = u32::try_from(prediction.line).unwrap_or(u32::MAX);
        self.lines.insert(digest, line);
        self.has_stored_references |= prediction.stored_reference.is_some();
        self.predictions.add(&prediction).map_err(temporary)
    }

    fn read_records(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let path = self.path.clone();
        let file = File::open(&path).map_err(TrainingError::io("open", &path))?;
        let mut lines = BufReader::with_capacity(1 << 18, file);
        let mut text = Vec::new();
        let mut not_assessed = [0_u64; Finding::ALL.len()];
        for number in 1.. {
            text.clear();
            let read = lines.read_until(b'\n', &mut text);
            if read.map_err(TrainingError::io("read", &path))? == 0 {
                break;
            }
            let line = utf_8(&text).map_err(|reason| {
                TrainingError::line(&path, number, format!("{reason}; {DAMAGED_RECORD}"))
            })?;
            if line.trim().is_empty() {
                continue;
            }
            let record: StudyRecord = match serde_json::from_str(line) {
                Ok(record) => record,
                // A run that was killed leaves at most one broken line, its last.
                Err(_) if !line.ends_with('\n') => {
                    let reason = "the last line is cut: run the batch again, which writes it anew";
                    self.fault(number, "", FaultKind::MalformedRow, reason.to_owned());
                    break;
                }
                Err(error) => {
                    let reason = format!("not a study record: {error}; {DAMAGED_RECORD}");
                    return Err(TrainingError::line(&path, number, reason));
                }
            };
            let id = record.study.to_string();
            if let Some(error) = &record.error {
                self.fault(number, &id, FaultKind::FailedStudy, error.to_string());
                let split = record.split.map(|split| (number, split));
                self.failed_splits.extend(split);
                continue;
            }
            // As it was generated: what the original's files have is not stripped.
            let report = match &record.written_report() {
                Some(report) => stored(store, report)?,
                None => None,
            };
            let probabilities = record.findings.as_ref().map(|findings| {
                let mut all = [None; Finding::ALL.len()];
                for finding in findings {
                    all[finding.finding as usize] = finding.probability;
                }
                all
            });
            let is_one = |number: &f32| (0.0..=1.0).contains(number);
            let whole = probabilities.filter(|all| all.iter().flatten().all(is_one));
            if probabilities.is_some() && whole.is_none() {
                self.fault(number, &id, FaultKind::NoProbability, String::new());
            }
            for (count, probability) in not_assessed.iter_mut().zip(whole.iter().flatten()) {
                *count += u64::from(probability.is_none());
            }
            // Where nothing is assessed there is no classifier.
            let probabilities = whole.filter(|all| all.iter().any(Option::is_some));
            let present = record.findings.as_ref().filter(|_| probabilities.is_some());
            let present = present.map(|findings| {
                let is_present = |finding| {
                    let mut found = findings.iter().filter(|each| each.finding == finding);
                    found.any(|each| each.present)
                };
                Finding::ALL.map(is_present)
            });
            self.push(Prediction {
                id,
                study: String::new(),
                line: number,
                text: report,
                labels: record.report_labels.as_ref().map(labels),
                reference_labels: record.reference_labels.as_ref().map(labels),
                stored_reference: record.reference,
                reference: None,
                probabilities,
                present,
                agreement: record.consistency.map(|consistency| consistency.agreement),
                split: record.split,
                patient: None,
                findings_are_given: record.given.contains_key(&Stage::Findings),
                image: record.file,
            })?;
        }
        self.note_not_assessed(&not_assessed);
        Ok(())
    }

    /// Says which findings have no probability in how many studies.
    fn note_not_assessed(&mut self, counts: &[u64; Finding::ALL.len()]) {
        let findings = Finding::ALL.into_iter().zip(counts);
        let names: Vec<String> = findings
            .filter(|(_, count)| **count > 0)
            .map(|(finding, count)| {
                let studies = counted(*count, "study", "studies");
                format!("{} ({studies})", finding.name())
            })
            .collect();
        if !names.is_empty() {
            self.notes.push(format!(
                "not assessed by the run's classifier: {}: in no score of the classifier, and in no disagreement",
                names.join(", ")
            ));
        }
    }

    fn read_rexrank(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let studies = RexrankStudies::read(&self.path)?.0;
        if !studies.iter().any(|(_, study)| study.is_predicted()) {
            return Err(TrainingError::content(&self.path)(
                "no study has a model_prediction: this is the benchmark's input, which `radialog rexrank` answers",
            ));
        }
        for (id, study) in &studies {
            self.has_references |= study.findings().is_some_and(|text| !text.trim().is_empty());
            let line = 0;
            let report = study.text(PREDICTION);
            let text = stored(store, report.as_deref().unwrap_or_default())?;
            self.push(Prediction {
                id: id.clone(),
                line,
                text,
                image: study.text("key_image_path").unwrap_or_default(),
                split: study.text("split"),
                patient: study.text("subject_id"),
                ..Prediction::default()
            })?;
        }
        Ok(())
    }

    fn read_table(&mut self, store: &mut TextStore) -> Result<(), TrainingError> {
        let path = self.path.clone();
        let mut table = TableFile::open(&path)?;
        let found = (table.first(&ID_COLUMNS)?, table.first(&TEXT_COLUMNS)?);
        let (Some(id), Some(column)) = found else {
            let reason = format!(
                "a table of predictions has a column of ids ({}) and one of texts ({}); it has {}. A file without a header has one \
                 text a row",
                ID_COLUMNS.join(", "),
                TEXT_COLUMNS.join(", "),
                table.header().listed()
            );
            return Err(TrainingError::MissingColumn { path, reason });
        };
        let (of_study, id) = match table.optional(IMAGE_ID_COLUMN)? {
            Some(image) if image != id => (Some(id), image),
            _ => (None, id),
        };
        let (split, image) = (table.optional("split")?, table.first(&["image", "file"])?);
        let patient = table.patient_column()?;
        self.notes.push(format!(
            "predictions are the column '{}' of {}",
            table.names()[column],
            path.display()
        ));
        let used = [Some(id), of_study, Some(column), split, image, patient];
        let unused: Vec<&str> = table
            .names()
            .iter()
            .enumerate()
            .filter(|(place, _)| !used.contains(&Some(*place)))
            .map(|(_, name)| name.as_str())
            .collect();
        if !unused.is_empty() {
            self.notes.push(format!(
                "{} line 1: columns that are not used: {}",
                path.display(),
                listed(unused)
            ));
        }
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
            let text = stored(store, text_cell(&row, column))?;
            self.push(Prediction {
                id: study,
                study: cell(of_study).unwrap_or_default().to_owned(),
                line: row.line,
                text,
                image: cell(image).unwrap_or_default().to_owned(),
                split: cell(split).map(str::to_owned),
                patient: cell(patient).map(str::to_owned),
                ..Prediction::default()
            })?;
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
            let text = stored(store, text)?;
            self.push(Prediction {
                id,
                line,
                text,
                ..Prediction::default()
            })?;
        }
        Ok(())
    }

    fn fault(&mut self, line: u64, id: &str, kind: FaultKind, detail: String) {
        self.faults.add(InputFault {
            file: self.name.clone(),
            line,
            id: id.to_owned(),
            kind,
            detail,
        });
    }
}

/// Stores a report; a blank one is empty.
fn stored(store: &mut TextStore, text: &str) -> Result<Option<Span>, TrainingError> {
    let text = match text.trim() {
        "" => "",
        _ => text,
    };
    store.add(text).map(Some).map_err(temporary)
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
    let (mut lines, mut first, mut declared) = (BufReader::new(file), Vec::new(), None);
    loop {
        let read = lines.read_until(b'\n', &mut first);
        read.map_err(TrainingError::io("read", path))?;
        if !RowParser::is_before_header(&first, &mut declared) {
            break;
        }
        first.clear();
    }
    if declared.is_some() {
        return Ok(true);
    }
    // What is longer is no header; whether it was meant as one, its start tells.
    let start = &first[..first.len().min(LONGEST_ROW)];
    let Ok(header) = RowParser::header(start, None) else {
        return Ok(false);
    };
    // A text may have semicolons.
    let is_named = |name: &&str| header.column(name).is_some();
    let named = ID_COLUMNS.iter().chain(&FILE_COLUMNS).any(is_named);
    Ok(named || (header.width() > 1 && header.separator() == ','))
}
