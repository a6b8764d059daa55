//! Generated reports beside what they are compared with, study by study.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use radialog_schemas::table::split_name;
use radialog_schemas::{Finding, Label};
use serde::{Deserialize, Serialize};

use self::look_up::{found, rows_with_text};
use super::prediction_file::PredictionFile;
use super::reference_file::{ReferenceFile, References};
use super::stored_texts::{Span, StoredTexts};
use super::{FaultKind, Faults, InputFault};
use crate::error::TrainingError;
use crate::evaluation::label_source::{LabelSource, LabelSources};
use crate::evaluation::patients::{self, Patients};
use crate::evaluation::stored_rows::{StoredRows, temporary};
use crate::evaluation::text_scores::protocol::{TOO_LONG, TextProtocol};
use crate::prepare::FindingLabels;

mod look_up;

/// A generated report and what it is compared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MatchedStudy {
    /// The study.
    pub id: String,
    /// The patient, as a number from 0 on; studies whose patient is not known are a patient each.
    pub patient: u32,
    /// The image's name, where it is known.
    pub image: String,
    /// The line of the prediction.
    pub line: u64,
    /// The side of the data, where it is known.
    pub split: Option<String>,
    /// The number of the file that the reference text is in, and its line there; none where there is no text.
    pub reference_at: Option<(u32, u64)>,
    /// The generated report; none where only findings were computed.
    pub prediction: Option<Span>,
    /// The radiologist's text, where there is one.
    pub reference: Option<Span>,
    /// What a labeler says of the generated report.
    pub labels: Option<FindingLabels>,
    /// Who labels the generated report, where it has labels: a place in the corpus' sources.
    labels_by: Option<u16>,
    /// What is true: labels of a table, or what a labeler says of the radiologist's text.
    pub reference_labels: Option<FindingLabels>,
    /// Whose labels those are, where there are any: a place in the corpus' sources.
    truth_by: Option<u16>,
    /// Whether they are of a table, which may leave findings unknown.
    pub is_of_table: bool,
    /// What the classifier sees in the image: probabilities of the 14 findings, none of one that it does not assess.
    pub probabilities: Option<[Option<f32>; Finding::ALL.len()]>,
    /// Which of them it calls present, by the bundle's thresholds.
    pub present: Option<[bool; Finding::ALL.len()]>,
    /// Whether these were given with the run as yes and no, and are no classifier's.
    pub findings_are_given: bool,
    /// How far sampled reports agree with the report, 0 to 1, where the run has sampled some.
    pub agreement: Option<f64>,
    /// RadGraph F1, where there are annotations of the report and its reference.
    pub radgraph_f1: Option<f64>,
    /// BERTScore and the similarity of CheXbert's embeddings, where somebody has computed them.
    pub similarities: Option<[f64; 2]>,
}

/// What is scored, in the order of the references, and what is not.
#[derive(Debug)]
pub struct Corpus {
    /// The file of the predictions.
    file: Arc<str>,
    /// The files of the references.
    reference_files: Vec<Arc<str>>,
    /// Whose labels there may be.
    sources: Vec<LabelSource>,
    /// What is scored.
    pub studies: StoredRows<MatchedStudy>,
    /// The number of predictions that were read.
    pub predictions: u64,
    /// The number of patients that are known by name; 0 where every study counts as a patient.
    pub patients: u64,
    /// The number of studies whose patient is not known.
    pub other_patients: u64,
    /// Predictions of another split than the one that is scored.
    pub other_splits: u64,
    /// Predictions that a limit or a stratified selection left out.
    pub not_selected: u64,
    /// Findings that no table of labels has a label of.
    pub unlabelled: Vec<Finding>,
    /// Everything that is wrong with the files.
    pub faults: Faults,
    /// What to know about how they were read.
    pub notes: Vec<String>,
    /// Whether predictions have no ids.
    by_order: bool,
}

/// What others have computed of a study.
#[derive(Clone, Debug, Default)]
pub struct StudyAnnotation {
    /// RadGraph F1, where there are annotations.
    pub radgraph_f1: Option<f64>,
    /// BERTScore and the similarity of CheXbert's embeddings.
    pub similarities: Option<[f64; 2]>,
    /// What is missing, and in which file.
    pub faults: Vec<(FaultKind, String)>,
}

/// How predictions and references are put together.
#[derive(Clone, Debug, Default)]
pub struct MatchOptions {
    /// Only studies of this side of the data.
    pub split: Option<String>,
    /// Whether a row of a label table without any label says that nothing is there; else it says nothing.
    pub blank_is_absent: bool,
}

/// A study and its patient's name.
type NamedPatient = (Option<String>, MatchedStudy);

impl Corpus {
    /// Puts predictions and references together. Without references, those are taken that came with the predictions.
    ///
    /// # Errors
    /// A split is asked for that neither side names; files without ids whose numbers of rows differ.
    pub fn of(
        file: PredictionFile,
        references: Option<References>,
        options: &MatchOptions,
    ) -> Result<Self, TrainingError> {
        let shown = file.name.clone();
        // References that are named are the only ones: a run's own would mix two truths.
        let has_references = references.is_some();
        let mut references = references.unwrap_or_default();
        let mut files = references.files;
        let names = files.iter().map(|file| file.path.to_string_lossy().into());
        let mut corpus = Self {
            file: shown.clone(),
            reference_files: names.collect(),
            sources: Vec::new(),
            studies: StoredRows::new().map_err(temporary)?,
            predictions: file.predictions.len() as u64,
            patients: 0,
            other_patients: 0,
            other_splits: 0,
            not_selected: 0,
            unlabelled: references.unlabelled,
            faults: Faults::default(),
            notes: file.notes,
            by_order: file.by_order,
        };
        corpus.notes.append(&mut references.notes);
        let wanted = options.split.as_deref().map(split_name);
        let is_other = |fault: &InputFault| {
            let split = file.failed_splits.get(&fault.line);
            let is_failed = fault.kind == FaultKind::FailedStudy;
            let other = split.filter(|split| wanted.is_some_and(|of| of != split_name(split)));
            is_failed && other.is_some()
        };
        match file.failed_splits.is_empty() || wanted.is_none() {
            true => corpus.faults = file.faults,
            false => {
                let others = corpus
                    .faults
                    .add_all(&file.faults, |fault| !is_other(fault));
                others.map_err(temporary)?;
                let kept = corpus.faults.len();
                corpus.other_splits += file.faults.len() - kept;
            }
        }
        let others = &references.faults;
        corpus.faults.add_all(others, |_| true).map_err(temporary)?;
        let mut rows = Vec::new();
        if file.by_order {
            rows = rows_with_text(&file.path, file.predictions.len(), &files)?;
        } else if let Some(rows) = files.iter().find(|file| file.by_order) {
            return Err(TrainingError::content(&rows.path)(
                "texts without ids can be compared with predictions without ids only: give a table with a column of ids",
            ));
        }
        let of_run = |texts: &str| LabelSource::chexbert(&format!("{texts} scoring stage"));
        let reports_by = corpus.source(of_run("reports, by the run's"));
        let references_by = corpus.source(of_run("references of the run, by its"));
        let mut any_split = false;
        let mut studies: StoredRows<NamedPatient> = StoredRows::new().map_err(temporary)?;
        // Where the references stand, and those that stand nowhere by id: lines of a run are in the order in which they were done.
        let mut placed: Vec<((u32, u32), u32)> = Vec::new();
        let mut unplaced: Vec<(Box<str>, u32)> = Vec::new();
        if !file.by_order {
            for prediction in file.predictions.iter() {
                let prediction = prediction.map_err(temporary)?;
                files.iter_mut().for_each(|file| file.note(&prediction));
            }
        }
        for prediction in file.predictions.iter() {
            let prediction = prediction.map_err(temporary)?;
            let id = prediction.id.clone();
            let line = prediction.line;
            let mut fault = |kind, detail| {
                corpus.faults.add(InputFault {
                    file: shown.clone(),
                    line,
                    id: id.clone(),
                    kind,
                    detail,
                });
            };
            let found = match found(&prediction, &mut files, &rows).map_err(temporary)? {
                Ok(found) => found,
                Err((kind, detail)) => {
                    fault(kind, detail);
                    continue;
                }
            };
            let split = found.split.or(prediction.split);
            any_split |= split.is_some();
            if let Some(wanted) = wanted {
                match &split {
                    None => {
                        fault(FaultKind::UnknownSplit, String::new());
                        continue;
                    }
                    Some(split) if split_name(split) != wanted => {
                        corpus.other_splits += 1;
                        continue;
                    }
                    Some(_) => {}
                }
            }
            let of_table = found.labels.filter(|labels| {
                options.blank_is_absent || labels.iter().any(|label| *label != Label::Blank)
            });
            let of_run = prediction.reference_labels.filter(|_| !has_references);
            let reference_labels = of_table.or(of_run);
            let reference = found
                .text
                .or(prediction.reference.filter(|_| !has_references));
            if reference.is_none() && reference_labels.is_none() {
                let kind = match found.place {
                    Some(_) => FaultKind::EmptyReference,
                    None => FaultKind::NoReference,
                };
                fault(kind, found.detail);
                continue;
            }
            // Its other half is scored.
            if found.is_partly_empty || found.labels.is_some() && of_table.is_none() {
                fault(FaultKind::EmptyReference, found.detail);
            }
            let study = MatchedStudy {
                id: found.id.filter(|_| file.by_order).unwrap_or(prediction.id),
                patient: 0,
                image: if prediction.image.is_empty() {
                    found.image
                } else {
                    prediction.image
                },
                line: prediction.line,
                split,
                reference_at: found.text_at,
                prediction: prediction.text,
                reference,
                labels: prediction.labels,
                labels_by: prediction.labels.map(|_| reports_by),
                truth_by: match of_table {
                    Some(_) => found.labels_by.map(|source| corpus.source(source)),
                    None => of_run.map(|_| references_by),
                },
                reference_labels,
                is_of_table: of_table.is_some(),
                probabilities: prediction.probabilities,
                present: prediction.present,
                findings_are_given: prediction.findings_are_given,
                agreement: prediction.agreement,
                radgraph_f1: None,
                similarities: None,
            };
            let row = studies.len() as u32;
            match found.place {
                Some(place) => placed.push((place, row)),
                None => unplaced.push((study.id.as_str().into(), row)),
            }
            let patient = found.patient.or(prediction.patient);
            studies.add(&(patient, study)).map_err(temporary)?;
        }
        if let Some(split) = &options.split
            && !any_split
            && corpus.predictions > 0
        {
            return Err(TrainingError::Empty(format!(
                "neither the predictions nor the references name a split: leave out --split {split}, or add a column split"
            )));
        }
        corpus.name_unused(&files, wanted).map_err(temporary)?;
        placed.sort_unstable();
        unplaced.sort_unstable();
        let placed = placed.into_iter().map(|(_, row)| row);
        let order = placed.chain(unplaced.into_iter().map(|(_, row)| row));
        corpus.take(&studies, order).map_err(temporary)?;
        Ok(corpus)
    }

    /// The place of a source of labels.
    fn source(&mut self, source: LabelSource) -> u16 {
        let known = self.sources.iter().position(|known| *known == source);
        let place = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        place as u16
    }

    /// Takes studies in this order, and numbers their patients.
    fn take(
        &mut self,
        studies: &StoredRows<NamedPatient>,
        order: impl Iterator<Item = u32>,
    ) -> io::Result<()> {
        let mut patients = Patients::default();
        for row in order {
            let (patient, mut study) = studies.get(row as usize)?;
            let of_folder = || patients::of_path(&study.image);
            study.patient = patients.number(patient.as_deref().or_else(of_folder));
            self.studies.add(&study)?;
        }
        (self.patients, self.other_patients) = (patients.named(), patients.others());
        Ok(())
    }

    /// Takes the references away from texts that are too long to be compared with them, and names those.
    ///
    /// # Errors
    /// A text cannot be read.
    pub fn drop_long_texts(
        &mut self,
        texts: &StoredTexts,
        protocol: TextProtocol,
    ) -> io::Result<()> {
        let (file, faults) = (&self.file, &mut self.faults);
        self.studies.rewrite(|mut study| {
            let (Some(text), Some(reference)) = (study.prediction, study.reference) else {
                return Ok(Some(study));
            };
            if protocol.is_too_long(&texts.read(text)?, &texts.read(reference)?) {
                study.reference = None;
                faults.add(study.fault(file, FaultKind::TooLong, TOO_LONG));
            }
            Ok(Some(study))
        })
    }

    /// Names the studies that are scored with an empty report.
    ///
    /// # Errors
    /// The studies cannot be read.
    pub fn name_empty(&mut self) -> io::Result<()> {
        for study in self.studies.iter() {
            let study = study?;
            if study.prediction.is_some_and(|text| text.bytes() == 0) {
                let fault = study.fault(&self.file, FaultKind::EmptyPrediction, "");
                self.faults.add(fault);
            }
        }
        Ok(())
    }

    /// Takes what others have computed of each study, by its id and whether its report has a text.
    ///
    /// # Errors
    /// The studies cannot be read or stored.
    pub fn annotate(
        &mut self,
        annotation: impl Fn(&str, bool) -> StudyAnnotation,
    ) -> io::Result<()> {
        let (file, faults) = (&self.file, &mut self.faults);
        self.studies.rewrite(|mut study| {
            let has_text = study.prediction.is_some_and(|text| text.bytes() > 0);
            let found = annotation(&study.id, has_text);
            (study.radgraph_f1, study.similarities) = (found.radgraph_f1, found.similarities);
            for (kind, detail) in found.faults {
                faults.add(study.fault(file, kind, &detail));
            }
            Ok(Some(study))
        })
    }

    /// Whether predictions have no ids, and are numbered.
    pub fn has_rows(&self) -> bool {
        self.by_order
    }

    /// Whose labels the studies have.
    ///
    /// # Errors
    /// The studies cannot be read.
    pub fn label_sources(&self) -> io::Result<LabelSources> {
        let (mut reports, mut truth) = (BTreeSet::new(), BTreeSet::new());
        for study in self.studies.iter() {
            let study = study?;
            reports.extend(study.labels_by.filter(|_| study.labels.is_some()));
            truth.extend(study.truth_by.filter(|_| study.reference_labels.is_some()));
        }
        let source = |place: &u16| self.sources.get(usize::from(*place));
        Ok(LabelSources::of(
            reports.iter().filter_map(source),
            truth.iter().filter_map(source),
        ))
    }

    /// Takes over what is wrong with the predictions of another system, so that it is told beside ours.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn add_faults_of(&mut self, other: &Self) -> io::Result<()> {
        let of_predictions = |fault: &InputFault| fault.file == other.file;
        self.faults.add_all(&other.faults, of_predictions)
    }

    fn name_unused(&mut self, files: &[ReferenceFile], wanted: Option<&str>) -> io::Result<()> {
        for file in files {
            let shown: Arc<str> = file.path.to_string_lossy().into();
            let repeating = file.repeating_used();
            for (place, (entry, used)) in (0u32..).zip(file.entries.iter().zip(&file.used)) {
                let entry = entry?;
                let split = entry.split.as_deref().map(split_name);
                if *used || wanted.is_some() && split.is_some() && split != wanted {
                    continue;
                }
                self.faults.add(InputFault {
                    file: shown.clone(),
                    line: entry.line,
                    id: entry.id,
                    kind: match repeating.contains(&place) {
                        true => FaultKind::RepeatedReference,
                        false => FaultKind::ReferenceWithoutPrediction,
                    },
                    detail: String::new(),
                });
            }
        }
        Ok(())
    }

    /// The texts that a labeler has to read, since there are no labels of them: generated reports and, with them, references
    /// without labels.
    pub fn texts_to_label(&self) -> impl Iterator<Item = io::Result<Span>> + '_ {
        self.studies.iter().flat_map(|study| {
            let (texts, error) = match study {
                Ok(study) => {
                    let generated = study.prediction.filter(|_| study.labels.is_none());
                    let reference = study.reference.filter(|_| study.reference_labels.is_none());
                    ([generated, reference], None)
                }
                Err(error) => ([None, None], Some(Err(error))),
            };
            texts.into_iter().flatten().map(Ok).chain(error)
        })
    }

    /// Takes what a labeler says of the texts that had no labels; what it failed on is a fault. `labeler` is how they were labelled,
    /// in words behind a comma.
    ///
    /// # Errors
    /// An error of `label`; the studies cannot be read or stored.
    pub fn take_labels<E: From<io::Error>>(
        &mut self,
        labeler: &str,
        label: impl Fn(Span) -> Result<Option<FindingLabels>, E>,
    ) -> Result<(), E> {
        let of_texts = |texts: &str| LabelSource::chexbert(&format!("{texts}, {labeler}"));
        let reports_by = self.source(of_texts("reports"));
        let references_by = self.source(of_texts("reference texts"));
        let (predictions, references) = (&self.file, &self.reference_files);
        let faults = &mut self.faults;
        self.studies.rewrite(|mut study| {
            if let (Some(text), None) = (study.prediction, &study.labels) {
                study.labels = label(text)?;
                study.labels_by = study.labels.map(|_| reports_by);
                if study.labels.is_none() {
                    faults.add(study.fault(predictions, FaultKind::NotLabelled, ""));
                }
            }
            if let (Some(text), None) = (study.reference, &study.reference_labels) {
                study.reference_labels = label(text)?;
                study.truth_by = study.reference_labels.map(|_| references_by);
                if study.reference_labels.is_none() {
                    let mut fault = study.fault(predictions, FaultKind::NotLabelled, "");
                    // Without a place of its own, it came with the prediction.
                    if let Some((file, line)) = study.reference_at
                        && let Some(file) = references.get(file as usize)
                    {
                        (fault.file, fault.line) = (file.clone(), line);
                    }
                    faults.add(fault);
                }
            }
            Ok(Some(study))
        })
    }

    /// Keeps the studies that are wanted; one about which nobody can say is left out, and named.
    pub(super) fn select(
        &mut self,
        mut wanted: impl FnMut(&MatchedStudy) -> Option<bool>,
    ) -> io::Result<()> {
        let (file, faults) = (&self.file, &mut self.faults);
        let not_selected = &mut self.not_selected;
        self.studies.rewrite(|study| match wanted(&study) {
            Some(true) => Ok(Some(study)),
            Some(false) => {
                *not_selected += 1;
                Ok(None)
            }
            None => {
                faults.add(study.fault(file, FaultKind::Unlabelled, ""));
                Ok(None)
            }
        })
    }
}

impl MatchedStudy {
    /// What is wrong with the study's prediction.
    fn fault(&self, file: &Arc<str>, kind: FaultKind, detail: &str) -> InputFault {
        InputFault {
            file: file.clone(),
            line: self.line,
            id: self.id.clone(),
            kind,
            detail: detail.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
