//! The ways in which models of the family cut text into the pieces of their vocabulary. None of them sees special tokens.

use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::super::TokenizerError;
use super::super::file::BLANK;
use super::byte_level::ByteLevelBpe;
use super::first_token;
use super::scored::ScoredPieces;

/// From text to ids.
pub(super) struct Segmentation {
    pub(super) kind: SegmentationKind,
    /// Tokens that text does become where it spells them, before anything else: SentencePiece's user-defined symbols.
    pub(super) defined: Vec<(String, u32)>,
}

pub(super) enum SegmentationKind {
    /// SentencePiece BPE as merges by rank, with a blank before each text.
    Merges(BPE),
    /// SentencePiece BPE as pieces by score.
    Scores {
        pieces: ScoredPieces,
        /// Whether a blank goes before each text.
        space_prefix: bool,
    },
    /// Words of bytes, and merges by rank.
    ByteLevel(ByteLevelBpe),
}

impl Segmentation {
    pub(super) fn is_byte_level(&self) -> bool {
        matches!(self.kind, SegmentationKind::ByteLevel(_))
    }

    /// Ids of plain text; none of nothing.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_behind(text, true)
    }

    /// The same without the blank that a vocabulary puts before a text.
    pub(super) fn encode_bare(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_behind(text, false)
    }

    fn encode_behind(&self, text: &str, mut blank: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((before, id, after)) = first_token(rest, &self.defined) {
            self.encode_text(before, blank, &mut ids)?;
            ids.push(id);
            (rest, blank) = (after, true);
        }
        self.encode_text(rest, blank, &mut ids)?;
        Ok(ids)
    }

    fn encode_text(
        &self,
        text: &str,
        blank: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.kind {
            SegmentationKind::Merges(model) => {
                let tokens = model
                    .tokenize(&marked(text, blank))
                    .map_err(|error| TokenizerError::Encode(error.to_string()))?;
                ids.extend(tokens.into_iter().map(|token| token.id));
            }
            SegmentationKind::Scores {
                pieces,
                space_prefix,
            } => ids.extend(pieces.encode(&marked(text, *space_prefix && blank))),
            SegmentationKind::ByteLevel(model) => ids.extend(model.encode(text)?),
        }
        Ok(())
    }
}

/// The text with visible blanks, as SentencePiece sees it.
fn marked(text: &str, space_prefix: bool) -> String {
    let blanks = text.chars().map(|c| if c == ' ' { BLANK } else { c });
    space_prefix
        .then_some(BLANK)
        .into_iter()
        .chain(blanks)
        .collect()
}
