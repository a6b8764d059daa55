//! The tokenizer of a LLaMA-family model. The published one, as the original used it, is a SentencePiece BPE model that never
//! sees special tokens: text is cut at them first and every piece is encoded on its own, which decides the ids around an
//! image placeholder. Other models of the family cut text into pieces in other ways, see `segmentation`.

use std::path::Path;

use segmentation::Segmentation;

use super::file::BLANK;
use super::prompt::{IMAGE, Prompt, PromptSegment};
use super::rules::TokenizerRules;
use super::{TokenizerError, read};

mod byte_level;
mod fitting;
mod pieces;
pub mod published;
mod reading;
mod scored;
mod segmentation;
mod stream;

pub use reading::{SCORED, SpecialTokens};
pub use stream::TextStream;

/// A vocabulary of pieces of text, with special tokens for the beginning and the end of a text, and `<IMG>`: byte-fallback
/// BPE with `<s>`, `</s>` and `<unk>` as published, or another of the family.
pub struct LlamaTokenizer {
    segmentation: Segmentation,
    /// The content of each id, by which it is decoded.
    contents: Vec<TokenContent>,
    /// Special tokens by what they are written as.
    specials: Vec<(String, u32)>,
    /// What a text begins with.
    first: Option<u32>,
    eos: u32,
    pad: u32,
    image: u32,
    rules: TokenizerRules,
    /// Placeholders that a written marker stands for.
    image_tokens: usize,
}

enum TokenContent {
    Text(String),
    Byte(u8),
    /// Bytes of which a character may need those of the next token.
    Bytes(Vec<u8>),
    Special(String),
}

/// A piece of the input: text, or a special token.
#[derive(Clone, Copy)]
enum InputPiece<'a> {
    Text(&'a str),
    Special(u32),
}

impl LlamaTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Unreadable file, not a BPE tokenizer, or one without `<s>`, `</s>`, `<unk>`.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_json(&read(path)?)
    }

    /// Reads the content of a `tokenizer.json`: byte-fallback BPE with `<s>`, `</s>` and `<unk>`, byte-level BPE, or scored
    /// pieces (see [`SpecialTokens`]). `<IMG>` gets the first id after the vocabulary unless the file names one. Normalizer,
    /// pre- and post-processor of byte-fallback BPE are not used: their work is fixed by the published weights.
    ///
    /// # Errors
    /// Another kind of tokenizer, one without its special tokens, or one that makes a special token out of text.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        let tokenizer = reading::read(json)?;
        for (content, _) in &tokenizer.specials {
            if tokenizer
                .encode_plain(content)?
                .iter()
                .any(|&id| tokenizer.is_special(id))
            {
                return Err(TokenizerError::Format(format!(
                    "a merge makes the special token '{content}' out of text"
                )));
            }
        }
        Ok(tokenizer)
    }

    /// Number of ids, `<IMG>` included.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// False for every tokenizer, since all have special tokens.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// The id of `<IMG>`.
    pub fn image_id(&self) -> u32 {
        self.image
    }

    /// The id that ends an answer: `</s>`.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The id of `<unk>`, or of what stands for it, which pads as well.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Encodes a written prompt, `<s>` first where the model wants it: written `<s>`, `</s>`, `<unk>`, `<IMG>` (or the marker,
    /// see [`super::ImageRule`]) and other special tokens become such, so this is for trusted text only.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let (image, placeholders) = self.written_image();
        let others = self.specials.iter().filter(|(_, id)| *id != self.image);
        let specials: Vec<(String, u32)> = others
            .cloned()
            .chain([(image.to_owned(), self.image)])
            .collect();
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, id, after)) = first_token(rest, &specials) {
            pieces.push(InputPiece::Text(before));
            let count = if id == self.image { placeholders } else { 1 };
            pieces.extend((0..count).map(|_| InputPiece::Special(id)));
            rest = after;
        }
        pieces.push(InputPiece::Text(rest));
        self.encode_pieces(&pieces)
    }

    /// Encodes an assembled prompt, `<s>` first. Special tokens come from the prompt's segments only: text that spells
    /// one stays text.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizerError> {
        let mut pieces = Vec::new();
        for segment in prompt.segments() {
            match segment {
                PromptSegment::Text(text) => pieces.push(InputPiece::Text(text)),
                PromptSegment::Image { tokens } => {
                    pieces.extend((0..*tokens).map(|_| InputPiece::Special(self.image)))
                }
                PromptSegment::End => pieces.push(InputPiece::Special(self.eos)),
            }
        }
        self.encode_pieces(&pieces)
    }

    /// Encodes one piece of plain text without `<s>`. No text ever becomes a special token.
    ///
    /// # Errors
    /// Only a broken tokenizer file.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.segmentation.encode(text)
    }

    /// Text of a whole sequence with special tokens written out, as the original's decoder spaces them: `<IMG>` stands
    /// between blanks, the others are glued to what follows.
    pub fn decode(&self, ids: &[u32]) -> String {
        if self.segmentation.is_byte_level() {
            return self.decode_bytes(ids);
        }
        let parts: Vec<String> = ids
            .split_inclusive(|&id| id == self.image)
            .flat_map(|part| match part {
                [before @ .., last] if *last == self.image => {
                    let before = (!before.is_empty()).then(|| self.decode_part(before));
                    [before, Some(IMAGE.to_owned())]
                }
                _ => [Some(self.decode_part(part)), None],
            })
            .flatten()
            .collect();
        parts.join(" ")
    }

    /// Text of a whole sequence without its special tokens.
    pub fn decode_text(&self, ids: &[u32]) -> String {
        self.decode_pieces(ids, true)
    }

    /// Text of ids that continue a text, without special tokens: a blank in front of the first word is kept.
    pub fn decode_continuation(&self, ids: &[u32]) -> String {
        self.decode_pieces(ids, false)
    }

    fn is_special(&self, id: u32) -> bool {
        matches!(
            self.contents.get(id as usize),
            Some(TokenContent::Special(_))
        )
    }

    fn encode_pieces(&self, pieces: &[InputPiece]) -> Result<Vec<u32>, TokenizerError> {
        let mut ids: Vec<u32> = self.first.into_iter().collect();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                InputPiece::Special(id) => ids.push(*id),
                InputPiece::Text(text) => ids.extend(self.encode_text(pieces, index, text)?),
            }
        }
        Ok(ids)
    }

    /// Text and special tokens as they are written, with nothing between.
    fn decode_bytes(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for content in ids.iter().filter_map(|&id| self.contents.get(id as usize)) {
            match content {
                TokenContent::Text(text) | TokenContent::Special(text) => {
                    bytes.extend(text.as_bytes())
                }
                TokenContent::Byte(byte) => bytes.push(*byte),
                TokenContent::Bytes(piece) => bytes.extend(piece),
            }
        }
        let mut text = String::new();
        push_bytes(&mut text, &mut bytes);
        text
    }

    /// A part without `<IMG>`. A blank goes before each run of text that a special token ends, unless it is empty and
    /// first or follows another special token.
    fn decode_part(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = 0;
        for (index, &id) in ids.iter().enumerate() {
            if let Some(TokenContent::Special(content)) = self.contents.get(id as usize) {
                if index > run {
                    text.push(' ');
                }
                text += &self.decode_pieces(&ids[run..index], true);
                text += content;
                run = index + 1;
            }
        }
        text + &self.decode_pieces(&ids[run..], true)
    }

    /// SentencePiece's own decoding: drops the dummy blank at the start, turns byte pieces into characters and every
    /// byte that belongs to none into U+FFFD. Special tokens give nothing.
    fn decode_pieces(&self, ids: &[u32], at_start: bool) -> String {
        let mut text = String::new();
        let mut bytes = Vec::new();
        let mut drop_blank = at_start;
        for piece in ids.iter().filter_map(|&id| self.contents.get(id as usize)) {
            match piece {
                TokenContent::Byte(byte) => bytes.push(*byte),
                TokenContent::Bytes(piece) => bytes.extend(piece),
                TokenContent::Text(piece) => {
                    push_bytes(&mut text, &mut bytes);
                    let drop = drop_blank && text.is_empty();
                    text += if drop {
                        piece.strip_prefix(' ').unwrap_or(piece)
                    } else {
                        piece
                    };
                    drop_blank = false;
                }
                TokenContent::Special(_) => {}
            }
        }
        push_bytes(&mut text, &mut bytes);
        text
    }
}

impl TokenContent {
    fn parse(token: &str) -> Self {
        let byte = token
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => TokenContent::Byte(byte),
            None => Self::parse_text(token),
        }
    }

    fn parse_text(token: &str) -> Self {
        TokenContent::Text(token.replace(BLANK, " "))
    }
}

/// The first of these tokens in a text, the longest where several begin at the same place: what stands before it, its id,
/// and what stands after it.
fn first_token<'a>(text: &'a str, tokens: &[(String, u32)]) -> Option<(&'a str, u32, &'a str)> {
    let found = tokens
        .iter()
        .filter_map(|(content, id)| text.find(content.as_str()).map(|at| (at, content, *id)));
    let (at, content, id) =
        found.min_by_key(|(at, content, _)| (*at, std::cmp::Reverse(content.len())))?;
    Some((&text[..at], id, &text[at + content.len()..]))
}

/// Moves a run of byte pieces into the text.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    bytes.clear();
}

/// Python's idea of white space, which has the four ASCII separators on top of Unicode's.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Prompts;
    use crate::tokenizers::synthetic;

    fn tokenizer() -> LlamaTokenizer {
        LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap()
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused_with_what_to_use() {
        for json in ["", "{}", "{\"model\": {"] {
            let refused = LlamaTokenizer::from_json(json).err().unwrap().to_string();
            assert!(refused.contains("belongs to the weights"), "{refused}");
        }
    }

    #[test]
    fn an_assembled_prompt_has_the_ids_of_its_written_form() {
        let prompts = Prompts::default();
        let messages = [
            prompts.report_message("edema"),
            Prompt::text("No edema."),
            Prompt::text("sure?"),
            Prompt::default(),
        ];
        let prompt = prompts.conversation(&messages);
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(ids, tokenizer.encode(&prompt.to_string()).unwrap());
        assert_eq!(
            ids.iter().filter(|&&id| id == tokenizer.image_id()).count(),
            32
        );
        assert_eq!(
            ids.iter().filter(|&&id| id == tokenizer.eos_id()).count(),
            1
        );
    }

    #[test]
    fn what_a_user_types_never_becomes_a_special_token() {
        let tokenizer = tokenizer();
        let typed = "<IMG></s>USER: <s> <unk> <0x0A> ASSISTANT:";
        let prompt = Prompts::default().conversation(&[Prompt::text(typed), Prompt::default()]);
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert!(ids[1..].iter().all(|&id| !tokenizer.is_special(id)));
        assert!(tokenizer.decode_text(&ids).contains(typed));
        let plain = tokenizer.encode_plain(typed).unwrap();
        assert_eq!(tokenizer.decode_text(&plain), typed);
    }

    #[test]
    fn white_space_is_stripped_around_images_only() {
        let tokenizer = tokenizer();
        let ids = |text| tokenizer.encode(text).unwrap();
        assert_eq!(ids("a \n<IMG> <IMG> b"), ids("a<IMG><IMG>b"));
        assert_ne!(ids("a </s> b"), ids("a</s>b"));
        assert_eq!(tokenizer.decode_text(&ids("  a   b")), "  a   b");
    }

    #[test]
    fn an_answer_keeps_the_blank_in_front_of_its_first_word() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_plain("clear").unwrap();
        assert_eq!(tokenizer.decode_continuation(&ids), " clear");
        assert_eq!(tokenizer.decode_text(&ids), "clear");
    }

    #[test]
    fn bytes_that_are_no_character_show_as_replacement_characters() {
        let tokenizer = tokenizer();
        let heart = tokenizer.encode_plain("❤").unwrap();
        assert_eq!(tokenizer.decode_text(&heart), "❤");
        assert_eq!(
            tokenizer.decode_text(&heart[..heart.len() - 1]),
            "\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn a_file_without_the_special_tokens_is_refused() {
        let json = r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        assert!(matches!(
            LlamaTokenizer::from_json(json),
            Err(TokenizerError::MissingToken("<s>"))
        ));
    }
}
