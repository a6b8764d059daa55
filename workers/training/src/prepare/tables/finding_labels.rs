//! The labels of the 14 findings, as all tables and data sets of this crate hold them.

use radialog_schemas::{Finding, Label};

/// The labels of one image or report, in the published order of the findings.
pub type FindingLabels = [Label; Finding::ALL.len()];

/// The findings that are present for certain, in the published order.
pub(crate) fn positives(labels: &FindingLabels) -> Vec<Finding> {
    let present = Finding::ALL
        .into_iter()
        .zip(labels)
        .filter(|(_, label)| **label == Label::Positive);
    present.map(|(finding, _)| finding).collect()
}
