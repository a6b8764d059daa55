//! Text of the collection without the words that its publisher took out: `XXXX` stands for a name, a date or, mostly, for a
//! harmless word ("XXXX opacities", "costophrenic XXXX"). A model that learns from it writes it.

use crate::prepare::weak_labels::sentences;

/// Stands for removed words.
const REMOVED: &str = "XXXX";

/// A removed word in front of one of these was the head of its phrase: without it the sentence says nothing.
const NEEDS_IT: [&str; 60] = [
    "a",
    "an",
    "and",
    "or",
    "of",
    "to",
    "in",
    "on",
    "at",
    "by",
    "for",
    "from",
    "with",
    "without",
    "is",
    "are",
    "was",
    "were",
    "be",
    "been",
    "has",
    "have",
    "had",
    "the",
    "this",
    "that",
    "these",
    "those",
    "than",
    "as",
    "it",
    "its",
    "which",
    "who",
    "not",
    "no",
    "may",
    "can",
    "could",
    "would",
    "should",
    "if",
    "there",
    "but",
    "appear",
    "appears",
    "remain",
    "remains",
    "normal",
    "unremarkable",
    "intact",
    "clear",
    "sharp",
    "seen",
    "noted",
    "grossly",
    "within",
    "suggesting",
    "suggest",
    "present",
];

/// The treatment of sentences from which the publisher removed words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedWords {
    /// The mark is deleted where it stands in front of a word that it only described; other such sentences are dropped.
    Mend,
    /// Every sentence with removed words is dropped.
    Drop,
    /// The text stays as published.
    Keep,
}

/// A section as it goes into the table: single blanks, no numbers of a list and no stray marks.
pub(super) fn clean(section: &str, removed: RemovedWords) -> String {
    let mut text = String::new();
    for sentence in sentences(section) {
        let Some(sentence) = readable(sentence, removed) else {
            continue;
        };
        let sentence = sentence
            .trim_end_matches("..")
            .trim_start_matches([',', ';', ' ']);
        if !sentence.contains(char::is_alphabetic) {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(sentence);
        if sentence.ends_with(char::is_alphanumeric) {
            text.push('.');
        }
    }
    text
}

/// The sentence, or nothing where it cannot be used.
fn readable(sentence: &str, removed: RemovedWords) -> Option<String> {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    if removed == RemovedWords::Keep || !sentence.contains(REMOVED) {
        return Some(words.join(" "));
    }
    if removed == RemovedWords::Drop {
        return None;
    }
    let mut kept: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if !word.contains(REMOVED) {
            kept.push((*word).to_owned());
            continue;
        }
        let next = words.get(at + 1).map(|next| {
            next.trim_matches(|mark: char| !mark.is_alphanumeric())
                .to_lowercase()
        })?;
        let described = next.starts_with(char::is_alphabetic)
            && !NEEDS_IT.contains(&next.as_str())
            && next != "xxxx";
        if *word != REMOVED
            || !described
            || kept.last().is_some_and(|last| last.ends_with([';', ':']))
        {
            return None;
        }
        mend(&mut kept, &next);
    }
    let mut text = kept.join(" ");
    if let Some(first) = text.get(0..1).map(str::to_uppercase) {
        text.replace_range(0..1, &first);
    }
    Some(text)
}

/// Fits the words before a deleted one to the word that now follows.
fn mend(kept: &mut Vec<String>, next: &str) {
    // "most XXXX" was "most likely".
    if kept.last().is_some_and(|last| last == "most") {
        kept.pop();
    }
    let article = if next.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    if let Some(last) = kept
        .last_mut()
        .filter(|last| matches!(last.as_str(), "a" | "an"))
    {
        article.clone_into(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the report CXR2 of the collection.
    const SECTION: &str = "Borderline cardiomegaly. Midline sternotomy XXXX. Enlarged pulmonary arteries. Clear lungs.";

    #[test]
    fn sentences_with_removed_words_are_dropped_or_kept_as_asked() {
        assert_eq!(
            clean(SECTION, RemovedWords::Drop),
            "Borderline cardiomegaly. Enlarged pulmonary arteries. Clear lungs."
        );
        assert_eq!(clean(SECTION, RemovedWords::Keep), SECTION);
        assert_eq!(clean("XXXX XXXX.", RemovedWords::Drop), "");
    }

    /// Sentences of the collection.
    #[test]
    fn a_removed_word_that_only_described_is_deleted() {
        let cases = [
            (
                "XXXX opacities are present in the left base.",
                "Opacities are present in the left base.",
            ),
            ("No XXXX infiltrates.", "No infiltrates."),
            (
                "The lateral view shows a XXXX effusion.",
                "The lateral view shows an effusion.",
            ),
            (
                "Patchy opacity most XXXX representing atelectasis.",
                "Patchy opacity representing atelectasis.",
            ),
            ("The XXXX are intact.", ""),
            ("Midline sternotomy XXXX.", ""),
            ("Aortic XXXX appear unremarkable.", ""),
            ("There are XXXX XXXX pulmonary opacities.", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text, RemovedWords::Mend), expected, "{text}");
        }
    }

    #[test]
    fn numbers_of_a_list_and_stray_marks_are_no_sentences() {
        assert_eq!(
            clean("1. Clear lungs. 2.  No  effusion.. .", RemovedWords::Mend),
            "Clear lungs. No effusion."
        );
    }
}
