//! Sentences of a generated report that compare with an earlier image: a flag for whoever reviews reports. The models read one
//! image and archives name no earlier one, so that nothing supports such a sentence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sentence that compares. Places are counted in Unicode scalar values from 0 on, as Python counts characters: of a range
/// `[a, b]` the text is `report[a:b]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComparisonMark {
    /// Which sentence of the report it is, from 0 on.
    pub sentence: u32,
    /// Where the sentence stands in the report.
    pub range: [u32; 2],
    /// The first words in it that compare, as they stand in the report.
    pub words: String,
    /// Where these words stand in the report.
    pub words_range: [u32; 2],
}
