//! The scores as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::EvaluatedReports;
use crate::evaluation::clinical::UncertainAs;
use crate::evaluation::corpus::FaultKind;
use crate::evaluation::label_source::LabelSources;
use crate::evaluation::report_scores::{BlankAs, Comparison, Metric, ReliabilityBins, SetAsides};
use crate::evaluation::severity::{ErrorWeight, WEIGHTS};
use crate::evaluation::text_scores::protocol::TextProtocol;

/// The content of `scores.json`.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    name: &'a str,
    protocol: TextProtocol,
    uncertain: UncertainAs,
    blank: BlankAs,
    seed: u64,
    resamples: usize,
    counts: Counts,
    /// The number of faults by kind; they stand in `faults.csv`.
    faults: BTreeMap<FaultKind, u64>,
    notes: Vec<String>,
    /// Whose labels the scores of labels and findings are of.
    label_sources: &'a LabelSources,
    metrics: &'a [Metric],
    /// What the errors of labels weigh.
    severity_weights: &'static [ErrorWeight],
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<&'a ReliabilityBins>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_asides: Option<&'a SetAsides>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
}

#[derive(Serialize)]
struct Counts {
    predictions: u64,
    studies: u64,
    texts: u64,
    labelled_reports: u64,
    classified_images: u64,
    named_patients: u64,
    other_splits: u64,
    not_selected: u64,
}

impl<'a> Summary<'a> {
    pub(super) fn of(evaluated: &'a EvaluatedReports<'a>) -> Self {
        let (corpus, totals) = (evaluated.corpus, &evaluated.scores.totals);
        let faults = corpus.faults.kinds().iter();
        let faults = faults.map(|(kind, faults)| (*kind, faults.count)).collect();
        let mut notes = corpus.notes.clone();
        notes.extend(evaluated.notes());
        notes.push(evaluated.resampled());
        Self {
            name: &evaluated.name,
            protocol: evaluated.options.protocol(),
            uncertain: evaluated.options.uncertain,
            blank: evaluated.options.blank,
            seed: evaluated.options.resampling.seed,
            resamples: evaluated.options.resampling.repeats,
            counts: Counts {
                predictions: corpus.predictions,
                studies: corpus.studies.len() as u64,
                texts: totals.text.texts,
                labelled_reports: totals.labelled,
                classified_images: totals.classified,
                named_patients: corpus.patients,
                other_splits: corpus.other_splits,
                not_selected: corpus.not_selected,
            },
            faults,
            notes,
            label_sources: &evaluated.scores.sources,
            metrics: &evaluated.scores.metrics,
            severity_weights: &WEIGHTS,
            calibration: Some(&evaluated.scores.calibration).filter(|bins| !bins.is_empty()),
            set_asides: evaluated.scores.set_asides.as_ref(),
            comparison: evaluated.comparison,
        }
    }
}
