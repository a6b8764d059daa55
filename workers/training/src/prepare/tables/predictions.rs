//! Predicted findings as the original stores them: a JSON object from image id to the names of the findings that are
//! there, as Python's `json.dump(.., indent=4)` writes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use radialog_files::durable::Replacement;
use radialog_schemas::Finding;
use serde_json::Value;

use crate::error::TrainingError;

/// A file of predicted findings in the making; it appears under its name when it is whole.
pub struct PredictionsWriter {
    file: Replacement,
    count: u64,
}

impl PredictionsWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, TrainingError> {
        let file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
        Ok(Self { file, count: 0 })
    }

    /// Adds what was found in an image.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(
        &mut self,
        id: &str,
        findings: impl Iterator<Item = Finding>,
    ) -> Result<(), TrainingError> {
        let names: Vec<String> = findings
            .map(|finding| format!("        {}", Value::from(finding.name())))
            .collect();
        let list = if names.is_empty() {
            "[]".to_owned()
        } else {
            format!("[\n{}\n    ]", names.join(",\n"))
        };
        let before = if self.count == 0 { "{" } else { "," };
        self.count += 1;
        let written = write!(self.file, "{before}\n    {}: {list}", Value::from(id));
        written.map_err(TrainingError::io("write", self.file.path()))
    }

    /// Puts the file in its place and tells how many images it has.
    ///
    /// # Errors
    /// When there is no room.
    pub fn finish(mut self) -> Result<u64, TrainingError> {
        let end: &[u8] = if self.count == 0 { b"{}" } else { b"\n}" };
        let path = self.file.path().to_owned();
        let end = self.file.write_all(end).and_then(|()| self.file.commit());
        end.map_err(TrainingError::io("write", &path))?;
        Ok(self.count)
    }
}

/// Reads a file of predicted findings.
///
/// # Errors
/// No such file, or one of another form or with another name, which is told.
pub fn read_predictions(path: &Path) -> Result<BTreeMap<String, Vec<Finding>>, TrainingError> {
    let file = File::open(path).map_err(TrainingError::io("read", path))?;
    serde_json::from_reader(BufReader::new(file)).map_err(TrainingError::content(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_written_as_the_original_writes_it_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.json");
        let mut file = PredictionsWriter::create(&path).unwrap();
        file.add("d1", [Finding::Edema, Finding::PleuralEffusion].into_iter())
            .unwrap();
        file.add("d2", std::iter::empty()).unwrap();
        assert!(!path.exists());
        assert_eq!(file.finish().unwrap(), 2);
        let expected = "{\n    \"d1\": [\n        \"Edema\",\n        \"Pleural Effusion\"\n    ],\n    \"d2\": []\n}";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        let read = read_predictions(&path).unwrap();
        assert_eq!(read["d1"], [Finding::Edema, Finding::PleuralEffusion]);
        assert!(read["d2"].is_empty());
    }

    #[test]
    fn a_finding_of_another_name_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.json");
        fs::write(&path, r#"{"d1": ["Oedema"]}"#).unwrap();
        assert!(
            read_predictions(&path)
                .unwrap_err()
                .to_string()
                .contains("Oedema")
        );
    }
}
