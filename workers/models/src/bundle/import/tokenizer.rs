//! The tokenizer of a base language model.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ImportError;
use crate::language::{ImageProjectionKind, LlamaConfig};
use crate::tokenizers::{BlankRule, LlamaTokenizer, TokenizerRules, sentencepiece};

/// A tokenizer's settings, beside its file.
const SETTINGS: &str = "tokenizer_config.json";

/// The content of the tokenizer's file and its path. SentencePiece's own file is taken where both are there: the slow
/// tokenizer of the published programs reads it.
pub(super) fn read(path: &Path, llama: &LlamaConfig) -> Result<(String, PathBuf), ImportError> {
    let path = match path.is_dir() {
        true => {
            let names = ["tokenizer.model", "tokenizer.json"].map(|name| path.join(name));
            let found = names.into_iter().find(|file| file.is_file());
            found.ok_or_else(|| {
                let reason =
                    "it has neither tokenizer.model nor tokenizer.json: give one (--tokenizer)";
                ImportError::unusable(path)(reason)
            })?
        }
        false => path.to_owned(),
    };
    let content = fs::read(&path).map_err(ImportError::unusable(&path))?;
    let json = match content.first() {
        Some(b'{') => String::from_utf8(content).map_err(ImportError::unusable(&path))?,
        _ => sentencepiece::to_json(&content).map_err(ImportError::tokenizer(&path))?,
    };
    Ok((check(&path, json, llama)?, path))
}

/// The content of a tokenizer's file, where it is the model's.
pub(super) fn check(path: &Path, json: String, llama: &LlamaConfig) -> Result<String, ImportError> {
    let tokenizer = LlamaTokenizer::from_json(&json).map_err(ImportError::tokenizer(path))?;
    if tokenizer.image_id() != llama.image_token() {
        let reason = format!(
            "it has {} tokens and the language model {}: it is of another model",
            tokenizer.image_id(),
            llama.vocab_size
        );
        return Err(ImportError::unusable(path)(reason));
    }
    Ok(json)
}

/// The blank behind special tokens, and the file that says so: the settings in the base's folder or beside the tokenizer's
/// file, the first that are there. v1's program knew no such setting.
pub(super) fn blank_rule(
    base: &Path,
    tokenizer: &Path,
    llama: &LlamaConfig,
) -> Result<(BlankRule, Option<PathBuf>), ImportError> {
    #[derive(Deserialize)]
    struct TokenizerSettings {
        legacy: Option<bool>,
    }
    let places = [base.join(SETTINGS), tokenizer.with_file_name(SETTINGS)];
    let path = places.iter().find(|path| path.is_file());
    let (Some(path), ImageProjectionKind::Mlp2xGelu) = (path, llama.image_projection) else {
        return Ok((BlankRule::default(), None));
    };
    let text = fs::read(path).map_err(ImportError::unusable(path))?;
    let settings: TokenizerSettings =
        serde_json::from_slice(&text).map_err(ImportError::unusable(path))?;
    let rules = TokenizerRules::v2(settings.legacy.unwrap_or(true));
    Ok((rules.after_special, Some(path.clone())))
}
