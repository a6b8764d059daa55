//! What `radialog evaluate report` scores: generated reports and what they are compared with.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use radialog_coordinator::run::output::{RESULTS_FILE, RunFile, SUMMARY_FILE};
use radialog_training::evaluation::corpus::{
    Corpus, MatchOptions, PredictionFile, ReferenceSection, References, StoredTexts, TextStore,
};
use radialog_training::evaluation::report_scores::BlankAs;
use radialog_training::evaluation::text_scores::protocol::TextProtocol;
use serde_json::Value;

use super::sources::Source;
use super::{ENDED, ReportArgs, blank, labels, run_references};
use crate::commands::evaluate::text::annotations::Annotations;
use crate::exit::{UsageError, input_at_fault};
use crate::named_path::{require, require_meteor, require_stored};

/// What an error of the file of texts is about.
const NO_STORE: &str = "cannot keep texts in a temporary file";

/// What is scored, and its texts.
pub(super) struct Read {
    /// What was read.
    pub(super) reports: Source,
    /// What files of it are called.
    pub(super) name: &'static str,
    pub(super) corpus: Corpus,
    pub(super) texts: StoredTexts,
    /// What a missing label counts as.
    pub(super) blank: BlankAs,
}

/// Refuses files that are not there, before anything is read.
pub(super) fn require_files(args: &ReportArgs) -> anyhow::Result<()> {
    for path in &args.references {
        require(
            path,
            "--references are tables, folders of reports, or ReXrank's JSON",
        )?;
        require_stored(path)?;
    }
    if let Some(path) = &args.meteor {
        require_meteor(path)?;
    }
    Ok(())
}

/// What to know where the predictions are of a run that has not come to its end.
fn incomplete(predictions: &PredictionFile) -> anyhow::Result<Option<String>> {
    let name = predictions.path.file_name();
    let folder = predictions.path.parent();
    let (Some(folder), true) = (folder, name.is_some_and(|name| name == RESULTS_FILE)) else {
        return Ok(None);
    };
    if RunFile::read(folder)?.is_none() {
        return Ok(None);
    }
    // A run that was killed has none.
    let summary = std::fs::read(folder.join(SUMMARY_FILE)).ok();
    let summary = summary.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let is_complete = summary.is_some_and(|summary| summary["interrupted"] == false);
    let read = predictions.predictions.len();
    Ok((!is_complete).then(|| {
        format!(
            "the run is not complete, and those of its studies that are done first are no random part of all: {read} have a line; run the \
             batch again to go on"
        )
    }))
}

impl Read {
    /// Reads one system's reports and what they are compared with, and labels what has no labels; none where that was
    /// interrupted.
    pub(super) async fn labelled(
        args: &Arc<ReportArgs>,
        reports: &Source,
        out: &Path,
        name: &'static str,
    ) -> anyhow::Result<Option<Self>> {
        let of = reports.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut store = TextStore::new().context(NO_STORE)?;
            let file = of.file.as_deref();
            let mut predictions =
                PredictionFile::read_as(&of.path, file, &mut store).map_err(input_at_fault)?;
            predictions.notes.extend(incomplete(&predictions)?);
            anyhow::Ok((predictions, store))
        });
        let (mut predictions, mut store) = read.await.context(ENDED)??;
        if args.references.is_empty() {
            run_references::fetch(&mut predictions, &mut store, &args.labelling).await?;
        }
        let (of, reports) = (args.clone(), reports.clone());
        let read = move || {
            let (corpus, texts, blank) = matched(&of, predictions, store)?;
            anyhow::Ok(Self {
                reports,
                name,
                corpus,
                texts,
                blank,
            })
        };
        let read = tokio::task::spawn_blocking(read);
        let mut read = read.await.context(ENDED)??;
        // A stratified selection follows from the labels; any other one saves labelling.
        if let Some(limit) = args.limit.filter(|_| !args.stratified) {
            tokio::task::block_in_place(|| read.corpus.limit(limit as usize))?;
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
                annotations.check_studies(&read.corpus)?;
                let annotated = read
                    .corpus
                    .annotate(|id, has_text| annotations.of_study(id, has_text));
                annotated.context("cannot store the studies")?;
                read.corpus.notes.extend(annotations.unused(&read.corpus)?);
            }
            if of.stratified {
                read.corpus.stratify().map_err(input_at_fault)?;
                if let Some(limit) = of.limit {
                    read.corpus.limit(limit as usize)?;
                }
            }
            let named = read.corpus.name_empty();
            named.context("cannot read the studies")?;
            anyhow::Ok(read)
        });
        Ok(Some(read.await.context(ENDED)??))
    }
}

/// Reads what predictions are compared with, and puts both together; also what a missing label counts as.
fn matched(
    args: &ReportArgs,
    mut predictions: PredictionFile,
    mut store: TextStore,
) -> anyhow::Result<(Corpus, StoredTexts, BlankAs)> {
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
            let read = References::read(&files, section, wanted, &mut store);
            Some(read.map_err(input_at_fault)?)
        }
    };
    let has_table = references.as_ref().is_some_and(References::have_labels);
    if args.blank.is_some() && !has_table {
        let message = "--blank is about tables of labels, and --references name none: leave it out, or name one";
        return Err(UsageError(message.to_owned()).into());
    }
    let blank = blank(args, references.as_ref());
    let texts = store.finish().context(NO_STORE)?;
    let wanted = MatchOptions {
        split: args.split.clone(),
        blank_is_absent: blank == BlankAs::Negative,
    };
    let corpus = Corpus::of(predictions, references, &wanted).map_err(input_at_fault)?;
    Ok((corpus, texts, blank))
}
