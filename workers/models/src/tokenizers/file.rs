//! Vocabularies as the content of a `tokenizer.json`, in the two shapes that the models read.

use serde_json::{Value, json};

/// SentencePiece's visible blank; put in front of every piece of text.
pub const BLANK: char = '\u{2581}';

/// The pieces that every LLaMA vocabulary of ours starts with: special tokens, bytes, the blank and printable ASCII.
pub fn llama_base() -> Vec<String> {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    pieces.extend((0..=255u8).map(|byte| format!("<{byte:#04X}>")));
    pieces.extend(std::iter::once(BLANK).chain('!'..='~').map(String::from));
    pieces
}

/// A byte-fallback BPE vocabulary: [`llama_base`] and then what merges make, and the merges (`left right`), the first to be
/// done first.
pub fn llama(pieces: &[String], merges: &[String]) -> String {
    let json = json!({
        "version": "1.0",
        "added_tokens": [special(0, &pieces[0]), special(1, &pieces[1]), special(2, &pieces[2])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": BLANK},
            {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
        ]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocabulary(pieces), "merges": merges},
    });
    json.to_string()
}

/// An uncased WordPiece vocabulary; those of `specials` that it has are special tokens.
pub fn bert(pieces: &[String], specials: &[&str]) -> String {
    let is_special = |piece: &str| specials.contains(&piece);
    let added = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| is_special(piece));
    let added: Vec<Value> = added.map(|(id, piece)| special(id, piece)).collect();
    let json = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary(pieces)},
    });
    json.to_string()
}

fn special(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

fn vocabulary(pieces: &[String]) -> Value {
    pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.clone(), Value::from(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
