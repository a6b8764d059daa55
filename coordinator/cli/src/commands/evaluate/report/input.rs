//! What `radialog evaluate report` scores: generated reports and what they are compared with.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_training::evaluation::corpus::{
    Corpus, MatchOptions, PredictionFile, ReferenceSection, References, StoredTexts, TextStore,
};
use radialog_training::evaluation::text_scores::protocol::TextProtocol;

use super::{Blank, ReportArgs, labels};
use crate::exit::UsageError;

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
    Ok(())
}

/// Refuses a path that leads nowhere.
fn require(path: &Path, what: &str) -> anyhow::Result<()> {
    match path.exists() {
        true => Ok(()),
        false => Err(UsageError(format!("there is no '{}': {what}", path.display())).into()),
    }
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
        let (of, path) = (args.clone(), reports.to_owned());
        let mut read = tokio::task::spawn_blocking(move || Self::of(&of, &path))
            .await
            .context("the evaluation ended unexpectedly")??;
        // A stratified selection follows from the labels; any other one saves labelling.
        if let Some(limit) = args.limit.filter(|_| !args.stratified) {
            read.corpus.limit(limit as usize);
        }
        if !labels::complete(&mut read.corpus, &read.texts, &args.labelling, out, name).await? {
            return Ok(None);
        }
        if args.stratified {
            read.corpus.stratify()?;
            if let Some(limit) = args.limit {
                read.corpus.limit(limit as usize);
            }
        }
        Ok(Some(read))
    }

    fn of(args: &ReportArgs, reports: &Path) -> anyhow::Result<Self> {
        let mut store = TextStore::new().context("cannot keep texts in a temporary file")?;
        let predictions = PredictionFile::read(reports, &mut store)?;
        let mut files = args.references.clone();
        if files.is_empty() && predictions.has_references {
            files.push(predictions.path.clone());
        }
        let references = match files.is_empty() {
            true => None,
            false => {
                let wanted: HashSet<String> = predictions.names().collect();
                let section = match args.protocol.protocol() {
                    TextProtocol::Rexrank => ReferenceSection::Whole,
                    TextProtocol::Radialog2023 | TextProtocol::CocoCaption => {
                        ReferenceSection::Findings
                    }
                };
                Some(References::read(&files, section, &wanted, &mut store)?)
            }
        };
        let texts = store
            .finish()
            .context("cannot keep texts in a temporary file")?;
        let wanted = MatchOptions {
            split: args.split.clone(),
            blank_is_absent: matches!(args.blank, Blank::Negative),
        };
        let corpus = Corpus::of(predictions, references, &wanted)?;
        Ok(Self { corpus, texts })
    }
}
