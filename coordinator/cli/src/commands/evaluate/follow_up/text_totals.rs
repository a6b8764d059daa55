//! Scores of texts that are counted some at a time, so that memory does not grow with them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use radialog_training::evaluation::bootstrap::Resampling;
use radialog_training::evaluation::follow_ups::{AnsweredText, AnsweredTexts, SideEstimates};
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextProtocol, TextScorer};
use tokio::task::spawn_blocking;

use crate::exit::UsageError;
use crate::named_path::require_meteor;

/// Texts that are counted at a time, on all cores.
const CHUNK: usize = 512;
/// What an error of the temporary file is about.
const KEPT: &str = "cannot keep counts of texts in a temporary file";

/// Where METEOR's data is.
#[derive(Args)]
pub(in crate::commands::evaluate) struct MeteorArgs {
    /// METEOR's data: meteor-1.5.jar, or the folder that has it and data/paraphrase-en.gz (`pip install pycocoevalcap` brings both).
    /// Without it, words match by exact form and stem, and the printed name says so
    #[arg(long, value_name = "JAR|DIR")]
    meteor: Option<PathBuf>,
}

impl MeteorArgs {
    /// Refuses data that is not there.
    pub(in crate::commands::evaluate) fn check(&self) -> Result<(), UsageError> {
        self.meteor.as_deref().map_or(Ok(()), require_meteor)
    }

    /// Reads the data, which takes a second or two.
    pub(in crate::commands::evaluate) async fn read(&self) -> anyhow::Result<Meteor> {
        let Some(place) = self.meteor.clone() else {
            return Ok(Meteor::new(None));
        };
        let data = spawn_blocking(move || MeteorData::read(&place)).await??;
        Ok(Meteor::new(Some(Arc::new(data))))
    }
}

/// Texts of one side or of two beside their references, by the original's protocol.
pub(in crate::commands::evaluate) struct TextTotals<const SIDES: usize> {
    /// None while they are counted on another thread.
    counted: Option<AnsweredTexts<SIDES>>,
    /// Texts that are still to count.
    pending: Vec<AnsweredText<SIDES>>,
}

impl<const SIDES: usize> TextTotals<SIDES> {
    pub(in crate::commands::evaluate) fn new(meteor: &Meteor) -> anyhow::Result<Self> {
        let scorer = TextScorer::new(TextProtocol::Radialog2023, meteor.clone());
        Ok(Self {
            counted: Some(AnsweredTexts::new(scorer).context(KEPT)?),
            pending: Vec::new(),
        })
    }

    /// Adds the texts of a study of this patient.
    pub(in crate::commands::evaluate) async fn add(
        &mut self,
        texts: [&str; SIDES],
        reference: &str,
        patient: u32,
    ) -> anyhow::Result<()> {
        let texts = texts.map(str::to_owned);
        self.pending.push((texts, reference.to_owned(), patient));
        match self.pending.len() {
            CHUNK => self.count().await,
            _ => Ok(()),
        }
    }

    /// The scores of all texts.
    pub(in crate::commands::evaluate) async fn estimates(
        mut self,
        resampling: Resampling,
    ) -> anyhow::Result<SideEstimates<SIDES>> {
        self.count().await?;
        let counted = self.counted.context("texts were not counted")?;
        let estimates = spawn_blocking(move || counted.estimates(resampling));
        estimates.await?.context(KEPT)
    }

    async fn count(&mut self) -> anyhow::Result<()> {
        let mut counted = self.counted.take().context("texts were not counted")?;
        let texts = std::mem::take(&mut self.pending);
        let count = move || {
            let added = counted.add(&texts);
            added.map(|()| counted)
        };
        self.counted = Some(spawn_blocking(count).await?.context(KEPT)?);
        Ok(())
    }
}
