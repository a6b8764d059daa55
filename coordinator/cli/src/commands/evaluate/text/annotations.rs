//! Annotations of texts that models of others have made, and the scores that follow from them: RadGraph F1 and RadCliQ-v1.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use radialog_schemas::table::{TableError, TableReader};
use radialog_training::evaluation::corpus::{Corpus, FaultKind, StudyAnnotation, plain_id};
use radialog_training::evaluation::radgraph::{
    AmbiguousName, GraphFile, INVERSE_RADCLIQ, RadcliqParts, ReportGraph, radcliq_v1, radgraph_f1,
};
use radialog_training::evaluation::text_scores::protocol::{Better, TextProtocol, TextScore};
use serde::Serialize;

use crate::exit::UsageError;
use crate::named_path::require;

/// The columns of `--report-scores`, by the names that CXR-Report-Metric gives them.
const COLUMNS: [&str; 2] = ["bertscore", "semb_score"];
/// Numbers of a score of a row: whether it is there, and its value.
const COUNTED: usize = 2;
/// What is said of a row whose report has no annotation.
const REPORT_REMARK: &str =
    "the hypothesis has no annotation: it counts as one in which RadGraph found nothing";
/// What is said of a row whose reference has none.
const REFERENCE_REMARK: &str = "the reference has no annotation: the row has no RadGraph F1";
/// What is said of a row that several annotations may be of.
const AMBIGUOUS_REMARK: &str =
    "several annotations go by the row's number: the row has no RadGraph F1";

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

/// What a row comes to by its annotations.
#[derive(Default)]
pub(super) struct RowScores {
    /// Numbers whose sums are those of several rows.
    pub(super) numbers: Vec<f64>,
    /// What is wrong with its annotations.
    pub(super) remark: Option<&'static str>,
}

/// RadGraph F1 of a report, where it can be computed, and what its annotations lack.
struct Annotated {
    radgraph_f1: Option<f64>,
    gap: Option<Gap>,
}

/// What annotations lack.
enum Gap {
    /// One of the report, which has a text.
    Report,
    /// One of the reference.
    Reference,
    /// One that is of this report and no other.
    Ambiguous,
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

    /// The numbers of a row ([`RowScores::numbers`]).
    pub(super) fn width(&self) -> usize {
        COUNTED * (usize::from(self.graphs.is_some()) + usize::from(self.scores.is_some()))
    }

    /// What a row, counted from 0, comes to whose BLEU-2 is known.
    ///
    /// A report without an annotation counts as one in which RadGraph found nothing, as in CXR-Report-Metric, whose program annotates
    /// no empty text; without one of the reference there is no score.
    pub(super) fn of_row(
        &self,
        row: u64,
        has_text: bool,
        bleu_2: f64,
    ) -> anyhow::Result<RowScores> {
        let Some([hypotheses, references]) = &self.graphs else {
            return Ok(RowScores::default());
        };
        let graphs = [hypotheses.of_row(row), references.of_row(row)];
        let found = Annotated::of(graphs, has_text);
        let remark = found.gap.map(|gap| match gap {
            Gap::Report => REPORT_REMARK,
            Gap::Reference => REFERENCE_REMARK,
            Gap::Ambiguous => AMBIGUOUS_REMARK,
        });
        let counted =
            |score: Option<f64>| [f64::from(u8::from(score.is_some())), score.unwrap_or(0.0)];
        let mut numbers = counted(found.radgraph_f1).to_vec();
        if let Some(scores) = &self.scores {
            let [bertscore, chexbert_similarity] = scores.row(row)?;
            let radcliq = |radgraph_f1| {
                radcliq_v1(&RadcliqParts {
                    radgraph_f1,
                    bertscore,
                    chexbert_similarity,
                    bleu_2,
                })
            };
            numbers.extend(counted(found.radgraph_f1.map(radcliq)));
        }
        Ok(RowScores { numbers, remark })
    }

    /// Refuses annotations of reports of which none is of the rows that were read: they are of others, and all of them would count as
    /// reports in which nothing was found.
    pub(super) fn check_rows(&self, rows: u64) -> Result<(), UsageError> {
        let Some([hypotheses, _]) = &self.graphs else {
            return Ok(());
        };
        let found = (0..rows).any(|row| matches!(hypotheses.of_row(row), Ok(Some(_))));
        match found {
            true => Ok(()),
            false => Err(of_others(hypotheses, "\"0\" being the first row")),
        }
    }

    /// The same, of a corpus.
    pub(in crate::commands::evaluate) fn check_studies(
        &self,
        corpus: &Corpus,
    ) -> anyhow::Result<()> {
        let Some([hypotheses, _]) = &self.graphs else {
            return Ok(());
        };
        let mut is_any = false;
        for study in corpus.studies.iter() {
            let id = study.context("cannot read the studies")?.id;
            if matches!(graph_of(hypotheses, &id), Ok(Some(_))) {
                return Ok(());
            }
            is_any = true;
        }
        match is_any {
            true => Err(of_others(hypotheses, "by row or by study").into()),
            false => Ok(()),
        }
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

    /// The scores of some rows, from the sums of their numbers ([`RowScores::numbers`]).
    pub(super) fn scores(&self, sums: &[f64]) -> Vec<TextScore> {
        let mut means = sums.chunks_exact(COUNTED).map(|of| of[1] / of[0]);
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

    /// What others have computed of a study, by its id; a row without an id is `row N`. What is not there is named, as in
    /// [`Annotations::of_row`].
    pub(in crate::commands::evaluate) fn of_study(
        &self,
        id: &str,
        has_text: bool,
    ) -> StudyAnnotation {
        let Some([hypotheses, references]) = &self.graphs else {
            return StudyAnnotation::default();
        };
        let graphs = [hypotheses, references].map(|graphs| graph_of(graphs, id));
        let found = Annotated::of(graphs, has_text);
        let row = row_of(id);
        let name = row.map_or_else(|| id.to_owned(), |row| row.to_string());
        let missing = |graphs: &GraphFile| format!("{} has no \"{name}\"", graphs.path().display());
        let mut faults: Vec<(FaultKind, String)> = Vec::new();
        faults.extend(found.gap.map(|gap| match gap {
            Gap::Report => (FaultKind::UnannotatedReport, missing(hypotheses)),
            Gap::Reference => (FaultKind::NotAnnotated, missing(references)),
            Gap::Ambiguous => {
                let detail = format!("several annotations go by \"{name}\"");
                (FaultKind::NotAnnotated, detail)
            }
        }));
        let of_scores = |scores: &ReportScores| {
            let by_id = || scores.ids.get(plain_id(id)).map(|place| *place as u64);
            let place = row.or_else(by_id);
            let place =
                place.ok_or_else(|| format!("{} has no row of it", scores.file.display()))?;
            scores.row(place).map_err(|error| error.to_string())
        };
        let similarities = match &self.scores {
            Some(scores) if found.radgraph_f1.is_some() => match of_scores(scores) {
                Ok(similarities) => Some(similarities),
                Err(detail) => {
                    faults.push((FaultKind::NotAnnotated, detail));
                    None
                }
            },
            _ => None,
        };
        StudyAnnotation {
            radgraph_f1: found.radgraph_f1,
            similarities,
            faults,
        }
    }

    /// What papers that use this protocol show and is not among the scores.
    pub(super) fn not_computed(&self, protocol: TextProtocol) -> Vec<NotComputed> {
        let radgraph = (
            "RadGraph F1",
            "give --radgraph-hypotheses and --radgraph-references",
        );
        let radcliq = (
            "RadCliQ-v1",
            "give --report-scores beside RadGraph's annotations",
        );
        let is_rexrank = protocol == TextProtocol::Rexrank;
        let missing = [
            (is_rexrank && self.graphs.is_none()).then_some(radgraph),
            (is_rexrank && self.scores.is_none()).then_some(radcliq),
        ];
        let others = protocol.not_computed();
        let missing = missing.into_iter().flatten();
        missing
            .chain(others.iter().copied())
            .map(|(name, reason)| NotComputed { name, reason })
            .collect()
    }
}

impl Annotated {
    /// Compares the annotations of a report, which may have no text, and of its reference.
    fn of(graphs: [Result<Option<&ReportGraph>, AmbiguousName>; 2], has_text: bool) -> Self {
        let [Ok(hypothesis), Ok(reference)] = graphs else {
            return Self {
                radgraph_f1: None,
                gap: Some(Gap::Ambiguous),
            };
        };
        let Some(reference) = reference else {
            return Self {
                radgraph_f1: None,
                gap: Some(Gap::Reference),
            };
        };
        let gap = (hypothesis.is_none() && has_text).then_some(Gap::Report);
        let nothing = ReportGraph::default();
        Self {
            radgraph_f1: Some(radgraph_f1(hypothesis.unwrap_or(&nothing), reference)),
            gap,
        }
    }
}

/// The number of a text without an id, as annotations count them: from 0 on.
fn row_of(id: &str) -> Option<u64> {
    let row = id.strip_prefix("row ")?.parse::<u64>().ok()?;
    Some(row.saturating_sub(1))
}

fn graph_of<'a>(graphs: &'a GraphFile, id: &str) -> Result<Option<&'a ReportGraph>, AmbiguousName> {
    match row_of(id) {
        Some(row) => graphs.of_row(row),
        None => graphs.of_study(id),
    }
}

fn of_others(graphs: &GraphFile, how: &str) -> UsageError {
    UsageError(format!(
        "{} has an annotation of none of the reports: name those of these reports, {how}",
        graphs.path().display()
    ))
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
    let column = |name: &str| match table.header().namesakes(name).is_empty() {
        true => Ok(table.header().column(name)),
        false => Err(UsageError(format!(
            "{shown} has several columns '{name}': leave one of them, or name the others otherwise, and run again"
        ))),
    };
    let [Some(bertscore), Some(semb_score)] = [column(COLUMNS[0])?, column(COLUMNS[1])?] else {
        let message = format!("{shown} has not both columns {COLUMNS:?}");
        return Err(UsageError(message).into());
    };
    let (mut rows, mut ids) = (Vec::new(), HashMap::new());
    let id = match column("study_id")? {
        Some(id) => Some(id),
        None => column("id")?,
    };
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
