//! RadGraph F1 and RadCliQ-v1 from annotations that somebody's RadGraph, BERTScore and CheXbert have made: the formulas apart
//! from the models, whose weights are not ours to ship.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::bootstrap::Estimate;

mod graph_file;

pub use graph_file::{AmbiguousName, GraphFile};

/// What RadGraph found in a report, as its programs write it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ReportGraph {
    /// Entities by their number.
    pub entities: BTreeMap<String, Entity>,
}

/// An entity of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Entity {
    /// Its words.
    pub tokens: String,
    /// Its kind, e.g. `OBS-DP` (an observation that is definitely present).
    pub label: String,
    /// The relations that lead from it: their kind, and the other entity's number.
    #[serde(default)]
    pub relations: Vec<(String, String)>,
}

/// An entity as it is compared.
type Key<'a> = (&'a str, &'a str);

impl ReportGraph {
    fn entity_keys(&self) -> BTreeSet<Key<'_>> {
        self.entities.values().map(Entity::key).collect()
    }

    /// Relations to entities that the annotation does not have are left out.
    fn relation_keys(&self) -> BTreeSet<(Key<'_>, Key<'_>, &str)> {
        let mut relations = BTreeSet::new();
        for entity in self.entities.values() {
            for (kind, other) in &entity.relations {
                if let Some(other) = self.entities.get(other) {
                    relations.insert((entity.key(), other.key(), kind.as_str()));
                }
            }
        }
        relations
    }
}

impl Entity {
    fn key(&self) -> Key<'_> {
        (&self.tokens, &self.label)
    }
}

/// Computes RadGraph F1 of a report, 0 to 1, as CXR-Report-Metric does (Yu et al. 2023; there `radgraph_combined`): the mean of
/// the F1 of entities and of that of relations, each by words and kind; F1 of nothing in common is 0. A corpus' score is the mean.
/// Higher is better.
pub fn radgraph_f1(report: &ReportGraph, reference: &ReportGraph) -> f64 {
    let entities = f1(&report.entity_keys(), &reference.entity_keys());
    let relations = f1(&report.relation_keys(), &reference.relation_keys());
    f64::midpoint(entities, relations)
}

fn f1<T: Ord>(said: &BTreeSet<T>, truth: &BTreeSet<T>) -> f64 {
    let common = said.intersection(truth).count();
    match said.len() + truth.len() {
        0 => 0.0,
        sizes => 2.0 * common as f64 / sizes as f64,
    }
}

/// What RadCliQ-v1 is computed from, of one report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RadcliqParts {
    /// RadGraph F1 ([`radgraph_f1`]).
    pub radgraph_f1: f64,
    /// BERTScore's F1 (distilroberta-base, rescaled with its baseline, weighted by idf).
    pub bertscore: f64,
    /// Cosine of the CheXbert embeddings of report and reference.
    pub chexbert_similarity: f64,
    /// BLEU-2 ([`super::text_scores::BleuCounts::smoothed_2`]).
    pub bleu_2: f64,
}

/// Mean, standard deviation and weight of each part, from the published model `radcliq-v1` of CXR-Report-Metric (MIT).
const RADCLIQ_V1: [(f64, f64, f64); 4] = [
    (0.537_923_12, 0.302_825_84, -3.770_836_83e-1),
    (0.617_572_56, 0.224_309_38, -3.703_001_00e-1),
    (0.764_794_21, 0.253_943_91, -2.526_162_18e-1),
    (0.447_383_35, 0.298_927_17, 4.315_048_41e-12),
];
/// What is added to the weighted parts.
const RADCLIQ_V1_INTERCEPT: f64 = 2.466_552_56e-10;

/// Computes RadCliQ-v1 of a report (Yu et al. 2023): about how many errors more than the average report it has, so that lower is
/// better. ReXrank prints the inverse of the corpus' mean, where higher is better.
pub fn radcliq_v1(parts: &RadcliqParts) -> f64 {
    let values = [
        parts.radgraph_f1,
        parts.bertscore,
        parts.chexbert_similarity,
        parts.bleu_2,
    ];
    let weighted = values
        .into_iter()
        .zip(RADCLIQ_V1)
        .map(|(value, (mean, deviation, weight))| (value - mean) / deviation * weight);
    weighted.sum::<f64>() + RADCLIQ_V1_INTERCEPT
}

/// What ReXrank prints of RadCliQ-v1.
pub const INVERSE_RADCLIQ: &str = "1/RadCliQ-v1";

/// The inverse of RadCliQ-v1, where RadCliQ and its interval are over 0; elsewhere more of it is not better, and it is not defined.
pub fn inverse_of(radcliq: Option<Estimate>, inverse: Option<Estimate>) -> Option<Estimate> {
    let is_over = |radcliq: Estimate| {
        let interval = radcliq.interval();
        radcliq.value > 0.0 && interval.is_none_or(|[low, _]| low > 0.0)
    };
    inverse.filter(|_| radcliq.is_some_and(is_over))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(json: &str) -> ReportGraph {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn entities_and_relations_count_half_each() {
        let reference = graph(
            r#"{"text": "small left effusion", "entities": {
                "1": {"tokens": "small", "label": "OBS-DP", "start_ix": 0, "end_ix": 0, "relations": [["modify", "3"]]},
                "2": {"tokens": "left", "label": "ANAT-DP", "relations": []},
                "3": {"tokens": "effusion", "label": "OBS-DP", "relations": [["located_at", "2"]]}}}"#,
        );
        assert_eq!(radgraph_f1(&reference, &reference), 1.0);
        let report = graph(
            r#"{"entities": {
                "1": {"tokens": "effusion", "label": "OBS-DP", "relations": [["located_at", "2"]]},
                "2": {"tokens": "left", "label": "ANAT-DP"}}}"#,
        );
        // Entities 2 of 2 and 3: 0.8. Relations 1 of 1 and 2: 2/3.
        let score = radgraph_f1(&report, &reference);
        assert!((score - (0.8 + 2.0 / 3.0) / 2.0).abs() < 1e-12, "{score}");
        let absent = graph(r#"{"entities": {"1": {"tokens": "effusion", "label": "OBS-DA"}}}"#);
        assert_eq!(radgraph_f1(&absent, &reference), 0.0);
        let nothing = ReportGraph::default();
        assert_eq!(radgraph_f1(&nothing, &nothing), 0.0);
    }

    #[test]
    fn an_inverse_is_printed_where_more_of_it_is_better() {
        let estimate = |low: f64, value: f64| {
            Some(Estimate {
                value,
                low,
                high: 2.0,
            })
        };
        let inverse = estimate(0.5, 1.0);
        assert_eq!(inverse_of(estimate(0.5, 1.0), inverse), inverse);
        assert_eq!(inverse_of(estimate(-0.1, 1.0), inverse), None);
        assert_eq!(inverse_of(estimate(-2.0, -1.0), inverse), None);
        assert_eq!(inverse_of(None, inverse), None);
        assert_eq!(inverse_of(estimate(f64::NAN, 1.0), inverse), inverse);
    }

    #[test]
    fn an_average_report_has_a_radcliq_of_about_zero_and_a_perfect_one_less() {
        let [radgraph_f1, bertscore, chexbert_similarity, bleu_2] = RADCLIQ_V1.map(|part| part.0);
        let average = RadcliqParts {
            radgraph_f1,
            bertscore,
            chexbert_similarity,
            bleu_2,
        };
        assert!(radcliq_v1(&average).abs() < 1e-9);
        let perfect = RadcliqParts {
            radgraph_f1: 1.0,
            bertscore: 1.0,
            chexbert_similarity: 1.0,
            bleu_2: 1.0,
        };
        // Worked out by hand: -0.57538 - 0.63131 - 0.23400.
        assert!((radcliq_v1(&perfect) + 1.440_69).abs() < 1e-4);
    }
}
