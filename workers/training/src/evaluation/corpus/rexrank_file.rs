//! ReXrank's JSON: an object of studies by id, each with sections of the radiologist's report and, in predictions, with
//! `model_prediction`.

use std::path::Path;

use radialog_schemas::json_members::members;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::TrainingError;
use crate::evaluation::text_file::read_text;

/// The member that a submission adds.
pub const PREDICTION: &str = "model_prediction";

/// The members of one study in their order, as they stand; of several of one name the last, at the place of the first, as Python
/// reads them.
#[derive(Clone, Debug, Default)]
pub struct RexrankStudy(Vec<(String, Box<RawValue>)>);

impl RexrankStudy {
    /// A member; none where it is not there.
    pub fn get(&self, name: &str) -> Option<Value> {
        let member = self.0.iter().find(|(of, _)| of == name);
        member.and_then(|(_, value)| serde_json::from_str(value.get()).ok())
    }

    /// Sets a member where it is, or as the last one.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(of, _)| of == name) {
            Some((_, before)) => *before = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// What the evaluated system wrote, the image that stands for the study (`key_image_path`), the patient (`subject_id`), the
    /// side (`split`: `train`, `valid` or `test`): a cell as text, numbers as they stand; none where the file says `null` or
    /// `NaN`.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let text = as_text(&self.get(name)?)?;
        radialog_schemas::table::cell(&text)
            .is_some()
            .then_some(text)
    }

    /// Whether it has a prediction.
    pub(super) fn is_predicted(&self) -> bool {
        self.get(PREDICTION).is_some_and(|value| !value.is_null())
    }

    /// The section of this name, or of the one that older files call it by: any string is one, as for the benchmark's own script;
    /// none where the file says `null` or `NaN`.
    fn section(&self, name: &str, older: &str) -> Option<String> {
        let mut members = [name, older].into_iter();
        members.find_map(|name| as_text(&self.get(name)?))
    }

    /// The findings section, as it stands.
    pub(super) fn findings(&self) -> Option<String> {
        self.section("section_findings", "findings")
    }

    /// The impression section, as it stands.
    pub(super) fn impression(&self) -> Option<String> {
        self.section("section_impression", "impression")
    }

    /// Findings and impression as the benchmark's own script joins them: it writes Python's `None` where a section is missing, and
    /// nothing where it is an empty text. None where neither says anything.
    pub(super) fn whole(&self) -> Option<String> {
        let sections = [self.findings(), self.impression()];
        let mut texts = sections.iter().flatten();
        texts.any(|text| !text.trim().is_empty()).then(|| {
            let [findings, impression] = sections.map(|of| of.unwrap_or_else(|| "None".to_owned()));
            format!("Findings: {findings} Impression: {impression}")
        })
    }
}

/// The studies in the order of the file; an id may stand twice.
pub struct RexrankStudies(pub Vec<(String, RexrankStudy)>);

impl RexrankStudies {
    /// Reads a whole file.
    ///
    /// # Errors
    /// No such file, or one that is no object of objects.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let json = read_text(path)?;
        serde_json::from_str(&without_nan(&json)).map_err(|error| {
            TrainingError::line(
                path,
                error.line() as u64,
                format!("no JSON of ReXrank, an object of studies by id: {error}"),
            )
        })
    }
}

/// A file's JSON as others read it: Python writes a missing cell as `NaN`, and what divides by it as `Infinity`, which JSON does not
/// know, and which become `null` outside of strings.
fn without_nan(json: &str) -> String {
    let mut parts = Vec::new();
    let (mut in_string, mut is_escaped) = (false, false);
    let mut begun = 0;
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string && at >= begun => {
                let mut words = ["NaN", "Infinity", "-Infinity"].into_iter();
                if let Some(word) = words.find(|word| json[at..].starts_with(word)) {
                    parts.extend([&json[begun..at], "null"]);
                    begun = at + word.len();
                }
            }
            _ => {}
        }
    }
    parts.push(&json[begun..]);
    parts.concat()
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for RexrankStudies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        members(deserializer, "an object of studies by id").map(Self)
    }
}

impl<'de> Deserialize<'de> for RexrankStudy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut study = Self::default();
        for (name, value) in members(deserializer, "an object, a study")? {
            study.set(&name, value);
        }
        Ok(study)
    }
}

impl Serialize for RexrankStudies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, study)| (id, study)))
    }
}

impl Serialize for RexrankStudy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_a_text_and_a_missing_one_the_word_none() {
        let whole = |json: &str| {
            let studies: RexrankStudies = serde_json::from_str(&without_nan(json)).unwrap();
            studies.0[0].1.whole()
        };
        for (sections, expected) in [
            (
                r#""section_impression": """#,
                "Findings: Clear. Impression: ",
            ),
            (
                r#""section_impression": " ""#,
                "Findings: Clear. Impression:  ",
            ),
            (
                r#""section_impression": "nan""#,
                "Findings: Clear. Impression: nan",
            ),
            (
                r#""section_impression": "None""#,
                "Findings: Clear. Impression: None",
            ),
            (
                r#""section_impression": null"#,
                "Findings: Clear. Impression: None",
            ),
            (
                r#""section_impression": NaN"#,
                "Findings: Clear. Impression: None",
            ),
            (r#""subject_id": 1"#, "Findings: Clear. Impression: None"),
            (r#""impression": "No.""#, "Findings: Clear. Impression: No."),
            (
                r#""impression": "Yes.", "impression": "No.""#,
                "Findings: Clear. Impression: No.",
            ),
        ] {
            let json = format!(r#"{{"s": {{"section_findings": "Clear.", {sections}}}}}"#);
            assert_eq!(whole(&json).as_deref(), Some(expected), "{sections}");
        }
        for nothing in [
            "{}",
            r#"{"section_findings": " ", "section_impression": NaN}"#,
        ] {
            assert_eq!(whole(&format!(r#"{{"s": {nothing}}}"#)), None, "{nothing}");
        }
    }
}
