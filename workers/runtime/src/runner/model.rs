//! The model's own thread and the feed between it and the tasks. A panic of the model ends neither: its items are
//! answered by silence, and the loop is called again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// The model's answer. Silence means that it panicked, or was closed, with the item in it or before it.
pub(super) type Answered = oneshot::Receiver<Result<StageOutput, Failure>>;

/// None wakes the thread up to see that it is closed.
type Signal<I> = Option<WorkItem<I>>;

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

    /// Gives the model an item. Dropping the answer takes it back.
    pub(super) fn ask(&self, input: I, alone: bool, urgent: bool) -> Answered {
        let (answer, answered) = oneshot::channel();
        if urgent {
            self.shared.urgent.fetch_add(1, Ordering::Relaxed);
        }
        self.send(Some(WorkItem {
            input,
            alone,
            urgent,
            answer,
        }));
        answered
    }

    /// Whether urgent items wait for a place in the model.
    pub(super) fn is_pressed(&self) -> bool {
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

/// Items in the order of their arrival, the urgent ones apart. An item that must run alone stands at the head of its
/// line until the model is empty.
struct ChannelFeed<I> {
    items: Receiver<Signal<I>>,
    urgent: VecDeque<WorkItem<I>>,
    others: VecDeque<WorkItem<I>>,
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

    fn line(&mut self, urgent: bool) -> &mut VecDeque<WorkItem<I>> {
        if urgent {
            &mut self.urgent
        } else {
            &mut self.others
        }
    }

    /// Puts what has arrived into its line.
    fn sort(&mut self) {
        while let Ok(Some(item)) = self.items.try_recv() {
            self.line(item.urgent).push_back(item);
        }
    }

    /// The head of a line, whether it must run alone; items that nobody waits for are left out.
    fn head(&mut self, urgent: bool) -> Option<bool> {
        loop {
            let item = self.line(urgent).front()?;
            if !item.answer.is_closed() {
                return Some(item.alone);
            }
            self.take(urgent);
        }
    }

    fn take(&mut self, urgent: bool) -> Option<WorkItem<I>> {
        let item = self.line(urgent).pop_front();
        if urgent && item.is_some() {
            self.shared.urgent.fetch_sub(1, Ordering::Relaxed);
        }
        item
    }

    /// Adds items of a line to the batch, up to one that must run alone.
    fn fill(&mut self, batch: &mut Vec<WorkItem<I>>, urgent: bool, limit: usize) {
        while batch.len() < limit && self.head(urgent) == Some(false) {
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
            self.sort();
            let mut batch = Vec::new();
            for urgent in [true, false] {
                if self.head(urgent) == Some(true) && batch.is_empty() {
                    self.exclusive = true;
                    return self.take(urgent).into_iter().collect();
                }
                if urgent || self.head(true).is_none() {
                    self.fill(&mut batch, urgent, limit);
                }
            }
            if !batch.is_empty() {
                return batch;
            }
            match self.items.recv() {
                Ok(Some(item)) => self.line(item.urgent).push_back(item),
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
        self.sort();
        self.fill(&mut batch, true, urgent);
        if self.head(true).is_none() {
            let limit = batch.len() + limit;
            self.fill(&mut batch, false, limit);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        sender: Sender<Signal<u32>>,
        feed: ChannelFeed<u32>,
        answers: Vec<Answered>,
    }

    impl Bench {
        fn new() -> Self {
            let (sender, items) = channel();
            Self {
                sender,
                feed: ChannelFeed::new(items, Arc::default()),
                answers: Vec::new(),
            }
        }

        /// Sends an item; `!` makes it run alone, `>` makes it urgent.
        fn send(&mut self, input: u32, marks: &str) {
            let (answer, answered) = oneshot::channel();
            let (alone, urgent) = (marks.contains('!'), marks.contains('>'));
            self.feed
                .shared
                .urgent
                .fetch_add(usize::from(urgent), Ordering::Relaxed);
            assert!(
                self.sender
                    .send(Some(WorkItem {
                        input,
                        alone,
                        urgent,
                        answer
                    }))
                    .is_ok()
            );
            self.answers.push(answered);
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
        let mut bench = Bench::new();
        (0..5).for_each(|input| bench.send(input, ""));
        assert_eq!(bench.wait(3), [0, 1, 2]);
        assert_eq!(bench.ready(3, 3), [3, 4]);
        assert_eq!(bench.ready(3, 3), NONE);
    }

    #[test]
    fn a_suspect_comes_alone_and_nothing_joins_it() {
        let mut bench = Bench::new();
        bench.send_all(&[(0, ""), (1, "!"), (2, "")]);
        assert_eq!(bench.wait(8), [0]);
        assert_eq!(
            bench.ready(8, 8),
            NONE,
            "the suspect waits until the model is empty"
        );
        assert_eq!(bench.wait(8), [1]);
        assert_eq!(bench.ready(8, 8), NONE, "nothing joins the suspect");
        assert_eq!(bench.wait(8), [2]);
    }

    #[test]
    fn urgent_items_come_first_and_while_one_waits_no_other_comes() {
        let mut bench = Bench::new();
        bench.send_all(&[(0, ""), (1, ">"), (2, ""), (3, ">"), (4, ">")]);
        assert_eq!(bench.wait(2), [1, 3]);
        assert_eq!(bench.ready(8, 0), NONE, "one that is urgent waits");
        assert_eq!(bench.feed.shared.urgent.load(Ordering::Relaxed), 1);
        assert_eq!(bench.ready(1, 1), [4, 0]);
        assert_eq!(bench.ready(8, 0), [2]);
        assert_eq!(bench.feed.shared.urgent.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_urgent_item_passes_a_suspect_that_waits_and_an_urgent_suspect_empties_the_model() {
        let mut bench = Bench::new();
        bench.send_all(&[(0, "!"), (1, ">")]);
        assert_eq!(bench.wait(8), [1]);
        bench.send(2, ">");
        assert_eq!(bench.ready(8, 8), [2]);
        bench.send_all(&[(3, ">!"), (4, ">"), (5, "")]);
        assert_eq!(bench.ready(8, 8), NONE);
        assert_eq!([bench.wait(8), bench.ready(8, 8)], [vec![3], vec![]]);
        assert_eq!(bench.wait(8), [4]);
        assert_eq!(bench.wait(8), [0]);
        assert_eq!(bench.wait(8), [5]);
    }

    #[test]
    fn items_that_nobody_waits_for_are_left_out() {
        let mut bench = Bench::new();
        bench.send_all(&[(0, ">"), (1, "!"), (2, "")]);
        bench.answers.drain(..2);
        assert_eq!(bench.wait(8), [2]);
        assert_eq!(bench.feed.shared.urgent.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_closed_feed_is_empty_at_once() {
        let mut bench = Bench::new();
        bench.send(0, ">");
        bench.feed.shared.closed.store(true, Ordering::Relaxed);
        assert!(bench.wait(8).is_empty() && bench.ready(8, 8).is_empty());
    }
}
