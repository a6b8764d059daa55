//! Sentences of a report as small-letter words, and the phrases that are looked for in them.

use std::ops::Range;

/// Words that `..` and `...` stand for, at most.
const SHORT_GAP: usize = 4;
const LONG_GAP: usize = 9;

/// Cuts a text into sentences: behind `.`, `?` or `!` where a blank follows, or a capital letter (a forgotten blank).
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    let mut before = ' ';
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|&(_, next)| next);
        let ends = match character {
            '.' => next.is_none_or(|next| {
                next.is_whitespace() || (next.is_uppercase() && before.is_lowercase())
            }),
            '?' | '!' => next.is_none_or(char::is_whitespace),
            _ => false,
        };
        before = character;
        if ends {
            sentences.push(text[start..=at].trim());
            start = at + 1;
        }
    }
    sentences.push(text[start..].trim());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// The words of a sentence in small letters; commas, semicolons and colons are words of their own.
pub(super) fn words(sentence: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for character in sentence.chars() {
        if character.is_alphanumeric() {
            word.extend(character.to_lowercase());
            continue;
        }
        if character == '\'' {
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if matches!(character, ',' | ';' | ':') {
            words.push(character.to_string());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Words that follow each other, with gaps.
#[derive(Clone, Debug)]
pub(super) struct Phrase(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    /// One of these.
    Word(Vec<Form>),
    /// Words that stand between, in a list of which some may be parted by commas.
    Gap { most: usize, commas: bool },
}

#[derive(Clone, Debug)]
enum Form {
    Whole(String),
    Start(String),
}

impl Phrase {
    /// Reads a phrase as written in the data file; nothing where it has no word at its ends.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<Part> = text.split_whitespace().map(Part::parse).collect();
        let is_word = |part: Option<&Part>| matches!(part, Some(Part::Word(_)));
        (is_word(parts.first()) && is_word(parts.last())).then_some(Self(parts))
    }

    /// Every place where the phrase stands: the shortest match from each start.
    pub(super) fn find<'a>(
        &'a self,
        words: &'a [String],
    ) -> impl Iterator<Item = Range<usize>> + 'a {
        (0..words.len()).filter_map(|start| self.end(words, start).map(|end| start..end))
    }

    /// The place where a match that starts here ends.
    pub(super) fn end(&self, words: &[String], start: usize) -> Option<usize> {
        end(&self.0, words, start)
    }
}

impl Part {
    fn parse(text: &str) -> Self {
        match text {
            ".." => Part::Gap {
                most: SHORT_GAP,
                commas: false,
            },
            "..." => Part::Gap {
                most: LONG_GAP,
                commas: true,
            },
            _ => Part::Word(text.split('|').map(Form::parse).collect()),
        }
    }
}

impl Form {
    fn parse(text: &str) -> Self {
        text.strip_suffix('*').map_or_else(
            || Form::Whole(text.to_owned()),
            |start| Form::Start(start.to_owned()),
        )
    }

    fn is(&self, word: &str) -> bool {
        match self {
            Form::Whole(whole) => word == whole,
            Form::Start(start) => word.starts_with(start.as_str()),
        }
    }
}

fn end(parts: &[Part], words: &[String], at: usize) -> Option<usize> {
    match parts.split_first() {
        None => Some(at),
        Some((Part::Word(forms), rest)) => {
            let word = words.get(at)?;
            forms
                .iter()
                .any(|form| form.is(word))
                .then(|| end(rest, words, at + 1))?
        }
        Some((Part::Gap { most, commas }, rest)) => {
            let bridged = |word: &String| !is_stop(word) && (*commas || word != ",");
            let gaps = (0..=*most).take_while(|&width| {
                words
                    .get(at..at + width)
                    .is_some_and(|gap| gap.iter().all(bridged))
            });
            gaps.into_iter()
                .find_map(|width| end(rest, words, at + width))
        }
    }
}

/// Whether a mark separates what stands before it from what follows.
pub(super) fn is_stop(word: &str) -> bool {
    matches!(word, ";" | ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_points_and_not_inside_of_numbers() {
        let text = "A 2.6 cm nodule. Clear lungs.No effusion? Is it so";
        assert_eq!(
            sentences(text),
            [
                "A 2.6 cm nodule.",
                "Clear lungs.",
                "No effusion?",
                "Is it so"
            ]
        );
        assert!(sentences(" ").is_empty());
    }

    #[test]
    fn hyphens_part_words_and_commas_are_words() {
        assert_eq!(
            words("Air-space disease, left."),
            ["air", "space", "disease", ",", "left"]
        );
    }

    #[test]
    fn a_phrase_matches_starts_of_words_alternatives_and_gaps() {
        let found =
            |phrase: &str, text: &str| Phrase::parse(phrase).unwrap().find(&words(text)).next();
        assert_eq!(found("opacit*", "small opacities"), Some(1..2));
        assert_eq!(
            found("heart|cardiac .. enlarged", "The heart is mildly enlarged"),
            Some(1..5)
        );
        assert_eq!(
            found(
                "heart .. enlarged",
                "heart one two three four five enlarged"
            ),
            None
        );
        assert_eq!(found("heart .. enlarged", "heart: enlarged"), None);
        assert!(Phrase::parse(".. enlarged").is_none());
    }
}
