//! Scores without the studies whose sampled reports agree least with their report: whether what a person would look at again is
//! what is wrong.

use std::io;

use serde::Serialize;

use super::stored_scores::StoredScores;
use super::{Estimate, Metric, MetricGroup, MetricSet, ScoreOptions, Totals};
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::consistency::{SHARES, kept};
use crate::evaluation::label_source::LabelSources;
use crate::evaluation::radgraph::{INVERSE_RADCLIQ, inverse_of};

/// Scores of the studies that stay.
#[derive(Clone, Debug, Serialize)]
pub struct SetAside {
    /// The share of the studies that is set aside, 0 to 1.
    pub share: f64,
    /// The number of studies that stay.
    pub studies: u64,
    /// Their scores, in the order of [`SetAsides::metrics`]; NaN where one is not defined.
    pub values: Vec<f64>,
    /// Their 95 % intervals over the patients who stay; none where one is not defined.
    pub intervals: Vec<Option<[f64; 2]>>,
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
    /// Scores of the studies that have sampled reports; none where no study has any. `patients` has the number of each study's patient.
    pub(super) fn of(
        patients: &[u32],
        studies: &StoredScores,
        options: &ScoreOptions,
        sources: &LabelSources,
    ) -> io::Result<Option<Self>> {
        let (mut agreements, mut places) = (Vec::new(), Vec::new());
        for (place, study) in studies.iter().enumerate() {
            if let Some(agreement) = study?.agreement {
                agreements.push(agreement);
                places.push(place);
            }
        }
        if agreements.is_empty() {
            return Ok(None);
        }
        let mut totals = Totals::default();
        for study in studies.iter() {
            let study = study?;
            if study.agreement.is_some() {
                totals.add(&study);
            }
        }
        let set = MetricSet::of(&totals, options, sources);
        let names = set.names();
        let row = |share: f64| {
            let mut stays = vec![false; studies.len()];
            for kept in kept(&agreements, share) {
                stays[places[kept]] = true;
            }
            let row = SetAside::of(patients, studies, &stays, &set, &names, options)?;
            Ok(SetAside { share, ..row })
        };
        let rows: io::Result<Vec<SetAside>> = std::iter::once(0.0).chain(SHARES).map(row).collect();
        Ok(Some(Self {
            sampled: agreements.len() as u64,
            metrics: names
                .iter()
                .filter(|metric| is_shown(metric))
                .cloned()
                .collect(),
            rows: rows?,
        }))
    }
}

impl SetAside {
    /// Scores of the studies that stay.
    fn of(
        patients: &[u32],
        studies: &StoredScores,
        stays: &[bool],
        set: &MetricSet,
        names: &[Metric],
        options: &ScoreOptions,
    ) -> io::Result<Self> {
        let patients: Vec<u32> = patients
            .iter()
            .zip(stays)
            .filter_map(|(patient, stays)| stays.then_some(*patient))
            .collect();
        let values = |weights: &[Vec<u32>]| -> io::Result<Vec<Vec<f64>>> {
            let mut totals = vec![Totals::default(); weights.len()];
            let mut place = 0;
            for (study, stays) in studies.iter().zip(stays) {
                let study = study?;
                if !stays {
                    continue;
                }
                for (totals, weights) in totals.iter_mut().zip(weights) {
                    (0..weights[place]).for_each(|_| totals.add(&study));
                }
                place += 1;
            }
            Ok(totals.iter().map(|totals| set.values(totals)).collect())
        };
        let bootstrap = Bootstrap::of_streams(&patients, options.resampling);
        let mut estimates = bootstrap.estimates_of_blocks(values)?;
        let mut places = names.iter();
        if let Some(place) = places.position(|metric| metric.name == INVERSE_RADCLIQ) {
            // It follows what it is the inverse of.
            estimates[place] = inverse_of(estimates[place - 1], estimates[place]);
        }
        let shown = names.iter().zip(estimates);
        let shown: Vec<Option<Estimate>> = shown
            .filter_map(|(metric, estimate)| is_shown(metric).then_some(estimate))
            .collect();
        let value = |of: &Option<Estimate>| of.map_or(f64::NAN, |of| of.value);
        Ok(Self {
            share: 0.0,
            studies: patients.len() as u64,
            values: shown.iter().map(value).collect(),
            intervals: shown
                .iter()
                .map(|of| of.and_then(|of| of.interval()))
                .collect(),
        })
    }

    /// A score and its interval, of the score at this place; none where it is not defined.
    pub fn estimate(&self, place: usize) -> Option<Estimate> {
        let value = *self.values.get(place).filter(|value| !value.is_nan())?;
        let interval = self.intervals.get(place).copied().flatten();
        let [low, high] = interval.unwrap_or([f64::NAN; 2]);
        Some(Estimate { value, low, high })
    }
}

/// Whether a score is of whole reports: samples say nothing about the classifier.
fn is_shown(metric: &Metric) -> bool {
    metric.finding.is_none() && metric.group != MetricGroup::Findings
}
