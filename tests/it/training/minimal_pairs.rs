//! The demo bundle's labeler on plain sentences: each finding stated, denied, doubted and of the past, written by hand; none of
//! them is in a synthetic report that trains it. `validate` chose between trainings; `test` is the figure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::ReportLabeler;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_schemas::table::TableReader;
use radialog_schemas::{Finding, Label, Labels, Stage};

/// The share of the test sentences that must be labelled right.
const AT_LEAST: f64 = 0.95;
/// The number of test sentences.
const SENTENCES: usize = 300;

/// A sentence, and what is right to say of it.
struct PlainSentence {
    split: String,
    finding: Finding,
    kind: String,
    text: String,
    /// Another finding that it states or doubts.
    beside: Option<Finding>,
}

impl PlainSentence {
    /// What is wrong with labels: the finding has another label than it should, or something is stated or doubted that the
    /// sentence does not say. `None` where they are right.
    fn fault(&self, labels: &Labels) -> Option<String> {
        let is_said =
            |finding: Finding| matches!(labels[&finding], Label::Positive | Label::Uncertain);
        let label = labels[&self.finding];
        let is_right = match (self.finding, self.kind.as_str()) {
            (Finding::NoFinding, kind) => (label == Label::Positive) == (kind == "stated"),
            (_, "stated") => label == Label::Positive,
            (_, "doubted") => label == Label::Uncertain,
            _ => label == Label::Negative,
        };
        if !is_right {
            return Some(format!("{label:?}"));
        }
        if let Some(beside) = self.beside.filter(|_| self.finding == Finding::NoFinding)
            && !is_said(beside)
        {
            return Some(format!("no {}", beside.name()));
        }
        // "No Finding" may stand beside devices.
        let is_there = is_said(self.finding)
            && !matches!(self.finding, Finding::NoFinding | Finding::SupportDevices);
        let invented = Finding::ALL.into_iter().find(|finding| match finding {
            Finding::NoFinding => is_there && is_said(*finding),
            _ => is_said(*finding) && *finding != self.finding && Some(*finding) != self.beside,
        });
        invented.map(|finding| format!("{} is invented", finding.name()))
    }
}

fn recipe() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../workers/training/recipes/demo")
}

fn sentences() -> Result<Vec<PlainSentence>> {
    let path = recipe().join("minimal-pairs.csv");
    let mut table = TableReader::new(BufReader::new(File::open(path)?))?;
    let columns = ["split", "finding", "kind", "sentence", "beside"];
    let columns = columns.map(|name| table.header().required(name));
    let mut sentences = Vec::new();
    while let Some(row) = table.next().transpose()? {
        let mut cells = Vec::new();
        for column in &columns {
            let column = *column
                .as_ref()
                .map_err(|missing| anyhow::anyhow!("{missing}"))?;
            cells.push(row.cell(column));
        }
        let text = |place: usize| cells[place].map(str::to_owned).context("an empty cell");
        let finding = |name: &str| {
            let found = Finding::ALL
                .into_iter()
                .find(|finding| finding.name() == name);
            found.with_context(|| format!("'{name}' is no finding"))
        };
        sentences.push(PlainSentence {
            split: text(0)?,
            finding: finding(&text(1)?)?,
            kind: text(2)?,
            text: text(3)?,
            beside: cells[4].map(finding).transpose()?,
        });
    }
    Ok(sentences)
}

#[test]
fn the_demo_labeler_reads_plain_sentences_right() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = HashCache::at(dir.path().join("hashes.json"));
    let bundle = Bundle::open_with(&recipe().join("bundle"), &[Stage::Scoring], &cache)?;
    let labeler = ReportLabeler::load(&bundle, &Device::Cpu)?;
    let sentences = sentences()?;
    let mut shares = BTreeMap::new();
    for split in ["validate", "test"] {
        let of_split = || sentences.iter().filter(|sentence| sentence.split == split);
        let ids = of_split().map(|sentence| labeler.encode(&sentence.text));
        let labels = labeler.label(&ids.collect::<Result<Vec<_>, _>>()?)?;
        // How many are right, of how many, by kind.
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (sentence, labels) in of_split().zip(&labels) {
            let fault = sentence.fault(labels);
            let (right, all) = counts.entry(&sentence.kind).or_default();
            *right += usize::from(fault.is_none());
            *all += 1;
            if let Some(fault) = fault {
                let (finding, text) = (sentence.finding.name(), &sentence.text);
                println!("minimal pairs: {split}: {finding}, '{text}': {fault}");
            }
        }
        let right: usize = counts.values().map(|(right, _)| right).sum();
        let share = right as f64 / labels.len() as f64;
        println!(
            "minimal pairs: {split}: {right} of {} right, {share:.3}; {counts:?}",
            labels.len()
        );
        shares.insert(split, (share, labels.len()));
    }
    let (share, all) = shares["test"];
    ensure!(all == SENTENCES, "{all} sentences of the split test");
    ensure!(
        share >= AT_LEAST,
        "{share:.3} of the sentences are right, fewer than {AT_LEAST}"
    );
    Ok(())
}
