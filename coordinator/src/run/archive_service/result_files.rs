//! Result files as objects, in parts, so that every gateway can give them and none holds one in memory.

use std::path::Path;

use radialog_runtime::objects::Objects;
use radialog_schemas::ObjectKey;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::error::ArchiveRunError;
use crate::run::output::{PROBLEMS_FILE, RESULTS_FILE, SUMMARY_FILE, TABLE_FILE};

/// The files that a run leaves.
pub const RESULT_FILES: [&str; 4] = [RESULTS_FILE, TABLE_FILE, SUMMARY_FILE, PROBLEMS_FILE];

/// Bytes of a part.
const PART: u64 = 8 << 20;

/// Stores the files of an output directory; returns how many parts each has, 0 where it is not there.
pub(super) async fn store(
    objects: &dyn Objects,
    id: &str,
    out: &Path,
) -> Result<Vec<u32>, ArchiveRunError> {
    let mut parts = vec![0; RESULT_FILES.len()];
    for (file, count) in RESULT_FILES.iter().zip(&mut parts) {
        let path = out.join(file);
        let failed = |source| ArchiveRunError::Directory {
            path: path.clone(),
            source,
        };
        let mut content = match File::open(&path).await {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        loop {
            let mut part = Vec::new();
            (&mut content)
                .take(PART)
                .read_to_end(&mut part)
                .await
                .map_err(failed)?;
            if part.is_empty() {
                break;
            }
            objects
                .put(&ObjectKey::batch_part(id, file, *count), part.into())
                .await?;
            *count += 1;
        }
    }
    Ok(parts)
}
