//! The outputs of the lines that are answered together, and the place behind them.

use std::collections::BTreeMap;

use super::line::AnsweredLine;
use crate::request_store::batches::{BatchDocument, InputPlace};

/// The outputs of some lines.
pub(super) struct Piece {
    pub(super) answers: Vec<u8>,
    pub(super) refusals: Vec<u8>,
    pub(super) answered: u64,
    pub(super) refused: u64,
    /// The place of the next line that has no output.
    pub(super) end: InputPlace,
    /// The lines behind it that have one.
    pub(super) ahead: Vec<u64>,
    /// It has all the lines that were asked for.
    pub(super) is_whole: bool,
    /// Its line is refused because it killed its holders.
    pub(super) is_deadly: bool,
}

impl Piece {
    /// The outputs of the lines that end at `ends`, as far as there are any: up to the first that has none, or all of them,
    /// where no earlier line will be answered any more.
    pub(super) fn of(
        document: &BatchDocument,
        ends: &[InputPlace],
        mut lines: BTreeMap<usize, AnsweredLine>,
        keeps_all: bool,
    ) -> Self {
        let mut piece = Self {
            answers: Vec::new(),
            refusals: Vec::new(),
            answered: 0,
            refused: 0,
            end: document.place,
            ahead: document.ahead.clone(),
            is_whole: lines.len() == ends.len(),
            is_deadly: false,
        };
        let mut is_next = true;
        for (number, end) in ends.iter().enumerate() {
            match lines.remove(&number) {
                None if !keeps_all => break,
                None => is_next = false,
                Some(line) => {
                    match is_next {
                        true => piece.end = *end,
                        false => piece.ahead.push(end.line),
                    }
                    piece.add(line);
                }
            }
        }
        let next = piece.end.line;
        piece.ahead.retain(|line| *line > next);
        piece
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.refusals.is_empty()
    }

    fn add(&mut self, line: AnsweredLine) {
        match line.is_answer {
            true => {
                self.answered += 1;
                self.answers.extend(line.text);
            }
            false => {
                self.refused += 1;
                self.refusals.extend(line.text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::http::openai_batches::BatchEndpoint;

    use super::*;
    use crate::request_store::batches::BatchTimes;
    use crate::request_store::new_name;

    fn answered(numbers: &[usize]) -> BTreeMap<usize, AnsweredLine> {
        let line = |number: &usize| {
            let text = format!("{number}\n").into_bytes();
            let is_answer = number.is_multiple_of(2);
            (*number, AnsweredLine { is_answer, text })
        };
        numbers.iter().map(line).collect()
    }

    #[test]
    fn what_is_answered_behind_a_line_without_an_answer_is_kept_where_the_batch_ends() {
        let (endpoint, times) = (BatchEndpoint::ChatCompletions, BatchTimes::default());
        let mut document =
            BatchDocument::new("b", "ward".to_owned(), endpoint, new_name(), None, times);
        let end = |line: u64| InputPlace {
            line,
            offset: 10 * line,
        };
        let ends: Vec<InputPlace> = (1..=5).map(end).collect();
        let some = || answered(&[0, 1, 3]);
        let piece = Piece::of(&document, &ends, some(), false);
        assert_eq!((piece.end, piece.ahead.as_slice()), (end(2), &[][..]));
        assert_eq!((piece.answered, piece.refused), (1, 1));
        let piece = Piece::of(&document, &ends, some(), true);
        assert_eq!((piece.end, piece.ahead.as_slice()), (end(2), &[4][..]));
        assert_eq!(piece.refusals, b"1\n3\n");
        assert!(!piece.is_whole && !piece.is_empty());

        (document.place, document.ahead) = (piece.end, piece.ahead);
        let piece = Piece::of(&document, &[end(3), end(5)], answered(&[0, 1]), true);
        assert_eq!((piece.end, piece.ahead.as_slice()), (end(5), &[][..]));
        assert!(piece.is_whole);
        assert!(Piece::of(&document, &ends[2..], answered(&[2]), false).is_empty());
    }
}
