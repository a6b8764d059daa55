//! The tokenizer that a GGUF file carries, as the content of a `tokenizer.json` that [`LlamaTokenizer`] reads.
//!
//! [`LlamaTokenizer`]: crate::tokenizers::LlamaTokenizer

use serde_json::{Map, Value, json};

use super::super::CheckpointError;
use super::{Gguf, GgufArray, GgufValue};
use crate::tokenizers::llama::{SCORED, SpecialTokens};

/// Kinds of tokens, as SentencePiece numbers them.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// GPT-2's words: contractions, a run of letters, digits or other characters with one blank before it, and white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: at most three digits together, and line ends with what is before them.
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a named pre-tokenizer of llama.cpp cuts a text into words.
struct Words {
    /// Patterns, each of which cuts further what the one before has left or found.
    patterns: &'static [&'static str],
    /// Whether a word that is a piece is not merged from smaller ones.
    whole_words: bool,
    /// Whether a text begins with the beginning token unless the file says otherwise.
    begins: bool,
}

impl Gguf {
    /// The tokenizer as the content of a `tokenizer.json`: SentencePiece-like (`tokenizer.ggml.model` is `llama`) or
    /// byte-level BPE (`gpt2`, with the pre-tokenizer that `tokenizer.ggml.pre` names).
    ///
    /// # Errors
    /// No tokenizer, one of another kind or with an unknown pre-tokenizer (named), or lists that do not fit each other.
    pub fn tokenizer(&self) -> Result<String, CheckpointError> {
        let kind = self.text("tokenizer.ggml.model")?;
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let kinds = self.kinds(tokens.len())?;
        let json = match kind {
            "llama" => self.scored(tokens, &kinds)?,
            "gpt2" => self.byte_level(tokens, &kinds)?,
            other => {
                return Err(self.refuse(format!(
                    "its tokenizer is of the kind '{other}', and 'llama' (SentencePiece) and 'gpt2' (byte-level BPE) are \
                     read: give a tokenizer.json"
                )));
            }
        };
        Ok(json.to_string())
    }

    fn scored(&self, tokens: &[String], kinds: &[i32]) -> Result<Value, CheckpointError> {
        let scores = match self.array("tokenizer.ggml.scores")? {
            GgufArray::F32(scores) if scores.len() == tokens.len() => scores,
            other => {
                return Err(self.refuse(format!(
                    "tokenizer.ggml.scores has {} and there are {} tokens",
                    described(other),
                    tokens.len()
                )));
            }
        };
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(self.refuse("tokenizer.ggml.scores has values that are not finite".into()));
        }
        let pieces = tokens.iter().zip(scores).zip(kinds);
        let pieces: Vec<Value> = pieces
            .map(|((token, score), kind)| json!([token, score, kind]))
            .collect();
        let special = self.special_tokens(tokens.len(), true)?;
        Ok(json!({"model": {"type": SCORED, "pieces": pieces}, "special_tokens": special}))
    }

    fn byte_level(&self, tokens: &[String], kinds: &[i32]) -> Result<Value, CheckpointError> {
        let named = self.metadata().get("tokenizer.ggml.pre");
        let named = named.and_then(GgufValue::as_text).unwrap_or("default");
        let Some(words) = words(named) else {
            return Err(self.refuse(format!(
                "its pre-tokenizer is '{named}', which is not known here: give a tokenizer.json"
            )));
        };
        let merges = self.texts("tokenizer.ggml.merges")?;
        let mut vocabulary = Map::new();
        let mut added = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
            let special = matches!(*kind, UNKNOWN | CONTROL);
            if special || *kind == USER_DEFINED {
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                                  "normalized": false, "special": special}));
            }
            if vocabulary.insert(token.clone(), id.into()).is_some() {
                return Err(self.refuse(format!(
                    "tokenizer.ggml.tokens has '{token}' twice: the file is damaged"
                )));
            }
        }
        let mut steps: Vec<Value> = words
            .patterns
            .iter()
            .map(|pattern| {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            })
            .collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        steps.push(bytes.clone());
        Ok(json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": bytes,
            "model": {"type": "BPE", "unk_token": null, "ignore_merges": words.whole_words, "vocab": vocabulary,
                      "merges": merges},
            "special_tokens": self.special_tokens(tokens.len(), words.begins)?,
        }))
    }

    fn special_tokens(&self, count: usize, begins: bool) -> Result<SpecialTokens, CheckpointError> {
        let token = |key: &str| {
            let key = format!("tokenizer.ggml.{key}");
            let value = self.metadata().get(&key);
            let id = value.and_then(GgufValue::as_u64);
            match id {
                Some(id) if id < count as u64 => Ok(Some(id as u32)),
                // Some writers put the largest number where there is none.
                None if value.is_none() => Ok(None),
                Some(id) if id == u64::from(u32::MAX) => Ok(None),
                _ => Err(self.refuse(format!(
                    "{key} is {value:?}, and there are {count} tokens: the file is damaged"
                ))),
            }
        };
        let flag = |key: &str, default: bool| {
            let value = self.metadata().get(&format!("tokenizer.ggml.{key}"));
            value.and_then(GgufValue::as_bool).unwrap_or(default)
        };
        let end = token("eos_token_id")?
            .ok_or_else(|| self.refuse("tokenizer.ggml.eos_token_id is missing".into()))?;
        let first = match flag("add_bos_token", begins) {
            false => None,
            true => Some(
                token("bos_token_id")?
                    .ok_or_else(|| self.refuse("tokenizer.ggml.bos_token_id is missing".into()))?,
            ),
        };
        Ok(SpecialTokens {
            first,
            end,
            unknown: token("unknown_token_id")?,
            space_prefix: flag("add_space_prefix", true),
        })
    }

    /// The kind of each token; all are normal where the file has none.
    fn kinds(&self, count: usize) -> Result<Vec<i32>, CheckpointError> {
        match self.metadata().get("tokenizer.ggml.token_type") {
            None => Ok(vec![1; count]),
            Some(GgufValue::Array(GgufArray::I32(kinds))) if kinds.len() == count => {
                Ok(kinds.clone())
            }
            Some(GgufValue::Array(other)) => Err(self.refuse(format!(
                "tokenizer.ggml.token_type has {} and there are {count} tokens",
                described(other)
            ))),
            Some(_) => Err(self.refuse("tokenizer.ggml.token_type is no array".into())),
        }
    }

    fn text(&self, key: &str) -> Result<&str, CheckpointError> {
        let value = self.metadata().get(key).and_then(GgufValue::as_text);
        value.ok_or_else(|| self.refuse(format!("{key} is missing or no text")))
    }

    fn array(&self, key: &str) -> Result<&GgufArray, CheckpointError> {
        let value = self.metadata().get(key).and_then(GgufValue::as_array);
        value.ok_or_else(|| self.refuse(format!("{key} is missing or no array")))
    }

    fn texts(&self, key: &str) -> Result<&[String], CheckpointError> {
        match self.array(key)? {
            GgufArray::Text(texts) => Ok(texts),
            _ => Err(self.refuse(format!("{key} is no array of texts"))),
        }
    }

    fn refuse(&self, reason: String) -> CheckpointError {
        CheckpointError::Content {
            file: self.file.clone(),
            reason,
        }
    }
}

/// What llama.cpp does under the name of a pre-tokenizer.
fn words(name: &str) -> Option<Words> {
    let plain = |patterns| Words {
        patterns,
        whole_words: false,
        begins: false,
    };
    Some(match name {
        "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
        "gpt-2" | "phi-2" | "mpt" | "olmo" => plain(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(&[r"\p{N}", GPT2]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" => Words {
            patterns: &[LLAMA3],
            whole_words: true,
            begins: true,
        },
        "dbrx" | "smaug-bpe" => plain(&[LLAMA3]),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => plain(&[QWEN2]),
        _ => return None,
    })
}

/// The number and type of an array's values, for messages.
fn described(array: &GgufArray) -> String {
    match array {
        GgufArray::F32(values) => format!("{} numbers", values.len()),
        GgufArray::I32(values) => format!("{} whole numbers", values.len()),
        GgufArray::Text(values) => format!("{} texts", values.len()),
        _ => "values of another type".to_owned(),
    }
}
