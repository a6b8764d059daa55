//! Scores of studies as rows of numbers in a file: a resample sums them up again and again, and memory does not grow with them.

use std::io;

use super::{CLASSES, StudyScores};
use crate::evaluation::comparisons::ComparisonCounts;
use crate::evaluation::number_rows::{NumberRows, NumberRowsWriter};
use crate::evaluation::severity::SeverityErrors;
use crate::evaluation::text_scores::protocol::TextCounts;

/// Numbers of a study: which of its scores there are, then all of them.
const WIDTH: usize =
    1 + TextCounts::WIDTH + 2 * ANSWERS + DISAGREEMENT + COMPARISONS + SINGLE + CLASSES;
/// Answers about all findings: what is known, what of it is true, and what was said.
const ANSWERS: usize = 3;
const DISAGREEMENT: usize = 2;
const COMPARISONS: usize = 4;
/// Agreement, RadGraph F1 and RadCliQ-v1.
const SINGLE: usize = 3;

/// Scores that are being stored.
pub(super) struct ScoresWriter(NumberRowsWriter);

/// The scores of each study, in the order of the corpus.
pub struct StoredScores(NumberRows);

impl ScoresWriter {
    pub(super) fn new() -> io::Result<Self> {
        NumberRowsWriter::new(WIDTH).map(Self)
    }

    pub(super) fn add(&mut self, study: &StudyScores) -> io::Result<()> {
        self.0.add(&numbers(study))
    }

    pub(super) fn finish(self) -> io::Result<StoredScores> {
        self.0.finish().map(StoredScores)
    }
}

impl StoredScores {
    /// The number of studies.
    pub fn len(&self) -> usize {
        self.0.rows()
    }

    /// Whether there is no study.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scores of a study, which must be there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, place: usize) -> io::Result<StudyScores> {
        Ok(study(&self.0.range(place..place + 1)?))
    }

    /// The scores of all studies, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<StudyScores>> + '_ {
        self.0.blocks().flat_map(|block| {
            let (studies, error) = match block {
                Ok((_, numbers)) => (numbers.chunks_exact(WIDTH).map(study).collect(), None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            studies.into_iter().map(Ok).chain(error)
        })
    }
}

/// A bit a finding.
fn bits(flags: &[bool; CLASSES]) -> f64 {
    let bit = |(class, flag): (usize, &bool)| u32::from(*flag) << class;
    f64::from(flags.iter().enumerate().map(bit).sum::<u32>())
}

fn flags(bits: f64) -> [bool; CLASSES] {
    std::array::from_fn(|class| bits as u32 >> class & 1 == 1)
}

fn answers(answers: &Option<([Option<bool>; CLASSES], [bool; CLASSES])>) -> [f64; ANSWERS] {
    let (truth, said) = answers.unwrap_or_default();
    let known = truth.map(|truth| truth.is_some());
    let holds = truth.map(|truth| truth == Some(true));
    [bits(&known), bits(&holds), bits(&said)]
}

fn numbers(study: &StudyScores) -> Vec<f64> {
    let is_there = [
        study.text.is_some(),
        study.report.is_some(),
        study.findings.is_some(),
        study.disagreement.is_some(),
        study.comparisons.is_some(),
        study.agreement.is_some(),
        study.radgraph_f1.is_some(),
        study.radcliq_v1.is_some(),
        study.probabilities.is_some(),
    ];
    let mut all_there = [false; CLASSES];
    all_there[..is_there.len()].copy_from_slice(&is_there);
    let mut numbers = vec![bits(&all_there)];
    numbers.extend(study.text.unwrap_or_default().row());
    numbers.extend(answers(&study.report));
    numbers.extend(answers(&study.findings));
    let (seen, stated) = study.disagreement.unwrap_or_default();
    numbers.extend([bits(&seen), bits(&stated)]);
    let counts = study.comparisons.unwrap_or_default();
    let counts = [
        counts.reports,
        counts.comparing_reports,
        counts.sentences,
        counts.comparing_sentences,
    ];
    numbers.extend(counts.map(|count| count as f64));
    let single = [study.agreement, study.radgraph_f1, study.radcliq_v1];
    numbers.extend(single.map(Option::unwrap_or_default));
    let probabilities = study.probabilities.unwrap_or_default();
    numbers.extend(probabilities.map(f64::from));
    numbers
}

fn study(numbers: &[f64]) -> StudyScores {
    let (first, rest) = numbers.split_at(1);
    let (text, rest) = rest.split_at(TextCounts::WIDTH);
    let mut rest = rest.iter().copied();
    let mut next = || rest.next().unwrap_or_default();
    let mut answers = || {
        let [known, holds, said] = std::array::from_fn(|_| flags(next()));
        let truth = std::array::from_fn(|class| known[class].then_some(holds[class]));
        (truth, said)
    };
    let (report, findings) = (answers(), answers());
    let disagreement = (flags(next()), flags(next()));
    let comparisons = ComparisonCounts {
        reports: next() as u64,
        comparing_reports: next() as u64,
        sentences: next() as u64,
        comparing_sentences: next() as u64,
    };
    let [agreement, radgraph_f1, radcliq_v1] = std::array::from_fn(|_| next());
    let probabilities = std::array::from_fn(|_| next() as f32);
    let mut is_there = flags(first[0]).into_iter();
    let mut is_there = || is_there.next().unwrap_or_default();
    let mut scores = StudyScores {
        text: is_there().then(|| TextCounts::of_row(text)),
        report: is_there().then_some(report),
        findings: is_there().then_some(findings),
        disagreement: is_there().then_some(disagreement),
        comparisons: is_there().then_some(comparisons),
        agreement: is_there().then_some(agreement),
        radgraph_f1: is_there().then_some(radgraph_f1),
        radcliq_v1: is_there().then_some(radcliq_v1),
        probabilities: is_there().then_some(probabilities),
        severity: None,
    };
    let severity = |(truth, said)| SeverityErrors::of(&truth, &said);
    scores.severity = scores.report.map(severity);
    scores
}

#[cfg(test)]
pub(super) fn stored(studies: &[StudyScores]) -> StoredScores {
    let mut rows = ScoresWriter::new().unwrap();
    studies.iter().for_each(|study| rows.add(study).unwrap());
    rows.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_as_they_were_stored() {
        let mut truth = [Some(false); CLASSES];
        (truth[1], truth[13]) = (None, Some(true));
        let mut said = [false; CLASSES];
        (said[0], said[5]) = (true, true);
        let whole = StudyScores {
            text: Some(TextCounts {
                texts: 1,
                rouge_l: 0.1 + 0.2,
                cider: 1.0 / 3.0,
                ..TextCounts::default()
            }),
            report: Some((truth, said)),
            severity: Some(SeverityErrors::of(&truth, &said)),
            comparisons: Some(ComparisonCounts::of("Unchanged. Clear.")),
            radgraph_f1: Some(0.7),
            radcliq_v1: Some(-0.3),
            findings: Some((truth.map(|_| Some(true)), said)),
            probabilities: Some(std::array::from_fn(|class| 1.0 / (class as f32 + 3.0))),
            disagreement: Some((said, [true; CLASSES])),
            agreement: Some(0.25),
        };
        let empty = StudyScores::default();
        let zero = StudyScores {
            agreement: Some(0.0),
            radgraph_f1: Some(0.0),
            ..StudyScores::default()
        };
        // More than are read at a time.
        let all: Vec<&StudyScores> = [&whole, &empty, &zero]
            .into_iter()
            .cycle()
            .take(600)
            .collect();
        let owned: Vec<StudyScores> = all.iter().map(|study| (*study).clone()).collect();
        let rows = stored(&owned);
        assert_eq!(rows.len(), 600);
        for (read, expected) in rows.iter().zip(&owned) {
            assert_eq!(&read.unwrap(), expected);
        }
        assert_eq!(rows.get(402).unwrap(), whole);
    }
}
