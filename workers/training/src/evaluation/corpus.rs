//! What an evaluation of reports reads: generated reports of any origin, and what they are compared with. Texts, studies
//! and faults lie in files without a name, so that memory holds where they lie, and a few bytes of each id.
//!
//! Nothing is dropped silently: whatever is wrong is an [`InputFault`] with its file, line and id.

use std::fmt;
use std::sync::Arc;

use radialog_schemas::counted;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod faults;
mod matching;
mod names;
mod prediction_file;
mod reference_file;
mod rexrank_file;
pub(crate) mod selection;
mod stored_texts;

pub use faults::Faults;
pub use matching::{Corpus, MatchOptions, MatchedStudy, StudyAnnotation};
pub use prediction_file::{Prediction, PredictionFile};
pub use reference_file::{ReferenceSection, References};
pub use rexrank_file::{PREDICTION, RexrankStudies, RexrankStudy};
pub use stored_texts::{Span, StoredTexts, TextStore};

/// Something that is wrong with a row, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFault {
    /// The file that it stands in.
    #[serde(serialize_with = "as_text", deserialize_with = "of_text")]
    pub file: Arc<str>,
    /// The line where it begins, from 1 on; 0 where the file has no lines of its own.
    pub line: u64,
    /// The study's id; empty where it has none.
    pub id: String,
    /// What is wrong, by which it is counted.
    pub kind: FaultKind,
    /// What more there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Arc::from)
}

impl fmt::Display for InputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        if !self.id.is_empty() {
            write!(f, " ({})", self.id)?;
        }
        match self.detail.as_str() {
            "" => Ok(()),
            detail => write!(f, ": {detail}"),
        }
    }
}

/// What can be wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A row that is none: broken quoting, or too many or few cells.
    MalformedRow,
    /// A report that is not UTF-8.
    OtherEncoding,
    /// A row without an id.
    NoId,
    /// A prediction whose id an earlier one has.
    DuplicatePrediction,
    /// Two references of one id that say different things.
    DifferingReferences,
    /// A prediction whose path ends as that of another, where only the end leads to a reference.
    AmbiguousName,
    /// A study that failed in its run, and has no report.
    FailedStudy,
    /// A prediction without text: an empty cell, or `nan`. It is scored, as the empty text that it is.
    EmptyPrediction,
    /// A study whose reference text the run's store does not have. What else it is compared with is scored.
    ReferenceGone,
    /// A prediction that no reference belongs to.
    NoReference,
    /// A reference that is missing: an empty cell, `nan`, or a row of labels without any label.
    EmptyReference,
    /// A reference that no prediction belongs to.
    ReferenceWithoutPrediction,
    /// A reference whose id stands earlier with the same words and labels, where that one is used.
    RepeatedReference,
    /// A cell that is no label.
    NoLabel,
    /// A study with a number that is no probability of a finding: what else it has is scored.
    NoProbability,
    /// A text that the labeler failed on: its labels are not scored.
    NotLabelled,
    /// A text that is too long to compare with its reference; what else the study has is scored.
    TooLong,
    /// A study without annotations of others; what else it has is scored.
    NotAnnotated,
    /// A report with a text and without an annotation, which counts as one of nothing.
    UnannotatedReport,
    /// A study without labels, which a stratified selection goes by.
    Unlabelled,
    /// A study whose split is not known, where one was asked for.
    UnknownSplit,
}

impl FaultKind {
    /// Whether the study is scored all the same.
    pub fn is_scored(self) -> bool {
        matches!(
            self,
            Self::EmptyPrediction
                | Self::ReferenceGone
                | Self::TooLong
                | Self::NotAnnotated
                | Self::UnannotatedReport
                | Self::NoProbability
        )
    }

    /// The reason in words, for a count of several.
    pub fn words(self) -> &'static str {
        match self {
            Self::MalformedRow => "rows that are none",
            Self::OtherEncoding => "reports that are not UTF-8, and are not used",
            Self::NoId => "rows without an id",
            Self::DuplicatePrediction => "predictions whose id stands earlier",
            Self::DifferingReferences => "references that differ under one id",
            Self::AmbiguousName => {
                "predictions whose paths end alike, so that nobody can say whose a reference is"
            }
            Self::FailedStudy => "studies that failed in the run",
            Self::EmptyPrediction => "empty predictions, scored as empty texts",
            Self::ReferenceGone => {
                "reference texts that the run's store does not have: name it with --objects or --s3, or texts with --references"
            }
            Self::NoReference => "predictions without a reference",
            Self::EmptyReference => "empty references",
            Self::ReferenceWithoutPrediction => "references without a prediction",
            Self::RepeatedReference => "references whose id stands earlier",
            Self::NoLabel => "rows with a cell that is no label",
            Self::NoProbability => {
                "studies with numbers that are no probabilities, whose findings are not scored"
            }
            Self::NotLabelled => "texts that could not be labelled, whose labels are not scored",
            Self::TooLong => "texts that are too long to compare, and have no text scores",
            Self::NotAnnotated => "studies without annotations, and without the scores of them",
            Self::UnannotatedReport => {
                "reports without an annotation, which count as reports in which RadGraph found nothing (as in CXR-Report-Metric)"
            }
            Self::Unlabelled => "studies without labels, which a stratified selection leaves out",
            Self::UnknownSplit => "studies of an unknown split",
        }
    }

    /// How often it is so, in words.
    pub fn counted(self, count: u64) -> String {
        counted(count, self.words_of_one(), self.words())
    }

    fn words_of_one(self) -> &'static str {
        match self {
            Self::MalformedRow => "row that is none",
            Self::OtherEncoding => "report that is not UTF-8, and is not used",
            Self::NoId => "row without an id",
            Self::DuplicatePrediction => "prediction whose id stands earlier",
            Self::DifferingReferences => "reference that differs from another under its id",
            Self::AmbiguousName => {
                "prediction whose path ends as another's, so that nobody can say whose a reference is"
            }
            Self::FailedStudy => "study that failed in the run",
            Self::EmptyPrediction => "empty prediction, scored as an empty text",
            Self::ReferenceGone => {
                "reference text that the run's store does not have: name it with --objects or --s3, or texts with --references"
            }
            Self::NoReference => "prediction without a reference",
            Self::EmptyReference => "empty reference",
            Self::ReferenceWithoutPrediction => "reference without a prediction",
            Self::RepeatedReference => "reference whose id stands earlier",
            Self::NoLabel => "row with a cell that is no label",
            Self::NoProbability => {
                "study with a number that is no probability, whose findings are not scored"
            }
            Self::NotLabelled => "text that could not be labelled, whose labels are not scored",
            Self::TooLong => "text that is too long to compare, and has no text scores",
            Self::NotAnnotated => "study without annotations, and without the scores of them",
            Self::UnannotatedReport => {
                "report without an annotation, which counts as one in which RadGraph found nothing (as in CXR-Report-Metric)"
            }
            Self::Unlabelled => "study without labels, which a stratified selection leaves out",
            Self::UnknownSplit => "study of an unknown split",
        }
    }
}

/// An id as both sides are compared by: MIMIC-CXR writes a study as `s50414267` in names of files and as `50414267` in tables.
pub(crate) fn comparable(id: &str) -> &str {
    let id = id.trim();
    match id.strip_prefix('s') {
        Some(digits) if digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit()) => digits,
        _ => id,
    }
}

/// An id as files of annotations and tables of scores are searched for it: without the folders of a path, and as `comparable` has
/// it.
pub fn plain_id(id: &str) -> &str {
    comparable(stem(id))
}

/// A file's name without folders and suffix.
pub(crate) fn stem(path: &str) -> &str {
    without_suffix(path.rsplit(['/', '\\']).next().unwrap_or(path))
}

/// A path without what names of images and reports end with.
fn without_suffix(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, suffix)) if !stem.is_empty() && is_suffix(suffix) => stem,
        _ => path,
    }
}

/// Whether this is what names of image files end with; an id may have dots, too.
fn is_suffix(text: &str) -> bool {
    let known = ["jpg", "jpeg", "png", "dcm", "txt", "tif", "tiff", "dicom"];
    known.iter().any(|known| known.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_mimic_cxr_are_one_id_however_they_are_written() {
        assert_eq!(comparable(" s50414267 "), comparable("50414267"));
        assert_eq!(comparable("s1"), "s1");
        assert_eq!(comparable("sample"), "sample");
        assert_eq!(stem("files/p10/a.b.jpg"), "a.b");
        assert_eq!(stem("1.2.840"), "1.2.840");
    }
}
