//! The report-generation data set (RG): one request for a report a selected image.

use std::path::Path;

use radialog_models::prompt::Prompts;
use radialog_schemas::counted;
use serde::{Deserialize, Serialize};

use crate::error::TrainingError;
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::datasets::selection::{EPOCHS, is_normal, normal_rows, stratified};
use crate::prepare::formats::json_list::{self, NonAscii};
use crate::random::Random;

/// One sample of the RG and INS data sets, as their JSON files hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSample {
    /// The whole prompt, up to and including `ASSISTANT:`.
    pub instruction: String,
    /// An empty text, which the original's format has.
    #[serde(default)]
    pub input: String,
    /// What is to follow.
    pub output: String,
    /// The image.
    pub dicom: String,
    /// The patient, where the table that the sample is from has a column of it; the original's files have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
}

/// The selection of images that a data set asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The original's selection: images with findings twice and few without, and a sixth of the images for each task.
    Original,
    /// Every image once, and every image for each task, with so many questions about single findings. For few images and
    /// small models.
    EachImage {
        /// Presence questions an image.
        questions: usize,
    },
}

/// Makes the samples of the images that are selected. The same seed gives the same ones.
pub fn report_samples<'a>(
    samples: &'a [LabelledReport],
    prompts: &'a Prompts,
    coverage: Coverage,
    seed: u64,
) -> impl Iterator<Item = ReportSample> + 'a {
    let labels: Vec<_> = samples.iter().map(|sample| sample.labels).collect();
    let selected = match coverage {
        Coverage::Original => stratified(&labels, EPOCHS, &mut Random::stream(seed, "reports")),
        Coverage::EachImage { .. } => (0..samples.len()).collect(),
    };
    selected.into_iter().map(|row| {
        let sample = &samples[row];
        ReportSample {
            instruction: prompts.written(&prompts.report(&sample.report_findings())),
            input: String::new(),
            output: sample.target().to_owned(),
            dicom: sample.dicom_id.clone(),
            patient: sample.patient.clone(),
        }
    })
}

/// How many samples a data set of reports takes from its rows, in words.
pub fn selection_words(samples: &[LabelledReport], coverage: Coverage) -> String {
    let normal = samples.iter().filter(|sample| is_normal(&sample.labels));
    let normal = normal.count();
    let with = samples.len() - normal;
    match coverage {
        Coverage::EachImage { .. } => {
            format!("each of {} once", counted(samples.len(), "image", "images"))
        }
        Coverage::Original => format!(
            "{} with findings {EPOCHS} times, {} of {normal} without (the original's selection; --each-image takes \
             each image once)",
            counted(with, "image", "images"),
            normal_rows(EPOCHS * with).min(normal)
        ),
    }
}

/// Writes the data set and returns its number of samples.
///
/// # Errors
/// The file cannot be written, or the selection takes nothing.
pub fn write_reports(
    path: &Path,
    samples: &[LabelledReport],
    prompts: &Prompts,
    coverage: Coverage,
    seed: u64,
) -> Result<u64, TrainingError> {
    if report_samples(samples, prompts, coverage, seed)
        .next()
        .is_none()
    {
        let words = selection_words(samples, coverage);
        return Err(TrainingError::Empty(format!("no sample is left: {words}")));
    }
    json_list::write(
        path,
        report_samples(samples, prompts, coverage, seed).map(Ok),
        NonAscii::Kept,
    )
}
