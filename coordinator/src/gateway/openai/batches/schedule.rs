//! Which batches a gateway works on: owners take turns, and of each owner the oldest comes first. A batch that has nothing
//! to do here, or that another gateway holds, is in nobody's way.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use radialog_runtime::backoff::Backoff;
use radialog_schemas::ContentHash;
use radialog_schemas::http::openai_batches::RequestBatchStatus;

use super::BatchName;
use crate::request_store::batches::{BatchDocument, BatchLease};

/// Batches whose lines a gateway has answered at a time; the others wait.
pub(super) const RUNNING: u32 = 2;
/// How long a batch rests after its work has failed, or none of its lines was begun, and how long at most after it did so again.
const REST: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
/// Batches without a place whose lines wait for workers that do not come: of all keys, and of one.
const ASIDE: usize = 6;
const ASIDE_OF_ONE: usize = 2;

/// What a gateway knows of the open batches.
pub(super) struct Schedule {
    /// How long a lease must stand still, as this gateway sees it, until its holder is taken for dead.
    abandoned_after: Duration,
    /// The batches that are worked on here.
    here: HashMap<BatchName, HeldPlace>,
    /// When an owner was last served here: a batch was begun, or made room.
    begun: HashMap<ContentHash, Instant>,
    /// The leases of other gateways, and since when they are the same.
    leases: HashMap<BatchName, (BatchLease, Instant)>,
    /// What could be worked on and finds no place.
    waiting: Vec<FreeBatch>,
    /// The batches that make room for them: such whose places are not free yet, or not given to any of these.
    making_room: HashSet<BatchName>,
    /// Damaged batches that were told of.
    damaged: HashSet<BatchName>,
    /// What did not get on here when it was last worked on.
    rests: HashMap<BatchName, Rest>,
    /// What waits for the place in which batches are ended.
    ends: Vec<FreeBatch>,
    /// When a batch of an owner was last taken there.
    ended: HashMap<ContentHash, Instant>,
}

/// Which place a batch has that is worked on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldPlace {
    /// One of those in which lines are answered.
    Answering,
    /// None of them: its lines wait for workers that do not come.
    Aside,
    /// None of them any more: its lines have been answered aside, and it leaves unless it is given one.
    Leaving,
    /// That of those that are only ended.
    Ending,
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WantedWork {
    /// It has to be ended: somebody waits for that.
    End,
    /// Its time is over, which each of its lines is told.
    Expiry,
    /// Its lines are to be answered.
    Answers,
}

impl WantedWork {
    pub(super) fn of(document: &BatchDocument) -> Self {
        match document.status {
            RequestBatchStatus::Cancelling | RequestBatchStatus::Finalizing => Self::End,
            _ if document.is_late() => Self::Expiry,
            _ => Self::Answers,
        }
    }
}

/// The pause of a batch that did not get on.
struct Rest {
    /// What was to be done with it.
    wanted: WantedWork,
    since: Instant,
    until: Instant,
    backoff: Backoff,
}

/// A batch that can be taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FreeBatch {
    pub(super) name: BatchName,
    pub(super) wanted: WantedWork,
    /// The lease that a dead gateway has left.
    pub(super) abandoned: Option<BatchLease>,
    /// It may be what killed those who had it: no other batch's lines are answered beside it.
    pub(super) is_alone: bool,
}

impl FreeBatch {
    /// How many places it takes.
    pub(super) fn places(&self) -> u32 {
        match self.is_alone && !self.only_ends() {
            true => RUNNING,
            false => 1,
        }
    }

    /// Whether it takes the place of those that are only ended. One that may kill its gateway while its lines are read takes
    /// all the others.
    pub(super) fn only_ends(&self) -> bool {
        match self.wanted {
            WantedWork::Answers => false,
            WantedWork::End => true,
            WantedWork::Expiry => !self.is_alone,
        }
    }
}

impl Schedule {
    pub(super) fn new(abandoned_after: Duration) -> Self {
        Self {
            abandoned_after,
            here: HashMap::new(),
            begun: HashMap::new(),
            leases: HashMap::new(),
            waiting: Vec::new(),
            making_room: HashSet::new(),
            damaged: HashSet::new(),
            rests: HashMap::new(),
            ends: Vec::new(),
            ended: HashMap::new(),
        }
    }

    pub(super) fn is_here(&self, name: &BatchName) -> bool {
        self.here.contains_key(name)
    }

    pub(super) fn begin(&mut self, batch: &FreeBatch) {
        let place = match batch.only_ends() {
            true => HeldPlace::Ending,
            false => HeldPlace::Answering,
        };
        self.here.insert(batch.name.clone(), place);
        // Where it is not taken after all, another such lease is another one's, and has to be seen to stand still, too.
        self.leases.remove(&batch.name);
        self.making_room.remove(&batch.name);
        if place == HeldPlace::Answering {
            let owner = batch.name.owner.clone();
            self.begun.insert(owner, Instant::now());
        }
    }

    pub(super) fn end(&mut self, name: &BatchName) {
        self.here.remove(name);
    }

    /// Whether it is told for the first time that this batch is damaged.
    pub(super) fn tell_damaged(&mut self, name: &BatchName) -> bool {
        self.damaged.insert(name.clone())
    }

    /// Notes that a batch did not get on: it rests, and the next time longer.
    pub(super) fn rest(&mut self, batch: &FreeBatch, now: Instant) {
        let known = self.rests.remove(&batch.name);
        let mut backoff = known
            .filter(|known| known.wanted == batch.wanted)
            .map_or(REST, |known| known.backoff);
        let rest = Rest {
            wanted: batch.wanted,
            since: now,
            until: now + backoff.next(),
            backoff,
        };
        self.rests.insert(batch.name.clone(), rest);
    }

    /// How many batches rest.
    pub(super) fn resting(&self, now: Instant) -> usize {
        self.rests.values().filter(|rest| now < rest.until).count()
    }

    /// Notes that a batch got on.
    pub(super) fn forget_rest(&mut self, name: &BatchName) {
        self.rests.remove(name);
    }

    /// Takes the batch that is ended next: first those that have not failed, and of them those that somebody has cancelled;
    /// the one that failed last comes last. Else owners take turns, and of each the oldest comes first.
    pub(super) fn next_to_end(&mut self, now: Instant) -> Option<FreeBatch> {
        let order = |batch: &FreeBatch| {
            let failed = self.rests.get(&batch.name).map(|rest| rest.since);
            let ended = self.ended.get(&batch.name.owner).copied();
            (failed, batch.wanted, ended, batch.name.name.clone())
        };
        let next = self.ends.iter().enumerate();
        let (place, _) = next.min_by_key(|(_, batch)| order(batch))?;
        let next = self.ends.swap_remove(place);
        self.ended.insert(next.name.owner.clone(), now);
        Some(next)
    }

    /// Notes what is to be ended.
    pub(super) fn note_ending(&mut self, ends: Vec<FreeBatch>) {
        self.ends = ends;
    }

    /// How many batches wait for being ended.
    pub(super) fn ends(&self) -> usize {
        self.ends.len()
    }

    /// Whether a batch that was cancelled waits for being ended.
    pub(super) fn end_waits(&self) -> bool {
        let is_end = |batch: &FreeBatch| batch.wanted == WantedWork::End;
        self.ends.iter().any(is_end)
    }

    /// Lets a batch step aside, where its owner may have one more there: whoever's lines nobody begins takes no place from
    /// others, nor his turn from another batch of his own.
    pub(super) fn step_aside(&mut self, name: &BatchName) -> bool {
        let aside = |owner: Option<&ContentHash>| {
            let is_counted = |name: &BatchName| owner.is_none_or(|owner| name.owner == *owner);
            self.held(HeldPlace::Aside, is_counted)
        };
        let is_free = aside(None) < ASIDE && aside(Some(&name.owner)) < ASIDE_OF_ONE;
        match self.here.get_mut(name).filter(|_| is_free) {
            Some(place) => {
                *place = HeldPlace::Aside;
                true
            }
            None => false,
        }
    }

    /// Ends that a batch stands aside: it has no place yet.
    pub(super) fn step_back(&mut self, name: &BatchName) {
        if let Some(place) = self.here.get_mut(name) {
            *place = HeldPlace::Leaving;
        }
    }

    /// Notes that a batch that stood aside has a place again.
    pub(super) fn come_back(&mut self, name: &BatchName) {
        if let Some(place) = self.here.get_mut(name) {
            *place = HeldPlace::Answering;
        }
    }

    /// Says whether a batch that wants work can be taken.
    pub(super) fn free(
        &mut self,
        name: &BatchName,
        document: &BatchDocument,
        holder: &str,
        now: Instant,
    ) -> Option<FreeBatch> {
        let (name, wanted) = (name.clone(), WantedWork::of(document));
        // One that is to be ended now is not the one that failed while it was answered.
        let rests = |rest: &Rest| rest.wanted == wanted && now < rest.until;
        if self.rests.get(&name).is_some_and(rests) {
            return None;
        }
        let Some(lease) = document
            .lease()
            .filter(|_| !document.is_held_by(holder))
            .cloned()
        else {
            self.leases.remove(&name);
            return Some(FreeBatch {
                name,
                wanted,
                abandoned: None,
                is_alone: document.is_suspected(false),
            });
        };
        let seen = self.leases.entry(name.clone());
        let (known, since) = seen.or_insert_with(|| (lease.clone(), now));
        if *known != lease {
            (*known, *since) = (lease.clone(), now);
        }
        (now - *since >= self.abandoned_after).then_some(FreeBatch {
            name,
            wanted,
            abandoned: Some(lease),
            is_alone: document.is_suspected(true),
        })
    }

    /// Takes the batch that comes next out of those that are free: of the owner who has the fewest here, and of several such
    /// of the one who has waited for longest.
    pub(super) fn next(&self, free: &mut Vec<FreeBatch>) -> Option<FreeBatch> {
        let order = |batch: &FreeBatch| {
            let owner = &batch.name.owner;
            let begun = self.begun.get(owner).copied();
            (self.running(owner), begun, batch.name.name.clone())
        };
        let next = free
            .iter()
            .enumerate()
            .min_by_key(|(_, batch)| order(batch));
        let place = next.map(|(place, _)| place)?;
        Some(free.swap_remove(place))
    }

    /// Notes what found no place.
    pub(super) fn note_waiting(&mut self, waiting: Vec<FreeBatch>) {
        self.waiting = waiting;
        // The places of those that have left, or stepped aside, are given to some that waited, which are not among these.
        let here = &self.here;
        self.making_room
            .retain(|name| here.get(name) == Some(&HeldPlace::Answering));
    }

    /// Takes out what found no place.
    pub(super) fn take_waiting(&mut self) -> Vec<FreeBatch> {
        std::mem::take(&mut self.waiting)
    }

    /// Forgets what is not open any more.
    pub(super) fn forget_all_but(&mut self, open: &[BatchName]) {
        let names: HashSet<&BatchName> = open.iter().collect();
        self.leases.retain(|name, _| names.contains(name));
        self.damaged.retain(|name| names.contains(name));
        self.rests.retain(|name, _| names.contains(name));
        let owners: HashSet<&ContentHash> = open.iter().map(|name| &name.owner).collect();
        self.begun.retain(|owner, _| owners.contains(owner));
        self.ended.retain(|owner, _| owners.contains(owner));
    }

    /// Whether a batch whose turn is over makes room: for one that needs all places, or for one whose owner has fewer here and
    /// so is the next to be taken. For each that waits one makes room.
    pub(super) fn makes_room(&mut self, name: &BatchName) -> bool {
        let owner = &name.owner;
        let own = self.running(owner);
        let has_fewer = |waiting: &&FreeBatch| self.running(&waiting.name.owner) < own;
        let wanted = self.waiting.iter().filter(has_fewer).count();
        let has_place = self.here.get(name) == Some(&HeldPlace::Answering);
        let makes_room = has_place && self.making_room.len() < wanted;
        if makes_room || (has_place && self.lonely_waits()) {
            self.making_room.insert(name.clone());
            // Its owner was served until now: of those with as few here, the others come first.
            self.begun.insert(owner.clone(), Instant::now());
        }
        makes_room || self.lonely_waits()
    }

    /// How many batches of an owner have places in which lines are answered.
    fn running(&self, owner: &ContentHash) -> usize {
        self.held(HeldPlace::Answering, |name| name.owner == *owner)
    }

    /// How many of these batches have such a place.
    fn held(&self, place: HeldPlace, is_counted: impl Fn(&BatchName) -> bool) -> usize {
        let held = self.here.iter();
        let held = held.filter(|(name, held)| **held == place && is_counted(name));
        held.count()
    }

    /// Whether any batch waits for a place.
    pub(super) fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether one waits beside which no other one's lines are answered.
    pub(super) fn lonely_waits(&self) -> bool {
        self.waiting.iter().any(|batch| batch.is_alone)
    }

    /// Whether any batch has stepped aside.
    pub(super) fn any_aside(&self) -> bool {
        self.held(HeldPlace::Aside, |_| true) > 0
    }
}

#[cfg(test)]
mod tests;
