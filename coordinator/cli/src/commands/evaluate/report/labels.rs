//! Labels of texts that have none, made by the scoring component of a bundle: a run over the texts through the queue and the
//! workers, which goes on where it was interrupted. A text is known by its hash, so that equal ones are labelled once, and a file
//! that has changed is never given the labels of its former texts.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use radialog_coordinator::archive::{ArchiveLocation, ReportTable};
use radialog_schemas::{ContentHash, Finding, Generation, Label, Source, Stage};
use radialog_training::evaluation::corpus::{Corpus, Span, StoredTexts};
use radialog_training::prepare::{CsvOutput, FindingLabels};
use tokio::task::block_in_place;

use crate::commands::prepare::run::{Job, RunArgs, Session};
use crate::interruption;

/// The folder of the run, in the folder of results.
const RUN: &str = "labels";
/// The column of the texts.
const TEXT: &str = "findings";

/// Labels what has none; false where that was interrupted.
pub(super) async fn complete(
    corpus: &mut Corpus,
    stored: &StoredTexts,
    args: &RunArgs,
    out: &Path,
    name: &str,
) -> anyhow::Result<bool> {
    if corpus.texts_to_label().next().is_none() {
        return Ok(true);
    }
    if !args.names_bundle() {
        corpus.notes.push(
            "reports without labels are not scored by findings: name a bundle that labels them by --bundle".to_owned(),
        );
        return Ok(true);
    }
    let texts = block_in_place(|| texts_to_label(corpus, stored))?;
    if texts.is_empty() {
        // All of them are empty, of which a labeler says nothing.
        let none = HashMap::new();
        block_in_place(|| {
            corpus.take_labels("all of them empty", |span| label(stored, span, &none))
        })?;
        return Ok(true);
    }
    // Other texts are another run.
    let hash = ContentHash::of_parts(texts.keys().map(|key| key.as_bytes()));
    let place = out.join(format!("{RUN}-{name}-{}", hash.short()));
    let table = place.with_extension("csv");
    let session = Session::configure(args, &place)?;
    let bundle = session.bundle(&[Stage::Scoring]).await?;
    block_in_place(|| write_texts(&table, &texts, stored))?;
    let archive = ReportTable::open(&ArchiveLocation::Path(table.clone()), TEXT, None).await?;
    let job = Job {
        archive: Arc::new(archive),
        source: Source::Report,
        stages: &[Stage::Scoring],
        generation: Generation::default(),
    };
    let finished = session.run(&bundle, job).await?;
    // What follows is computed again by the same command.
    interruption::give_back();
    let Some(finished) = finished else {
        return Ok(false);
    };
    let mut results = finished.results().await?;
    let mut labels: HashMap<String, FindingLabels> = HashMap::new();
    while let Some(record) = results.next().await? {
        let said = record.report_labels.as_ref();
        let said = said.with_context(|| {
            format!("'{}' has no labels: delete the run's folder", record.study)
        })?;
        let all = Finding::ALL.map(|finding| said.get(&finding).copied().unwrap_or(Label::Blank));
        labels.insert(record.study.to_string(), all);
    }
    results.tell_failures();
    let manifest = bundle.manifest();
    let labeler = format!(
        "by the scoring component of bundle '{}' ({})",
        manifest.name,
        manifest.hash().short()
    );
    block_in_place(|| corpus.take_labels(&labeler, |span| label(stored, span, &labels)))?;
    corpus.notes.push(format!(
        "labels of {} different texts {labeler}",
        texts.len()
    ));
    Ok(true)
}

/// Every different text that is not empty, by its hash.
fn texts_to_label(corpus: &Corpus, texts: &StoredTexts) -> anyhow::Result<BTreeMap<String, Span>> {
    let mut all = BTreeMap::new();
    for span in corpus.texts_to_label() {
        let span = span.context("cannot read the studies")?;
        let text = texts.read(span).context("cannot read a stored text")?;
        if !text.trim().is_empty() {
            all.insert(key(&text), span);
        }
    }
    Ok(all)
}

fn write_texts(
    path: &Path,
    texts: &BTreeMap<String, Span>,
    stored: &StoredTexts,
) -> anyhow::Result<()> {
    let mut table = CsvOutput::create(path, ["study_id", TEXT])?;
    for (hash, span) in texts {
        let text = stored.read(*span).context("cannot read a stored text")?;
        table.row([hash.as_str(), text.as_str()])?;
    }
    table.finish()?;
    Ok(())
}

/// What the labeler says of a text; of an empty one, nothing. None where it failed.
fn label(
    texts: &StoredTexts,
    span: Span,
    labels: &HashMap<String, FindingLabels>,
) -> anyhow::Result<Option<FindingLabels>> {
    let text = texts.read(span).context("cannot read a stored text")?;
    if text.trim().is_empty() {
        return Ok(Some([Label::Blank; Finding::ALL.len()]));
    }
    Ok(labels.get(&key(&text)).copied())
}

fn key(text: &str) -> String {
    ContentHash::of(text.as_bytes()).to_string()
}
