//! What lies in a folder of a collection.

use std::fs;
use std::path::Path;

use radialog_schemas::system_files::is_system_file;

use crate::error::TrainingError;

/// The names in a folder, sorted, without a system's own.
///
/// # Errors
/// When it cannot be listed.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, TrainingError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(TrainingError::io("list", folder))? {
        let entry = entry.map_err(TrainingError::io("list", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !is_system_file(name));
    names.sort_unstable();
    Ok(names)
}
