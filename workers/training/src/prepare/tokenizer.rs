//! `prepare tokenizer`: a vocabulary of our own from texts, as the file that the models read. The same texts give the same
//! file, in whatever order their files are named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use radialog_files::durable;
use radialog_models::findings::NO_FINDINGS_TEXT;
use radialog_models::prompt::{Prompt, Prompts};
use radialog_models::tokenizers::file::{self, BLANK};
use radialog_schemas::Finding;
use radialog_schemas::table::split_name;

use self::merges::CountedWords;
use crate::error::TrainingError;
use crate::prepare::datasets::composed::Wordings;
use crate::prepare::datasets::tasks::prompts::TaskPrompts;
use crate::prepare::tables::table_file::{TableFile, text};

mod merges;

/// In front of a piece that does not start a word (WordPiece).
const INSIDE: &str = "##";
/// These stand in front of all other ids of a BERT vocabulary.
const BERT_SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Starts a caption that the Q-Former writes; the last id, as it is added to the published vocabulary.
const DECODER: &str = "[DEC]";
/// A word of a prompt counts as often as this share of all texts has it: each training sample holds the prompt.
const PROMPT_SHARE: u64 = 20;

/// The kind of a tokenizer, after the model that reads its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// LLaMA's: byte-pair merges with bytes for what is not in the vocabulary. `<IMG>` comes after it.
    Bpe,
    /// BERT's: uncased WordPiece; with `decoder`, `[DEC]` is the last id.
    WordPiece {
        /// Whether the alignment module is to write captions with it.
        decoder: bool,
    },
}

/// A training of a tokenizer: from which texts, of which size and kind.
#[derive(Clone, Debug)]
pub struct TokenizerTrainer {
    /// CSV files, each with the name of a column of text. Where a file has a column `split`, its `train` rows count.
    pub texts: Vec<(PathBuf, String)>,
    /// Ids at most, special ones included (`<IMG>` not).
    pub size: usize,
    /// The kind of the tokenizer.
    pub kind: TokenizerKind,
}

impl TokenizerTrainer {
    /// Learns the vocabulary and writes a `tokenizer.json`. Returns the number of its ids, fewer than asked for where the
    /// texts have no more pieces that stand twice.
    ///
    /// # Errors
    /// Texts that cannot be read, none at all, a size without room for single characters, or a file that cannot be written.
    pub fn write(&self, out: &Path) -> Result<usize, TrainingError> {
        let texts = self.read()?;
        let (json, size) = match self.kind {
            TokenizerKind::Bpe => self.bpe(&texts)?,
            TokenizerKind::WordPiece { decoder } => self.word_piece(&texts, decoder)?,
        };
        durable::replace(out, json.as_bytes()).map_err(TrainingError::io("write", out))?;
        Ok(size)
    }

    fn read(&self) -> Result<Vec<String>, TrainingError> {
        let mut texts = Vec::new();
        for (path, name) in &self.texts {
            let mut table = TableFile::open(path)?;
            let (column, split) = (table.column(name)?, table.optional("split")?);
            while let Some(row) = table.next_row()? {
                let text = text(&row, column);
                if !text.is_empty()
                    && split.is_none_or(|split| row.cell(split).map(split_name) == Some("train"))
                {
                    texts.push(text.to_owned());
                }
            }
        }
        if texts.is_empty() {
            return Err(TrainingError::Empty(
                "no text to learn from: name FILE:COLUMN with rows of the split train".into(),
            ));
        }
        Ok(texts)
    }

    fn bpe(&self, texts: &[String]) -> Result<(String, usize), TrainingError> {
        let weight = (texts.len() as u64 / PROMPT_SHARE).max(1);
        let mut counts = BTreeMap::new();
        for (text, count) in texts
            .iter()
            .map(|text| (text.clone(), 1))
            .chain(prompts()?.into_iter().map(|text| (text, weight)))
        {
            for word in llama_words(&text) {
                *counts.entry(word).or_default() += count;
            }
        }
        let mut pieces = file::llama_base();
        let room = self.room(pieces.len())?;
        let characters = |word: &str| word.chars().map(String::from).collect();
        let merges =
            CountedWords::of(counts, characters).learn(room, |one, other| format!("{one}{other}"));
        let mut rules = Vec::new();
        for ((one, other), joined) in merges {
            rules.push(format!("{one} {other}"));
            if !pieces.contains(&joined) {
                pieces.push(joined);
            }
        }
        Ok((file::llama(&pieces, &rules), pieces.len()))
    }

    fn word_piece(
        &self,
        texts: &[String],
        decoder: bool,
    ) -> Result<(String, usize), TrainingError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for word in texts.iter().flat_map(|text| bert_words(text)) {
            *counts.entry(word).or_default() += 1;
        }
        let cut = |word: &str| {
            let mut pieces: Vec<String> = word
                .chars()
                .map(|character| format!("{INSIDE}{character}"))
                .collect();
            if let (Some(first), Some(character)) = (pieces.first_mut(), word.chars().next()) {
                *first = character.to_string();
            }
            pieces
        };
        let printable = ('!'..='~').filter(|character| !character.is_ascii_uppercase());
        let letters = ('a'..='z')
            .chain('0'..='9')
            .map(|character| format!("{INSIDE}{character}"));
        let mut pieces: Vec<String> = BERT_SPECIAL.map(String::from).into();
        pieces.extend(printable.map(String::from).chain(letters));
        let room = self.room(pieces.len() + usize::from(decoder))?;
        let join = |one: &str, other: &str| {
            format!("{one}{}", other.strip_prefix(INSIDE).unwrap_or(other))
        };
        let merges = CountedWords::of(counts, cut).learn(room, join);
        for (_, joined) in merges {
            if !pieces.contains(&joined) {
                pieces.push(joined);
            }
        }
        pieces.extend(decoder.then(|| DECODER.to_owned()));
        let special: Vec<&str> = BERT_SPECIAL.into_iter().chain([DECODER]).collect();
        Ok((file::bert(&pieces, &special), pieces.len()))
    }

    /// The number of merges that fit beside the ids that every vocabulary has.
    fn room(&self, base: usize) -> Result<usize, TrainingError> {
        self.size.checked_sub(base).ok_or_else(|| {
            TrainingError::Empty(format!(
                "--vocab {} is too small: special ids and characters take {base}",
                self.size
            ))
        })
    }
}

/// What stands in the prompts of inference and training.
fn prompts() -> Result<Vec<String>, TrainingError> {
    let prompts = Prompts::default();
    let names: Vec<String> = Finding::ALL
        .into_iter()
        .map(|finding| finding.name().to_lowercase())
        .collect();
    let message = [
        prompts.report_message(NO_FINDINGS_TEXT),
        Prompt::text("yes"),
        Prompt::text("no"),
        Prompt::default(),
    ];
    let mut texts = vec![prompts.conversation(&message).to_string(), names.join(", ")];
    texts.extend(
        Finding::ALL
            .into_iter()
            .map(|finding| finding.name().to_owned()),
    );
    texts.extend(TaskPrompts::own()?.all().map(str::to_owned));
    texts.extend(Wordings::own()?.texts().map(str::to_owned));
    let special = [
        "<IMG>",
        "</s>",
        "<X>",
        "<add>",
        "<rem>",
        "{finding}",
        "{region}",
    ];
    Ok(texts
        .into_iter()
        .map(|text| {
            special
                .iter()
                .fold(text, |text, special| text.replace(special, " "))
        })
        .collect())
}

/// Words as LLaMA's tokenizer sees them, with the blank in front: letters stay together, everything else is apart. What is
/// no printable ASCII is left to the bytes.
fn llama_words(text: &str) -> Vec<String> {
    let marked: String = std::iter::once(BLANK)
        .chain(text.chars().map(|c| if c == ' ' { BLANK } else { c }))
        .collect();
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for character in marked.chars() {
        let joins = character.is_ascii_alphabetic() && open;
        match words.last_mut() {
            Some(word)
                if joins
                    || (word.chars().all(|last| last == BLANK) && character.is_ascii_graphic()) =>
            {
                word.push(character)
            }
            _ if character == BLANK || character.is_ascii_graphic() => {
                words.push(character.to_string())
            }
            _ => {}
        }
        open = character == BLANK || character.is_ascii_alphabetic();
    }
    words
}

/// Words as BERT's tokenizer sees them: small letters, marks apart.
fn bert_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for character in text.chars() {
        let inside = character.is_ascii_alphanumeric();
        let small = character.to_ascii_lowercase();
        match words.last_mut() {
            Some(word) if inside && open => word.push(small),
            _ if character.is_ascii_graphic() => words.push(small.to_string()),
            _ => {}
        }
        open = inside;
    }
    words
}

#[cfg(test)]
mod tests;
