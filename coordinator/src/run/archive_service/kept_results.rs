//! What a gateway's folder keeps of its runs: the request of each that has not ended, and the results that the store did not
//! take, which are nowhere else until somebody fetches them or they are old.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use radialog_files::durable;
use radialog_runtime::blocking;
use tracing::{info, warn};
use uuid::Uuid;

use super::view::ArchiveRunRequest;
use crate::run_files::RESULTS_FILE;

/// The request of a run, by which the next process takes it up.
pub(super) const REQUEST_FILE: &str = "request.json";
/// The name that the request of a run has which is not to be taken up again.
const ENDED_FILE: &str = "ended.json";
/// How long such results stay: as long as other results of requests.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time after which it is looked again which of them are older.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// The requests that are kept in a directory of such folders, of runs that have not ended. Each that cannot be read is left as it
/// is, with a warning: another release, or the next start, may read it.
///
/// # Errors
/// Where the directory cannot be read.
pub(super) fn kept_requests(directory: &Path) -> io::Result<Vec<ArchiveRunRequest>> {
    let mut kept = Vec::new();
    for folder in folders(directory)? {
        let file = folder.join(REQUEST_FILE);
        match kept_request(&file) {
            Ok(Some(requested)) => kept.push(requested),
            Ok(None) if is_over(&folder) && has_results(&folder) => info!(
                folder = %folder.display(),
                "the results of a run are here and nowhere else; they go after 30 days, or when you remove the folder"
            ),
            Ok(None) => {}
            Err(error) => warn!(
                file = %file.display(),
                %error,
                "the request of a run cannot be read; it is kept, and a gateway of a release that can read it goes on with the run"
            ),
        }
    }
    Ok(kept)
}

/// The folders of the runs in this directory; none where it is not there.
fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// The request in this file; none where there is no such file.
///
/// # Errors
/// Where the file cannot be read, or is no request that this release knows.
pub(super) fn kept_request(file: &Path) -> io::Result<Option<ArchiveRunRequest>> {
    let text = match fs::read(file) {
        // What is no folder holds no request.
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(None);
        }
        text => text?,
    };
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Whether a run has written lines in this folder.
pub(super) fn has_results(folder: &Path) -> bool {
    let results = folder.join("out").join(RESULTS_FILE);
    fs::metadata(results).is_ok_and(|results| results.len() > 0)
}

/// Whether this is the folder of a run that is not to be taken up again, where it has no request: its last process said so, or an
/// earlier release left it, which says of no run that it has ended. Others may have folders here, and results in them.
fn is_over(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    let is_run = name
        .is_some_and(|name| Uuid::try_parse(name).is_ok_and(|id| id.simple().to_string() == name));
    folder.join(ENDED_FILE).is_file() || is_run && has_results(folder)
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
        if let Err(error) = blocking::io(move || look(&looked_in)).await {
            warn!(%error, directory = %directory.display(), "old results of runs are not looked for");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn look(directory: &Path) -> io::Result<()> {
    for folder in folders(directory)? {
        let is_requested = folder.join(REQUEST_FILE).try_exists();
        if !is_over(&folder) || !is_requested.is_ok_and(|is_requested| !is_requested) {
            continue;
        }
        if age(&folder).is_none_or(|age| age <= LIFETIME) {
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

/// The time since something was made or renamed in this folder, or a line was written; none where that cannot be said.
fn age(folder: &Path) -> Option<Duration> {
    let written = |path: &Path| fs::metadata(path).and_then(|written| written.modified());
    let results = written(&folder.join("out").join(RESULTS_FILE));
    let changed = written(folder).ok()?;
    changed.max(results.unwrap_or(changed)).elapsed().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn old_results_go_unless_their_run_has_a_request() {
        let directory = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - LIFETIME - LOOK_EVERY;
        let folder = |name: &str, file: Option<&str>, has_results: bool, is_old: [bool; 2]| {
            let folder = directory.path().join(name);
            fs::create_dir_all(folder.join("out")).unwrap();
            if let Some(file) = file {
                fs::write(folder.join(file), "not to be read").unwrap();
            }
            let results = folder.join("out").join(RESULTS_FILE);
            if has_results {
                fs::write(&results, "{}\n").unwrap();
            }
            for (path, is_old) in [(folder, is_old[0]), (results, is_old[1])] {
                if is_old && path.exists() {
                    File::open(path).unwrap().set_modified(old).unwrap();
                }
            }
        };
        folder("ended", Some(ENDED_FILE), true, [true; 2]);
        folder("ended without", Some(ENDED_FILE), false, [true; 2]);
        let run = |digit: &str| digit.repeat(32);
        folder(&run("1"), None, true, [true; 2]);
        folder("ended now", Some(ENDED_FILE), true, [false, true]);
        folder(&run("2"), None, true, [true, false]);
        folder("unreadable", Some(REQUEST_FILE), true, [true; 2]);
        folder(&run("3"), Some(REQUEST_FILE), true, [true; 2]);
        folder("another's", None, false, [true; 2]);
        // What `radialog batch --out` or a person has put here.
        let others = [run("A"), run("1")[1..].to_owned(), "july".to_owned()];
        for other in &others {
            folder(other, None, true, [true; 2]);
        }
        look(directory.path()).unwrap();
        let mut left: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = vec![run("2"), run("3")];
        expected.extend(["another's", "ended now", "unreadable"].map(str::to_owned));
        expected.extend(others);
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_request_that_cannot_be_read_is_kept_and_the_others_are_taken_up() {
        let directory = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = directory.path().join(name);
            fs::create_dir(&folder).unwrap();
            folder
        };
        let request = |id: &str, stage: &str| {
            let archive = format!(r#"{{"archive": "s3://archive/cxr", "stages": ["{stage}"]}}"#);
            format!(r#"{{"id": "{id}", "owner": "local", "created_ms": 1, "request": {archive}}}"#)
        };
        fs::write(
            folder("known").join(REQUEST_FILE),
            request("known", "findings"),
        )
        .unwrap();
        let newer = folder("newer").join(REQUEST_FILE);
        fs::write(&newer, request("newer", "a stage of a newer release")).unwrap();
        fs::create_dir(folder("odd").join(REQUEST_FILE)).unwrap();
        folder("lost+found");
        fs::write(directory.path().join("a file"), "").unwrap();

        let kept = kept_requests(directory.path()).unwrap();
        let ids: Vec<&str> = kept.iter().map(|request| request.id.as_str()).collect();
        assert_eq!(ids, ["known"]);
        let error = kept_request(&newer).unwrap_err().to_string();
        assert!(error.contains("a stage of a newer release"), "{error}");
        assert!(kept_request(&directory.path().join("odd").join(REQUEST_FILE)).is_err());
        for none in ["lost+found", "a file", "absent"] {
            let file = directory.path().join(none).join(REQUEST_FILE);
            assert_eq!(kept_request(&file).unwrap(), None, "{none}");
        }
        assert_eq!(kept_requests(&directory.path().join("absent")).unwrap(), []);
    }
}
