//! Scores of generated reports beside references, study by study and of any selection of studies, so that all of them can be
//! resampled: intervals by bootstrap over patients, and two systems compared by exchanging their reports at random.

use radialog_schemas::{Finding, Label};
use rayon::prelude::*;
use serde::Serialize;

mod comparison;
mod metrics;
mod ranking;
mod resampling;
mod scored_patients;
mod set_asides;
mod stored_scores;
mod study;

pub use comparison::{Comparison, Unpaired, compare};
pub use metrics::{CALIBRATION_ERROR, Metric, MetricGroup, MetricSet};
pub use ranking::{ReliabilityBin, ReliabilityBins};
pub use scored_patients::ScoredPatients;
pub use set_asides::{SetAside, SetAsides};
pub use stored_scores::StoredScores;
pub use study::{StudyScores, Totals};

use self::stored_scores::ScoresWriter;
use super::bootstrap::{Estimate, Resampling};
use super::clinical::UncertainAs;
use super::corpus::{Corpus, MatchedStudy, Span, StoredTexts};
use super::counted_texts::{CountsFile, TextCounter};
use super::label_source::LabelSources;
use super::stored_rows::temporary;
use super::text_scores::cider::DocumentFrequencies;
use super::text_scores::protocol::{Better, TextCounts, TextProtocol, TextScorer};
use crate::error::TrainingError;
use crate::prepare::FindingLabels;

/// Number of findings.
const CLASSES: usize = Finding::ALL.len();
/// Studies that are scored between two messages of progress.
const CHUNK: usize = 512;

/// What a label that is not given counts as, where the truth comes from a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlankAs {
    /// Not there; but a finding that no row of the table has a label of is not scored.
    #[default]
    Auto,
    /// Not there, as in the original's test program.
    Negative,
    /// Not known, and not scored.
    Unknown,
}

/// How reports are scored.
#[derive(Clone)]
pub struct ScoreOptions {
    /// How texts are split, and which text scores are computed.
    pub scorer: TextScorer,
    /// What an uncertain label counts as, on both sides.
    pub uncertain: UncertainAs,
    /// What a missing label counts as.
    pub blank: BlankAs,
    /// How intervals and comparisons are drawn.
    pub resampling: Resampling,
    /// Where counts of texts are kept, so that an evaluation that is interrupted goes on; none: nowhere.
    pub counts: Option<CountsFile>,
}

impl ScoreOptions {
    /// The protocol of the text scores.
    pub fn protocol(&self) -> TextProtocol {
        self.scorer.protocol()
    }
}

/// The scores of a corpus: of each study, and of all with intervals.
pub struct ReportScores {
    /// In the order of the corpus.
    pub studies: StoredScores,
    /// Whose labels they are of.
    pub sources: LabelSources,
    /// All together.
    pub totals: Totals,
    /// How many patients the scores of each finding rest on.
    pub patients: ScoredPatients,
    /// Every score with its interval.
    pub metrics: Vec<Metric>,
    /// What the classifier's probabilities are worth.
    pub calibration: ReliabilityBins,
    /// Scores without the least consistent studies; none where the run has sampled no reports.
    pub set_asides: Option<SetAsides>,
    /// Texts that an evaluation had counted that was interrupted.
    pub resumed: u64,
}

/// Scores a corpus. `progress` hears how many studies are done. CIDEr looks at the references of the corpus, or of `beside`, with
/// which it is compared: scores by different references cannot be.
///
/// # Errors
/// A text cannot be read.
pub fn score(
    corpus: &Corpus,
    texts: &StoredTexts,
    beside: Option<(&Corpus, &StoredTexts)>,
    options: &ScoreOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<ReportScores, TrainingError> {
    let (of_corpus, of_texts) = beside.unwrap_or((corpus, texts));
    let frequencies = frequencies(of_corpus, options, &|span| read(of_texts, span))?;
    let counts = options.counts.as_ref();
    let mut counter = TextCounter::new(options.scorer.clone(), frequencies, counts)?;
    let studies = study_scores(corpus, texts, &mut counter, options, progress)?;
    let mut patients = Vec::with_capacity(corpus.studies.len());
    for study in corpus.studies.iter() {
        patients.push(study.map_err(temporary)?.patient);
    }
    let (mut totals, mut scored_patients) = (Totals::default(), ScoredPatients::default());
    for (study, patient) in studies.iter().zip(&patients) {
        let study = study.map_err(temporary)?;
        totals.add(&study);
        scored_patients.add(&study, *patient);
    }
    let sources = corpus.label_sources().map_err(temporary)?;
    let set = MetricSet::of(&totals, options, &sources);
    let estimates = resampling::estimates(&patients, &studies, &set, options);
    let set_asides = SetAsides::of(&patients, &studies, options, &sources);
    let metrics = set.metrics(&totals, &scored_patients, estimates.map_err(temporary)?);
    Ok(ReportScores {
        calibration: totals.calibration.clone().finish(),
        set_asides: set_asides.map_err(temporary)?,
        studies,
        totals,
        patients: scored_patients,
        metrics,
        sources,
        resumed: counter.taken(),
    })
}

fn study_scores(
    corpus: &Corpus,
    texts: &StoredTexts,
    counter: &mut TextCounter,
    options: &ScoreOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<StoredScores, TrainingError> {
    let truths = Truths::of(corpus, options);
    let read = |span: Option<Span>| read(texts, span);
    let mut scores = ScoresWriter::new().map_err(temporary)?;
    let mut done = 0;
    for studies in corpus.studies.chunks(CHUNK) {
        let studies = studies.map_err(temporary)?;
        let both = |study: &MatchedStudy| Ok([read(study.prediction)?, read(study.reference)?]);
        let texts: Result<Vec<[Option<String>; 2]>, TrainingError> =
            studies.par_iter().map(both).collect();
        let texts = texts?;
        let pairs = texts.iter().map(|[prediction, reference]| {
            let prediction = prediction.as_deref();
            prediction.zip(reference.as_deref())
        });
        let whole: Vec<(&str, &str)> = pairs.clone().flatten().collect();
        let mut counts = counter.count(&whole)?.into_iter();
        let counts: Vec<Option<TextCounts>> =
            pairs.map(|pair| pair.and_then(|_| counts.next())).collect();
        let scored = studies.par_iter().zip(&texts).zip(counts);
        let scored = scored.map(|((study, [prediction, _]), counts)| {
            StudyScores::of(study, prediction.as_deref(), counts, &truths)
        });
        for study in scored.collect::<Vec<StudyScores>>() {
            scores.add(&study).map_err(temporary)?;
            done += 1;
        }
        progress(done);
    }
    scores.finish().map_err(temporary)
}

fn read(texts: &StoredTexts, span: Option<Span>) -> Result<Option<String>, TrainingError> {
    let text = span.map(|span| texts.read(span)).transpose();
    text.map_err(temporary)
}

/// What CIDEr has to know of all references that are scored, before the first text is.
fn frequencies(
    corpus: &Corpus,
    options: &ScoreOptions,
    read: &(impl Fn(Option<Span>) -> Result<Option<String>, TrainingError> + Sync),
) -> Result<DocumentFrequencies, TrainingError> {
    let mut frequencies = DocumentFrequencies::default();
    if !options.protocol().has_cider() {
        return Ok(frequencies);
    }
    for studies in corpus.studies.chunks(CHUNK) {
        let both = |study: &&MatchedStudy| study.prediction.is_some();
        let studies = studies.map_err(temporary)?;
        let references: Result<Vec<Option<String>>, TrainingError> = studies
            .iter()
            .filter(both)
            .map(|study| read(study.reference))
            .collect();
        let references: Vec<String> = references?.into_iter().flatten().collect();
        options
            .protocol()
            .add_references(&references, &mut frequencies);
    }
    Ok(frequencies)
}

/// How labels become true or not.
pub struct Truths {
    uncertain: UncertainAs,
    blank: BlankAs,
    /// Findings that are not scored.
    unlabelled: Vec<Finding>,
}

impl Truths {
    fn of(corpus: &Corpus, options: &ScoreOptions) -> Self {
        Self {
            uncertain: options.uncertain,
            blank: options.blank,
            unlabelled: match options.blank {
                BlankAs::Negative => Vec::new(),
                _ => corpus.unlabelled.clone(),
            },
        }
    }

    /// What is true, as far as it is known. Only a table can leave something unknown.
    fn truth(&self, labels: &FindingLabels, is_of_table: bool) -> [Option<bool>; CLASSES] {
        Finding::ALL.map(|finding| match labels[finding as usize] {
            _ if is_of_table && self.unlabelled.contains(&finding) => None,
            Label::Blank if is_of_table && self.blank == BlankAs::Unknown => None,
            label => Some(self.uncertain.is_present(label)),
        })
    }

    fn present(&self, labels: &FindingLabels) -> [bool; CLASSES] {
        labels.map(|label| self.uncertain.is_present(label))
    }
}
