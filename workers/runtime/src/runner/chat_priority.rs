//! Turns of conversations before batch work: while turns wait for a place in the model, the worker takes no more tasks, and hands
//! those back that the model has not begun with, so that another worker has them. A
//! change costs a new subscription, so a turn that only waits for the next decode step causes none.

/// Whether batch work is paused for the sake of turns.
#[derive(Default)]
pub(super) struct ChatPriority {
    batch_paused: bool,
    waited_before: bool,
}

impl ChatPriority {
    /// Takes in whether turns wait now. Returns whether batch work is paused from now on, where that changes: it is paused
    /// once turns wait at two looks in a row, and goes on once none waits.
    pub(super) fn update(&mut self, turns_wait: bool) -> Option<bool> {
        let paused = turns_wait && (self.waited_before || self.batch_paused);
        self.waited_before = turns_wait;
        let changed = paused != self.batch_paused;
        self.batch_paused = paused;
        changed.then_some(paused)
    }

    /// Whether batch work is paused now.
    pub(super) fn is_batch_paused(&self) -> bool {
        self.batch_paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_waits_at_two_looks_stops_batch_work_and_its_start_brings_it_back() {
        let mut priority = ChatPriority::default();
        let changes = [true, false, true, true, true, false, false]
            .map(|turns_wait| priority.update(turns_wait));
        assert_eq!(
            changes,
            [None, None, None, Some(true), None, Some(false), None]
        );
    }
}
