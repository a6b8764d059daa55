//! Where MIMIC-CXR reports are read from: the folder that the published zip unpacks to, or the zip itself, which has 227,835
//! small files. Of the zip only its table of contents is kept in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use radialog_schemas::RelativePath;
use radialog_schemas::system_files::is_below_system_file;
use rayon::prelude::*;
use zip::{CompressionMethod, ZipArchive};

use crate::error::TrainingError;
use crate::prepare::sources::folder::names;

/// In bytes. Reports have some kilobytes.
const LARGEST_REPORT: u64 = 16 << 20;

/// Reports by patient and study.
pub(super) enum ReportFiles {
    /// Folder with `pNN/pNNNNNNNN/sNNNNNNNN.txt`.
    Folder(PathBuf),
    /// `mimic-cxr-reports.zip`.
    Zip(Archive),
}

/// What there is of a patient.
#[derive(Default)]
pub(super) struct PatientReports {
    /// The reports by study, sorted.
    pub(super) studies: Vec<(String, ReportText)>,
    /// Files that are called otherwise than reports are.
    pub(super) others: Vec<PathBuf>,
}

/// A report that is still to be read, or its bytes.
pub(super) enum ReportText {
    Path(PathBuf),
    /// The place in the zip, for messages, and the bytes or why there are none.
    Read(PathBuf, Result<Vec<u8>, String>),
}

pub(super) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    /// The number of each file in the zip, by patient (`pNN/pNNNNNNNN`) and study; none where a study has several.
    studies: BTreeMap<PathBuf, BTreeMap<String, Option<usize>>>,
    /// Files of patients that are no reports.
    others: BTreeMap<PathBuf, Vec<String>>,
}

impl ReportFiles {
    pub(super) fn open(path: &Path) -> Result<Self, TrainingError> {
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("zip"))
        {
            return Ok(Self::Zip(Archive::open(path)?));
        }
        Ok(Self::Folder(path.to_owned()))
    }

    /// Paths `pNN/pNNNNNNNN`, sorted.
    pub(super) fn patients(&self) -> Result<Vec<PathBuf>, TrainingError> {
        let folder = match self {
            Self::Zip(archive) => return Ok(archive.studies.keys().cloned().collect()),
            Self::Folder(folder) => folder,
        };
        patients_of(folder)
    }

    /// The studies of each patient, sorted. Files of a zip are inflated here, one after the other; those of a folder are left
    /// to whoever reads in parallel.
    pub(super) fn studies(
        &mut self,
        patients: &[PathBuf],
    ) -> Vec<Result<PatientReports, TrainingError>> {
        match self {
            Self::Zip(archive) => patients
                .iter()
                .map(|patient| Ok(archive.reports(patient)))
                .collect(),
            Self::Folder(folder) => patients
                .par_iter()
                .map(|patient| in_folder(&folder.join(patient)))
                .collect(),
        }
    }
}

/// Paths `pNN/pNNNNNNNN` below a folder, sorted.
pub(super) fn patients_of(folder: &Path) -> Result<Vec<PathBuf>, TrainingError> {
    let mut patients = Vec::new();
    for group in names(folder)?.into_iter().filter(|name| is_group(name)) {
        if folder.join(&group).is_dir() {
            let names = names(&folder.join(&group))?
                .into_iter()
                .filter(|name| name.starts_with('p'));
            patients.extend(names.map(|name| Path::new(&group).join(name)));
        }
    }
    Ok(patients)
}

fn in_folder(patient: &Path) -> Result<PatientReports, TrainingError> {
    let mut reports = PatientReports::default();
    for name in names(patient)? {
        let path = patient.join(&name);
        match study(&name) {
            Some(study) => {
                let report = (study.to_owned(), ReportText::Path(path));
                reports.studies.push(report);
            }
            // The study's folder of images, where both trees are one.
            None if path.is_dir() => {}
            None => reports.others.push(path),
        }
    }
    Ok(reports)
}

impl Archive {
    fn open(path: &Path) -> Result<Self, TrainingError> {
        let file = File::open(path).map_err(TrainingError::io("open", path))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(TrainingError::content(path))?;
        // Of entries of one name, the last alone can be found, and nobody can say of which there are several, nor whether they
        // are folders.
        if zip.has_duplicate_names() {
            return Err(TrainingError::content(path)(
                "several entries of the zip have one name, files or folders: unzip it, see whether a report is there twice, and \
                 give the folder",
            ));
        }
        let mut studies: BTreeMap<PathBuf, BTreeMap<String, Option<usize>>> = BTreeMap::new();
        let mut others: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for (number, name) in zip.file_names().enumerate() {
            let name = name.map_err(TrainingError::content(path))?;
            // A folder in a zip is closed by a slash.
            let file = name.strip_suffix('/').unwrap_or(&name);
            // As in a folder: not even their names are looked at, and Finder's "Icon\r" is none that a file should have.
            if is_below_system_file(file) {
                continue;
            }
            RelativePath::parse(file).map_err(TrainingError::content(path))?;
            // Whatever stands in front, as "files" in the published zip.
            let parts: Vec<&str> = name.split('/').collect();
            if let [.., group, patient, file] = parts.as_slice()
                && is_group(group)
                && patient.starts_with('p')
                && !file.is_empty()
            {
                let of_patient = studies.entry(Path::new(group).join(patient)).or_default();
                match study(file) {
                    Some(study) => {
                        let place = of_patient.entry(study.to_owned());
                        place
                            .and_modify(|place| *place = None)
                            .or_insert(Some(number));
                    }
                    None => {
                        let others = others.entry(Path::new(group).join(patient));
                        others.or_default().push((*file).to_owned());
                    }
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            zip,
            studies,
            others,
        })
    }

    fn reports(&mut self, patient: &Path) -> PatientReports {
        let place = self.path.join(patient);
        let others = self.others.get(patient).into_iter().flatten();
        let others = others.map(|name| place.join(name)).collect();
        let studies = self.studies.get(patient).cloned().unwrap_or_default();
        let read = studies.into_iter().map(|(study, number)| {
            let place = self.path.join(patient).join(format!("{study}.txt"));
            let bytes = match number {
                Some(number) => self.inflate(number),
                None => Err(
                    "it is several times in the zip, in several folders: leave one of them"
                        .to_owned(),
                ),
            };
            let text = ReportText::Read(place, bytes);
            (study, text)
        });
        PatientReports {
            studies: read.collect(),
            others,
        }
    }

    fn inflate(&mut self, number: usize) -> Result<Vec<u8>, String> {
        let file = self
            .zip
            .by_index_raw(number)
            .map_err(|error| error.to_string())?;
        let (size, method) = (file.size(), file.compression());
        // What the zip says is not believed: a few kilobytes can inflate to gigabytes.
        if size > LARGEST_REPORT {
            return Err(format!(
                "{size} bytes, and a report has at most {LARGEST_REPORT}"
            ));
        }
        let mut bytes = Vec::new();
        let read = match method {
            CompressionMethod::STORE => file.take(size + 1).read_to_end(&mut bytes),
            CompressionMethod::DEFLATE => DeflateDecoder::new(file)
                .take(size + 1)
                .read_to_end(&mut bytes),
            other => {
                return Err(format!(
                    "compressed as {other}: unzip the archive and give its folder"
                ));
            }
        };
        read.map_err(|error| error.to_string())?;
        let whole = bytes.len() as u64 == size;
        if whole {
            Ok(bytes)
        } else {
            Err(format!(
                "{} of {size} bytes: the zip is damaged",
                bytes.len()
            ))
        }
    }
}

impl ReportText {
    /// The report's bytes, and where they are from.
    pub(super) fn read(self) -> (PathBuf, Result<Vec<u8>, String>) {
        match self {
            Self::Path(path) => {
                let bytes = fs::read(&path).map_err(|error| error.to_string());
                (path, bytes)
            }
            Self::Read(place, bytes) => (place, bytes),
        }
    }
}

fn is_group(name: &str) -> bool {
    name.starts_with('p') && name.len() == 3
}

/// The study of a report's file.
fn study(file: &str) -> Option<&str> {
    file.strip_suffix(".txt")
        .filter(|study| study.starts_with('s'))
}
