//! The memory that bodies take, over all requests of this gateway and for each key: beyond it, a request is told to come
//! back. Short texts have a part of their own, so that uploads do not keep questions out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use radialog_runtime::metrics::metrics;
use radialog_schemas::http::ProblemCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::TEXT_SHARE;
use super::problem::{ApiError, ApiResult};

/// Memory is counted in pieces of so many bytes.
const PIECE: u64 = 1 << 10;
/// When to ask again, in seconds.
const RETRY: u64 = 2;

/// What a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// A text of at most a megabyte.
    Text,
    /// An image, or the answer that has one.
    Upload,
}

/// Memory for bodies: the gateway's, or one key's part of it.
pub(super) struct BodyMemory {
    texts: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

/// The memory of one request, which is free again when this is dropped.
pub(super) struct HeldMemory {
    all: Arc<BodyMemory>,
    own: Arc<BodyMemory>,
    kind: BodyKind,
    permits: Vec<OwnedSemaphorePermit>,
    bytes: i64,
}

impl BodyMemory {
    pub(super) fn of(bytes: u64) -> Self {
        let texts = bytes / TEXT_SHARE;
        let pool = |bytes: u64| {
            let pieces = usize::try_from(bytes / PIECE).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(pieces.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            texts: pool(texts),
            uploads: pool(bytes - texts),
        }
    }

    fn take(&self, kind: BodyKind, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let pool = match kind {
            BodyKind::Text => &self.texts,
            BodyKind::Upload => &self.uploads,
        };
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).ok()?;
        pool.clone().try_acquire_many_owned(pieces).ok()
    }
}

impl HeldMemory {
    /// Begins with nothing of the gateway's memory and of the key's own.
    pub(super) fn new(all: Arc<BodyMemory>, own: Arc<BodyMemory>, kind: BodyKind) -> Self {
        Self {
            all,
            own,
            kind,
            permits: Vec::new(),
            bytes: 0,
        }
    }

    /// Memory of the gateway for work that nobody waits for and that belongs to no request: it comes when there is some.
    pub(super) async fn wait(all: &Arc<BodyMemory>, bytes: u64) -> Self {
        loop {
            let unlimited = Arc::new(BodyMemory::of(u64::MAX));
            let mut memory = Self::new(all.clone(), unlimited, BodyKind::Upload);
            if memory.take(bytes).is_ok() {
                return memory;
            }
            tokio::time::sleep(Duration::from_secs(RETRY)).await;
        }
    }

    /// Takes so many bytes more, or nothing.
    pub(super) fn take(&mut self, bytes: u64) -> ApiResult<()> {
        let Some(own) = self.own.take(self.kind, bytes) else {
            let detail = "this key's requests hold as much memory as they may; wait for one to end";
            return Err(ApiError::new(ProblemCode::TooManyRequests, detail).after(RETRY));
        };
        let Some(all) = self.all.take(self.kind, bytes) else {
            let detail = "the gateway has no memory left for another body; ask again";
            return Err(ApiError::new(ProblemCode::Busy, detail).after(RETRY));
        };
        self.permits.extend([own, all]);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes += bytes;
        metrics().http_body_memory.add(bytes);
        Ok(())
    }

    /// Bytes that hold this memory for as long as they live.
    pub(super) fn with(self, content: Bytes) -> Bytes {
        struct Held(
            Bytes,
            #[expect(dead_code, reason = "dropped with the bytes")] HeldMemory,
        );
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Held(content, self))
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        metrics().http_body_memory.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_a_part_that_uploads_cannot_take() {
        let memory = BodyMemory::of(TEXT_SHARE << 20);
        let uploads = (TEXT_SHARE - 1) << 20;
        assert!(memory.take(BodyKind::Upload, uploads + 1).is_none());
        let held = memory.take(BodyKind::Upload, uploads).unwrap();
        assert!(memory.take(BodyKind::Upload, 1).is_none());
        let _text = memory.take(BodyKind::Text, 1 << 20).unwrap();
        assert!(memory.take(BodyKind::Text, 1).is_none());
        drop(held);
        assert!(memory.take(BodyKind::Upload, 1).is_some());
    }
}
