//! Scores with their intervals, as all evaluations print them.

use radialog_training::evaluation::bootstrap::{Estimate, ScoreEstimate};

/// A value and its interval; a dash where it is not defined.
pub(super) fn written(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(
        || "-".to_owned(),
        |Estimate { value, low, high }| {
            // No "-0.0000".
            let [value, low, high] = [value, low, high].map(|number| match number.abs() < 5e-5 {
                true => 0.0,
                false => number,
            });
            format!("{value:.4} [{low:.4}, {high:.4}]")
        },
    )
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
