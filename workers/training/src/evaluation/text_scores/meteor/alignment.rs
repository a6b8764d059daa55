//! METEOR's alignment of two texts: all matches of all stages, and among those that do not overlap the set that a beam search
//! over the reference's words likes best. Ties are broken as METEOR 1.5 breaks them, or scores would differ from the jar's.

use std::ops::Range;

use rust_stemmers::{Algorithm, Stemmer};

use super::super::grams::{HashMap, numbered};
use super::data::MeteorData;
use super::paraphrases::Paraphrases;
use super::{STAGE_WEIGHTS, STAGES};
use search::{FewPlaces, Partial, Places, search};

mod search;

/// "No match": the end of a chain of matches, and no open chunk.
const NONE: usize = usize::MAX;

/// A run of words of the reference that matches a run of the hypothesis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) stage: usize,
    start: usize,
    length: usize,
    hypothesis_start: usize,
    hypothesis_length: usize,
}

impl Match {
    /// How far the two sides' places are apart.
    fn distance(&self) -> usize {
        self.start.abs_diff(self.hypothesis_start)
    }

    /// Matched words of both sides; those of a stage that counts less than 1 are rounded down, as METEOR does.
    fn counted(&self) -> u64 {
        let weight = STAGE_WEIGHTS[self.stage];
        let counted = |length: usize| (length as f64 * weight) as u64;
        counted(self.hypothesis_length) + counted(self.length)
    }

    pub(super) fn hypothesis(&self) -> Range<usize> {
        self.hypothesis_start..self.hypothesis_start + self.hypothesis_length
    }

    pub(super) fn reference(&self) -> Range<usize> {
        self.start..self.start + self.length
    }
}

/// The chosen matches, and the number of chunks: runs that are contiguous and in order on both sides.
pub(super) struct Alignment {
    pub(super) matches: Vec<Match>,
    pub(super) chunks: u64,
}

/// All matches, by the word of the reference where they begin, and how many cover each word.
struct Candidates {
    matches: Vec<Vec<Match>>,
    hypothesis_covered: Vec<u32>,
    reference_covered: Vec<u32>,
}

impl Candidates {
    fn add(&mut self, found: Match) {
        for at in found.hypothesis() {
            self.hypothesis_covered[at] += 1;
        }
        for at in found.reference() {
            self.reference_covered[at] += 1;
        }
        self.matches[found.start].push(found);
    }

    fn add_words(&mut self, stage: usize, is_match: impl Fn(usize, usize) -> bool) {
        for start in 0..self.reference_covered.len() {
            for hypothesis_start in 0..self.hypothesis_covered.len() {
                if is_match(hypothesis_start, start) {
                    self.add(Match {
                        stage,
                        start,
                        length: 1,
                        hypothesis_start,
                        hypothesis_length: 1,
                    });
                }
            }
        }
    }
}

/// Aligns two texts by the stages for which there is data.
pub(super) fn aligned(
    hypothesis: &[&str],
    reference: &[&str],
    data: Option<&MeteorData>,
) -> Alignment {
    let candidates = candidates(hypothesis, reference, data);
    let words = hypothesis.len().max(reference.len());
    if words <= FewPlaces::none(words).len() * 64 {
        chosen::<FewPlaces>(&candidates)
    } else {
        chosen::<Vec<u64>>(&candidates)
    }
}

/// Chooses among the matches.
fn chosen<P: Places>(candidates: &Candidates) -> Alignment {
    let (hypothesis, reference) = (
        candidates.hypothesis_covered.len(),
        candidates.reference_covered.len(),
    );
    let mut start = Partial {
        hypothesis_used: P::none(hypothesis),
        reference_used: P::none(reference),
        matched: 0,
        chunks: 0,
        distance: 0,
        next: 0,
        open: NONE,
        last: NONE,
    };
    // Matches that nothing competes with are certain.
    let mut certain: Vec<Option<Match>> = vec![None; reference];
    for (at, matches) in candidates.matches.iter().enumerate() {
        if let [only] = matches.as_slice()
            && only
                .reference()
                .all(|at| candidates.reference_covered[at] == 1)
            && only
                .hypothesis()
                .all(|at| candidates.hypothesis_covered[at] == 1)
        {
            start.reference_used.set(only.reference());
            start.hypothesis_used.set(only.hypothesis());
            certain[at] = Some(*only);
        }
    }
    let mut chosen: Vec<(Match, usize)> = Vec::new();
    let best = search(start, &candidates.matches, &certain, &mut chosen);
    let mut matches = certain;
    let mut at = best.last;
    while at != NONE {
        let (found, before) = chosen[at];
        matches[found.start] = Some(found);
        at = before;
    }
    Alignment {
        chunks: chunks(&matches),
        matches: matches.into_iter().flatten().collect(),
    }
}

fn candidates(hypothesis: &[&str], reference: &[&str], data: Option<&MeteorData>) -> Candidates {
    let mut candidates = Candidates {
        matches: vec![Vec::new(); reference.len()],
        hypothesis_covered: vec![0; hypothesis.len()],
        reference_covered: vec![0; reference.len()],
    };
    let [h_words, r_words] = numbered(hypothesis, reference);
    candidates.add_words(0, |h, r| h_words[h] == r_words[r]);
    // Equal texts need nothing else, and a beam could lose their diagonal.
    if h_words == r_words {
        return candidates;
    }
    // Each word once, by its number, which begins with 1.
    let mut words: Vec<&str> = Vec::new();
    let texts = hypothesis.iter().chain(reference);
    for (word, number) in texts.zip(h_words.iter().chain(&r_words)) {
        if *number as usize > words.len() {
            words.push(word);
        }
    }
    let place = |number: u32| number as usize - 1;
    let stemmer = Stemmer::create(Algorithm::English);
    let stems: Vec<_> = words.iter().map(|word| stemmer.stem(word)).collect();
    let [stems, _] = numbered(&stems, &[]);
    candidates.add_words(1, |h, r| {
        let (h, r) = (h_words[h], r_words[r]);
        h != r && stems[place(h)] == stems[place(r)]
    });
    let Some(data) = data else {
        return candidates;
    };
    let sets = words.iter().map(|word| data.synonyms.sets(word));
    let sets: Vec<Vec<u32>> = sets.collect();
    // Most words share no set, which a bit for each set tells at once.
    let bits = sets
        .iter()
        .map(|sets| sets.iter().fold(0, |bits, set| bits | set_bit(*set)));
    let bits: Vec<u64> = bits.collect();
    candidates.add_words(2, |h, r| {
        let (h, r) = (h_words[h], r_words[r]);
        h != r && bits[place(h)] & bits[place(r)] != 0 && {
            let theirs = &sets[place(r)];
            sets[place(h)].iter().any(|set| theirs.contains(set))
        }
    });
    add_paraphrases(&mut candidates, hypothesis, reference, &data.paraphrases);
    candidates
}

/// Both directions: a phrase of either side that the table turns into a phrase of the other.
fn add_paraphrases(
    candidates: &mut Candidates,
    hypothesis: &[&str],
    reference: &[&str],
    paraphrases: &Paraphrases,
) {
    for (from, to, from_reference) in [
        (reference, hypothesis, true),
        (hypothesis, reference, false),
    ] {
        let mut places: HashMap<&[u8], Vec<usize>> = HashMap::default();
        let mut lengths = [0_u32; 256];
        for (at, word) in to.iter().enumerate() {
            let word = word.as_bytes();
            places.entry(word).or_default().push(at);
            lengths[usize::from(word[0])] |= length_bit(word);
        }
        let mut phrase = String::new();
        for start in 0..from.len() {
            phrase.clear();
            let longest = paraphrases.longest().min(from.len() - start);
            for length in 1..=longest {
                if length > 1 {
                    phrase.push(' ');
                }
                phrase.push_str(from[start + length - 1]);
                for paraphrase in paraphrases.of(&phrase) {
                    // Most paraphrases begin with a word that the other side has not, which is quickly seen.
                    let lengths = lengths[usize::from(paraphrase[0])];
                    if lengths == 0 {
                        continue;
                    }
                    let mut words = paraphrase.split(|byte| *byte == b' ');
                    let first = words.next().unwrap_or_default();
                    if lengths & length_bit(first) == 0 {
                        continue;
                    }
                    for &other in places.get(first).into_iter().flatten() {
                        let mut count = 1;
                        let is_there = words.clone().all(|word| {
                            let there = to.get(other + count).map(|word| word.as_bytes());
                            count += 1;
                            there == Some(word)
                        });
                        if !is_there {
                            continue;
                        }
                        let (own, theirs) = ((start, length), (other, count));
                        let (reference, hypothesis) = if from_reference {
                            (own, theirs)
                        } else {
                            (theirs, own)
                        };
                        candidates.add(Match {
                            stage: STAGES - 1,
                            start: reference.0,
                            length: reference.1,
                            hypothesis_start: hypothesis.0,
                            hypothesis_length: hypothesis.1,
                        });
                    }
                }
            }
        }
    }
}

/// A bit for a set of synonyms.
fn set_bit(set: u32) -> u64 {
    1 << (set % 64)
}

/// A bit for a word's length in bytes.
fn length_bit(word: &[u8]) -> u32 {
    1 << word.len().min(31)
}

fn chunks(matches: &[Option<Match>]) -> u64 {
    let (mut chunks, mut open, mut at) = (0, NONE, 0);
    while let Some(here) = matches.get(at) {
        match here {
            None => {
                chunks += u64::from(open != NONE);
                open = NONE;
                at += 1;
            }
            Some(found) => {
                chunks += u64::from(open != NONE && open != found.hypothesis_start);
                open = found.hypothesis().end;
                at = found.reference().end;
            }
        }
    }
    chunks + u64::from(open != NONE)
}
