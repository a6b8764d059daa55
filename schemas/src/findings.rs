//! The 14 CheXpert observations (Irvin et al., 2019), in the order that RaDialog publishes them, and the four classes
//! that CheXbert gives each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GateVerdict;

/// One CheXpert observation. The order of the variants is the published label order, used everywhere except inside
/// CheXbert, whose head 13 is "No Finding".
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Finding {
    #[serde(rename = "No Finding")]
    NoFinding,
    #[serde(rename = "Enlarged Cardiomediastinum")]
    EnlargedCardiomediastinum,
    Cardiomegaly,
    #[serde(rename = "Lung Opacity")]
    LungOpacity,
    #[serde(rename = "Lung Lesion")]
    LungLesion,
    Edema,
    Consolidation,
    Pneumonia,
    Atelectasis,
    Pneumothorax,
    #[serde(rename = "Pleural Effusion")]
    PleuralEffusion,
    #[serde(rename = "Pleural Other")]
    PleuralOther,
    Fracture,
    #[serde(rename = "Support Devices")]
    SupportDevices,
}

impl Finding {
    /// All findings in the published order.
    pub const ALL: [Finding; 14] = [
        Finding::NoFinding,
        Finding::EnlargedCardiomediastinum,
        Finding::Cardiomegaly,
        Finding::LungOpacity,
        Finding::LungLesion,
        Finding::Edema,
        Finding::Consolidation,
        Finding::Pneumonia,
        Finding::Atelectasis,
        Finding::Pneumothorax,
        Finding::PleuralEffusion,
        Finding::PleuralOther,
        Finding::Fracture,
        Finding::SupportDevices,
    ];

    /// The findings in the order of CheXbert's heads: the published order with "No Finding" moved to the end.
    pub fn chexbert_order() -> impl Iterator<Item = Finding> {
        Self::ALL.into_iter().cycle().skip(1).take(Self::ALL.len())
    }

    /// The published name, e.g. `Pleural Effusion`.
    pub fn name(self) -> &'static str {
        match self {
            Finding::NoFinding => "No Finding",
            Finding::EnlargedCardiomediastinum => "Enlarged Cardiomediastinum",
            Finding::Cardiomegaly => "Cardiomegaly",
            Finding::LungOpacity => "Lung Opacity",
            Finding::LungLesion => "Lung Lesion",
            Finding::Edema => "Edema",
            Finding::Consolidation => "Consolidation",
            Finding::Pneumonia => "Pneumonia",
            Finding::Atelectasis => "Atelectasis",
            Finding::Pneumothorax => "Pneumothorax",
            Finding::PleuralEffusion => "Pleural Effusion",
            Finding::PleuralOther => "Pleural Other",
            Finding::Fracture => "Fracture",
            Finding::SupportDevices => "Support Devices",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Finding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|finding| finding.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("'{name}' is not one of the 14 CheXpert findings"))
    }
}

/// What CheXbert says about one finding in one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The finding is not mentioned (class 0, an empty cell in the original's CSV).
    Blank,
    /// The finding is present (class 1, `1.0`).
    Positive,
    /// The finding is denied (class 2, `0.0`).
    Negative,
    /// The finding is possible (class 3, `-1.0`).
    Uncertain,
}

impl Label {
    /// The label of a CheXbert class index, 0 to 3.
    pub fn from_class(class: usize) -> Option<Label> {
        [
            Label::Blank,
            Label::Positive,
            Label::Negative,
            Label::Uncertain,
        ]
        .get(class)
        .copied()
    }

    /// The cell that the original program writes: empty, `1.0`, `0.0` or `-1.0`.
    pub fn csv_value(self) -> &'static str {
        match self {
            Label::Blank => "",
            Label::Positive => "1.0",
            Label::Negative => "0.0",
            Label::Uncertain => "-1.0",
        }
    }
}

impl FromStr for Label {
    type Err = String;

    /// Reads a cell of a label table. pandas writes integers as floats where a column has blanks.
    fn from_str(cell: &str) -> Result<Self, Self::Err> {
        let Some(cell) = crate::table::cell(cell) else {
            return Ok(Label::Blank);
        };
        match cell.parse::<f64>() {
            Ok(1.0) => Ok(Label::Positive),
            Ok(0.0) => Ok(Label::Negative),
            Ok(-1.0) => Ok(Label::Uncertain),
            _ => Err(format!("'{cell}' is not a label: use 1, 0, -1 or nothing")),
        }
    }
}

/// CheXbert's labels of one report.
pub type Labels = BTreeMap<Finding, Label>;

/// One finding as the image classifier sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PredictedFinding {
    /// The observation that this is about.
    pub finding: Finding,
    /// 0 to 1: the sigmoid of the logit, calibrated where the bundle says how; null where the bundle's classifier has not learned
    /// the finding, so that it is not assessed.
    pub probability: Option<f32>,
    /// Whether the probability is over its threshold, one half where there is no other.
    pub present: bool,
    /// The probability over which it counts as present, where the bundle has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

impl PredictedFinding {
    /// Whether the classifier says anything about the finding.
    pub fn is_assessed(&self) -> bool {
        self.probability.is_some()
    }

    /// Whether a person is shown it as present among all that was predicted: "No Finding" is not where anything else but devices
    /// is, as it gives way to real findings in a prompt.
    pub fn is_shown(&self, all: &[PredictedFinding]) -> bool {
        let is_other = |other: &PredictedFinding| {
            other.present && !matches!(other.finding, Finding::NoFinding | Finding::SupportDevices)
        };
        self.present && (self.finding != Finding::NoFinding || !all.iter().any(is_other))
    }
}

/// The output object of the findings stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FindingsReport {
    /// All 14 findings in the published order.
    pub findings: Vec<PredictedFinding>,
    /// The text that goes into the prompt, e.g. `edema, pleural effusion`.
    pub text: String,
    /// What people should know of the image first: that it does not look like a frontal chest X-ray; what was wrong with the file
    /// and was tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the image looks like. None of findings that were given, and of those of an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_gate: Option<GateVerdict>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chexbert_order_ends_with_no_finding() {
        let order: Vec<_> = Finding::chexbert_order().collect();
        assert_eq!(order.len(), 14);
        assert_eq!(order[0], Finding::EnlargedCardiomediastinum);
        assert_eq!(order[13], Finding::NoFinding);
    }

    #[test]
    fn only_1_0_minus_1_and_missing_cells_are_labels() {
        let read = |cell: &str| cell.parse::<Label>().ok();
        assert_eq!(["1", "1.0", " 1 "].map(read), [Some(Label::Positive); 3]);
        assert_eq!(["0", "-0.0"].map(read), [Some(Label::Negative); 2]);
        assert_eq!(["-1", "-1.0"].map(read), [Some(Label::Uncertain); 2]);
        assert_eq!(["", " ", "nan", "NA"].map(read), [Some(Label::Blank); 4]);
        assert_eq!(["2", "yes", "0.5", "inf"].map(read), [None; 4]);
    }

    #[test]
    fn no_finding_is_never_shown_beside_a_finding_but_devices() {
        let shown = |present: &[Finding]| {
            let all = Finding::ALL.map(|finding| PredictedFinding {
                finding,
                probability: Some(0.5),
                present: present.contains(&finding),
                threshold: None,
            });
            let shown = all.iter().filter(|each| each.is_shown(&all));
            shown.map(|each| each.finding).collect::<Vec<_>>()
        };
        use Finding::{Edema, NoFinding, SupportDevices};
        assert_eq!(shown(&[NoFinding, Edema]), [Edema]);
        assert_eq!(
            shown(&[NoFinding, SupportDevices]),
            [NoFinding, SupportDevices]
        );
        assert_eq!(shown(&[NoFinding]), [NoFinding]);
    }

    #[test]
    fn every_name_parses_back_and_equals_its_json() {
        for finding in Finding::ALL {
            assert_eq!(finding.name().parse(), Ok(finding));
            assert_eq!(
                serde_json::to_value(finding).ok(),
                Some(finding.name().into())
            );
        }
    }
}
