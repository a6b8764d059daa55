//! Which batches a gateway works on: owners take turns, and of each owner the oldest comes first. A batch that has nothing
//! to do here, or that another gateway holds, is in nobody's way.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use radialog_schemas::ContentHash;

use super::BatchName;
use crate::request_store::batches::{BatchDocument, Lease};

/// How long a lease must stand still, as this gateway sees it, until its holder is taken for dead.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// What a gateway knows of the open batches.
#[derive(Default)]
pub(super) struct Schedule {
    /// The batches that are worked on here.
    here: HashSet<BatchName>,
    /// When a batch of an owner was last begun here.
    begun: HashMap<ContentHash, Instant>,
    /// The leases of other gateways, and since when they are the same.
    leases: HashMap<BatchName, (Lease, Instant)>,
    /// Owners of batches that could be worked on and find no place.
    waiting: HashSet<ContentHash>,
    /// Damaged batches that were told of.
    damaged: HashSet<BatchName>,
}

/// A batch that can be taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FreeBatch {
    pub(super) name: BatchName,
    /// The lease that a dead gateway has left.
    pub(super) abandoned: Option<Lease>,
}

impl Schedule {
    pub(super) fn is_here(&self, name: &BatchName) -> bool {
        self.here.contains(name)
    }

    pub(super) fn begin(&mut self, name: &BatchName) {
        self.here.insert(name.clone());
        self.begun.insert(name.owner.clone(), Instant::now());
    }

    pub(super) fn end(&mut self, name: &BatchName) {
        self.here.remove(name);
    }

    /// Whether it is told for the first time that this batch is damaged.
    pub(super) fn tell_damaged(&mut self, name: &BatchName) -> bool {
        self.damaged.insert(name.clone())
    }

    /// Says whether a batch that wants work can be taken.
    pub(super) fn free(
        &mut self,
        name: &BatchName,
        document: &BatchDocument,
        holder: &str,
        now: Instant,
    ) -> Option<FreeBatch> {
        let name = name.clone();
        let Some(lease) = document
            .lease()
            .filter(|_| !document.is_held_by(holder))
            .cloned()
        else {
            self.leases.remove(&name);
            return Some(FreeBatch {
                name,
                abandoned: None,
            });
        };
        let seen = self.leases.entry(name.clone());
        let (known, since) = seen.or_insert_with(|| (lease.clone(), now));
        if *known != lease {
            (*known, *since) = (lease.clone(), now);
        }
        (now - *since >= ABANDONED_AFTER).then_some(FreeBatch {
            name,
            abandoned: Some(lease),
        })
    }

    /// Takes the batch that comes next out of those that are free: of the owner who has the fewest here, and of several such
    /// of the one who has waited for longest.
    pub(super) fn next(&self, free: &mut Vec<FreeBatch>) -> Option<FreeBatch> {
        let order = |batch: &FreeBatch| {
            let owner = &batch.name.owner;
            let running = self.here.iter().filter(|name| name.owner == *owner);
            let begun = self.begun.get(owner).copied();
            (running.count(), begun, batch.name.name.clone())
        };
        let next = free
            .iter()
            .enumerate()
            .min_by_key(|(_, batch)| order(batch));
        let place = next.map(|(place, _)| place)?;
        Some(free.swap_remove(place))
    }

    /// Notes the owners of what found no place, and forgets what is not open any more.
    pub(super) fn note(&mut self, waiting: &[FreeBatch], open: &[BatchName]) {
        let owners = waiting.iter().map(|batch| batch.name.owner.clone());
        self.waiting = owners.collect();
        let names: HashSet<&BatchName> = open.iter().collect();
        self.leases.retain(|name, _| names.contains(name));
        self.damaged.retain(|name| names.contains(name));
        let owners: HashSet<&ContentHash> = open.iter().map(|name| &name.owner).collect();
        self.begun.retain(|owner, _| owners.contains(owner));
    }

    /// Whether a batch of another owner waits for a place.
    pub(super) fn others_wait(&self, owner: &ContentHash) -> bool {
        self.waiting.iter().any(|waiting| waiting != owner)
    }

    /// Whether any batch waits for a place.
    pub(super) fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::http::openai_batches::BatchEndpoint;

    use super::*;
    use crate::request_store::batches::BatchTimes;
    use crate::request_store::new_name;

    fn named(owner: &str, name: &str) -> BatchName {
        BatchName {
            owner: ContentHash::of(owner.as_bytes()),
            name: name.to_owned(),
        }
    }

    #[test]
    fn owners_take_turns_and_each_ones_oldest_comes_first() {
        let mut schedule = Schedule::default();
        let free = |owner: &str, name: &str| FreeBatch {
            name: named(owner, name),
            abandoned: None,
        };
        let all = [
            free("a", "1"),
            free("a", "2"),
            free("b", "4"),
            free("b", "3"),
        ];
        let (mut order, mut rest) = (Vec::new(), all.to_vec());
        while let Some(next) = schedule.next(&mut rest) {
            schedule.begin(&next.name);
            order.push(next.name.name);
        }
        assert_eq!(order, ["1", "3", "2", "4"]);
        // Whoever was served last comes last.
        for batch in &all {
            schedule.end(&batch.name);
        }
        let mut rest = all.to_vec();
        assert_eq!(schedule.next(&mut rest).unwrap().name.name, "1");
        let open: Vec<BatchName> = all.iter().map(|batch| batch.name.clone()).collect();
        schedule.note(&all[2..], &open);
        assert!(schedule.others_wait(&all[0].name.owner));
        assert!(!schedule.others_wait(&all[2].name.owner) && schedule.any_waits());
    }

    #[test]
    fn a_lease_is_abandoned_when_it_was_seen_to_stand_still() {
        let (mut schedule, batch) = (Schedule::default(), new_name());
        let name = named("a", &batch);
        let endpoint = BatchEndpoint::ChatCompletions;
        let times = BatchTimes::default();
        let mut document =
            BatchDocument::new(&batch, "a".to_owned(), endpoint, new_name(), None, times);
        let begun = Instant::now();
        let mut free = |document: &BatchDocument, halves: u32| {
            schedule.free(&name, document, "two", begun + halves * ABANDONED_AFTER / 2)
        };
        assert!(document.hold("one", None));
        assert_eq!(free(&document, 0), None);
        assert!(document.hold("one", None), "it is renewed");
        assert_eq!(free(&document, 1), None);
        assert_eq!(free(&document, 2), None);
        assert!(!document.hold("two", None));
        let taken = free(&document, 3).unwrap();
        let mut renewed = document.clone();
        assert!(renewed.hold("one", None));
        assert!(!renewed.hold("two", taken.abandoned.as_ref()));
        assert!(document.hold("two", taken.abandoned.as_ref()));
        assert!(free(&document, 3).is_some(), "it is its own");
    }
}
