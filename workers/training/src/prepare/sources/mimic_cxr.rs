//! `prepare sections`: a tree of MIMIC-CXR reports, and one of images, become the sectioned CSV. Patients are read in
//! parallel, some at a time, and written in order, so that the same trees give the same bytes and memory stays flat.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::report_files::{PatientReports, ReportFiles, ReportText, patients_of};
use crate::error::TrainingError;
use crate::prepare::sections::Report;
use crate::prepare::sources::folder;
use crate::prepare::tables::csv_output::CsvOutput;
use crate::prepare::tables::sectioned_reports::{SECTIONED_COLUMNS, STUDY_COLUMN, SectionedRow};

mod report_files;

/// Patients that are read before their rows are written.
const PATIENTS: usize = 256;

/// The preparation of a sectioned CSV: the trees that it reads, and the file that it writes.
#[derive(Clone, Debug)]
pub struct Sectioning {
    /// Folder with `pNN/pNNNNNNNN/sNNNNNNNN.txt`, or the published zip of it.
    pub reports: PathBuf,
    /// Folder with `pNN/pNNNNNNNN/sNNNNNNNN/*.jpg`.
    pub images: PathBuf,
    /// The CSV file to write.
    pub output: PathBuf,
    /// Whether the study's column has a name, too, for readers that take as many values as there are names. The original's file
    /// leaves it without one.
    pub name_study: bool,
}

/// The counts of a preparation, and the reports that it left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectioningSummary {
    /// Reports that were read.
    pub reports: u64,
    /// Rows written, one an image.
    pub rows: u64,
    /// Reports left out, each with its reason.
    pub problems: Vec<String>,
}

/// The name of an image's file, and its id.
fn dicom(name: &str) -> Option<(&str, &str)> {
    let (dicom, suffix) = name.rsplit_once('.')?;
    suffix.eq_ignore_ascii_case("jpg").then_some((name, dicom))
}

/// What a patient's files come to.
#[derive(Default)]
struct PatientRows {
    reports: u64,
    rows: Vec<SectionedRow>,
    problems: Vec<String>,
}

impl Sectioning {
    /// Reads all reports. `progress` hears after each part how many patients of how many are done.
    ///
    /// A report that cannot be read, or whose folder of images is missing, is left out and named in the summary; so are
    /// files that are called otherwise than reports and images are, and images without a report.
    ///
    /// # Errors
    /// Folders that cannot be listed, no patient at all, or an output that cannot be written. The output appears under
    /// its name when it is whole.
    pub fn run(&self, progress: &dyn Fn(u64, u64)) -> Result<SectioningSummary, TrainingError> {
        let mut files = ReportFiles::open(&self.reports)?;
        let patients = files.patients()?;
        if patients.is_empty() {
            let shown = self.reports.display();
            return Err(TrainingError::Empty(format!(
                "no patient folder pNN/pNNNNNNNN in '{shown}': give the folder that holds p10 to p19, or \
                 mimic-cxr-reports.zip"
            )));
        }
        let named = self.name_study.then_some(STUDY_COLUMN);
        let names = named.into_iter().chain(SECTIONED_COLUMNS);
        let mut table = CsvOutput::create_as_python(&self.output, names)?;
        let mut summary = SectioningSummary::default();
        let total = patients.len() as u64;
        for (part, chunk) in patients.chunks(PATIENTS).enumerate() {
            let texts = files.studies(chunk);
            let patients = chunk.par_iter().zip(texts);
            let read: Vec<PatientRows> = patients
                .map(|(patient, texts)| self.patient(patient, texts))
                .collect();
            for patient in read {
                summary.reports += patient.reports;
                for row in patient.rows {
                    table.row(row.cells())?;
                    summary.rows += 1;
                }
                summary.problems.extend(patient.problems);
            }
            progress(((part * PATIENTS + chunk.len()) as u64).min(total), total);
        }
        table.finish()?;
        // The images' folder may not be there at all; each report has told that.
        let imaged = patients_of(&self.images).unwrap_or_default();
        let without = imaged
            .into_iter()
            .filter(|patient| patients.binary_search(patient).is_err());
        summary.problems.extend(without.map(|patient| {
            let shown = self.images.join(patient);
            format!(
                "images in '{}': their patient has no report",
                shown.display()
            )
        }));
        Ok(summary)
    }

    fn patient(&self, patient: &Path, texts: Result<PatientReports, TrainingError>) -> PatientRows {
        let mut found = PatientRows::default();
        let texts = match texts {
            Ok(texts) => texts,
            Err(error) => {
                found.reports = 1;
                found.problems.push(error.to_string());
                return found;
            }
        };
        let other = |path: PathBuf| {
            let shown = path.display();
            format!("'{shown}': no sNNNNNNNN.txt, as reports are called; it is left out")
        };
        found.problems.extend(texts.others.into_iter().map(other));
        let images_of = self.images.join(patient);
        let imaged = folder::names(&images_of).unwrap_or_default().into_iter();
        let is_study = |name: &String| name.starts_with('s') && images_of.join(name).is_dir();
        let mut imaged: BTreeSet<String> = imaged.filter(is_study).collect();
        for (study, text) in texts.studies {
            found.reports += 1;
            imaged.remove(&study);
            match self.study(patient, &study, text, &mut found.problems) {
                Ok(rows) => found.rows.extend(rows),
                Err(problem) => found.problems.push(problem),
            }
        }
        found.problems.extend(imaged.into_iter().map(|study| {
            let shown = images_of.join(study);
            format!("images in '{}': their study has no report", shown.display())
        }));
        found
    }

    /// The rows of one report, or why there are none; files in the folder of its images that are none are told.
    fn study(
        &self,
        patient: &Path,
        study: &str,
        text: ReportText,
        others: &mut Vec<String>,
    ) -> Result<Vec<SectionedRow>, String> {
        let note = format!("{study}.txt");
        let (path, bytes) = text.read();
        let bytes = bytes.map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| format!("'{}' is not UTF-8 text: convert it", path.display()))?;
        // As Python opens a text file.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let images_of = self.images.join(patient).join(study);
        let names = folder::names(&images_of)
            .map_err(|error| format!("report '{}': {error}", path.display()))?;
        let report = Report::of(&text);
        let row = |(name, dicom): (&str, &str)| SectionedRow {
            study: study.to_owned(),
            report: report.clone(),
            dicom_id: dicom.to_owned(),
            image_file: name.to_owned(),
            image_folder: format!("files/{}/{study}", patient.display()),
            note_file: note.clone(),
            line: 0,
        };
        let mut images = Vec::new();
        for name in &names {
            match dicom(name) {
                Some(image) => images.push(row(image)),
                None => others.push(format!(
                    "'{}': no .jpg file, as the collection's images are; it is left out",
                    images_of.join(name).display()
                )),
            }
        }
        if images.is_empty() {
            return Err(format!(
                "report '{}': no .jpg file in '{}'",
                path.display(),
                images_of.display()
            ));
        }
        Ok(images)
    }
}
