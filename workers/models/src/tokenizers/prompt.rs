//! A prompt as the language model's tokenizer takes it: text, in which nothing can become a special token, and the special
//! tokens between.

use std::fmt;

use super::rules::{ImageRule, MARKER};

/// Stands for one of the image tokens in a written prompt.
pub const IMAGE: &str = "<IMG>";

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptSegment {
    /// Plain text; it cannot become a special token, whatever it spells.
    Text(String),
    /// The place of one image.
    Image {
        /// Number of placeholder tokens.
        tokens: usize,
    },
    /// The end of an assistant's turn, `</s>`.
    End,
}

/// An assembled prompt, or one message of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt(Vec<PromptSegment>);

impl Prompt {
    /// Whether there are no segments.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Plain text, e.g. what a user typed.
    pub fn text(text: &str) -> Self {
        let mut prompt = Self::default();
        prompt.push_text(text);
        prompt
    }

    /// The stretches in order; no two texts are neighbours and none is empty.
    pub fn segments(&self) -> &[PromptSegment] {
        &self.0
    }

    /// The prompt for people: as it is written, but with one `<IMG>` for an image.
    pub fn readable(&self) -> String {
        let short = self.0.iter().map(|segment| match segment {
            PromptSegment::Image { .. } => PromptSegment::Image { tokens: 1 },
            other => other.clone(),
        });
        Self(short.collect()).to_string()
    }

    /// The prompt as it is written where images stand in texts by this rule: in data sets, for a tokenizer of the same rule.
    pub fn written(&self, image: ImageRule) -> String {
        match image {
            ImageRule::Placeholders => self.to_string(),
            ImageRule::Marker => {
                let segments = self.0.iter().map(|segment| match segment {
                    PromptSegment::Image { .. } => MARKER.to_owned(),
                    other => Self(vec![other.clone()]).to_string(),
                });
                segments.collect()
            }
        }
    }

    /// Appends the segments of another prompt.
    pub(crate) fn push(&mut self, other: &Prompt) {
        for segment in &other.0 {
            match segment {
                PromptSegment::Text(text) => self.push_text(text),
                other => self.0.push(other.clone()),
            }
        }
    }

    /// Appends a segment that is no text.
    pub(crate) fn push_segment(&mut self, segment: PromptSegment) {
        self.0.push(segment);
    }

    /// Appends text to the last segment, or as a new one.
    pub(crate) fn push_text(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(PromptSegment::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.0.push(PromptSegment::Text(text.to_owned())),
        }
    }
}

/// The written form, in which `<IMG>` and `</s>` stand for special tokens.
impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            PromptSegment::Text(text) => f.write_str(text),
            PromptSegment::Image { tokens } => f.write_str(&IMAGE.repeat(*tokens)),
            PromptSegment::End => f.write_str("</s>"),
        })
    }
}
