//! The studies of a run as 9 bytes each, the only thing of a coordinator that grows with the archive: 1,000,000 studies
//! take about 19 MB. Two ids of a million share a 62-bit hash once in ten million runs.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use radialog_schemas::StudyId;

/// Room from the start (2.4 MB), so that hardly an archive makes the table move, which takes old and new at a time.
const CAPACITY: usize = 200_000;
const SEEN: u64 = 1;
const WRITTEN: u64 = 2;
const FLAGS: u64 = SEEN | WRITTEN;

/// The studies that the archive has named, and those that have a line in `results.jsonl`.
pub(crate) struct StudySet {
    slots: HashSet<Slot, BuildHasherDefault<IdentityHasher>>,
}

impl Default for StudySet {
    fn default() -> Self {
        Self {
            slots: HashSet::with_capacity_and_hasher(CAPACITY, BuildHasherDefault::default()),
        }
    }
}

impl StudySet {
    /// Notes that the archive names the study; false where it did before.
    pub(crate) fn mark_seen(&mut self, study: &StudyId) -> bool {
        self.mark(study, SEEN)
    }

    /// Notes that the study has its line; false where it had one.
    pub(crate) fn mark_written(&mut self, study: &StudyId) -> bool {
        self.mark(study, WRITTEN)
    }

    /// Says whether the study has its line.
    pub(crate) fn is_written(&self, study: &StudyId) -> bool {
        self.slots
            .get(&Slot::of(study))
            .is_some_and(|slot| slot.0 & WRITTEN != 0)
    }

    fn mark(&mut self, study: &StudyId, flag: u64) -> bool {
        let slot = Slot::of(study);
        let before = self.slots.get(&slot).map_or(0, |slot| slot.0 & FLAGS);
        self.slots.replace(Slot(slot.0 | before | flag));
        before & flag == 0
    }
}

/// A hash whose lowest two bits are flags.
struct Slot(u64);

impl Slot {
    fn of(study: &StudyId) -> Self {
        let mut hasher = DefaultHasher::new();
        study.hash(&mut hasher);
        Self(hasher.finish() & !FLAGS)
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0 & !FLAGS == other.0 & !FLAGS
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 & !FLAGS);
    }
}

/// A hasher for slots, which are hashes already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        // The table takes its position from the low bits, two of which are always 0 here.
        self.0.rotate_right(2)
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("slots hash as one u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_and_written_are_apart_and_each_is_new_once() {
        let mut set = StudySet::default();
        let id = |n: u32| StudyId(format!("s{n}"));
        for n in 0..10_000 {
            assert!(set.mark_seen(&id(n)));
        }
        assert!(!set.mark_seen(&id(7)) && !set.is_written(&id(7)));
        assert!(set.mark_written(&id(7)) && set.is_written(&id(7)));
        assert!(!set.mark_written(&id(7)) && !set.mark_seen(&id(7)));
        assert!(set.mark_written(&id(20_000)) && set.mark_seen(&id(20_000)));
        assert!(!set.is_written(&id(8)));
    }
}
