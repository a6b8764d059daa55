//! `prepare radlabels`: the 1,000 synthetic reports that the Python package `radlabels` ships (Delbrouck, 2026, MIT), with the
//! labels that its program gave them. They are silver: nobody has read them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use radialog_models::chexbert::clean_text;
use radialog_schemas::{Finding, Label};
use serde::Deserialize;

use crate::error::TrainingError;
use crate::prepare::tables::report_table::ReportRow;
use crate::prepare::weak_labels::strongest;

/// The labels of all reports, and the folder of their texts.
const LABELS: &str = "synthetic_labels.json";
const REPORTS: &str = "synthetic_reports";
/// The sections that a radiologist's reading stands in; what stands before them is why the image was taken, and how.
const SECTIONS: [&str; 2] = ["FINDINGS:", "IMPRESSION:"];

/// The program's words.
#[derive(Clone, Copy, Deserialize)]
enum Status {
    #[serde(rename = "definitely present")]
    Present,
    #[serde(rename = "uncertain")]
    Uncertain,
    #[serde(rename = "definitely absent")]
    Absent,
}

/// Reads the package's folder `samples`. All reports are of the split `train`; those without a section of findings or
/// impression are left out.
///
/// # Errors
/// A file that is not there or not understood, or no report left.
pub fn read_radlabels(samples: &Path) -> Result<Vec<ReportRow>, TrainingError> {
    let path = samples.join(LABELS);
    if !path.is_file() {
        return Err(TrainingError::Empty(format!(
            "'{}' is not the folder `samples` of the Python package radlabels: it has no file {LABELS}",
            samples.display()
        )));
    }
    let text = std::fs::read_to_string(&path).map_err(TrainingError::io("read", &path))?;
    let reports: BTreeMap<String, BTreeMap<String, Status>> =
        serde_json::from_str(&text).map_err(TrainingError::content(&path))?;
    let mut rows = Vec::new();
    for (study, labels) in reports {
        let path = text_file(samples, &study)?;
        let text = std::fs::read_to_string(&path).map_err(TrainingError::io("read", &path))?;
        let Some(findings) = reading(&text) else {
            continue;
        };
        let labels = finding_labels(&labels);
        rows.push(ReportRow::of_findings(&study, "train", &findings, labels));
    }
    match rows.is_empty() {
        true => Err(TrainingError::Empty(format!(
            "'{}' has no report with findings",
            samples.display()
        ))),
        false => Ok(rows),
    }
}

/// The text of a study, whose name comes from the file of labels.
fn text_file(samples: &Path, study: &str) -> Result<PathBuf, TrainingError> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    match study.chars().all(is_name) {
        true => Ok(samples.join(REPORTS).join(format!("{study}.txt"))),
        false => Err(TrainingError::content(&samples.join(LABELS))(format!(
            "'{study}' is no name of a report"
        ))),
    }
}

/// What follows the first heading of a reading, in one line and without headings and the numbers of lists.
fn reading(text: &str) -> Option<String> {
    let start = SECTIONS
        .iter()
        .filter_map(|heading| text.find(heading))
        .min()?;
    let words = text[start..].split_whitespace().filter(|word| {
        let is_number = word
            .strip_suffix('.')
            .is_some_and(|number| number.parse::<u8>().is_ok());
        !is_number && !SECTIONS.contains(word)
    });
    let reading = clean_text(&words.collect::<Vec<_>>().join(" "));
    (!reading.is_empty()).then_some(reading)
}

/// The 14 labels: of the program's findings that are one here the strongest.
fn finding_labels(labels: &BTreeMap<String, Status>) -> [Label; Finding::ALL.len()] {
    strongest(labels.iter().filter_map(|(name, status)| {
        let label = match status {
            Status::Present => Label::Positive,
            Status::Uncertain => Label::Uncertain,
            Status::Absent => Label::Negative,
        };
        Some((finding(name)?, label))
    }))
}

fn finding(name: &str) -> Option<Finding> {
    Some(match name {
        "enlarged_cardiomediastinum" => Finding::EnlargedCardiomediastinum,
        "cardiomegaly" => Finding::Cardiomegaly,
        "air_space_opacity"
        | "ground_glass_opacity"
        | "infiltration"
        | "interstitial_thickening"
        | "lung_opacity" => Finding::LungOpacity,
        "lung_lesion" | "lung_nodule_or_mass" => Finding::LungLesion,
        "pulmonary_edema" | "pulmonary_congestion_pulmonary_venous_congestion" => Finding::Edema,
        "consolidation" => Finding::Consolidation,
        "pneumonia" => Finding::Pneumonia,
        "atelectasis" | "lobar_segmental_collapse" | "whole_lung_or_majority_collapse" => {
            Finding::Atelectasis
        }
        "pneumothorax" => Finding::Pneumothorax,
        "pleural_effusion" => Finding::PleuralEffusion,
        "pleural_other" | "pleural_thickening" => Finding::PleuralOther,
        "acute_rib_fracture" | "non_acute_rib_fracture" | "fracture_generic" => Finding::Fracture,
        "central_venous_catheter"
        | "endotracheal_tube"
        | "enteric_tube"
        | "implantable_electronic_device"
        | "intercostal_drain"
        | "pacemaker_electronic_cardiac_device_or_wires"
        | "support_devices_generic"
        | "tracheostomy_tube" => Finding::SupportDevices,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, labels: &str, texts: &[(&str, &str)]) {
        std::fs::create_dir_all(dir.join(REPORTS)).unwrap();
        std::fs::write(dir.join(LABELS), labels).unwrap();
        for (study, text) in texts {
            std::fs::write(dir.join(REPORTS).join(format!("{study}.txt")), text).unwrap();
        }
    }

    #[test]
    fn a_report_is_its_reading_and_its_labels_are_the_strongest_of_each_finding() {
        let dir = tempfile::tempdir().unwrap();
        let labels = r#"{
            "synth_1": {"enteric_tube": "definitely absent", "endotracheal_tube": "definitely present",
                "pneumothorax": "definitely absent", "pneumonia": "uncertain", "emphysema": "definitely present"},
            "synth_2": {}
        }"#;
        let text = "INDICATION: pneumonia?\n\nFINDINGS:\n 1. ET tube\n in place. \n2.  No pneumothorax.\nIMPRESSION: May be pneumonia.\n";
        write(
            dir.path(),
            labels,
            &[("synth_1", text), ("synth_2", "No heading here.")],
        );
        let rows = read_radlabels(dir.path()).unwrap();
        let [row] = rows.as_slice() else {
            panic!("{rows:?}")
        };
        assert_eq!(
            row.findings,
            "ET tube in place. No pneumothorax. May be pneumonia."
        );
        let label = |finding| row.labels[finding as usize];
        assert_eq!(label(Finding::SupportDevices), Label::Positive);
        assert_eq!(label(Finding::Pneumothorax), Label::Negative);
        assert_eq!(label(Finding::Pneumonia), Label::Uncertain);
        assert_eq!(label(Finding::NoFinding), Label::Blank);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), r#"{"../synth_1": {}}"#, &[]);
        let error = read_radlabels(dir.path()).unwrap_err().to_string();
        assert!(error.contains("'../synth_1' is no name"), "{error}");
    }
}
