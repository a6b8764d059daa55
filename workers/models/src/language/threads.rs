//! The threads on which answers are computed. They are not those that images share: such a thread takes the next piece of an image
//! before anything new from elsewhere, so that a step of some milliseconds would wait there for a whole batch of images.
//! Between two pools the operating system divides the cores.

use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::layers::in_pool;

/// Does some work on these threads; on those that the caller is on, where it has chosen some.
pub(super) fn on_own_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static OWN: OnceLock<Option<ThreadPool>> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return work();
    }
    let pool = OWN.get_or_init(|| {
        let name = |index| format!("language-{index}");
        ThreadPoolBuilder::new().thread_name(name).build().ok()
    });
    match pool {
        Some(pool) => pool.install(work),
        // The system gives no more of them: slower beside images, and with the same bytes.
        None => in_pool(work),
    }
}
