//! `prepare pairs`: weak pairs of images and reports for training. No public collection has both in number, so each report
//! gets an image of another patient that shows the same findings as far as labels say. A model can learn from such pairs
//! that findings in an image go with words in a report; nothing may be judged by them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use radialog_schemas::table::split_name;
use radialog_schemas::{Finding, Label};

use crate::error::TrainingError;
use crate::prepare::tables::finding_labels::FindingLabels;
use crate::prepare::tables::report_table::ReportRow;
use crate::prepare::tables::table_file::TableFile;
use crate::random::Random;

/// Weak pairs of reports and images: from which images, and drawn with which seed.
#[derive(Clone, Debug)]
pub struct Pairing {
    /// Tables of images (image, split, the 14 findings), each with the folder of its files.
    pub images: Vec<(PathBuf, PathBuf)>,
    /// Decides all that is drawn.
    pub seed: u64,
}

/// The similarity of one split's pairs, and how evenly its images are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairingSummary {
    /// Reports with an image.
    pub reports: u64,
    /// The number of them whose image has the same findings, as far as the images have classes for them.
    pub exact: u64,
    /// Mean share of common findings (Jaccard).
    pub similarity: f64,
    /// Images of this side.
    pub images: u64,
    /// Images that some report has.
    pub used: u64,
    /// Reports of the image that is used most.
    pub most: u64,
}

/// Findings as bits, in the published order.
type FindingSet = u16;

/// An image as far as pairs need it.
struct CandidateImage {
    path: PathBuf,
    used: u64,
}

/// Images of one side by what is known of them and what is positive.
type ImagesByFindings = BTreeMap<(FindingSet, FindingSet), Vec<CandidateImage>>;

impl Pairing {
    /// Every report with a findings section gets an image of its side: uniformly one of those that are used least among
    /// those with the most similar positive findings, which are compared on the findings that the image's source knows.
    /// Reports of sides without images are left out. The image's path is absolute.
    ///
    /// # Errors
    /// Tables that cannot be read, or no pair at all.
    pub fn pair(
        &self,
        reports: &[ReportRow],
    ) -> Result<(Vec<ReportRow>, BTreeMap<String, PairingSummary>), TrainingError> {
        let mut sides = self.sides()?;
        let random = &mut Random::stream(self.seed, "pairs");
        let mut summaries: BTreeMap<String, PairingSummary> = BTreeMap::new();
        let mut pairs = Vec::new();
        for report in reports.iter().filter(|report| !report.findings.is_empty()) {
            let Some(groups) = sides.get_mut(&report.split) else {
                continue;
            };
            let (similarity, image) = draw(
                groups,
                set(&report.labels, |label| label == Label::Positive),
                random,
            );
            let summary = summaries.entry(report.split.clone()).or_default();
            summary.reports += 1;
            summary.exact += u64::from(similarity == 1.0);
            summary.similarity += similarity;
            pairs.push(ReportRow {
                image,
                ..report.clone()
            });
        }
        if pairs.is_empty() {
            let sides: Vec<_> = sides.keys().map(String::as_str).collect();
            let reason = format!(
                "no report with findings is of a side with images ({})",
                sides.join(", ")
            );
            return Err(TrainingError::Empty(reason));
        }
        for (side, summary) in &mut summaries {
            summary.similarity /= summary.reports as f64;
            let images: Vec<u64> = sides[side]
                .values()
                .flatten()
                .map(|image| image.used)
                .collect();
            summary.images = images.len() as u64;
            summary.used = images.iter().filter(|used| **used > 0).count() as u64;
            summary.most = images.into_iter().max().unwrap_or_default();
        }
        Ok((pairs, summaries))
    }

    fn sides(&self) -> Result<BTreeMap<String, ImagesByFindings>, TrainingError> {
        let mut sides: BTreeMap<String, ImagesByFindings> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for (path, folder) in &self.images {
            let folder = std::path::absolute(folder).map_err(TrainingError::io("find", folder))?;
            let mut table = TableFile::open(path)?;
            let (image, split, columns) = (
                table.column("image")?,
                table.column("split")?,
                table.findings()?,
            );
            while let Some(row) = table.next_row()? {
                let name = row.cell(image).unwrap_or_default();
                let file = folder.join(name);
                if name.is_empty() || !file.is_file() {
                    let shown = file.display();
                    return Err(table.fault(&row, format!("there is no image '{shown}'")));
                }
                if !names.insert(file.clone()) {
                    return Err(table.fault(&row, format!("'{name}' stands twice")));
                }
                let labels = table.labels(&row, &columns)?;
                let known = set(&labels, |label| label != Label::Blank);
                let positive = set(&labels, |label| label == Label::Positive);
                let groups = sides
                    .entry(split_name(row.cell(split).unwrap_or_default()).to_owned())
                    .or_default();
                groups
                    .entry((known, positive))
                    .or_default()
                    .push(CandidateImage {
                        path: file,
                        used: 0,
                    });
            }
        }
        Ok(sides)
    }
}

/// The best image for these positive findings, and how similar its own are.
fn draw(groups: &mut ImagesByFindings, report: FindingSet, random: &mut Random) -> (f64, String) {
    let score = |key: &(FindingSet, FindingSet)| similarity(report & key.0, key.1);
    let best = groups.keys().map(score).fold(0.0, f64::max);
    let mut candidates: Vec<&mut CandidateImage> = groups
        .iter_mut()
        .filter(|(key, _)| score(key) == best)
        .flat_map(|(_, images)| images)
        .collect();
    let least = candidates
        .iter()
        .map(|image| image.used)
        .min()
        .unwrap_or_default();
    candidates.retain(|image| image.used == least);
    let chosen = random.below(candidates.len());
    let image = &mut candidates[chosen];
    image.used += 1;
    (best, image.path.to_string_lossy().into_owned())
}

/// The share of common findings. A report without any that the images have a class for goes as well with an image that shows
/// none as with one of which its source says nothing.
fn similarity(report: FindingSet, image: FindingSet) -> f64 {
    if report == 0 && (image == 0 || image == bit(Finding::NoFinding)) {
        return 1.0;
    }
    f64::from((report & image).count_ones()) / f64::from((report | image).count_ones())
}

fn set(labels: &FindingLabels, of: impl Fn(Label) -> bool) -> FindingSet {
    let members = Finding::ALL
        .into_iter()
        .filter(|finding| of(labels[*finding as usize]));
    members.fold(0, |set, finding| set | bit(finding))
}

fn bit(finding: Finding) -> FindingSet {
    1 << finding as usize
}

#[cfg(test)]
mod tests;
