//! SentencePiece's `tokenizer.model`: a protocol buffer of pieces with their scores and kinds, and of settings. It becomes a
//! `tokenizer.json` of scored pieces, which segments a text as SentencePiece does.

use serde_json::{Value, json};

use super::TokenizerError;
use super::llama::{SCORED, SpecialTokens};

/// The model types that its settings number; LLaMA's is byte-pair encoding.
const BPE: u64 = 2;

/// Pieces of a vocabulary; the largest ones have some hundred thousand.
const MOST_PIECES: usize = 1 << 20;

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// What matters of a model.
struct Model {
    pieces: Vec<(String, f32, u64)>,
    model_type: u64,
    unknown: u64,
    first: u64,
    end: u64,
    rules: usize,
    dummy_prefix: bool,
    remove_extra_blanks: bool,
    escape_blanks: bool,
    blank_behind: bool,
}

/// The content of a `tokenizer.json` with the pieces of a `tokenizer.model`.
///
/// # Errors
/// Not such a file, a damaged one, or a model of another type or with other settings than LLaMA's (each is named).
pub fn to_json(content: &[u8]) -> Result<String, TokenizerError> {
    let model = Model::parse(content).ok_or_else(|| {
        fault("it is no SentencePiece model, or is damaged: download it again".into())
    })?;
    model.check()?;
    let id = |id: u64| u32::try_from(id).ok();
    let special = SpecialTokens {
        first: id(model.first),
        end: id(model.end).ok_or_else(|| fault("it has no end token".into()))?,
        unknown: id(model.unknown),
        space_prefix: model.dummy_prefix,
    };
    let pieces: Vec<Value> = model
        .pieces
        .iter()
        .map(|(piece, score, kind)| json!([piece, score, kind]))
        .collect();
    let json = json!({"model": {"type": SCORED, "pieces": pieces}, "special_tokens": special});
    Ok(json.to_string())
}

impl Model {
    fn parse(content: &[u8]) -> Option<Self> {
        // The defaults of the format.
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            unknown: 0,
            first: 1,
            end: 2,
            rules: 0,
            dummy_prefix: true,
            remove_extra_blanks: true,
            escape_blanks: true,
            blank_behind: false,
        };
        for_each(content, |number, field| {
            match (number, field) {
                (1, Field::Bytes(piece)) => model.piece(piece)?,
                (2, Field::Bytes(trainer)) => for_each(trainer, |number, field| {
                    match (number, field) {
                        (3, Field::Number(value)) => model.model_type = value,
                        (24, Field::Number(value)) => model.blank_behind = value != 0,
                        (40, Field::Number(value)) => model.unknown = value,
                        (41, Field::Number(value)) => model.first = value,
                        (42, Field::Number(value)) => model.end = value,
                        _ => {}
                    }
                    Some(())
                })?,
                (3, Field::Bytes(normalizer)) => for_each(normalizer, |number, field| {
                    match (number, field) {
                        (2, Field::Bytes(rules)) => model.rules = rules.len(),
                        (3, Field::Number(value)) => model.dummy_prefix = value != 0,
                        (4, Field::Number(value)) => model.remove_extra_blanks = value != 0,
                        (5, Field::Number(value)) => model.escape_blanks = value != 0,
                        _ => {}
                    }
                    Some(())
                })?,
                _ => {}
            }
            Some(())
        })?;
        (!model.pieces.is_empty()).then_some(model)
    }

    fn piece(&mut self, message: &[u8]) -> Option<()> {
        let (mut text, mut score, mut kind) = (None, 0.0, 1);
        for_each(message, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => text = Some(String::from_utf8(bytes.to_vec()).ok()?),
                (2, Field::Float(value)) => score = value,
                (3, Field::Number(value)) => kind = value,
                _ => {}
            }
            Some(())
        })?;
        let room = self.pieces.len() < MOST_PIECES && score.is_finite();
        self.pieces.push((text?, score, kind));
        room.then_some(())
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let rules = [
            (self.model_type == BPE, "its model is not of the type BPE"),
            (self.rules == 0, "it normalises texts by rules of its own"),
            (!self.remove_extra_blanks, "it removes blanks"),
            (self.escape_blanks, "it does not mark blanks"),
            (!self.blank_behind, "it marks blanks behind a word"),
            (
                [self.unknown, self.end]
                    .iter()
                    .all(|id| (*id as usize) < self.pieces.len()),
                "it has no token for the unknown or for the end",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(fault(format!(
                "{what}, and LLaMA's tokenizer does otherwise"
            ))),
            None => Ok(()),
        }
    }
}

/// Calls `take` with each field of a message and its number; nothing where the message is damaged.
fn for_each(mut message: &[u8], mut take: impl FnMut(u64, Field<'_>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => {
                split(&mut message, 8)?;
                continue;
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Field::Bytes(split(&mut message, length)?)
            }
            5 => Field::Float(f32::from_le_bytes(split(&mut message, 4)?.try_into().ok()?)),
            _ => return None,
        };
        take(tag >> 3, field)?;
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = split(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn split<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(first)
}

fn fault(reason: String) -> TokenizerError {
    TokenizerError::Format(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message's field of bytes.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn model(trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
        let piece = |text: &str, score: f32, kind: u8| {
            let score = [&[2 << 3 | 5], score.to_le_bytes().as_slice()].concat();
            let message = [bytes(1, text.as_bytes()), score, vec![3 << 3, kind]].concat();
            bytes(1, &message)
        };
        let pieces = [
            piece("<unk>", 0.0, 2),
            piece("<s>", 0.0, 3),
            piece("</s>", 0.0, 3),
            piece("\u{2581}a", -1.0, 1),
        ];
        [pieces.concat(), bytes(2, trainer), bytes(3, normalizer)].concat()
    }

    const BPE_MODEL: &[u8] = &[3 << 3, 2];
    const KEEPS_BLANKS: &[u8] = &[4 << 3, 0];

    #[test]
    fn pieces_scores_and_kinds_are_read() {
        let json = to_json(&model(BPE_MODEL, KEEPS_BLANKS)).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["model"]["pieces"][3], json!(["\u{2581}a", -1.0, 1]));
        assert_eq!(
            json["special_tokens"],
            json!({"first": 1, "end": 2, "unknown": 0})
        );
    }

    #[test]
    fn other_models_and_damaged_files_are_refused() {
        let refusal = |content: &[u8]| to_json(content).unwrap_err().to_string();
        assert!(refusal(&model(&[], KEEPS_BLANKS)).contains("not of the type BPE"));
        assert!(refusal(&model(BPE_MODEL, &[])).contains("it removes blanks"));
        assert!(refusal(b"<html>").contains("no SentencePiece model"));
        let whole = model(BPE_MODEL, KEEPS_BLANKS);
        for length in 0..whole.len() {
            assert!(to_json(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
