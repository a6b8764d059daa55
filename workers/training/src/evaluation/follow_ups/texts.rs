//! Texts of one side or of two beside the radiologist's, by the original's protocol, and how sure their scores are. Counts lie in a
//! file, so that memory does not grow with the texts; a number for each one's patient stays.

use std::io;

use rayon::prelude::*;

use super::PairedEstimate;
use crate::evaluation::bootstrap::{Bootstrap, Estimate, Resampling, ScoreEstimate};
use crate::evaluation::summed_rows::SummedRows;
use crate::evaluation::text_scores::cider::DocumentFrequencies;
use crate::evaluation::text_scores::protocol::{TextCounts, TextScorer};

/// Texts of `SIDES` sides about the same studies.
pub struct AnsweredTexts<const SIDES: usize> {
    scorer: TextScorer,
    rows: SummedRows,
    patients: Vec<u32>,
    too_long: u64,
}

/// The scores of each side with intervals, and those of two sides beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct SideEstimates<const SIDES: usize> {
    /// The scores of each side; empty where there is no text.
    pub sides: [Vec<ScoreEstimate>; SIDES],
    /// Texts that were not scored, since they are too long to compare with their reference.
    pub too_long: u64,
    /// The first two sides and their difference; empty where there is one side.
    pub paired: Vec<PairedEstimate>,
}

/// The scores of one study's texts, side by side, in the order of [`TextScorer::scores`].
pub type TextsScores<const SIDES: usize> = [Vec<f64>; SIDES];

/// The texts of a study, one a side, the radiologist's, and a number for the patient.
pub type AnsweredText<const SIDES: usize> = ([String; SIDES], String, u32);

impl<const SIDES: usize> AnsweredTexts<SIDES> {
    /// No texts yet. The protocol is one without CIDEr, which would look at all references first.
    ///
    /// # Errors
    /// No temporary file can be created.
    pub fn new(scorer: TextScorer) -> io::Result<Self> {
        Ok(Self {
            scorer,
            rows: SummedRows::new(SIDES * TextCounts::WIDTH)?,
            patients: Vec::new(),
            too_long: 0,
        })
    }

    /// Adds texts, counting on all cores, and returns the scores of each study's alone; none where they are too long.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(
        &mut self,
        texts: &[AnsweredText<SIDES>],
    ) -> io::Result<Vec<Option<TextsScores<SIDES>>>> {
        let protocol = self.scorer.protocol();
        let frequencies = DocumentFrequencies::default();
        let count = |(texts, reference, _): &AnsweredText<SIDES>| {
            if texts
                .iter()
                .any(|text| protocol.is_too_long(text, reference))
            {
                return None;
            }
            let counts = texts.each_ref();
            Some(counts.map(|text| self.scorer.counts(text, reference, &frequencies)))
        };
        let counts: Vec<Option<[TextCounts; SIDES]>> = texts.par_iter().map(count).collect();
        for (counts, (_, _, patient)) in counts.iter().zip(texts) {
            let Some(sides) = counts else {
                self.too_long += 1;
                continue;
            };
            let row: Vec<f64> = sides.iter().flat_map(TextCounts::row).collect();
            self.rows.add(&row)?;
            self.patients.push(*patient);
        }
        let scores = |counts: &TextCounts| {
            let scores = self.scorer.scores(counts);
            scores.iter().map(|score| score.value).collect()
        };
        let scores = |sides: [TextCounts; SIDES]| sides.each_ref().map(scores);
        Ok(counts.into_iter().map(|sides| sides.map(scores)).collect())
    }

    /// Computes the scores of all texts.
    ///
    /// # Errors
    /// The temporary file cannot be written or read.
    pub fn estimates(self, resampling: Resampling) -> io::Result<SideEstimates<SIDES>> {
        let Self {
            scorer,
            rows,
            patients,
            too_long,
        } = self;
        let scores = |sums: &[f64], side: usize| {
            let row = &sums[side * TextCounts::WIDTH..];
            scorer.scores(&TextCounts::of_row(row))
        };
        // Any text shows which scores there are.
        let one = TextCounts {
            texts: 1,
            ..TextCounts::default()
        };
        let known = match rows.rows() {
            0 => Vec::new(),
            _ => scorer.scores(&one),
        };
        let values = |sums: &[f64]| {
            let side = |side| scores(sums, side).into_iter().map(|score| score.value);
            let mut values: Vec<f64> = (0..SIDES).flat_map(side).collect();
            values.resize(SIDES * known.len(), f64::NAN);
            if SIDES > 1 {
                let (first, second) = values.split_at(known.len());
                let differences = first
                    .iter()
                    .zip(second)
                    .map(|(first, second)| second - first);
                let differences: Vec<f64> = differences.collect();
                values.extend(differences);
            }
            values
        };
        let bootstrap = Bootstrap::of_streams(&patients, resampling);
        let estimates = rows.estimates(&bootstrap, values)?;
        let at = |part: usize, place: usize| -> Option<Estimate> {
            estimates.get(part * known.len() + place).copied().flatten()
        };
        let side = |side| -> Vec<ScoreEstimate> {
            let places = known.iter().enumerate();
            let score = places.map(|(place, score)| ScoreEstimate {
                name: score.name.to_owned(),
                better: score.better,
                estimate: at(side, place),
            });
            score.collect()
        };
        let paired = known.iter().enumerate().filter_map(|(place, score)| {
            let parts = [0, 1, SIDES].map(|part| at(part, place));
            PairedEstimate::of(score.name, None, parts)
        });
        Ok(SideEstimates {
            sides: std::array::from_fn(side),
            too_long,
            paired: match SIDES {
                2 => paired.collect(),
                _ => Vec::new(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::text_scores::meteor::Meteor;
    use crate::evaluation::text_scores::protocol::TextProtocol;

    fn scorer() -> TextScorer {
        TextScorer::new(TextProtocol::Radialog2023, Meteor::new(None))
    }

    #[test]
    fn scores_of_both_sides_are_those_of_their_texts_and_the_difference_is_drawn_in_pairs() {
        let mut texts = AnsweredTexts::<2>::new(scorer()).unwrap();
        let all: Vec<AnsweredText<2>> = (0..20)
            .map(|study| {
                let reference = format!("The heart is large. Study {study}.");
                let worse = match study % 3 {
                    0 => "Clear.".to_owned(),
                    _ => reference.clone(),
                };
                ([worse, reference.clone()], reference, study)
            })
            .collect();
        let first = texts.add(&all[..7]).unwrap();
        let alone = first[1].as_ref().unwrap();
        assert_eq!(alone[0], alone[1], "the same text on both sides");
        texts.add(&all[7..]).unwrap();
        let estimates = texts.estimates(Resampling::default()).unwrap();
        let pairs: Vec<(&str, &str)> = all
            .iter()
            .map(|(sides, reference, _)| (sides[0].as_str(), reference.as_str()))
            .collect();
        let mut together = TextCounts::default();
        let counted = scorer().counts_of_all(&pairs);
        counted.iter().for_each(|text| together.add(text));
        for (score, estimate) in scorer().scores(&together).iter().zip(&estimates.sides[0]) {
            assert_eq!(score.name, estimate.name);
            assert_eq!(Some(score.value), estimate.estimate.map(|of| of.value));
        }
        for of in &estimates.paired {
            assert!(of.difference.low > 0.0, "{of:?}");
            let difference = of.second.value - of.first.value;
            assert!((of.difference.value - difference).abs() < 1e-12);
        }
        assert_eq!(estimates.paired.len(), 6);
    }

    #[test]
    fn without_texts_there_are_no_scores() {
        let texts = AnsweredTexts::<1>::new(scorer()).unwrap();
        let estimates = texts.estimates(Resampling::default()).unwrap();
        assert!(estimates.sides[0].is_empty() && estimates.paired.is_empty());
    }
}
