//! What the trainings read, made of a user's table: labelled images, reports, image tokens, dialogs. What is there already is taken
//! as it is, so that an interrupted fine-tuning goes on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::device::Device;
use radialog_schemas::{Finding, Label, Stage, counted};

use super::table::{FinetuneRow, FinetuneTable};
use crate::error::TrainingError;
use crate::evaluation::quality::ProgressCallback;
use crate::evaluation::quality::networks::Networks;
use crate::evaluation::subgroups::GROUPS;
use crate::prepare::{
    Coverage, DialogDataset, FindingLabels, InstructDataset, ReportRow, ReportTasks, TaskPrompts,
    TensorFileHeader, read_report_table, report_table_samples, write_pairs_table, write_table,
};

/// Images whose tokens are held at a time.
const TOGETHER: usize = 256;
/// Questions about single findings in each dialog.
const QUESTIONS: usize = 4;

/// The folder of the data sets.
#[derive(Clone, Debug)]
pub struct DataSets(pub PathBuf);

/// How the rows came by their labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// Rows with labels of the table.
    pub given: usize,
    /// Rows without, whose report CheXbert has labelled.
    pub by_chexbert: usize,
    /// Rows without either.
    pub none: usize,
}

impl Labelled {
    /// How these rows of a table come by their labels.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a FinetuneRow>) -> Self {
        let mut labelled = Self::default();
        for row in rows {
            match (row.is_labelled(), row.report.is_empty()) {
                (true, _) => labelled.given += 1,
                (false, false) => labelled.by_chexbert += 1,
                (false, true) => labelled.none += 1,
            }
        }
        labelled
    }

    /// The same in words, as far as there are such rows.
    pub fn words(&self) -> Vec<String> {
        let rows = [
            (self.given, "with labels of the table"),
            (
                self.by_chexbert,
                "with labels that the start's CheXbert read from their report",
            ),
            (self.none, "without either"),
        ];
        let rows = rows.into_iter().filter(|(count, _)| *count > 0);
        rows.map(|(count, what)| format!("{} {what}", counted(count, "image", "images")))
            .collect()
    }
}

impl DataSets {
    /// Labelled images: image, patient, split, the 14 findings.
    pub fn images(&self) -> PathBuf {
        self.0.join("images.csv")
    }

    /// Images with their reports.
    pub fn pairs(&self) -> PathBuf {
        self.0.join("pairs.csv")
    }

    /// The reports that the labeler learns from.
    pub fn labelled_reports(&self) -> PathBuf {
        self.0.join("labelled-reports.csv")
    }

    /// Image tokens.
    pub fn embeddings(&self) -> PathBuf {
        self.0.join("embeddings.safetensors")
    }

    /// Dialogs of a side.
    pub fn dialogs(&self, side: &str) -> PathBuf {
        self.0.join(format!("dialogs.{side}.json"))
    }

    /// Writes the tables of images and of reports. A report that no label of the table goes with is labelled by the bundle's
    /// CheXbert; what it does not mention counts as absent in the image, as in the original's data. Where `are_texts_learned`,
    /// findings that no row has a label of are read from all reports, for the table of reports alone.
    ///
    /// # Errors
    /// A bundle without a labeler where one is needed, a file that cannot be written.
    pub fn write_tables(
        &self,
        table: &FinetuneTable,
        are_texts_learned: bool,
        bundle: &Bundle,
        device: &Device,
        progress: ProgressCallback<'_>,
    ) -> Result<(), TrainingError> {
        let rows = &table.rows;
        let unlabelled = match are_texts_learned {
            true => table.unlabelled(),
            false => Vec::new(),
        };
        let needs = |row: &&FinetuneRow| {
            !row.report.is_empty() && (!row.is_labelled() || !unlabelled.is_empty())
        };
        let texts: Vec<&str> = rows
            .iter()
            .filter(needs)
            .map(|row| row.report.as_str())
            .collect();
        let mut labels = match texts.is_empty() {
            true => Vec::new(),
            false => Networks::load(bundle, &[Stage::Scoring], device, progress)?.label(&texts)?,
        }
        .into_iter();
        let of_rows: Vec<(FindingLabels, FindingLabels)> = rows
            .iter()
            .map(|row| {
                let read = match needs(&row) {
                    true => labels.next(),
                    false => None,
                };
                match read {
                    None => (row.labels, row.labels),
                    Some(read) if row.is_labelled() => {
                        (row.labels, with_read(row.labels, &read, &unlabelled))
                    }
                    Some(read) => (absent_where_blank(read), read),
                }
            })
            .collect();
        std::fs::create_dir_all(&self.0).map_err(TrainingError::io("create", &self.0))?;
        let cells = |row: &FinetuneRow| {
            let side = row.side.unwrap_or_default().to_owned();
            let mut cells = vec![row.name.clone(), row.patient.clone(), side];
            cells.extend(row.groups.clone());
            cells
        };
        let reports = rows
            .iter()
            .zip(&of_rows)
            .map(|(row, (_, of_report))| ReportRow {
                study: row.name.clone(),
                split: row.side.unwrap_or_default().to_owned(),
                findings: row.report.clone(),
                impression: String::new(),
                indication: String::new(),
                image: row.name.clone(),
                patient: Some(row.patient.clone()),
                labels: *of_report,
            });
        let with_text = reports.filter(|report| !report.findings.is_empty());
        write_pairs_table(&self.pairs(), &with_text.collect::<Vec<_>>())?;
        // The last one: where it is, both are.
        let images = rows
            .iter()
            .zip(&of_rows)
            .map(|(row, (labels, _))| (cells(row), labels));
        let own = ["image", "patient_id", "split"].into_iter();
        let names: Vec<&str> = own.chain(GROUPS.map(|(kind, _)| kind)).collect();
        write_table(&self.images(), &names, images)
    }

    /// Writes those reports of the table of pairs that a label of the user's table goes with. The others have labels that the
    /// start's labeler has read in them: beside these it would always be right.
    ///
    /// # Errors
    /// A table of pairs that cannot be read, a file that cannot be written.
    pub fn write_labelled_reports(&self, table: &FinetuneTable) -> Result<(), TrainingError> {
        let labelled = table.rows.iter().filter(|row| row.is_labelled());
        let labelled: HashSet<&str> = labelled.map(|row| row.name.as_str()).collect();
        let mut rows = read_report_table(&self.pairs())?;
        rows.retain(|row| labelled.contains(row.study.as_str()));
        write_pairs_table(&self.labelled_reports(), &rows)
    }

    /// Writes the image tokens of all images with a report that train or validate.
    ///
    /// # Errors
    /// A bundle without an image encoder, an image that cannot be read, a file that cannot be written.
    pub fn write_embeddings(
        &self,
        folder: &Path,
        bundle: &Bundle,
        device: &Device,
        progress: ProgressCallback<'_>,
    ) -> Result<u64, TrainingError> {
        let names: Vec<String> = read_report_table(&self.pairs())?
            .into_iter()
            .filter(|row| row.split == "train" || row.split == "validate")
            .map(|row| row.study)
            .collect();
        let networks = Networks::load(bundle, &[Stage::Embedding], device, &|_, _, _| {})?;
        let paths = |names: &[String]| {
            names
                .iter()
                .map(|name| folder.join(name))
                .collect::<Vec<_>>()
        };
        let total = names.len() as u64;
        let mut done = 0;
        let mut file = None;
        for names_together in names.chunks(TOGETHER) {
            let tokens = networks.embed(&paths(names_together))?;
            for tokens in tokens {
                if file.is_none() {
                    let mut header = TensorFileHeader::create_made_by(
                        &self.embeddings(),
                        tokens.dims(),
                        bundle.manifest().origin(Stage::Embedding).as_ref(),
                    )?;
                    names.iter().try_for_each(|name| header.add(name))?;
                    file = Some(header.rows()?);
                }
                if let Some(file) = &mut file {
                    file.add(&tokens.flatten_all()?.to_vec1::<f32>()?)?;
                }
            }
            done += names_together.len() as u64;
            progress("embedding images", done, total);
        }
        match file {
            Some(file) => file.finish()?,
            None => {
                let reason = "no image with a report trains or validates";
                return Err(TrainingError::Empty(reason.to_owned()));
            }
        }
        Ok(total)
    }

    /// Writes the dialogs of a side: each image's report, questions about its findings, corrections, as `prepare tasks`, `instruct`
    /// and `dialogs` make them for every image.
    ///
    /// # Errors
    /// No report of this side, files that cannot be written.
    pub fn write_dialogs(
        &self,
        side: &str,
        language: &LanguageComponent,
        seed: u64,
    ) -> Result<u64, TrainingError> {
        let tasks = self.0.join(format!("tasks.{side}"));
        let prompts = &language.prompts;
        let task_prompts = TaskPrompts::own()?.with_questions(prompts.questions.clone());
        let mut rows = read_report_table(&self.pairs())?;
        rows.retain(|row| row.split == side);
        let from_reports = ReportTasks {
            reports: &rows,
            task_prompts: &task_prompts,
            corrections: 1,
            seed,
        };
        match from_reports.write(&tasks) {
            // Reports that state nothing that a phrase list knows have no corrections.
            Ok(_) | Err(TrainingError::Empty(_)) => {}
            Err(error) => return Err(error),
        }
        let samples = report_table_samples(&self.pairs(), side)?.samples;
        let instruct = InstructDataset {
            samples: &samples,
            prompts,
            task_prompts: &task_prompts,
            tasks: tasks.clone(),
            mimic_nle: None,
            coverage: Coverage::EachImage {
                questions: QUESTIONS,
            },
            seed,
        };
        instruct.run(&tasks.join("instruct.json"))?;
        let dialogs = DialogDataset {
            samples: &samples,
            prompts,
            tasks,
            seed,
        };
        Ok(dialogs.run(&self.dialogs(side))?.dialogs)
    }
}

/// Labels of the table, and those of a report for the findings that the table does not know: what learns from texts would deny them
/// all, whatever the report says. "No Finding" of the one never comes beside a finding of the other.
fn with_read(given: FindingLabels, read: &FindingLabels, unlabelled: &[Finding]) -> FindingLabels {
    let mut labels = given;
    let is_there = |finding: &Finding| given[*finding as usize] == Label::Positive;
    let is_normal =
        |finding: &Finding| matches!(finding, Finding::NoFinding | Finding::SupportDevices);
    let has_finding = Finding::ALL
        .iter()
        .any(|finding| is_there(finding) && !is_normal(finding));
    for finding in unlabelled {
        let contradicts = match finding {
            Finding::NoFinding => has_finding,
            Finding::SupportDevices => false,
            _ => is_there(&Finding::NoFinding),
        };
        let label = read[*finding as usize];
        if !contradicts || label != Label::Positive {
            labels[*finding as usize] = label;
        }
    }
    labels
}

fn absent_where_blank(labels: FindingLabels) -> FindingLabels {
    let mut labels = labels;
    for finding in Finding::ALL {
        let label = &mut labels[finding as usize];
        if *label == Label::Blank {
            *label = Label::Negative;
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use radialog_schemas::ContentHash;

    use super::*;

    #[test]
    fn the_labeler_learns_from_reports_that_the_table_has_a_label_of() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataSets(dir.path().to_owned());
        let blank = [Label::Blank; Finding::ALL.len()];
        let mut labels = blank;
        labels[Finding::Edema as usize] = Label::Negative;
        let row = |name: &str, labels| FinetuneRow {
            line: 2,
            name: name.to_owned(),
            image: PathBuf::new(),
            patient: name.to_owned(),
            side: Some("train"),
            report: "No edema.".to_owned(),
            labels,
            groups: Default::default(),
        };
        let table = FinetuneTable {
            path: PathBuf::new(),
            folder: PathBuf::new(),
            rows: vec![row("given.png", labels), row("read.png", blank)],
            columns: String::new(),
            notes: Vec::new(),
            hash: ContentHash::of(b""),
        };
        // As CheXbert has labelled them.
        let pairs = ["given.png", "read.png"];
        let pairs = pairs.map(|name| ReportRow::of_findings(name, "train", "No edema.", labels));
        write_pairs_table(&data.pairs(), &pairs).unwrap();
        data.write_labelled_reports(&table).unwrap();
        let kept = read_report_table(&data.labelled_reports()).unwrap();
        assert_eq!(kept, pairs[..1]);
    }

    #[test]
    fn what_a_table_does_not_know_is_read_from_the_report_and_contradicts_nothing() {
        let of = |labels: &[(Finding, Label)]| {
            let mut all = [Label::Blank; Finding::ALL.len()];
            for (finding, label) in labels {
                all[*finding as usize] = *label;
            }
            all
        };
        let read = of(&[
            (Finding::NoFinding, Label::Positive),
            (Finding::Edema, Label::Positive),
            (Finding::Fracture, Label::Positive),
            (Finding::Pneumothorax, Label::Negative),
            (Finding::SupportDevices, Label::Positive),
        ]);
        let unlabelled = [
            Finding::NoFinding,
            Finding::Pneumothorax,
            Finding::Fracture,
            Finding::SupportDevices,
        ];
        let known = [
            (Finding::Fracture, Label::Positive),
            (Finding::Pneumothorax, Label::Negative),
            (Finding::SupportDevices, Label::Positive),
        ];
        // Edema is known to the table, which says nothing of it here.
        let nothing = with_read(of(&[]), &read, &unlabelled);
        let normal = (Finding::NoFinding, Label::Positive);
        assert_eq!(nothing, of(&[&[normal][..], &known].concat()));
        let lesion = (Finding::LungLesion, Label::Positive);
        let found = with_read(of(&[lesion]), &read, &unlabelled);
        assert_eq!(found, of(&[&[lesion][..], &known].concat()));
        let found = with_read(of(&[normal]), &read, &unlabelled[1..]);
        assert_eq!(found, of(&[&[normal][..], &known[1..]].concat()));
    }
}
