//! What `radialog evaluate report` scores: generated reports and what they are compared with.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_training::evaluation::corpus::{
    Corpus, MatchOptions, PredictionFile, ReferenceSection, References, StoredTexts, TextStore,
};
use radialog_training::evaluation::text_scores::protocol::TextProtocol;

use super::{Blank, ReportArgs, labels, run_references};
use crate::commands::evaluate::text::annotations::Annotations;
use crate::exit::UsageError;
use crate::named_path::{require, require_meteor};

/// What an error of the file of texts is about.
const NO_STORE: &str = "cannot keep texts in a temporary file";
/// What an error of a thread is about.
const ENDED: &str = "the evaluation ended unexpectedly";

/// What is scored, and its texts.
pub(super) struct Read {
    pub(super) corpus: Corpus,
    pub(super) texts: StoredTexts,
}

/// Refuses files that are not there, before anything is read.
pub(super) fn require_files(args: &ReportArgs) -> anyhow::Result<()> {
    for path in [Some(&args.reports), args.against.as_ref()]
        .into_iter()
        .flatten()
    {
        let file = match path.is_dir() {
            true => path.join(RESULTS_FILE),
            false => path.clone(),
        };
        require(
            &file,
            "name the output folder of `radialog batch`, its results.jsonl, a CSV, or ReXrank's JSON",
        )?;
    }
    for path in &args.references {
        require(
            path,
            "--references are tables, folders of reports, or ReXrank's JSON",
        )?;
    }
    if let Some(path) = &args.meteor {
        require_meteor(path)?;
    }
    Ok(())
}

impl Read {
    /// Reads one system's reports and what they are compared with, and labels what has no labels; none where that was
    /// interrupted.
    pub(super) async fn labelled(
        args: &Arc<ReportArgs>,
        reports: &Path,
        out: &Path,
        name: &str,
    ) -> anyhow::Result<Option<Self>> {
        let path = reports.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let mut store = TextStore::new().context(NO_STORE)?;
            let predictions = PredictionFile::read(&path, &mut store)?;
            anyhow::Ok((predictions, store))
        });
        let (mut predictions, mut store) = read.await.context(ENDED)??;
        if args.references.is_empty() {
            run_references::fetch(&mut predictions, &mut store, &args.labelling).await?;
        }
        let of = args.clone();
        let read = tokio::task::spawn_blocking(move || Self::of(&of, predictions, store));
        let mut read = read.await.context(ENDED)??;
        // A stratified selection follows from the labels; any other one saves labelling.
        if let Some(limit) = args.limit.filter(|_| !args.stratified) {
            read.corpus.limit(limit as usize)?;
        }
        if !labels::complete(&mut read.corpus, &read.texts, &args.labelling, out, name).await? {
            return Ok(None);
        }
        let (of, protocol) = (args.clone(), args.protocol.protocol());
        let read = tokio::task::spawn_blocking(move || {
            let dropped = read.corpus.drop_long_texts(&read.texts, protocol);
            dropped.context("cannot read a stored text")?;
            let is_rexrank = protocol == TextProtocol::Rexrank;
            let annotations = Annotations::open(&of.annotations, is_rexrank)?;
            if !annotations.is_empty() {
                let annotated = read
                    .corpus
                    .annotate(|id, has_text| annotations.of_study(id, has_text));
                annotated.context("cannot store the studies")?;
            }
            anyhow::Ok(read)
        });
        let mut read = read.await.context(ENDED)??;
        if args.stratified {
            read.corpus.stratify()?;
            if let Some(limit) = args.limit {
                read.corpus.limit(limit as usize)?;
            }
        }
        Ok(Some(read))
    }

    fn of(
        args: &ReportArgs,
        mut predictions: PredictionFile,
        mut store: TextStore,
    ) -> anyhow::Result<Self> {
        if !args.references.is_empty() && predictions.has_stored_references {
            predictions.notes.push(
                "the reference texts of the run itself do not count, since --references names others"
                    .to_owned(),
            );
        }
        let mut files = args.references.clone();
        if files.is_empty() && predictions.has_references {
            files.push(predictions.path.clone());
        }
        let references = match files.is_empty() {
            true => None,
            false => {
                let section = match args.protocol.protocol() {
                    TextProtocol::Rexrank => ReferenceSection::Whole,
                    TextProtocol::Radialog2023 | TextProtocol::CocoCaption => {
                        ReferenceSection::Findings
                    }
                };
                let wanted = || predictions.names();
                Some(References::read(&files, section, wanted, &mut store)?)
            }
        };
        let has_table = references.as_ref().is_some_and(References::have_labels);
        if args.blank.is_some() && !has_table {
            let message = "--blank is about tables of labels, and --references name none: leave it out, or name one";
            return Err(UsageError(message.to_owned()).into());
        }
        let texts = store.finish().context(NO_STORE)?;
        let wanted = MatchOptions {
            split: args.split.clone(),
            blank_is_absent: matches!(args.blank, Some(Blank::Negative)),
        };
        let corpus = Corpus::of(predictions, references, &wanted)?;
        Ok(Self { corpus, texts })
    }
}
