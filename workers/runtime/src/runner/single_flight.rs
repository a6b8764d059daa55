//! One computation per output at a time. After a broken connection the broker delivers again what this worker is still
//! computing, and an archive may hold one image twice; the second task waits and then finds the output stored.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Locks<K> = HashMap<K, Arc<tokio::sync::Mutex<()>>>;

/// The keys whose outputs are being computed.
pub(super) struct SingleFlight<K>(Mutex<Locks<K>>);

/// The right to compute one output, until it is dropped.
pub(super) struct Flight<'a, K: Eq + Hash> {
    flights: &'a SingleFlight<K>,
    key: &'a K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for SingleFlight<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> SingleFlight<K> {
    /// Waits until nobody else computes this output.
    pub(super) async fn enter<'a>(&'a self, key: &'a K) -> Flight<'a, K> {
        let lock = self.locks().entry(key.clone()).or_default().clone();
        Flight {
            flights: self,
            key,
            guard: Some(lock.lock_owned().await),
        }
    }
}

impl<K> SingleFlight<K> {
    fn locks(&self) -> MutexGuard<'_, Locks<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Flight<'_, K> {
    fn drop(&mut self) {
        let mut locks = self.flights.locks();
        self.guard.take();
        // Held by the map alone: nobody waits for it, and nobody can begin to while the map is locked.
        if locks
            .get(self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use radialog_schemas::{ContentHash, ObjectKey};

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_nothing_is_left_behind() {
        let flights = SingleFlight::default();
        let key = ObjectKey::image(&ContentHash::of(b"x"));
        let first = flights.enter(&key).await;
        let mut second = Box::pin(flights.enter(&key));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert!(flights.locks().is_empty());
    }
}
