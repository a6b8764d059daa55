use std::fs;

use radialog_models::tokenizers::{BertTokenizer, LlamaTokenizer};

use super::*;

/// Sentences of the collection (Open-i), the last of another side.
const TABLE: &str = "study_id,split,findings\n\
    1,train,\"The lungs are clear. No pneumothorax or pleural effusion.\"\n\
    2,train,\"The heart is normal in size; 2.6 cm nodule.\"\n\
    3,train,\"No pleural effusion. Naïve 胸 lungs.\"\n\
    4,test,\"Zygapophysis zygapophysis zygapophysis.\"\n";

fn made(kind: TokenizerKind, size: usize) -> (String, usize) {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("reports.csv");
    fs::write(&table, TABLE).unwrap();
    let out = dir.path().join("tokenizer.json");
    let vocabulary = TokenizerTrainer {
        texts: vec![(table, "findings".to_owned())],
        size,
        kind,
    };
    let size = vocabulary.write(&out).unwrap();
    (fs::read_to_string(out).unwrap(), size)
}

#[test]
fn a_llama_vocabulary_round_trips_every_text_and_has_its_image_token_last() {
    let (json, size) = made(TokenizerKind::Bpe, 600);
    let tokenizer = LlamaTokenizer::from_json(&json).unwrap();
    assert_eq!(
        (size, tokenizer.image_id() as usize, tokenizer.len()),
        (600, 600, 601)
    );
    for text in TABLE.lines().chain([
        "  two  blanks ",
        "Ünïcode 胸 <s> <IMG>",
        "line\nbreak",
        "A(b)…",
    ]) {
        assert_eq!(
            tokenizer.decode_text(&tokenizer.encode_plain(text).unwrap()),
            text
        );
    }
}

#[test]
fn words_of_the_prompt_are_one_id_each() {
    let (json, _) = made(TokenizerKind::Bpe, 1500);
    let tokenizer = LlamaTokenizer::from_json(&json).unwrap();
    for word in ["radiologist", "ASSISTANT", "pneumothorax"] {
        assert_eq!(tokenizer.encode_plain(word).unwrap().len(), 1, "{word}");
    }
}

#[test]
fn a_bert_vocabulary_is_uncased_and_knows_its_special_tokens() {
    let (json, size) = made(TokenizerKind::WordPiece { decoder: true }, 160);
    let tokenizer = BertTokenizer::from_json(&json).unwrap();
    assert_eq!((tokenizer.len(), tokenizer.pad_id()), (size, 0));
    let with_decoder = BertTokenizer::from_json(&json)
        .unwrap()
        .with_decoder_token()
        .unwrap();
    assert_eq!(
        with_decoder.len(),
        size,
        "[DEC] is in the vocabulary already"
    );
    let ids = |text: &str| tokenizer.encode(text, 64).unwrap();
    assert_eq!(ids("No PLEURAL effusion."), ids("no pleural effusion ."));
    assert!(
        ids("No pleural effusion.").len() <= 7,
        "{:?}",
        ids("No pleural effusion.")
    );
    let (labeler, size) = made(TokenizerKind::WordPiece { decoder: false }, 160);
    assert_eq!(
        BertTokenizer::from_json(&labeler)
            .unwrap()
            .with_decoder_token()
            .unwrap()
            .len(),
        size + 1
    );
}

#[test]
fn the_same_texts_give_the_same_file_and_other_sides_are_not_read() {
    for kind in [
        TokenizerKind::Bpe,
        TokenizerKind::WordPiece { decoder: false },
    ] {
        let (json, _) = made(kind, 1500);
        assert_eq!(json, made(kind, 1500).0);
        assert!(
            json.contains("effusion") && !json.contains("zyga"),
            "{kind:?}"
        );
    }
}

#[test]
fn a_size_without_room_for_characters_is_refused_with_the_least() {
    let vocabulary = |texts| TokenizerTrainer {
        texts,
        size: 100,
        kind: TokenizerKind::Bpe,
    };
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("reports.csv");
    fs::write(&table, TABLE).unwrap();
    let out = dir.path().join("tokenizer.json");
    let error = vocabulary(vec![(table.clone(), "findings".to_owned())])
        .write(&out)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--vocab 100") && error.contains("354"),
        "{error}"
    );
    let error = vocabulary(vec![(table, "report".to_owned())])
        .write(&out)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1") && error.contains("'report'") && error.contains("findings"),
        "{error}"
    );
}
