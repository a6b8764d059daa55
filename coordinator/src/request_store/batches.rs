//! The state of a batch of requests: one document, changed only by whoever has seen its last change. A gateway that works
//! on a batch holds a lease in it, and whoever has seen the lease stand still for a minute takes the batch.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use radialog_runtime::objects::{ObjectError, Objects, knows_conditions};
use radialog_schemas::http::openai_batches::{
    BatchEndpoint, BatchLineFault, RequestBatchStatus, RequestCounts,
};
use radialog_schemas::{ContentHash, ObjectKey};
use serde::{Deserialize, Serialize};

use super::files::PartWriter;
use super::{Pages, derived_name, is_name, json, listed, named_at, new_name, owned, parse, read};

/// How often a change is tried where others change the document, too.
const CHANGES: u32 = 50;
const CHANGE_PAUSE: Duration = Duration::from_millis(20);
/// Holders that vanished one after the other while a batch did not get on: from so many on it is worked on alone, since one
/// that kills its gateway takes the others there with it, and from so many on it is what kills them.
const SUSPECTED: u32 = 2;
const DEADLY: u32 = 4;
/// The most lines of a batch that are refused because they kill their holders; with one more the batch ends.
const DEADLY_LINES: u32 = 3;
/// How far apart, in seconds, the clocks of a store and of those who use it may be.
const CLOCKS_APART: u64 = 300;
/// The code of a batch whose document cannot be read.
const DAMAGED: &str = "batch_damaged";

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
    /// Each holder of the batch writes under a name of its own, so that one that was taken for dead writes over nothing.
    pub(crate) writers: Vec<PartWriter>,
}

/// Who works on a batch. Whoever sees the same lease for long enough takes it for abandoned: no two clocks are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchLease {
    holder: String,
    /// Raised with each renewal.
    beat: u64,
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
    /// The lines behind it that were answered before it.
    #[serde(default)]
    pub(crate) ahead: Vec<u64>,
    pub(crate) answers: OutputFile,
    pub(crate) refusals: OutputFile,
    /// There are lines among the refusals that nobody answered in time.
    pub(crate) has_expired: bool,
    /// How it ends, once nothing of its outputs changes any more.
    outcome: Option<RequestBatchStatus>,
    lease: Option<BatchLease>,
    /// Holders that vanished since it last got on.
    #[serde(default)]
    vanished: u32,
    /// Lines that were refused because their holders vanished.
    #[serde(default)]
    deadly_lines: u32,
    /// It was refused: this stands where a store may still do the write that was given up, and is no batch.
    #[serde(default)]
    withdrawn: bool,
    /// What is stored of it cannot be read.
    #[serde(skip)]
    pub(crate) is_damaged: bool,
}

impl BatchDocument {
    pub(crate) fn new(
        batch: &str,
        owner: String,
        endpoint: BatchEndpoint,
        input: String,
        metadata: Option<BTreeMap<String, String>>,
        times: BatchTimes,
    ) -> Self {
        let [answers, refusals] = output_names(batch).map(|name| OutputFile {
            name,
            ..OutputFile::default()
        });
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
            ahead: Vec::new(),
            answers,
            refusals,
            has_expired: false,
            outcome: None,
            lease: None,
            vanished: 0,
            deadly_lines: 0,
            withdrawn: false,
            is_damaged: false,
        }
    }

    /// Stands for a document that cannot be read. Nothing is done with it: a gateway of another release may read it.
    fn damaged(batch: &str) -> Self {
        let created = named_at(batch);
        let times = BatchTimes {
            created,
            expires: created,
            ..BatchTimes::default()
        };
        let endpoint = BatchEndpoint::ChatCompletions;
        let fault = BatchLineFault {
            code: DAMAGED.to_owned(),
            message: "what is stored of this batch cannot be read; make another one".to_owned(),
            param: None,
            line: None,
        };
        Self {
            status: RequestBatchStatus::Failed,
            faults: vec![fault],
            is_damaged: true,
            ..Self::new(batch, String::new(), endpoint, String::new(), None, times)
        }
    }

    /// Its time is over.
    pub(crate) fn is_late(&self) -> bool {
        super::now() >= self.times.expires
    }

    /// Nothing more of it is answered: it only has to be ended.
    fn only_ends(&self) -> bool {
        let is_ending = [
            RequestBatchStatus::Cancelling,
            RequestBatchStatus::Finalizing,
        ];
        is_ending.contains(&self.status) || self.is_late()
    }

    /// There is something to do, also for one that is paused: to stop it, or to end it when its time is over.
    pub(crate) fn wants_work(&self) -> bool {
        !self.status.is_final() && (self.only_ends() || !self.paused)
    }

    /// Its lease, whoever has it.
    pub(crate) fn lease(&self) -> Option<&BatchLease> {
        self.lease.as_ref()
    }

    /// Whether this gateway may change what only its worker may.
    pub(crate) fn is_held_by(&self, holder: &str) -> bool {
        let is_holder = |lease: &BatchLease| lease.holder == holder;
        self.lease.as_ref().is_some_and(is_holder)
    }

    /// Takes or renews the lease. False where another gateway holds it, unless that lease is the abandoned one.
    pub(crate) fn hold(&mut self, holder: &str, abandoned: Option<&BatchLease>) -> bool {
        let is_taken = |lease: &BatchLease| lease.holder != holder && Some(lease) != abandoned;
        if self.lease.as_ref().is_some_and(is_taken) {
            return false;
        }
        let has_vanished = self.lease.is_some() && !self.is_held_by(holder);
        self.vanished = self.vanished.saturating_add(u32::from(has_vanished));
        self.lease = Some(BatchLease {
            holder: holder.to_owned(),
            beat: self.lease.as_ref().map_or(0, |lease| lease.beat) + 1,
        });
        true
    }

    /// Whether the next line alone is what killed the holders: the last of them had no other one. One whose reading kills, or
    /// that has too many such lines, ends as a whole.
    pub(crate) fn is_one_line_deadly(&self) -> bool {
        let is_read = self.status == RequestBatchStatus::InProgress;
        is_read && self.vanished == DEADLY && self.deadly_lines < DEADLY_LINES
    }

    /// Notes that the next line was refused because it killed its holders.
    pub(crate) fn refused_deadly_line(&mut self) {
        self.deadly_lines += 1;
    }

    /// Notes that its holder has survived some of it.
    pub(crate) fn got_on(&mut self) {
        self.vanished = 0;
    }

    /// How many holders have vanished since it last got on, if it is so many that the batch may be what kills them.
    pub(crate) fn killed(&self) -> Option<u32> {
        (self.vanished >= DEADLY).then_some(self.vanished)
    }

    /// Whether nothing else is to be worked on beside it: whoever takes it next may be killed by it. One that is only ended
    /// reads no line.
    pub(crate) fn is_suspected(&self, is_abandoned: bool) -> bool {
        self.vanished + u32::from(is_abandoned) >= SUSPECTED
    }

    /// Gives the lease back.
    pub(crate) fn release(&mut self) {
        self.lease = None;
    }

    /// Says how it ends: from here on nothing of its outputs changes.
    pub(crate) fn conclude(&mut self, outcome: RequestBatchStatus, faults: Vec<BatchLineFault>) {
        self.status = RequestBatchStatus::Finalizing;
        self.times.finalizing = Some(super::now());
        self.outcome = Some(outcome);
        self.faults = faults;
    }

    /// Ends one that was concluded.
    pub(crate) fn end(&mut self) {
        self.status = self.outcome.unwrap_or(RequestBatchStatus::Failed);
        self.paused = false;
        self.times.ended = Some(super::now());
        self.release();
    }
}

/// The names of the files of answers and of faults that a batch writes.
pub(crate) fn output_names(batch: &str) -> [String; 2] {
    ["answers", "faults"].map(|what| derived_name(batch, what))
}

/// What a request for a batch was given by its idempotency key.
#[derive(Serialize, Deserialize)]
struct NamedByKey {
    batch: String,
    /// The hash of the request.
    asked: ContentHash,
}

/// The name of the batch that this key asks for: `name` where it comes for the first time. None where another request had
/// the key.
pub(crate) async fn name_by_key(
    objects: &dyn Objects,
    owner: &ContentHash,
    key: &ContentHash,
    asked: ContentHash,
    name: String,
) -> Result<Option<String>, ObjectError> {
    let key = ObjectKey::request_batch_key(owner, key);
    let first = NamedByKey { batch: name, asked };
    if objects.put_if(&key, json(&first), None).await?.is_some() {
        return Ok(Some(first.batch));
    }
    let known = read::<NamedByKey>(objects, &key).await?;
    let known = known.and_then(Result::ok);
    Ok(known
        .filter(|known| known.asked == first.asked)
        .map(|known| known.batch))
}

/// What an idempotency key has made before.
pub(crate) enum MadeByKey {
    /// This batch.
    Batch(String, Box<BatchDocument>),
    /// Another request had the key.
    Other,
    /// Nothing, or nothing whole.
    Nothing,
}

/// Looks up what a request with this key has made.
pub(crate) async fn made_by_key(
    objects: &dyn Objects,
    owner: &ContentHash,
    key: &ContentHash,
    asked: &ContentHash,
) -> Result<MadeByKey, ObjectError> {
    let known = read::<NamedByKey>(objects, &ObjectKey::request_batch_key(owner, key)).await?;
    Ok(match known {
        None => MadeByKey::Nothing,
        Some(Ok(known)) if known.asked == *asked => match find(objects, owner, &known.batch).await?
        {
            Some(document) => MadeByKey::Batch(known.batch, Box::new(document)),
            None => MadeByKey::Nothing,
        },
        Some(_) => MadeByKey::Other,
    })
}

/// Whether the store knows the conditional writes by which one gateway at a time changes a batch.
pub(crate) async fn are_possible(
    objects: &dyn Objects,
    owner: &ContentHash,
) -> Result<bool, ObjectError> {
    // What is left of a try goes with the keys that are old.
    let key = ContentHash::of(new_name().as_bytes());
    knows_conditions(objects, &ObjectKey::request_batch_key(owner, &key)).await
}

/// Stores a batch, the sign that it is open first, so that none is forgotten; returns it as it is then, where it was there
/// before, or where the answer to the write was lost.
pub(crate) async fn create(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
    document: &BatchDocument,
) -> Result<BatchDocument, ObjectError> {
    let key = ObjectKey::request_batch(owner, batch);
    let sign = ObjectKey::open_request_batch(owner, batch);
    objects
        .put(&sign, bytes::Bytes::from_static(b"open"))
        .await?;
    let put = objects.put_if(&key, json(document), None).await;
    if let Ok(Some(_)) = put {
        return Ok(document.clone());
    }
    match (find(objects, owner, batch).await, put) {
        (Ok(Some(known)), _) => Ok(known),
        (_, Err(error)) | (Err(error), _) => Err(error),
        (Ok(None), Ok(_)) => Err(ObjectError::NotFound(key)),
    }
}

/// Takes back what may have been stored of a batch that was refused, and what a store may store of it later: what has come is
/// replaced, and what comes finds its place taken. The sweep removes it.
pub(crate) async fn withdraw(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
    document: BatchDocument,
) -> Result<(), ObjectError> {
    let document = BatchDocument {
        status: RequestBatchStatus::Failed,
        withdrawn: true,
        ..document
    };
    let key = ObjectKey::request_batch(owner, batch);
    objects.put(&key, json(&document)).await?;
    close(objects, owner, batch).await
}

/// Reads a batch; none where there is none.
pub(crate) async fn find(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
) -> Result<Option<BatchDocument>, ObjectError> {
    let found = read(objects, &ObjectKey::request_batch(owner, batch)).await?;
    let found = found.map(|found| found.unwrap_or_else(|_| BatchDocument::damaged(batch)));
    Ok(found.filter(|found| !found.withdrawn))
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
        let Ok(mut document) = parse::<BatchDocument>(&content) else {
            return Ok(Some(BatchDocument::damaged(batch)));
        };
        if document.withdrawn {
            return Ok(None);
        }
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
    let name = |name: &str| {
        let name = name.strip_suffix(".json").filter(|name| is_name(name));
        name.map(str::to_owned)
    };
    listed(objects, &ObjectKey::request_batches_of(owner), name).await
}

/// Owner and name of every batch that has not ended.
pub(crate) async fn open(objects: &dyn Objects) -> Result<Vec<(ContentHash, String)>, ObjectError> {
    listed(objects, ObjectKey::OPEN_REQUEST_BATCHES, |sign| {
        owned(sign, '.')
    })
    .await
}

/// Whether a batch's time is over by the store's clock, too, which wrote its lease last: for good, nobody's word is taken for
/// that whose own clock may be wrong.
pub(crate) async fn is_late_for_the_store(
    objects: &dyn Objects,
    owner: &ContentHash,
    batch: &str,
    document: &BatchDocument,
) -> Result<bool, ObjectError> {
    let key = ObjectKey::request_batch(owner, batch);
    let page = objects.list(key.as_str(), None, 1).await?;
    let written = page.entries.first().map(|entry| entry.modified);
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    // Where it is gone, there is nothing to end.
    Ok(written.is_some_and(|time| time.as_secs() + CLOCKS_APART >= document.times.expires))
}

/// Whether an owner has so many batches that have not ended.
pub(crate) async fn are_open(
    objects: &dyn Objects,
    owner: &ContentHash,
    count: usize,
) -> Result<bool, ObjectError> {
    let prefix = ObjectKey::open_request_batch(owner, "");
    let mut pages = Pages::of(objects, prefix.as_str());
    let mut seen = 0;
    while let Some(entries) = pages.next().await? {
        seen += entries.len();
        if seen >= count {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Batches of requests that have not ended, as somebody sees them who looks at an installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenBatches {
    /// All of them.
    pub open: u64,
    /// Those that their owners have paused.
    pub paused: u64,
    /// Those of which what is stored cannot be read.
    pub damaged: u64,
    /// Lines of those whose files have been checked.
    pub lines: u64,
    /// Lines whose outputs are written.
    pub written: u64,
}

/// Looks at all batches of requests that have not ended, one after the other.
///
/// # Errors
/// When the store does not answer.
pub async fn open_batches(objects: &dyn Objects) -> Result<OpenBatches, ObjectError> {
    let mut seen = OpenBatches::default();
    for (owner, name) in open(objects).await? {
        let Some(document) = find(objects, &owner, &name).await? else {
            continue;
        };
        if document.status.is_final() {
            continue;
        }
        seen.open += 1;
        seen.paused += u64::from(document.paused);
        seen.damaged += u64::from(document.is_damaged);
        seen.lines += document.counts.total;
        seen.written += document.counts.completed + document.counts.failed;
    }
    Ok(seen)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_that_vanish_are_counted_until_the_batch_gets_on() {
        let (endpoint, times) = (BatchEndpoint::ChatCompletions, BatchTimes::default());
        let mut document =
            BatchDocument::new("b", "ward".to_owned(), endpoint, new_name(), None, times);
        let take = |document: &mut BatchDocument, holder: &str| {
            let abandoned = document.lease().cloned();
            assert!(document.hold(holder, abandoned.as_ref()));
            assert!(document.hold(holder, None), "it is renewed");
        };
        take(&mut document, "first");
        document.release();
        take(&mut document, "second");
        assert!(!document.is_suspected(false), "nobody has vanished");
        for holder in ["third", "fourth"] {
            take(&mut document, holder);
        }
        assert!(document.is_suspected(false) && document.killed().is_none());
        let written: BatchDocument = parse(&json(&document)).unwrap();
        assert_eq!(written, document);
        document.got_on();
        assert!(!document.is_suspected(true));
        document.release();
        for holder in ["a", "b", "c"] {
            take(&mut document, holder);
            document.release();
        }
        assert!(!document.is_suspected(true), "each has given it back");
        for holder in ["d", "e", "f", "g", "h"] {
            assert_eq!(document.killed(), None);
            take(&mut document, holder);
        }
        assert_eq!(document.killed(), Some(DEADLY));
    }

    #[test]
    fn one_line_is_refused_and_not_the_batch_unless_its_reading_kills_or_there_are_many() {
        let (endpoint, times) = (BatchEndpoint::ChatCompletions, BatchTimes::default());
        let mut document =
            BatchDocument::new("b", "ward".to_owned(), endpoint, new_name(), None, times);
        let kill = |document: &mut BatchDocument| {
            while document.killed().is_none() {
                let abandoned = document.lease().cloned();
                assert!(document.hold(&new_name(), abandoned.as_ref()));
            }
        };
        kill(&mut document);
        assert!(
            !document.is_one_line_deadly(),
            "its lines are not checked yet"
        );
        document.status = RequestBatchStatus::InProgress;
        for _ in 0..DEADLY_LINES {
            kill(&mut document);
            assert!(document.is_one_line_deadly());
            document.refused_deadly_line();
            document.got_on();
        }
        kill(&mut document);
        assert!(!document.is_one_line_deadly(), "there are too many");
        document.deadly_lines = 0;
        let abandoned = document.lease().cloned();
        assert!(document.hold("who reads it", abandoned.as_ref()));
        assert!(!document.is_one_line_deadly());
    }
}
