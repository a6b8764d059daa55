//! From which view an image was taken, as the test program of v2 reads it out of an answer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

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
#[derive(Clone, Debug, Default)]
pub struct ViewCounts(BTreeMap<(String, String), u64>);

/// Scores of views, each between 0 and 1 and better where it is higher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ViewScores {
    /// The number of images.
    pub images: u64,
    /// Share of the answers that are right.
    pub accuracy: f64,
    /// Mean F1 of all views that are true or answered.
    pub macro_f1: f64,
    /// True view, answered view, number of images.
    pub confusion: Vec<(String, String, u64)>,
}

impl ViewCounts {
    /// Counts one image; the true view is compared in lower case.
    pub fn add(&mut self, truth: &str, answered: &str) {
        let cell = (truth.trim().to_lowercase(), answered.to_owned());
        *self.0.entry(cell).or_default() += 1;
    }

    /// Computes the scores of what was counted.
    pub fn scores(&self) -> ViewScores {
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
            accuracy: of_images(sum(&|truth, answered| truth == answered)),
            macro_f1: views.iter().map(|view| f1(view)).sum::<f64>() / views.len().max(1) as f64,
            confusion: cells
                .map(|((truth, answered), count)| (truth.clone(), answered.clone(), *count))
                .collect(),
        }
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
        counts.add("PA", "pa");
        counts.add("AP", "unknown");
        let scores = counts.scores();
        assert_eq!((scores.images, scores.accuracy), (2, 0.5));
        assert!((scores.macro_f1 - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(ViewCounts::default().scores().macro_f1, 0.0);
    }
}
