//! What stays in a gateway's folder of a run whose results the store did not take: they are nowhere else, until somebody fetches
//! them or they are old.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use radialog_files::durable;
use tracing::{info, warn};

use crate::run_files::RESULTS_FILE;

/// The request of a run, by which the next process takes it up.
pub(super) const REQUEST_FILE: &str = "request.json";
/// The name that the request of a run has which is not to be taken up again.
const ENDED_FILE: &str = "ended.json";
/// How long such results stay: as long as other results of requests.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time after which it is looked again which of them are older.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Whether a run has written lines in this folder.
pub(super) fn has_results(folder: &Path) -> bool {
    let results = folder.join("out").join(RESULTS_FILE);
    fs::metadata(results).is_ok_and(|results| results.len() > 0)
}

/// Leaves the results of a run that has ended in its folder; nobody takes it up again.
///
/// # Errors
/// Where the folder cannot be written.
pub(super) fn keep_results(folder: &Path) -> io::Result<()> {
    durable::rename(&folder.join(REQUEST_FILE), &folder.join(ENDED_FILE))
}

/// Removes what is left in these folders once it is old; looks again without end.
pub(super) async fn remove_old(directory: PathBuf) {
    loop {
        let looked_in = directory.clone();
        let looking = tokio::task::spawn_blocking(move || look(&looked_in)).await;
        if let Err(error) = looking.unwrap_or_else(|error| Err(io::Error::other(error))) {
            warn!(%error, directory = %directory.display(), "old results of runs are not looked for");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn look(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let folder = entry?.path();
        if !folder.join(ENDED_FILE).is_file() || folder.join(REQUEST_FILE).exists() {
            continue;
        }
        // Nothing was renamed in it since the run has ended.
        let ended = fs::metadata(&folder).and_then(|folder| folder.modified());
        let age = ended.ok().and_then(|ended| ended.elapsed().ok());
        if age.is_none_or(|age| age <= LIFETIME) {
            continue;
        }
        match fs::remove_dir_all(&folder) {
            Ok(()) => {
                info!(folder = %folder.display(), "the results of a run that were here alone were old and are removed")
            }
            Err(error) => {
                warn!(folder = %folder.display(), %error, "old results of a run are not removed")
            }
        }
    }
    Ok(())
}
