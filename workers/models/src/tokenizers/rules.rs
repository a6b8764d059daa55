//! How a prompt is cut around special tokens and images. It decides the ids beside them, and the published systems did it in
//! different ways, so that both rules are data of a bundle.

use serde::{Deserialize, Serialize};

/// Stands for an image in a written prompt of RaDialog v2.
pub const MARKER: &str = "<image>";

/// The rules of a bundle's tokenizer; the default ones are RaDialog v1's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenizerRules {
    /// The way in which an image stands in a text.
    pub image: ImageRule,
    /// The blank that a vocabulary of this family puts before each text, behind a special token.
    pub after_special: BlankRule,
}

/// The way in which an image stands in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageRule {
    /// As special tokens `<IMG>`, one for each of its tokens. White space around them is stripped. What is behind them goes
    /// by the blank rule.
    #[default]
    Placeholders,
    /// As one marker `<image>`. What is before and behind it is a text of its own, white space included.
    Marker,
}

/// Whether a blank is put before a text that stands behind a special token. The rules are those of the `legacy` setting of
/// the transformers library's slow LLaMA tokenizer, in whose `tokenizer_config.json` it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlankRule {
    /// As before every text: `legacy` true, or not given.
    #[default]
    Added,
    /// It is put there, and taken from the first token again, unless the text begins with a blank itself: `legacy` false in
    /// version 4.31.
    TakenAgain,
    /// None: `legacy` false since version 4.35.
    Absent,
}

impl TokenizerRules {
    /// The rules that RaDialog v2 was trained and tested with, by the `legacy` setting of its tokenizer.
    pub fn v2(legacy: bool) -> Self {
        Self {
            image: ImageRule::Marker,
            after_special: match legacy {
                true => BlankRule::Added,
                false => BlankRule::TakenAgain,
            },
        }
    }
}

impl ImageRule {
    /// Whether a configuration need not name it.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl BlankRule {
    /// Whether a configuration need not name it.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
