//! A text with alternatives: `a (small|large|) effusion` is one of three texts. Alternatives may hold others.

use serde::Deserialize;

use crate::random::Random;

/// A text with alternatives, read and checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    OneOf(Vec<Pattern>),
}

impl Pattern {
    /// Draws one of its texts; each alternative is as likely as the others beside it.
    pub(super) fn draw(&self, random: &mut Random) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::OneOf(patterns) => {
                let place = random.below(patterns.len());
                patterns[place].draw(random)
            }
        };
        self.0.iter().map(part).collect()
    }

    /// Reads up to the end of the text, or, within brackets, up to `|` or `)`.
    fn read(rest: &mut &str, is_inside: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let ends = |character: char| match character {
            '(' | ')' => true,
            '|' => is_inside,
            _ => false,
        };
        loop {
            let end = rest.find(ends).unwrap_or(rest.len());
            let (text, behind) = rest.split_at(end);
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            *rest = behind;
            if !rest.starts_with('(') {
                return Ok(Self(parts));
            }
            let mut alternatives = Vec::new();
            loop {
                *rest = rest.get(1..).unwrap_or_default();
                alternatives.push(Self::read(rest, true)?);
                if !rest.starts_with('|') {
                    break;
                }
            }
            match rest.strip_prefix(')') {
                Some(behind) => *rest = behind,
                None => return Err("a bracket is not closed".to_owned()),
            }
            parts.push(Part::OneOf(alternatives));
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut rest = text.as_str();
        let fault = |reason: &str| format!("'{text}': {reason}");
        let pattern = Self::read(&mut rest, false).map_err(|reason| fault(&reason))?;
        match rest.is_empty() {
            true => Ok(pattern),
            false => Err(fault("a bracket is closed that was not opened")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_alternative_is_drawn_and_nothing_else() {
        let pattern = Pattern::try_from("no (|new (big|small) )mass".to_owned()).unwrap();
        let mut random = Random::stream(1, "x");
        let drawn: BTreeSet<String> = (0..200).map(|_| pattern.draw(&mut random)).collect();
        let expected = ["no mass", "no new big mass", "no new small mass"];
        assert!(drawn.iter().eq(expected), "{drawn:?}");
    }

    #[test]
    fn brackets_that_do_not_match_are_refused_with_the_text() {
        for text in ["a (b", "a) b", "a (b|(c)"] {
            let error = Pattern::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(text) && error.contains("bracket"), "{error}");
        }
    }
}
