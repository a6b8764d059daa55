//! Who writes to a prefix of a store. One object says which session holds it and what its results are made of; it is
//! replaced by conditional writes only, so that of two sessions one goes on and the other one changes nothing any more.
//!
//! No clock is compared with another: whoever finds a session that has not ended watches whether its object changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use radialog_runtime::objects::{ObjectError, Objects, Version};
use radialog_schemas::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::CoordinatorError;
use crate::run::output::RunFile;

/// Attempts to replace the object while the store says that two write at once.
const ATTEMPTS: u32 = 10;
/// The wait between two of them.
const PAUSE: Duration = Duration::from_millis(200);
/// The format of [`SessionRecord`].
const FORMAT: u32 = 1;

/// How long a session may be silent.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How often a session says that it is alive, and stores what it has.
    pub beat: Duration,
    /// How long a session that says nothing is waited for before another one takes its place.
    pub expiry: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(10),
            expiry: Duration::from_secs(45),
        }
    }
}

/// The content of `session.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    format: u32,
    /// Another one for each session.
    pub(super) holder: String,
    /// The process, for people.
    pub(super) process: String,
    /// Counts the writes.
    beat: u64,
    /// The session has let go of the prefix.
    pub(super) ended: bool,
    /// What `run.json` says.
    pub(super) run: Option<RunFile>,
    /// What `results.jsonl` is made of, in this order.
    pub(super) pieces: Vec<Piece>,
}

/// Whole lines of `results.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// Its name behind the prefix.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
    /// Its hash.
    pub(super) sha256: ContentHash,
}

impl Default for SessionRecord {
    fn default() -> Self {
        Self {
            format: FORMAT,
            holder: String::new(),
            process: String::new(),
            beat: 0,
            ended: true,
            run: None,
            pieces: Vec::new(),
        }
    }
}

/// A prefix that this session holds.
pub(super) struct Lease {
    objects: Arc<dyn Objects>,
    key: ObjectKey,
    url: String,
    record: SessionRecord,
    version: Version,
}

impl Lease {
    /// Takes hold of the prefix at `url`, whose record is the object `key`. Waits for a session that has not ended until it
    /// has been silent for `expiry`.
    ///
    /// # Errors
    /// Another session is alive; `check` refuses what is there; the store fails or has no conditional writes.
    pub(super) async fn take(
        objects: Arc<dyn Objects>,
        key: ObjectKey,
        url: &str,
        (holder, process): (&str, &str),
        expiry: Duration,
        check: impl Fn(&SessionRecord) -> Result<(), CoordinatorError>,
    ) -> Result<Self, CoordinatorError> {
        let mut silent: Option<(Version, Instant)> = None;
        let mut changes = 0;
        loop {
            let (stored, version) = match read(&*objects, &key).await? {
                Some((stored, version)) => (stored, Some(version)),
                None => (SessionRecord::default(), None),
            };
            if let (Some(version), true) = (&version, stored.holder == holder) {
                let mut lease = Self {
                    objects,
                    key,
                    url: url.to_owned(),
                    version: version.clone(),
                    record: stored,
                };
                lease.require_conditional_writes().await?;
                return Ok(lease);
            }
            check(&stored)?;
            if let (Some(version), false) = (&version, stored.ended) {
                match &silent {
                    Some((seen, since)) if seen == version && since.elapsed() >= expiry => {}
                    // One change may be the last write of a process that has died, late on its way.
                    Some((seen, _)) if seen != version && changes > 0 => {
                        return Err(CoordinatorError::Locked {
                            dir: PathBuf::from(url),
                        });
                    }
                    Some((seen, _)) if seen != version => {
                        changes += 1;
                        silent = Some((version.clone(), Instant::now()));
                        continue;
                    }
                    seen => {
                        if seen.is_none() {
                            warn!(
                                url,
                                process = stored.process,
                                wait_s = expiry.as_secs_f64(),
                                "a session has not ended; waiting whether it is alive"
                            );
                            silent = Some((version.clone(), Instant::now()));
                        }
                        sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            let wanted = SessionRecord {
                holder: holder.to_owned(),
                process: process.to_owned(),
                beat: stored.beat + 1,
                ended: false,
                ..stored
            };
            // Whether it was this session that wrote is read in the next round: an answer may be lost.
            if put(&*objects, &key, &wanted, version.as_ref())
                .await?
                .is_none()
            {
                silent = None;
            }
        }
    }

    pub(super) fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// Another session has taken the prefix; the store fails, and then the change may have happened or not.
    pub(super) async fn commit(
        &mut self,
        change: impl FnOnce(&mut SessionRecord),
    ) -> Result<(), CoordinatorError> {
        let mut wanted = self.record.clone();
        change(&mut wanted);
        wanted.beat += 1;
        for attempt in 1..=ATTEMPTS {
            match self.try_commit(&mut wanted).await {
                Ok(true) => return Ok(()),
                // Whether it was written is seen at the next attempt.
                Err(CoordinatorError::Objects(error))
                    if attempt == ATTEMPTS || matches!(error, ObjectError::Full(_)) =>
                {
                    return Err(error.into());
                }
                Ok(false) | Err(CoordinatorError::Objects(_)) => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Err(self.taken_over())
    }

    /// Says whether the record was replaced; where it was not, the next attempt may do it.
    async fn try_commit(&mut self, wanted: &mut SessionRecord) -> Result<bool, CoordinatorError> {
        let put = put(&*self.objects, &self.key, wanted, Some(&self.version));
        if let Some(version) = put.await? {
            (self.record, self.version) = (wanted.clone(), version);
            return Ok(true);
        }
        match read(&*self.objects, &self.key).await? {
            // An earlier write of this session, whose answer was lost: this one, or one that this one replaces.
            Some((stored, version)) if stored.holder == wanted.holder => {
                self.version = version;
                wanted.beat = stored.beat;
                if stored == *wanted {
                    self.record = stored;
                    return Ok(true);
                }
                wanted.beat += 1;
                Ok(false)
            }
            _ => Err(self.taken_over()),
        }
    }

    fn taken_over(&self) -> CoordinatorError {
        CoordinatorError::TakenOver {
            url: self.url.clone(),
        }
    }

    /// A store that does not know conditional writes does them all.
    async fn require_conditional_writes(&mut self) -> Result<(), CoordinatorError> {
        let Some(version) = put(&*self.objects, &self.key, &self.record, None).await? else {
            return Ok(());
        };
        self.version = version;
        self.commit(|record| record.ended = true).await?;
        Err(CoordinatorError::NoConditionalWrites {
            url: self.url.clone(),
        })
    }
}

/// Does work that may take long, and says from time to time that the session is alive. The work is dropped where another
/// session has taken the prefix.
///
/// # Errors
/// As the work's own, and where the prefix was lost.
pub(super) async fn renewed<T>(
    lease: &Mutex<Lease>,
    beat: Duration,
    work: impl Future<Output = Result<T, CoordinatorError>>,
) -> Result<T, CoordinatorError> {
    let beats = async {
        loop {
            sleep(beat).await;
            match lease.lock().await.commit(|_| {}).await {
                Ok(()) => {}
                Err(CoordinatorError::Objects(error)) => {
                    warn!(%error, "the store does not answer; trying again to say that this session is alive");
                }
                Err(lost) => return lost,
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        lost = beats => Err(lost),
    }
}

/// Reads the record of a prefix; there is none before its first session.
pub(super) async fn read(
    objects: &dyn Objects,
    key: &ObjectKey,
) -> Result<Option<(SessionRecord, Version)>, CoordinatorError> {
    let (content, version) = match objects.get_versioned(key).await {
        Err(ObjectError::NotFound(_)) => return Ok(None),
        answer => answer?,
    };
    let damaged = |reason: String| CoordinatorError::Session {
        key: key.to_string(),
        reason,
    };
    let record: SessionRecord =
        serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
    match record.format {
        FORMAT => Ok(Some((record, version))),
        other => Err(damaged(format!("its format is {other}, not {FORMAT}"))),
    }
}

async fn put(
    objects: &dyn Objects,
    key: &ObjectKey,
    record: &SessionRecord,
    expected: Option<&Version>,
) -> Result<Option<Version>, ObjectError> {
    let text = serde_json::to_vec(record).expect("a record has string keys only");
    objects.put_if(key, Bytes::from(text), expected).await
}
