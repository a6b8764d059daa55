//! Tokenizers that files carry.

use candle_core::quantized::gguf_file::Value;

use super::super::Gguf;
use super::written::TinyLlama;
use crate::tokenizers::{LlamaTokenizer, TextStream};

fn texts<S: AsRef<str>>(texts: &[S]) -> Value {
    let texts = texts
        .iter()
        .map(|text| Value::String(text.as_ref().to_owned()));
    Value::Array(texts.collect())
}

fn json(llama: &TinyLlama) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&llama.write(dir.path())).unwrap();
    gguf.tokenizer().map_err(|error| error.to_string())
}

fn tokenizer(llama: &TinyLlama) -> LlamaTokenizer {
    LlamaTokenizer::from_json(&json(llama).unwrap()).unwrap()
}

/// All bytes, some merges, and two special tokens, with this pre-tokenizer.
fn byte_level(pre: Option<&str>) -> TinyLlama {
    let mut llama = TinyLlama::new();
    llama.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    if let Some(pre) = pre {
        llama.set("tokenizer.ggml.pre", Value::String(pre.into()));
    }
    let mut tokens = vec!["<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
    // The characters of bytes: printable ones of Latin-1, and 68 from U+0100 on.
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    tokens.extend(printable.chain('\u{100}'..='\u{143}').map(String::from));
    let merges = ["Ġ l", "u n", "Ġl un", "Ġlun g", "1 2", "Ġ Ġ", "' s", "! !"];
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![Value::I32(1); tokens.len()];
    kinds[..2].fill(Value::I32(3));
    llama.set("tokenizer.ggml.tokens", texts(&tokens));
    llama.set("tokenizer.ggml.token_type", Value::Array(kinds));
    llama.set("tokenizer.ggml.merges", texts(&merges));
    llama.set("tokenizer.ggml.bos_token_id", Value::U32(0));
    llama.set("tokenizer.ggml.eos_token_id", Value::U32(1));
    llama.remove("tokenizer.ggml.unknown_token_id");
    llama
}

#[test]
fn scored_pieces_encode_as_sentencepiece_does_and_come_back() {
    let tokenizer = tokenizer(&TinyLlama::new());
    assert_eq!(tokenizer.len(), 301);
    assert_eq!((tokenizer.image_id(), tokenizer.eos_id()), (300, 2));
    // The best scores are those of the lowest ids: "lu" and "ng" before "▁lu", which then are no "▁lung".
    let ids = tokenizer.encode_plain("lungs").unwrap();
    assert_eq!(tokenizer.decode_text(&ids), "lungs");
    assert_eq!(ids.len(), 2);
    for text in [
        "Ünïcode 胸 \n\t",
        "</s><s><unk><IMG>",
        "  two  blanks ",
        "lung",
    ] {
        let ids = tokenizer.encode_plain(text).unwrap();
        assert_eq!(tokenizer.decode_text(&ids), text);
        assert!(
            ids.iter().all(|id| *id > 2 && *id < 300),
            "no special token"
        );
    }
    assert_eq!(
        tokenizer.encode("a</s>").unwrap().last(),
        Some(&2),
        "trusted text"
    );
    assert_eq!(tokenizer.encode("a").unwrap()[0], 1, "it begins");
}

#[test]
fn a_blank_goes_before_a_text_unless_the_file_says_no() {
    let mut llama = TinyLlama::new();
    llama.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    llama.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    let without = tokenizer(&llama);
    let with = tokenizer(&TinyLlama::new());
    assert_eq!(
        without.encode("a lung").unwrap().len() + 2,
        with.encode("a lung").unwrap().len()
    );
}

#[test]
fn byte_level_pieces_encode_by_words_and_come_back_whatever_the_text() {
    let tokenizer = tokenizer(&byte_level(Some("smollm")));
    let whole = |text: &str| tokenizer.encode_plain(text).unwrap().len();
    assert_eq!(whole(" lung"), 1);
    assert_eq!(whole("12"), 2, "digits stand alone");
    assert_eq!(whole("it's"), 3);
    for text in [
        "Ünïcode 胸 ❤\u{200d}🔥 \n\t",
        "<|im_end|><IMG>",
        "  a   b ",
        " lung lung",
    ] {
        let ids = tokenizer.encode_plain(text).unwrap();
        assert_eq!(tokenizer.decode_text(&ids), text);
        assert_eq!(tokenizer.decode(&ids), text);
        assert!(ids.iter().all(|id| *id > 1), "no special token");
        let mut stream = TextStream::default();
        let mut streamed: String = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
        streamed += &stream.finish();
        assert_eq!(streamed, text);
    }
    let ids = tokenizer.encode("<|im_start|>a<IMG> b<|im_end|>").unwrap();
    assert_eq!(
        (ids[0], ids.last()),
        (0, Some(&1)),
        "trusted text, with no beginning of its own"
    );
    assert!(ids.contains(&tokenizer.image_id()));
    assert_eq!(tokenizer.decode(&ids), "<|im_start|>a<IMG> b<|im_end|>");
    assert_eq!(tokenizer.decode_text(&ids), "a b");
}

#[test]
fn a_character_of_several_byte_level_tokens_is_streamed_when_it_is_whole() {
    let tokenizer = tokenizer(&byte_level(Some("gpt-2")));
    let ids = tokenizer.encode_plain("a❤!").unwrap();
    let mut stream = TextStream::default();
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
    assert_eq!(pieces, ["a", "", "", "❤", "!"]);
    assert_eq!(stream.finish(), "");
}

#[test]
fn each_named_pre_tokenizer_cuts_words_as_its_model_was_trained() {
    let count = |pre: Option<&str>, text: &str| {
        tokenizer(&byte_level(pre))
            .encode_plain(text)
            .unwrap()
            .len()
    };
    assert_eq!(count(Some("gpt-2"), "12"), 1);
    assert_eq!(count(Some("smollm"), "12"), 2);
    assert_eq!(count(None, "!!lung"), count(Some("default"), "!!lung"));
    // Three blanks before a word: one belongs to it, but not with Llama 3's pattern before a digit.
    assert_eq!(count(Some("gpt-2"), "   lung"), 2);
    assert_eq!(count(Some("llama-bpe"), "   lung"), 2);
    assert_eq!(
        tokenizer(&byte_level(Some("llama-bpe")))
            .encode("a")
            .unwrap()[0],
        0,
        "it begins"
    );
}

#[test]
fn tokenizers_of_other_kinds_and_lists_that_do_not_fit_are_refused() {
    let refusal = |spoil: &dyn Fn(&mut TinyLlama)| {
        let mut llama = TinyLlama::new();
        spoil(&mut llama);
        json(&llama).expect_err("it is not as it should be")
    };
    let text = |text: &str| Value::String(text.into());
    let message = refusal(&|file| file.set("tokenizer.ggml.model", text("t5")));
    assert!(message.contains("of the kind 't5'"), "{message}");
    let message = json(&byte_level(Some("tekken"))).unwrap_err();
    assert!(message.contains("pre-tokenizer is 'tekken'"), "{message}");
    assert!(
        refusal(&|file| file.remove("tokenizer.ggml.tokens")).contains("ggml.tokens is missing")
    );
    let message = refusal(&|file| file.set("tokenizer.ggml.tokens", texts(&["a"])));
    assert!(
        message.contains("300 whole numbers and there are 1 tokens"),
        "{message}"
    );
    let short = || Value::Array(vec![Value::F32(0.0)]);
    let message = refusal(&|file| file.set("tokenizer.ggml.scores", short()));
    assert!(message.contains("scores has 1 numbers"), "{message}");
    let message = refusal(&|file| file.set("tokenizer.ggml.eos_token_id", Value::U32(300)));
    assert!(message.contains("eos_token_id"), "{message}");
    let message = refusal(&|file| file.remove("tokenizer.ggml.bos_token_id"));
    assert!(message.contains("bos_token_id"), "{message}");
}
