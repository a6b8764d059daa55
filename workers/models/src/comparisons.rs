//! Comparisons that a report cannot support: one that was written from a single image, without a prior, and says "unchanged" or
//! "increased since". Generators learn this from reports that had a prior (Ramesh et al. 2022 call it hallucinated references to
//! priors). Found by phrases, sentence by sentence.
//!
//! The list of phrases is this project's own and not validated against readers: it is for English chest X-ray reports, misses
//! comparisons in other words, and takes a few sentences that only sound like one ("stable patient"). Whoever changes it raises
//! the scoring stage's number in [`Stage::REVISIONS`](radialog_schemas::Stage::REVISIONS).

use std::sync::LazyLock;

use radialog_schemas::ComparisonMark;
use regex::Regex;

use crate::sentences::sentence_ranges;

/// Phrases that compare with an earlier image, whatever is said about it.
const PHRASES: [&str; 13] = [
    r"unchanged|stable|unaltered|re-?demonstrated|re-?demonstration",
    r"interval(?:ly)?",
    r"(?:no|without|any|little|minimal|significant|substantial|relevant|appreciable|similar) change",
    r"changed? (?:from|since|compared)",
    r"(?:compared|comparison|similar|relative) (?:to|with)(?: the)? (?:prior|previous|earlier|preceding|last|study|exam\w*|film|radiograph\w*|x-?rays?|ct|chest|\d)",
    r"since(?: the| a)? (?:prior|previous|preceding|last|earlier)",
    r"(?:from|than|as|on|to|with)(?: the| a)? (?:prior|previous|preceding|last|earlier)(?: \w+){0,2} (?:study|exam\w*|film|radiograph\w*|x-?rays?|imaging|ct|image|day)",
    r"(?:prior|previous|preceding) (?:study|studies|exam\w*|film|films|radiograph\w*|imaging|image|images|x-?rays?|chest)",
    r"(?:again|previously|still) (?:seen|noted|demonstrated|visualized|identified|present|visible|described|mentioned)",
    r"(?:has|have|had) (?:\w+ly )?(?:improved|worsened|resolved|increased|decreased|progressed|developed|cleared|enlarged|changed|been (?:removed|placed|inserted|exchanged|extubated|replaced|advanced|repositioned|retracted))",
    r"(?:improved|improving|improvement|worsened|worsening|resolved|resolving|resolution|persist\w*|progress(?:ed|ing|ion))",
    r"(?:increased|decreased|increasing|decreasing)(?: \w+){0,3} (?:since|from|compared)",
    r"(?:new|newly|no longer|as before)",
];
/// Sentences that say that there is nothing to compare with, and what "prior" and "new" mean in other places.
const NOT_MEANT: &str = r"(?i)no (?:prior|previous|comparison)|(?:comparison|compared)[: ]+(?:is )?(?:none|not available|unavailable)|none available|not available for comparison|without (?:prior|previous|comparison)";

static COMPARISON: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = format!(r"(?i)\b(?:{})\b", PHRASES.join("|"));
    // The pattern is a constant: the tests compile it.
    Regex::new(&pattern).unwrap_or_else(|error| unreachable!("{error}"))
});
static EXCUSE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(NOT_MEANT).unwrap_or_else(|error| unreachable!("{error}")));

/// Finds the sentences of a report that compare with an earlier image. They are unsupported where the model had none.
pub fn comparison_marks(report: &str) -> Vec<ComparisonMark> {
    // Ranges only grow from one sentence to the next, so that each character is counted once.
    let (mut bytes, mut characters) = (0, 0);
    let mut place = |to: usize| {
        characters += report[bytes..to].chars().count() as u32;
        bytes = to;
        characters
    };
    let mut marks = Vec::new();
    for (sentence, range) in (0..).zip(sentence_ranges(report)) {
        let text = &report[range.clone()];
        let Some(found) = COMPARISON.find(text).filter(|_| !EXCUSE.is_match(text)) else {
            continue;
        };
        let start = place(range.start);
        let words_range = [found.start(), found.end()].map(|at| place(range.start + at));
        marks.push(ComparisonMark {
            sentence,
            range: [start, place(range.end)],
            words: found.as_str().to_owned(),
            words_range,
        });
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_that_compare_are_marked_where_they_stand() {
        let report =
            " Größe 3 µm. Heart size is unchanged.\nEffusion has decreased since the prior study.";
        let characters: Vec<char> = report.chars().collect();
        let text = |[from, to]: [u32; 2]| -> String {
            characters[from as usize..to as usize].iter().collect()
        };
        let marks = comparison_marks(report);
        let found: Vec<_> = marks
            .iter()
            .map(|mark| {
                assert_eq!(text(mark.words_range), mark.words);
                (mark.sentence, text(mark.range), mark.words.as_str())
            })
            .collect();
        let effusion = "Effusion has decreased since the prior study.";
        assert_eq!(
            found,
            [
                (1, "Heart size is unchanged.".to_owned(), "unchanged"),
                (2, effusion.to_owned(), "has decreased"),
            ]
        );
    }

    #[test]
    fn what_compares_and_what_does_not() {
        for sentence in [
            "No significant change.",
            "Stable cardiomegaly.",
            "Interval removal of the tube.",
            "The right PICC is again seen.",
            "Opacity is more prominent than on the previous exam.",
            "There is a new left effusion.",
            "Edema has slightly improved.",
            "As compared to the previous radiograph, nothing differs.",
            "Persistent atelectasis.",
            "Increased opacity since the prior study.",
        ] {
            assert_eq!(comparison_marks(sentence).len(), 1, "{sentence}");
        }
        for sentence in [
            "No pleural effusion.",
            "There is increased opacity in the left lower lobe.",
            "No prior study is available for comparison.",
            "Comparison: none.",
            "Status post prior median sternotomy.",
            "Deformity due to prior trauma.",
            "The vessels are more prominent on the left than on the right.",
            "The heart is enlarged.",
            "Evidence of prior granulomatous disease.",
            "",
        ] {
            assert!(comparison_marks(sentence).is_empty(), "{sentence}");
        }
    }
}
