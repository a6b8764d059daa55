//! The connections of a server: what each is doing, since when, and who has to go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::ConnectionLimits;
use crate::metrics::metrics;

/// How long one that was told to make room may take.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has no request since then, and ends at this time if it gets none.
    Silent {
        since: Instant,
        until: Instant,
        reason: &'static str,
    },
    /// So many requests are read, answered or being sent their answers.
    InWork(u32),
}

/// All connections of a server.
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    open: Mutex<Open>,
    /// Said when a connection has become silent, so that it may make room.
    silent: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    states: BTreeMap<u64, Arc<State>>,
}

/// What one connection is doing, as its requests say it.
pub(super) struct State {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    /// Since when a piece of an answer waits for its reader.
    unread: Mutex<Option<Instant>>,
}

/// An open connection; dropping it frees its place.
pub(super) struct Connection {
    number: u64,
    state: Arc<State>,
    _place: OwnedSemaphorePermit,
}

/// A request in work; dropping it makes the connection silent.
pub(super) struct RequestInWork(Arc<State>);

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Shared {
            limits,
            places: Arc::new(Semaphore::new(limits.connections)),
            open: Mutex::default(),
            silent: Notify::new(),
        }))
    }

    /// Takes a place. Where there is none, the connection that has been silent for longest makes room; where all have a
    /// request in work, this waits.
    pub(super) async fn enter(&self) -> Connection {
        let shared = &self.0;
        loop {
            let silent = shared.silent.notified();
            if let Ok(place) = shared.places.clone().try_acquire_owned() {
                return self.open(place);
            }
            let waiting = shared.places.clone().acquire_owned();
            shared.end_longest_silent();
            tokio::select! {
                biased;
                Ok(place) = waiting => return self.open(place),
                () = silent => {}
                // The one that was to go has just got a request.
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn open(&self, place: OwnedSemaphorePermit) -> Connection {
        let shared = self.0.clone();
        let now = Instant::now();
        let (phase, _) = watch::channel(Phase::Silent {
            since: now,
            until: now + shared.limits.header_timeout,
            reason: "header_timeout",
        });
        let state = Arc::new(State {
            shared: shared.clone(),
            phase,
            unread: Mutex::default(),
        });
        let mut open = shared.lock();
        open.next += 1;
        let number = open.next;
        open.states.insert(number, state.clone());
        metrics().http_connection_opened(shared.limits.server);
        Connection {
            number,
            state,
            _place: place,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says to the connection that has been silent for longest, if there is one, that it is over.
    fn end_longest_silent(&self) {
        let open = self.lock();
        let since = |state: &Arc<State>| match *state.phase.borrow() {
            Phase::Silent { since, until, .. } => Some((until > Instant::now(), since)),
            Phase::InWork(_) => None,
        };
        let silent = open.states.values().filter_map(|state| {
            let (is_open, since) = since(state)?;
            is_open.then_some((since, state))
        });
        if let Some((_, longest)) = silent.min_by_key(|(since, _)| *since) {
            longest.end_if_silent("made_room");
        }
    }
}

impl State {
    /// Says that a request is in work, for as long as the answer lives.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestInWork {
        self.phase.send_modify(|phase| {
            *phase = match phase {
                Phase::Silent { .. } => Phase::InWork(1),
                Phase::InWork(requests) => Phase::InWork(*requests + 1),
            };
        });
        RequestInWork(self.clone())
    }

    fn unread(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection now where it has no request.
    fn end_if_silent(&self, why: &'static str) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::Silent { until, reason, .. } => {
                *until = Instant::now();
                *reason = why;
                true
            }
            Phase::InWork(_) => false,
        });
    }
}

impl Connection {
    pub(super) fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Waits until the connection has been silent for too long, or has not taken a piece of an answer. Cancel-safe.
    pub(super) async fn overdue(&self) {
        let mut phases = self.state.phase.subscribe();
        let limits = self.state.shared.limits;
        loop {
            let phase = *phases.borrow_and_update();
            let Phase::Silent { until, reason, .. } = phase else {
                // Looked at from time to time: pieces come and go by the thousand.
                let unread = *self.state.unread();
                let until = unread.unwrap_or_else(Instant::now) + limits.send_timeout;
                if until <= Instant::now() {
                    metrics().http_connection_ended(limits.server, "send_timeout");
                    return;
                }
                tokio::select! {
                    biased;
                    _ = phases.changed() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
                continue;
            };
            tokio::select! {
                biased;
                _ = phases.changed() => {}
                () = tokio::time::sleep_until(until) => {
                    metrics().http_connection_ended(self.state.shared.limits.server, reason);
                    return;
                }
            }
        }
    }

    /// Ends the connection where it has no request.
    pub(super) fn end_when_idle(&self) {
        self.state.end_if_silent("shutdown");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let shared = &self.state.shared;
        shared.lock().states.remove(&self.number);
        metrics().http_connection_closed(shared.limits.server);
    }
}

impl RequestInWork {
    /// Says that a piece of the answer waits for its reader.
    pub(super) fn piece_given(&self) {
        *self.0.unread() = Some(Instant::now());
    }

    /// Says that none does.
    pub(super) fn piece_taken(&self) {
        *self.0.unread() = None;
    }
}

impl Drop for RequestInWork {
    fn drop(&mut self) {
        self.piece_taken();
        let shared = &self.0.shared;
        let now = Instant::now();
        self.0.phase.send_modify(|phase| {
            *phase = match phase {
                Phase::InWork(requests) if *requests > 1 => Phase::InWork(*requests - 1),
                _ => Phase::Silent {
                    since: now,
                    until: now + shared.limits.idle_timeout,
                    reason: "idle_timeout",
                },
            };
        });
        shared.silent.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const HEADER: Duration = Duration::from_millis(50);
    const IDLE: Duration = Duration::from_millis(120);

    fn limits(connections: usize, header_timeout: Duration) -> ConnectionLimits {
        ConnectionLimits {
            server: "test",
            connections,
            header_timeout,
            idle_timeout: IDLE,
            send_timeout: IDLE,
        }
    }

    #[tokio::test]
    async fn a_connection_whose_reader_does_not_read_has_to_go_and_one_that_waits_for_its_answer_does_not()
     {
        let connections = Connections::new(limits(2, Duration::from_secs(600)));
        let (stuck, waits) = (connections.enter().await, connections.enter().await);
        let requests = [&stuck, &waits].map(|connection| connection.state().begin_request());
        for request in &requests {
            request.piece_given();
        }
        requests[1].piece_taken();
        let mut waiting = std::pin::pin!(waits.overdue());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        has_to_go(&stuck).await;
        tokio::time::sleep(IDLE).await;
        assert!(futures::poll!(waiting.as_mut()).is_pending());
    }

    /// Waits for the connection's end, which the timer tells a millisecond late; it would wait ten minutes for its own time.
    async fn has_to_go(connection: &Connection) {
        let overdue = tokio::time::timeout(Duration::from_secs(60), connection.overdue());
        overdue.await.expect("it has to go");
    }

    #[tokio::test]
    async fn a_connection_has_its_time_for_the_first_header_and_for_the_next_ones() {
        let connections = Connections::new(limits(2, HEADER));
        let begun = Instant::now();
        let silent = connections.enter().await;
        silent.overdue().await;
        assert!(begun.elapsed() >= HEADER);

        let kept = connections.enter().await;
        let request = kept.state().begin_request();
        tokio::time::sleep(HEADER + IDLE).await;
        assert_eq!(
            kept.overdue().now_or_never(),
            None,
            "however long an answer takes"
        );
        let answered = Instant::now();
        drop(request);
        kept.overdue().await;
        assert!(answered.elapsed() >= IDLE);
    }

    #[tokio::test]
    async fn the_longest_silent_connection_makes_room_and_one_in_work_never_does() {
        let connections = Connections::new(limits(2, Duration::from_secs(600)));
        let in_work = connections.enter().await;
        let request = in_work.state().begin_request();
        let silent = connections.enter().await;
        let third = {
            let entering = connections.enter();
            let mut entering = std::pin::pin!(entering);
            assert!(futures::poll!(entering.as_mut()).is_pending());
            has_to_go(&silent).await;
            assert_eq!(in_work.overdue().now_or_never(), None);
            drop(silent);
            entering.await
        };
        let _second = third.state().begin_request();
        let mut fourth = std::pin::pin!(connections.enter());
        assert!(futures::poll!(fourth.as_mut()).is_pending());
        assert_eq!(in_work.overdue().now_or_never(), None);
        drop(request);
        // It is silent now.
        assert!(futures::poll!(fourth.as_mut()).is_pending());
        has_to_go(&in_work).await;
        drop(in_work);
        fourth.await;
    }
}
