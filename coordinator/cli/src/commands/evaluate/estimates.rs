//! Scores with their intervals, as all evaluations print them.

use radialog_training::evaluation::bootstrap::{Estimate, ScoreEstimate, four_digits};

/// A value and its interval; a dash where either is not defined.
pub(super) fn written(estimate: Option<Estimate>) -> String {
    let Some(estimate) = estimate else {
        return "-".to_owned();
    };
    let value = four_digits(estimate.value);
    match estimate.interval().map(|ends| ends.map(four_digits)) {
        Some([low, high]) => format!("{value} [{low}, {high}]"),
        None => format!("{value} [-]"),
    }
}

/// Prints scores, a line each.
pub(super) fn print_estimates(scores: &[ScoreEstimate]) {
    for score in scores {
        outln!(
            "  {:<40} {:<24}  {} is better",
            score.name,
            written(score.estimate),
            score.better.word()
        );
    }
}
