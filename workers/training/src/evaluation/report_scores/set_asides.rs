//! Scores without the studies whose sampled reports agree least with their report: whether what a person would look at again is
//! what is wrong.

use std::io;

use serde::Serialize;

use super::stored_scores::StoredScores;
use super::{Metric, MetricGroup, MetricSet, ScoreOptions, Totals};
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
        studies: &StoredScores,
        options: &ScoreOptions,
        sources: &LabelSources,
    ) -> io::Result<Option<Self>> {
        let mut agreements = Vec::new();
        for study in studies.iter() {
            agreements.extend(study?.agreement);
        }
        if agreements.is_empty() {
            return Ok(None);
        }
        let stays = |share: f64| {
            let mut stays = vec![false; agreements.len()];
            let kept = kept(&agreements, share);
            kept.iter().for_each(|place| stays[*place] = true);
            (share, stays, 0, Totals::default())
        };
        let mut selections: Vec<(f64, Vec<bool>, u64, Totals)> =
            std::iter::once(0.0).chain(SHARES).map(stays).collect();
        let mut sampled = 0;
        for study in studies.iter() {
            let study = study?;
            if study.agreement.is_none() {
                continue;
            }
            for (_, stays, studies, totals) in &mut selections {
                if stays[sampled] {
                    *studies += 1;
                    totals.add(&study);
                }
            }
            sampled += 1;
        }
        let set = MetricSet::of(&selections[0].3, options, sources);
        let names = set.names();
        let rows = selections.into_iter().map(|(share, _, studies, totals)| {
            let values = names.iter().zip(set.values(&totals));
            let whole = values.filter(|(metric, _)| is_shown(metric));
            SetAside {
                share,
                studies,
                values: whole.map(|(_, value)| value).collect(),
            }
        });
        let rows = rows.collect();
        Ok(Some(Self {
            sampled: sampled as u64,
            metrics: names.into_iter().filter(is_shown).collect(),
            rows,
        }))
    }
}

/// Whether a score is of whole reports: samples say nothing about the classifier.
fn is_shown(metric: &Metric) -> bool {
    metric.finding.is_none() && metric.group != MetricGroup::Findings
}
