//! A `tokenizer.json` as Hugging Face shares it: its rules are held against what this software computes, and its special tokens
//! are written into it under `special_tokens`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::TokenizerError;
use super::reading::{SCORED, SpecialTokens};

/// The character that stands for a blank.
const BLANK: &str = "\u{2581}";

/// What decides how a text is segmented.
#[derive(Deserialize)]
struct Rules {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// The content with which a bundle has such a tokenizer; `end` is the token that ends an answer, by the model's configuration.
///
/// # Errors
/// Rules that this software does not compute, which are named: another model or normalizer, an unusual pre-tokenizer, or
/// tokens behind each text.
pub fn of_bundle(json: String, end: u32) -> Result<String, TokenizerError> {
    let mut content: Value = serde_json::from_str(&json).map_err(TokenizerError::unparsed)?;
    // Ours has them already.
    if content["model"]["type"] == SCORED || !content["special_tokens"].is_null() {
        return Ok(json);
    }
    let rules: Rules = serde_json::from_value(content.clone()).map_err(TokenizerError::unparsed)?;
    rules.check_model()?;
    if !rules.is_byte_level() {
        rules.check_llama()?;
        return Ok(json);
    }
    rules.check_byte_level()?;
    let special = SpecialTokens {
        first: rules.first()?,
        end,
        unknown: None,
        space_prefix: true,
    };
    content["special_tokens"] = json!(special);
    Ok(content.to_string())
}

impl Rules {
    fn is_byte_level(&self) -> bool {
        kind(&self.decoder) == "ByteLevel"
    }

    fn check_model(&self) -> Result<(), TokenizerError> {
        let named = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let model = &self.model;
        let rules = [
            (
                model.r#type.as_deref().is_none_or(|name| name == "BPE"),
                "its model is not BPE",
            ),
            (
                model.dropout.is_none_or(|dropout| dropout == 0.0),
                "its model drops merges out",
            ),
            (
                !named(&model.continuing_subword_prefix) && !named(&model.end_of_word_suffix),
                "its model marks the inside or the end of words",
            ),
            (
                self.added_tokens.iter().all(|token| {
                    token.special || !(token.single_word || token.lstrip || token.rstrip)
                }),
                "an added token takes the blanks beside it",
            ),
        ];
        refuse(rules)
    }

    /// LLaMA's rules: blanks are marked, one goes before the text, and characters without a piece become bytes.
    fn check_llama(&self) -> Result<(), TokenizerError> {
        let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
        let normalizers = json!([{"type": "Prepend", "prepend": BLANK}, marks]);
        let older = self.pre_tokenizer.is_none()
            && self
                .normalizer
                .as_ref()
                .is_some_and(|rule| rule["normalizers"] == normalizers);
        let newer =
            self.normalizer.is_none() && self.pre_tokenizer.as_ref().is_some_and(is_metaspace);
        refuse([
            (self.model.byte_fallback, "its model has no byte_fallback"),
            (
                self.normalizer.is_none() || older,
                "its normalizer is not LLaMA's",
            ),
            (older || newer, "its pre_tokenizer is not LLaMA's"),
        ])
    }

    fn check_byte_level(&self) -> Result<(), TokenizerError> {
        refuse([
            (self.normalizer.is_none(), "it has a normalizer"),
            (self.pre_tokenizer.is_some(), "it has no pre_tokenizer"),
        ])
    }

    /// What every text begins with, by the post-processor.
    fn first(&self) -> Result<Option<u32>, TokenizerError> {
        let Some(processor) = &self.post_processor else {
            return Ok(None);
        };
        let steps = match processor["processors"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(processor),
        };
        let mut first = None;
        for step in steps {
            match step["type"].as_str().unwrap_or_default() {
                "ByteLevel" => {}
                "TemplateProcessing" => first = self.first_of(&step["single"])?,
                _ => refuse([(false, "its post_processor is not that of the family")])?,
            }
        }
        Ok(first)
    }

    fn first_of(&self, template: &Value) -> Result<Option<u32>, TokenizerError> {
        let pieces: Vec<Option<&str>> = template
            .as_array()
            .into_iter()
            .flatten()
            .map(|piece| piece["SpecialToken"]["id"].as_str())
            .collect();
        let named = match pieces.as_slice() {
            [None] => return Ok(None),
            [Some(named), None] => *named,
            _ => {
                refuse([(false, "its post_processor puts tokens behind a text")])?;
                return Ok(None);
            }
        };
        let token = self
            .added_tokens
            .iter()
            .find(|token| token.content == named);
        let token = token.ok_or_else(|| {
            TokenizerError::Format(format!(
                "its post_processor names '{named}', which is no added token"
            ))
        })?;
        Ok(Some(token.id))
    }
}

/// Whether blanks are marked and one goes before a text, without cutting at them.
fn is_metaspace(rule: &Value) -> bool {
    let prefixed = match &rule["prepend_scheme"] {
        Value::Null => rule["add_prefix_space"] == true,
        scheme => scheme == "first" || scheme == "always",
    };
    rule["type"] == "Metaspace"
        && rule["replacement"] == BLANK
        && rule["split"] == false
        && prefixed
}

fn kind(rule: &Option<Value>) -> &str {
    rule.as_ref()
        .and_then(|rule| rule["type"].as_str())
        .unwrap_or_default()
}

fn refuse<'a>(rules: impl IntoIterator<Item = (bool, &'a str)>) -> Result<(), TokenizerError> {
    match rules.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, what)) => Err(TokenizerError::Format(format!(
            "{what}, and texts would become other tokens than the model knows: give its tokenizer.model, or a GGUF file of the \
             model"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LlamaTokenizer;
    use super::*;
    use crate::tokenizers::synthetic;

    fn changed(change: impl Fn(&mut Value)) -> Result<String, String> {
        let json = synthetic::llama(512).unwrap().json;
        let mut content: Value = serde_json::from_str(&json).unwrap();
        change(&mut content);
        of_bundle(content.to_string(), 2).map_err(|error| error.to_string())
    }

    #[test]
    fn llamas_rules_are_taken_in_both_spellings_and_others_are_refused_by_name() {
        changed(|_| {}).unwrap();
        let newer = |scheme: &'static str, split: bool| {
            move |content: &mut Value| {
                content["normalizer"] = Value::Null;
                content["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme,
                                                  "split": split});
            }
        };
        changed(newer("first", false)).unwrap();
        for (found, words) in [
            (changed(newer("never", false)), "pre_tokenizer"),
            (changed(newer("first", true)), "pre_tokenizer"),
            (
                changed(|content| content["normalizer"] = json!({"type": "Lowercase"})),
                "normalizer",
            ),
            (
                changed(|content| content["pre_tokenizer"] = json!({"type": "Whitespace"})),
                "normalizer",
            ),
            (
                changed(|content| content["model"]["byte_fallback"] = false.into()),
                "byte_fallback",
            ),
            (
                changed(|content| content["model"]["type"] = "Unigram".into()),
                "not BPE",
            ),
        ] {
            let error = found.unwrap_err();
            assert!(
                error.contains(words) && error.contains("tokenizer.model"),
                "{error}"
            );
        }
    }

    fn byte_level(processor: Value) -> Value {
        let mut vocabulary = serde_json::Map::new();
        for (id, character) in ('!'..='~').enumerate() {
            vocabulary.insert(character.to_string(), id.into());
        }
        let size = vocabulary.len();
        vocabulary.insert("lu".into(), size.into());
        let special =
            |id: usize, content: &str| json!({"id": id, "content": content, "special": true});
        json!({
            "added_tokens": [special(size + 1, "<|begin|>"), special(size + 2, "<|end|>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": ["l u"]},
        })
    }

    #[test]
    fn a_byte_level_file_as_it_is_shared_gets_its_special_tokens() {
        let template = |behind: bool| {
            let mut single = vec![
                json!({"SpecialToken": {"id": "<|begin|>", "type_id": 0}}),
                json!({"Sequence": {"id": "A", "type_id": 0}}),
            ];
            if behind {
                single.push(json!({"SpecialToken": {"id": "<|end|>", "type_id": 0}}));
            }
            json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing", "single": single}]})
        };
        let end = 96;
        let json = of_bundle(byte_level(template(false)).to_string(), end).unwrap();
        let tokenizer = LlamaTokenizer::from_json(&json).unwrap();
        assert_eq!((tokenizer.eos_id(), tokenizer.image_id()), (end, end + 1));
        let ids = tokenizer.encode("lungs").unwrap();
        assert_eq!(
            (ids[0], ids[1], ids.len()),
            (95, 94, 5),
            "begin, lu, n, g, s"
        );
        let json = of_bundle(byte_level(Value::Null).to_string(), end).unwrap();
        let tokenizer = LlamaTokenizer::from_json(&json).unwrap();
        assert_eq!(
            tokenizer.encode("lu").unwrap(),
            [94],
            "nothing before a text"
        );
        let error = of_bundle(byte_level(template(true)).to_string(), end).unwrap_err();
        assert!(error.to_string().contains("post_processor"), "{error}");
        let mut normalized = byte_level(Value::Null);
        normalized["normalizer"] = json!({"type": "NFC"});
        assert!(of_bundle(normalized.to_string(), end).is_err());
    }
}
