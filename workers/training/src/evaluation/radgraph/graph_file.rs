//! Files of RadGraph's annotations, as its programs write them: an object by the number of the text, from "0" on (the Python package
//! `radgraph`), by study (CXR-Report-Metric), by the path of the report (the published graphs of MIMIC-CXR); or an array in the order
//! of the texts (the lists that `radgraph` computes its F1 from).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use radialog_schemas::json_members::members_of;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Entity, ReportGraph};
use crate::error::TrainingError;
use crate::evaluation::corpus::plain_id;
use crate::evaluation::text_file::read_text;

/// The annotations of a file.
#[derive(Debug)]
pub struct GraphFile {
    path: PathBuf,
    graphs: Vec<ReportGraph>,
    /// Places by name; none where several annotations go by it.
    places: HashMap<String, Option<u32>>,
}

/// Several annotations go by a name, so that nobody can say which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousName;

/// Annotations by the name that they stand under.
struct Named(Vec<(String, ReportGraph)>);

impl GraphFile {
    /// Reads a file.
    ///
    /// # Errors
    /// No such file; with the line, one of another form, as an annotation without `entities`; a name that stands twice.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let json = read_text(path)?;
        let named: Named = serde_json::from_str(&json).map_err(|error| {
            TrainingError::line(
                path,
                error.line() as u64,
                format!("no RadGraph JSON, an object of annotations by row or study, or an array of them: {error}"),
            )
        })?;
        let (names, graphs): (Vec<String>, Vec<ReportGraph>) = named.0.into_iter().unzip();
        let mut places = HashMap::new();
        for (place, name) in (0..).zip(&names) {
            if places.insert(name.clone(), Some(place)).is_some() {
                let reason = format!("the annotation of '{name}' stands there twice");
                return Err(TrainingError::content(path)(reason));
            }
        }
        // As tables have the id of a report whose path, or whose `s` before the number, stands here.
        let mut shorter: HashMap<String, Option<u32>> = HashMap::new();
        for (place, name) in (0..).zip(&names) {
            let plain = plain_id(name);
            if plain != name {
                let known = shorter.entry(plain.to_owned());
                known
                    .and_modify(|known| *known = None)
                    .or_insert(Some(place));
            }
        }
        for (name, place) in shorter {
            places.entry(name).or_insert(place);
        }
        Ok(Self {
            path: path.to_owned(),
            graphs,
            places,
        })
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of annotations.
    pub fn len(&self) -> usize {
        self.graphs.len()
    }

    /// Whether there is no annotation.
    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty()
    }

    /// The annotation of the text of this number, from 0 on, where there is one.
    ///
    /// # Errors
    /// Several go by it.
    pub fn of_row(&self, row: u64) -> Result<Option<&ReportGraph>, AmbiguousName> {
        self.named(&row.to_string())
    }

    /// The annotation of a study, where there is one.
    ///
    /// # Errors
    /// Several go by its id.
    pub fn of_study(&self, id: &str) -> Result<Option<&ReportGraph>, AmbiguousName> {
        match self.named(id) {
            Ok(None) => self.named(plain_id(id)),
            found => found,
        }
    }

    /// Whether this file and the other one have kinds of entities and none in common: different models have written them, and
    /// nothing of the one is in the other.
    pub fn is_of_another_model(&self, other: &Self) -> bool {
        let [ours, others] = [self.kinds(), other.kinds()];
        !ours.is_empty() && !others.is_empty() && ours.is_disjoint(&others)
    }

    fn kinds(&self) -> BTreeSet<&str> {
        let entities = self.graphs.iter().flat_map(|graph| graph.entities.values());
        entities
            .map(|Entity { label, .. }| label.as_str())
            .collect()
    }

    fn named(&self, name: &str) -> Result<Option<&ReportGraph>, AmbiguousName> {
        match self.places.get(name) {
            None => Ok(None),
            Some(None) => Err(AmbiguousName),
            Some(Some(place)) => Ok(self.graphs.get(*place as usize)),
        }
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Annotations;
        impl<'de> Visitor<'de> for Annotations {
            type Value = Named;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or an array of annotations")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Named, M::Error> {
                members_of(map).map(Named)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut all: S) -> Result<Named, S::Error> {
                let mut annotations = Vec::new();
                while let Some(annotation) = all.next_element()? {
                    annotations.push((annotations.len().to_string(), annotation));
                }
                Ok(Named(annotations))
            }
        }
        deserializer.deserialize_any(Annotations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDEMA: &str = r#"{"text": "edema", "entities": {"1": {"tokens": "edema", "label": "OBS-DP", "start_ix": 0, "end_ix": 0,
        "relations": []}}, "data_source": null, "data_split": "inference"}"#;

    fn read(json: &str) -> Result<GraphFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graphs.json");
        std::fs::write(&path, json).unwrap();
        GraphFile::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn annotations_are_found_by_row_by_study_and_by_path() {
        for rows in [
            format!("[{EDEMA}, {EDEMA}]"),
            format!(r#"{{"0": {EDEMA}, "1": {EDEMA}}}"#),
        ] {
            let rows = read(&rows).unwrap();
            assert!(matches!(rows.of_row(1), Ok(Some(_))) && matches!(rows.of_row(2), Ok(None)));
        }
        let paths = format!(r#"{{"p10/p10000032/s50414267.txt": {EDEMA}}}"#);
        for (file, id) in [
            (paths.clone(), "50414267"),
            (paths.clone(), "s50414267"),
            (paths, "p10/p10000032/s50414267.txt"),
            (format!(r#"{{"50414267": {EDEMA}}}"#), "s50414267"),
        ] {
            let file = read(&file).unwrap();
            assert!(matches!(file.of_study(id), Ok(Some(_))), "{id}");
        }
        // Nobody can say which of the two it is.
        let twice = format!(r#"{{"a/x.txt": {EDEMA}, "b/x.txt": {EDEMA}}}"#);
        let twice = read(&twice).unwrap();
        assert_eq!(twice.of_study("x").err(), Some(AmbiguousName));
        assert!(matches!(twice.of_study("b/x.txt"), Ok(Some(_))));
    }

    #[test]
    fn what_is_no_annotation_is_refused_and_never_scored_as_one_that_found_nothing() {
        for (json, words) in [
            (
                r#"{"0": {"labeler_1": {"entities": {}}}}"#,
                "missing field `entities`",
            ),
            (r#"{"0": {}}"#, "line 1: no RadGraph JSON"),
            ("3", "an object or an array"),
            (
                &format!(r#"{{"0": {EDEMA}, "0": {EDEMA}}}"#),
                "stands there twice",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
        let nothing = read(r#"{"0": {"entities": {}}}"#).unwrap();
        assert!(matches!(nothing.of_row(0), Ok(Some(_))));
    }

    #[test]
    fn annotations_of_different_models_are_told_apart() {
        let old = read(&format!("[{EDEMA}]")).unwrap();
        let new = EDEMA.replace("OBS-DP", "Observation::definitely present");
        let new = read(&format!("[{new}]")).unwrap();
        assert!(old.is_of_another_model(&new) && !old.is_of_another_model(&old));
        assert!(!old.is_of_another_model(&read("[]").unwrap()));
    }
}
