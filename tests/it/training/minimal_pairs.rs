//! The demo bundle's labeler on plain sentences, alone and among others: each finding stated, denied, doubted and of the past,
//! written by hand; none of them is in a synthetic report that trains it. `validate` chose between trainings; `test` is the figure.

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
/// The same behind and before others.
const AT_LEAST_AMONG: f64 = 0.92;
/// The number of test sentences.
const SENTENCES: usize = 300;

/// What stands behind or before a sentence.
struct Neighbours {
    text: &'static str,
    /// The findings that they speak of: they stand beside no sentence about one of these.
    said: &'static [Finding],
    /// Those that they state.
    stated: &'static [Finding],
}

const NEIGHBOURS: [Neighbours; 6] = [
    Neighbours {
        text: "The heart size is normal.",
        said: &[Finding::Cardiomegaly],
        stated: &[],
    },
    Neighbours {
        text: "There is no pleural effusion or pneumothorax.",
        said: &[Finding::PleuralEffusion, Finding::Pneumothorax],
        stated: &[],
    },
    Neighbours {
        text: "The lungs are clear. There is no pleural effusion or pneumothorax. The heart size is normal.",
        said: &[
            Finding::PleuralEffusion,
            Finding::Pneumothorax,
            Finding::Cardiomegaly,
        ],
        stated: &[],
    },
    Neighbours {
        text: "Heart size within normal limits. No airspace consolidation, pneumothorax or effusion.",
        said: &[
            Finding::Cardiomegaly,
            Finding::LungOpacity,
            Finding::Consolidation,
            Finding::Pneumothorax,
            Finding::PleuralEffusion,
        ],
        stated: &[],
    },
    Neighbours {
        text: "Mild cardiomegaly. A left pleural effusion is seen.",
        said: &[Finding::Cardiomegaly, Finding::PleuralEffusion],
        stated: &[Finding::Cardiomegaly, Finding::PleuralEffusion],
    },
    Neighbours {
        text: "The mediastinal contour is within normal limits. No focal consolidation.",
        said: &[
            Finding::EnlargedCardiomediastinum,
            Finding::LungOpacity,
            Finding::Consolidation,
        ],
        stated: &[],
    },
];

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
    /// The label of its finding, where that is not "No Finding".
    fn expected(&self) -> Label {
        match self.kind.as_str() {
            "stated" => Label::Positive,
            "doubted" => Label::Uncertain,
            _ => Label::Negative,
        }
    }

    /// What is wrong with labels: the finding has another label than it should, or something is stated or doubted that the
    /// sentence does not say. `None` where they are right.
    fn fault(&self, labels: &Labels) -> Option<String> {
        let is_said =
            |finding: Finding| matches!(labels[&finding], Label::Positive | Label::Uncertain);
        let label = labels[&self.finding];
        let is_right = match self.finding {
            Finding::NoFinding => (label == Label::Positive) == (self.kind == "stated"),
            _ => label == self.expected(),
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

/// What is wrong with labels of a sentence and its neighbours: as alone, but "No Finding" is not looked at.
fn fault_among(
    sentence: &PlainSentence,
    neighbours: &Neighbours,
    labels: &Labels,
) -> Option<String> {
    let label = labels[&sentence.finding];
    if label != sentence.expected() {
        return Some(format!("{label:?}"));
    }
    let is_said = |finding: &Finding| matches!(labels[finding], Label::Positive | Label::Uncertain);
    let may_be_said = |finding: &Finding| {
        *finding == Finding::NoFinding
            || *finding == sentence.finding
            || Some(*finding) == sentence.beside
            || neighbours.stated.contains(finding)
    };
    let missed = neighbours
        .stated
        .iter()
        .find(|finding| labels[*finding] != Label::Positive);
    if let Some(missed) = missed {
        return Some(format!("{} beside it is missed", missed.name()));
    }
    let invented = Finding::ALL
        .iter()
        .find(|finding| is_said(finding) && !may_be_said(finding));
    invented.map(|finding| format!("{} is invented", finding.name()))
}

/// The demo bundle's labeler.
struct DemoLabeler(ReportLabeler);

impl DemoLabeler {
    fn load() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let cache = HashCache::at(dir.path().join("hashes.json"));
        let bundle = Bundle::open_with(&recipe().join("bundle"), &[Stage::Scoring], &cache)?;
        Ok(Self(ReportLabeler::load(&bundle, &Device::Cpu)?))
    }

    fn label<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<Vec<Labels>> {
        let ids = texts.map(|text| self.0.encode(text));
        Ok(self.0.label(&ids.collect::<Result<Vec<_>, _>>()?)?)
    }
}

/// How many texts are labelled right, of how many, by kind of sentence.
#[derive(Debug, Default)]
struct Counts(BTreeMap<String, (usize, usize)>);

impl Counts {
    /// Counts a text and prints what is wrong with it.
    fn add(&mut self, name: &str, sentence: &PlainSentence, text: &str, fault: Option<String>) {
        let (right, all) = self.0.entry(sentence.kind.clone()).or_default();
        *right += usize::from(fault.is_none());
        *all += 1;
        if let Some(fault) = fault {
            let finding = sentence.finding.name();
            println!("{name}: {finding}, '{text}': {fault}");
        }
    }

    /// The share that is right, and how many there are; prints them.
    fn share(&self, name: &str) -> (f64, usize) {
        let right: usize = self.0.values().map(|(right, _)| right).sum();
        let all: usize = self.0.values().map(|(_, all)| all).sum();
        let share = right as f64 / all as f64;
        println!("{name}: {right} of {all} right, {share:.3}; {:?}", self.0);
        (share, all)
    }
}

#[test]
fn the_demo_labeler_reads_plain_sentences_right() -> Result<()> {
    let labeler = DemoLabeler::load()?;
    let sentences = sentences()?;
    let mut shares = BTreeMap::new();
    for split in ["validate", "test"] {
        let name = format!("minimal pairs: {split}");
        let of_split = || sentences.iter().filter(|sentence| sentence.split == split);
        let labels = labeler.label(of_split().map(|sentence| sentence.text.as_str()))?;
        let mut counts = Counts::default();
        for (sentence, labels) in of_split().zip(&labels) {
            counts.add(&name, sentence, &sentence.text, sentence.fault(labels));
        }
        shares.insert(split, counts.share(&name));
    }
    let (share, all) = shares["test"];
    ensure!(all == SENTENCES, "{all} sentences of the split test");
    ensure!(
        share >= AT_LEAST,
        "{share:.3} of the sentences are right, fewer than {AT_LEAST}"
    );
    Ok(())
}

#[test]
fn the_demo_labeler_reads_plain_sentences_right_among_others() -> Result<()> {
    let labeler = DemoLabeler::load()?;
    let sentences = sentences()?;
    let mut shares = BTreeMap::new();
    for split in ["validate", "test"] {
        let name = format!("minimal pairs among others: {split}");
        let mut counts = Counts::default();
        for neighbours in &NEIGHBOURS {
            let beside = |sentence: &&PlainSentence| {
                sentence.split == split
                    && sentence.finding != Finding::NoFinding
                    && !neighbours.said.contains(&sentence.finding)
            };
            let texts: Vec<(&PlainSentence, String)> = sentences
                .iter()
                .filter(beside)
                .flat_map(|sentence| {
                    let (text, others) = (&sentence.text, neighbours.text);
                    [
                        (sentence, format!("{others} {text}")),
                        (sentence, format!("{text} {others}")),
                    ]
                })
                .collect();
            let labels = labeler.label(texts.iter().map(|(_, text)| text.as_str()))?;
            for ((sentence, text), labels) in texts.iter().zip(&labels) {
                let fault = fault_among(sentence, neighbours, labels);
                counts.add(&name, sentence, text, fault);
            }
        }
        shares.insert(split, counts.share(&name));
    }
    let (share, _) = shares["test"];
    ensure!(
        share >= AT_LEAST_AMONG,
        "{share:.3} of the sentences are right, fewer than {AT_LEAST_AMONG}"
    );
    Ok(())
}
