//! The lists of wordings, which are data: `composed-wordings.toml`.

use std::path::Path;

use radialog_schemas::{Finding, Region};
use serde::Deserialize;

use crate::error::TrainingError;

/// The lists.
const OWN: &str = include_str!("../../../../composed-wordings.toml");

/// The part of an image that a sentence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    Heart,
    Mediastinum,
    Lungs,
    Pleura,
    Bones,
    Devices,
}

/// How findings are put into words, and what is asked and answered about them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wordings {
    finding: Vec<FindingWords>,
    pub(super) normal: Vec<NormalWords>,
    pub(super) nothing: NothingWords,
    pub(super) questions: QuestionWords,
    pub(super) unanswerable: Vec<Unanswerable>,
    /// Words that a person's report may not have to be learned from.
    pub(super) not_learned: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FindingWords {
    pub(super) name: Finding,
    pub(super) region: Place,
    pub(super) states: Vec<String>,
    pub(super) there: Vec<String>,
    pub(super) none: Vec<String>,
    pub(super) patient: Vec<String>,
    pub(super) asked: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NormalWords {
    pub(super) region: Place,
    pub(super) rules_out: Vec<Finding>,
    pub(super) sentences: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NothingWords {
    pub(super) summaries: Vec<String>,
    pub(super) patient: Vec<String>,
    pub(super) region: String,
    pub(super) all: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuestionWords {
    pub(super) presence: Vec<String>,
    pub(super) all_findings: Vec<String>,
    pub(super) summary: Vec<String>,
    pub(super) plain_language: Vec<String>,
    pub(super) region: Vec<String>,
    pub(super) region_open: Vec<String>,
    pub(super) reasons: Vec<String>,
    pub(super) is_normal: Vec<String>,
    pub(super) is_abnormal: Vec<String>,
    pub(super) report: Vec<String>,
    pub(super) add: Vec<String>,
    pub(super) remove: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unanswerable {
    pub(super) questions: Vec<String>,
    pub(super) answers: Vec<String>,
}

impl Place {
    /// The orders in which reports go through an image: that in which findings are named, and the lungs first.
    pub(super) const ORDERS: [[Place; 6]; 2] = {
        use Place::{Bones, Devices, Heart, Lungs, Mediastinum, Pleura};
        [
            [Mediastinum, Heart, Lungs, Pleura, Bones, Devices],
            [Lungs, Pleura, Mediastinum, Heart, Bones, Devices],
        ]
    };

    /// Whether somebody who asks about the region wants to hear of this place.
    pub(super) fn is_of(self, region: Region) -> bool {
        match region {
            Region::Heart => self == Place::Heart,
            Region::Lungs => matches!(self, Place::Lungs | Place::Pleura),
            Region::Bones => self == Place::Bones,
            Region::Mediastinum => self == Place::Mediastinum,
        }
    }
}

impl Wordings {
    /// Returns our own lists.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub(crate) fn own() -> Result<Self, TrainingError> {
        toml::from_str(OWN).map_err(TrainingError::content(Path::new("composed-wordings.toml")))
    }

    /// The words of a finding; every finding but "No Finding" has some.
    pub(super) fn of(&self, finding: Finding) -> &FindingWords {
        let of = self.finding.iter().find(|words| words.name == finding);
        of.unwrap_or(&self.finding[0])
    }

    /// Every text of the lists that a model reads or writes.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let findings = self.finding.iter().flat_map(|words| {
            let lists = [
                &words.states,
                &words.there,
                &words.none,
                &words.patient,
                &words.asked,
            ];
            lists.into_iter().flatten()
        });
        let questions = &self.questions;
        let questions = [
            &questions.presence,
            &questions.all_findings,
            &questions.summary,
            &questions.plain_language,
            &questions.region,
            &questions.region_open,
            &questions.reasons,
            &questions.is_normal,
            &questions.is_abnormal,
            &questions.report,
            &questions.add,
            &questions.remove,
        ];
        let unanswerable = self
            .unanswerable
            .iter()
            .flat_map(|of| of.questions.iter().chain(&of.answers));
        let normal = self.normal.iter().flat_map(|normal| &normal.sentences);
        let nothing = &self.nothing;
        let nothing = nothing.summaries.iter().chain(&nothing.patient);
        let nothing = nothing.chain([&self.nothing.region, &self.nothing.all]);
        findings
            .chain(questions.into_iter().flatten())
            .chain(unanswerable)
            .chain(normal)
            .chain(nothing)
            .map(String::as_str)
    }
}
