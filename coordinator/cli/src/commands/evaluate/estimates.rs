//! Scores with their intervals, as all evaluations print them.

use radialog_training::evaluation::bootstrap::{Estimate, ScoreEstimate};

/// A value and its interval; a dash where either is not defined.
pub(super) fn written(estimate: Option<Estimate>) -> String {
    let Some(estimate) = estimate else {
        return "-".to_owned();
    };
    // No "-0.0000".
    let number = |number: f64| match number.abs() < 5e-5 {
        true => 0.0,
        false => number,
    };
    let value = number(estimate.value);
    match estimate.interval().map(|ends| ends.map(number)) {
        Some([low, high]) => format!("{value:.4} [{low:.4}, {high:.4}]"),
        None => format!("{value:.4} [-]"),
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
