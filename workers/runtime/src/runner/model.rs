//! The model's own thread and the feed between it and the tasks. A panic of the model ends neither: its items are
//! answered by silence, and the loop is called again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use radialog_schemas::{Failure, Task};
use tokio::sync::oneshot;

use crate::metrics::StageMetrics;
use crate::stage::{Feed, Item, Output, StageWork};

/// Handle to a model that runs on a thread of its own.
pub(super) struct Model<I> {
    items: Mutex<Sender<Signal<I>>>,
    closed: Arc<AtomicBool>,
}

/// The model panicked, or was closed, with the item in it or before it.
pub(super) struct Unanswered;

/// None wakes the thread up to see that it is closed.
type Signal<I> = Option<Item<I>>;

impl<I> Model<I> {
    /// Starts the thread.
    pub(super) fn start<W>(work: Arc<W>, metrics: Arc<StageMetrics>) -> io::Result<Self>
    where
        W: StageWork<Input = I>,
        I: Send + 'static,
    {
        let (sender, receiver) = channel();
        let closed = Arc::new(AtomicBool::new(false));
        let mut feed = ChannelFeed { items: receiver, aside: None, exclusive: false, closed: closed.clone() };
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
        Ok(Self { items: Mutex::new(sender), closed })
    }

    /// Gives the model an item and waits for its answer.
    pub(super) async fn run(&self, task: Task, input: I, alone: bool) -> Result<Result<Output, Failure>, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.send(Some(Item { task, input, alone, answer }));
        answered.await.map_err(|_| Unanswered)
    }

    /// Lets what is in the model finish and takes nothing more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.send(None);
    }

    fn send(&self, signal: Signal<I>) {
        // Nobody receives once the thread has ended; the item is dropped and so is its answer.
        let _ = self.items.lock().unwrap_or_else(PoisonError::into_inner).send(signal);
    }
}

impl<I> Drop for Model<I> {
    fn drop(&mut self) {
        self.close();
    }
}

struct ChannelFeed<I> {
    items: Receiver<Signal<I>>,
    /// An item that must run alone and waits for the model to be empty.
    aside: Option<Item<I>>,
    /// An item that must run alone is in the model.
    exclusive: bool,
    closed: Arc<AtomicBool>,
}

impl<I> ChannelFeed<I> {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The next item that somebody still waits for.
    fn next(&mut self, receive: impl Fn(&Receiver<Signal<I>>) -> Option<Signal<I>>) -> Option<Item<I>> {
        loop {
            let item = match self.aside.take() {
                Some(item) => item,
                None => receive(&self.items)??,
            };
            if !item.answer.is_closed() {
                return Some(item);
            }
        }
    }

    fn fill(&mut self, mut batch: Vec<Item<I>>, limit: usize) -> Vec<Item<I>> {
        while batch.len() < limit {
            match self.next(|items| items.try_recv().ok()) {
                Some(item) if item.alone => {
                    self.aside = Some(item);
                    break;
                }
                Some(item) => batch.push(item),
                None => break,
            }
        }
        batch
    }
}

impl<I> Feed<I> for ChannelFeed<I> {
    fn wait(&mut self, limit: usize) -> Vec<Item<I>> {
        self.exclusive = false;
        if self.is_closed() {
            return Vec::new();
        }
        match self.next(|items| items.recv().ok()) {
            Some(item) => {
                self.exclusive = item.alone;
                if item.alone { vec![item] } else { self.fill(vec![item], limit) }
            }
            None => Vec::new(),
        }
    }

    fn ready(&mut self, limit: usize) -> Vec<Item<I>> {
        if self.exclusive || self.is_closed() { Vec::new() } else { self.fill(Vec::new(), limit) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use radialog_schemas::{ContentHash, ObjectKey, Work};

    use super::*;

    fn feed() -> (Sender<Signal<u32>>, ChannelFeed<u32>) {
        let (sender, items) = channel();
        (sender, ChannelFeed { items, aside: None, exclusive: false, closed: Arc::default() })
    }

    fn send(sender: &Sender<Signal<u32>>, input: u32, alone: bool) -> oneshot::Receiver<Result<Output, Failure>> {
        let (answer, answered) = oneshot::channel();
        let hash = ContentHash::of(b"");
        let image = ObjectKey::image(&hash);
        let work = Work::Embedding { image: image.clone() };
        let task = Task::new(&"run".into(), &"study".into(), &hash, image, work);
        assert!(sender.send(Some(Item { task, input, alone, answer })).is_ok());
        answered
    }

    fn inputs(items: &[Item<u32>]) -> Vec<u32> {
        items.iter().map(|item| item.input).collect()
    }

    #[test]
    fn a_batch_holds_what_is_ready_up_to_its_limit() {
        let (sender, mut feed) = feed();
        let _answers: Vec<_> = (0..5).map(|input| send(&sender, input, false)).collect();
        assert_eq!(inputs(&feed.wait(3)), [0, 1, 2]);
        assert_eq!(inputs(&feed.ready(3)), [3, 4]);
        assert_eq!(inputs(&feed.ready(3)), [0; 0]);
    }

    #[test]
    fn a_suspect_comes_alone_and_nothing_joins_it() {
        let (sender, mut feed) = feed();
        let _answers = [(0, false), (1, true), (2, false)].map(|(input, alone)| send(&sender, input, alone));
        assert_eq!(inputs(&feed.wait(8)), [0]);
        assert_eq!(inputs(&feed.ready(8)), [0; 0], "the suspect waits until the model is empty");
        assert_eq!(inputs(&feed.wait(8)), [1]);
        assert_eq!(inputs(&feed.ready(8)), [0; 0], "nothing joins the suspect");
        assert_eq!(inputs(&feed.wait(8)), [2]);
    }

    #[test]
    fn items_that_nobody_waits_for_are_left_out() {
        let (sender, mut feed) = feed();
        drop(send(&sender, 0, false));
        let _answer = send(&sender, 1, false);
        assert_eq!(inputs(&feed.wait(8)), [1]);
    }

    #[test]
    fn a_closed_feed_is_empty_at_once() {
        let (sender, mut feed) = feed();
        let _answer = send(&sender, 0, false);
        feed.closed.store(true, Ordering::Relaxed);
        assert!(feed.wait(8).is_empty() && feed.ready(8).is_empty());
    }
}
