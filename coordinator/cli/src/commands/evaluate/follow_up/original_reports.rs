//! What the original's test program writes of a pass over reports: labels in its order, and scores under a prompt.

use radialog_models::prompt::Prompts;
use radialog_schemas::{Finding, Label, Labels, StudyRecord};
use radialog_training::evaluation::bootstrap::ScoreEstimate;
use radialog_training::evaluation::follow_ups::FindingScores;
use radialog_training::evaluation::original_files::{OriginalScore, label_score, report_lines};
use radialog_training::prepare::FindingLabels;

use super::Session;

/// Reports that the original generates together: it keeps the first prompt of the last batch.
const BATCH: u64 = 12;

/// The first prompt of the last batch of reports.
#[derive(Default)]
pub(in crate::commands::evaluate) struct LastPrompt {
    reports: u64,
    text: String,
}

impl LastPrompt {
    /// Follows the report of one more study.
    pub(in crate::commands::evaluate) fn follow(
        &mut self,
        prompts: &Prompts,
        record: &StudyRecord,
    ) {
        if self.reports.is_multiple_of(BATCH) {
            let findings = record.findings_text.as_deref().unwrap_or_default();
            self.text = prompts.written(&prompts.report(findings));
        }
        self.reports += 1;
    }
}

/// All labels, in the published order.
pub(in crate::commands::evaluate) fn all_labels(labels: &Labels) -> FindingLabels {
    Finding::ALL.map(|finding| labels.get(&finding).copied().unwrap_or(Label::Blank))
}

/// Writes the scores of a pass, by the end of the file's name: those that are by the original's definition.
pub(in crate::commands::evaluate) fn write_scores(
    session: &Session<'_>,
    suffix: &str,
    prompt: &LastPrompt,
    texts: &[ScoreEstimate],
    labels: &FindingScores,
) -> anyhow::Result<()> {
    let text = |name| {
        let score = texts.iter().find(|score| score.name == name)?;
        score.estimate.map(|estimate| estimate.value)
    };
    let lines = report_lines(&prompt.text, |score| match score {
        OriginalScore::Text(name) => text(name),
        OriginalScore::Labels(name) => label_score(labels, name),
    });
    session.original_files().write_scores(suffix, &lines)?;
    Ok(())
}
