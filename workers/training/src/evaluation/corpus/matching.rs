//! Generated reports beside what they are compared with, study by study.

use std::sync::Arc;

use radialog_schemas::table::split_name;
use radialog_schemas::{Finding, Label};

use super::prediction_file::{Prediction, PredictionFile};
use super::reference_file::{Found, ReferenceEntry, ReferenceFile, References};
use super::stored_texts::{Span, StoredTexts};
use super::{FaultKind, InputFault, comparable};
use crate::error::TrainingError;
use crate::evaluation::label_source::{LabelSource, LabelSources};
use crate::evaluation::patients::{self, Patients};
use crate::evaluation::text_scores::protocol::{MOST_PAIRS, TOO_LONG, TextProtocol};
use crate::prepare::FindingLabels;

/// A generated report and what it is compared with.
#[derive(Clone, Debug)]
pub struct MatchedStudy {
    /// The study.
    pub id: String,
    /// The patient, as a number from 0 on; studies whose patient is not known are a patient each.
    pub patient: u32,
    /// The image's name, where it is known.
    pub image: String,
    /// The line of the prediction.
    pub line: u64,
    /// The number of the file that the reference text is in, and its line there; none where there is no text.
    pub reference_at: Option<(u32, u64)>,
    /// The generated report; none where only findings were computed.
    pub prediction: Option<Span>,
    /// The radiologist's text, where there is one.
    pub reference: Option<Span>,
    /// What a labeler says of the generated report.
    pub labels: Option<FindingLabels>,
    /// Who labels the generated report, where it has labels.
    pub labels_by: Option<LabelSource>,
    /// What is true: labels of a table, or what a labeler says of the radiologist's text.
    pub reference_labels: Option<FindingLabels>,
    /// Whose labels those are, where there are any.
    pub truth_by: Option<LabelSource>,
    /// Whether they are of a table, which may leave findings unknown.
    pub is_of_table: bool,
    /// What the classifier sees in the image: probabilities of the 14 findings.
    pub probabilities: Option<[f32; Finding::ALL.len()]>,
    /// How far sampled reports agree with the report, 0 to 1, where the run has sampled some.
    pub agreement: Option<f64>,
    /// RadGraph F1, where there are annotations of the report and its reference.
    pub radgraph_f1: Option<f64>,
    /// BERTScore and the similarity of CheXbert's embeddings, where somebody has computed them.
    pub similarities: Option<[f64; 2]>,
}

/// What is scored, in the order of the references, and what is not.
#[derive(Debug, Default)]
pub struct Corpus {
    /// The file of the predictions.
    file: Arc<str>,
    /// The files of the references.
    reference_files: Vec<Arc<str>>,
    /// What is scored.
    pub studies: Vec<MatchedStudy>,
    /// The number of predictions that were read.
    pub predictions: u64,
    /// The number of patients that are known by name; 0 where every study counts as a patient.
    pub patients: u64,
    /// Predictions of another split than the one that is scored.
    pub other_splits: u64,
    /// Predictions that a limit or a stratified selection left out.
    pub not_selected: u64,
    /// Findings that no table of labels has a label of.
    pub unlabelled: Vec<Finding>,
    /// Everything that is wrong with the files.
    pub faults: Vec<InputFault>,
    /// What to know about how they were read.
    pub notes: Vec<String>,
}

/// How predictions and references are put together.
#[derive(Clone, Debug, Default)]
pub struct MatchOptions {
    /// Only studies of this side of the data.
    pub split: Option<String>,
    /// Whether a row of a label table without any label says that nothing is there; else it says nothing.
    pub blank_is_absent: bool,
}

/// A study and where its reference stands.
struct Placed {
    place: (usize, usize),
    patient: Option<String>,
    study: MatchedStudy,
}

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
        let mut corpus = Self {
            predictions: file.predictions.len() as u64,
            notes: file.notes,
            faults: file.faults,
            ..Self::default()
        };
        let shown: Arc<str> = file.path.to_string_lossy().into();
        corpus.file = shown.clone();
        // References that are named are the only ones: a run's own would mix two truths.
        let has_references = references.is_some();
        let mut references = references.unwrap_or_default();
        corpus.notes.append(&mut references.notes);
        corpus.faults.append(&mut references.faults);
        corpus.unlabelled = std::mem::take(&mut references.unlabelled);
        let mut files = references.files;
        let names = files.iter().map(|file| file.path.to_string_lossy().into());
        corpus.reference_files = names.collect();
        let mut rows = Vec::new();
        if file.by_order {
            rows = rows_with_text(&file.path, &file.predictions, &files)?;
        } else if let Some(rows) = files.iter().find(|file| file.by_order) {
            return Err(TrainingError::content(&rows.path)(
                "texts without ids can be compared with predictions without ids only: give a table with a column of ids",
            ));
        }
        let reports_by = LabelSource::chexbert("reports, by the run's scoring stage");
        let references_by = LabelSource::chexbert("references of the run, by its scoring stage");
        let wanted = options.split.as_deref().map(split_name);
        let mut any_split = false;
        let mut placed = Vec::new();
        for prediction in file.predictions {
            let id = prediction.id.clone();
            let line = prediction.line;
            let mut fault = |kind, detail| {
                corpus.faults.push(InputFault {
                    file: shown.clone(),
                    line,
                    id: id.clone(),
                    kind,
                    detail,
                });
            };
            let found = match found(&prediction, &mut files, &rows) {
                Ok(found) => found,
                Err(detail) => {
                    fault(FaultKind::DifferingReferences, detail);
                    continue;
                }
            };
            let split = found.split.clone().or(prediction.split);
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
            // Without a place in the references, by id: lines of a run stand in the order in which they were done.
            let last = (usize::MAX, 0);
            placed.push(Placed {
                place: found.place.unwrap_or(last),
                patient: found.patient,
                study: MatchedStudy {
                    id: found.id.filter(|_| file.by_order).unwrap_or(prediction.id),
                    patient: 0,
                    image: if prediction.image.is_empty() {
                        found.image
                    } else {
                        prediction.image
                    },
                    line: prediction.line,
                    reference_at: found.text_at,
                    prediction: prediction.text,
                    reference,
                    labels: prediction.labels,
                    labels_by: prediction.labels.map(|_| reports_by.clone()),
                    truth_by: match of_table {
                        Some(_) => found.labels_by,
                        None => of_run.map(|_| references_by.clone()),
                    },
                    reference_labels,
                    is_of_table: of_table.is_some(),
                    probabilities: prediction.probabilities,
                    agreement: prediction.agreement,
                    radgraph_f1: None,
                    similarities: None,
                },
            });
        }
        if let Some(split) = &options.split
            && !any_split
        {
            return Err(TrainingError::Empty(format!(
                "neither the predictions nor the references name a split: leave out --split {split}, or add a column split"
            )));
        }
        corpus.name_unused(&files, wanted);
        placed.sort_by(|a, b| (a.place, &a.study.id).cmp(&(b.place, &b.study.id)));
        corpus.take(placed);
        Ok(corpus)
    }

    /// Numbers the patients, in the order of the studies.
    fn take(&mut self, placed: Vec<Placed>) {
        let mut patients = Patients::default();
        for Placed {
            patient, mut study, ..
        } in placed
        {
            let of_folder = || patients::of_path(&study.image);
            study.patient = patients.number(patient.as_deref().or_else(of_folder));
            self.studies.push(study);
        }
        self.patients = patients.named();
    }

    /// Takes the references away from texts that are too long to be compared with them, and names those.
    ///
    /// # Errors
    /// A text cannot be read.
    pub fn drop_long_texts(
        &mut self,
        texts: &StoredTexts,
        protocol: TextProtocol,
    ) -> std::io::Result<()> {
        for study in &mut self.studies {
            let (Some(text), Some(reference)) = (study.prediction, study.reference) else {
                continue;
            };
            // No text has more words than bytes, which saves reading most.
            let most = u64::from(text.bytes()) * u64::from(reference.bytes());
            if most <= MOST_PAIRS as u64 {
                continue;
            }
            if protocol.is_too_long(&texts.read(text)?, &texts.read(reference)?) {
                study.reference = None;
                self.faults.push(InputFault {
                    file: self.file.clone(),
                    line: study.line,
                    id: study.id.clone(),
                    kind: FaultKind::TooLong,
                    detail: TOO_LONG.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Takes what others have computed of each study, by its id: RadGraph F1, and BERTScore with the similarity of CheXbert's
    /// embeddings. A study without is named.
    pub fn annotate(
        &mut self,
        annotation: impl Fn(&str) -> Result<(f64, Option<[f64; 2]>), String>,
    ) {
        for study in &mut self.studies {
            let found = annotation(&study.id).or_else(|_| annotation(comparable(&study.id)));
            match found {
                Ok((radgraph_f1, similarities)) => {
                    study.radgraph_f1 = Some(radgraph_f1);
                    study.similarities = similarities;
                }
                Err(detail) => self.faults.push(InputFault {
                    file: self.file.clone(),
                    line: study.line,
                    id: study.id.clone(),
                    kind: FaultKind::NotAnnotated,
                    detail,
                }),
            }
        }
    }

    /// Whose labels the studies have.
    pub fn label_sources(&self) -> LabelSources {
        let reports = self.studies.iter().filter(|study| study.labels.is_some());
        let truth = self.studies.iter();
        let truth = truth.filter(|study| study.reference_labels.is_some());
        LabelSources::of(
            reports.filter_map(|study| study.labels_by.as_ref()),
            truth.filter_map(|study| study.truth_by.as_ref()),
        )
    }

    /// Takes over what is wrong with the predictions of another system, so that it is told beside ours.
    pub fn add_faults_of(&mut self, other: &Self) {
        let of_predictions = other.faults.iter().filter(|fault| fault.file == other.file);
        self.faults.extend(of_predictions.cloned());
    }

    /// Names a study that cannot be selected, since it has no labels.
    pub(super) fn name_unlabelled(&mut self, study: &MatchedStudy) {
        self.faults.push(InputFault {
            file: self.file.clone(),
            line: study.line,
            id: study.id.clone(),
            kind: FaultKind::Unlabelled,
            detail: String::new(),
        });
    }

    fn name_unused(&mut self, files: &[ReferenceFile], wanted: Option<&str>) {
        for file in files {
            let shown: Arc<str> = file.path.to_string_lossy().into();
            let unused = file.entries.iter().filter(|entry| {
                let split = entry.split.as_deref().map(split_name);
                !entry.used && (wanted.is_none() || split.is_none() || split == wanted)
            });
            for entry in unused {
                self.faults.push(InputFault {
                    file: shown.clone(),
                    line: entry.line,
                    id: entry.id.clone(),
                    kind: FaultKind::ReferenceWithoutPrediction,
                    detail: String::new(),
                });
            }
        }
    }

    /// The texts that a labeler has to read, since there are no labels of them: generated reports and, with them, references
    /// without labels.
    pub fn texts_to_label(&self) -> impl Iterator<Item = Span> + '_ {
        self.studies.iter().flat_map(|study| {
            let generated = study.prediction.filter(|_| study.labels.is_none());
            let reference = study.reference.filter(|_| study.reference_labels.is_none());
            generated.into_iter().chain(reference)
        })
    }

    /// Takes what a labeler says of the texts that had no labels; what it failed on is a fault. `labeler` is how they were labelled,
    /// in words behind a comma.
    ///
    /// # Errors
    /// An error of `label`.
    pub fn take_labels<E>(
        &mut self,
        labeler: &str,
        label: impl Fn(Span) -> Result<Option<FindingLabels>, E>,
    ) -> Result<(), E> {
        let reports_by = LabelSource::chexbert(&format!("reports, {labeler}"));
        let references_by = LabelSource::chexbert(&format!("reference texts, {labeler}"));
        for study in &mut self.studies {
            let of_prediction = (&self.file, study.line);
            // Without a place of its own, it came with the prediction.
            let of_reference = study.reference_at.and_then(|(file, line)| {
                let file = self.reference_files.get(file as usize)?;
                Some((file, line))
            });
            let of_reference = of_reference.unwrap_or(of_prediction);
            for (text, labels, (by, source), (file, line)) in [
                (
                    study.prediction,
                    &mut study.labels,
                    (&mut study.labels_by, &reports_by),
                    of_prediction,
                ),
                (
                    study.reference,
                    &mut study.reference_labels,
                    (&mut study.truth_by, &references_by),
                    of_reference,
                ),
            ] {
                let (Some(text), None) = (text, &labels) else {
                    continue;
                };
                *labels = label(text)?;
                *by = labels.map(|_| source.clone());
                if labels.is_none() {
                    self.faults.push(InputFault {
                        file: file.clone(),
                        line,
                        id: study.id.clone(),
                        kind: FaultKind::NotLabelled,
                        detail: String::new(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// What the references say of a study.
#[derive(Default)]
struct Reference {
    id: Option<String>,
    place: Option<(usize, usize)>,
    text: Option<Span>,
    /// The number of the text's file, and its line there.
    text_at: Option<(u32, u64)>,
    labels: Option<FindingLabels>,
    /// Whose labels they are.
    labels_by: Option<LabelSource>,
    patient: Option<String>,
    split: Option<String>,
    image: String,
    /// Where the labels stand.
    labels_at: String,
    /// Where an empty reference stands, or the last one.
    detail: String,
    /// Whether a file has the study with neither a text nor labels.
    is_partly_empty: bool,
}

/// Looks a study up in all files: the first text and the first labels count. Rows that differ are an error that names them.
fn found(
    prediction: &Prediction,
    files: &mut [ReferenceFile],
    rows: &[Vec<usize>],
) -> Result<Reference, String> {
    let mut reference = Reference::default();
    let ids = prediction.ids();
    for (number, file) in files.iter_mut().enumerate() {
        let found = match rows.get(number) {
            Some(rows) => row_of(&prediction.id, rows).map_or(Found::Nothing, Found::Entry),
            None => file.find(&ids),
        };
        let place = match found {
            Found::Nothing => continue,
            Found::Differing(first, second) => {
                // They have a prediction, though nobody can say which of them belongs to it.
                let of_study = |entry: &&mut ReferenceEntry| {
                    ids.iter().any(|id| comparable(id) == comparable(&entry.id))
                };
                file.entries
                    .iter_mut()
                    .filter(of_study)
                    .for_each(|entry| entry.used = true);
                let name = file.path.display();
                return Err(format!("lines {first} and {second} of {name}"));
            }
            Found::Entry(place) => place,
        };
        let shown = match file.entries[place].line {
            0 => file.path.display().to_string(),
            line => format!("{} line {line}", file.path.display()),
        };
        let labels_by = &file.labels_by;
        let entry = &mut file.entries[place];
        entry.used = true;
        if reference.place.is_none() {
            reference.place = Some((number, place));
            reference.id = Some(entry.id.clone());
        }
        if let (None, Some(text)) = (reference.text, entry.text) {
            reference.text = Some(text);
            reference.text_at = Some((number as u32, entry.line));
        }
        // A row that says nothing hides none that does.
        let says_something =
            |labels: &FindingLabels| labels.iter().any(|label| *label != Label::Blank);
        if let (Some(labels), Some(before)) = (&entry.labels, &reference.labels)
            && contradict(labels, before)
        {
            return Err(format!("{} and {shown}", reference.labels_at));
        }
        if entry.labels.is_some() && !reference.labels.as_ref().is_some_and(says_something) {
            reference.labels = entry
                .labels
                .filter(says_something)
                .or(reference.labels)
                .or(entry.labels);
            reference.labels_at.clone_from(&shown);
            reference.labels_by.clone_from(labels_by);
        }
        let is_empty = entry.text.is_none() && !entry.labels.as_ref().is_some_and(says_something);
        reference.is_partly_empty |= entry.text.is_none() && entry.labels.is_none();
        reference.patient = reference.patient.or_else(|| entry.patient.clone());
        reference.split = reference.split.or_else(|| entry.split.clone());
        if reference.image.is_empty() {
            reference.image.clone_from(&entry.image);
        }
        if is_empty || reference.detail.is_empty() {
            reference.detail = shown;
        }
    }
    Ok(reference)
}

/// Whether two tables say different things of one finding.
fn contradict(one: &FindingLabels, other: &FindingLabels) -> bool {
    let mut pairs = one.iter().zip(other);
    pairs.any(|(one, other)| one != other && *one != Label::Blank && *other != Label::Blank)
}

/// The entry of a row without an id.
fn row_of(id: &str, rows: &[usize]) -> Option<usize> {
    let number: usize = id.strip_prefix("row ")?.parse().ok()?;
    rows.get(number.checked_sub(1)?).copied()
}

/// The entries that predictions without ids belong to, file by file: all rows, and of a table those that have a text. Files of
/// which nobody can say which row belongs to which are refused.
fn rows_with_text(
    path: &std::path::Path,
    predictions: &[Prediction],
    files: &[ReferenceFile],
) -> Result<Vec<Vec<usize>>, TrainingError> {
    let mut all = Vec::new();
    for file in files {
        let has_text = |place: &usize| file.by_order || file.entries[*place].text.is_some();
        let rows: Vec<usize> = (0..file.entries.len()).filter(has_text).collect();
        if rows.len() != predictions.len() {
            return Err(TrainingError::content(path)(format!(
                "{} predictions without ids, but {} has {} texts: they must be the same studies in the same order, or have a column of \
                 ids",
                predictions.len(),
                file.path.display(),
                rows.len()
            )));
        }
        all.push(rows);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
