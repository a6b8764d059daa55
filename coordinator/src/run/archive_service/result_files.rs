//! Result files as objects, in parts, so that every gateway can give them and none holds one in memory.

use std::path::Path;

use radialog_runtime::objects::Objects;
use radialog_schemas::ObjectKey;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::error::ArchiveRunsError;
use crate::run::output::{PROBLEMS_FILE, RESULTS_FILE, SUMMARY_FILE, TABLE_FILE};

/// The files that a run leaves.
pub const RESULT_FILES: [&str; 4] = [RESULTS_FILE, TABLE_FILE, SUMMARY_FILE, PROBLEMS_FILE];

/// Bytes of a part.
const PART: u64 = 8 << 20;

/// How many parts each of [`RESULT_FILES`] has: 0 of one that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "KeptCounts")]
pub(super) struct PartCounts {
    /// Those of the first three; gateways of an earlier release know no other.
    parts: [u32; 3],
    problem_parts: u32,
}

/// The counts as gateways of this release and of earlier ones have written them: of three files, or of all four in one list.
#[derive(Deserialize)]
struct KeptCounts {
    parts: Vec<u32>,
    #[serde(default)]
    problem_parts: u32,
}

impl TryFrom<KeptCounts> for PartCounts {
    type Error = String;

    fn try_from(kept: KeptCounts) -> Result<Self, String> {
        let (parts, problem_parts) = match *kept.parts.as_slice() {
            [results, table, summary] => ([results, table, summary], kept.problem_parts),
            [results, table, summary, problems] => ([results, table, summary], problems),
            _ => return Err(format!("counts of {} files", kept.parts.len())),
        };
        Ok(Self {
            parts,
            problem_parts,
        })
    }
}

impl PartCounts {
    /// The files that are there, with their counts.
    pub(super) fn written(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let [results, table, summary] = self.parts;
        let counts = [results, table, summary, self.problem_parts];
        let files = RESULT_FILES.into_iter().zip(counts);
        files.filter(|(_, count)| *count > 0)
    }

    fn count_mut(&mut self, place: usize) -> &mut u32 {
        match self.parts.get_mut(place) {
            Some(count) => count,
            None => &mut self.problem_parts,
        }
    }
}

/// Stores the files of an output directory; returns how many parts each has.
pub(super) async fn store(
    objects: &dyn Objects,
    id: &str,
    out: &Path,
) -> Result<PartCounts, ArchiveRunsError> {
    let mut parts = PartCounts::default();
    for (place, file) in RESULT_FILES.iter().enumerate() {
        let count = parts.count_mut(place);
        let path = out.join(file);
        let failed = |source| ArchiveRunsError::Directory {
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
                .put(&ObjectKey::archive_run_part(id, file, *count), part.into())
                .await?;
            *count += 1;
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gateways_of_the_release_that_knew_three_files_and_this_one_read_each_other() {
        let read = |kept| serde_json::from_value::<PartCounts>(kept);
        let written = |kept| read(kept).unwrap().written().collect::<Vec<_>>();
        let earlier = json!({"parts": [1, 2, 0]});
        assert_eq!(written(earlier), [(RESULTS_FILE, 1), (TABLE_FILE, 2)]);
        // As a release wrote it that had the fourth file and no name for its count.
        let four = json!({"parts": [1, 0, 0, 3]});
        assert_eq!(written(four), [(RESULTS_FILE, 1), (PROBLEMS_FILE, 3)]);
        assert!(read(json!({"parts": [1, 2, 3, 4, 5]})).is_err());

        let mut counts = PartCounts::default();
        for place in 0..RESULT_FILES.len() {
            *counts.count_mut(place) = 1;
        }
        let files: Vec<_> = counts.written().map(|(file, _)| file).collect();
        assert_eq!(files, RESULT_FILES);
        let written = serde_json::to_value(counts).unwrap();
        assert_eq!(written["parts"], json!([1, 1, 1]));
        assert_eq!(
            serde_json::from_value::<PartCounts>(written).unwrap(),
            counts
        );
    }
}
