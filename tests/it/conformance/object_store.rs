//! The object store contract.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::ObjectKey;
use tempfile::TempDir;

use crate::adapters::on_each_adapter;

mod adapters {
    use std::sync::Arc;

    use radialog_runtime::objects::filesystem::FilesystemObjects;

    use super::ObjectStoreFixture;

    pub(super) async fn filesystem() -> ObjectStoreFixture {
        let directory = tempfile::tempdir().unwrap();
        let objects = FilesystemObjects::open(directory.path().join("made/on/demand")).unwrap();
        ObjectStoreFixture {
            objects: Arc::new(objects),
            _directory: Some(directory),
        }
    }

    pub(super) async fn s3() -> ObjectStoreFixture {
        ObjectStoreFixture {
            objects: crate::adapters::s3().await,
            _directory: None,
        }
    }
}

/// A store, and the directory that goes with it.
struct ObjectStoreFixture {
    objects: Arc<dyn Objects>,
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
    a_large_object_survives,
    concurrent_writers_of_one_key_never_mix,
}}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
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
        let after = after.map(key);
        let entries = self
            .objects
            .list(prefix, after.as_ref(), limit)
            .await
            .unwrap();
        for entry in &entries {
            assert_eq!(entry.size, entry.key.as_str().len() as u64);
        }
        entries
            .into_iter()
            .map(|entry| entry.key.as_str().to_owned())
            .collect()
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
    let entries = store.objects.list("", None, 9).await.unwrap();
    let after = SystemTime::now() + second;
    let modified = entries[0].modified;
    assert!(before <= modified && modified <= after, "{modified:?}");
}

/// What came from patients is nobody else's to read, whatever the umask says.
#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("results/objects");
    let objects = FilesystemObjects::open(&root).unwrap();
    objects.put(&key("images/x"), "x".into()).await.unwrap();
    let output = key("conversations/c/embedding/y.json");
    objects.put_output(&output, "y".into()).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut seen = 0;
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3, "an image, an output and its hash");
    // The folder above is the user's, and is as the umask says.
    std::fs::create_dir(directory.path().join("plain")).unwrap();
    assert_eq!(
        mode(root.parent().unwrap()),
        mode(&directory.path().join("plain"))
    );
    // What is emptied is gone.
    objects.delete(&output).await.unwrap();
    assert!(!root.join("conversations").exists() && root.join("images").exists());
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

async fn a_listing_is_in_key_order_and_goes_on_where_it_stopped(store: ObjectStoreFixture) {
    // Byte order of whole keys: `-` and `.` come before `/`, capitals before small letters.
    let expected = [
        "a-1", "a.json", "a/B", "a/a", "a/b/1", "a/b/2", "a/c", "ab", "z/9",
    ];
    let mut shuffled = expected;
    shuffled.reverse();
    store.fill(&shuffled).await;
    assert_eq!(store.list("", None, 100).await, expected);
    let mut pages = Vec::new();
    loop {
        let page = store.list("", pages.last().map(String::as_str), 2).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        pages.extend(page);
    }
    assert_eq!(pages, expected);
    assert_eq!(
        store.list("", Some("a/b"), 2).await,
        ["a/b/1", "a/b/2"],
        "`after` need not exist"
    );
}

async fn a_listing_sees_only_its_prefix(store: ObjectStoreFixture) {
    store.fill(&["a/1", "a/2", "ab/3", "b/4"]).await;
    assert_eq!(store.list("a/", None, 100).await, ["a/1", "a/2"]);
    assert_eq!(store.list("a", None, 100).await, ["a/1", "a/2", "ab/3"]);
    assert_eq!(store.list("nothing/", None, 100).await, [""; 0]);
    assert_eq!(store.list("a", None, 0).await, [""; 0]);
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
