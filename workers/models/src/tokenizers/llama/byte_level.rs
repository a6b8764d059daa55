//! Byte-level BPE (Radford et al., 2019): text is cut into words by a pattern, each byte of a word is written as one printable
//! character, and neighbours are merged by rank. No text is unknown to it.

use std::collections::HashMap;

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::super::TokenizerError;

/// The model part of a `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct ByteLevelModel {
    pub(super) vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
}

/// Two pieces that are merged: in an older file one text, in a newer a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair((String, String)),
}

/// The two steps from text to ids.
pub(super) struct ByteLevelBpe {
    words: PreTokenizerWrapper,
    model: BPE,
}

impl ByteLevelBpe {
    /// A vocabulary without the tokens of these ids, so that no text can become one of them.
    pub(super) fn new(
        words: PreTokenizerWrapper,
        model: ByteLevelModel,
        special: &[u32],
    ) -> Result<Self, TokenizerError> {
        let vocabulary = model
            .vocab
            .into_iter()
            .filter(|(_, id)| !special.contains(id));
        let merges = model.merges.into_iter().map(|merge| match merge {
            Merge::Pair(pair) => Ok(pair),
            Merge::Joined(joined) => match joined.split_once(' ') {
                Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
                None => Err(TokenizerError::Format(format!(
                    "the merge '{joined}' has no blank"
                ))),
            },
        });
        let merges: Vec<_> = merges.collect::<Result<_, _>>()?;
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.collect::<Vocab>(), merges)
            .ignore_merges(model.ignore_merges)
            .build()
            .map_err(|error| TokenizerError::Format(error.to_string()))?;
        Ok(Self { words, model })
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let failed = |error: tokenizers::Error| TokenizerError::Encode(error.to_string());
        let mut words = PreTokenizedString::from(text);
        self.words.pre_tokenize(&mut words).map_err(failed)?;
        let mut ids = Vec::new();
        for (word, ..) in words.get_splits(OffsetReferential::Original, OffsetType::None) {
            let tokens = self.model.tokenize(word).map_err(failed)?;
            ids.extend(tokens.into_iter().map(|token| token.id));
        }
        Ok(ids)
    }
}

/// The bytes that a token's characters stand for; those of the text itself where one of them stands for none.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    let each = token.chars().map(byte);
    each.collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a character: printable ones of Latin-1 stand for themselves, the 68 others are counted from U+0100.
fn byte(character: char) -> Option<u8> {
    let is_itself = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code if is_itself(code) => Some(code as u8),
        code if code >= 0x100 => (0..=0xff_u32)
            .filter(|code| !is_itself(*code))
            .nth(code as usize - 0x100)
            .map(|code| code as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character_as_in_gpt_2() {
        assert_eq!(bytes("Ġa"), b" a");
        assert_eq!(bytes("Ċ"), b"\n");
        assert_eq!(bytes("ĠèĤº"), " 肺".as_bytes());
        assert_eq!(bytes("a b"), b"a b", "no character of a byte");
        let characters: Vec<char> = ('\0'..='\u{143}')
            .filter(|character| byte(*character).is_some())
            .collect();
        let mut found: Vec<u8> = characters.into_iter().filter_map(byte).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=255).collect::<Vec<u8>>());
    }
}
