//! Speculative decoding by prompt lookup (Saxena, 2023): where the last tokens stand in the text before, what followed them
//! there may follow again, as in a report that is corrected. A pass over a sequence reads such a draft behind its last token
//! and takes as much of it as the sampler chooses anyway. So nothing depends on what was drafted but the time: on a CPU a
//! position's logits have the same bytes alone and with the positions before it, and the sampler draws once a token.

/// Rows of a pass with drafts, at most. A large model reads its weights once for all of them; of a small one, whose weights lie in
/// caches, each row costs its share.
pub(super) const ROWS: usize = 16;
/// Tokens that must stand in the text before, the most telling first.
const GRAMS: [usize; 2] = [3, 2];
/// Tokens of a sequence's first draft.
const FIRST: usize = 4;
/// The most steps without a draft after drafts that were wrong from the first token on.
const MAX_PAUSE: usize = 15;

/// Drafts of an engine, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafts {
    /// Those that were read.
    pub drafted: u64,
    /// Those of them that the sequence then said.
    pub accepted: u64,
}

/// How far it pays to look ahead in one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speculation {
    /// Tokens of a draft, at most.
    reach: usize,
    /// Steps that are left without one.
    pause: usize,
    /// Steps of the last pause.
    paused: usize,
}

impl Default for Speculation {
    fn default() -> Self {
        Self {
            reach: FIRST,
            pause: 0,
            paused: 0,
        }
    }
}

impl Speculation {
    /// What may come behind these ids, at most so many tokens; nothing that the pass cannot read (`image`, the end).
    pub(super) fn draft<'a>(
        &mut self,
        ids: &'a [u32],
        most: usize,
        image: u32,
        eos: u32,
    ) -> &'a [u32] {
        if self.pause > 0 {
            self.pause -= 1;
            return &[];
        }
        let found = continuation(ids);
        let found = &found[..found.len().min(most).min(self.reach)];
        let end = found.iter().position(|&id| id >= image || id == eos);
        &found[..end.unwrap_or(found.len())]
    }

    /// Notes how much of a draft was right. Long drafts follow right ones, and pauses wrong ones.
    pub(super) fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        if accepted == 0 {
            self.paused = (2 * self.paused + 1).min(MAX_PAUSE);
            self.pause = self.paused;
        } else {
            self.paused = 0;
        }
        self.reach = match accepted == drafted {
            true => (2 * self.reach).min(ROWS),
            false => accepted.max(1),
        };
    }
}

/// What followed the last tokens where they stood before, the last time.
fn continuation(ids: &[u32]) -> &[u32] {
    let before = &ids[..ids.len().saturating_sub(1)];
    let found = GRAMS.into_iter().find_map(|length| {
        let last = &ids[ids.len().checked_sub(length)?..];
        let at = before.windows(length).rposition(|gram| gram == last)?;
        Some(&ids[at + length..])
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_known_ending_is_continued_as_the_last_time() {
        assert_eq!(
            continuation(&[1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3]),
            [8, 1, 2, 3]
        );
        // Three tokens count for more than two that stand nearer.
        assert_eq!(continuation(&[1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3])[0], 9);
        assert_eq!(continuation(&[4, 5, 6, 4, 5]), [6, 4, 5]);
        assert_eq!(continuation(&[7, 7, 7]), [7]);
        for none in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4], &[2, 1, 2]] {
            assert!(continuation(none).is_empty(), "{none:?}");
        }
    }

    #[test]
    fn a_draft_ends_before_an_image_or_the_end_and_at_its_limit() {
        let draft = |ids: &[u32], most| Speculation::default().draft(ids, most, 300, 2).to_vec();
        assert_eq!(draft(&[5, 6, 7, 8, 9, 10, 11, 5, 6], 9), [7, 8, 9, 10]);
        assert_eq!(draft(&[5, 6, 7, 8, 9, 5, 6], 2), [7, 8]);
        assert_eq!(draft(&[5, 6, 7, 300, 9, 5, 6], 9), [7]);
        assert_eq!(draft(&[5, 6, 2, 8, 9, 5, 6], 9), [0; 0]);
    }

    #[test]
    fn right_drafts_get_longer_and_wrong_ones_rarer() {
        let ids: Vec<u32> = (5..60).chain(5..8).collect();
        let mut looks = Speculation::default();
        let mut next = |accepted: fn(usize) -> usize| {
            let drafted = looks.draft(&ids, 99, 300, 2).len();
            looks.learn(drafted, accepted(drafted));
            drafted
        };
        assert_eq!([(); 4].map(|()| next(|all| all)), [4, 8, 16, 16]);
        assert_eq!([(); 3].map(|()| next(|_| 0)), [16, 0, 1]);
        let drafts = (0..40).filter(|_| next(|_| 0) > 0).count();
        assert!(drafts < 6, "{drafts}");
    }
}
