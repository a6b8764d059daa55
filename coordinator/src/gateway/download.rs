//! Files that lie in the store in parts, piece by piece to whoever reads them: a reader that does not read holds the memory
//! of two pieces, which is its key's.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::ObjectKey;

use super::app_state::AppState;
use super::auth::Caller;
use super::body_memory::{BodyKind, HeldMemory};
use super::problem::ApiResult;

/// Bytes that are read at a time.
const PIECE: u64 = 512 << 10;
/// The piece that is being sent, and the one that is being read.
const HELD: u64 = 2 * PIECE;

/// Reads a file of these parts as a response's body.
pub(super) fn download(app: &AppState, caller: &Caller, parts: Vec<ObjectKey>) -> ApiResult<Body> {
    let mut memory = HeldMemory::new(app.bodies.clone(), caller.quota.bodies(), BodyKind::Upload);
    memory.take(HELD)?;
    let reader = PartReader {
        objects: app.backends.objects.clone(),
        parts: parts.into_iter(),
        open: None,
        _memory: memory,
    };
    let pieces = stream::unfold(reader, |mut reader| async move {
        let piece = reader.next().await.transpose()?;
        Some((piece, reader))
    });
    Ok(Body::from_stream(pieces))
}

struct PartReader {
    objects: Arc<dyn Objects>,
    parts: std::vec::IntoIter<ObjectKey>,
    open: Option<OpenPart>,
    _memory: HeldMemory,
}

/// A part, and how much of it has been read.
struct OpenPart {
    key: ObjectKey,
    size: u64,
    read: u64,
}

impl PartReader {
    async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            if let Some(part) = self.open.as_mut().filter(|part| part.read < part.size) {
                let end = part.size.min(part.read + PIECE);
                let piece = self.objects.get_range(&part.key, part.read..end).await?;
                if piece.is_empty() {
                    return Err(ObjectError::NotFound(part.key.clone()));
                }
                part.read += piece.len() as u64;
                return Ok(Some(piece));
            }
            let Some(key) = self.parts.next() else {
                return Ok(None);
            };
            let size = self.objects.size(&key).await?;
            let size = size.ok_or_else(|| ObjectError::NotFound(key.clone()))?;
            self.open = Some(OpenPart { key, size, read: 0 });
        }
    }
}
