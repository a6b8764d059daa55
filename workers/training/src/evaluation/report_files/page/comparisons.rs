//! Reports that compare with an earlier image, with their sentences marked.

use std::fmt::Write as _;

use radialog_models::comparisons::comparison_marks;

use super::{EvaluatedReports, escaped};
use crate::error::TrainingError;
use crate::evaluation::stored_rows::temporary;

/// So many reports are listed.
const LISTED: usize = 20;

/// Lists the first reports that compare, sentence by sentence.
pub(super) fn write(
    page: &mut String,
    evaluated: &EvaluatedReports<'_>,
) -> Result<(), TrainingError> {
    let (mut comparing, mut first) = (0, Vec::new());
    for (place, scores) in evaluated.scores.studies.iter().enumerate() {
        let counts = scores.map_err(temporary)?.comparisons.unwrap_or_default();
        if counts.comparing_sentences > 0 {
            comparing += 1;
            if first.len() < LISTED {
                first.push(place);
            }
        }
    }
    if first.is_empty() {
        return Ok(());
    }
    let _ = write!(
        page,
        "<details><summary class=\"muted\">Sentences that compare, of the first {} of {} reports that do</summary>\n<ul class=\"muted\">\n",
        first.len(),
        comparing
    );
    for place in first {
        let study = evaluated.corpus.studies.get(place).map_err(temporary)?;
        let Some(span) = study.prediction else {
            continue;
        };
        let text = evaluated.texts.read(span).map_err(temporary)?;
        let sentences: Vec<String> = sentences(&text)
            .filter_map(|(text, compares)| compares.then_some(text))
            .collect();
        let _ = writeln!(
            page,
            "<li>{}: {}</li>",
            escaped(&study.id),
            sentences.join(" ")
        );
    }
    *page += "</ul></details>\n";
    Ok(())
}

/// A report with its comparisons marked: the sentence, and in it the words.
pub(super) fn marked(text: &str) -> String {
    sentences(text).map(|(text, _)| text).collect()
}

/// The parts of a report in HTML: sentences that compare, and what is between them.
fn sentences(text: &str) -> impl Iterator<Item = (String, bool)> {
    let mut characters = text.chars();
    let mut taken = 0;
    let mut until = |end: u32| -> String {
        let part: String = characters.by_ref().take((end - taken) as usize).collect();
        taken = end;
        escaped(&part)
    };
    let mut parts = Vec::new();
    for mark in comparison_marks(text) {
        parts.push((until(mark.range[0]), false));
        let [begin, words] = [until(mark.words_range[0]), until(mark.words_range[1])];
        let end = until(mark.range[1]);
        let sentence = format!("<span class=\"compares\">{begin}<mark>{words}</mark>{end}</span>");
        parts.push((sentence, true));
    }
    parts.push((escaped(characters.as_str()), false));
    parts.into_iter()
}
