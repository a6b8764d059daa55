//! Texts of one side or of two beside the radiologist's, by the original's protocol, and how sure their scores are. Counts lie in a
//! file, so that memory does not grow with the texts; a number for each one's patient stays.

use rayon::prelude::*;

use super::PairedEstimate;
use crate::error::TrainingError;
use crate::evaluation::bootstrap::{Bootstrap, Estimate, Resampling, ScoreEstimate};
use crate::evaluation::counted_texts::{CountsFile, TextCounter};
use crate::evaluation::stored_rows::temporary;
use crate::evaluation::summed_rows::SummedRows;
use crate::evaluation::text_scores::cider::DocumentFrequencies;
use crate::evaluation::text_scores::protocol::{TextCounts, TextScorer};

/// Texts of `SIDES` sides about the same studies.
pub struct AnsweredTexts<const SIDES: usize> {
    counter: TextCounter,
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
    /// Texts that an evaluation had counted that was interrupted.
    pub resumed: u64,
    /// The first two sides and their difference; empty where there is one side.
    pub paired: Vec<PairedEstimate>,
}

/// The scores of one study's texts, side by side, in the order of [`TextScorer::scores`].
pub type TextsScores<const SIDES: usize> = [Vec<f64>; SIDES];

/// The texts of a study, one a side, the radiologist's, and a number for the patient.
pub type AnsweredText<const SIDES: usize> = ([String; SIDES], String, u32);

impl<const SIDES: usize> AnsweredTexts<SIDES> {
    /// No texts yet. The protocol is one without CIDEr, which would look at all references first. Counts are kept in the file
    /// where one is named.
    ///
    /// # Errors
    /// No temporary file can be created, or the file cannot be used.
    pub fn new(scorer: TextScorer, counts: Option<&CountsFile>) -> Result<Self, TrainingError> {
        Ok(Self {
            counter: TextCounter::new(scorer, DocumentFrequencies::default(), counts)?,
            rows: SummedRows::new(SIDES * TextCounts::WIDTH).map_err(temporary)?,
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
    ) -> Result<Vec<Option<TextsScores<SIDES>>>, TrainingError> {
        let protocol = self.counter.scorer().protocol();
        let is_counted = |(texts, reference, _): &AnsweredText<SIDES>| {
            let mut texts = texts.iter();
            !texts.any(|text| protocol.is_too_long(text, reference))
        };
        let are_counted: Vec<bool> = texts.par_iter().map(is_counted).collect();
        let counted = texts
            .iter()
            .zip(&are_counted)
            .filter(|(_, counted)| **counted);
        let pairs = counted.flat_map(|((texts, reference, _), _)| {
            let sides = texts.each_ref();
            sides.map(|text| (text.as_str(), reference.as_str()))
        });
        let mut counts = self.counter.count(&pairs.collect::<Vec<_>>())?.into_iter();
        let mut scores = Vec::with_capacity(texts.len());
        for ((_, _, patient), is_counted) in texts.iter().zip(are_counted) {
            if !is_counted {
                self.too_long += 1;
                scores.push(None);
                continue;
            }
            let sides: [TextCounts; SIDES] =
                std::array::from_fn(|_| counts.next().unwrap_or_default());
            let row: Vec<f64> = sides.iter().flat_map(TextCounts::row).collect();
            self.rows.add(&row).map_err(temporary)?;
            self.patients.push(*patient);
            let of_side = |counts: &TextCounts| {
                let scores = self.counter.scorer().scores(counts);
                scores.iter().map(|score| score.value).collect()
            };
            scores.push(Some(sides.each_ref().map(of_side)));
        }
        Ok(scores)
    }

    /// Computes the scores of all texts.
    ///
    /// # Errors
    /// The temporary file cannot be written or read.
    pub fn estimates(self, resampling: Resampling) -> Result<SideEstimates<SIDES>, TrainingError> {
        let Self {
            counter,
            rows,
            patients,
            too_long,
        } = self;
        let scorer = counter.scorer();
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
        let estimates = rows.estimates(&bootstrap, values).map_err(temporary)?;
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
            resumed: counter.taken(),
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
        let mut texts = AnsweredTexts::<2>::new(scorer(), None).unwrap();
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
        let texts = AnsweredTexts::<1>::new(scorer(), None).unwrap();
        let estimates = texts.estimates(Resampling::default()).unwrap();
        assert!(estimates.sides[0].is_empty() && estimates.paired.is_empty());
    }
}
