//! METEOR's paraphrase table: phrases of some words, and the phrases that stand for them. Five million entries, so phrases are
//! numbers in one long list.

use std::collections::HashMap;

/// A word that no phrase has.
const UNKNOWN: u32 = u32::MAX;

/// Paraphrases by phrase.
pub(crate) struct Paraphrases {
    words: HashMap<String, u32>,
    /// Phrases, one behind the other.
    tokens: Vec<u32>,
    /// Hash of a phrase and where its entry begins, sorted; entries of one phrase stand in the table's order.
    entries: Vec<(u64, u32)>,
    /// Where phrase and paraphrase of an entry begin; the last one is followed by the end.
    bounds: Vec<(u32, u32)>,
    longest: usize,
}

impl Paraphrases {
    /// Reads the unpacked `paraphrase-en`: three lines an entry, a probability (which METEOR does not use), a phrase and its
    /// paraphrase.
    pub(super) fn parse(table: &str) -> Result<Self, String> {
        let mut parsed = Self {
            words: HashMap::new(),
            tokens: Vec::new(),
            entries: Vec::new(),
            bounds: Vec::new(),
            longest: 0,
        };
        let mut lines = table.lines();
        while let Some(probability) = lines.next() {
            let (Some(phrase), Some(paraphrase)) = (lines.next(), lines.next()) else {
                return Err(format!("the last entry, {probability:?}, is cut off"));
            };
            let start = parsed.push(phrase);
            let middle = parsed.push(paraphrase);
            let hash = hash(&parsed.tokens[start as usize..middle as usize]);
            parsed.entries.push((hash, parsed.bounds.len() as u32));
            parsed.bounds.push((start, middle));
            parsed.longest = parsed.longest.max((middle - start) as usize);
        }
        parsed.bounds.push((parsed.tokens.len() as u32, 0));
        // By hash, and then in the table's order.
        parsed.entries.sort_unstable();
        Ok(parsed)
    }

    fn push(&mut self, phrase: &str) -> u32 {
        let start = self.tokens.len() as u32;
        for word in phrase.split_ascii_whitespace() {
            let id = match self.words.get(word) {
                Some(id) => *id,
                None => {
                    let id = self.words.len() as u32;
                    self.words.insert(word.to_owned(), id);
                    id
                }
            };
            self.tokens.push(id);
        }
        start
    }

    /// The numbers of words.
    pub(super) fn ids(&self, words: &[&str]) -> Vec<u32> {
        let id = |word: &&str| self.words.get(*word).copied().unwrap_or(UNKNOWN);
        words.iter().map(id).collect()
    }

    /// Calls back with the length of each phrase that begins at a word, shortest first, and each of its paraphrases.
    pub(super) fn each(&self, words: &[u32], start: usize, mut found: impl FnMut(usize, &[u32])) {
        for length in 1..=self.longest.min(words.len() - start) {
            let phrase = &words[start..start + length];
            if phrase.contains(&UNKNOWN) {
                return;
            }
            let hash = hash(phrase);
            let from = self.entries.partition_point(|(other, _)| *other < hash);
            for (_, entry) in self.entries[from..].iter().take_while(|(h, _)| *h == hash) {
                let (start, middle) = self.bounds[*entry as usize];
                let end = self.bounds[*entry as usize + 1].0;
                if self.tokens[start as usize..middle as usize] == *phrase {
                    found(length, &self.tokens[middle as usize..end as usize]);
                }
            }
        }
    }
}

/// FNV-1a over the words' numbers.
fn hash(words: &[u32]) -> u64 {
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ u64::from(*word)).wrapping_mul(0x0100_0000_01b3)
    })
}
