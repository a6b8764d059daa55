//! METEOR's WordNet tables: the synonym sets of words, and the base forms of irregular ones.

use super::super::grams::HashMap;

/// Endings of inflected words and what stands in their place in the base form, tried in this order.
const ENDINGS: [(&str, &str); 20] = [
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
];

/// Synonym sets by word.
#[derive(Default)]
pub(crate) struct Synonyms {
    sets: HashMap<String, Vec<u32>>,
    bases: HashMap<String, Vec<String>>,
}

impl Synonyms {
    /// Reads `english.synsets` (a word, then the numbers of its sets) and `english.exceptions` (a base form, then its irregular
    /// forms), two lines an entry; the error says what is wrong in which line.
    pub(super) fn parse(synsets: &str, exceptions: &str) -> Result<Self, String> {
        let mut sets = HashMap::default();
        let mut lines = synsets.lines().enumerate();
        while let Some((at, word)) = lines.next() {
            let (_, numbers) = lines
                .next()
                .ok_or(format!("line {}: {word:?} has no sets", at + 1))?;
            let numbers = numbers.split_ascii_whitespace().map(str::parse);
            let numbers: Result<Vec<u32>, _> = numbers.collect();
            let numbers = numbers.map_err(|error| format!("line {}: {error}", at + 2))?;
            sets.insert(word.to_owned(), numbers);
        }
        let mut bases: HashMap<String, Vec<String>> = HashMap::default();
        let mut lines = exceptions.lines();
        while let (Some(base), Some(forms)) = (lines.next(), lines.next()) {
            for form in forms.split_ascii_whitespace() {
                bases
                    .entry(form.to_owned())
                    .or_default()
                    .push(base.to_owned());
            }
        }
        Ok(Self { sets, bases })
    }

    /// The sets of a word and of its base forms.
    pub(super) fn sets(&self, word: &str) -> Vec<u32> {
        let of = |word: &str| self.sets.get(word).into_iter().flatten();
        let mut sets: Vec<u32> = of(word).copied().collect();
        match self.bases.get(word) {
            Some(bases) => sets.extend(bases.iter().flat_map(|base| of(base))),
            None => sets.extend(self.base(word).iter().flat_map(|base| of(base))),
        }
        sets
    }

    /// The base form of a regular word that the tables know.
    fn base(&self, word: &str) -> Option<String> {
        // "handfuls" is no such word here, but "handful" is looked up as "hand" + "ful".
        let (stem, rest) = match word.strip_suffix("ful") {
            Some(_) => (&word[..word.rfind('f')?], "ful"),
            None if word.ends_with("ss") || word.chars().count() <= 2 => {
                return Some(word.to_owned());
            }
            None => (word, ""),
        };
        let mut base = String::with_capacity(word.len() + 2);
        ENDINGS.iter().find_map(|(ending, replacement)| {
            let begins = stem.strip_suffix(ending)?;
            base.clear();
            base.extend([begins, replacement]);
            let is_known = self.sets.contains_key(&base);
            is_known.then(|| base.clone() + rest)
        })
    }
}
