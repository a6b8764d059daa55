//! What reports are compared with: texts, or labels of the findings, in tables, in ReXrank's JSON, or in a folder of reports.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use radialog_schemas::Finding;
use radialog_schemas::system_files::is_system_file;
use serde::{Deserialize, Serialize};

use super::names::{ends, whole};
use super::prediction_file::{Prediction, PredictionNames, is_table};
use super::rexrank_file::RexrankStudies;
use super::stored_texts::{Span, TextStore};
use super::{FaultKind, Faults, InputFault, comparable, without_suffix};
use crate::error::TrainingError;
use crate::evaluation::id_digest::IdDigest;
use crate::evaluation::label_source::{LabelKind, LabelSource};
use crate::evaluation::stored_rows::{StoredRows, temporary};
use crate::evaluation::text_file::read_text;
use crate::evaluation::text_rows::TextRows;
use crate::prepare::FindingLabels;
use crate::prepare::sections::Report;

mod columns;
mod table;

/// The part of a report that is the reference, where a file has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceSection {
    /// The findings section, which the model writes.
    #[default]
    Findings,
    /// Findings and impression, as ReXrank joins them.
    Whole,
}

/// What is known of a study from the references.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ReferenceEntry {
    pub(super) id: String,
    pub(super) line: u64,
    pub(super) text: Option<Span>,
    pub(super) labels: Option<FindingLabels>,
    pub(super) patient: Option<String>,
    pub(super) split: Option<String>,
    pub(super) image: String,
}

/// One file of references.
#[derive(Debug)]
pub(super) struct ReferenceFile {
    pub(super) path: PathBuf,
    pub(super) entries: StoredRows<ReferenceEntry>,
    /// Whether a prediction belongs to an entry.
    pub(super) used: Vec<bool>,
    /// The hash of what an entry says.
    contents: Vec<u64>,
    /// Places in `entries` by id.
    keys: HashMap<IdDigest, u32>,
    /// Entries that share an id, by it.
    repeated: HashMap<IdDigest, Repeated>,
    /// Places by the end of a path; none where several entries' paths end so.
    ends: HashMap<IdDigest, Option<u32>>,
    /// Entries that a prediction goes by the end of a path of, with the prediction; none where several do.
    taken: HashMap<u32, Option<IdDigest>>,
    pub(super) has_texts: bool,
    pub(super) has_labels: bool,
    /// Whose labels they are, where it has any.
    pub(super) labels_by: Option<LabelSource>,
    /// Whether rows have no ids and stand in the order of the predictions.
    pub(super) by_order: bool,
}

/// Entries of one id.
#[derive(Clone, Debug)]
pub(super) struct Repeated {
    /// Where they are.
    pub(super) places: Vec<u32>,
    /// The first that says something else than the very first.
    pub(super) differing: Option<u32>,
}

/// All references.
#[derive(Debug, Default)]
pub struct References {
    pub(super) files: Vec<ReferenceFile>,
    /// Findings that no table of labels has a label of; empty without one.
    pub unlabelled: Vec<Finding>,
    /// What is wrong with them.
    pub faults: Faults,
    /// What to know about how they were read.
    pub notes: Vec<String>,
}

/// What a look-up gives.
pub(super) enum Found {
    Nothing,
    Entry(u32),
    /// The end of a path is the only name that leads there.
    End(u32),
    /// Rows of which some differ.
    Differing(Repeated),
}

impl References {
    /// Reads files of references. Of a folder of reports only those are read whose name is in `wanted`, which is called for where
    /// there is such a folder.
    ///
    /// # Errors
    /// No such file, a table without an id or without anything to compare with, or a column whose name is nearly that of a
    /// finding.
    pub fn read(
        paths: &[PathBuf],
        section: ReferenceSection,
        wanted: impl Fn() -> Result<PredictionNames, TrainingError>,
        store: &mut TextStore,
    ) -> Result<Self, TrainingError> {
        let mut references = Self::default();
        let mut labelled = [false; Finding::ALL.len()];
        for path in paths {
            let mut file = ReferenceFile::new(path)?;
            let is_json = path
                .extension()
                .is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"));
            if path.is_dir() {
                references.read_folder(&mut file, &wanted()?, store)?;
            } else if is_json {
                references.read_rexrank(&mut file, section, store)?;
            } else if is_table(path)? {
                references.read_table(&mut file, store, &mut labelled)?;
            } else {
                references.read_rows(&mut file, store)?;
            }
            references.files.push(file);
        }
        if references.have_labels() {
            let missing = Finding::ALL.into_iter().zip(labelled);
            references.unlabelled = missing
                .filter(|(_, labelled)| !labelled)
                .map(|(finding, _)| finding)
                .collect();
        }
        Ok(references)
    }

    /// Whether there are tables of labels, and CheXbert has labelled all of them.
    pub fn are_labelled_by_chexbert(&self) -> bool {
        let mut tables = self.files.iter().filter(|file| file.has_labels).peekable();
        let is_chexberts = |file: &ReferenceFile| {
            let source = file.labels_by.as_ref();
            source.is_some_and(|source| source.kind == LabelKind::Chexbert)
        };
        tables.peek().is_some() && tables.all(is_chexberts)
    }

    /// Whether one of the files is a table of labels.
    pub fn have_labels(&self) -> bool {
        self.files.iter().any(|file| file.has_labels)
    }

    fn read_rexrank(
        &mut self,
        file: &mut ReferenceFile,
        section: ReferenceSection,
        store: &mut TextStore,
    ) -> Result<(), TrainingError> {
        file.has_texts = true;
        for (id, study) in RexrankStudies::read(&file.path)?.0 {
            let text = match section {
                ReferenceSection::Findings => {
                    let is_there = |text: &String| radialog_schemas::table::cell(text).is_some();
                    study.findings().filter(is_there)
                }
                ReferenceSection::Whole => study.whole(),
            };
            let text = text.unwrap_or_default();
            let entry = ReferenceEntry {
                id: id.clone(),
                patient: study.text("subject_id"),
                split: study.text("split"),
                image: study.text("key_image_path").unwrap_or_default(),
                ..ReferenceEntry::default()
            };
            file.add(entry, &text, vec![id], store)?;
        }
        Ok(())
    }

    /// Texts alone, one a row.
    fn read_rows(
        &mut self,
        file: &mut ReferenceFile,
        store: &mut TextStore,
    ) -> Result<(), TrainingError> {
        (file.has_texts, file.by_order) = (true, true);
        let path = file.path.clone();
        let rows = TextRows::open(&path).map_err(TrainingError::content(&path))?;
        for (place, row) in rows.enumerate() {
            let (line, text) = row.map_err(TrainingError::content(&path))?;
            let id = format!("row {}", place + 1);
            let text = radialog_schemas::table::cell(&text).map_or("", |_| text.as_str());
            let entry = ReferenceEntry {
                id: id.clone(),
                line,
                ..ReferenceEntry::default()
            };
            file.add(entry, text, vec![id], store)?;
        }
        Ok(())
    }

    /// A folder of reports, as MIMIC-CXR publishes them: `pNN/pNNNNNNNN/sNNNNNNNN.txt`, or files side by side. The reference is
    /// the findings section.
    fn read_folder(
        &mut self,
        file: &mut ReferenceFile,
        wanted: &PredictionNames,
        store: &mut TextStore,
    ) -> Result<(), TrainingError> {
        file.has_texts = true;
        let mut reports = reports_below(&file.path)?;
        if reports.is_empty() {
            return Err(TrainingError::Empty(format!(
                "'{}' has no report: a folder of references has files that end with .txt",
                file.path.display()
            )));
        }
        reports.sort_unstable();
        for path in reports {
            let inside = path.strip_prefix(&file.path).unwrap_or(&path);
            let name = inside.to_string_lossy().into_owned();
            let id = without_suffix(&name).to_owned();
            let mut findings = String::new();
            if wanted.has(&name) {
                match read_text(&path) {
                    Ok(text) => findings = Report::of(&text).findings,
                    Err(error @ TrainingError::Content { .. }) => {
                        let kind = FaultKind::OtherEncoding;
                        self.fault(file, 0, &id, kind, error.to_string());
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let parent = path.parent().and_then(Path::file_name);
            let patient = parent.map(|name| name.to_string_lossy().into_owned());
            let entry = ReferenceEntry {
                id: id.clone(),
                patient: patient.filter(|name| name.len() == 9 && name.starts_with('p')),
                ..ReferenceEntry::default()
            };
            file.add(entry, &findings, vec![name], store)?;
        }
        self.notes.push(format!(
            "reference texts are the findings sections of the reports below {}",
            file.path.display()
        ));
        Ok(())
    }

    fn fault(
        &mut self,
        file: &ReferenceFile,
        line: u64,
        id: &str,
        kind: FaultKind,
        detail: String,
    ) {
        self.faults.add(InputFault {
            file: file.path.to_string_lossy().into(),
            line,
            id: id.to_owned(),
            kind,
            detail,
        });
    }
}

/// The files below a folder that end with `.txt`, but for a system's own. Folders behind links are read after those that are none, and each once, wherever
/// links lead.
fn reports_below(folder: &Path) -> Result<Vec<PathBuf>, TrainingError> {
    let is_text = |suffix: &OsStr| suffix.eq_ignore_ascii_case("txt");
    let (mut folders, mut linked) = (vec![folder.to_owned()], BTreeSet::new());
    let (mut seen, mut reports) = (HashSet::new(), Vec::new());
    while let Some(folder) = folders.pop().or_else(|| linked.pop_first()) {
        let listed = TrainingError::io("list", &folder);
        let place = fs::metadata(&folder).map(|folder| (folder.dev(), folder.ino()));
        let entries = place.and_then(|place| Ok((place, fs::read_dir(&folder)?)));
        let (place, entries) = entries.map_err(listed)?;
        if !seen.insert(place) {
            continue;
        }
        for entry in entries {
            let entry = entry.map_err(TrainingError::io("list", &folder))?;
            if is_system_file(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let kind = entry.file_type();
            let kind = kind.map_err(TrainingError::io("list", &folder))?;
            let path = entry.path();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() && path.is_dir() {
                linked.insert(path);
            } else if path.extension().is_some_and(is_text) && path.is_file() {
                reports.push(path);
            }
        }
    }
    Ok(reports)
}

impl ReferenceFile {
    /// The entries that say again what an earlier one of their id says, to which a prediction belongs.
    pub(super) fn repeating_used(&self) -> HashSet<u32> {
        let behind_used = |repeated: &Repeated| {
            let is_used = |place: &u32| self.used[*place as usize];
            let Some(first) = repeated.places.iter().position(is_used) else {
                return Vec::new();
            };
            let content = self.contents[repeated.places[first] as usize];
            let behind = repeated.places[first + 1..].iter().copied();
            behind
                .filter(|place| self.contents[*place as usize] == content)
                .collect()
        };
        self.repeated.values().flat_map(behind_used).collect()
    }

    fn new(path: &Path) -> Result<Self, TrainingError> {
        Ok(Self {
            path: path.to_owned(),
            entries: StoredRows::new().map_err(temporary)?,
            used: Vec::new(),
            contents: Vec::new(),
            keys: HashMap::new(),
            repeated: HashMap::new(),
            ends: HashMap::new(),
            taken: HashMap::new(),
            has_texts: false,
            has_labels: false,
            labels_by: None,
            by_order: false,
        })
    }

    fn add(
        &mut self,
        mut entry: ReferenceEntry,
        text: &str,
        keys: Vec<String>,
        store: &mut TextStore,
    ) -> Result<(), TrainingError> {
        if !text.trim().is_empty() {
            entry.text = Some(store.add(text).map_err(temporary)?);
        }
        let mut hasher = DefaultHasher::new();
        (text, entry.labels).hash(&mut hasher);
        let content = hasher.finish();
        let place = self.entries.len() as u32;
        let names = keys.iter().flat_map(|key| [comparable(key), whole(key)]);
        for key in names.map(IdDigest::of) {
            match self.keys.get(&key) {
                // A row's id and its image's name are often the same.
                Some(&other) if other == place => {}
                Some(&other) => {
                    let repeated = self.repeated.entry(key).or_insert_with(|| Repeated {
                        places: vec![other],
                        differing: None,
                    });
                    if repeated.places.last() != Some(&place) {
                        repeated.places.push(place);
                    }
                    if repeated.differing.is_none() && self.contents[other as usize] != content {
                        repeated.differing = Some(place);
                    }
                }
                None => {
                    self.keys.insert(key, place);
                }
            }
        }
        for end in keys.iter().flat_map(|key| ends(key)) {
            let known = self.ends.entry(IdDigest::of(end)).or_insert(Some(place));
            if *known != Some(place) {
                *known = None;
            }
        }
        self.entries.add(&entry).map_err(temporary)?;
        self.contents.push(content);
        self.used.push(false);
        Ok(())
    }

    /// Looks for a study by the names that it may have here, the best first.
    pub(super) fn find(&self, prediction: &Prediction) -> Found {
        let names: Vec<IdDigest> = prediction.names().into_iter().map(IdDigest::of).collect();
        for name in &names {
            match self.named(name) {
                Found::Nothing => {}
                found => return found,
            }
        }
        for name in &names {
            if let Some(Some(place)) = self.ends.get(name) {
                return Found::End(*place);
            }
        }
        for end in prediction.ends() {
            match self.named(&IdDigest::of(end)) {
                Found::Nothing => {}
                Found::Entry(place) => return Found::End(place),
                found => return found,
            }
        }
        Found::Nothing
    }

    fn named(&self, name: &IdDigest) -> Found {
        let repeated = self.repeated.get(name);
        if let Some(repeated) = repeated.filter(|repeated| repeated.differing.is_some()) {
            return Found::Differing(repeated.clone());
        }
        self.keys
            .get(name)
            .map_or(Found::Nothing, |place| Found::Entry(*place))
    }

    /// Notes which entry a prediction goes by the end of a path of: where several do, nobody can say whose it is.
    pub(super) fn note(&mut self, prediction: &Prediction) {
        if let Found::End(place) = self.find(prediction) {
            let prediction = IdDigest::of(&prediction.id);
            let taken = self.taken.entry(place).or_insert(Some(prediction));
            if *taken != Some(prediction) {
                *taken = None;
            }
        }
    }

    /// Whether several predictions go by the end of a path of this entry.
    pub(super) fn is_of_several(&self, place: u32) -> bool {
        self.taken.get(&place) == Some(&None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systems_own_files_are_no_reports() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "p10/s1.txt",
            "p10/._s1.txt",
            ".hidden.txt",
            "@eaDir/s2.txt",
            "b.TXT",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "FINDINGS: x").unwrap();
        }
        let mut reports = reports_below(dir.path()).unwrap();
        reports.sort_unstable();
        assert_eq!(
            reports,
            ["b.TXT", "p10/s1.txt"].map(|name| dir.path().join(name))
        );
    }
}
