//! Work for the processor, beside the async threads: those must stay free to answer, however much there is to parse, to
//! hash or to tokenise.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// The work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the computation panicked; see the process's log")]
pub struct Panicked;

/// As many at a time as there are cores, and never only one: a long piece must not hold up all others.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores.max(2)))
});

/// Computes on a thread of its own, as soon as a place is free; pieces are begun in the order in which they came. A caller
/// that goes away before its piece has begun takes it along.
///
/// # Errors
/// Where the work panicked.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    let place = PLACES.clone().acquire_owned().await;
    let computing = tokio::task::spawn_blocking(move || {
        // The place is taken until the end, also where nobody waits for it any more.
        let _place = place;
        work()
    });
    computing.await.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_its_place() {
        for _ in 0..100 {
            let work = || -> u32 { panic!("on purpose") };
            assert_eq!(run(work).await, Err(Panicked));
        }
        assert_eq!(run(|| 1 + 1).await, Ok(2));
    }
}
