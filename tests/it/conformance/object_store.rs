//! The object store contract.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use radialog_runtime::objects::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use radialog_schemas::ObjectKey;
use radialog_tests::services::Services;
use tempfile::TempDir;

use crate::adapters::on_each_adapter;

mod files;
mod listing;

use listing::*;

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::objects::filesystem::FilesystemObjects;
    use radialog_tests::services::Services;

    use super::ObjectStoreFixture;

    pub(super) async fn filesystem() -> ObjectStoreFixture {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("made/on/demand");
        ObjectStoreFixture {
            objects: Arc::new(FilesystemObjects::open(&folder).unwrap()),
            folder: Some(folder),
            bucket: None,
            _directory: Some(directory),
        }
    }

    pub(super) async fn s3() -> ObjectStoreFixture {
        let services = Services::shared().await.unwrap();
        let bucket = services.bucket().unwrap();
        let is_ours = services.given_store().is_none();
        ObjectStoreFixture {
            objects: crate::adapters::s3_at(&bucket).await,
            folder: is_ours.then(|| services.s3().folder(&bucket)),
            bucket: Some(bucket),
            _directory: None,
        }
    }
}

/// A store, and the directory that goes with it.
struct ObjectStoreFixture {
    objects: Arc<dyn Objects>,
    /// Where the objects lie as files, where the store is ours.
    folder: Option<PathBuf>,
    /// The bucket's address, where it is one.
    bucket: Option<String>,
    _directory: Option<TempDir>,
}

on_each_adapter! { filesystem, s3: {
    an_object_comes_back_as_it_was_put,
    putting_again_replaces,
    what_does_not_exist_is_not_found,
    an_empty_object_is_no_output,
    an_output_is_whole_only_as_it_was_stored,
    the_hash_of_an_output_is_no_object,
    content_is_made_sure_of_whatever_was_there,
    an_entry_says_when_it_was_put,
    deleting_twice_is_harmless,
    a_part_can_be_read_and_is_cut_at_the_end,
    a_listing_is_in_key_order_and_goes_on_where_it_stopped,
    a_listing_sees_only_its_prefix,
    three_thousand_objects_are_listed_once_each,
    a_listing_ends_where_whole_pages_are_folder_markers,
    names_that_are_no_keys_are_listed_as_such_and_passed,
    a_large_object_survives,
    a_file_of_any_size_is_stored_whole,
    a_conditional_write_happens_only_over_the_expected_version,
    a_file_is_stored_over_the_expected_version_only,
    of_writers_that_expect_the_same_version_one_writes,
    of_increments_that_were_acknowledged_none_is_lost,
    concurrent_writers_of_one_key_never_mix,
}}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn keys(page: &ObjectPage) -> Vec<String> {
    let keys = page.entries.iter();
    keys.map(|entry| entry.key.as_str().to_owned()).collect()
}

impl ObjectStoreFixture {
    /// Puts objects whose content is their key.
    async fn fill(&self, keys: &[&str]) {
        for name in keys {
            self.objects
                .put(&key(name), Bytes::from(name.to_string()))
                .await
                .unwrap();
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let after = after.map(|after| ListCursor::after(&key(after)));
        let page = self.objects.list(prefix, after.as_ref(), limit).await;
        let page = page.unwrap();
        for entry in &page.entries {
            assert_eq!(entry.size, entry.key.as_str().len() as u64);
        }
        keys(&page)
    }

    /// Writes files as somebody else would, whatever their names are; in another's store only what can be a key.
    async fn write(&self, names: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        let mut keys = Vec::new();
        for name in names {
            let name = name.as_ref();
            match &self.folder {
                Some(folder) => {
                    let path = folder.join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, "x").unwrap();
                }
                None => keys.extend(name.to_str().and_then(ObjectKey::parse)),
            }
        }
        let puts = keys.iter().map(|key| self.objects.put(key, "x".into()));
        let puts = futures::stream::iter(puts).buffer_unordered(16);
        puts.for_each(async |put| put.unwrap()).await;
    }

    /// Whether the store is another's that does not know conditional writes.
    async fn writes_unconditionally(&self) -> bool {
        let given = Services::shared().await.unwrap().given_store();
        self.bucket.is_some() && given.is_some_and(|given| !given.knows_conditional_writes())
    }

    /// Whether the store is another's that knows them for what comes in one request only.
    async fn completes_unconditionally(&self) -> bool {
        let given = Services::shared().await.unwrap().given_store();
        self.bucket.is_some() && given.is_some_and(|given| !given.knows_conditional_parts())
    }

    /// Everything under a prefix, page by page.
    async fn pages(&self, prefix: &str, limit: usize) -> Vec<ObjectPage> {
        let (mut pages, mut cursor): (Vec<ObjectPage>, Option<ListCursor>) = Default::default();
        loop {
            let page = self.objects.list(prefix, cursor.as_ref(), limit).await;
            let page = page.unwrap();
            assert!(page.entries.len() + page.unusable.len() <= limit);
            let next = page.next.clone();
            pages.push(page);
            match next {
                None => return pages,
                Some(next) => {
                    assert!(
                        cursor.is_none_or(|last| last < next),
                        "it goes on: {next:?}"
                    );
                    cursor = Some(next);
                }
            }
        }
    }
}

async fn an_object_comes_back_as_it_was_put(store: ObjectStoreFixture) {
    for (name, content) in [
        ("images/abc", Bytes::from_static(b"\x00\xff binary")),
        ("images/empty", Bytes::new()),
    ] {
        store
            .objects
            .put(&key(name), content.clone())
            .await
            .unwrap();
        assert_eq!(store.objects.get(&key(name)).await.unwrap(), content);
        assert_eq!(
            store.objects.size(&key(name)).await.unwrap(),
            Some(content.len() as u64)
        );
    }
}

async fn putting_again_replaces(store: ObjectStoreFixture) {
    for content in ["long content", "short"] {
        store
            .objects
            .put(&key("a/b"), content.into())
            .await
            .unwrap();
        assert_eq!(store.objects.get(&key("a/b")).await.unwrap(), content);
    }
}

async fn what_does_not_exist_is_not_found(store: ObjectStoreFixture) {
    store.fill(&["a/b"]).await;
    for absent in ["a/c", "a/b/c", "x/y/z"] {
        assert_eq!(
            store.objects.size(&key(absent)).await.unwrap(),
            None,
            "{absent}"
        );
        let error = store.objects.get(&key(absent)).await.unwrap_err();
        assert!(
            matches!(error, ObjectError::NotFound(_)),
            "{absent}: {error}"
        );
    }
}

async fn an_empty_object_is_no_output(store: ObjectStoreFixture) {
    let has_output = async || store.objects.has_output(&key("a/output")).await.unwrap();
    assert!(!has_output().await, "nothing is there");
    let empty = Bytes::new();
    store.objects.put(&key("a/output"), empty).await.unwrap();
    assert!(!has_output().await, "an interrupted write is there");
    store.fill(&["a/output"]).await;
    assert!(has_output().await);
}

async fn an_output_is_whole_only_as_it_was_stored(store: ObjectStoreFixture) {
    let (objects, key) = (&store.objects, key("embedding/output.json"));
    let is_whole = async || objects.has_whole_output(&key).await.unwrap();
    assert!(!is_whole().await, "nothing is there");
    for damage in ["", "outpux", "out", "output and more"] {
        objects.put_output(&key, "output".into()).await.unwrap();
        assert!(is_whole().await);
        assert_eq!(objects.get(&key).await.unwrap(), "output");
        objects.put(&key, damage.into()).await.unwrap();
        assert!(!is_whole().await, "'{damage}'");
    }
    objects.put_output(&key, Bytes::new()).await.unwrap();
    assert!(!is_whole().await, "no stage has an empty output");
    objects.put_output(&key, "another".into()).await.unwrap();
    assert!(is_whole().await, "the hash is replaced with the output");
    objects.delete(&key).await.unwrap();
    assert!(!is_whole().await);
    objects.put(&key, "unknown".into()).await.unwrap();
    assert!(!is_whole().await, "nobody has said what it must be");
}

async fn the_hash_of_an_output_is_no_object(store: ObjectStoreFixture) {
    for name in ["a/1", "a/2"] {
        let content = Bytes::from(name.to_owned());
        store.objects.put_output(&key(name), content).await.unwrap();
    }
    assert_eq!(store.list("", None, 100).await, ["a/1", "a/2"]);
    store.objects.delete(&key("a/1")).await.unwrap();
    store.objects.delete(&key("a/2")).await.unwrap();
    assert_eq!(store.list("", None, 100).await, [""; 0]);
    assert!(!store.objects.has_whole_output(&key("a/1")).await.unwrap());
}

async fn content_is_made_sure_of_whatever_was_there(store: ObjectStoreFixture) {
    // Longer than what is compared at a time, and wrong at its very end.
    let content = Bytes::from(vec![7; 5 << 20]);
    let mut rotten = content.to_vec();
    *rotten.last_mut().unwrap() = 8;
    let key = key("images/x");
    for before in [
        None,
        Some(Bytes::new()),
        Some(rotten.into()),
        Some(Bytes::from_static(b"short")),
        Some(content.clone()),
    ] {
        match before {
            Some(before) => store.objects.put(&key, before).await.unwrap(),
            None => store.objects.delete(&key).await.unwrap(),
        }
        store.objects.ensure(&key, &content).await.unwrap();
        assert!(store.objects.get(&key).await.unwrap() == content);
    }
}

async fn an_entry_says_when_it_was_put(store: ObjectStoreFixture) {
    // Stores count in whole seconds, some of them.
    let second = Duration::from_secs(1);
    let before = SystemTime::now() - second;
    store.fill(&["a"]).await;
    let page = store.objects.list("", None, 9).await.unwrap();
    let after = SystemTime::now() + second;
    let modified = page.entries[0].modified;
    assert!(before <= modified && modified <= after, "{modified:?}");
}

async fn deleting_twice_is_harmless(store: ObjectStoreFixture) {
    store.fill(&["a/b"]).await;
    store.objects.delete(&key("a/b")).await.unwrap();
    store.objects.delete(&key("a/b")).await.unwrap();
    assert_eq!(store.objects.size(&key("a/b")).await.unwrap(), None);
}

async fn a_part_can_be_read_and_is_cut_at_the_end(store: ObjectStoreFixture) {
    store
        .objects
        .put(&key("a"), "0123456789".into())
        .await
        .unwrap();
    for (range, expected) in [
        (0..4, "0123"),
        (4..6, "45"),
        (8..100, "89"),
        (5..5, ""),
        (50..60, ""),
    ] {
        assert_eq!(
            store
                .objects
                .get_range(&key("a"), range.clone())
                .await
                .unwrap(),
            expected,
            "{range:?}"
        );
    }
    assert!(matches!(
        store.objects.get_range(&key("b"), 0..1).await,
        Err(ObjectError::NotFound(_))
    ));
}

async fn a_large_object_survives(store: ObjectStoreFixture) {
    let content = Bytes::from(
        (0..6_000_000_u32)
            .map(|n| (n % 251) as u8)
            .collect::<Vec<_>>(),
    );
    store
        .objects
        .put(&key("large"), content.clone())
        .await
        .unwrap();
    assert!(store.objects.get(&key("large")).await.unwrap() == content);
}

async fn concurrent_writers_of_one_key_never_mix(store: ObjectStoreFixture) {
    let contents: Vec<Bytes> = (0..8_u8)
        .map(|writer| Bytes::from(vec![writer; 100_000]))
        .collect();
    let key = key("contended/object");
    store.objects.put(&key, contents[0].clone()).await.unwrap();
    let writers = join_all(
        contents
            .iter()
            .map(|content| store.objects.put(&key, content.clone())),
    );
    let readers = join_all((0..8).map(|_| store.objects.get(&key)));
    let (written, read) = tokio::join!(writers, readers);
    assert!(written.iter().all(Result::is_ok));
    for content in read {
        assert!(
            contents.contains(&content.unwrap()),
            "a reader saw a mixture"
        );
    }
}

async fn a_file_of_any_size_is_stored_whole(store: ObjectStoreFixture) {
    let dir = tempfile::tempdir().unwrap();
    // Nothing, one part, a whole number of parts, and a part more.
    for size in [0, 5, 16 << 20, (32 << 20) + 5] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        let file = dir.path().join("results.jsonl");
        fs::write(&file, &content).unwrap();
        let key = key("run/results.jsonl");
        store.objects.put_file(&key, &file).await.unwrap();
        assert!(store.objects.get(&key).await.unwrap() == content, "{size}");
    }
    let missing = dir.path().join("nothing");
    let error = store.objects.put_file(&key("b"), &missing).await;
    assert!(error.unwrap_err().to_string().contains("nothing"));
}

async fn a_conditional_write_happens_only_over_the_expected_version(store: ObjectStoreFixture) {
    if store.writes_unconditionally().await {
        return;
    }
    let (objects, key) = (&*store.objects, key("run/session.json"));
    let put = async |content: &'static str, expected: Option<&Version>| {
        let content = Bytes::from_static(content.as_bytes());
        objects.put_if(&key, content, expected).await.unwrap()
    };
    let missing = objects.get_versioned(&key).await;
    assert!(matches!(missing, Err(ObjectError::NotFound(_))));
    let first = put("one", None).await.unwrap();
    assert_eq!(put("other", None).await, None);
    assert_eq!(
        objects.get_versioned(&key).await.unwrap(),
        (Bytes::from_static(b"one"), first.clone())
    );
    let second = put("two", Some(&first)).await.unwrap();
    assert_eq!(put("other", Some(&first)).await, None);
    assert_eq!(objects.get(&key).await.unwrap(), "two");
    objects.delete(&key).await.unwrap();
    assert_eq!(put("other", Some(&second)).await, None);
    // What decides is no object.
    assert!(objects.list("", None, 9).await.unwrap().entries.is_empty());
}

async fn a_file_is_stored_over_the_expected_version_only(store: ObjectStoreFixture) {
    if store.writes_unconditionally().await {
        return;
    }
    let (objects, key) = (&*store.objects, key("run/results.jsonl"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("results.jsonl");
    // In one request, and in parts.
    let sizes: &[usize] = match store.completes_unconditionally().await {
        true => &[5],
        false => &[5, (16 << 20) + 5],
    };
    for &size in sizes {
        let write = |byte: u8| fs::write(&file, vec![byte; size]).unwrap();
        objects.delete(&key).await.unwrap();
        assert_eq!(objects.version(&key).await.unwrap(), None);
        write(1);
        assert!(objects.put_file_if(&key, &file, None).await.unwrap());
        let first = objects.version(&key).await.unwrap().unwrap();
        write(2);
        assert!(!objects.put_file_if(&key, &file, None).await.unwrap());
        let put = objects.put_file_if(&key, &file, Some(&first)).await;
        assert!(put.unwrap());
        write(3);
        let late = objects.put_file_if(&key, &file, Some(&first)).await;
        assert!(!late.unwrap());
        assert!(objects.get(&key).await.unwrap() == vec![2; size], "{size}");
    }
}

async fn of_writers_that_expect_the_same_version_one_writes(store: ObjectStoreFixture) {
    if store.writes_unconditionally().await {
        return;
    }
    let key = key("run/session.json");
    let writers = (0..16).map(|writer: u8| {
        let content = Bytes::from(vec![writer; 1000]);
        store.objects.put_if(&key, content, None)
    });
    let written = join_all(writers).await;
    let count = written
        .iter()
        .filter(|version| version.as_ref().unwrap().is_some())
        .count();
    assert_eq!(count, 1);
}

async fn of_increments_that_were_acknowledged_none_is_lost(store: ObjectStoreFixture) {
    if store.writes_unconditionally().await {
        return;
    }
    let key = key("run/count");
    store.objects.put(&key, "0".into()).await.unwrap();
    let counters = (0..4).map(|_| {
        let (objects, key) = (store.objects.clone(), key.clone());
        tokio::spawn(async move {
            let mut acknowledged = 0;
            for _ in 0..25 {
                let (content, version) = objects.get_versioned(&key).await.unwrap();
                let count: u32 = std::str::from_utf8(&content).unwrap().parse().unwrap();
                let next = Bytes::from((count + 1).to_string());
                let put = objects.put_if(&key, next, Some(&version)).await.unwrap();
                acknowledged += u32::from(put.is_some());
            }
            acknowledged
        })
    });
    let mut acknowledged = 0;
    for counter in counters.collect::<Vec<_>>() {
        acknowledged += counter.await.unwrap();
    }
    let content = store.objects.get(&key).await.unwrap();
    assert_eq!(content, acknowledged.to_string());
    assert!(acknowledged > 0);
}
