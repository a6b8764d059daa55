//! What an evaluation of reports writes: scores, scores of each study, and what is wrong with the files.

use std::path::{Path, PathBuf};

use radialog_files::durable::{self, Readers};
use radialog_schemas::Finding;
use serde::Serialize;

mod image_folder;
mod original_files;
mod page;
mod published;
mod studies_table;
mod summary;

pub use image_folder::{ImageFolder, thumbnail};
pub use original_files::{original_files, write_original_files};
pub use page::{FollowUpPage, ReliabilityPlot, escaped, reliability_page};
pub use studies_table::write_faults;

use super::clinical::LabelCounts;
use super::corpus::{Corpus, FaultKind, StoredTexts};
use super::report_scores::{BlankAs, Comparison, MetricGroup, ReportScores, ScoreOptions};
use super::text_scores::protocol::TextProtocol;
use crate::error::TrainingError;

/// The file with every score.
pub const SCORES_FILE: &str = "scores.json";
/// The file with the scores of each study.
pub const STUDIES_FILE: &str = "studies.csv";
/// The file with what is wrong with the files that were read.
pub const FAULTS_FILE: &str = "faults.csv";

/// The page.
pub const PAGE_FILE: &str = "report.html";
/// The tables for people, in Markdown.
pub const TABLES_FILE: &str = "report.md";

/// An evaluation of reports that is done.
pub struct EvaluatedReports<'a> {
    /// What was evaluated.
    pub name: String,
    /// What was scored, and what was not.
    pub corpus: &'a Corpus,
    /// The texts.
    pub texts: &'a StoredTexts,
    /// The scores.
    pub scores: &'a ReportScores,
    /// How it compares with another system.
    pub comparison: Option<&'a Comparison>,
    /// How it was scored.
    pub options: &'a ScoreOptions,
    /// Where the images are, for the page.
    pub images: Option<&'a ImageFolder>,
}

impl EvaluatedReports<'_> {
    /// The counts that scores of labels come from.
    pub fn counts(&self, group: MetricGroup) -> &LabelCounts {
        match group {
            MetricGroup::Findings => &self.scores.totals.findings,
            _ => &self.scores.totals.reports,
        }
    }

    /// How the intervals were made.
    pub fn resampled(&self) -> String {
        self.options
            .resampling
            .words("studies", self.corpus.patients, self.corpus.other_patients)
    }

    /// What to know about the scores.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.scores.totals.text.texts == 0 {
            let faults = self.corpus.faults.kinds();
            let reason = match faults.contains_key(&FaultKind::ReferenceGone) {
                true => "the reference texts that the run had are not in its store",
                false => {
                    "no study has a reference text (an image without a report of its own has none)"
                }
            };
            notes.push(format!("no text scores: {reason}"));
        }
        let unlabelled: Vec<&str> = self.corpus.unlabelled.iter().map(|f| f.name()).collect();
        if !unlabelled.is_empty() {
            let names = unlabelled.join(", ");
            notes.push(match self.options.blank {
                BlankAs::Negative => {
                    format!("no row of the labels has one of {names}: counted as not there")
                }
                _ => format!(
                    "no row of the labels has one of {names}: not scored, and left out of the means"
                ),
            });
        }
        notes.extend(self.absent_words());
        let groups = MetricGroup::ALL.into_iter();
        notes.extend(groups.filter_map(|group| self.few_words(group)));
        if self.options.protocol() == TextProtocol::Rexrank {
            let totals = &self.scores.totals;
            let missing = [
                (
                    totals.radgraph_f1.0,
                    "RadGraph F1",
                    "--radgraph-hypotheses and --radgraph-references",
                ),
                (
                    totals.radcliq_v1.0,
                    "RadCliQ-v1",
                    "--report-scores beside RadGraph's annotations",
                ),
            ];
            let missing = missing.into_iter().filter(|(reports, ..)| *reports == 0);
            notes.extend(
                missing.map(|(_, name, flags)| format!("{name} is not computed: give {flags}")),
            );
        }
        let others = self.options.protocol().not_computed();
        let others = others.iter();
        notes.extend(others.map(|(name, reason)| format!("{name} is not computed: {reason}")));
        notes
    }

    /// The findings that some labels are known of and no scored study has.
    pub(super) fn absent(&self, group: MetricGroup) -> impl Iterator<Item = Finding> {
        let counts = self.counts(group);
        let all = Finding::ALL.into_iter();
        all.filter(|finding| counts.known(*finding) > 0 && counts.positives(*finding) == 0)
    }

    /// Which findings of a group have too few patients.
    fn few_words(&self, group: MetricGroup) -> Option<String> {
        let words = self.scores.patients.few_words(group);
        let words = words.filter(|_| group.has_findings())?;
        Some(format!("{}: {words}", group.title()))
    }

    /// What becomes of findings that no scored study has.
    fn absent_words(&self) -> Option<String> {
        let mut groups = [MetricGroup::Labels, MetricGroup::Findings].into_iter();
        let absent = groups.find_map(|group| {
            let names: Vec<&str> = self.absent(group).map(Finding::name).collect();
            (!names.is_empty()).then(|| names.join(", "))
        });
        absent.map(|names| {
            format!(
                "no scored study has one of {names}: they have no scores of their own, and count 0 in the macro means, as in the original"
            )
        })
    }
}

/// The files that [`write()`] and [`write_faults`] write into a folder; the one whose being there says that all are whole comes
/// first.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let names = [
        SCORES_FILE,
        STUDIES_FILE,
        FAULTS_FILE,
        PAGE_FILE,
        TABLES_FILE,
    ];
    names.map(|name| folder.join(name)).into()
}

/// Writes all files into a folder, and returns the content of [`SCORES_FILE`]. A page that has images is its owner's alone.
///
/// # Errors
/// A file cannot be written, or a text not be read.
pub fn write(folder: &Path, evaluated: &EvaluatedReports<'_>) -> Result<String, TrainingError> {
    studies_table::write(&folder.join(STUDIES_FILE), evaluated)?;
    write_faults(folder, evaluated.corpus)?;
    let summary = json(&summary::Summary::of(evaluated));
    let page_readers = match evaluated.images {
        Some(_) => Readers::Owner,
        None => Readers::ByUmask,
    };
    for (name, readers, content) in [
        (PAGE_FILE, page_readers, &page::page(evaluated)?),
        (
            TABLES_FILE,
            Readers::ByUmask,
            &published::markdown(evaluated),
        ),
        (SCORES_FILE, Readers::ByUmask, &summary),
    ] {
        let path = folder.join(name);
        durable::replace_for(readers, &path, content.as_bytes())
            .map_err(TrainingError::io("write", &path))?;
    }
    Ok(summary)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("keys are strings") + "\n"
}
