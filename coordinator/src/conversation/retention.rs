//! How long what came from a conversation stays in the object store. Everything that does (its image, and what is computed
//! from it) lies below the conversation's prefix and belongs to nobody else, so that its end is the end of all of it.
//! What no end has reached (a worker stored it after the conversation was deleted, the conversation expired, a process
//! was killed with its conversations in memory) is found by a sweep.
//!
//! Corrections and ratings are data that somebody means to keep: they stay until their conversation is deleted or purged, and
//! outlive one that has merely expired.

use std::time::{Duration, SystemTime};

use radialog_runtime::backends::Backends;
use radialog_runtime::config::RetentionConfig;
use radialog_runtime::metrics::metrics;
use radialog_runtime::objects::{ListCursor, ObjectEntry, ObjectError, Objects};
use radialog_runtime::state::StateError;
use radialog_schemas::{ChatImage, Conversation, ConversationId, ObjectKey};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::BackendError;
use crate::request_store;

/// Objects listed at a time.
const PAGE: usize = 1000;
/// Conversations looked up at a time.
const AT_ONCE: usize = 100;

/// What a sweep has found without an owner and past its grace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unowned {
    /// Conversations that are gone, those under whose names another one has begun among them.
    pub conversations: u64,
    /// Objects that they have left.
    pub objects: u64,
    /// The size of these objects.
    pub bytes: u64,
    /// Conversations that could not be swept: the log says why. All that is theirs stays, and the others were swept.
    pub not_swept: u64,
}

impl Unowned {
    fn add(&mut self, objects: u64, bytes: u64) {
        self.conversations += 1;
        self.objects += objects;
        self.bytes += bytes;
    }
}

/// The objects of one conversation, as a listing shows them.
struct Belongings {
    owner: ConversationId,
    objects: u64,
    bytes: u64,
    /// When the latest of them was put: nobody knew of the conversation later.
    newest: SystemTime,
    /// Those that are past the grace, with their sizes, but for the lease: no image that is being uploaded now is among them,
    /// as far as the clock of this machine and the store's agree.
    old: Vec<(ObjectKey, u64)>,
}

impl Belongings {
    fn add(&mut self, entry: &ObjectEntry, grace: Duration) {
        self.objects += 1;
        self.bytes += entry.size;
        self.newest = self.newest.max(entry.modified);
        let age = entry.modified.elapsed().unwrap_or_default();
        if age >= grace && entry.key != ObjectKey::conversation_lease(&self.owner) {
            self.old.push((entry.key.clone(), entry.size));
        }
    }

    /// How long nobody has been known to own them. Nothing where the store's clock is ahead.
    fn age(&self) -> Duration {
        self.newest.elapsed().unwrap_or_default()
    }
}

/// Removes a conversation, its corrections and ratings, and all objects that belong to it; what is left of one that is gone already,
/// too. False where there was no such conversation.
///
/// # Errors
/// When store or state do not answer; the call may be repeated.
pub async fn remove(backends: &Backends, id: &ConversationId) -> Result<bool, BackendError> {
    // As they were before it was deleted: one that is begun again under this name keeps its own.
    let kept = data_of(&*backends.objects, id).await?;
    // One that cannot be read is removed all the same.
    let known = backends.conversations.snapshot(id).await.ok().flatten();
    // No sweep looks for these, and whoever asks again finds the conversation only while it is there: so they go before it.
    delete_all(&*backends.objects, &kept).await?;
    let existed = backends.conversations.delete(id).await?;
    // Prepared or not: whoever began the preparation may not have come to its end. Behind the deletion: whoever begins it looks
    // at the conversation again afterwards, so that what was begun before is forgotten here, and what is begun later is there.
    // Results that come now find no study: their consumer removes what the stages have stored.
    if let Some(image) = known.and_then(|known| known.conversation.image) {
        forget_preparation(backends, id, &image.image).await?;
    }
    // What was stored since it was listed, by somebody who had still seen it. Whoever stores looks again afterwards, so that
    // nothing comes after this.
    let late = data_of(&*backends.objects, id).await?;
    let begun = beginnings(backends, std::slice::from_ref(id)).await?.pop();
    if begun.transpose()?.flatten().is_none() {
        delete_all(&*backends.objects, &late).await?;
    }
    remove_objects(backends, id).await?;
    Ok(existed)
}

/// The corrections and ratings of a conversation.
async fn data_of(
    objects: &dyn Objects,
    id: &ConversationId,
) -> Result<Vec<ObjectKey>, ObjectError> {
    let mut kept = Vec::new();
    for kind in [ObjectKey::CORRECTIONS, ObjectKey::RATINGS] {
        kept.extend(keys_below(objects, &format!("{kind}{id}/")).await?);
    }
    Ok(kept)
}

/// Removes all objects that belong to a conversation that is gone, but for its corrections and ratings; returns their number.
/// Those of one that has begun under the same name stay.
///
/// # Errors
/// When store or state do not answer; the call may be repeated.
pub async fn remove_objects(backends: &Backends, id: &ConversationId) -> Result<u64, BackendError> {
    let listed = keys_below(&*backends.objects, &ObjectKey::conversation_prefix(id)).await?;
    remove_strangers(backends, id, listed).await
}

/// Removes those of a conversation's objects that were listed and are not those of who lives under its name; returns their
/// number.
async fn remove_strangers(
    backends: &Backends,
    id: &ConversationId,
    mut listed: Vec<ObjectKey>,
) -> Result<u64, BackendError> {
    if listed.is_empty() {
        return Ok(0);
    }
    // Looked at after the objects were: what one that has begun since stores has a name that is not in the list, and what
    // is in it and not this one's is nobody's ever again.
    let begun = beginnings(backends, std::slice::from_ref(id)).await?.pop();
    if let Some(living) = begun.transpose()?.flatten() {
        listed.retain(|key| !is_own(&living, key));
    }
    delete_strangers(backends, id, &listed).await?;
    Ok(listed.len() as u64)
}

/// Deletes these objects, which are nobody's any more. The preparation of an image is forgotten before the image goes, so that a
/// sweep finds both where a deletion was broken off.
async fn delete_strangers(
    backends: &Backends,
    id: &ConversationId,
    keys: &[ObjectKey],
) -> Result<(), BackendError> {
    for key in keys {
        if ObjectKey::is_stored_image(key.as_str()) {
            forget_preparation(backends, id, key).await?;
        }
        backends.objects.delete(key).await?;
    }
    Ok(())
}

/// Forgets how far the preparation of an image for a conversation that is gone has come. What its run was stays for a week, for
/// results that come late.
async fn forget_preparation(
    backends: &Backends,
    id: &ConversationId,
    image: &ObjectKey,
) -> Result<(), StateError> {
    let run = super::preparation_run(id, image);
    backends.state.forget(&run, &super::STUDY.into()).await
}

/// What was written when these conversations began, each with a failure of its own.
async fn beginnings(
    backends: &Backends,
    ids: &[ConversationId],
) -> Result<Vec<Result<Option<Conversation>, BackendError>>, StateError> {
    let begun = backends.conversations.beginnings(ids).await?;
    let begun = begun.into_iter();
    Ok(begun.map(|one| one.map_err(BackendError::from)).collect())
}

/// Whether an object below a conversation's prefix is its own, and not that of an earlier one of its name.
fn is_own(living: &Conversation, key: &ObjectKey) -> bool {
    let mut image = living.image.iter().flat_map(ChatImage::objects);
    *key == ObjectKey::conversation_lease(&living.id) || image.any(|own| own == key)
}

async fn delete_all(objects: &dyn Objects, keys: &[ObjectKey]) -> Result<(), ObjectError> {
    for key in keys {
        objects.delete(key).await?;
    }
    Ok(())
}

/// Counts the corrections and ratings of a conversation.
///
/// # Errors
/// When the store does not answer.
pub async fn count_data(objects: &dyn Objects, id: &ConversationId) -> Result<u64, ObjectError> {
    Ok(data_of(objects, id).await?.len() as u64)
}

/// Counts the objects that belong to a conversation, but for its corrections and ratings.
///
/// # Errors
/// When the store does not answer.
pub async fn count_objects(
    objects: &dyn Objects,
    id: &ConversationId,
) -> Result<usize, ObjectError> {
    let prefix = ObjectKey::conversation_prefix(id);
    // An image, its outputs and a lease: nobody has a page of them.
    Ok(objects.list(&prefix, None, PAGE).await?.entries.len())
}

/// Keys of one conversation, of which it has few.
async fn keys_below(objects: &dyn Objects, prefix: &str) -> Result<Vec<ObjectKey>, ObjectError> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = objects.list(prefix, after.as_ref(), PAGE).await?;
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        after = page.next;
        if after.is_none() {
            return Ok(keys);
        }
    }
}

/// Ends all conversations of a process that keeps them in its memory, with their objects: nobody will know them again.
/// Corrections and ratings stay.
///
/// # Errors
/// When the store does not answer; a later sweep removes what is left.
pub async fn end_all(backends: &Backends) -> Result<(), BackendError> {
    for id in backends.conversations.begun_before(u64::MAX).await? {
        backends.conversations.delete(&id).await?;
        remove_objects(backends, &id).await?;
    }
    Ok(())
}

/// Removes files of requests and batches whose time is over, or that are older than `older_than`, and what uploads have left
/// that were broken off. Returns how many there were, or would be in a `dry_run`.
///
/// # Errors
/// When the store does not answer; what is left is found by the next sweep.
pub async fn sweep_requests(
    objects: &dyn Objects,
    older_than: Option<Duration>,
    dry_run: bool,
) -> Result<u64, ObjectError> {
    let lifetime = older_than.unwrap_or(request_store::files::LIFETIME);
    request_store::sweep(objects, lifetime, dry_run).await
}

/// Finds the objects of conversations that are gone and, unless `dry_run`, removes them. Objects that were put within
/// `grace` stay: their conversation may be about to begin. So do those of conversations that others keep: who knows a
/// conversation renews its lease here at half the grace.
///
/// # Errors
/// When store or state do not answer; what is left is found by the next sweep.
pub async fn sweep(
    backends: &Backends,
    grace: Duration,
    dry_run: bool,
) -> Result<Unowned, BackendError> {
    if !dry_run && let Err(error) = backends.objects.tidy().await {
        warn!(%error, "what killed processes have left in the store is not removed");
    }
    let mut unowned = Unowned::default();
    let mut after: Option<ListCursor> = None;
    let mut groups: Vec<Belongings> = Vec::new();
    loop {
        let prefix = ObjectKey::CONVERSATIONS;
        let page = backends.objects.list(prefix, after.as_ref(), PAGE).await?;
        for entry in &page.entries {
            let Some(owner) = entry.key.conversation() else {
                continue;
            };
            // Keys come in order, and so all of one conversation together.
            match groups.last_mut() {
                Some(group) if group.owner == owner => group.add(entry, grace),
                _ => {
                    let mut group = Belongings {
                        owner,
                        objects: 0,
                        bytes: 0,
                        newest: entry.modified,
                        old: Vec::new(),
                    };
                    group.add(entry, grace);
                    groups.push(group);
                }
            }
        }
        let is_last = page.next.is_none();
        // The last one may go on in the next page.
        let whole = groups.len() - usize::from(!is_last && !groups.is_empty());
        if is_last || whole >= AT_ONCE {
            let whole: Vec<Belongings> = groups.drain(..whole).collect();
            for some in whole.chunks(AT_ONCE) {
                sweep_some(backends, some, grace, dry_run, &mut unowned).await?;
            }
        }
        after = page.next;
        if is_last {
            break;
        }
    }
    metrics()
        .retention_unowned
        .set(i64::try_from(unowned.objects).unwrap_or(i64::MAX));
    Ok(unowned)
}

async fn sweep_some(
    backends: &Backends,
    groups: &[Belongings],
    grace: Duration,
    dry_run: bool,
    unowned: &mut Unowned,
) -> Result<(), BackendError> {
    let owners: Vec<ConversationId> = groups.iter().map(|group| group.owner.clone()).collect();
    let begun = beginnings(backends, &owners).await?;
    for (group, begun) in groups.iter().zip(begun) {
        let swept = sweep_one(backends, group, begun, grace, dry_run, unowned).await;
        if let Err(error) = swept {
            unowned.not_swept += 1;
            let conversation = &group.owner;
            warn!(%conversation, %error, "a conversation is not swept: what it has stays until it can be");
        }
    }
    Ok(())
}

/// Sweeps what belongs to one conversation, which began so.
async fn sweep_one(
    backends: &Backends,
    group: &Belongings,
    begun: Result<Option<Conversation>, BackendError>,
    grace: Duration,
    dry_run: bool,
    unowned: &mut Unowned,
) -> Result<(), BackendError> {
    let (id, age) = (&group.owner, group.age());
    // One that cannot be read is there, too.
    if !matches!(begun, Ok(None)) && age > grace / 2 && !dry_run {
        let lease = ObjectKey::conversation_lease(id);
        backends.objects.put(&lease, Default::default()).await?;
    }
    match begun? {
        Some(living) => {
            // A deletion that came to no end, before this one began under its name, may have left some.
            let old = group.old.iter().filter(|(key, _)| !is_own(&living, key));
            let (strangers, sizes): (Vec<ObjectKey>, Vec<u64>) = old.cloned().unzip();
            if strangers.is_empty() {
                return Ok(());
            }
            unowned.add(strangers.len() as u64, sizes.iter().sum());
            if !dry_run {
                delete_strangers(backends, id, &strangers).await?;
                metrics().retention_removed.inc_by(strangers.len() as u64);
            }
        }
        None if age < grace => {}
        None => {
            unowned.add(group.objects, group.bytes);
            if !dry_run {
                let removed = remove_objects(backends, id).await?;
                metrics().retention_removed.inc_by(removed);
            }
        }
    }
    Ok(())
}

/// Sweeps at once and then at the configured interval, until the shutdown. What fails is tried again the next time.
pub async fn sweep_until_shutdown(
    backends: &Backends,
    config: &RetentionConfig,
    shutdown: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = sweep_all(backends, config) => {}
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(config.interval) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Each sweep is done whatever has become of the others.
async fn sweep_all(backends: &Backends, config: &RetentionConfig) {
    match sweep(backends, config.grace, config.dry_run).await {
        Ok(Unowned { objects: 0, .. }) => {}
        Ok(unowned) => info!(
            conversations = unowned.conversations,
            objects = unowned.objects,
            bytes = unowned.bytes,
            removed = !config.dry_run,
            "conversations that are gone had left objects"
        ),
        Err(error) => warn!(%error, "objects without an owner were not looked for"),
    }
    let requests = sweep_requests(&*backends.objects, None, config.dry_run);
    if let Err(error) = requests.await {
        warn!(%error, "files of requests whose time is over were not looked for");
    }
    if let Err(error) = backends.conversations.forget_ended().await {
        warn!(%error, "the lists of conversations keep those that have ended");
    }
}
