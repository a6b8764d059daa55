//! The text scores of a corpus by the name of the protocol that papers use, each with its direction.

use serde::Serialize;

use super::cider::Cider;
use super::meteor::{Meteor, MeteorCounts};
use super::{BleuCounts, rouge_l};
use crate::evaluation::words::ptb::ptb_words;
use crate::evaluation::words::words;

/// How texts are split, and which scores are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextProtocol {
    /// The original's test program: line breaks deleted, NLTK's words in lower case; BLEU, METEOR, ROUGE-L.
    #[serde(rename = "radialog-2023")]
    Radialog2023,
    /// The caption toolkit with its own tokenizer (Stanford's, punctuation dropped); CIDEr on top.
    CocoCaption,
}

/// Which values of a score are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better: the score is of errors.
    Lower,
}

impl Better {
    /// The word to print.
    pub fn word(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

/// One score of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextScore {
    /// The name to print, which says what was computed.
    pub name: &'static str,
    /// 0 to 1, CIDEr 0 to 10.
    pub value: f64,
    /// Which values are good.
    pub better: Better,
}

/// The scores of texts beside one reference each. What is kept of a text does not grow with it but for CIDEr.
pub struct TextScorer {
    protocol: TextProtocol,
    meteor: Meteor,
    bleu: BleuCounts,
    meteor_counts: MeteorCounts,
    rouge: f64,
    cider: Cider,
    texts: u64,
}

impl TextScorer {
    /// A scorer of nothing so far.
    pub fn new(protocol: TextProtocol, meteor: Meteor) -> Self {
        Self {
            protocol,
            meteor,
            bleu: BleuCounts::default(),
            meteor_counts: MeteorCounts::default(),
            rouge: 0.0,
            cider: Cider::default(),
            texts: 0,
        }
    }

    /// Adds a text and its reference. An empty text counts with its score, which is 0.
    pub fn add(&mut self, hypothesis: &str, reference: &str) {
        let [hypothesis, reference] = [hypothesis, reference].map(|text| self.protocol.split(text));
        // ROUGE-L of the toolkit splits at blanks only, so that an empty text is one empty word; the others split at all white
        // space.
        let blanks = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let white = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        self.rouge += rouge_l(&blanks(&hypothesis), &blanks(&reference));
        self.meteor_counts
            .add(&self.meteor.counts(&hypothesis, &reference));
        let (hypothesis, reference) = (white(&hypothesis), white(&reference));
        self.bleu.add(&BleuCounts::of(&hypothesis, &reference));
        if self.protocol == TextProtocol::CocoCaption {
            self.cider.add(&hypothesis, &reference);
        }
        self.texts += 1;
    }

    /// Computes the scores of all texts that were added; none where there is no text.
    pub fn scores(&self) -> Vec<TextScore> {
        if self.texts == 0 {
            return Vec::new();
        }
        let [bleu_1, bleu_2, bleu_3, bleu_4] = self.bleu.scores();
        let mut values = vec![
            ("BLEU-1", bleu_1),
            ("BLEU-2", bleu_2),
            ("BLEU-3", bleu_3),
            ("BLEU-4", bleu_4),
            (self.meteor.name(), self.meteor_counts.score()),
            ("ROUGE-L", self.rouge / self.texts as f64),
        ];
        if self.protocol == TextProtocol::CocoCaption {
            let scores = self.cider.scores();
            values.push(("CIDEr", scores.iter().sum::<f64>() / self.texts as f64));
        }
        let score = |(name, value)| TextScore {
            name,
            value,
            better: Better::Higher,
        };
        values.into_iter().map(score).collect()
    }
}

impl TextProtocol {
    /// The name by which the protocol is chosen and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Radialog2023 => "radialog-2023",
            Self::CocoCaption => "coco-caption",
        }
    }

    /// A text's words with single blanks between them.
    pub fn split(self, text: &str) -> String {
        match self {
            Self::Radialog2023 => {
                // Deleted, not replaced: the words around a line break become one.
                let text = text
                    .replace('\n', "")
                    .replace("<s>", "")
                    .replace("</s>", "");
                words(&text).join(" ")
            }
            Self::CocoCaption => ptb_words(text).join(" "),
        }
    }
}
