//! What the files of references say of a prediction.

use std::io;
use std::path::Path;

use radialog_schemas::{Label, counted};

use crate::error::TrainingError;
use crate::evaluation::corpus::FaultKind;
use crate::evaluation::corpus::prediction_file::Prediction;
use crate::evaluation::corpus::reference_file::{Found, ReferenceFile};
use crate::evaluation::corpus::stored_texts::Span;
use crate::evaluation::label_source::LabelSource;
use crate::evaluation::stored_rows::temporary;
use crate::prepare::FindingLabels;

/// What the references say of a study.
#[derive(Default)]
pub(super) struct Reference {
    pub(super) id: Option<String>,
    /// The number of the first file that has the study, and the place there.
    pub(super) place: Option<(u32, u32)>,
    pub(super) text: Option<Span>,
    /// The number of the text's file, and its line there.
    pub(super) text_at: Option<(u32, u64)>,
    pub(super) labels: Option<FindingLabels>,
    /// Whose labels they are.
    pub(super) labels_by: Option<LabelSource>,
    pub(super) patient: Option<String>,
    pub(super) split: Option<String>,
    pub(super) image: String,
    /// Where the labels stand.
    labels_at: String,
    /// Where an empty reference stands, or the last one.
    pub(super) detail: String,
    /// Whether a file has the study with neither a text nor labels.
    pub(super) is_partly_empty: bool,
}

/// Why a study has no reference, and where rows stand.
pub(super) type Refusal = (FaultKind, String);

/// Looks a study up in all files: the first text and the first labels count. Rows that differ, and those that may be of another
/// study, are named instead.
///
/// # Errors
/// What was read of the files cannot be read again.
pub(super) fn found(
    prediction: &Prediction,
    files: &mut [ReferenceFile],
    rows: &[Vec<u32>],
) -> io::Result<Result<Reference, Refusal>> {
    let mut reference = Reference::default();
    for (number, file) in files.iter_mut().enumerate() {
        let found = match rows.get(number) {
            Some(rows) => row_of(&prediction.id, rows).map_or(Found::Nothing, Found::Entry),
            None => file.find(prediction),
        };
        let place = match found {
            Found::Nothing => continue,
            Found::Differing(repeated) => {
                // They have a prediction, though nobody can say which of them belongs to it.
                for place in &repeated.places {
                    file.used[*place as usize] = true;
                }
                let line = |place: Option<&u32>| match place {
                    Some(place) => Ok(file.entries.get(*place as usize)?.line),
                    None => io::Result::Ok(0),
                };
                let first = line(repeated.places.first())?;
                let second = line(repeated.differing.as_ref())?;
                let name = file.path.display();
                let detail = format!("lines {first} and {second} of {name}");
                return Ok(Err((FaultKind::DifferingReferences, detail)));
            }
            Found::End(place) if file.is_of_several(place) => {
                file.used[place as usize] = true;
                let entry = file.entries.get(place as usize)?;
                let detail = format!("as '{}' of {}", entry.id, file.path.display());
                return Ok(Err((FaultKind::AmbiguousName, detail)));
            }
            Found::Entry(place) | Found::End(place) => place,
        };
        file.used[place as usize] = true;
        let entry = file.entries.get(place as usize)?;
        let shown = match entry.line {
            0 => file.path.display().to_string(),
            line => format!("{} line {line}", file.path.display()),
        };
        let labels_by = &file.labels_by;
        if reference.place.is_none() {
            reference.place = Some((number as u32, place));
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
            let detail = format!("{} and {shown}", reference.labels_at);
            return Ok(Err((FaultKind::DifferingReferences, detail)));
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
    Ok(Ok(reference))
}

/// Whether two tables say different things of one finding.
fn contradict(one: &FindingLabels, other: &FindingLabels) -> bool {
    let mut pairs = one.iter().zip(other);
    pairs.any(|(one, other)| one != other && *one != Label::Blank && *other != Label::Blank)
}

/// The entry of a row without an id.
fn row_of(id: &str, rows: &[u32]) -> Option<u32> {
    let number: usize = id.strip_prefix("row ")?.parse().ok()?;
    rows.get(number.checked_sub(1)?).copied()
}

/// The entries that predictions without ids belong to, file by file: all rows, and of a table those that have a text. Files of
/// which nobody can say which row belongs to which are refused.
pub(super) fn rows_with_text(
    path: &Path,
    predictions: usize,
    files: &[ReferenceFile],
) -> Result<Vec<Vec<u32>>, TrainingError> {
    let mut all = Vec::new();
    for file in files {
        let mut rows: Vec<u32> = Vec::new();
        for (place, entry) in file.entries.iter().enumerate() {
            if entry.map_err(temporary)?.text.is_some() || file.by_order {
                rows.push(place as u32);
            }
        }
        if rows.len() != predictions {
            return Err(TrainingError::content(path)(format!(
                "{} without ids, but {} has {}: they must be the same studies in the same order, or have a column of ids",
                counted(predictions, "prediction", "predictions"),
                file.path.display(),
                counted(rows.len(), "text", "texts")
            )));
        }
        all.push(rows);
    }
    Ok(all)
}
