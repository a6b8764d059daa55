//! When batch work gives way to conversations: while turns wait for a place in the model, the worker takes no more
//! tasks. A change costs a new subscription, so a turn that only waits for the next decode step causes none.

/// Whether batch work gives way at the moment.
#[derive(Default)]
pub(super) struct GivingWay {
    gives: bool,
    pressed_before: bool,
}

impl GivingWay {
    /// Looks at whether turns wait. Some where that changes what the worker does: it gives way once they wait at two
    /// looks in a row, and takes up its tasks once none waits.
    pub(super) fn look(&mut self, pressed: bool) -> Option<bool> {
        let gives = pressed && (self.pressed_before || self.gives);
        self.pressed_before = pressed;
        let changed = gives != self.gives;
        self.gives = gives;
        changed.then_some(gives)
    }

    /// Whether it gives way now.
    pub(super) fn gives(&self) -> bool {
        self.gives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_waits_at_two_looks_stops_batch_work_and_its_start_brings_it_back() {
        let mut way = GivingWay::default();
        let changes =
            [true, false, true, true, true, false, false].map(|pressed| way.look(pressed));
        assert_eq!(
            changes,
            [None, None, None, Some(true), None, Some(false), None]
        );
    }
}
