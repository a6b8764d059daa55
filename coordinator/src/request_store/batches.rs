//! The state of a batch of requests: one document, changed only by whoever has seen its last change. A gateway that works
//! on a batch holds a lease in it, and whoever finds the lease over takes the batch.

use std::collections::BTreeMap;
use std::time::Duration;

use radialog_runtime::clock;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::http::openai_batches::{
    BatchEndpoint, BatchLineFault, RequestBatchStatus, RequestCounts,
};
use radialog_schemas::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};

use super::{entries, is_name, json, parse, read};

/// How long a lease holds without being renewed.
const LEASE: Duration = Duration::from_secs(60);
/// How often a change is tried where others change the document, too.
const CHANGES: u32 = 50;
const CHANGE_PAUSE: Duration = Duration::from_millis(20);

/// A place in a batch's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputPlace {
    /// The number of lines before it, empty ones included.
    pub(crate) line: u64,
    /// The number of bytes before it.
    pub(crate) offset: u64,
}

/// A file that a batch writes, as far as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputFile {
    pub(crate) name: String,
    pub(crate) parts: u32,
    pub(crate) bytes: u64,
}

/// Who works on a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    holder: String,
    until_ms: u64,
}

/// The times of a batch, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchTimes {
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) in_progress: Option<u64>,
    pub(crate) finalizing: Option<u64>,
    pub(crate) cancelling: Option<u64>,
    pub(crate) ended: Option<u64>,
}

/// A batch of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BatchDocument {
    /// The key's name that asked for it.
    pub(crate) owner: String,
    pub(crate) endpoint: BatchEndpoint,
    /// The name of the file of requests.
    pub(crate) input: String,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) status: RequestBatchStatus,
    pub(crate) paused: bool,
    pub(crate) times: BatchTimes,
    pub(crate) counts: RequestCounts,
    pub(crate) faults: Vec<BatchLineFault>,
    /// The next line to answer.
    pub(crate) place: InputPlace,
    pub(crate) answers: OutputFile,
    pub(crate) refusals: OutputFile,
    /// There are lines among the refusals that nobody answered in time.
    pub(crate) has_expired: bool,
    lease: Option<Lease>,
}

impl BatchDocument {
    pub(crate) fn new(
        owner: String,
        endpoint: BatchEndpoint,
        input: String,
        metadata: Option<BTreeMap<String, String>>,
        times: BatchTimes,
    ) -> Self {
        let output = || OutputFile {
            name: super::new_name(),
            ..OutputFile::default()
        };
        Self {
            owner,
            endpoint,
            input,
            metadata,
            status: RequestBatchStatus::Validating,
            paused: false,
            times,
            counts: RequestCounts::default(),
            faults: Vec::new(),
            place: InputPlace::default(),
            answers: output(),
            refusals: output(),
            has_expired: false,
            lease: None,
        }
    }

    /// Its time is over.
    pub(crate) fn is_late(&self) -> bool {
        super::now() >= self.times.expires
    }

    /// There is something to do, also for one that is paused: to stop it, or to end it when its time is over.
    pub(crate) fn wants_work(&self) -> bool {
        let ends = self.status == RequestBatchStatus::Cancelling || self.is_late();
        !self.status.is_final() && (ends || !self.paused)
    }

    /// Whether this gateway may change what only its worker may.
    pub(crate) fn is_held_by(&self, holder: &str) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.holder == holder)
    }

    /// Takes or renews the lease. False where another gateway holds it.
    pub(crate) fn hold(&mut self, holder: &str) -> bool {
        let now = clock::now_ms();
        let is_taken = |lease: &Lease| lease.holder != holder && lease.until_ms > now;
        if self.lease.as_ref().is_some_and(is_taken) {
            return false;
        }
        self.lease = Some(Lease {
            holder: holder.to_owned(),
            until_ms: now + LEASE.as_millis() as u64,
        });
        true
    }

    /// Gives the lease back.
    pub(crate) fn release(&mut self) {
        self.lease = None;
    }

    /// Ends it. What is known of its end already stays.
    pub(crate) fn end(&mut self, status: RequestBatchStatus) {
        self.status = status;
        self.paused = false;
        self.times.ended = Some(super::now());
        self.release();
    }
}

/// Stores a new batch: the sign that it is open first, so that none is forgotten. False, and nothing is stored, where the
/// store does not know the conditional writes by which one gateway at a time changes a batch.
pub(crate) async fn create(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
    document: &BatchDocument,
) -> Result<bool, ObjectError> {
    let key = ObjectKey::request_batch(owner, batch);
    let sign = ObjectKey::open_request_batch(owner, batch);
    objects
        .put(&sign, bytes::Bytes::from_static(b"open"))
        .await?;
    objects.put(&key, json(document)).await?;
    // A store that does not know them does them all.
    let again = objects.put_if(&key, json(document), None).await?;
    if again.is_some() {
        objects.delete(&key).await?;
        objects.delete(&sign).await?;
    }
    Ok(again.is_none())
}

/// Reads a batch; none where there is none.
pub(crate) async fn find(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
) -> Result<Option<BatchDocument>, ObjectError> {
    read(objects, &ObjectKey::request_batch(owner, batch)).await
}

/// Changes a batch, and returns it as it is then; none where there is none. `change` says whether it has changed anything;
/// it is called again where somebody else was faster.
pub(crate) async fn change(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
    mut change: impl FnMut(&mut BatchDocument) -> bool + Send,
) -> Result<Option<BatchDocument>, ObjectError> {
    let key = ObjectKey::request_batch(owner, batch);
    for _ in 0..CHANGES {
        let (content, version) = match objects.get_versioned(&key).await {
            Err(ObjectError::NotFound(_)) => return Ok(None),
            found => found?,
        };
        let mut document: BatchDocument = parse(&key, &content)?;
        if !change(&mut document) {
            return Ok(Some(document));
        }
        let put = objects
            .put_if(&key, json(&document), Some(&version))
            .await?;
        if put.is_some() {
            return Ok(Some(document));
        }
        tokio::time::sleep(CHANGE_PAUSE).await;
    }
    Err(ObjectError::Store {
        key: key.to_string(),
        reason: "others change it all the time".to_owned(),
    })
}

/// The names of an owner's batches, the oldest first.
pub(crate) async fn names(
    objects: &dyn Objects,
    owner: &ContentHash,
) -> Result<Vec<String>, ObjectError> {
    let prefix = ObjectKey::request_batches_of(owner);
    let listed = entries(objects, &prefix).await?;
    let name = |key: &ObjectKey| {
        let name = key.as_str().strip_prefix(&prefix)?.strip_suffix(".json")?;
        Some(name.to_owned())
    };
    Ok(listed.iter().filter_map(|entry| name(&entry.key)).collect())
}

/// Owner and name of every batch that has not ended, the oldest of each owner first.
pub(crate) async fn open(objects: &dyn Objects) -> Result<Vec<(ContentHash, String)>, ObjectError> {
    let listed = entries(objects, ObjectKey::OPEN_REQUEST_BATCHES).await?;
    let parsed = |key: &ObjectKey| {
        let sign = key.as_str().strip_prefix(ObjectKey::OPEN_REQUEST_BATCHES)?;
        let (owner, batch) = sign.split_once('.')?;
        is_name(batch).then_some((ContentHash::from_hex(owner)?, batch.to_owned()))
    };
    Ok(listed
        .iter()
        .filter_map(|entry| parsed(&entry.key))
        .collect())
}

/// Takes the sign away that a batch is open.
pub(crate) async fn close(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
) -> Result<(), ObjectError> {
    objects
        .delete(&ObjectKey::open_request_batch(owner, batch))
        .await
}
