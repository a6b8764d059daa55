//! The output directory of a run in an object store, for machines whose disks go with them.
//!
//! The run writes to a working folder as ever. What it has written is stored from time to time: `session/session.json` says
//! which pieces make up `results.jsonl`, and is replaced in one step, so that each line is there once or not at all. A line
//! that was not stored when its machine was lost is made again from the stored outputs of its study. The files of the working
//! folder are copied to the prefix at the end, for people and programs; a later session reads `session/` alone.
//!
//! Whatever takes long (restoring, storing, copying) is done while the lease is renewed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use radialog_files::durable::{self, Readers, Replacement};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey};
use tokio::sync::Mutex;
use tracing::warn;

use super::archive_run::RunOptions;
use super::output::stamps::STAMPS_FILE;
use super::output::{LOCK_FILE, RUN_FILE, RunFile, SUMMARY_FILE, blocking, journal, new_id};
use crate::CoordinatorError;
use crate::run_files::RESULTS_FILE;
use lease::{Lease, Piece, SessionRecord};

pub use lease::LeaseTimes;

mod lease;
mod publishing;

/// The largest piece of `results.jsonl`, in bytes; it is in memory while it is stored.
const PIECE: u64 = 16 << 20;
/// Attempts to store what is left at the end, while the store does not answer.
const LAST_ATTEMPTS: u32 = 20;
/// The wait between two of them.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// What a prefix holds besides the files of an output directory.
const SESSION: &str = "session";
/// The beginning of the pieces' names; the session that wrote one follows, and its place in the file.
const LINES: &str = "lines-";

/// A prefix of a store that this session writes to.
pub struct StoredOutput {
    objects: Arc<dyn Objects>,
    prefix: String,
    folder: PathBuf,
    times: LeaseTimes,
    lease: Mutex<Lease>,
    /// Bytes of the working folder's `results.jsonl` that are in pieces.
    stored: Mutex<u64>,
    /// Studies whose lines were taken out, since the archive has another image or row for them now.
    changed: u64,
}

impl StoredOutput {
    /// Takes hold of the prefix, and restores what earlier sessions have stored to a new folder below `work`. `url` is the
    /// prefix as people write it, `process` this process.
    ///
    /// # Errors
    /// Another session is alive, or the prefix has another run; the store or the folder fails.
    pub async fn open(
        objects: Arc<dyn Objects>,
        prefix: &str,
        (url, process): (&str, &str),
        work: &Path,
        options: &RunOptions,
        times: LeaseTimes,
    ) -> Result<Self, CoordinatorError> {
        let wanted = options.run_file();
        let holder = new_id(Path::new(url)).0;
        let check = |record: &SessionRecord| match &record.run {
            Some(run) => run.check_same_run(&wanted, Path::new(url)),
            None => Ok(()),
        };
        let key = key(prefix, "session.json", SESSION)?;
        let lease = Lease::take(
            objects.clone(),
            key,
            url,
            (&holder, process),
            times.expiry,
            check,
        )
        .await?;

        let record = lease.record().clone();
        let lease = Mutex::new(lease);
        let restoring = async {
            let folder = new_folder(work, url, &holder).await?;
            let is_whole = restore(&*objects, prefix, &record, &folder).await?;
            remove_others(&*objects, prefix, &record, LINES).await;
            if options.retry_failed {
                let folder = folder.clone();
                blocking(move || journal::remove_failed(&folder)).await?;
            }
            restore_stamps(&*objects, prefix, &folder).await?;
            let changed = options.changed_inputs(&folder).await?;
            let is_unchanged = changed.studies.is_empty();
            let rewritten = folder.clone();
            let changed = blocking(move || changed.remove_lines(&rewritten)).await?;
            let is_as_stored = is_whole && !options.retry_failed && is_unchanged;
            Ok((folder, is_as_stored, changed))
        };
        let (folder, is_as_stored, changed) =
            match lease::renewed(&lease, times.beat, restoring).await {
                Ok(restored) => restored,
                Err(error) => {
                    // Nobody has to wait for this session; where this fails, too, for a while.
                    let mut lease = lease.into_inner();
                    drop(lease.commit(|record| record.ended = true).await);
                    return Err(error);
                }
            };
        let stored = match is_as_stored {
            true => record.pieces.iter().map(|piece| piece.bytes).sum(),
            false => 0,
        };
        Ok(Self {
            objects,
            prefix: prefix.to_owned(),
            folder,
            times,
            lease,
            stored: Mutex::new(stored),
            changed,
        })
    }

    /// Restores what is stored to `folder`, for somebody who only looks.
    ///
    /// # Errors
    /// The store or the folder fails.
    pub async fn copy(
        objects: &dyn Objects,
        prefix: &str,
        folder: &Path,
    ) -> Result<(), CoordinatorError> {
        let key = key(prefix, "session.json", SESSION)?;
        let record = lease::read(objects, &key).await?;
        let record = record.map(|(record, _)| record).unwrap_or_default();
        restore(objects, prefix, &record, folder).await?;
        if !record.ended {
            return Ok(());
        }
        // What its last session came to.
        let summary = match objects.get(&self::key(prefix, SUMMARY_FILE, "")?).await {
            Err(ObjectError::NotFound(_)) => return Ok(()),
            summary => summary?,
        };
        let path = folder.join(SUMMARY_FILE);
        blocking(move || durable::replace(&path, &summary).map_err(CoordinatorError::output(&path)))
            .await
    }

    /// The working folder, for [`RunOptions::out`].
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The number of studies that have lost their lines, since the archive has another image or row for them now, for
    /// [`RunOptions::changed`].
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// Stores from time to time what the run has written, and says that the session is alive. Ends only when it cannot go on:
    /// the run must end then, too.
    pub async fn keep(&self) -> CoordinatorError {
        loop {
            tokio::time::sleep(self.times.beat).await;
            match self.store().await {
                Ok(()) => {}
                Err(CoordinatorError::Objects(error)) if !matches!(error, ObjectError::Full(_)) => {
                    warn!(%error, "results are not stored now; trying again");
                }
                Err(error) => return error,
            }
        }
    }

    /// Stores what is left, copies the files to the prefix, and lets go of it.
    ///
    /// # Errors
    /// The store fails, or another session has taken over. What was stored before stays.
    pub async fn finish(self) -> Result<(), CoordinatorError> {
        for attempt in 1.. {
            let publishing = lease::renewed(&self.lease, self.times.beat, self.publish());
            match publishing.await {
                Err(CoordinatorError::Objects(error))
                    if !matches!(error, ObjectError::Full(_)) && attempt < LAST_ATTEMPTS =>
                {
                    warn!(%error, "the results are not stored yet; trying again");
                    tokio::time::sleep(LAST_PAUSE).await;
                }
                ended => {
                    ended?;
                    break;
                }
            }
        }
        let folder = self.folder;
        // What is left in the cache costs room and nothing else.
        drop(tokio::task::spawn_blocking(move || fs::remove_dir_all(folder)).await);
        Ok(())
    }

    /// Stores the lines that were written since the last time, and renews the lease.
    async fn store(&self) -> Result<(), CoordinatorError> {
        lease::renewed(&self.lease, self.times.beat, self.store_lines()).await
    }

    async fn store_lines(&self) -> Result<(), CoordinatorError> {
        let mut stored = self.stored.lock().await;
        // Renewing the lease changes nothing of what is used of it.
        let record = self.lease.lock().await.record().clone();
        let mut pieces = match *stored {
            // Nothing of the file is stored, or it was rewritten.
            0 => Vec::new(),
            _ => record.pieces.clone(),
        };
        let mut replaced: Vec<Piece> = match *stored {
            0 => record.pieces.clone(),
            _ => Vec::new(),
        };
        let mut from = *stored;
        let mut content = self.read(from).await?;
        // Small pieces at the end become one with the new lines, so that there are few of them.
        while let Some(last) = pieces.pop_if(|last| {
            let new = content.len() as u64;
            !content.is_empty() && last.bytes <= new && last.bytes + new <= PIECE
        }) {
            from -= last.bytes;
            replaced.push(last);
            content = self.read(from).await?;
        }
        while !content.is_empty() {
            let to = from + content.len() as u64;
            let name = format!("{LINES}{}-{from}-{to}.jsonl", record.holder);
            let hashed = content.clone();
            pieces.push(Piece {
                bytes: content.len() as u64,
                sha256: blocking(move || Ok(ContentHash::of(&hashed))).await?,
                name: name.clone(),
            });
            let key = key(&self.prefix, &name, SESSION)?;
            self.objects.put(&key, content).await?;
            from = to;
            content = self.read(from).await?;
        }
        let run = match record.run {
            Some(_) => None,
            None => RunFile::read(&self.folder)?,
        };
        let mut lease = self.lease.lock().await;
        let commit = lease.commit(|record| {
            record.pieces = pieces;
            record.run = run.or_else(|| record.run.take());
        });
        commit.await?;
        drop(lease);
        *stored = from;
        for piece in replaced {
            remove(&*self.objects, &self.prefix, &piece.name).await;
        }
        Ok(())
    }

    /// Whole lines of the results from this place on, up to the size of a piece.
    async fn read(&self, from: u64) -> Result<Bytes, CoordinatorError> {
        let path = self.folder.join(RESULTS_FILE);
        blocking(move || read_lines(&path, from).map_err(CoordinatorError::output(&path))).await
    }
}

fn key(prefix: &str, name: &str, below: &str) -> Result<ObjectKey, CoordinatorError> {
    let parts = [prefix, below, name];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let text = parts.join("/");
    ObjectKey::parse(&text).ok_or_else(|| CoordinatorError::Session {
        key: text,
        reason: "it is no key of an object".into(),
    })
}

/// Puts the results and the run's description into the folder; says whether all pieces were there. The studies of one that
/// is lost are run again.
async fn restore(
    objects: &dyn Objects,
    prefix: &str,
    record: &SessionRecord,
    folder: &Path,
) -> Result<bool, CoordinatorError> {
    let path = folder.join(RESULTS_FILE);
    let create = {
        let path = path.clone();
        move || Replacement::create(&path).map_err(CoordinatorError::output(&path))
    };
    let (mut out, mut is_whole) = (blocking(create).await?, true);
    for piece in &record.pieces {
        let content = match objects.get(&key(prefix, &piece.name, SESSION)?).await {
            Err(ObjectError::NotFound(_)) => Bytes::new(),
            content => content?,
        };
        let (wanted, path) = (piece.sha256.clone(), path.clone());
        let append = move || {
            let is_good = ContentHash::of(&content) == wanted;
            if is_good {
                out.write_all(&content)
                    .map_err(CoordinatorError::output(&path))?;
            }
            Ok((out, is_good))
        };
        let (appended, is_good) = blocking(append).await?;
        out = appended;
        if !is_good {
            is_whole = false;
            warn!(
                piece = piece.name,
                "a piece of the results is lost or damaged; its studies are run again from stored outputs"
            );
        }
    }
    let (run, folder) = (record.run.clone(), folder.to_owned());
    blocking(move || {
        out.commit().map_err(CoordinatorError::output(&path))?;
        let Some(run) = run else { return Ok(()) };
        let path = folder.join(RUN_FILE);
        let text = serde_json::to_vec_pretty(&run).expect("a run has string keys only");
        durable::replace(&path, &text).map_err(CoordinatorError::output(&path))
    })
    .await?;
    Ok(is_whole)
}

/// Puts what the last session has noted of image files into the folder. Without it they are read to be compared.
async fn restore_stamps(
    objects: &dyn Objects,
    prefix: &str,
    folder: &Path,
) -> Result<(), CoordinatorError> {
    let content = match objects.get(&key(prefix, STAMPS_FILE, "")?).await {
        Err(ObjectError::NotFound(_)) => return Ok(()),
        content => content?,
    };
    let path = folder.join(STAMPS_FILE);
    blocking(move || durable::replace(&path, &content).map_err(CoordinatorError::output(&path)))
        .await
}

/// Removes pieces that the record does not name, of those whose names begin like this: what a session left that was lost
/// before it could.
async fn remove_others(objects: &dyn Objects, prefix: &str, record: &SessionRecord, names: &str) {
    let begin = match key(prefix, names, SESSION) {
        Ok(key) => key.to_string(),
        Err(_) => return,
    };
    let mut after = None;
    loop {
        let Ok(page) = objects.list(&begin, after.as_ref(), 1000).await else {
            // The next session tries again.
            return;
        };
        for entry in &page.entries {
            let (_, name) = entry.key.as_str().rsplit_once('/').unwrap_or_default();
            if record.pieces.iter().all(|piece| piece.name != name) {
                remove(objects, prefix, name).await;
            }
        }
        after = page.next;
        if after.is_none() {
            return;
        }
    }
}

/// Removes a piece that nobody reads any more. Where it stays, it takes room until the next session.
async fn remove(objects: &dyn Objects, prefix: &str, name: &str) {
    if let Ok(key) = key(prefix, name, SESSION)
        && let Err(error) = objects.delete(&key).await
    {
        warn!(%error, "a piece of results that was replaced stays in the store");
    }
}

/// Makes a folder for this session, and removes those that dead sessions over the same prefix have left.
async fn new_folder(work: &Path, url: &str, holder: &str) -> Result<PathBuf, CoordinatorError> {
    let work = work.to_owned();
    let ours = format!("run-{}-", ContentHash::of(url.as_bytes()).short());
    let folder = work.join(format!("{ours}{holder}"));
    blocking(move || {
        durable::create_directory(&work).map_err(CoordinatorError::work(&work))?;
        for entry in fs::read_dir(&work).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(&ours);
            if is_ours && !is_locked(&entry.path().join(LOCK_FILE)) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        // Reports are of patients: what is left of a run that was killed is nobody else's to read.
        durable::create_directory_for(Readers::Owner, &folder)
            .map_err(CoordinatorError::work(&folder))?;
        Ok(folder)
    })
    .await
}

/// Says whether a process is at work in the folder of this lock.
fn is_locked(lock: &Path) -> bool {
    match File::open(lock).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => true,
        Ok(_) => false,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn read_lines(path: &Path, from: u64) -> io::Result<Bytes> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bytes::new()),
        file => file?,
    };
    file.seek(SeekFrom::Start(from))?;
    let mut content = Vec::new();
    file.take(PIECE).read_to_end(&mut content)?;
    // The last line may be under way.
    let end = content.iter().rposition(|&byte| byte == b'\n');
    content.truncate(end.map_or(0, |end| end + 1));
    Ok(content.into())
}
