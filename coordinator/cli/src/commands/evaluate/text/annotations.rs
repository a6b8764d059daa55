//! Annotations of texts that models of others have made, and the scores that follow from them: RadGraph F1 and RadCliQ-v1.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use radialog_schemas::table::{TableError, TableReader};
use radialog_training::evaluation::corpus::{Corpus, plain_id};
use radialog_training::evaluation::radgraph::{
    GraphFile, INVERSE_RADCLIQ, RadcliqParts, ReportGraph, radcliq_v1, radgraph_f1,
};
use radialog_training::evaluation::text_scores::protocol::{Better, TextProtocol, TextScore};
use serde::Serialize;

use crate::exit::UsageError;
use crate::named_path::require;

/// The columns of `--report-scores`, by the names that CXR-Report-Metric gives them.
const COLUMNS: [&str; 2] = ["bertscore", "semb_score"];
/// Where annotations lie.
#[derive(Args)]
#[command(next_help_heading = "Annotations, for --protocol rexrank")]
pub(in crate::commands::evaluate) struct AnnotationArgs {
    /// RadGraph's annotations of the hypotheses: an object by row, "0" being the first, or an array, as the Python package radgraph
    /// makes them; for `evaluate report` also by study, as CXR-Report-Metric's pred_cache.json, or by path
    #[arg(long, value_name = "JSON", requires = "radgraph_references")]
    radgraph_hypotheses: Option<PathBuf>,
    /// RadGraph's annotations of the references
    #[arg(long, value_name = "JSON", requires = "radgraph_hypotheses")]
    radgraph_references: Option<PathBuf>,
    /// Scores of each row from elsewhere, for RadCliQ-v1: a table with columns bertscore and semb_score, as CXR-Report-Metric
    /// writes it, in the order of the texts, or with study_id
    #[arg(long, value_name = "CSV", requires = "radgraph_hypotheses")]
    report_scores: Option<PathBuf>,
}

impl AnnotationArgs {
    /// Whether any are named.
    pub(in crate::commands::evaluate) fn are_given(&self) -> bool {
        self.radgraph_hypotheses.is_some()
    }

    /// The files that are named.
    pub(in crate::commands::evaluate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let graphs = [&self.radgraph_hypotheses, &self.radgraph_references];
        graphs.into_iter().chain([&self.report_scores]).flatten()
    }
}

/// A score that is not computed, and what it would need.
#[derive(Serialize)]
pub(super) struct NotComputed {
    pub(super) name: &'static str,
    pub(super) reason: &'static str,
}

/// The annotations of all rows.
pub(in crate::commands::evaluate) struct Annotations {
    graphs: Option<[GraphFile; 2]>,
    scores: Option<ReportScores>,
}

/// Scores of each row from elsewhere.
struct ReportScores {
    file: PathBuf,
    /// The line of each row, and its cells as they stand: a row that is not scored may have none.
    rows: Vec<(u64, [String; 2])>,
    /// The places of rows by the ids of their studies, where the table has a column of those.
    ids: HashMap<String, usize>,
}

impl Annotations {
    pub(in crate::commands::evaluate) fn open(
        args: &AnnotationArgs,
        is_rexrank: bool,
    ) -> anyhow::Result<Self> {
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
        if let Some([hypotheses, references]) = &graphs
            && hypotheses.is_of_another_model(references)
        {
            let message = format!(
                "{} and {} have no kind of entity in common: annotate both with the same RadGraph",
                hypotheses.path().display(),
                references.path().display()
            );
            return Err(UsageError(message).into());
        }
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

    /// RadGraph F1 and RadCliQ-v1 of a row, counted from 0, whose BLEU-2 is known; those that have annotations. An empty text needs
    /// none: there is nothing in it.
    pub(super) fn scores_of(
        &self,
        row: u64,
        has_text: bool,
        bleu_2: f64,
    ) -> anyhow::Result<Vec<f64>> {
        let Some([hypotheses, references]) = &self.graphs else {
            return Ok(Vec::new());
        };
        let nothing = ReportGraph::default();
        let hypothesis = match hypotheses.of_row(row) {
            None if !has_text => &nothing,
            found => found.with_context(|| no_row(hypotheses, row))?,
        };
        let reference = references.of_row(row);
        let reference = reference.with_context(|| no_row(references, row))?;
        let radgraph_f1 = radgraph_f1(hypothesis, reference);
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
        let counts = graphs.map(|graphs| (graphs.path(), graphs.len()));
        let scores = self.scores.iter();
        let counts = counts.chain(scores.map(|scores| (scores.file.as_path(), scores.rows.len())));
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
            scores.push(score(INVERSE_RADCLIQ, 1.0 / value, Better::Higher));
        }
        scores
    }

    /// What to know of annotations that were not used: how many are of no study. Refuses those of texts without ids that are more than
    /// the texts.
    pub(in crate::commands::evaluate) fn unused(
        &self,
        corpus: &Corpus,
    ) -> anyhow::Result<Vec<String>> {
        if corpus.has_rows() {
            self.check(corpus.predictions)?;
            return Ok(Vec::new());
        }
        let studies = corpus.predictions as usize;
        let of_graphs = self.graphs.iter().flatten();
        let of_graphs = of_graphs.map(|graphs| (graphs.path(), graphs.len()));
        let of_scores = self.scores.iter();
        let of_scores = of_scores.map(|scores| (scores.file.as_path(), scores.rows.len()));
        let more = of_graphs
            .chain(of_scores)
            .filter(|(_, count)| *count > studies);
        let note = |(file, count): (&Path, usize)| {
            format!(
                "{} has {count} annotations, and there are {studies} predictions: others are not used",
                file.display()
            )
        };
        Ok(more.map(note).collect())
    }

    /// Whether there are any.
    pub(in crate::commands::evaluate) fn is_empty(&self) -> bool {
        self.graphs.is_none()
    }

    /// RadGraph F1 of a study, and its scores from elsewhere where there are any, by its id; a row without an id is `row N`. An empty
    /// report needs no annotation.
    pub(in crate::commands::evaluate) fn of_study(
        &self,
        id: &str,
        has_text: bool,
    ) -> Result<(f64, Option<[f64; 2]>), String> {
        let Some([hypotheses, references]) = &self.graphs else {
            return Err("there are no annotations".to_owned());
        };
        // Annotations of texts without ids are numbered from 0 on.
        let number = id
            .strip_prefix("row ")
            .and_then(|row| row.parse::<u64>().ok());
        let nothing = ReportGraph::default();
        let missing = |graphs: &GraphFile| {
            let file = graphs.path().display();
            match number {
                Some(row) => format!("{file} has no \"{}\"", row.saturating_sub(1)),
                None => format!("{file} has no \"{id}\""),
            }
        };
        let [hypothesis, reference] = [hypotheses, references].map(|graphs| match number {
            Some(row) => graphs.of_row(row.saturating_sub(1)),
            None => graphs.of_study(id),
        });
        let hypothesis = match hypothesis {
            None if !has_text => &nothing,
            found => found.ok_or_else(|| missing(hypotheses))?,
        };
        let reference = reference.ok_or_else(|| missing(references))?;
        let radgraph_f1 = radgraph_f1(hypothesis, reference);
        let similarities = match &self.scores {
            None => None,
            Some(scores) => {
                let by_number = number.map(|row| row.saturating_sub(1) as usize);
                let place = by_number.or_else(|| scores.ids.get(plain_id(id)).copied());
                let file = scores.file.display();
                let place = place.ok_or(format!("{file} has no row of it"))?;
                let found = scores.row(place as u64);
                Some(found.map_err(|error| error.to_string())?)
            }
        };
        Ok((radgraph_f1, similarities))
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

fn no_row(graphs: &GraphFile, row: u64) -> String {
    format!(
        "{} has no entry \"{row}\", the annotation of row {}; `radialog evaluate report` takes annotations by study",
        graphs.path().display(),
        row + 1
    )
}

fn graphs(file: &Path) -> anyhow::Result<GraphFile> {
    require(file, "it is RadGraph's JSON")?;
    Ok(GraphFile::read(file)?)
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
    require(file, "it is a table of scores, a row a text")?;
    let open = File::open(file).with_context(|| format!("cannot open {shown}"))?;
    let cannot_use = |error: TableError| anyhow!("cannot use {shown}: {}", error.with_line());
    let mut table = TableReader::new(BufReader::new(open)).map_err(cannot_use)?;
    let places = COLUMNS.map(|column| table.header().column(column));
    let [Some(bertscore), Some(semb_score)] = places else {
        let message = format!("{shown} has not both columns {COLUMNS:?}");
        return Err(UsageError(message).into());
    };
    let (mut rows, mut ids) = (Vec::new(), HashMap::new());
    let id = ["study_id", "id"]
        .iter()
        .find_map(|name| table.header().column(name));
    for row in table.by_ref() {
        let row = row.map_err(cannot_use)?;
        if let Some(id) = id.and_then(|column| row.cell(column))
            && ids.insert(plain_id(id).to_owned(), rows.len()).is_some()
        {
            let line = row.line;
            let message = format!("{shown} line {line}: a second row of '{id}': keep one");
            return Err(UsageError(message).into());
        }
        rows.push((
            row.line,
            [bertscore, semb_score].map(|place| row.text(place).to_owned()),
        ));
    }
    Ok(ReportScores {
        file: file.to_owned(),
        rows,
        ids,
    })
}
