//! METEOR's alignment of two texts: all matches of all stages, and among those that do not overlap the set that a beam search
//! over the reference's words likes best. Ties are broken as METEOR 1.5 breaks them, or scores would differ from the jar's.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use rust_stemmers::{Algorithm, Stemmer};

use super::data::MeteorData;
use super::paraphrases::Paraphrases;
use super::{STAGE_WEIGHTS, STAGES};

/// Partial alignments that are carried from one word to the next.
const BEAM: usize = 40;
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

/// A set of words of a text.
#[derive(Clone, PartialEq)]
struct Words(Vec<u64>);

impl Words {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, range: Range<usize>) {
        for at in range {
            self.0[at / 64] |= 1 << (at % 64);
        }
    }
}

/// An alignment of the reference's first words.
#[derive(Clone)]
struct Partial {
    hypothesis_used: Words,
    reference_used: Words,
    /// Matched words; those of a stage that counts less than 1 are rounded down after each, as METEOR does.
    matched: u64,
    chunks: u64,
    distance: usize,
    next: usize,
    /// Where the hypothesis goes on if the last chunk does, or [`NONE`].
    open: usize,
    /// The last chosen match, in a list where each knows the one before.
    last: usize,
}

impl Partial {
    fn take(&mut self, found: &Match) {
        let weight = STAGE_WEIGHTS[found.stage];
        let counted = |length: usize| (length as f64 * weight) as u64;
        self.matched += counted(found.hypothesis_length) + counted(found.length);
        if self.open != NONE && self.open != found.hypothesis_start {
            self.chunks += 1;
        }
        self.next = found.reference().end;
        self.open = found.hypothesis().end;
    }

    fn is_free(&self, found: &Match) -> bool {
        !found.reference().any(|at| self.reference_used.has(at))
            && !found.hypothesis().any(|at| self.hypothesis_used.has(at))
    }

    fn order(&self, other: &Self) -> Ordering {
        let matched = other.matched.cmp(&self.matched);
        matched
            .then(self.chunks.cmp(&other.chunks))
            .then(self.distance.cmp(&other.distance))
    }
}

/// Aligns two texts by the stages for which there is data.
pub(super) fn aligned(
    hypothesis: &[&str],
    reference: &[&str],
    data: Option<&MeteorData>,
) -> Alignment {
    let candidates = candidates(hypothesis, reference, data);
    let mut start = Partial {
        hypothesis_used: Words::new(hypothesis.len()),
        reference_used: Words::new(reference.len()),
        matched: 0,
        chunks: 0,
        distance: 0,
        next: 0,
        open: NONE,
        last: NONE,
    };
    // Matches that nothing competes with are certain.
    let mut certain: Vec<Option<Match>> = vec![None; reference.len()];
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
    candidates.add_words(0, |h, r| hypothesis[h] == reference[r]);
    // Equal texts need nothing else, and a beam could lose their diagonal.
    if hypothesis == reference {
        return candidates;
    }
    let stemmer = Stemmer::create(Algorithm::English);
    let stems = [hypothesis, reference].map(|words| {
        let stems = words.iter().map(|word| stemmer.stem(word).into_owned());
        stems.collect::<Vec<String>>()
    });
    candidates.add_words(1, |h, r| {
        stems[0][h] == stems[1][r] && hypothesis[h] != reference[r]
    });
    let Some(data) = data else {
        return candidates;
    };
    let sets = [hypothesis, reference].map(|words| {
        let sets = words.iter().map(|word| data.synonyms.sets(word));
        sets.collect::<Vec<Vec<u32>>>()
    });
    candidates.add_words(2, |h, r| {
        hypothesis[h] != reference[r] && sets[0][h].iter().any(|set| sets[1][r].contains(set))
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
        let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
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
                    let mut words = paraphrase.split(|byte| *byte == b' ');
                    let first = words.next().unwrap_or_default();
                    // Most paraphrases begin with a word that the other side has not, which is quickly seen.
                    let first_byte = usize::from(first.first().copied().unwrap_or_default());
                    if lengths[first_byte] & length_bit(first) == 0 {
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

/// A bit for a word's length in bytes.
fn length_bit(word: &[u8]) -> u32 {
    1 << word.len().min(31)
}

/// Goes through the reference's words and keeps the best partial alignments. Sorting is stable: of equal ones the earlier stays
/// ahead.
fn search(
    start: Partial,
    matches: &[Vec<Match>],
    certain: &[Option<Match>],
    chosen: &mut Vec<(Match, usize)>,
) -> Partial {
    let mut next = vec![start];
    for (current, here) in matches.iter().enumerate() {
        let mut paths = std::mem::take(&mut next);
        paths.sort_by(Partial::order);
        paths.truncate(BEAM);
        let fallback = paths[0].clone();
        for mut path in paths {
            if path.reference_used.has(current) {
                if current < path.next {
                    next.push(path);
                } else if let Some(found) = &certain[path.next] {
                    path.take(found);
                    path.distance += found.distance();
                    next.push(path);
                }
                continue;
            }
            for found in here {
                if path.is_free(found) {
                    let mut longer = path.clone();
                    longer.reference_used.set(found.reference());
                    longer.hypothesis_used.set(found.hypothesis());
                    longer.take(found);
                    chosen.push((*found, path.last));
                    longer.last = chosen.len() - 1;
                    next.push(longer);
                    // METEOR 1.5 counts the distance here against the path that goes without the match, and the later ones.
                    path.distance += found.distance();
                }
            }
            if path.open != NONE {
                path.chunks += 1;
                path.open = NONE;
            }
            path.next += 1;
            next.push(path);
        }
        if next.is_empty() {
            next.push(fallback);
        }
    }
    next.sort_by(Partial::order);
    next.truncate(BEAM);
    for path in &mut next {
        if path.open != NONE {
            path.chunks += 1;
        }
    }
    next.sort_by(Partial::order);
    next.swap_remove(0)
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
