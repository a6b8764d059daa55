//! Annotations of texts that models of others have made, and the scores that follow from them: RadGraph F1 and RadCliQ-v1.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use radialog_training::evaluation::radgraph::{RadcliqParts, ReportGraph, radcliq_v1, radgraph_f1};
use radialog_training::evaluation::text_scores::protocol::{Better, TextProtocol, TextScore};
use serde::Serialize;

use crate::exit::UsageError;

/// The columns of `--report-scores`, by the names that CXR-Report-Metric gives them.
const COLUMNS: [&str; 2] = ["bertscore", "semb_score"];
/// Where annotations lie.
#[derive(Args)]
#[command(next_help_heading = "Annotations, for --protocol rexrank")]
pub(super) struct AnnotationArgs {
    /// RadGraph's annotations of the hypotheses: an object by row, "0" being the first, as RadGraph writes it
    #[arg(long, value_name = "JSON", requires = "radgraph_references")]
    radgraph_hypotheses: Option<PathBuf>,
    /// RadGraph's annotations of the references
    #[arg(long, value_name = "JSON", requires = "radgraph_hypotheses")]
    radgraph_references: Option<PathBuf>,
    /// Scores of each row from elsewhere, for RadCliQ-v1: a table with columns bertscore and semb_score, as CXR-Report-Metric
    /// writes it, in the order of the texts
    #[arg(long, value_name = "CSV", requires = "radgraph_hypotheses")]
    report_scores: Option<PathBuf>,
}

/// A score that is not computed, and what it would need.
#[derive(Serialize)]
pub(super) struct NotComputed {
    pub(super) name: &'static str,
    pub(super) reason: &'static str,
}

/// The annotations of all rows.
pub(super) struct Annotations {
    graphs: Option<[Graphs; 2]>,
    scores: Option<ReportScores>,
}

/// RadGraph's annotations of a file.
struct Graphs {
    file: PathBuf,
    rows: HashMap<String, ReportGraph>,
}

/// Scores of each row from elsewhere.
struct ReportScores {
    file: PathBuf,
    /// The line of each row, and its cells as they stand: a row that is not scored may have none.
    rows: Vec<(u64, [String; 2])>,
}

impl Annotations {
    pub(super) fn open(args: &AnnotationArgs, is_rexrank: bool) -> anyhow::Result<Self> {
        let files = args
            .radgraph_hypotheses
            .as_deref()
            .zip(args.radgraph_references.as_deref());
        if files.is_some() && !is_rexrank {
            let message = "annotations are scored under --protocol rexrank";
            return Err(UsageError(message.to_owned()).into());
        }
        let graphs = match files {
            Some((hypotheses, references)) => Some([graphs(hypotheses)?, graphs(references)?]),
            None => None,
        };
        let scores = args.report_scores.as_deref().map(report_scores);
        Ok(Self {
            graphs,
            scores: scores.transpose()?,
        })
    }

    /// The number of scores of a row ([`Annotations::scores_of`]).
    pub(super) fn width(&self) -> usize {
        usize::from(self.graphs.is_some()) + usize::from(self.scores.is_some())
    }

    /// RadGraph F1 and RadCliQ-v1 of a row, counted from 0, whose BLEU-2 is known; those that have annotations.
    pub(super) fn scores_of(&self, row: u64, bleu_2: f64) -> anyhow::Result<Vec<f64>> {
        let Some([hypotheses, references]) = &self.graphs else {
            return Ok(Vec::new());
        };
        let radgraph_f1 = radgraph_f1(hypotheses.row(row)?, references.row(row)?);
        let mut found = vec![radgraph_f1];
        if let Some(scores) = &self.scores {
            let [bertscore, chexbert_similarity] = scores.row(row)?;
            found.push(radcliq_v1(&RadcliqParts {
                radgraph_f1,
                bertscore,
                chexbert_similarity,
                bleu_2,
            }));
        }
        Ok(found)
    }

    /// Refuses files that have more than this many rows, the number of texts: they are of other texts.
    pub(super) fn check(&self, texts: u64) -> Result<(), UsageError> {
        let graphs = self.graphs.iter().flatten();
        let counts = graphs.map(|graphs| (&graphs.file, graphs.rows.len()));
        let scores = self.scores.iter();
        let counts = counts.chain(scores.map(|scores| (&scores.file, scores.rows.len())));
        let more = counts.into_iter().find(|(_, count)| *count as u64 > texts);
        match more {
            None => Ok(()),
            Some((file, count)) => Err(UsageError(format!(
                "{} has {count} rows, and there are {texts} texts: give one a text, in the same order",
                file.display()
            ))),
        }
    }

    /// The scores of some rows, from the sums of [`Annotations::scores_of`] and their number.
    pub(super) fn scores(&self, sums: &[f64], rows: u64) -> Vec<TextScore> {
        let mut means = sums.iter().map(|sum| sum / rows as f64);
        let score = |name, value, better| TextScore {
            name,
            value,
            better,
        };
        let mut scores = Vec::new();
        if let Some(value) = means.next() {
            scores.push(score("RadGraph F1", value, Better::Higher));
        }
        if let Some(value) = means.next() {
            scores.push(score("RadCliQ-v1", value, Better::Lower));
            scores.push(score("1/RadCliQ-v1", 1.0 / value, Better::Higher));
        }
        scores
    }

    /// What ReXrank shows and is not among the scores.
    pub(super) fn not_computed(&self) -> Vec<NotComputed> {
        let radgraph = (
            "RadGraph F1",
            "give --radgraph-hypotheses and --radgraph-references",
        );
        let radcliq = (
            "RadCliQ-v1",
            "give --report-scores beside RadGraph's annotations",
        );
        let missing = [
            (self.graphs.is_none()).then_some(radgraph),
            (self.scores.is_none()).then_some(radcliq),
        ];
        let others = TextProtocol::Rexrank.not_computed();
        let missing = missing.into_iter().flatten();
        missing
            .chain(others.iter().copied())
            .map(|(name, reason)| NotComputed { name, reason })
            .collect()
    }
}

impl Graphs {
    fn row(&self, row: u64) -> anyhow::Result<&ReportGraph> {
        let graph = self.rows.get(&row.to_string());
        graph.with_context(|| {
            format!(
                "{} has no entry \"{row}\", the annotation of row {}",
                self.file.display(),
                row + 1
            )
        })
    }
}

fn graphs(file: &Path) -> anyhow::Result<Graphs> {
    let shown = file.display();
    let open = File::open(file).with_context(|| format!("cannot open {shown}"))?;
    let rows = serde_json::from_reader(BufReader::new(open))
        .with_context(|| format!("{shown} is no RadGraph JSON, an object of annotations by row"))?;
    Ok(Graphs {
        file: file.to_owned(),
        rows,
    })
}

impl ReportScores {
    fn row(&self, row: u64) -> anyhow::Result<[f64; 2]> {
        let shown = self.file.display();
        let (line, cells) = self
            .rows
            .get(row as usize)
            .with_context(|| format!("{shown} has no row {}: give one a text", row + 1))?;
        let number = |cell: &String| {
            let number = cell.trim().parse().ok().filter(|n: &f64| n.is_finite());
            number.with_context(|| format!("{shown} line {line}: {cell:?} is no number"))
        };
        Ok([number(&cells[0])?, number(&cells[1])?])
    }
}

fn report_scores(file: &Path) -> anyhow::Result<ReportScores> {
    let shown = file.display();
    let mut reader = csv::Reader::from_path(file).with_context(|| format!("cannot use {shown}"))?;
    let header = reader.headers()?.clone();
    let places = COLUMNS.map(|column| header.iter().position(|name| name == column));
    let [Some(bertscore), Some(semb_score)] = places else {
        bail!("{shown} has not both columns {COLUMNS:?}");
    };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| format!("cannot use {shown}"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |place: usize| record.get(place).unwrap_or_default().to_owned();
        rows.push((line, [cell(bertscore), cell(semb_score)]));
    }
    Ok(ReportScores {
        file: file.to_owned(),
        rows,
    })
}
