//! The beam search of METEOR's alignment: over the reference's words, the matches that do not overlap and are liked best.

use std::cmp::Reverse;
use std::ops::Range;

use super::{Match, NONE};

/// Partial alignments that are carried from one word to the next.
const BEAM: usize = 40;

/// A set of places of words.
pub(super) trait Places: Clone {
    fn none(words: usize) -> Self;
    fn parts(&self) -> &[u64];
    fn parts_mut(&mut self) -> &mut [u64];

    fn has(&self, at: usize) -> bool {
        self.parts()[at / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, range: Range<usize>) {
        for at in range {
            self.parts_mut()[at / 64] |= 1 << (at % 64);
        }
    }
}

/// Words of a usual report; copied often, so without memory of its own.
pub(super) type FewPlaces = [u64; 4];

impl Places for FewPlaces {
    fn none(_words: usize) -> Self {
        [0; 4]
    }

    fn parts(&self) -> &[u64] {
        self
    }

    fn parts_mut(&mut self) -> &mut [u64] {
        self
    }
}

impl Places for Vec<u64> {
    fn none(words: usize) -> Self {
        vec![0; words.div_ceil(64)]
    }

    fn parts(&self) -> &[u64] {
        self
    }

    fn parts_mut(&mut self) -> &mut [u64] {
        self
    }
}

/// An alignment of the reference's first words.
#[derive(Clone)]
pub(super) struct Partial<P> {
    pub(super) hypothesis_used: P,
    pub(super) reference_used: P,
    /// Matched words; those of a stage that counts less than 1 are rounded down after each, as METEOR does.
    pub(super) matched: u64,
    pub(super) chunks: u64,
    pub(super) distance: usize,
    pub(super) next: usize,
    /// Where the hypothesis goes on if the last chunk does, or [`NONE`].
    pub(super) open: usize,
    /// The last chosen match, in a list where each knows the one before.
    pub(super) last: usize,
}

/// What partial alignments are chosen by: matched words, chunks, distance. Better ones are less.
type Rank = (Reverse<u64>, u64, usize);

impl<P: Places> Partial<P> {
    fn rank(&self) -> Rank {
        (Reverse(self.matched), self.chunks, self.distance)
    }

    /// Goes behind a match, but for the rank.
    fn take(&mut self, found: &Match) {
        self.next = found.reference().end;
        self.open = found.hypothesis().end;
    }

    fn is_free(&self, found: &Match) -> bool {
        !found.reference().any(|at| self.reference_used.has(at))
            && !found.hypothesis().any(|at| self.hypothesis_used.has(at))
    }

    /// Goes on to the next word.
    fn went(&self, step: &Step, chosen: &mut Vec<(Match, usize)>) -> Self {
        let mut path = self.clone();
        match &step.way {
            Way::Covered => {}
            Way::Certain(found) => path.take(found),
            Way::Match(found) => {
                path.reference_used.set(found.reference());
                path.hypothesis_used.set(found.hypothesis());
                path.take(found);
                chosen.push((*found, path.last));
                path.last = chosen.len() - 1;
            }
            Way::NoMatch => {
                path.open = NONE;
                path.next += 1;
            }
        }
        (Reverse(path.matched), path.chunks, path.distance) = step.rank;
        path
    }

    /// The rank with one match more.
    fn rank_with(&self, found: &Match) -> Rank {
        // Only what a rank is made of changes.
        let matched = self.matched + found.counted();
        let breaks = self.open != NONE && self.open != found.hypothesis_start;
        (
            Reverse(matched),
            self.chunks + u64::from(breaks),
            self.distance,
        )
    }

    /// Adds all ways on from the word `current`, which `here` matches begin at.
    fn add_steps(
        &self,
        (parent, current): (usize, usize),
        here: &[Match],
        certain: &[Option<Match>],
        steps: &mut Vec<Step>,
    ) {
        let mut add = |rank, way| steps.push(Step { rank, parent, way });
        if self.reference_used.has(current) {
            if current < self.next {
                add(self.rank(), Way::Covered);
            } else if let Some(found) = &certain[self.next] {
                let (matched, chunks, distance) = self.rank_with(found);
                let rank = (matched, chunks, distance + found.distance());
                add(rank, Way::Certain(*found));
            }
            return;
        }
        // METEOR 1.5 counts the distance of a match here against the path that goes without it, and the later ones.
        let mut behind = 0;
        for found in here.iter().filter(|found| self.is_free(found)) {
            let (matched, chunks, distance) = self.rank_with(found);
            add((matched, chunks, distance + behind), Way::Match(*found));
            behind += found.distance();
        }
        let (matched, chunks, distance) = self.rank();
        let chunks = chunks + u64::from(self.open != NONE);
        add((matched, chunks, distance + behind), Way::NoMatch);
    }
}

/// A way on from a partial alignment. Most are not taken, so that it holds no alignment of its own.
struct Step {
    rank: Rank,
    parent: usize,
    way: Way,
}

/// What becomes of a word of the reference.
enum Way {
    /// A match before it covers it.
    Covered,
    /// A certain match begins at it.
    Certain(Match),
    /// This match begins at it.
    Match(Match),
    /// It stays without.
    NoMatch,
}

/// Goes through the reference's words and keeps the best [`BEAM`] partial alignments, best first; of equal ones the earlier stays
/// ahead.
pub(super) fn search<P: Places>(
    start: Partial<P>,
    matches: &[Vec<Match>],
    certain: &[Option<Match>],
    chosen: &mut Vec<(Match, usize)>,
) -> Partial<P> {
    let mut paths = vec![start];
    let (mut steps, mut ranked): (Vec<Step>, Vec<(Rank, usize)>) = (Vec::new(), Vec::new());
    let mut next = Vec::new();
    for (current, here) in matches.iter().enumerate() {
        steps.clear();
        for (parent, path) in paths.iter().enumerate() {
            path.add_steps((parent, current), here, certain, &mut steps);
        }
        // Where no path goes on, the best one waits.
        if steps.is_empty() {
            paths.truncate(1);
            continue;
        }
        let places = steps.iter().enumerate();
        ranked.clear();
        ranked.extend(places.map(|(place, step)| (step.rank, place)));
        if ranked.len() > BEAM {
            ranked.select_nth_unstable(BEAM - 1);
            ranked.truncate(BEAM);
        }
        ranked.sort_unstable();
        let went = |(_, place): &(Rank, usize)| {
            let step = &steps[*place];
            paths[step.parent].went(step, chosen)
        };
        next.clear();
        next.extend(ranked.iter().map(went));
        std::mem::swap(&mut paths, &mut next);
    }
    for path in &mut paths {
        if path.open != NONE {
            path.chunks += 1;
        }
    }
    let best = paths.iter().enumerate();
    let best = best.min_by_key(|(place, path)| (path.rank(), *place));
    let best = best.map_or(0, |(place, _)| place);
    paths.swap_remove(best)
}
