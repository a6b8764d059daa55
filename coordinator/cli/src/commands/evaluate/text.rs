//! `radialog evaluate text`: text scores of plain files, without a model.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow};
use clap::Args;
use radialog_schemas::counted;
use radialog_training::evaluation::bootstrap::{Bootstrap, Resampling, ScoreEstimate};
use radialog_training::evaluation::radgraph::{INVERSE_RADCLIQ, inverse_of};
use radialog_training::evaluation::summed_rows::SummedRows;
use radialog_training::evaluation::text_rows::TextRows;
use radialog_training::evaluation::text_scores::cider::DocumentFrequencies;
use radialog_training::evaluation::text_scores::meteor::{Meteor, MeteorData};
use radialog_training::evaluation::text_scores::protocol::{
    TextCounts, TextProtocol, TextScore, TextScorer,
};
use serde::Serialize;

use self::annotations::{AnnotationArgs, Annotations, NotComputed};
use super::ProtocolName;
use super::estimates::print_estimates;
use super::resampling::ResamplingArgs;
use crate::exit::UsageError;
use crate::named_path::{require, require_meteor, require_stored};

pub(super) mod annotations;

/// Texts that are in memory at a time.
const CHUNK: usize = 2048;
/// What is said of a row whose texts are too long.
const TOO_LONG_REMARK: &str = "skipped: text and reference are too long to compare: over 4,194,304 pairs of words, as 2,048 beside 2,048, or \
                               over 65,536 pairs of words that may match, as one word 257 times beside 256";
/// Remarks that are printed; `--json` has all.
const PRINTED: usize = 20;

/// Score texts beside reference texts: BLEU, METEOR, ROUGE-L and CIDEr as papers report them
///
/// Both files are CSV without a header, one text a row, in the same order. A hypothesis that is missing (empty, or what pandas reads as
/// missing, as nan, NA, N/A, NULL, None; any other text is one) is scored (0); a row whose reference is, is skipped. What was scored
/// and skipped is counted, and named with its line.
///
/// Protocols: radialog-2023 splits texts as RaDialog's own test program does (NLTK, lower case). coco-caption splits them as the
/// caption toolkit does (Stanford's PTB tokenizer, without punctuation), and has CIDEr on top. rexrank has ReXrank's BLEU-2, the
/// mean of that of each text. Scores of different protocols cannot be compared.
///
/// With --meteor, METEOR 1.5 is computed as papers do: name meteor-1.5.jar or its folder, which hold its function words,
/// abbreviations, synonyms and paraphrases; `pip install pycocoevalcap` brings both. Java is not needed. Without it, words match
/// by exact form and stem and all weigh alike, and the printed name says so.
///
/// ReXrank's other scores need models of others. RadGraph F1 and RadCliQ-v1 are computed from what such models have written; the rest
/// is named as not computed.
///
/// Each score has a 95 % interval: a bootstrap over the texts, of whom no patient is known.
///
/// Files are read row by row, and what scores are sums of lies in a temporary file, so that their size does not matter; CIDEr alone
/// keeps a number for each different run of words of the references.
///
/// Examples:
///
/// radialog evaluate text --hypotheses generated.csv --references findings.csv
///
/// radialog evaluate text --hypotheses generated.csv --references findings.csv --protocol coco-caption --meteor
/// site-packages/pycocoevalcap/meteor --json
#[derive(Args)]
pub(super) struct TextArgs {
    /// Generated texts
    #[arg(long, value_name = "CSV")]
    hypotheses: PathBuf,
    /// Reference texts
    #[arg(long, value_name = "CSV")]
    references: PathBuf,
    /// How texts are split, and which scores are computed
    #[arg(long, value_enum, default_value_t = ProtocolName::Radialog2023)]
    protocol: ProtocolName,
    /// METEOR's data: meteor-1.5.jar, or the folder that has it and data/paraphrase-en.gz
    #[arg(long, value_name = "JAR|DIR")]
    meteor: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    resampling: ResamplingArgs,
    #[command(flatten)]
    annotations: AnnotationArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Scores {
    protocol: TextProtocol,
    scored: u64,
    /// Scored, as texts without a word.
    empty_hypotheses: u64,
    skipped: u64,
    /// Rows that were skipped, or have an empty hypothesis or no annotation.
    remarks: Vec<Remark>,
    /// How the intervals were made.
    intervals: String,
    scores: Vec<ScoreEstimate>,
    /// What papers that use the protocol show on top.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_computed: Vec<NotComputed>,
}

/// A row that is not as the others.
#[derive(Serialize)]
struct Remark {
    hypothesis_line: u64,
    reference_line: u64,
    remark: &'static str,
}

/// Rows of both files, side by side.
struct Pairs<'a> {
    args: &'a TextArgs,
    hypotheses: TextRows,
    references: TextRows,
    read: u64,
}

/// A hypothesis and its reference, each with its line.
type Pair = [(u64, String); 2];

pub(super) fn run(args: &TextArgs) -> anyhow::Result<ExitCode> {
    let protocol = args.protocol.protocol();
    let is_rexrank = protocol == TextProtocol::Rexrank;
    if is_rexrank && args.meteor.is_some() {
        let message = "--protocol rexrank has no METEOR: leave --meteor out";
        return Err(UsageError(message.to_owned()).into());
    }
    for path in [&args.hypotheses, &args.references] {
        require(path, "it is a CSV without a header, one text a row")?;
        if protocol.has_cider() {
            require_stored(path)?;
        }
    }
    if !args.hypotheses.is_file() && is_one(&args.hypotheses, &args.references)? {
        let shown = args.hypotheses.display();
        let message = format!(
            "--hypotheses and --references are one pipe, '{shown}': write one of them to a file first"
        );
        return Err(UsageError(message).into());
    }
    if let Some(path) = &args.meteor {
        require_meteor(path)?;
    }
    let annotations = Annotations::open(&args.annotations, is_rexrank)?;
    // METEOR's data takes a second or two, in which CIDEr can look at the references.
    let place = args.meteor.clone();
    let data = place.map(|place| thread::spawn(move || MeteorData::read(&place)));
    let mut frequencies = DocumentFrequencies::default();
    if protocol.has_cider() {
        look_at_references(args, protocol, &mut frequencies)?;
    }
    let data = match data {
        Some(data) => {
            let read = data.join();
            let read = read.map_err(|_| anyhow!("the thread that reads METEOR's data has died"))?;
            Some(Arc::new(read?))
        }
        None => None,
    };
    let scorer = TextScorer::new(protocol, Meteor::new(data));
    let mut found = Scores {
        protocol,
        scored: 0,
        empty_hypotheses: 0,
        skipped: 0,
        remarks: Vec::new(),
        intervals: args.resampling.resampling().words("texts", 0, 0),
        scores: Vec::new(),
        not_computed: Vec::new(),
    };
    let mut pairs = Pairs::open(args)?;
    let width = TextCounts::WIDTH + annotations.width();
    let mut rows = SummedRows::new(width).map_err(kept)?;
    let mut chunk: Vec<(String, String)> = Vec::with_capacity(CHUNK);
    // The rows of a chunk, by which annotations are found, with the lines of both texts.
    let mut places: Vec<(u64, [u64; 2])> = Vec::with_capacity(CHUNK);
    loop {
        let number = pairs.read;
        let pair = pairs.next()?;
        if let Some(pair) = &pair
            && let Some(texts) = found.examined(pair)
        {
            chunk.push(texts);
            places.push((number, pair.each_ref().map(|(line, _)| *line)));
        }
        if chunk.len() == CHUNK || pair.is_none() {
            let texts = scorer.counts_with(&chunk, &frequencies);
            let texts = texts.iter().zip(&chunk);
            for ((number, lines), (text, (hypothesis, _))) in places.drain(..).zip(texts) {
                let (has_text, bleu_2) = (!hypothesis.is_empty(), text.smoothed_bleu_2);
                let mut row = text.row();
                let annotated = annotations.of_row(number, has_text, bleu_2)?;
                row.extend(annotated.numbers);
                rows.add(&row).map_err(kept)?;
                found
                    .remarks
                    .extend(annotated.remark.map(|remark| Remark::of(lines, remark)));
            }
            chunk.clear();
        }
        if pair.is_none() {
            break;
        }
    }
    if found.scored == 0 {
        return Err(UsageError(format!(
            "{}: none of the {} rows has a reference",
            args.references.display(),
            pairs.read
        ))
        .into());
    }
    annotations.check(pairs.read)?;
    annotations.check_rows(pairs.read)?;
    let all = |sums: &[f64]| -> Vec<TextScore> {
        let counts = TextCounts::of_row(sums);
        let mut scores = scorer.scores(&counts);
        scores.extend(annotations.scores(&sums[TextCounts::WIDTH..]));
        scores
    };
    found.scores = estimates(rows, args.resampling.resampling(), all).map_err(kept)?;
    found.not_computed = annotations.not_computed(protocol);
    found.print(args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The scores of the sums of all rows, with intervals over the rows.
fn estimates(
    rows: SummedRows,
    resampling: Resampling,
    scores: impl Fn(&[f64]) -> Vec<TextScore> + Sync,
) -> io::Result<Vec<ScoreEstimate>> {
    let each: Vec<u32> = (0..rows.rows() as u32).collect();
    let bootstrap = Bootstrap::of_streams(&each, resampling);
    // Names are those of any sum.
    let names = scores(&vec![1.0; rows.width()]);
    let mut estimates = rows.estimates(&bootstrap, |sums| {
        scores(sums).iter().map(|score| score.value).collect()
    })?;
    let is_inverse = |score: &TextScore| score.name == INVERSE_RADCLIQ;
    if let Some(place) = names.iter().position(is_inverse) {
        // It follows what it is the inverse of.
        estimates[place] = inverse_of(estimates[place - 1], estimates[place]);
    }
    let named = names.into_iter().zip(estimates);
    let score = |(TextScore { name, better, .. }, estimate): (TextScore, _)| ScoreEstimate {
        name: name.to_owned(),
        better,
        estimate,
    };
    Ok(named.map(score).collect())
}

/// Whether two paths lead to one file, or one pipe.
fn is_one(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let place = |path: &Path| {
        let found = fs::metadata(path).with_context(|| format!("cannot use {}", path.display()))?;
        anyhow::Ok((found.dev(), found.ino()))
    };
    Ok(place(one)? == place(other)?)
}

fn kept(error: io::Error) -> anyhow::Error {
    anyhow!(error).context("cannot keep counts in a temporary file")
}

/// Counts in how many references each run of words is. References that are not scored do not count.
fn look_at_references(
    args: &TextArgs,
    protocol: TextProtocol,
    frequencies: &mut DocumentFrequencies,
) -> anyhow::Result<()> {
    let mut pairs = Pairs::open(args)?;
    let mut chunk: Vec<String> = Vec::with_capacity(CHUNK);
    loop {
        let pair = pairs.next()?;
        let is_over = pair.is_none();
        if let Some(pair) = pair.filter(|pair| skipped(pair, protocol).is_none()) {
            let [_, (_, reference)] = pair;
            chunk.push(reference);
        }
        if chunk.len() == CHUNK || is_over {
            protocol.add_references(&chunk, frequencies);
            chunk.clear();
        }
        if is_over {
            return Ok(());
        }
    }
}

/// Why a pair is not scored; none where it is.
fn skipped(
    [(_, hypothesis), (_, reference)]: &Pair,
    protocol: TextProtocol,
) -> Option<&'static str> {
    if is_missing(reference) {
        return Some("skipped: the reference is empty");
    }
    let is_too_long = protocol.is_too_long(hypothesis, reference);
    is_too_long.then_some(TOO_LONG_REMARK)
}

impl<'a> Pairs<'a> {
    fn open(args: &'a TextArgs) -> anyhow::Result<Self> {
        Ok(Self {
            args,
            hypotheses: rows(&args.hypotheses)?,
            references: rows(&args.references)?,
            read: 0,
        })
    }

    /// The next pair; none where both files are over.
    fn next(&mut self) -> anyhow::Result<Option<Pair>> {
        let hypothesis = self.hypotheses.next().transpose();
        let hypothesis = hypothesis.map_err(|error| unusable(&self.args.hypotheses, error))?;
        let reference = self.references.next().transpose();
        let reference = reference.map_err(|error| unusable(&self.args.references, error))?;
        match (hypothesis, reference) {
            (None, None) => Ok(None),
            (Some(hypothesis), Some(reference)) => {
                self.read += 1;
                Ok(Some([hypothesis, reference]))
            }
            (hypothesis, reference) => {
                let rest = |rows: &mut TextRows, row: Option<_>| {
                    self.read + u64::from(row.is_some()) + rows.count() as u64
                };
                let counts = [
                    rest(&mut self.hypotheses, hypothesis),
                    rest(&mut self.references, reference),
                ];
                let message = format!(
                    "{} has {} rows and {} has {}: give one text a row, without a header, in the same order",
                    self.args.hypotheses.display(),
                    counts[0],
                    self.args.references.display(),
                    counts[1]
                );
                Err(UsageError(message).into())
            }
        }
    }
}

impl Remark {
    fn of([hypothesis_line, reference_line]: [u64; 2], remark: &'static str) -> Self {
        Self {
            hypothesis_line,
            reference_line,
            remark,
        }
    }
}

impl Scores {
    /// The pair to score; none where it has no reference.
    fn examined(&mut self, pair: &Pair) -> Option<(String, String)> {
        let [hypothesis, reference] = pair;
        let lines = [hypothesis.0, reference.0];
        let mut remark = |remark| self.remarks.push(Remark::of(lines, remark));
        if let Some(reason) = skipped(pair, self.protocol) {
            remark(reason);
            self.skipped += 1;
            return None;
        }
        self.scored += 1;
        if is_missing(&hypothesis.1) {
            remark("scored as an empty text: the hypothesis is empty");
            self.empty_hypotheses += 1;
            return Some((String::new(), reference.1.clone()));
        }
        Some((hypothesis.1.clone(), reference.1.clone()))
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            outln!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        outln!(
            "{} scored ({} of them empty), {} skipped; protocol {}",
            counted(self.scored, "text", "texts"),
            self.empty_hypotheses,
            self.skipped,
            self.protocol.name()
        );
        for Remark {
            hypothesis_line,
            reference_line,
            remark,
        } in self.remarks.iter().take(PRINTED)
        {
            outln!("  line {hypothesis_line} (reference: line {reference_line}): {remark}");
        }
        if self.remarks.len() > PRINTED {
            let more = self.remarks.len() - PRINTED;
            outln!("  and {more} more, which --json names");
        }
        outln!("{}", self.intervals);
        print_estimates(&self.scores);
        for NotComputed { name, reason } in &self.not_computed {
            outln!("  {name:<40} not computed: {reason}");
        }
        Ok(())
    }
}

/// Whether a cell holds no text, as everywhere in tables.
fn is_missing(text: &str) -> bool {
    radialog_schemas::table::cell(text).is_none()
}

fn rows(file: &Path) -> anyhow::Result<TextRows> {
    TextRows::open(file).map_err(|error| unusable(file, error))
}

/// The error of a file of texts: where it is the file's content that is at fault, to try again changes nothing.
fn unusable(file: &Path, error: csv::Error) -> anyhow::Error {
    let message = format!("cannot use {}", file.display());
    let of_content = match error.kind() {
        csv::ErrorKind::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => true,
    };
    match of_content {
        true => UsageError(format!("{message}: {error}")).into(),
        false => anyhow!(error).context(message),
    }
}
