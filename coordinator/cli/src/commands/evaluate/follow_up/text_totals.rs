//! Scores of texts that are counted one after the other, so that memory does not grow with them.

use radialog_training::evaluation::text_scores::cider::DocumentFrequencies;
use radialog_training::evaluation::text_scores::meteor::Meteor;
use radialog_training::evaluation::text_scores::protocol::{
    TextCounts, TextProtocol, TextScore, TextScorer,
};

/// Texts beside their references by the original's protocol, whose scores need no other texts.
pub(in crate::commands::evaluate) struct TextTotals {
    scorer: TextScorer,
    counts: TextCounts,
    /// None: the protocol has no CIDEr.
    frequencies: DocumentFrequencies,
}

impl Default for TextTotals {
    fn default() -> Self {
        Self {
            scorer: TextScorer::new(TextProtocol::Radialog2023, Meteor::new(None)),
            counts: TextCounts::default(),
            frequencies: DocumentFrequencies::default(),
        }
    }
}

impl TextTotals {
    pub(in crate::commands::evaluate) fn add(&mut self, text: &str, reference: &str) {
        let counts = self.scorer.counts(text, reference, &self.frequencies);
        self.counts.add(&counts);
    }

    pub(in crate::commands::evaluate) fn scores(&self) -> Vec<TextScore> {
        self.scorer.scores(&self.counts)
    }
}
