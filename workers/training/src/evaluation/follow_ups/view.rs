//! From which view an image was taken, as the test program of v2 reads it out of an answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::evaluation::bootstrap::{Bootstrap, Resampling, ScoreEstimate};
use crate::evaluation::text_scores::protocol::Better;

/// What an answer without any of the views counts as.
const UNKNOWN: &str = "unknown";
/// The views in the order in which they are looked for; blanks around them count.
const VIEWS: [(&str, &str); 4] = [
    (" ap ", "ap"),
    (" pa ", "pa"),
    (" lateral ", "lateral"),
    (" ll ", "ll"),
];

/// The view that an answer names, in lower case, else `unknown`. A view at the end of the answer or before a full stop is not
/// found: the original wants blanks on both sides.
pub fn answered_view(answer: &str) -> &'static str {
    let answer = answer.to_lowercase();
    let named = VIEWS.iter().find(|(written, _)| answer.contains(written));
    named.map_or(UNKNOWN, |(_, view)| view)
}

/// How often each view was answered for each.
#[derive(Default)]
struct ViewCounts(BTreeMap<(String, String), u64>);

/// The true view and the answered one of each image, and whose it is.
#[derive(Clone, Debug, Default)]
pub struct ViewAnswers {
    names: Vec<String>,
    images: Vec<(u32, u32)>,
    patients: Vec<u32>,
}

/// Scores of views, each between 0 and 1 and better where it is higher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ViewScores {
    /// The number of images.
    pub images: u64,
    /// Which values of both scores are good.
    pub better: Better,
    /// Share of the answers that are right.
    pub accuracy: f64,
    /// Mean F1 of all views that are true or answered.
    pub macro_f1: f64,
    /// True view, answered view, number of images.
    pub confusion: Vec<(String, String, u64)>,
}

impl ViewCounts {
    /// Counts some images; the true view is compared in lower case.
    fn add(&mut self, truth: &str, answered: &str, images: u64) {
        let cell = (truth.trim().to_lowercase(), answered.to_owned());
        *self.0.entry(cell).or_default() += images;
    }

    /// Computes the scores of what was counted.
    fn scores(&self) -> ViewScores {
        let sum = |is_in: &dyn Fn(&str, &str) -> bool| -> f64 {
            let cells = self.0.iter();
            let cells = cells.filter(|((truth, answered), _)| is_in(truth, answered));
            cells.map(|(_, count)| *count).sum::<u64>() as f64
        };
        let views: BTreeSet<&String> = self
            .0
            .keys()
            .flat_map(|(one, other)| [one, other])
            .collect();
        let f1 = |view: &str| {
            let right = sum(&|truth, answered| truth == view && answered == view);
            let either = sum(&|truth, _| truth == view) + sum(&|_, answered| answered == view);
            2.0 * right / either
        };
        let images = sum(&|_, _| true);
        let of_images = |value: f64| if images > 0.0 { value / images } else { 0.0 };
        let cells = self.0.iter();
        ViewScores {
            images: images as u64,
            better: Better::Higher,
            accuracy: of_images(sum(&|truth, answered| truth == answered)),
            macro_f1: views.iter().map(|view| f1(view)).sum::<f64>() / views.len().max(1) as f64,
            confusion: cells
                .map(|((truth, answered), count)| (truth.clone(), answered.clone(), *count))
                .collect(),
        }
    }
}

impl ViewAnswers {
    /// Adds an image of this patient ([`Patients::number`](crate::evaluation::patients::Patients::number)).
    pub fn add(&mut self, truth: &str, answered: &str, patient: u32) {
        let mut number = |name: &str| {
            let known = self.names.iter().position(|known| known == name);
            known.unwrap_or_else(|| {
                self.names.push(name.to_owned());
                self.names.len() - 1
            }) as u32
        };
        self.images.push((number(truth), number(answered)));
        self.patients.push(patient);
    }

    /// Computes the scores of all images.
    pub fn scores(&self) -> ViewScores {
        self.counts(&vec![1; self.images.len()]).scores()
    }

    /// Computes the scores with intervals over patients.
    pub fn estimates(&self, resampling: Resampling) -> Vec<ScoreEstimate> {
        let of = |weights: &[u32]| {
            let scores = self.counts(weights).scores();
            match scores.images {
                0 => vec![f64::NAN; 2],
                _ => vec![scores.accuracy, scores.macro_f1],
            }
        };
        let estimates = Bootstrap::of_streams(&self.patients, resampling).estimates(of);
        let named = ["accuracy", "macro F1"].into_iter().zip(estimates);
        let score = |(name, estimate): (&str, _)| ScoreEstimate {
            name: name.to_owned(),
            better: Better::Higher,
            estimate,
        };
        named.map(score).collect()
    }

    /// The images, each as often as its weight says.
    fn counts(&self, weights: &[u32]) -> ViewCounts {
        // By number first: names are compared for each pair of views once.
        let mut images: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (image, weight) in self.images.iter().zip(weights).filter(|(_, n)| **n > 0) {
            *images.entry(*image).or_default() += u64::from(*weight);
        }
        let mut counts = ViewCounts::default();
        for ((truth, answered), images) in images {
            counts.add(
                &self.names[truth as usize],
                &self.names[answered as usize],
                images,
            );
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_needs_blanks_around_it_and_the_first_one_counts() {
        assert_eq!(answered_view("This is a PA view, not AP."), "pa");
        assert_eq!(answered_view("from pa or ap view"), "ap");
        assert_eq!(answered_view("The view is AP."), "unknown");
        assert_eq!(answered_view("AP"), "unknown");
        assert_eq!(answered_view("a lateral image"), "lateral");
    }

    #[test]
    fn answers_that_are_no_view_are_a_class_of_their_own() {
        let mut counts = ViewCounts::default();
        counts.add("PA", "pa", 1);
        counts.add("AP", "unknown", 1);
        let scores = counts.scores();
        assert_eq!((scores.images, scores.accuracy), (2, 0.5));
        assert!((scores.macro_f1 - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(ViewCounts::default().scores().macro_f1, 0.0);
    }

    #[test]
    fn images_of_one_patient_are_drawn_together() {
        let estimates = |of: fn(u32) -> u32| {
            let mut answers = ViewAnswers::default();
            for image in 0..60 {
                let answered = if (image / 6) % 2 == 0 { "pa" } else { "ap" };
                answers.add("PA", answered, of(image));
            }
            answers.estimates(Resampling::default())
        };
        let (alone, together) = (estimates(|image| image), estimates(|image| image / 6));
        let width = |scores: &[ScoreEstimate]| {
            let estimate = scores[0].estimate.unwrap();
            assert_eq!(estimate.value, 0.5);
            estimate.high - estimate.low
        };
        assert!(width(&together) > 1.5 * width(&alone));
        let nothing = ViewAnswers::default().estimates(Resampling::default());
        assert!(nothing.iter().all(|score| score.estimate.is_none()));
    }
}
