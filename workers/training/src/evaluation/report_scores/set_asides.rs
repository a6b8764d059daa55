//! Scores without the studies whose sampled reports agree least with their report: whether what a person would look at again is
//! what is wrong.

use serde::Serialize;

use super::{Metric, MetricGroup, MetricSet, ScoreOptions, StudyScores, Totals};
use crate::evaluation::consistency::{SHARES, kept};
use crate::evaluation::label_source::LabelSources;

/// Scores of the studies that stay.
#[derive(Clone, Debug, Serialize)]
pub struct SetAside {
    /// The share of the studies that is set aside, 0 to 1.
    pub share: f64,
    /// The number of studies that stay.
    pub studies: u64,
    /// Their scores, in the order of [`SetAsides::metrics`]; NaN where one is not defined.
    pub values: Vec<f64>,
}

/// Scores with the least consistent studies set aside, a share after the other.
#[derive(Clone, Debug, Serialize)]
pub struct SetAsides {
    /// The number of studies of which reports were sampled.
    pub sampled: u64,
    /// The scores of reports, of all findings together.
    pub metrics: Vec<Metric>,
    /// None set aside, then the shares of [`SHARES`].
    pub rows: Vec<SetAside>,
}

impl SetAsides {
    /// Scores of the studies that have sampled reports; none where no study has any.
    pub(super) fn of(
        studies: &[StudyScores],
        options: &ScoreOptions,
        sources: &LabelSources,
    ) -> Option<Self> {
        let sampled: Vec<(&StudyScores, f64)> = studies
            .iter()
            .filter_map(|study| Some((study, study.agreement?)))
            .collect();
        if sampled.is_empty() {
            return None;
        }
        let agreements: Vec<f64> = sampled.iter().map(|(_, agreement)| *agreement).collect();
        let totals = |share: f64| {
            let mut totals = Totals::default();
            let kept = kept(&agreements, share);
            kept.iter().for_each(|place| totals.add(sampled[*place].0));
            (kept.len() as u64, totals)
        };
        let set = MetricSet::of(&totals(0.0).1, options, sources);
        let names = set.names();
        let rows = std::iter::once(0.0).chain(SHARES).map(|share| {
            let (studies, totals) = totals(share);
            let values = names.iter().zip(set.values(&totals));
            let whole = values.filter(|(metric, _)| is_shown(metric));
            SetAside {
                share,
                studies,
                values: whole.map(|(_, value)| value).collect(),
            }
        });
        let rows = rows.collect();
        Some(Self {
            sampled: sampled.len() as u64,
            metrics: names.into_iter().filter(is_shown).collect(),
            rows,
        })
    }
}

/// Whether a score is of whole reports: samples say nothing about the classifier.
fn is_shown(metric: &Metric) -> bool {
    metric.finding.is_none() && metric.group != MetricGroup::Findings
}
