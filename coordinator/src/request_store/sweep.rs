//! What is removed by its age: files of requests, what is left of broken uploads and removals, batches that ended long ago.
//! Nothing is read that a listing tells, and one page of a listing is in memory at a time.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::time::Duration;

use radialog_runtime::objects::{ObjectEntry, ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey};
use tracing::{info, warn};

use super::files::{self, LIFETIME, REMOVED};
use super::{Pages, age, batches, owned};

/// How long an upload may take: what is older and has no head was broken off. Slower ones are refused.
const LONGEST_UPLOAD: Duration = Duration::from_secs(24 * 3600);

/// How long parts without anything that leads to them stay: a write that is late is not that late.
const LATEST_PART: Duration = Duration::from_secs(24 * 3600);

/// One sweep.
struct Sweep<'a> {
    objects: &'a dyn Objects,
    lifetime: Duration,
    dry_run: bool,
    /// What has been removed, or would be.
    removed: u64,
}

/// Removes files of requests and batches that are older than `lifetime`, which is at most a month, and what is left of
/// broken uploads and removals. Returns how many there were, or would be in a `dry_run`. What cannot be removed is logged,
/// and keeps nothing else.
///
/// # Errors
/// When the store cannot be listed; what is left is found by the next sweep.
pub(crate) async fn sweep(
    objects: &dyn Objects,
    lifetime: Duration,
    dry_run: bool,
) -> Result<u64, ObjectError> {
    let mut sweep = Sweep {
        objects,
        lifetime: lifetime.min(LIFETIME),
        dry_run,
        removed: 0,
    };
    let mut heads = Pages::of(objects, ObjectKey::REQUEST_FILE_HEADS);
    while let Some(entries) = heads.next().await? {
        for entry in entries {
            let done = sweep.file(&entry).await;
            note(&entry, done);
        }
    }
    let mut signs = Pages::of(objects, ObjectKey::OPEN_REQUEST_FILES);
    while let Some(entries) = signs.next().await? {
        for entry in entries {
            let done = sweep.open_file(&entry).await;
            note(&entry, done);
        }
    }
    sweep.parts().await?;
    let mut batches = Pages::of(objects, ObjectKey::REQUEST_BATCHES);
    while let Some(entries) = batches.next().await? {
        for entry in entries {
            let done = sweep.batch(&entry).await;
            note(&entry, done);
        }
    }
    if sweep.removed > 0 {
        let removed = sweep.removed;
        info!(removed, dry_run, "files of requests and batches were old");
    }
    Ok(sweep.removed)
}

/// One object is nobody else's hindrance.
fn note(entry: &ObjectEntry, done: Result<(), ObjectError>) {
    if let Err(error) = done {
        warn!(object = %entry.key, %error, "what is old is not removed");
    }
}

/// A listing that is asked for one name after another.
struct SortedNames<'a> {
    pages: Pages<'a>,
    names: std::vec::IntoIter<ObjectEntry>,
    next: Option<ObjectEntry>,
}

impl<'a> SortedNames<'a> {
    fn of(objects: &'a dyn Objects, prefix: &'a str) -> Self {
        Self {
            pages: Pages::of(objects, prefix),
            names: Vec::new().into_iter(),
            next: None,
        }
    }

    /// Whether there is this name; the names that are asked for come in their order.
    async fn have(&mut self, name: &str) -> Result<bool, ObjectError> {
        loop {
            if let Some(next) = &self.next {
                match rest(next, self.pages.prefix).unwrap_or_default().cmp(name) {
                    Ordering::Less => {}
                    Ordering::Equal => return Ok(true),
                    Ordering::Greater => return Ok(false),
                }
            }
            self.next = self.names.next();
            if self.next.is_none() {
                match self.pages.next().await? {
                    Some(entries) => self.names = entries.into_iter(),
                    None => return Ok(false),
                }
            }
        }
    }
}

fn rest<'a>(entry: &'a ObjectEntry, prefix: &str) -> Option<&'a str> {
    entry.key.as_str().strip_prefix(prefix)
}

impl Sweep<'_> {
    /// A head is written once, so that its age is the file's, also where it cannot be read.
    async fn file(&mut self, head: &ObjectEntry) -> Result<(), ObjectError> {
        let name = rest(head, ObjectKey::REQUEST_FILE_HEADS).and_then(|key| owned(key, '/'));
        match name {
            Some((owner, file)) if age(head.modified) > self.lifetime => {
                self.remove_file(&owner, &file).await
            }
            _ => Ok(()),
        }
    }

    async fn open_file(&mut self, sign: &ObjectEntry) -> Result<(), ObjectError> {
        let name = rest(sign, ObjectKey::OPEN_REQUEST_FILES).and_then(|key| owned(key, '.'));
        let Some((owner, file)) = name else {
            return Ok(());
        };
        let says = match self.objects.get(&sign.key).await {
            // It has ended meanwhile.
            Err(ObjectError::NotFound(_)) => return Ok(()),
            says => says?,
        };
        if says != REMOVED {
            if age(sign.modified) < LONGEST_UPLOAD {
                return Ok(());
            }
            let head = ObjectKey::request_file_head(&owner, &file);
            if self.objects.size(&head).await?.is_some() {
                return self.delete(&sign.key).await;
            }
        }
        self.remove_file(&owner, &file).await
    }

    /// Removes parts that belong to nothing: a store may do a write after its answer was given up, and the file was removed.
    ///
    /// Heads and parts are listed in the same order, so that one listing tells of the other which files have a head.
    async fn parts(&mut self) -> Result<(), ObjectError> {
        let patience = self.lifetime.min(LATEST_PART);
        let mut heads = SortedNames::of(self.objects, ObjectKey::REQUEST_FILE_HEADS);
        let mut pages = Pages::of(self.objects, ObjectKey::REQUEST_FILE_PARTS);
        let mut last = None;
        while let Some(entries) = pages.next().await? {
            let mut headless = Vec::new();
            for entry in entries {
                let name = rest(&entry, ObjectKey::REQUEST_FILE_PARTS);
                let name = name.and_then(|name| name.rsplit_once('/'));
                let Some((name, _)) = name else {
                    continue;
                };
                if age(entry.modified) <= patience || last.as_deref() == Some(name) {
                    continue;
                }
                last = Some(name.to_owned());
                if !heads.have(name).await? {
                    headless.push(owned(name, '/').map(|file| (entry.clone(), file)));
                }
            }
            if headless.is_empty() {
                continue;
            }
            // After the page: what a batch had written then is that of one that is open now, or has its head.
            let open = batches::open(self.objects).await?;
            let outputs = open.into_iter().flat_map(|(owner, batch)| {
                batches::output_names(&batch).map(|file| (owner.clone(), file))
            });
            let outputs: HashSet<(ContentHash, String)> = outputs.collect();
            for (entry, (owner, file)) in headless.into_iter().flatten() {
                if !outputs.contains(&(owner.clone(), file.clone())) {
                    let done = self.headless(&owner, &file).await;
                    note(&entry, done);
                }
            }
        }
        Ok(())
    }

    /// Removes the parts of a file that had no head, unless it has one now, or a sign by which it is swept.
    async fn headless(&mut self, owner: &ContentHash, file: &str) -> Result<(), ObjectError> {
        for key in [
            ObjectKey::open_request_file(owner, file),
            ObjectKey::request_file_head(owner, file),
        ] {
            if self.objects.size(&key).await?.is_some() {
                return Ok(());
            }
        }
        if !self.dry_run {
            files::remove_parts(self.objects, owner, file).await?;
        }
        self.removed += 1;
        Ok(())
    }

    /// A batch's document is written again whenever something happens to it.
    async fn batch(&mut self, entry: &ObjectEntry) -> Result<(), ObjectError> {
        if age(entry.modified) <= self.lifetime {
            return Ok(());
        }
        if let Some(sign) = rest(entry, ObjectKey::OPEN_REQUEST_BATCHES) {
            let Some((owner, batch)) = owned(sign, '.') else {
                return Ok(());
            };
            let document = ObjectKey::request_batch(&owner, &batch);
            return match self.objects.size(&document).await? {
                // What leads to nothing is no batch. The others go with theirs.
                None if !self.dry_run => self.objects.delete(&entry.key).await,
                _ => Ok(()),
            };
        }
        if rest(entry, ObjectKey::REQUEST_BATCH_KEYS).is_some() {
            return self.delete(&entry.key).await;
        }
        let name = rest(entry, ObjectKey::REQUEST_BATCHES);
        let name = name.and_then(|name| owned(name.strip_suffix(".json")?, '/'));
        let Some((owner, batch)) = name else {
            return Ok(());
        };
        // Where it has not ended, what it has written has no heads. The document comes last: it leads to the others.
        for file in batches::output_names(&batch) {
            let head = ObjectKey::request_file_head(&owner, &file);
            if !self.dry_run && self.objects.size(&head).await?.is_none() {
                files::remove_parts(self.objects, &owner, &file).await?;
            }
        }
        if !self.dry_run {
            batches::close(self.objects, &owner, &batch).await?;
        }
        self.delete(&entry.key).await
    }

    async fn remove_file(&mut self, owner: &ContentHash, file: &str) -> Result<(), ObjectError> {
        if !self.dry_run {
            files::remove(self.objects, owner, file).await?;
        }
        self.removed += 1;
        Ok(())
    }

    async fn delete(&mut self, key: &ObjectKey) -> Result<(), ObjectError> {
        if !self.dry_run {
            self.objects.delete(key).await?;
        }
        self.removed += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use radialog_runtime::objects::filesystem::FilesystemObjects;
    use radialog_schemas::http::openai_batches::{BatchEndpoint, FilePurpose};

    use super::super::batches::{BatchDocument, BatchTimes};
    use super::super::{new_name, now};
    use super::*;
    use crate::request_store::files::FileHead;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn head(parts: u32) -> FileHead {
        FileHead {
            bytes: 1,
            parts,
            created_at: now(),
            expires_at: now() + LIFETIME.as_secs(),
            filename: "x".to_owned(),
            purpose: FilePurpose::Batch,
            writers: Vec::new(),
            is_damaged: false,
        }
    }

    /// Makes everything that is stored now so much older.
    fn make_older(folder: &Path, by: Duration) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                make_older(&path, by);
            } else {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                file.set_modified(modified - by).unwrap();
            }
        }
    }

    async fn stored(objects: &dyn Objects) -> usize {
        let mut count = 0;
        for prefix in [ObjectKey::REQUEST_FILES, ObjectKey::REQUEST_BATCHES] {
            count += objects
                .list(prefix, None, 1000)
                .await
                .unwrap()
                .entries
                .len();
        }
        count
    }

    async fn upload(objects: &dyn Objects, owner: &ContentHash) -> String {
        let file = new_name();
        files::begin(objects, owner, &file).await.unwrap();
        for part in 0..2 {
            let content = "x".into();
            files::put_part(objects, owner, &file, part, content)
                .await
                .unwrap();
        }
        file
    }

    #[tokio::test]
    async fn what_is_old_goes_and_a_damaged_head_keeps_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(folder.path()).unwrap();
        let owner = ContentHash::of(b"ward");
        let whole = upload(&objects, &owner).await;
        files::end(&objects, &owner, &whole, &head(2))
            .await
            .unwrap();
        let damaged = upload(&objects, &owner).await;
        let key = ObjectKey::request_file_head(&owner, &damaged);
        files::end(&objects, &owner, &damaged, &head(2))
            .await
            .unwrap();
        objects.put(&key, "{\"bytes\": ".into()).await.unwrap();
        let broken = upload(&objects, &owner).await;
        let (lifetime, sweep) = (LIFETIME, super::sweep);
        assert_eq!(sweep(&objects, lifetime, false).await.unwrap(), 0);
        let found = files::find(&objects, &owner, &damaged).await.unwrap();
        assert!(found.unwrap().is_damaged);

        make_older(folder.path(), 2 * DAY);
        assert_eq!(sweep(&objects, lifetime, true).await.unwrap(), 1);
        assert_eq!(sweep(&objects, lifetime, false).await.unwrap(), 1);
        assert!(!files::remove(&objects, &owner, &broken).await.unwrap());
        assert_eq!(stored(&objects).await, 6);

        make_older(folder.path(), LIFETIME);
        let young = upload(&objects, &owner).await;
        files::end(&objects, &owner, &young, &head(2))
            .await
            .unwrap();
        assert_eq!(sweep(&objects, lifetime, false).await.unwrap(), 2);
        assert_eq!(stored(&objects).await, 3);
        // As an operator asks for it.
        make_older(folder.path(), 2 * DAY);
        assert_eq!(sweep(&objects, DAY, false).await.unwrap(), 1);
        assert_eq!(stored(&objects).await, 0);
    }

    #[tokio::test]
    async fn a_removal_that_was_broken_off_is_done_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(folder.path()).unwrap();
        let owner = ContentHash::of(b"ward");
        for again in [true, false] {
            let file = upload(&objects, &owner).await;
            files::end(&objects, &owner, &file, &head(2)).await.unwrap();
            let sign = ObjectKey::open_request_file(&owner, &file);
            objects.put(&sign, REMOVED.into()).await.unwrap();
            let head = ObjectKey::request_file_head(&owner, &file);
            objects.delete(&head).await.unwrap();
            match again {
                true => assert!(files::remove(&objects, &owner, &file).await.unwrap()),
                false => assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 1),
            }
            assert_eq!(stored(&objects).await, 0);
            assert!(!files::remove(&objects, &owner, &file).await.unwrap());
        }
    }

    #[tokio::test]
    async fn parts_that_came_when_their_file_was_gone_are_removed_and_those_of_open_batches_are_not()
     {
        let folder = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(folder.path()).unwrap();
        let owner = ContentHash::of(b"ward");
        let mut whole = Vec::new();
        for _ in 0..3 {
            let file = upload(&objects, &owner).await;
            files::end(&objects, &owner, &file, &head(2)).await.unwrap();
            whole.push(file);
        }
        let late = whole.remove(1);
        assert!(files::remove(&objects, &owner, &late).await.unwrap());
        files::put_part(&objects, &owner, &late, 1, "x".into())
            .await
            .unwrap();
        let batch = new_name();
        let endpoint = BatchEndpoint::ChatCompletions;
        let times = BatchTimes::default();
        let document =
            BatchDocument::new(&batch, "ward".to_owned(), endpoint, new_name(), None, times);
        let created = batches::create(&objects, &owner, &batch, &document).await;
        created.unwrap();
        let [answers, _] = batches::output_names(&batch);
        let part = ObjectKey::request_file_part(&owner, &answers, 0, Some("a"));
        objects.put(&part, "x".into()).await.unwrap();
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 0);
        make_older(folder.path(), 2 * DAY);
        let uploading = upload(&objects, &owner).await;
        assert_eq!(sweep(&objects, LIFETIME, true).await.unwrap(), 1);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 1);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 0);
        let left = objects.list(ObjectKey::REQUEST_FILE_PARTS, None, 100).await;
        let left = left.unwrap().entries;
        let has_part = |file: &str| left.iter().any(|part| part.key.as_str().contains(file));
        assert!(has_part(&whole[0]) && has_part(&whole[1]) && !has_part(&late));
        assert!(has_part(&answers) && has_part(&uploading));
        // Its batch was removed while it was written.
        let withdrawn = batches::withdraw(&objects, &owner, &batch, document).await;
        withdrawn.unwrap();
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn parts_are_held_to_the_heads_over_many_pages_of_either() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(folder.path()).unwrap();
        let owners = [b"ward", b"lab "].map(|owner| ContentHash::of(owner));
        let write = |key: &ObjectKey| {
            let path = folder.path().join(key.as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        let mut headless = 0;
        for number in 0..1300 {
            let (owner, file) = (&owners[number % 2], new_name());
            // Some at the ends of pages, and some that follow one another.
            match number % 97 == 0 || (500..505).contains(&number) {
                true => headless += 1,
                false => write(&ObjectKey::request_file_head(owner, &file)),
            }
            for part in 0..2 {
                write(&ObjectKey::request_file_part(owner, &file, part, None));
            }
        }
        make_older(folder.path(), 2 * DAY);
        assert_eq!(sweep(&objects, LIFETIME, true).await.unwrap(), headless);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), headless);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_old_batch_goes_with_what_it_has_written_and_its_sign() {
        let folder = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(folder.path()).unwrap();
        let (owner, batch) = (ContentHash::of(b"ward"), new_name());
        let document = BatchDocument::new(
            &batch,
            "ward".to_owned(),
            BatchEndpoint::ChatCompletions,
            new_name(),
            None,
            BatchTimes::default(),
        );
        let created = batches::create(&objects, &owner, &batch, &document).await;
        assert_eq!(created.unwrap(), document);
        let [answers, _] = batches::output_names(&batch);
        let part = ObjectKey::request_file_part(&owner, &answers, 0, Some("a"));
        objects.put(&part, "x".into()).await.unwrap();
        make_older(folder.path(), LIFETIME / 2);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 0);
        // Somebody works on it: its sign is older than itself.
        let document_key = ObjectKey::request_batch(&owner, &batch);
        let content = objects.get(&document_key).await.unwrap();
        make_older(folder.path(), LIFETIME);
        objects.put(&document_key, content).await.unwrap();
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 0);
        assert_eq!(stored(&objects).await, 3);
        make_older(folder.path(), 2 * LIFETIME);
        assert_eq!(sweep(&objects, LIFETIME, false).await.unwrap(), 1);
        assert_eq!(stored(&objects).await, 0);
    }
}
