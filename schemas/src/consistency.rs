//! How far a study's report agrees with reports that are sampled for the same image: a flag for whoever reviews reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many further reports of a study are sampled, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportSampling {
    /// Their number, at least 1.
    pub count: u32,
    /// The temperature of the sampling, over 0.
    pub temperature: f64,
}

/// The sampled reports of a study, and how far they agree with its report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Consistency {
    /// Mean agreement of the report with each sample, 0 (no word in common) to 1 (the same words). Lower is less consistent.
    pub agreement: f64,
    /// The report's sentences in order.
    pub sentences: Vec<SentenceAgreement>,
    /// The findings sections as sampled, in the order of their numbers.
    pub samples: Vec<String>,
}

/// A sentence of a report, and how far the samples say the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SentenceAgreement {
    /// The sentence as it stands in the report.
    pub text: String,
    /// Mean over the samples of the agreement with the sentence that is most like it, 0 to 1.
    pub agreement: f64,
}
