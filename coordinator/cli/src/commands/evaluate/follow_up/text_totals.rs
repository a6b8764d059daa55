//! Scores of texts that are counted some at a time, so that memory does not grow with them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use radialog_training::evaluation::text_scores::cider::DocumentFrequencies;
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{
    TextCounts, TextProtocol, TextScore, TextScorer,
};

/// Texts that are counted at a time, on all cores.
const CHUNK: usize = 512;

/// Where METEOR's data is.
#[derive(Args)]
pub(in crate::commands::evaluate) struct MeteorArgs {
    /// METEOR's data: meteor-1.5.jar, or the folder that has it and data/paraphrase-en.gz (`pip install pycocoevalcap` brings both).
    /// Without it, words match by exact form and stem, and the printed name says so
    #[arg(long, value_name = "JAR|DIR")]
    meteor: Option<PathBuf>,
}

impl MeteorArgs {
    /// Reads the data, which takes a second or two.
    pub(in crate::commands::evaluate) async fn read(&self) -> anyhow::Result<Meteor> {
        let Some(place) = self.meteor.clone() else {
            return Ok(Meteor::new(None));
        };
        let data = tokio::task::spawn_blocking(move || MeteorData::read(&place)).await??;
        Ok(Meteor::new(Some(Arc::new(data))))
    }
}

/// Texts beside their references by the original's protocol, whose scores need no other texts.
pub(in crate::commands::evaluate) struct TextTotals {
    scorer: TextScorer,
    counts: TextCounts,
    /// Texts, each with its reference, that are still to count.
    pending: Vec<(String, String)>,
}

impl TextTotals {
    pub(in crate::commands::evaluate) fn new(meteor: &Meteor) -> Self {
        Self {
            scorer: TextScorer::new(TextProtocol::Radialog2023, meteor.clone()),
            counts: TextCounts::default(),
            pending: Vec::new(),
        }
    }

    pub(in crate::commands::evaluate) async fn add(
        &mut self,
        text: &str,
        reference: &str,
    ) -> anyhow::Result<()> {
        self.pending.push((text.to_owned(), reference.to_owned()));
        match self.pending.len() {
            CHUNK => self.count().await,
            _ => Ok(()),
        }
    }

    /// The scores of all texts; none where there was none.
    pub(in crate::commands::evaluate) async fn scores(mut self) -> anyhow::Result<Vec<TextScore>> {
        self.count().await?;
        Ok(self.scorer.scores(&self.counts))
    }

    async fn count(&mut self) -> anyhow::Result<()> {
        let (scorer, texts) = (self.scorer.clone(), std::mem::take(&mut self.pending));
        // The protocol has no CIDEr, which would look at all references first.
        let count = move || scorer.counts_with(&texts, &DocumentFrequencies::default());
        for counts in tokio::task::spawn_blocking(count).await? {
            self.counts.add(&counts);
        }
        Ok(())
    }
}
