//! Reports written from images alone, held against the labels that were published for the images. There are no reports
//! of these images, so that the question is whether a report says more about its own image than about another one.

use radialog_schemas::Finding;

use super::agreement::{
    CLASSES, Flags, LabelPair, ScoreFunction, balanced_accuracy, few, macro_balanced_accuracy,
    macro_f1, measured_f1, several_have_one, several_on_both_sides, study_f1, with_both_answers,
};
use super::networks::DialogRequest;
use super::score_table::{ScoreCell, ScoreSection, ScoreTable};
use super::statements;
use super::{Evaluator, GeneratedText, QualityPart, flags};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::{Bootstrap, Estimate, permutation_test, shuffled};
use crate::random::Random;

/// Shufflings of each resample, for the interval of the difference.
const SHUFFLES: usize = 10;

/// Whether resamples vary in a score of some findings, as [`ScoreCell::measured`] asks.
type Varies = fn(&[LabelPair], &[Finding], &Bootstrap) -> bool;

/// The scores by which reports and labels are compared.
const SCORES: [(&str, ScoreFunction, Varies); 4] = [
    (
        "balanced accuracy",
        macro_balanced_accuracy,
        several_on_both_sides,
    ),
    (
        "normal or not, balanced accuracy",
        normal_or_not,
        |pairs, _, resamples| several_on_both_sides(pairs, &[Finding::NoFinding], resamples),
    ),
    ("F1 of an image's labels", study_f1, |_, _, _| true),
    ("macro F1", macro_f1, several_have_one),
];

/// Balanced accuracy of "No Finding".
fn normal_or_not(pairs: &[LabelPair], at: &[usize], _: &[Finding]) -> Option<f64> {
    balanced_accuracy(pairs, at, Finding::NoFinding)
}

/// All that a comparison needs.
struct Comparison<'a> {
    pairs: &'a [LabelPair],
    findings: &'a [Finding],
    /// The table of each image: images change places within it only.
    tables: &'a [usize],
    resamples: &'a Bootstrap,
    seed: u64,
}

pub(super) fn measure(evaluator: &mut Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let images = evaluator.images()?;
    let paths: Vec<_> = images.iter().map(|image| &image.path).collect();
    let networks = &evaluator.networks;
    let predicted = networks.classify(&paths)?;
    let tokens = networks.embed(&paths)?;
    let ask = |(report, tokens): (&radialog_schemas::FindingsReport, _)| {
        networks.ask_report(&report.text, tokens)
    };
    let questions: Vec<DialogRequest> = predicted
        .iter()
        .zip(&tokens)
        .map(ask)
        .collect::<Result<_, _>>()?;
    let texts = networks.answer("reports from images", &questions)?;
    let prediction = flags(&networks.label(&texts)?);
    let in_prompt: Vec<Flags> = predicted.iter().map(statements::requested).collect();

    let truths: Vec<_> = images.iter().map(|image| image.truth()).collect();
    let findings = with_both_answers(&truths);
    let patients: Vec<&String> = images.iter().map(|image| &image.patient).collect();
    let tables: Vec<usize> = images.iter().map(|image| image.table).collect();
    let seed = evaluator.quality.seed;
    let resamples = Bootstrap::new(&patients, seed, "images");
    let pairs_of = |prediction: &[Flags]| {
        truths
            .iter()
            .zip(prediction)
            .map(|(&truth, &prediction)| LabelPair { truth, prediction })
            .collect::<Vec<_>>()
    };
    let pairs = pairs_of(&prediction);
    let comparison = Comparison {
        pairs: &pairs,
        findings: &findings,
        tables: &tables,
        resamples: &resamples,
        seed,
    };
    let normal = Finding::ALL.map(|finding| finding == Finding::NoFinding);
    let others = [
        ("report", pairs.clone()),
        ("findings in the request", pairs_of(&in_prompt)),
        ("always normal", pairs_of(&vec![normal; images.len()])),
        (
            "always every finding",
            pairs_of(&vec![[true; CLASSES]; images.len()]),
        ),
    ];
    let tables = vec![
        comparison.shuffled(),
        comparison.beside(&others),
        comparison.each_finding(),
        statements::table(&in_prompt, [("report", &texts[..])], &resamples),
    ];
    let cautions = few("labels of the images", &pairs, &resamples);
    let cautions = cautions.into_iter().collect();
    let notes = vec![
        format!(
            "{} images; image -> findings and image tokens -> report -> labels by the bundle's CheXbert, held against the \
             {} labels published for the images that some have and others have not. Those were mined from text and are often \
             wrong.",
            images.len(),
            findings.len()
        ),
        "Shuffled: the same reports with images exchanged at random within each table, so that telling the tables apart is \
         worth nothing. p: one-sided, 1000 permutations, as if all images were of different patients; intervals draw patients."
            .to_owned(),
        "Balanced accuracy: mean of sensitivity and specificity, one half by chance. F1 of an image's labels: mean over \
         images, 1 where neither side has any."
            .to_owned(),
        statements::NOTE.to_owned(),
    ];
    let writings = images
        .iter()
        .zip(predicted)
        .zip(texts)
        .map(|((image, report), text)| GeneratedText {
            part: QualityPart::Image,
            id: image.name(),
            findings: report.text,
            asked: None,
            reference: None,
            text,
            right: None,
        });
    evaluator.texts.extend(writings);
    Ok(ScoreSection {
        reliability: Vec::new(),
        cautions,
        title: "Reports from images".into(),
        notes,
        tables,
    })
}

impl Comparison<'_> {
    fn score(&self, score: ScoreFunction, at: &[usize]) -> Option<f64> {
        score(self.pairs, at, self.findings)
    }

    /// The score of the images at `at` with the reports at `partners`.
    fn exchanged(&self, score: ScoreFunction, at: &[usize], partners: &[usize]) -> Option<f64> {
        let mix = |(&image, &other): (&usize, &usize)| LabelPair {
            prediction: self.pairs[other].prediction,
            ..self.pairs[image]
        };
        let pairs: Vec<LabelPair> = at.iter().zip(partners).map(mix).collect();
        score(&pairs, &(0..pairs.len()).collect::<Vec<_>>(), self.findings)
    }

    fn shuffled(&self) -> ScoreTable {
        let mut table = ScoreTable::new(
            "its own image or another",
            &["report", "shuffled", "difference", "p"],
        );
        let order: Vec<usize> = (0..self.pairs.len()).collect();
        for (name, score, varies) in SCORES {
            let varies = varies(self.pairs, self.findings, self.resamples);
            let cell = |estimate: Estimate| match varies {
                true => ScoreCell::Measured(estimate),
                false => ScoreCell::Fixed(estimate.value),
            };
            let own = self.resamples.measure(|at| self.score(score, at));
            let test = permutation_test(self.tables, self.seed, name, |partners| {
                self.exchanged(score, &order, partners)
            });
            // The value of the difference is that of all permutations; a resample makes do with a few.
            let spread = self.resamples.measure(|at| {
                let mut random = Random::stream(self.seed, &format!("{name} {at:?}"));
                let others = (0..SHUFFLES).filter_map(|_| {
                    self.exchanged(score, at, &shuffled(self.tables, at, &mut random))
                });
                // Of the resample alone, as the exchanged: both means are over the same findings.
                Some(self.exchanged(score, at, at)? - super::agreement::mean(others)?)
            });
            let cells = match (own, test, spread) {
                (Some(own), Some(test), Some(spread)) => {
                    let difference = Estimate {
                        value: own.value - test.shuffled,
                        ..spread
                    };
                    [
                        cell(own),
                        ScoreCell::Fixed(test.shuffled),
                        cell(difference),
                        ScoreCell::Fixed(test.p),
                    ]
                }
                _ => [ScoreCell::Undefined; 4],
            };
            table.row(name, cells);
        }
        table
    }

    fn beside(&self, others: &[(&str, Vec<LabelPair>)]) -> ScoreTable {
        let mut table = ScoreTable::new(
            "beside what needs no report",
            &SCORES.map(|(name, ..)| name),
        );
        for (name, pairs) in others {
            let cell = |(_, score, varies): (&str, ScoreFunction, Varies)| {
                let varies = varies(pairs, self.findings, self.resamples);
                ScoreCell::measured(self.resamples, varies, |at| score(pairs, at, self.findings))
            };
            table.row(*name, SCORES.map(cell));
        }
        table
    }

    fn each_finding(&self) -> ScoreTable {
        let mut table = ScoreTable::new(
            "each finding",
            &["positive", "said", "balanced accuracy", "F1"],
        );
        for &finding in self.findings {
            let class = finding as usize;
            let positive = self
                .pairs
                .iter()
                .filter(|pair| pair.truth[class] == Some(true))
                .count();
            let prediction = self
                .pairs
                .iter()
                .filter(|pair| pair.truth[class].is_some() && pair.prediction[class])
                .count();
            let varies = several_on_both_sides(self.pairs, &[finding], self.resamples);
            let balanced = ScoreCell::measured(self.resamples, varies, |at| {
                balanced_accuracy(self.pairs, at, finding)
            });
            table.row(
                finding.name(),
                [
                    positive.into(),
                    prediction.into(),
                    balanced,
                    measured_f1(self.pairs, finding, self.resamples),
                ],
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the cell has an interval; it has a value.
    fn has_interval(cell: ScoreCell) -> bool {
        match cell {
            ScoreCell::Measured(of) => of.interval().is_some(),
            ScoreCell::Fixed(_) => false,
            other => panic!("{other:?}"),
        }
    }

    /// Whether each score has an interval in the tables of images of twelve patients, of whom so many have edema and as many no
    /// finding, and of whose reports each is right.
    fn intervals(patients: usize) -> Vec<[bool; 3]> {
        let pair = |image: usize| {
            let flags = Finding::ALL.map(|finding| match finding {
                Finding::Edema => image < patients,
                Finding::NoFinding => (patients..2 * patients).contains(&image),
                _ => false,
            });
            LabelPair::known(flags, flags)
        };
        let pairs: Vec<LabelPair> = (0..12).map(pair).collect();
        let resamples = Bootstrap::new(&(0..12).collect::<Vec<usize>>(), 1, "test");
        let comparison = Comparison {
            pairs: &pairs,
            findings: &[Finding::NoFinding, Finding::Edema],
            tables: &[0; 12],
            resamples: &resamples,
            seed: 1,
        };
        let (shuffled, beside) = (
            comparison.shuffled(),
            comparison.beside(&[("report", pairs.clone())]),
        );
        let rows = shuffled.rows.iter().zip(SCORES);
        rows.map(|(row, (name, ..))| {
            let beside = beside.rows[0].scores[name];
            [row.scores["report"], row.scores["difference"], beside].map(has_interval)
        })
        .collect()
    }

    #[test]
    fn what_rests_on_one_patient_has_no_interval_in_any_table() {
        // The F1 of an image's labels is defined of each image.
        let (none, all) = ([false; 3], [true; 3]);
        assert_eq!(intervals(1), [none, none, all, none]);
        assert_eq!(intervals(4), [all; 4]);
    }
}
