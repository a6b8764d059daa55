//! SentencePiece's own pieces with their scores: of all neighbours that make a piece together, those of the highest score are
//! merged first, and of equal scores the leftmost.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// Pieces of text by their score, and a piece for each byte that no other covers.
pub(super) struct ScoredPieces {
    /// Id and score by content; nothing here is a special token.
    pieces: HashMap<String, (u32, f32)>,
    /// The id of each byte, where the vocabulary has it.
    bytes: Vec<Option<u32>>,
    /// What stands for a byte that has no piece.
    unknown: u32,
}

/// A run of characters: its bytes in the text, and its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a piece together.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Their bytes together, by which a candidate is known that a merge has overtaken.
    length: usize,
}

impl ScoredPieces {
    pub(super) fn new(
        pieces: HashMap<String, (u32, f32)>,
        bytes: Vec<Option<u32>>,
        unknown: u32,
    ) -> Self {
        Self {
            pieces,
            bytes,
            unknown,
        }
    }

    /// The ids of a text in which every blank is marked.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, character))| Symbol {
                start,
                end: start + character.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut candidates = BinaryHeap::new();
        for right in 1..symbols.len() {
            candidates.extend(self.candidate(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Candidate {
            left,
            right,
            length,
            ..
        }) = candidates.pop()
        {
            let (one, other) = (symbols[left], symbols[right]);
            // A symbol that was merged into its left neighbour has no bytes.
            let empty = one.start == one.end || other.start == other.end;
            if empty || one.end != other.start || other.end - one.start != length {
                continue;
            }
            symbols[left].end = other.end;
            symbols[left].next = other.next;
            symbols[right].end = other.start;
            if let Some(next) = other.next {
                symbols[next].previous = Some(left);
            }
            candidates.extend(self.candidate(text, &symbols, one.previous, Some(left)));
            candidates.extend(self.candidate(text, &symbols, Some(left), other.next));
        }

        let mut ids = Vec::new();
        let mut at = (!symbols.is_empty()).then_some(0);
        while let Some(index) = at {
            let symbol = symbols[index];
            let content = &text[symbol.start..symbol.end];
            match self.pieces.get(content) {
                Some(&(id, _)) => ids.push(id),
                None => ids.extend(
                    content
                        .bytes()
                        .map(|byte| self.bytes[usize::from(byte)].unwrap_or(self.unknown)),
                ),
            }
            at = symbol.next;
        }
        ids
    }

    fn candidate(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
    ) -> Option<Candidate> {
        let (left, right) = (left?, right?);
        let (start, end) = (symbols[left].start, symbols[right].end);
        let &(_, score) = self.pieces.get(&text[start..end])?;
        Some(Candidate {
            score,
            left,
            right,
            length: end - start,
        })
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pieces: &[(&str, f32)]) -> ScoredPieces {
        let pieces = pieces
            .iter()
            .enumerate()
            .map(|(id, (piece, score))| ((*piece).to_owned(), (id as u32 + 256, *score)));
        ScoredPieces::new(pieces.collect(), (0..256).map(Some).collect(), 999)
    }

    #[test]
    fn the_highest_score_is_merged_first_and_of_equal_ones_the_leftmost() {
        let vocabulary = [
            ("a", -9.0),
            ("b", -9.0),
            ("ab", -2.0),
            ("ba", -1.0),
            ("aa", -3.0),
        ];
        let scored = pieces(&vocabulary);
        // "ba" goes before "ab", wherever it stands.
        assert_eq!(scored.encode("aba"), [256, 259]);
        assert_eq!(scored.encode("aaa"), [260, 256]);
        assert_eq!(scored.encode("abab"), [256, 259, 257]);
    }

    #[test]
    fn a_piece_is_reached_over_pieces_only_and_else_stays_bytes() {
        let scored = pieces(&[("l", -1.0), ("u", -1.0), ("lung", -0.1), ("lu", -2.0)]);
        // "lun" is no piece, so that "lung" is never made.
        assert_eq!(
            scored.encode("lung"),
            [259, u32::from(b'n'), u32::from(b'g')]
        );
        assert_eq!(scored.encode("胸"), [0xe8, 0x83, 0xb8]);
        assert!(scored.encode("").is_empty());
        let without = ScoredPieces::new(HashMap::new(), vec![None; 256], 7);
        assert_eq!(without.encode("é"), [7, 7], "an unknown one for each byte");
    }
}
