//! The ids of the pieces of a prompt, by the rules of the bundle.

use super::super::prompt::IMAGE;
use super::super::rules::{BlankRule, ImageRule, MARKER, TokenizerRules};
use super::{InputPiece, LlamaTokenizer, TokenContent, TokenizerError, is_space};

impl LlamaTokenizer {
    /// What is written for an image, and how many placeholder ids it gives.
    pub(super) fn written_image(&self) -> (&'static str, usize) {
        match self.rules.image {
            ImageRule::Placeholders => (IMAGE, 1),
            ImageRule::Marker => (MARKER, self.image_tokens),
        }
    }

    /// The same with other rules, for images of so many tokens.
    pub fn with_rules(self, rules: TokenizerRules, image_tokens: usize) -> Self {
        Self {
            rules,
            image_tokens,
            ..self
        }
    }

    /// The ids of the text at this place of the pieces.
    pub(super) fn encode_text(
        &self,
        pieces: &[InputPiece],
        index: usize,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let special = |index: usize| match pieces.get(index) {
            Some(InputPiece::Special(id)) => Some(*id),
            _ => None,
        };
        let before = index.checked_sub(1).and_then(special);
        let is_image = |id: Option<u32>| id == Some(self.image);
        match self.rules.image {
            ImageRule::Marker if is_image(before) => self.encode_plain(text),
            ImageRule::Marker => self.encode_after(before, text),
            ImageRule::Placeholders => {
                // The published tokenizer takes white space away beside an image.
                let trims = !self.segmentation.is_byte_level();
                let text = match trims && is_image(before) {
                    true => text.trim_start_matches(is_space),
                    false => text,
                };
                let text = match trims && is_image(special(index + 1)) {
                    true => text.trim_end_matches(is_space),
                    false => text,
                };
                self.encode_after(before, text)
            }
        }
    }

    /// A text behind a special token, or the first one.
    fn encode_after(&self, before: Option<u32>, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match self.rules.after_special {
            BlankRule::TakenAgain if before.is_some() && !text.starts_with(' ') => {
                let mut ids = self.encode_plain(text)?;
                if let Some(first) = ids.first().copied() {
                    match self.without_blank(first) {
                        Some(id) => ids[0] = id,
                        None => drop(ids.remove(0)),
                    }
                }
                Ok(ids)
            }
            BlankRule::Absent if before.is_some() => self.segmentation.encode_bare(text),
            _ => self.encode_plain(text),
        }
    }

    /// The piece that is left of a piece without its first blank, `<unk>` where there is no such piece; none of a blank alone.
    fn without_blank(&self, id: u32) -> Option<u32> {
        let Some(TokenContent::Text(piece)) = self.contents.get(id as usize) else {
            return Some(id);
        };
        let Some(rest) = piece.strip_prefix(' ') else {
            return Some(id);
        };
        if rest.is_empty() {
            return None;
        }
        let is_rest =
            |content: &TokenContent| matches!(content, TokenContent::Text(text) if text == rest);
        let found = self.contents.iter().position(is_rest);
        Some(found.map_or(self.pad, |id| id as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizers::{Prompt, PromptSegment, synthetic};

    fn tokenizer(rules: TokenizerRules) -> LlamaTokenizer {
        LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json)
            .unwrap()
            .with_rules(rules, 3)
    }

    #[test]
    fn a_marker_is_all_placeholders_of_an_image_and_keeps_the_white_space_around_it() {
        let tokenizer = tokenizer(TokenizerRules::v2(false));
        let image = [tokenizer.image_id(); 3];
        let ids = tokenizer.encode("see <image>. <IMG>").unwrap();
        let plain = |text: &str| tokenizer.encode_plain(text).unwrap();
        let expected = [&[1][..], &plain("see "), &image, &plain(". <IMG>")].concat();
        assert_eq!(ids, expected);
        assert_eq!(
            tokenizer.encode("<image>").unwrap(),
            [&[1][..], &image].concat()
        );
    }

    #[test]
    fn an_assembled_prompt_has_the_ids_of_its_written_form_under_every_rule() {
        for image in [ImageRule::Placeholders, ImageRule::Marker] {
            for after_special in [BlankRule::Added, BlankRule::TakenAgain, BlankRule::Absent] {
                let rules = TokenizerRules {
                    image,
                    after_special,
                };
                let tokenizer = tokenizer(rules);
                let mut prompt = Prompt::text("USER: ");
                prompt.push_segment(PromptSegment::Image { tokens: 3 });
                prompt.push_text(". no ASSISTANT: yes");
                prompt.push_segment(PromptSegment::End);
                prompt.push_text("USER: lung ASSISTANT:");
                let written = prompt.written(image);
                let assembled = tokenizer.encode_prompt(&prompt).unwrap();
                assert_eq!(assembled, tokenizer.encode(&written).unwrap(), "{written}");
            }
        }
    }
}
