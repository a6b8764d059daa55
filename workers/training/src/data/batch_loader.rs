//! Batches that are prepared on a thread beside the compute.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::TrainingError;

/// Batches that are ready before they are asked for.
const AHEAD: usize = 2;

/// Loads batches on a thread of its own, in order, some ahead of use.
pub struct BatchLoader<B> {
    batches: Option<Receiver<Result<B, TrainingError>>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Send + 'static> BatchLoader<B> {
    /// Starts to load each of these batches.
    pub fn start<T: Send + 'static>(
        batches: Vec<T>,
        load: impl Fn(T) -> Result<B, TrainingError> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = thread::spawn(move || {
            for batch in batches {
                let loaded = load(batch);
                let failed = loaded.is_err();
                // Nobody listens any more when a training stops early.
                if sender.send(loaded).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            batches: Some(receiver),
            thread: Some(thread),
        }
    }
}

impl<B> Iterator for BatchLoader<B> {
    type Item = Result<B, TrainingError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl<B> Drop for BatchLoader<B> {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the loader has ended its batches already.
            let _ = thread.join();
        }
    }
}
