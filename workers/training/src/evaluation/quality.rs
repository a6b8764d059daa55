//! What a bundle is worth, measured on studies that it never saw: findings, reports, labels and answers, each beside what
//! needs no model at all, and each with how sure the figure is.

mod agreement;
mod calibrate;
mod chexbert;
mod dialog;
mod findings;
mod images;
pub(crate) mod networks;
mod pairs;
mod reports;
pub mod score_table;
mod statements;
mod studies;

pub use calibrate::FittedCalibration;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::{Device, Tensor};
use radialog_models::bundle::Bundle;
use radialog_schemas::{ContentHash, Stage};
use serde::{Deserialize, Serialize};

use agreement::present;
use networks::{DialogRequest, Networks};
use score_table::ScoreSection;
use studies::{LabelledTestImage, SplitReports, stated};

use crate::error::TrainingError;
use crate::prepare::{FindingLabels, Pairing, ReportRow};
use crate::recipe::ImageTable;

/// A callback that hears what is being done, how many of it are done, and how many there are; from several threads.
pub type ProgressCallback<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

/// The split that training reads, for baselines.
const TRAIN: &str = "train";

/// A part of the evaluation of a bundle, which `--only` can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityPart {
    /// The findings of images.
    Findings,
    /// The labels of reports.
    Chexbert,
    /// Reports from given findings.
    Report,
    /// Reports from images.
    Image,
    /// Reports from images, beside the radiologist's text of the same image.
    Pairs,
    /// Answers to questions about a report.
    Dialog,
}

/// An evaluation of a bundle: which parts of it are measured on which data.
#[derive(Clone, Debug)]
pub struct QualityEvaluation {
    /// A table of labelled reports, with the columns `study_id`, `split`, `findings` and the 14 findings.
    pub reports: Option<PathBuf>,
    /// Tables of labelled images.
    pub images: Vec<ImageTable>,
    /// A table of images with the radiologist's text about them (`study_id`, `split`, `image`, `findings`, the 14 findings), and the
    /// folder of the images.
    pub pairs: Option<ImageTable>,
    /// The parts to measure; none twice.
    pub parts: Vec<QualityPart>,
    /// The split that is scored: `test`, or `validate` while models are still chosen.
    pub split: String,
    /// Determines everything that is drawn.
    pub seed: u64,
    /// The largest number of reports, and of images of each table.
    pub limit: Option<usize>,
    /// Whether an answer names a finding in lower-case letters only, as the test program of RaDialog v2 reads answers; v1's
    /// takes no notice of case.
    pub lower_case_names: bool,
    /// The device on which networks run.
    pub device: Device,
}

/// All figures of an evaluation, as they are written to its JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QualityReport {
    /// The bundle's name.
    pub bundle: String,
    /// Hash of the whole bundle.
    pub hash: ContentHash,
    /// True where the figures are those of chance.
    pub random_weights: bool,
    /// The split that was scored.
    pub split: String,
    /// What was drawn follows from it.
    pub seed: u64,
    /// The limit, where not the whole split was scored.
    pub limit: Option<usize>,
    /// Figures by part.
    pub parts: BTreeMap<QualityPart, ScoreSection>,
}

/// A text that the bundle wrote, for people who want to see what was scored.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratedText {
    /// The part in which it was written.
    pub part: QualityPart,
    /// The study, or the image's file name.
    pub id: String,
    /// The findings that the request named.
    pub findings: String,
    /// The question, where it is about a report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What was written before, where it is about a report; else the radiologist's text, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What the bundle wrote.
    pub text: String,
    /// Whether it is right, where a rule says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<bool>,
}

impl QualityPart {
    /// All parts, in the order in which they are measured.
    pub const ALL: [QualityPart; 6] = [
        QualityPart::Findings,
        QualityPart::Chexbert,
        QualityPart::Report,
        QualityPart::Image,
        QualityPart::Pairs,
        QualityPart::Dialog,
    ];

    /// Returns the name of the part on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            QualityPart::Findings => "findings",
            QualityPart::Chexbert => "chexbert",
            QualityPart::Report => "report",
            QualityPart::Image => "image",
            QualityPart::Pairs => "pairs",
            QualityPart::Dialog => "dialog",
        }
    }

    /// Returns the components of the bundle that the part needs.
    pub fn stages(self) -> &'static [Stage] {
        match self {
            QualityPart::Findings => &[Stage::Findings],
            QualityPart::Chexbert => &[Stage::Scoring],
            QualityPart::Report | QualityPart::Dialog => {
                &[Stage::Embedding, Stage::Language, Stage::Scoring]
            }
            QualityPart::Image | QualityPart::Pairs => &Stage::ALL,
        }
    }

    /// Returns whether the part needs a table of reports.
    pub fn needs_reports(self) -> bool {
        matches!(
            self,
            QualityPart::Chexbert | QualityPart::Report | QualityPart::Dialog
        )
    }

    /// Whether a model writes texts that are scored.
    pub fn writes_texts(self) -> bool {
        matches!(
            self,
            QualityPart::Report | QualityPart::Image | QualityPart::Dialog
        )
    }

    /// Whether it needs tables of images. The language model has never seen a request without an image, so that reports
    /// from given findings need some, too.
    pub fn needs_images(self) -> bool {
        !matches!(self, QualityPart::Chexbert | QualityPart::Pairs)
    }

    /// Returns whether the part needs a table of images with their reports.
    pub fn needs_pairs(self) -> bool {
        self == QualityPart::Pairs
    }
}

impl FromStr for QualityPart {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|part| part.name() == name)
            .ok_or_else(|| format!("'{name}' is not one of {all}"))
    }
}

/// What the parts share: data, loaded networks, and texts that more than one part reads.
struct Evaluator<'a> {
    quality: &'a QualityEvaluation,
    networks: Networks<'a>,
    texts: Vec<GeneratedText>,
    /// The reports, written once for two parts.
    from_labels: Option<Vec<ReportFromLabels>>,
}

/// A report of the table, and what the bundle writes from its labels.
struct ReportFromLabels {
    report: ReportRow,
    /// The findings as the request names them.
    findings: String,
    /// Tokens of an image of another patient with labels like these.
    image: Tensor,
    text: String,
    /// The labels that CheXbert gives the text.
    labels: FindingLabels,
}

impl QualityEvaluation {
    /// Returns the components of the bundle that any of the parts needs.
    pub fn stages(&self) -> Vec<Stage> {
        Stage::ALL
            .into_iter()
            .filter(|stage| self.parts.iter().any(|part| part.stages().contains(stage)))
            .collect()
    }

    /// Measures all parts, and returns what was written, too.
    ///
    /// # Errors
    /// A table that a part needs and that is not given, cannot be read or has no row of the split; an image that cannot
    /// be read; a component that does not load.
    pub fn measure(
        &self,
        bundle: &Bundle,
        progress: ProgressCallback<'_>,
    ) -> Result<(QualityReport, Vec<GeneratedText>), TrainingError> {
        for &part in &self.parts {
            let lacks = match (
                part.needs_reports() && self.reports.is_none(),
                part.needs_images(),
            ) {
                (true, _) => "a table of reports",
                (false, true) if self.images.is_empty() => "a table of images",
                _ if part.needs_pairs() && self.pairs.is_none() => "a table of images with reports",
                _ => continue,
            };
            return Err(TrainingError::Empty(format!(
                "to measure '{}', give {lacks}",
                part.name()
            )));
        }
        let networks = Networks::load(bundle, &self.stages(), &self.device, progress)?;
        let mut evaluator = Evaluator {
            quality: self,
            networks,
            texts: Vec::new(),
            from_labels: None,
        };
        let mut parts = BTreeMap::new();
        for &part in &self.parts {
            let section = match part {
                QualityPart::Findings => findings::measure(&evaluator),
                QualityPart::Chexbert => chexbert::measure(&evaluator),
                QualityPart::Report => reports::measure(&mut evaluator),
                QualityPart::Image => images::measure(&mut evaluator),
                QualityPart::Pairs => pairs::measure(&mut evaluator),
                QualityPart::Dialog => dialog::measure(&mut evaluator),
            };
            parts.insert(part, section?);
        }
        let manifest = bundle.manifest();
        let report = QualityReport {
            bundle: manifest.name.clone(),
            hash: manifest.hash(),
            random_weights: manifest.random_weights,
            split: self.split.clone(),
            seed: self.seed,
            limit: self.limit,
            parts,
        };
        Ok((report, evaluator.texts))
    }
}

impl Evaluator<'_> {
    /// The reports of the split that is scored, and how many of the whole split have nothing to score.
    fn reports(&self) -> Result<SplitReports, TrainingError> {
        let path = self.quality.reports.clone().unwrap_or_default();
        let mut of_split = studies::reports(&path, &self.quality.split)?;
        let limit = self.quality.limit.unwrap_or(usize::MAX);
        of_split.reports.truncate(limit);
        Ok(of_split)
    }

    /// All reports of the training split, for baselines. A table to test on may have none.
    fn trained_reports(&self) -> Result<Vec<ReportRow>, TrainingError> {
        let path = self.quality.reports.clone().unwrap_or_default();
        Ok(studies::reports_if_any(&path, TRAIN)?.reports)
    }

    /// The images of the split that is scored.
    fn images(&self) -> Result<Vec<LabelledTestImage>, TrainingError> {
        let mut images = studies::images(&self.quality.images, &self.quality.split)?;
        let mut taken = vec![0; self.quality.images.len()];
        images.retain(|image| {
            taken[image.table] += 1;
            taken[image.table] <= self.quality.limit.unwrap_or(usize::MAX)
        });
        Ok(images)
    }

    /// The name of a table of images: that of its folder.
    fn table_name(&self, table: usize) -> String {
        let path = &self.quality.images[table].labels;
        let folder = path.parent().and_then(|folder| folder.file_name());
        folder
            .or_else(|| path.file_stem())
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// What the bundle writes from the labels of each report. Each request brings an image, paired as weakly as those of
    /// training are.
    fn written_from_labels(&mut self) -> Result<&[ReportFromLabels], TrainingError> {
        if self.from_labels.is_none() {
            let tables = self
                .quality
                .images
                .iter()
                .map(|table| (table.labels.clone(), table.images.clone()))
                .collect();
            let pairing = Pairing {
                images: tables,
                seed: self.quality.seed,
            };
            let (reports, _) = pairing.pair(&self.reports()?.reports)?;
            let mut used: Vec<&str> = reports.iter().map(|report| report.image.as_str()).collect();
            used.sort_unstable();
            used.dedup();
            let tokens: BTreeMap<&str, Tensor> = used
                .iter()
                .copied()
                .zip(self.networks.embed(&used)?)
                .collect();
            let rule = self.networks.rule();
            let findings: Vec<String> = reports
                .iter()
                .map(|report| rule.text(&agreement::findings(&stated(report))))
                .collect();
            let images: Vec<Tensor> = reports
                .iter()
                .map(|report| tokens[report.image.as_str()].clone())
                .collect();
            let ask =
                |(findings, image): (&String, &Tensor)| self.networks.ask_report(findings, image);
            let questions: Vec<DialogRequest> = findings
                .iter()
                .zip(&images)
                .map(ask)
                .collect::<Result<_, _>>()?;
            let texts = self.networks.answer("reports from labels", &questions)?;
            let labels = self.networks.label(&texts)?;
            let rest = findings
                .into_iter()
                .zip(images)
                .zip(texts.into_iter().zip(labels));
            let written = reports.into_iter().zip(rest).map(
                |(report, ((findings, image), (text, labels)))| ReportFromLabels {
                    report,
                    findings,
                    image,
                    text,
                    labels,
                },
            );
            self.from_labels = Some(written.collect());
        }
        Ok(self.from_labels.as_deref().unwrap_or_default())
    }
}

/// The labels of texts as flags.
fn flags(labels: &[FindingLabels]) -> Vec<agreement::Flags> {
    labels.iter().map(present).collect()
}
