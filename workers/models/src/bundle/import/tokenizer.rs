//! The tokenizer of a base language model.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ImportError;
use crate::checkpoint;
use crate::language::{ImageProjectionKind, LlamaConfig};
use crate::tokenizers::llama::published;
use crate::tokenizers::{BlankRule, LlamaTokenizer, TokenizerRules, sentencepiece};

/// A tokenizer's settings, beside its file.
const SETTINGS: &str = "tokenizer_config.json";

/// A tokenizer that is the model's.
pub(super) struct ModelTokenizer {
    /// The content of its file in the bundle.
    pub(super) json: String,
    /// The published file.
    pub(super) file: PathBuf,
    /// Where it has more or fewer tokens than the model rows.
    pub(super) note: Option<String>,
}

/// The tokenizer in a file or folder. SentencePiece's own file is taken where both are there: the slow
/// tokenizer of the published programs reads it.
pub(super) fn read(path: &Path, llama: &LlamaConfig) -> Result<ModelTokenizer, ImportError> {
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
    checkpoint::refuse_pointer(&path)?;
    let json = match content.first() {
        Some(b'{') => {
            let json = String::from_utf8(content).map_err(ImportError::unusable(&path))?;
            published::of_bundle(json, llama.eos_token_id).map_err(ImportError::tokenizer(&path))?
        }
        _ => sentencepiece::to_json(&content).map_err(ImportError::tokenizer(&path))?,
    };
    check(&path, json, llama)
}

/// The tokenizer of this content, where it is the model's.
pub(super) fn check(
    path: &Path,
    json: String,
    llama: &LlamaConfig,
) -> Result<ModelTokenizer, ImportError> {
    let tokenizer = LlamaTokenizer::from_json(&json).map_err(ImportError::tokenizer(path))?;
    let (tokens, rows) = (tokenizer.image_id(), llama.image_token());
    let fitting = tokenizer.for_image_id(rows);
    fitting.map_err(ImportError::tokenizer(path))?;
    let note = match tokens.cmp(&rows) {
        Ordering::Equal => None,
        Ordering::Less => Some(format!(
            "the model has {rows} rows and the tokenizer {tokens} tokens: the rows behind them are nobody's words"
        )),
        Ordering::Greater => Some(format!(
            "the tokenizer has {tokens} tokens and the model {rows} rows: the added tokens without a row are left out"
        )),
    };
    Ok(ModelTokenizer {
        json,
        file: path.to_owned(),
        note,
    })
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
