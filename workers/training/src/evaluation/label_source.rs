//! Whose labels a score is of: what CheXbert says of a radiologist's text is another truth than a published table, and scores
//! beside the one say nothing about the other.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Who labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelKind {
    /// CheXbert, as the original's scores are.
    Chexbert,
    /// VisualCheXbert.
    VisualChexbert,
    /// CheXpert's rules, as in the tables of CheXpert and MIMIC-CXR-JPG.
    Chexpert,
    /// NegBio's rules, as in a table of MIMIC-CXR-JPG.
    Negbio,
    /// The labels that the NIH has published with ChestX-ray14.
    Nih,
    /// A table that does not say.
    Table,
}

/// Who labels, and where the labels stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LabelSource {
    /// Who labels.
    pub kind: LabelKind,
    /// The table's file; or whose texts are labelled, and by what.
    #[serde(serialize_with = "as_text")]
    pub of: Arc<str>,
}

/// Whose labels scores are of, each as often as it is there: once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabelSources {
    /// Who labels generated reports.
    pub reports: Vec<LabelSource>,
    /// Who says what is true.
    pub truth: Vec<LabelSource>,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl LabelSource {
    /// CheXbert's labels of these texts.
    pub fn chexbert(of: &str) -> Self {
        Self {
            kind: LabelKind::Chexbert,
            of: of.into(),
        }
    }

    /// The labels of a table with these columns: by what only one table has, else by the file's name as it was published. A name that
    /// has a labeler's in it may be of a table that is compared with it.
    pub(crate) fn table(path: &Path, columns: &[String]) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        let has = |column: &str| columns.iter().any(|name| name.eq_ignore_ascii_case(column));
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let name = name.strip_suffix(".csv").unwrap_or(name);
        // As PhysioNet has them: mimic-cxr-2.0.0-chexpert.csv.gz.
        let name = match name.strip_prefix("mimic-cxr-") {
            Some(rest) => rest.split_once('-').map_or(rest, |(_, labeler)| labeler),
            None => name,
        };
        let kind = match name {
            _ if has("nih_labels") => LabelKind::Nih,
            "chexbert" | "chexbert_labels" | "finding_chexbert_labels" => LabelKind::Chexbert,
            "visualchexbert" | "visualchexbert_labels" => LabelKind::VisualChexbert,
            "chexpert" | "chexpert_labels" => LabelKind::Chexpert,
            "negbio" | "negbio_labels" => LabelKind::Negbio,
            _ => LabelKind::Table,
        };
        Self {
            kind,
            of: path.to_string_lossy().into(),
        }
    }
}

impl fmt::Display for LabelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = match self.kind {
            LabelKind::Chexbert => "CheXbert's labels",
            LabelKind::VisualChexbert => "VisualCheXbert's labels",
            LabelKind::Chexpert => "CheXpert's labels",
            LabelKind::Negbio => "NegBio's labels",
            LabelKind::Nih => "NIH's labels",
            LabelKind::Table => "labels of a table",
        };
        write!(f, "{labels} ({})", self.of)
    }
}

impl LabelSources {
    /// Whose labels some studies have.
    pub(crate) fn of<'a>(
        reports: impl Iterator<Item = &'a LabelSource>,
        truth: impl Iterator<Item = &'a LabelSource>,
    ) -> Self {
        Self {
            reports: different(reports),
            truth: different(truth),
        }
    }

    /// Those of these or of others.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let both = |ours: &[LabelSource], others: &[LabelSource]| {
            let mut all = [ours, others].concat();
            all.sort();
            all.dedup();
            all
        };
        Self {
            reports: both(&self.reports, &other.reports),
            truth: both(&self.truth, &other.truth),
        }
    }

    /// Who says what is true, in words.
    pub fn truth_words(&self) -> String {
        words(&self.truth)
    }

    /// Who labels reports, in words.
    pub fn report_words(&self) -> String {
        words(&self.reports)
    }

    /// Whether all of what is true is by CheXbert, as in the published scores.
    pub fn is_truth_by_chexbert(&self) -> bool {
        let mut truth = self.truth.iter();
        truth.all(|source| source.kind == LabelKind::Chexbert)
    }
}

fn different<'a>(sources: impl Iterator<Item = &'a LabelSource>) -> Vec<LabelSource> {
    let mut different: Vec<LabelSource> = Vec::new();
    for source in sources {
        // Most studies have the source of the one before.
        if different.last() != Some(source) && !different.contains(source) {
            different.push(source.clone());
        }
    }
    different.sort();
    different
}

fn words(sources: &[LabelSource]) -> String {
    let sources: Vec<String> = sources.iter().map(LabelSource::to_string).collect();
    sources.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_known_by_its_columns_and_its_name() {
        let source = |path: &str, columns: &[&str]| {
            let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
            LabelSource::table(path.as_ref(), &columns).to_string()
        };
        let nih = source("nih/labels.csv", &["study_id", "nih_labels", "Edema"]);
        assert_eq!(nih, "NIH's labels (nih/labels.csv)");
        let chexpert = source("mimic-cxr-2.0.0-chexpert.csv.gz", &["study_id", "Edema"]);
        assert!(chexpert.starts_with("CheXpert's labels ("), "{chexpert}");
        let chexbert = source("finding_chexbert_labels.csv", &["dicom_id"]);
        assert!(chexbert.starts_with("CheXbert's labels ("), "{chexbert}");
        for name in [
            "radiologists_beside_chexbert.csv",
            "chexpert_valid_radiologists.csv",
        ] {
            let compared = source(name, &["study_id", "Edema"]);
            assert!(compared.starts_with("labels of a table ("), "{compared}");
        }
        let own = source("mine/truth.csv", &["study_id", "Edema"]);
        assert_eq!(own, "labels of a table (mine/truth.csv)");
    }
}
