//! The model's own thread and the feed between it and the tasks. A panic of the model ends neither: its items are
//! answered by silence, and the loop is called again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::{io, thread};

use radialog_schemas::Failure;
use tokio::sync::oneshot;

use crate::metrics::StageMetrics;
use crate::stage::{Feed, StageOutput, StageWork, WorkItem};

/// Handle to a model that runs on a thread of its own.
pub(super) struct Model<I> {
    items: Mutex<Sender<Signal<I>>>,
    shared: Arc<Shared>,
}

/// What both ends of the feed know.
#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    /// Urgent items that the model has not taken.
    urgent: AtomicUsize,
}

/// What the model says about an item.
pub(super) enum Reply {
    Answer(Result<StageOutput, Failure>),
    /// It panicked, or was closed, with the item in it or before it.
    Silence,
}

/// A reply that is still to come. Dropping it takes the item back, also out of the model.
pub(super) struct PendingReply {
    received: oneshot::Receiver<Result<StageOutput, Failure>>,
    claim: Claim,
}

impl PendingReply {
    /// Takes the item back where the model has not begun with it; false where it has.
    pub(super) fn withdraw(&self) -> bool {
        self.claim.take()
    }
}

impl Future for PendingReply {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        let received = Pin::new(&mut self.received).poll(context);
        received.map(|received| received.map_or(Reply::Silence, Reply::Answer))
    }
}

/// Who has an item, the model or the one that withdraws it: whoever claims first.
#[derive(Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

/// An item that the model has not taken.
struct WaitingItem<I> {
    item: WorkItem<I>,
    claim: Claim,
}

/// None wakes the thread up to see that it is closed.
type Signal<I> = Option<WaitingItem<I>>;

impl<I> Model<I> {
    /// Starts the thread.
    pub(super) fn start<W>(work: Arc<W>, metrics: Arc<StageMetrics>) -> io::Result<Self>
    where
        W: StageWork<Input = I>,
        I: Send + 'static,
    {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let mut feed = ChannelFeed::new(receiver, shared.clone());
        let name = format!("model-{}", work.stage());
        let run = move || {
            while !feed.is_closed() {
                let outcome = catch_unwind(AssertUnwindSafe(|| work.run(&mut feed)));
                if outcome.is_err() {
                    metrics.panics.inc();
                    tracing::error!("the model panicked; its items are tried again, one at a time");
                }
            }
        };
        thread::Builder::new().name(name).spawn(run)?;
        Ok(Self {
            items: Mutex::new(sender),
            shared,
        })
    }

    /// Gives the model an item.
    pub(super) fn ask(&self, input: I, alone: bool, urgent: bool) -> PendingReply {
        let (answer, reply) = oneshot::channel();
        if urgent {
            self.shared.urgent.fetch_add(1, Ordering::Relaxed);
        }
        let item = WorkItem {
            input,
            alone,
            urgent,
            answer,
        };
        let claim = Claim::default();
        self.send(Some(WaitingItem {
            item,
            claim: claim.clone(),
        }));
        PendingReply {
            received: reply,
            claim,
        }
    }

    /// Whether urgent items wait for a place in the model.
    pub(super) fn has_urgent_waiting(&self) -> bool {
        self.shared.urgent.load(Ordering::Relaxed) > 0
    }

    /// Lets what is in the model finish and takes nothing more.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.send(None);
    }

    fn send(&self, signal: Signal<I>) {
        // Nobody receives once the thread has ended; the item is dropped and so is its answer.
        let _ = self
            .items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(signal);
    }
}

impl<I> Drop for Model<I> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Items in the order of their arrival, the urgent ones apart. An item that must run alone stays at the head of its queue
/// until the model is empty.
struct ChannelFeed<I> {
    items: Receiver<Signal<I>>,
    urgent: VecDeque<WaitingItem<I>>,
    others: VecDeque<WaitingItem<I>>,
    /// An item that must run alone is in the model.
    exclusive: bool,
    shared: Arc<Shared>,
}

impl<I> ChannelFeed<I> {
    fn new(items: Receiver<Signal<I>>, shared: Arc<Shared>) -> Self {
        Self {
            items,
            urgent: VecDeque::new(),
            others: VecDeque::new(),
            exclusive: false,
            shared,
        }
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    fn queue(&mut self, urgent: bool) -> &mut VecDeque<WaitingItem<I>> {
        if urgent {
            &mut self.urgent
        } else {
            &mut self.others
        }
    }

    /// Puts what has arrived into its queue.
    fn receive(&mut self) {
        while let Ok(Some(waiting)) = self.items.try_recv() {
            self.queue(waiting.item.urgent).push_back(waiting);
        }
    }

    /// Whether the head of a queue must run alone; none where the queue is empty. Items that nobody waits for are dropped.
    fn head_runs_alone(&mut self, urgent: bool) -> Option<bool> {
        loop {
            let item = &self.queue(urgent).front()?.item;
            if !item.answer.is_closed() {
                return Some(item.alone);
            }
            self.take(urgent);
        }
    }

    /// The head of a queue; none where the queue is empty, or the head was withdrawn.
    fn take(&mut self, urgent: bool) -> Option<WorkItem<I>> {
        let WaitingItem { item, claim } = self.queue(urgent).pop_front()?;
        if urgent {
            self.shared.urgent.fetch_sub(1, Ordering::Relaxed);
        }
        claim.take().then_some(item)
    }

    /// Adds items of a queue to the batch, up to one that must run alone.
    fn fill(&mut self, batch: &mut Vec<WorkItem<I>>, urgent: bool, limit: usize) {
        while batch.len() < limit && self.head_runs_alone(urgent) == Some(false) {
            batch.extend(self.take(urgent));
        }
    }
}

impl<I> Feed<I> for ChannelFeed<I> {
    fn wait(&mut self, limit: usize) -> Vec<WorkItem<I>> {
        self.exclusive = false;
        loop {
            if self.is_closed() {
                return Vec::new();
            }
            self.receive();
            let mut batch = Vec::new();
            for urgent in [true, false] {
                while self.head_runs_alone(urgent) == Some(true) && batch.is_empty() {
                    if let Some(item) = self.take(urgent) {
                        self.exclusive = true;
                        return vec![item];
                    }
                }
                if urgent || self.head_runs_alone(true).is_none() {
                    self.fill(&mut batch, urgent, limit);
                }
            }
            if !batch.is_empty() {
                return batch;
            }
            match self.items.recv() {
                Ok(Some(waiting)) => self.queue(waiting.item.urgent).push_back(waiting),
                Ok(None) => {}
                Err(_) => return Vec::new(),
            }
        }
    }

    fn ready(&mut self, limit: usize, urgent: usize) -> Vec<WorkItem<I>> {
        let mut batch = Vec::new();
        if self.exclusive || self.is_closed() {
            return batch;
        }
        self.receive();
        self.fill(&mut batch, true, urgent);
        if self.head_runs_alone(true).is_none() {
            let limit = batch.len() + limit;
            self.fill(&mut batch, false, limit);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FeedHarness {
        sender: Sender<Signal<u32>>,
        feed: ChannelFeed<u32>,
        replies: Vec<PendingReply>,
    }

    impl FeedHarness {
        fn new() -> Self {
            let (sender, items) = channel();
            Self {
                sender,
                feed: ChannelFeed::new(items, Arc::default()),
                replies: Vec::new(),
            }
        }

        /// Sends an item; `!` makes it run alone, `>` makes it urgent.
        fn send(&mut self, input: u32, marks: &str) {
            let (answer, reply) = oneshot::channel();
            let (alone, urgent) = (marks.contains('!'), marks.contains('>'));
            self.feed
                .shared
                .urgent
                .fetch_add(usize::from(urgent), Ordering::Relaxed);
            let (received, claim) = (reply, Claim::default());
            let item = WorkItem {
                input,
                alone,
                urgent,
                answer,
            };
            let waiting = WaitingItem {
                item,
                claim: claim.clone(),
            };
            assert!(self.sender.send(Some(waiting)).is_ok());
            self.replies.push(PendingReply { received, claim });
        }

        fn send_all(&mut self, items: &[(u32, &str)]) {
            items
                .iter()
                .for_each(|(input, marks)| self.send(*input, marks));
        }

        fn wait(&mut self, limit: usize) -> Vec<u32> {
            self.feed
                .wait(limit)
                .iter()
                .map(|item| item.input)
                .collect()
        }

        fn ready(&mut self, limit: usize, urgent: usize) -> Vec<u32> {
            self.feed
                .ready(limit, urgent)
                .iter()
                .map(|item| item.input)
                .collect()
        }
    }

    const NONE: [u32; 0] = [];

    #[test]
    fn a_batch_holds_what_is_ready_up_to_its_limit() {
        let mut harness = FeedHarness::new();
        (0..5).for_each(|input| harness.send(input, ""));
        assert_eq!(harness.wait(3), [0, 1, 2]);
        assert_eq!(harness.ready(3, 3), [3, 4]);
        assert_eq!(harness.ready(3, 3), NONE);
    }

    #[test]
    fn an_item_that_must_run_alone_comes_alone_and_nothing_joins_it() {
        let mut harness = FeedHarness::new();
        harness.send_all(&[(0, ""), (1, "!"), (2, "")]);
        assert_eq!(harness.wait(8), [0]);
        assert_eq!(
            harness.ready(8, 8),
            NONE,
            "it waits until the model is empty"
        );
        assert_eq!(harness.wait(8), [1]);
        assert_eq!(harness.ready(8, 8), NONE, "nothing joins it");
        assert_eq!(harness.wait(8), [2]);
    }

    #[test]
    fn urgent_items_come_first_and_while_one_waits_no_other_comes() {
        let mut harness = FeedHarness::new();
        harness.send_all(&[(0, ""), (1, ">"), (2, ""), (3, ">"), (4, ">")]);
        assert_eq!(harness.wait(2), [1, 3]);
        assert_eq!(harness.ready(8, 0), NONE, "one that is urgent waits");
        assert_eq!(harness.feed.shared.urgent.load(Ordering::Relaxed), 1);
        assert_eq!(harness.ready(1, 1), [4, 0]);
        assert_eq!(harness.ready(8, 0), [2]);
        assert_eq!(harness.feed.shared.urgent.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_urgent_item_passes_one_that_waits_to_run_alone_and_an_urgent_one_that_runs_alone_empties_the_model()
     {
        let mut harness = FeedHarness::new();
        harness.send_all(&[(0, "!"), (1, ">")]);
        assert_eq!(harness.wait(8), [1]);
        harness.send(2, ">");
        assert_eq!(harness.ready(8, 8), [2]);
        harness.send_all(&[(3, ">!"), (4, ">"), (5, "")]);
        assert_eq!(harness.ready(8, 8), NONE);
        assert_eq!([harness.wait(8), harness.ready(8, 8)], [vec![3], vec![]]);
        assert_eq!(harness.wait(8), [4]);
        assert_eq!(harness.wait(8), [0]);
        assert_eq!(harness.wait(8), [5]);
    }

    #[test]
    fn items_that_nobody_waits_for_are_left_out() {
        let mut harness = FeedHarness::new();
        harness.send_all(&[(0, ">"), (1, "!"), (2, "")]);
        harness.replies.drain(..2);
        assert_eq!(harness.wait(8), [2]);
        assert_eq!(harness.feed.shared.urgent.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_item_is_the_models_or_withdrawn_and_never_both() {
        let mut harness = FeedHarness::new();
        harness.send_all(&[(0, "!"), (1, ""), (2, "!"), (3, "")]);
        // The reply is still there, as it is for a moment after a withdrawal.
        assert!(harness.replies[0].withdraw());
        assert_eq!(harness.wait(8), [1]);
        assert!(!harness.replies[1].withdraw(), "the model has it");
        assert!(harness.replies[2].withdraw());
        assert!(!harness.replies[2].withdraw(), "once");
        assert_eq!(
            harness.ready(8, 8),
            NONE,
            "it stood at the head to run alone"
        );
        assert_eq!(harness.wait(8), [3]);
    }

    #[test]
    fn a_closed_feed_is_empty_at_once() {
        let mut harness = FeedHarness::new();
        harness.send(0, ">");
        harness.feed.shared.closed.store(true, Ordering::Relaxed);
        assert!(harness.wait(8).is_empty() && harness.ready(8, 8).is_empty());
    }
}
