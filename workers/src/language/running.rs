//! What is being decoded, and for whom: an item of work is one sequence in the engine, or several whose prompts are the same.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use radialog_models::language::{Completion, Engine, SequenceId};
use radialog_runtime::stage::StageOutput;
use radialog_schemas::Failure;
use tokio::sync::oneshot::Sender;

use super::Purpose;

/// An item whose sequences are in the engine.
pub(super) struct RunningItem {
    pub(super) purpose: Purpose,
    pub(super) answer: Sender<Result<StageOutput, Failure>>,
    pub(super) prompt_tokens: usize,
    /// What its sequences say, in the order of its requests; none of those that still run.
    pub(super) completions: Vec<Option<Completion>>,
    /// The model's time for it so far.
    pub(super) time: Duration,
    /// The largest number of sequences that shared a step with it.
    pub(super) batch: u32,
}

/// The items that run, and which of their sequences is which.
#[derive(Default)]
pub(super) struct Running {
    items: HashMap<u64, RunningItem>,
    /// Item of a sequence, and its place there.
    places: HashMap<SequenceId, (u64, usize)>,
    next: u64,
}

impl Running {
    /// Adds an item with its sequences.
    pub(super) fn add(&mut self, sequences: Vec<SequenceId>, item: RunningItem) {
        let places = sequences.into_iter().enumerate();
        self.places
            .extend(places.map(|(place, sequence)| (sequence, (self.next, place))));
        self.items.insert(self.next, item);
        self.next += 1;
    }

    /// Shares the time of a step among the sequences that had a part in it.
    pub(super) fn add_time(&mut self, sequences: &BTreeSet<SequenceId>, time: Duration) {
        let batch = sequences.len() as u32;
        for sequence in sequences {
            if let Some(item) = self.of(*sequence) {
                item.time += time / batch;
                item.batch = item.batch.max(batch);
            }
        }
    }

    /// The item of a sequence.
    pub(super) fn of(&mut self, sequence: SequenceId) -> Option<&mut RunningItem> {
        let (item, _) = self.places.get(&sequence)?;
        self.items.get_mut(item)
    }

    /// Notes what a sequence says; gives the item where that was the last one of it.
    pub(super) fn complete(
        &mut self,
        sequence: SequenceId,
        completion: Completion,
    ) -> Option<RunningItem> {
        let (id, place) = self.places.remove(&sequence)?;
        let item = self.items.get_mut(&id)?;
        item.completions[place] = Some(completion);
        match item.completions.iter().all(Option::is_some) {
            true => self.items.remove(&id),
            false => None,
        }
    }

    /// Takes out the item of a sequence that failed, and its other sequences out of the engine.
    pub(super) fn fail(
        &mut self,
        sequence: SequenceId,
        engine: &mut Engine,
    ) -> Option<RunningItem> {
        let (id, _) = self.places.remove(&sequence)?;
        self.forget(engine, |item| item == id);
        self.items.remove(&id)
    }

    /// Takes the items out of the engine that nobody waits for any more.
    pub(super) fn cancel_unwanted(&mut self, engine: &mut Engine) {
        let unwanted: BTreeSet<u64> = self
            .items
            .extract_if(|_, item| item.answer.is_closed())
            .map(|(id, _)| id)
            .collect();
        if !unwanted.is_empty() {
            self.forget(engine, |item| unwanted.contains(&item));
        }
    }

    /// Takes out all items.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = RunningItem> {
        self.places.clear();
        self.items.drain().map(|(_, item)| item)
    }

    fn forget(&mut self, engine: &mut Engine, is_one: impl Fn(u64) -> bool) {
        self.places.retain(|&sequence, &mut (item, _)| {
            let forgotten = is_one(item);
            if forgotten {
                engine.cancel(sequence);
            }
            !forgotten
        });
    }
}
