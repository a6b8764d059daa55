//! Scores of texts that are fetched and counted some at a time, so that memory does not grow with them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use radialog_runtime::objects::Objects;
use radialog_schemas::ObjectKey;
use radialog_training::evaluation::bootstrap::Resampling;
use radialog_training::evaluation::follow_ups::{AnsweredText, AnsweredTexts, SideEstimates};
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{TextProtocol, TextScorer};
use tokio::task::spawn_blocking;

use super::Session;
use super::study_scores::StudyScoresTable;
use crate::commands::evaluate::out_folder::tell_resumed;
use crate::exit::UsageError;
use crate::named_path::require_meteor;

/// Texts that are counted at a time, on all cores.
const CHUNK: usize = 512;
/// References that are fetched at a time.
const FETCHES: usize = 16;

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

/// The protocol of the texts.
pub(in crate::commands::evaluate) const TEXTS: TextProtocol = TextProtocol::Radialog2023;

/// Texts of one side or of two beside their references, by the original's protocol.
pub(in crate::commands::evaluate) struct TextTotals<const SIDES: usize> {
    objects: Arc<dyn Objects>,
    /// None while they are counted on another thread.
    counted: Option<Counted<SIDES>>,
    /// Studies whose texts are still to count.
    pending: Vec<Pending<SIDES>>,
}

struct Counted<const SIDES: usize> {
    texts: AnsweredTexts<SIDES>,
    /// Where the scores of each study go, too.
    table: Option<StudyScoresTable>,
}

/// The radiologist's text of a study.
pub(in crate::commands::evaluate) enum Reference {
    /// The text itself.
    Text(String),
    /// Where the store has it.
    Stored(ObjectKey),
}

struct Pending<const SIDES: usize> {
    texts: [String; SIDES],
    /// None where the study has no reference text.
    reference: Option<Reference>,
    patient: u32,
    /// Its cells in the table.
    cells: Vec<String>,
}

/// A study whose texts are counted, and its cells in the table.
type Fetched<const SIDES: usize> = (Option<AnsweredText<SIDES>>, Vec<String>);

impl<const SIDES: usize> TextTotals<SIDES> {
    /// No texts yet, for the scores of this file: what was counted for them by a session that was interrupted is not counted again.
    pub(in crate::commands::evaluate) fn new(
        session: &Session<'_>,
        scores: &str,
        meteor: &Meteor,
        table: Option<StudyScoresTable>,
    ) -> anyhow::Result<Self> {
        let scorer = TextScorer::new(TEXTS, meteor.clone());
        let texts = AnsweredTexts::new(scorer, Some(&session.counts_file(scores)))?;
        Ok(Self {
            objects: session.backends.objects.clone(),
            counted: Some(Counted { texts, table }),
            pending: Vec::new(),
        })
    }

    /// Adds the texts of a study of this patient, where there is a reference, and what the table of studies has of it besides.
    pub(in crate::commands::evaluate) async fn add(
        &mut self,
        texts: [&str; SIDES],
        reference: Option<Reference>,
        patient: u32,
        cells: Vec<String>,
    ) -> anyhow::Result<()> {
        self.pending.push(Pending {
            texts: texts.map(str::to_owned),
            reference,
            patient,
            cells,
        });
        match self.pending.len() {
            CHUNK => self.count().await,
            _ => Ok(()),
        }
    }

    /// The scores of all texts; the table of studies is finished.
    pub(in crate::commands::evaluate) async fn estimates(
        mut self,
        resampling: Resampling,
    ) -> anyhow::Result<SideEstimates<SIDES>> {
        self.count().await?;
        let counted = self.counted.context("texts were not counted")?;
        let estimates = spawn_blocking(move || {
            counted.table.map_or(Ok(()), StudyScoresTable::finish)?;
            anyhow::Ok(counted.texts.estimates(resampling)?)
        });
        let estimates = estimates.await??;
        tell_resumed(estimates.resumed);
        Ok(estimates)
    }

    async fn count(&mut self) -> anyhow::Result<()> {
        let mut counted = self.counted.take().context("texts were not counted")?;
        let pending = std::mem::take(&mut self.pending);
        let objects = &*self.objects;
        let fetched = stream::iter(pending).map(|study| study.fetched(objects));
        let fetched: Vec<Fetched<SIDES>> = fetched.buffered(FETCHES).try_collect().await?;
        let count = move || counted.add(fetched).map(|()| counted);
        self.counted = Some(spawn_blocking(count).await??);
        Ok(())
    }
}

impl<const SIDES: usize> Pending<SIDES> {
    /// The study with the text of its reference.
    async fn fetched(self, objects: &dyn Objects) -> anyhow::Result<Fetched<SIDES>> {
        let reference = match self.reference {
            None => return Ok((None, self.cells)),
            Some(Reference::Text(text)) => text,
            Some(Reference::Stored(key)) => {
                let content = objects.get(&key).await.with_context(|| {
                    format!(
                        "the reference {key} is gone from the store: run again into another --out"
                    )
                })?;
                let text = String::from_utf8(content.into());
                text.with_context(|| format!("{key} is no text"))?
            }
        };
        Ok((Some((self.texts, reference, self.patient)), self.cells))
    }
}

impl<const SIDES: usize> Counted<SIDES> {
    fn add(&mut self, fetched: Vec<Fetched<SIDES>>) -> anyhow::Result<()> {
        let (mut texts, mut studies) = (Vec::new(), Vec::new());
        for (text, cells) in fetched {
            studies.push((text.is_some(), cells));
            texts.extend(text);
        }
        let mut scores = self.texts.add(&texts)?.into_iter();
        let Some(table) = &mut self.table else {
            return Ok(());
        };
        for (has_text, cells) in studies {
            let scores = match has_text {
                true => scores.next().flatten(),
                false => None,
            };
            table.row(cells, scores.as_ref().map(|sides| &sides[..]))?;
        }
        Ok(())
    }
}
