//! The findings classifier on images of patients that it never saw.

use std::collections::BTreeSet;

use radialog_schemas::{Finding, FindingsReport, Label, counted};

use super::agreement::{
    CLASSES, LabelPair, few, fewest_patients, mean_of_findings, measured_macro_f1,
    several_on_both_sides, with_both_answers,
};
use super::score_table::{Reliability, ScoreCell, ScoreSection, ScoreTable};
use super::studies::{self, LabelledTestImage};
use super::{Evaluator, TRAIN};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::calibration::brier;
use crate::evaluation::classification::{FEW, auc};
use crate::evaluation::report_scores::ReliabilityBins;
use crate::evaluation::subgroups::Subgroup;

/// An image with what is known and what was predicted.
#[derive(Clone)]
struct Predicted {
    patient: String,
    /// What the table knows of it.
    labels: [Option<bool>; CLASSES],
    /// What is known of the findings that the bundle assesses, and what it calls present.
    pair: LabelPair,
    /// None of what the bundle does not assess.
    probabilities: [Option<f32>; CLASSES],
    groups: Vec<Subgroup>,
}

/// The probabilities of what is known of an image, with what is true.
fn answers(image: &Predicted) -> impl Iterator<Item = (f64, bool)> {
    let cells = image.probabilities.iter().zip(image.pair.truth);
    cells.filter_map(|(probability, truth)| Some((f64::from((*probability)?), truth?)))
}

pub(super) fn measure(evaluator: &Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let images = evaluator.images()?;
    let trained = studies::images_if_any(&evaluator.quality.images, TRAIN)?;
    let paths: Vec<_> = images.iter().map(|image| &image.path).collect();
    let predictions = evaluator.networks.classify(&paths)?;
    let mut overview = ScoreTable::new(
        "all findings",
        &[
            "images",
            "patients",
            "findings",
            "macro AUC",
            "macro F1",
            "Brier",
        ],
    );
    let mut tables = Vec::new();
    let mut notes = vec![
        "Of each finding that some of the images have and others have not. AUC: the share of pairs of an image with the \
         finding and one without that are in order; 0.5 is chance, and is what any constant gives. F1: present over the bundle's \
         thresholds, one half where it has none. Brier: the mean squared distance of probabilities from what is true, mean over the \
         findings; lower is better."
            .to_owned(),
        "The prior predicts for every image how often the finding is in the training split of the same tables.".to_owned(),
    ];
    let uncertain = images.iter().flat_map(|image| image.labels);
    let uncertain = uncertain.filter(|label| *label == Label::Uncertain).count();
    if uncertain > 0 {
        notes.push(format!(
            "{} left out: nobody knows what is there.",
            counted(uncertain, "label of -1 is", "labels of -1 are")
        ));
    }
    let (mut reliability, mut cautions) = (Vec::new(), Vec::new());
    let count = evaluator.quality.images.len();
    let sets = (0..count).map(|table| (evaluator.table_name(table), Some(table)));
    let together = (count > 1).then(|| ("together".to_owned(), None));
    for (name, table) in sets.chain(together) {
        let of_set = |image: &&LabelledTestImage| table.is_none_or(|table| image.table == table);
        let chosen = images
            .iter()
            .zip(&predictions)
            .filter(|(image, _)| of_set(image));
        let predicted: Vec<Predicted> = chosen
            .map(|(image, report)| predicted(image, report))
            .collect();
        let priors = priors(trained.iter().filter(of_set));
        notes.extend(
            priors
                .is_none()
                .then(|| format!("{name}: the table has no training images: there is no prior.")),
        );
        if table.is_some() {
            cautions.extend(also_trained(&name, &images, &trained, of_set));
        }
        let pairs: Vec<LabelPair> = predicted.iter().map(|image| image.pair).collect();
        let truths: Vec<_> = pairs.iter().map(|pair| pair.truth).collect();
        let classes = with_both_answers(&truths);
        let resamples = Bootstrap::new(
            &predicted
                .iter()
                .map(|image| &image.patient)
                .collect::<Vec<_>>(),
            evaluator.quality.seed,
            &format!("findings {name}"),
        );
        overview_rows(
            &mut overview,
            &name,
            &predicted,
            priors.as_ref(),
            &classes,
            &resamples,
        );
        tables.push(each_finding(&name, &predicted, priors.as_ref(), &resamples));
        let (groups, few_in_groups) =
            subgroups(&name, &predicted, &classes, evaluator.quality.seed);
        tables.extend(groups);
        let answers = predicted.iter().flat_map(answers);
        cautions.extend(not_assessed(&name, &predicted));
        reliability.push(Reliability {
            name: name.clone(),
            calibration: ReliabilityBins::of(answers),
        });
        cautions.extend(few(&name, &pairs, &resamples));
        cautions.extend(few_in_groups);
        let known = |finding: &Finding| {
            truths
                .iter()
                .any(|truth| truth[*finding as usize].is_some())
        };
        let without: Vec<&str> = Finding::ALL
            .into_iter()
            .filter(|finding| known(finding) && !classes.contains(finding))
            .map(Finding::name)
            .collect();
        if !without.is_empty() {
            notes.push(format!(
                "{name}: no image, or every image, has {}: not scored.",
                without.join(", ")
            ));
        }
    }
    tables.insert(0, overview);
    Ok(ScoreSection {
        reliability,
        title: "Findings of images".into(),
        notes,
        cautions,
        tables,
    })
}

fn predicted(image: &LabelledTestImage, report: &FindingsReport) -> Predicted {
    let cell = |finding: Finding| {
        report
            .findings
            .iter()
            .find(|predicted| predicted.finding == finding)
    };
    let probabilities =
        Finding::ALL.map(|finding| cell(finding).and_then(|found| found.probability));
    let labels = image.truth();
    let mut truth = labels;
    for (truth, probability) in truth.iter_mut().zip(probabilities) {
        *truth = truth.filter(|_| probability.is_some());
    }
    let prediction = Finding::ALL.map(|finding| cell(finding).is_some_and(|found| found.present));
    Predicted {
        patient: image.patient.clone(),
        labels,
        pair: LabelPair { truth, prediction },
        probabilities,
        groups: image.groups.clone(),
    }
}

/// The share of the images on which each finding is there, of those where it is known; none without images.
fn priors<'a>(images: impl Iterator<Item = &'a LabelledTestImage>) -> Option<[f64; CLASSES]> {
    let mut counts = [(0_u32, 0_u32); CLASSES];
    let mut any = false;
    for image in images {
        any = true;
        for ((there, known), truth) in counts.iter_mut().zip(image.truth()) {
            *there += u32::from(truth == Some(true));
            *known += u32::from(truth.is_some());
        }
    }
    let share = |(there, known): (u32, u32)| f64::from(there) / f64::from(known.max(1));
    any.then(|| counts.map(share))
}

/// Says how many patients of the split that is scored have training images in the same table.
fn also_trained(
    name: &str,
    images: &[LabelledTestImage],
    trained: &[LabelledTestImage],
    of_set: impl Fn(&&LabelledTestImage) -> bool,
) -> Option<String> {
    let both = studies::shared_patients(
        images.iter().filter(&of_set),
        trained.iter().filter(&of_set),
    );
    (both > 0).then(|| {
        let patients = counted(
            both,
            "patient of this split has",
            "patients of this split have",
        );
        format!("{name}: {patients} training images, too: the figures are too good.")
    })
}

/// Names the findings that the table has labels of and the bundle says nothing about.
fn not_assessed(name: &str, predicted: &[Predicted]) -> Option<String> {
    let is_left_out = |finding: &Finding| {
        let class = *finding as usize;
        predicted
            .iter()
            .any(|image| image.labels[class].is_some() && image.probabilities[class].is_none())
    };
    let names: Vec<&str> = Finding::ALL
        .into_iter()
        .filter(is_left_out)
        .map(Finding::name)
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "{name}: not assessed by this bundle: {}: not scored.",
            names.join(", ")
        )
    })
}

fn auc_of(predicted: &[Predicted], at: &[usize], finding: Finding) -> Option<f64> {
    let class = finding as usize;
    let cell = |&item: &usize| {
        Some((
            predicted[item].probabilities[class]?,
            predicted[item].pair.truth[class]?,
        ))
    };
    auc(&at.iter().filter_map(cell).collect::<Vec<_>>())
}

fn brier_of(predicted: &[Predicted], at: &[usize], finding: Finding) -> Option<f64> {
    let class = finding as usize;
    let cell = |&item: &usize| {
        let image = &predicted[item];
        Some((
            f64::from(image.probabilities[class]?),
            image.pair.truth[class]?,
        ))
    };
    brier(at.iter().filter_map(cell))
}

/// The Brier score of a probability that is the same for every image.
fn brier_of_prior(
    predicted: &[Predicted],
    at: &[usize],
    finding: Finding,
    prior: f64,
) -> Option<f64> {
    let cell = |&item: &usize| Some((prior, predicted[item].pair.truth[finding as usize]?));
    brier(at.iter().filter_map(cell))
}

/// Mean AUC over findings; without an interval where none of them has one.
fn macro_auc(
    predicted: &[Predicted],
    pairs: &[LabelPair],
    classes: &[Finding],
    resamples: &Bootstrap,
) -> ScoreCell {
    let varies = several_on_both_sides(pairs, classes, resamples);
    ScoreCell::measured(resamples, varies, |at| {
        mean_of_findings(classes, at, predicted.len(), |at, finding| {
            auc_of(predicted, at, finding)
        })
    })
}

/// Mean Brier score over findings, of what `brier` gives for some images; without an interval where none of them has one.
fn mean_brier(
    pairs: &[LabelPair],
    classes: &[Finding],
    resamples: &Bootstrap,
    brier: impl Fn(&[usize], Finding) -> Option<f64> + Sync,
) -> ScoreCell {
    let mut each = classes.iter();
    let varies = each.any(|finding| is_known_of_several(pairs, *finding, resamples));
    ScoreCell::measured(resamples, varies, |at| {
        mean_of_findings(classes, at, pairs.len(), &brier)
    })
}

/// Whether it is known of more than one patient if they have a finding, as far as the bundle assesses it.
fn is_known_of_several(pairs: &[LabelPair], finding: Finding, resamples: &Bootstrap) -> bool {
    resamples.groups_with(|image| pairs[image].truth[finding as usize].is_some()) > 1
}

/// The scores of the images of each sex, age, view and source, as far as the table names them, and which of these groups have
/// too few patients.
fn subgroups(
    name: &str,
    predicted: &[Predicted],
    classes: &[Finding],
    seed: u64,
) -> (Option<ScoreTable>, Option<String>) {
    let mut few: Vec<String> = Vec::new();
    let mut table = ScoreTable::new(
        &format!("{name}: subgroups"),
        &[
            "images",
            "patients",
            "findings",
            "macro AUC",
            "macro F1",
            "Brier",
        ],
    );
    let groups: BTreeSet<&Subgroup> = predicted.iter().flat_map(|image| &image.groups).collect();
    for group in groups {
        let is_one = |image: &&Predicted| image.groups.contains(group);
        let of_group: Vec<&Predicted> = predicted.iter().filter(is_one).collect();
        let of_group: Vec<Predicted> = of_group.into_iter().cloned().collect();
        let truths: Vec<_> = of_group.iter().map(|image| image.pair.truth).collect();
        let both = with_both_answers(&truths);
        let scored: Vec<Finding> = classes
            .iter()
            .copied()
            .filter(|class| both.contains(class))
            .collect();
        let patients: Vec<&String> = of_group.iter().map(|image| &image.patient).collect();
        let label = group.words();
        let resamples = Bootstrap::new(&patients, seed, &format!("findings {name} {label}"));
        let pairs: Vec<LabelPair> = of_group.iter().map(|image| image.pair).collect();
        let area = macro_auc(&of_group, &pairs, &scored, &resamples);
        let f1 = measured_macro_f1(&pairs, &scored, &resamples);
        let distance = mean_brier(&pairs, &scored, &resamples, |at, finding| {
            brier_of(&of_group, at, finding)
        });
        let fewest = |finding: &Finding| fewest_patients(&pairs, *finding, &resamples);
        if scored.iter().any(|finding| fewest(finding) < FEW) {
            few.push(label.clone());
        }
        let counts = [
            of_group.len(),
            patients.iter().collect::<BTreeSet<_>>().len(),
            scored.len(),
        ];
        let scores = [area, f1, distance];
        table.row(label, counts.map(ScoreCell::from).into_iter().chain(scores));
    }
    let caution = (!few.is_empty()).then(|| {
        format!(
            "{name}: fewer than {FEW} patients with, or without, some of the findings in {}: the means of these subgroups are \
             chance as much as quality, and intervals over so few are too narrow.",
            few.join(", ")
        )
    });
    ((!table.rows.is_empty()).then_some(table), caution)
}

fn overview_rows(
    overview: &mut ScoreTable,
    name: &str,
    predicted: &[Predicted],
    priors: Option<&[f64; CLASSES]>,
    classes: &[Finding],
    resamples: &Bootstrap,
) {
    let patients: BTreeSet<&String> = predicted.iter().map(|image| &image.patient).collect();
    let counts = || {
        [
            ScoreCell::from(predicted.len()),
            ScoreCell::from(patients.len()),
            ScoreCell::from(classes.len()),
        ]
    };
    let pairs: Vec<LabelPair> = predicted.iter().map(|image| image.pair).collect();
    let area = macro_auc(predicted, &pairs, classes, resamples);
    let distance = mean_brier(&pairs, classes, resamples, |at, finding| {
        brier_of(predicted, at, finding)
    });
    let f1 = |pairs: &[LabelPair]| measured_macro_f1(pairs, classes, resamples);
    overview.row(
        format!("{name}: classifier"),
        counts().into_iter().chain([area, f1(&pairs), distance]),
    );
    let always = |prediction: [bool; CLASSES]| {
        pairs
            .iter()
            .map(|pair| LabelPair {
                prediction,
                ..*pair
            })
            .collect::<Vec<_>>()
    };
    if let Some(priors) = priors {
        let prior = always(priors.map(|prior| prior > 0.5));
        let distance = mean_brier(&pairs, classes, resamples, |at, finding| {
            brier_of_prior(predicted, at, finding, priors[finding as usize])
        });
        overview.row(
            format!("{name}: prior"),
            counts()
                .into_iter()
                .chain([ScoreCell::Fixed(0.5), f1(&prior), distance]),
        );
    }
    let all = always([true; CLASSES]);
    overview.row(
        format!("{name}: every finding"),
        counts()
            .into_iter()
            .chain([ScoreCell::Fixed(0.5), f1(&all), ScoreCell::Undefined]),
    );
}

fn each_finding(
    name: &str,
    predicted: &[Predicted],
    priors: Option<&[f64; CLASSES]>,
    resamples: &Bootstrap,
) -> ScoreTable {
    let mut table = ScoreTable::new(
        &format!("{name}: each finding"),
        &[
            "known",
            "positive",
            "prior",
            "AUC",
            "Brier",
            "Brier of prior",
        ],
    );
    let pairs: Vec<LabelPair> = predicted.iter().map(|image| image.pair).collect();
    for finding in Finding::ALL {
        let class = finding as usize;
        let count = |of: &dyn Fn(Option<bool>) -> bool| {
            predicted
                .iter()
                .filter(|image| of(image.labels[class]))
                .count()
        };
        let known = count(&|truth| truth.is_some());
        if known > 0 {
            let positive = count(&|truth| truth == Some(true));
            let varies = several_on_both_sides(&pairs, &[finding], resamples);
            let area = ScoreCell::measured(resamples, varies, |at| auc_of(predicted, at, finding));
            let prior = priors.map_or(ScoreCell::Undefined, |priors| {
                ScoreCell::Fixed(priors[class])
            });
            let varies = is_known_of_several(&pairs, finding, resamples);
            let distance =
                ScoreCell::measured(resamples, varies, |at| brier_of(predicted, at, finding));
            let of_prior = priors.map_or(ScoreCell::Undefined, |priors| {
                ScoreCell::measured(resamples, varies, |at| {
                    brier_of_prior(predicted, at, finding, priors[class])
                })
            });
            let counts = [known, positive].map(ScoreCell::from);
            let scores = [prior, area, distance, of_prior];
            table.row(finding.name(), counts.into_iter().chain(scores));
        }
    }
    table
}

#[cfg(test)]
mod tests;
