//! `prepare openi`: the reports of the Indiana University collection (Open-i) become a report table. Positive labels are
//! the annotators' tags; what the text denies or only thinks possible is told by our weak rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label};

use crate::error::TrainingError;
use crate::prepare::sources::folder::names;
use crate::prepare::sources::patient_split;
use crate::prepare::tables::finding_labels::FindingLabels;
use crate::prepare::tables::report_table::ReportRow;
use crate::prepare::tables::table_file::{TableFile, text};
use crate::prepare::weak_labels::{WeakLabeler, summary};

mod clean;
mod tags;
mod xml;

pub use clean::RemovedWords;

/// An Open-i collection: where it is, and how its reports are cleaned and labelled.
#[derive(Clone, Debug)]
pub struct OpenI {
    /// A CSV with a row a study, or a folder of the publisher's XML files.
    pub source: PathBuf,
    /// What becomes of sentences with `XXXX`.
    pub removed: RemovedWords,
    /// Whether the labels are those of the findings section alone, for a model that writes this section: what is tagged and
    /// not mentioned there then stays blank.
    pub of_findings: bool,
}

/// The report table of an Open-i collection, and how far tags and weak labels agree.
#[derive(Clone, Debug, Default)]
pub struct OpenIReports {
    /// One row a tagged study, sorted by its number.
    pub rows: Vec<ReportRow>,
    /// Studies left out because nobody tagged them, so that their positives are not known.
    pub untagged: u64,
    /// Studies left out because no text is left.
    pub without_text: u64,
    /// The agreement on each finding; "No Finding" is not there, for the rule says nothing of it.
    pub agreement: BTreeMap<Finding, TagAgreement>,
}

/// The reports of one finding, counted by whether it is tagged and by how the weak labels read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagAgreement {
    /// Tagged, and stated in the text as the rule reads it.
    pub tagged_stated: u64,
    /// Tagged, and possible: these become uncertain.
    pub tagged_possible: u64,
    /// Tagged, and only denied.
    pub tagged_denied: u64,
    /// Tagged, and not mentioned.
    pub tagged_silent: u64,
    /// Reports that are not tagged and state the finding: these stay blank.
    pub untagged_stated: u64,
    /// Reports that are not tagged and think it possible.
    pub untagged_possible: u64,
    /// Reports that are not tagged and deny it.
    pub untagged_denied: u64,
}

/// A study as its source has it.
#[derive(Clone, Debug, Default)]
struct OpenIStudy {
    id: String,
    split: Option<String>,
    findings: String,
    impression: String,
    indication: String,
    rest: String,
    tags: Vec<String>,
    /// The positive ones of the 14 columns, where the source has them; nothing in them where the study is not tagged.
    columns: Option<Option<Vec<Finding>>>,
}

impl OpenI {
    /// Reads and labels all reports.
    ///
    /// # Errors
    /// No such source, columns that are missing, labels that are none, XML that is none; with file and line.
    pub fn read(&self) -> Result<OpenIReports, TrainingError> {
        let rule = WeakLabeler::own()?;
        let studies = if self.source.is_dir() {
            xml_studies(&self.source)?
        } else {
            csv_studies(&self.source)?
        };
        let mut reports = OpenIReports::default();
        for study in studies {
            let positive = study
                .columns
                .clone()
                .unwrap_or_else(|| tags::findings(study.tags.iter().map(String::as_str)));
            let Some(mut positive) = positive else {
                reports.untagged += 1;
                continue;
            };
            let side = || patient_split::side(&format!("openi:{}", number(&study.id))).to_owned();
            let mut row = ReportRow {
                patient: None,
                split: study.split.unwrap_or_else(side),
                findings: clean::clean(&study.findings, self.removed),
                impression: clean::clean(&study.impression, self.removed),
                indication: clean::clean(&study.indication, self.removed),
                study: study.id,
                image: String::new(),
                labels: [Label::Blank; Finding::ALL.len()],
            };
            if row.text().is_empty() {
                reports.without_text += 1;
                continue;
            }
            let mentions = rule.mentions(&if self.of_findings {
                row.findings.clone()
            } else {
                row.text()
            });
            let said = summary(&mentions);
            for finding in Finding::ALL
                .into_iter()
                .filter(|finding| *finding != Finding::NoFinding)
            {
                let tagged = positive.contains(&finding);
                reports
                    .agreement
                    .entry(finding)
                    .or_default()
                    .add(tagged, said[finding as usize]);
            }
            if self.of_findings {
                positive.retain(|finding| {
                    *finding == Finding::NoFinding || said[*finding as usize] != Label::Blank
                });
            }
            row.labels = labels(&positive, &said);
            reports.rows.push(row);
        }
        if reports.rows.is_empty() {
            let shown = self.source.display();
            return Err(TrainingError::Empty(format!(
                "no tagged report with text in '{shown}'"
            )));
        }
        reports
            .rows
            .sort_by_key(|row| (number(&row.study), row.study.clone()));
        Ok(reports)
    }
}

impl TagAgreement {
    fn add(&mut self, tagged: bool, said: Label) {
        let count = match (tagged, said) {
            (true, Label::Positive) => &mut self.tagged_stated,
            (true, Label::Uncertain) => &mut self.tagged_possible,
            (true, Label::Negative) => &mut self.tagged_denied,
            (true, Label::Blank) => &mut self.tagged_silent,
            (false, Label::Positive) => &mut self.untagged_stated,
            (false, Label::Uncertain) => &mut self.untagged_possible,
            (false, Label::Negative) => &mut self.untagged_denied,
            (false, Label::Blank) => return,
        };
        *count += 1;
    }
}

/// A tag beats the rule: what is tagged is positive, unless the text mentions it and every mention that is no denial is a
/// hedge, which makes it uncertain. What is not tagged is never positive: denied is negative, possible uncertain, and what
/// only the rule reads as stated stays blank. "No Finding" is tagged `normal`, and nothing else but devices is positive or
/// uncertain; it is never denied.
fn labels(positive: &[Finding], said: &FindingLabels) -> FindingLabels {
    let mut labels =
        Finding::ALL.map(
            |finding| match (positive.contains(&finding), said[finding as usize]) {
                (true, Label::Uncertain) => Label::Uncertain,
                (true, _) => Label::Positive,
                (false, Label::Positive) => Label::Blank,
                (false, other) => other,
            },
        );
    let pathological = Finding::ALL
        .into_iter()
        .filter(|finding| !matches!(finding, Finding::NoFinding | Finding::SupportDevices));
    let any = pathological
        .map(|finding| labels[finding as usize])
        .any(|label| matches!(label, Label::Positive | Label::Uncertain));
    labels[Finding::NoFinding as usize] = if positive.contains(&Finding::NoFinding) && !any {
        Label::Positive
    } else {
        Label::Blank
    };
    labels
}

/// The number in `CXR12`; studies named otherwise come last.
fn number(study: &str) -> u64 {
    study
        .trim_start_matches(|character: char| !character.is_ascii_digit())
        .parse()
        .unwrap_or(u64::MAX)
}

fn xml_studies(folder: &Path) -> Result<Vec<OpenIStudy>, TrainingError> {
    let nested = folder.join("ecgen-radiology");
    let folder = if nested.is_dir() { &nested } else { folder };
    let names = names(folder)?
        .into_iter()
        .filter(|name| name.ends_with(".xml"));
    let paths: Vec<_> = names.map(|name| folder.join(name)).collect();
    if paths.is_empty() {
        let shown = folder.display();
        return Err(TrainingError::Empty(format!(
            "no .xml file in '{shown}': give the folder ecgen-radiology of NLMCXR_reports"
        )));
    }
    paths.iter().map(|path| xml::read(path)).collect()
}

/// A table with `study_id` (or `uid`), `findings` and `impression`, and the 14 findings or tags (`mesh`, else `problems`).
fn csv_studies(path: &Path) -> Result<Vec<OpenIStudy>, TrainingError> {
    let mut table = TableFile::open(path)?;
    let id = match table.optional("uid")? {
        Some(id) => id,
        None => table.column("study_id")?,
    };
    let (findings, impression) = (table.column("findings")?, table.column("impression")?);
    let (indication, side) = (table.optional("indication")?, table.optional("split")?);
    let columns = Finding::ALL
        .into_iter()
        .any(|finding| table.header().column(finding.name()).is_some());
    let columns = columns.then(|| table.findings()).transpose()?;
    let tags = table.first(&["mesh", "problems"])?;
    if columns.is_none() && tags.is_none() {
        let reason = "no column mesh or problems, and not the 14 findings: there is nothing to label the reports by";
        return Err(TrainingError::line(path, 1, reason));
    }
    let mut studies = Vec::new();
    while let Some(row) = table.next_row()? {
        let cell = |column: usize| text(&row, column).to_owned();
        let columns = columns
            .as_ref()
            .map(|columns| table.labels(&row, columns))
            .transpose()?;
        let stated = |labels: FindingLabels| {
            let known = labels.iter().any(|label| *label != Label::Blank);
            known.then(|| crate::prepare::tables::finding_labels::positives(&labels))
        };
        let study = OpenIStudy {
            id: cell(id),
            split: side.map(cell).filter(|side| !side.is_empty()),
            findings: cell(findings),
            impression: cell(impression),
            indication: indication.map(cell).unwrap_or_default(),
            tags: tags
                .map(cell)
                .unwrap_or_default()
                .split(';')
                .map(str::to_owned)
                .collect(),
            columns: columns.map(stated),
            ..OpenIStudy::default()
        };
        if study.id.is_empty() {
            return Err(table.fault(&row, "a row without study_id"));
        }
        studies.push(study);
    }
    Ok(studies)
}

#[cfg(test)]
mod tests;
