//! ReXrank's JSON: an object of studies by id, each with sections of the radiologist's report and, in predictions, with
//! `model_prediction`.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::TrainingError;

/// One study of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(expecting = "an object with the sections of a report")]
pub(super) struct RexrankStudy {
    /// The findings section; older files call it `findings`.
    #[serde(default, alias = "findings")]
    pub(super) section_findings: Option<Value>,
    /// The impression section; older files call it `impression`.
    #[serde(default, alias = "impression")]
    pub(super) section_impression: Option<Value>,
    /// What the evaluated system wrote.
    #[serde(default)]
    pub(super) model_prediction: Option<Value>,
    /// The image that stands for the study.
    #[serde(default)]
    pub(super) key_image_path: Option<Value>,
    /// The patient.
    #[serde(default)]
    pub(super) subject_id: Option<Value>,
    /// `train`, `valid` or `test`.
    #[serde(default)]
    pub(super) split: Option<Value>,
}

/// The studies in the order of the file; an id may stand twice.
pub(super) struct RexrankStudies(pub(super) Vec<(String, RexrankStudy)>);

/// Reads a whole file.
///
/// # Errors
/// No such file, or one that is no object of objects.
pub(super) fn read(path: &Path) -> Result<Vec<(String, RexrankStudy)>, TrainingError> {
    let file = File::open(path).map_err(TrainingError::io("open", path))?;
    let studies: RexrankStudies =
        serde_json::from_reader(BufReader::new(file)).map_err(|error| {
            TrainingError::line(
                path,
                error.line() as u64,
                format!("no JSON of ReXrank, an object of studies by id: {error}"),
            )
        })?;
    Ok(studies.0)
}

/// A cell as text: numbers as they stand, and none where the file says `null` or `NaN`.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    radialog_schemas::table::cell(&text)
        .is_some()
        .then_some(text)
}

impl<'de> Deserialize<'de> for RexrankStudies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Studies;
        impl<'de> Visitor<'de> for Studies {
            type Value = RexrankStudies;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of studies by id")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RexrankStudies, M::Error> {
                let mut studies = Vec::new();
                while let Some(id) = map.next_key::<String>()? {
                    let study = map
                        .next_value::<RexrankStudy>()
                        .map_err(|error| M::Error::custom(format!("'{id}': {error}")))?;
                    studies.push((id, study));
                }
                Ok(RexrankStudies(studies))
            }
        }
        deserializer.deserialize_map(Studies)
    }
}
