//! Scores in the files of the original's test program, by its names and in its words, for scripts that read those.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use radialog_runtime::durable;
use radialog_training::evaluation::bootstrap::ScoreEstimate;
use radialog_training::evaluation::follow_ups::FindingScores;

/// The folder of the files.
const FOLDER: &str = "vicuna_results";
/// Reports that the original generates together: it keeps the first prompt of the last batch.
pub(in crate::commands::evaluate) const BATCH: u64 = 12;

/// The lines of a report's scores: the prompt, then the texts' scores, where there are any, and the labels'.
pub(in crate::commands::evaluate) fn report_lines(
    prompt: &str,
    texts: &[ScoreEstimate],
    labels: &FindingScores,
) -> String {
    let mut lines = format!("{prompt}\n");
    for score in texts {
        let Some(estimate) = score.estimate else {
            continue;
        };
        let name = match (score.name.strip_prefix("BLEU-"), score.name.as_str()) {
            (Some(order), _) => format!("Avg Bleu {order}"),
            (None, "ROUGE-L") => "Avg Rouge".to_owned(),
            (None, "METEOR 1.5") => "Avg Meteor".to_owned(),
            // METEOR without its data is another score, which scripts would take for the original's.
            (None, _) => continue,
        };
        line(&mut lines, &name, estimate.value);
    }
    rates(&mut lines, labels);
    line(&mut lines, "Sample Chexpert F1", labels.sample_f1);
    line(&mut lines, "Mean Chexpert Accuracy", labels.accuracy);
    lines
}

/// The lines of the scores of answers.
pub(in crate::commands::evaluate) fn answer_lines(labels: &FindingScores) -> String {
    let mut lines = String::new();
    rates(&mut lines, labels);
    line(&mut lines, "Mean Chexpert Accuracy", labels.accuracy);
    line(&mut lines, "Mean Chexpert AUC", labels.auc);
    lines
}

fn rates(lines: &mut String, labels: &FindingScores) {
    line(lines, "Mean Chexpert F1", labels.macro_f1);
    line(lines, "Mean Chexpert Precision", labels.macro_precision);
    line(lines, "Mean Chexpert Recall", labels.macro_recall);
}

/// As Python writes a number: a whole one with its fraction.
fn line(lines: &mut String, name: &str, value: f64) {
    // A string takes everything.
    let _ = writeln!(lines, "{name}: {value:?}");
}

/// Writes `vicuna_results/results_{name}{suffix}.txt` into a folder; slashes of the name become `_`, as in the original.
pub(in crate::commands::evaluate) fn write(
    folder: &Path,
    name: &str,
    suffix: &str,
    lines: &str,
) -> anyhow::Result<()> {
    let folder = folder.join(FOLDER);
    let name: String = name
        .chars()
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => letter,
            _ => '_',
        })
        .collect();
    let path = folder.join(format!("results_{name}{suffix}.txt"));
    durable::create_directory(&folder)
        .and_then(|()| durable::replace(&path, lines.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use radialog_training::evaluation::bootstrap::Estimate;
    use radialog_training::evaluation::follow_ups::FindingCounts;
    use radialog_training::evaluation::text_scores::meteor::Meteor;
    use radialog_training::evaluation::text_scores::protocol::Better;

    use super::*;

    #[test]
    fn the_lines_are_the_originals_in_its_order() {
        let mut counts = FindingCounts::default();
        counts.add(&[Some(true); 14], &[true; 14]);
        let lines = answer_lines(&counts.scores());
        let expected = "Mean Chexpert F1: 1.0\nMean Chexpert Precision: 1.0\nMean Chexpert Recall: 1.0\n\
                        Mean Chexpert Accuracy: 1.0\nMean Chexpert AUC: -1.0\n";
        assert_eq!(lines, expected);
        let lines = report_lines("P ASSISTANT:", &[], &counts.scores());
        assert!(
            lines.starts_with("P ASSISTANT:\nMean Chexpert F1: 1.0\n"),
            "{lines}"
        );
        let half = Estimate {
            value: 0.5,
            low: 0.4,
            high: 0.6,
        };
        let text = |name: &str| ScoreEstimate {
            name: name.to_owned(),
            better: Better::Higher,
            estimate: Some(half),
        };
        let of = |meteor: Meteor| {
            let texts = ["BLEU-4", meteor.name(), "ROUGE-L"].map(text);
            report_lines("P", &texts, &counts.scores())
        };
        let without_data = of(Meteor::new(None));
        assert!(
            without_data.starts_with("P\nAvg Bleu 4: 0.5\nAvg Rouge: 0.5\n"),
            "{without_data}"
        );
        let with_data = of(Meteor::new(Some(Arc::default())));
        assert!(with_data.contains("\nAvg Meteor: 0.5\n"), "{with_data}");
        let last = "Sample Chexpert F1: 1.0\nMean Chexpert Accuracy: 1.0\n";
        assert!(lines.ends_with(last), "{lines}");
    }
}
