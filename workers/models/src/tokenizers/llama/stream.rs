//! The text of an answer, token by token. Characters that are made of bytes come out when they are whole.

use super::{LlamaTokenizer, TokenContent, push_bytes};

/// Text that is being written. All that it gives out, one after the other, is
/// [`LlamaTokenizer::decode_continuation`] of all its ids.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The beginning of a character.
    bytes: Vec<u8>,
}

impl TextStream {
    /// The text that one more token adds: nothing in the middle of a character.
    pub fn push(&mut self, tokenizer: &LlamaTokenizer, id: u32) -> String {
        let mut text = String::new();
        match tokenizer.contents.get(id as usize) {
            Some(TokenContent::Byte(byte)) => {
                self.bytes.push(*byte);
                self.take_whole(&mut text);
            }
            Some(TokenContent::Bytes(bytes)) => {
                self.bytes.extend(bytes);
                self.take_whole(&mut text);
            }
            Some(TokenContent::Text(piece)) => {
                push_bytes(&mut text, &mut self.bytes);
                text += piece;
            }
            Some(TokenContent::Special(_)) | None => {}
        }
        text
    }

    /// The text that is left when no more tokens come: a character that was begun and not ended.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        push_bytes(&mut text, &mut self.bytes);
        text
    }

    /// Moves everything into the text but a beginning that further bytes may complete.
    fn take_whole(&mut self, text: &mut String) {
        let whole = match self.bytes.utf8_chunks().last().map(|chunk| chunk.invalid()) {
            Some(open) if !open.is_empty() && is_beginning(open) => self.bytes.len() - open.len(),
            _ => self.bytes.len(),
        };
        let rest = self.bytes.split_off(whole);
        push_bytes(text, &mut self.bytes);
        self.bytes = rest;
    }
}

/// Whether more bytes can make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizers::synthetic;

    fn tokenizer() -> LlamaTokenizer {
        LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap()
    }

    /// The id of a byte in the synthetic vocabulary.
    fn byte(byte: u8) -> u32 {
        3 + u32::from(byte)
    }

    fn stream(tokenizer: &LlamaTokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = TextStream::default();
        let mut texts: Vec<_> = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
        texts.push(stream.finish());
        texts
    }

    #[test]
    fn a_character_comes_when_it_is_whole_and_the_first_blank_stays() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_plain("no ❤").unwrap();
        assert_eq!(stream(&tokenizer, &ids), [" no", " ", "", "", "❤", ""]);
    }

    #[test]
    fn streamed_text_is_the_text_of_all_ids_whatever_they_are() {
        let tokenizer = tokenizer();
        let word = tokenizer.encode_plain("lung").unwrap()[0];
        let mut state = 7u64;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let hard = [
            0xE2, 0x9D, 0xA4, 0xF0, 0x9F, 0x80, 0xC3, 0xED, 0xA0, 0xFF, 0x41,
        ];
        for _ in 0..500 {
            let ids: Vec<u32> = (0..12)
                .map(|_| match draw(10) {
                    0 => word,
                    1 => tokenizer.eos_id(),
                    2 => draw(2050) as u32,
                    _ => byte(hard[draw(hard.len() as u64) as usize]),
                })
                .collect();
            assert_eq!(
                stream(&tokenizer, &ids).concat(),
                tokenizer.decode_continuation(&ids),
                "{ids:?}"
            );
        }
    }
}
