//! The content of a `tokenizer.json`, of each of the kinds that models of the family have.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::BPE;
use tokenizers::{Model, PreTokenizerWrapper};

use super::super::TokenizerError;
use super::super::file::BLANK;
use super::super::prompt::IMAGE;
use super::super::rules::TokenizerRules;
use super::byte_level::{self, ByteLevelBpe, ByteLevelModel};
use super::scored::ScoredPieces;
use super::segmentation::{Segmentation, SegmentationKind};
use super::{LlamaTokenizer, TokenContent};

/// The written forms of the published special tokens.
const BOS: &str = "<s>";
const EOS: &str = "</s>";
const UNK: &str = "<unk>";

/// The `type` of a model of scored pieces, which a `tokenizer.json` of others does not have.
pub const SCORED: &str = "SentencePiece";

/// What a tokenizer.json of ours says about special tokens under `special_tokens`, where they are not the published ones: of
/// byte-level BPE (in the form that Hugging Face's `tokenizers` reads), and of scored pieces (`"model": {"type":
/// "SentencePiece", "pieces": [[text, score, kind], …]}`, kinds as SentencePiece numbers them).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// What a text begins with, where it begins with something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u32>,
    /// What ends an answer.
    pub end: u32,
    /// What stands for the unknown, where there is such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<u32>,
    /// Whether a blank goes before each text of scored pieces.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub space_prefix: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Enough of a file to say which kind it is.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
    decoder: Option<TypeName>,
}

#[derive(Deserialize)]
struct ModelKind {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct TypeName {
    r#type: String,
}

#[derive(Deserialize)]
struct MergesJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: BPE,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ByteLevelJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    pre_tokenizer: PreTokenizerWrapper,
    model: ByteLevelModel,
    special_tokens: SpecialTokens,
}

#[derive(Deserialize)]
struct ScoredJson {
    model: ScoredModel,
    special_tokens: SpecialTokens,
}

#[derive(Deserialize)]
struct ScoredModel {
    pieces: Vec<(String, f32, PieceKind)>,
}

/// What a piece is, as SentencePiece and llama.cpp number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TryFrom<u32> for PieceKind {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        Ok(match number {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            other => return Err(format!("{other} is no kind of piece")),
        })
    }
}

/// Reads a file of any kind.
pub(super) fn read(json: &str) -> Result<LlamaTokenizer, TokenizerError> {
    let kind: Kind = parse(json)?;
    if kind.model.r#type.as_deref() == Some(SCORED) {
        return scored(parse(json)?);
    }
    match kind.decoder {
        Some(decoder) if decoder.r#type == "ByteLevel" => byte_level(parse(json)?),
        _ => merges(parse(json)?),
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, TokenizerError> {
    serde_json::from_str(json).map_err(TokenizerError::unparsed)
}

/// The published kind.
fn merges(json: MergesJson) -> Result<LlamaTokenizer, TokenizerError> {
    let MergesJson {
        added_tokens,
        model,
    } = json;
    let find = |content: &'static str| {
        let added = added_tokens
            .iter()
            .find(|token| token.content == content)
            .map(|token| token.id);
        added
            .or_else(|| model.token_to_id(content))
            .ok_or(TokenizerError::MissingToken(content))
    };
    let (bos, eos, unk) = (find(BOS)?, find(EOS)?, find(UNK)?);
    let vocabulary = model.get_vocab_size() as u32;
    // Tokens that were added behind the vocabulary, e.g. one to pad with.
    let behind: Vec<&AddedToken> = added_tokens
        .iter()
        .filter(|token| token.id >= vocabulary && token.content != IMAGE)
        .collect();
    let ends = behind.iter().map(|token| token.id.saturating_add(1));
    let tokens = ends.max().unwrap_or(0).max(vocabulary);
    if tokens - vocabulary > behind.len() as u32 + 1 {
        return Err(TokenizerError::Format(format!(
            "its vocabulary ends before {vocabulary}, and an added token has the id {}: some are missing",
            tokens - 1
        )));
    }
    let image = find(IMAGE).unwrap_or(tokens);
    if image > tokens {
        return Err(TokenizerError::Format(format!(
            "'{IMAGE}' has the id {image} and there are {tokens} tokens before it"
        )));
    }
    let known = [(BOS, bos), (EOS, eos), (UNK, unk), (IMAGE, image)];
    let mut specials: Vec<(String, u32)> =
        known.map(|(content, id)| (content.to_owned(), id)).into();
    let (special, defined): (Vec<_>, Vec<_>) = behind.into_iter().partition(|token| token.special);
    specials.extend(
        special
            .into_iter()
            .map(|token| (token.content.clone(), token.id)),
    );
    let defined: Vec<(String, u32)> = defined
        .into_iter()
        .map(|token| (token.content.clone(), token.id))
        .collect();
    let contents = (0..tokens.max(image + 1))
        .map(|id| {
            let of = |list: &[(String, u32)]| {
                let found = list.iter().find(|(_, token)| *token == id);
                found.map(|(content, _)| content.clone())
            };
            match (of(&specials), of(&defined)) {
                (Some(special), _) => TokenContent::Special(special),
                (None, Some(text)) => TokenContent::Text(text),
                (None, None) => TokenContent::parse(&model.id_to_token(id).unwrap_or_default()),
            }
        })
        .collect();
    Ok(LlamaTokenizer {
        segmentation: Segmentation {
            kind: SegmentationKind::Merges(model),
            defined,
        },
        contents,
        specials,
        first: Some(bos),
        eos,
        pad: unk,
        image,
        rules: TokenizerRules::default(),
        image_tokens: 1,
    })
}

fn byte_level(json: ByteLevelJson) -> Result<LlamaTokenizer, TokenizerError> {
    let ByteLevelJson {
        added_tokens,
        pre_tokenizer,
        model,
        special_tokens,
    } = json;
    let named = |(content, id): (&String, &u32)| (content.clone(), *id);
    let mut tokens: HashMap<String, u32> = model.vocab.iter().map(named).collect();
    tokens.extend(
        added_tokens
            .iter()
            .map(|token| (token.content.clone(), token.id)),
    );
    let mut contents: HashMap<u32, TokenContent> = tokens
        .iter()
        .map(|(content, id)| (*id, TokenContent::Bytes(byte_level::bytes(content))))
        .collect();
    let (special, defined): (Vec<_>, Vec<_>) =
        added_tokens.into_iter().partition(|token| token.special);
    let mut specials = Vec::new();
    for token in special {
        contents.insert(token.id, TokenContent::Special(token.content.clone()));
        specials.push((token.content, token.id));
    }
    for token in &defined {
        let text = TokenContent::Bytes(token.content.clone().into_bytes());
        contents.insert(token.id, text);
    }
    let ids: Vec<u32> = specials.iter().map(|(_, id)| *id).collect();
    let kind = SegmentationKind::ByteLevel(ByteLevelBpe::new(pre_tokenizer, model, &ids)?);
    let defined = defined
        .into_iter()
        .map(|token| (token.content, token.id))
        .collect();
    finish(
        Segmentation { kind, defined },
        contents,
        specials,
        &special_tokens,
    )
}

fn scored(json: ScoredJson) -> Result<LlamaTokenizer, TokenizerError> {
    let ScoredJson {
        model,
        special_tokens,
    } = json;
    let (mut pieces, mut bytes) = (HashMap::new(), vec![None; 256]);
    let (mut contents, mut specials, mut defined) = (HashMap::new(), Vec::new(), Vec::new());
    for (id, (content, score, kind)) in (0..).zip(model.pieces) {
        let decoded = match kind {
            PieceKind::Unknown | PieceKind::Control => {
                specials.push((content.clone(), id));
                TokenContent::Special(content)
            }
            PieceKind::Byte => match TokenContent::parse(&content) {
                TokenContent::Byte(byte) => {
                    bytes[usize::from(byte)] = Some(id);
                    TokenContent::Byte(byte)
                }
                _ => {
                    return Err(TokenizerError::Format(format!(
                        "the piece '{content}' should be a byte, as in <0x0A>"
                    )));
                }
            },
            PieceKind::UserDefined => {
                // It is looked for before blanks are marked.
                defined.push((content.replace(BLANK, " "), id));
                TokenContent::parse_text(&content)
            }
            PieceKind::Normal | PieceKind::Unused => {
                let text = TokenContent::parse_text(&content);
                if pieces.insert(content.clone(), (id, score)).is_some() {
                    return Err(TokenizerError::Format(format!(
                        "the piece '{content}' stands twice"
                    )));
                }
                text
            }
        };
        contents.insert(id, decoded);
    }
    let unknown = match special_tokens.unknown {
        Some(unknown) => unknown,
        None if bytes.iter().all(Option::is_some) => special_tokens.end,
        None => {
            return Err(TokenizerError::Format(
                "not every byte has a piece, and no token stands for the unknown".into(),
            ));
        }
    };
    let kind = SegmentationKind::Scores {
        pieces: ScoredPieces::new(pieces, bytes, unknown),
        space_prefix: special_tokens.space_prefix,
    };
    finish(
        Segmentation { kind, defined },
        contents,
        specials,
        &special_tokens,
    )
}

/// A tokenizer whose special tokens are special ones of its vocabulary, with `<IMG>`.
fn finish(
    segmentation: Segmentation,
    mut contents: HashMap<u32, TokenContent>,
    mut specials: Vec<(String, u32)>,
    tokens: &SpecialTokens,
) -> Result<LlamaTokenizer, TokenizerError> {
    let size = contents.len() as u32;
    if contents.keys().any(|&id| id >= size) {
        return Err(TokenizerError::Format(format!(
            "{size} tokens have ids of {size} and more: some are missing"
        )));
    }
    let named = [tokens.first, Some(tokens.end), tokens.unknown];
    for id in named.into_iter().flatten() {
        if !specials.iter().any(|(_, special)| *special == id) {
            return Err(TokenizerError::Format(format!(
                "special_tokens names {id}, which is no special token of the vocabulary"
            )));
        }
    }
    let image = specials.iter().find(|(content, _)| content == IMAGE);
    let image = image.map_or(size, |(_, id)| *id);
    if image == size {
        specials.push((IMAGE.to_owned(), image));
        contents.insert(image, TokenContent::Special(IMAGE.to_owned()));
    }
    Ok(LlamaTokenizer {
        segmentation,
        contents: (0..contents.len() as u32)
            .filter_map(|id| contents.remove(&id))
            .collect(),
        specials,
        first: tokens.first,
        eos: tokens.end,
        pad: tokens.unknown.unwrap_or(tokens.end),
        image,
        rules: TokenizerRules::default(),
        image_tokens: 1,
    })
}
