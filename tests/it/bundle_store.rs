//! A bundle in an object store is downloaded once and checked.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_runtime::objects::{ListCursor, ObjectError, ObjectPage, Objects, Version};
use radialog_schemas::bundle::MANIFEST_FILE;
use radialog_schemas::{ContentHash, Manifest, ObjectKey, RelativePath, Stage};
use radialog_workers::bundle_cache::{FetchError, FetchProgress, fetch_bundle};
use radialog_workers::bundle_upload::{UploadError, Uploaded, upload_bundle};
use tempfile::TempDir;
use tokio::sync::watch;

const SCORING: &str = "scoring.safetensors";

/// A tiny bundle in a store, and an empty cache.
struct BundleStore {
    dir: TempDir,
    objects: FilesystemObjects,
    hashes: HashCache,
    manifest: Manifest,
}

impl BundleStore {
    async fn new() -> Result<Self> {
        let store = Self::empty()?;
        store.upload().await?;
        Ok(store)
    }

    /// The bundle beside a store that has nothing.
    fn empty() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let manifest = RandomBundle::tiny(7).write(&dir.path().join("bundle"))?;
        let objects = FilesystemObjects::open(dir.path().join("objects"))?;
        let hashes = HashCache::at(dir.path().join("hashes.json"));
        Ok(Self {
            dir,
            objects,
            hashes,
            manifest,
        })
    }

    /// Uploads the bundle, and returns the files that were sent.
    async fn upload(&self) -> Result<Vec<String>, UploadError> {
        let sent = Mutex::new(Vec::new());
        let progress = |file: &str, uploaded| {
            if uploaded == Uploaded::Now {
                sent.lock().unwrap().push(file.to_owned());
            }
        };
        let dir = self.dir.path().join("bundle");
        upload_bundle(
            &self.objects,
            "bundles/tiny",
            &dir,
            &self.manifest,
            &progress,
        )
        .await?;
        Ok(sent.into_inner().unwrap())
    }

    async fn fetch(&self, stages: &[Stage]) -> Result<PathBuf, FetchError> {
        fetch_bundle(
            &self.objects,
            "bundles/tiny/",
            &self.dir.path().join("cache"),
            stages,
            &self.hashes,
            &|_| (),
        )
        .await
    }
}

fn key(file: &str) -> ObjectKey {
    ObjectKey::parse(&format!("bundles/tiny/{file}")).unwrap()
}

#[tokio::test]
async fn a_fetched_bundle_opens_and_is_the_same_bundle() -> Result<()> {
    let store = BundleStore::new().await?;
    let bundle = Bundle::open_with(&store.fetch(&Stage::ALL).await?, &Stage::ALL, &store.hashes)?;
    assert_eq!(bundle.manifest(), &store.manifest);
    Ok(())
}

/// Gateways on several machines tell their clients the same time.
#[tokio::test]
async fn a_fetched_bundle_was_written_when_the_store_got_it() -> Result<()> {
    let store = BundleStore::new().await?;
    let then = UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let stored = store
        .dir
        .path()
        .join("objects")
        .join(key(MANIFEST_FILE).as_str());
    File::options()
        .write(true)
        .open(stored)?
        .set_modified(then)?;
    for cache in ["one", "other"] {
        let cache = store.dir.path().join(cache);
        let (objects, stages) = (&store.objects, [Stage::Scoring]);
        let fetched = fetch_bundle(
            objects,
            "bundles/tiny",
            &cache,
            &stages,
            &store.hashes,
            &|_| (),
        );
        let bundle = Bundle::open_with(&fetched.await?, &stages, &store.hashes)?;
        assert_eq!(bundle.written(), Some(then));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_in_the_cache_is_not_downloaded_again() -> Result<()> {
    let store = BundleStore::new().await?;
    let first = store.fetch(&Stage::ALL).await?;
    for file in store.manifest.files.keys() {
        store.objects.delete(&key(file.as_str())).await?;
    }
    assert_eq!(store.fetch(&Stage::ALL).await?, first);
    Ok(())
}

#[tokio::test]
async fn a_worker_downloads_only_what_its_stage_loads() -> Result<()> {
    let store = BundleStore::new().await?;
    let dir = store.fetch(&[Stage::Scoring]).await?;
    assert!(dir.join(SCORING).exists() && !dir.join("language.safetensors").exists());
    Bundle::open_with(&dir, &[Stage::Scoring], &store.hashes)?;
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_in_the_cache_is_downloaded_again() -> Result<()> {
    let store = BundleStore::new().await?;
    let dir = store.fetch(&[Stage::Scoring]).await?;
    let good = fs::read(dir.join(SCORING))?;
    fs::write(dir.join(SCORING), &good[..good.len() - 1])?;
    assert_eq!(store.fetch(&[Stage::Scoring]).await?, dir);
    assert_eq!(fs::read(dir.join(SCORING))?, good);
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_in_the_store_is_refused_by_name_and_not_kept() -> Result<()> {
    let store = BundleStore::new().await?;
    store
        .objects
        .put(&key(SCORING), Bytes::from_static(b"short"))
        .await?;
    let error = store.fetch(&[Stage::Scoring]).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Content { key: found, size: 5, .. } if *found == key(SCORING)),
        "{error}"
    );
    let dir = fs::read_dir(store.dir.path().join("cache"))?
        .next()
        .unwrap()?
        .path();
    let left: Vec<_> = fs::read_dir(dir)?
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        left,
        ["scoring.tokenizer.json"],
        "only what was whole stays"
    );
    Ok(())
}

#[tokio::test]
async fn a_manifest_with_a_name_that_leads_elsewhere_is_refused_before_anything_is_written()
-> Result<()> {
    let store = BundleStore::new().await?;
    let victim = store.dir.path().join("victim");
    let absolute = victim.display().to_string();
    let text = fs::read_to_string(store.dir.path().join("bundle").join(MANIFEST_FILE))?;
    // The attack: what the store holds under that key would be written there.
    store.objects.put(&key("victim"), "attack".into()).await?;
    for name in [
        absolute.as_str(),
        "../victim",
        "a/../../victim",
        "a\\\\victim",
        "a\\nb",
        "",
    ] {
        let manifest = text.replace(&format!("\"{SCORING}\""), &format!("\"{name}\""));
        store
            .objects
            .put(&key(MANIFEST_FILE), manifest.into())
            .await?;
        let error = store.fetch(&Stage::ALL).await.unwrap_err();
        assert!(
            matches!(&error, FetchError::Manifest { reason, .. } if reason.contains("cannot be used as a path")),
            "{name}: {error}"
        );
        assert!(
            !victim.exists() && !store.dir.path().join("cache").exists(),
            "{name}"
        );
    }
    Ok(())
}

/// A store that stands still from some request on, and says which ranges were asked for.
struct Standing {
    objects: FilesystemObjects,
    answers: AtomicUsize,
    asked: Mutex<Vec<Range<u64>>>,
}

#[async_trait]
impl Objects for Standing {
    async fn get(&self, key: &ObjectKey) -> Result<Bytes, ObjectError> {
        self.objects.get(key).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.asked.lock().unwrap().push(range.clone());
        let left = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        // Small files do not count, in whichever order they come.
        if range.end >= PART && self.answers.fetch_update(order, order, left).is_err() {
            std::future::pending::<()>().await;
        }
        self.objects.get_range(key, range).await
    }

    async fn put(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.objects.put(key, content).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        content: Bytes,
        expected: Option<&Version>,
    ) -> Result<Option<Version>, ObjectError> {
        self.objects.put_if(key, content, expected).await
    }

    async fn get_versioned(&self, key: &ObjectKey) -> Result<(Bytes, Version), ObjectError> {
        self.objects.get_versioned(key).await
    }

    async fn put_output(&self, key: &ObjectKey, content: Bytes) -> Result<(), ObjectError> {
        self.objects.put_output(key, content).await
    }

    async fn get_output(
        &self,
        key: &ObjectKey,
    ) -> Result<(Bytes, Option<ContentHash>), ObjectError> {
        self.objects.get_output(key).await
    }

    async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, ObjectError> {
        self.objects.size(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        self.objects.delete(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<ObjectPage, ObjectError> {
        self.objects.list(prefix, after, limit).await
    }
}

/// A bundle of one large file in a store that gives this many parts of it.
struct LargeBundle {
    dir: TempDir,
    store: Standing,
    content: Vec<u8>,
}

/// What is asked for at a time.
const PART: u64 = 16 << 20;

impl LargeBundle {
    async fn new(answers: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let content: Vec<u8> = (0..2 * PART + 5).map(|at| (at % 251) as u8).collect();
        let hash = ContentHash::of(&content);
        RandomBundle::tiny(7).write(&dir.path().join("bundle"))?;
        let text = fs::read_to_string(dir.path().join("bundle").join(MANIFEST_FILE))?;
        let mut text: serde_json::Value = serde_json::from_str(&text)?;
        let size = content.len();
        text["files"][SCORING] = serde_json::json!({"size": size, "sha256": hash.as_str()});
        let objects = FilesystemObjects::open(dir.path().join("objects"))?;
        let manifest = serde_json::to_vec(&text)?;
        objects.put(&key(MANIFEST_FILE), manifest.into()).await?;
        objects.put(&key(SCORING), content.clone().into()).await?;
        let small = fs::read(dir.path().join("bundle/scoring.tokenizer.json"))?;
        objects
            .put(&key("scoring.tokenizer.json"), small.into())
            .await?;
        let store = Standing {
            objects,
            answers: AtomicUsize::new(answers),
            asked: Mutex::default(),
        };
        Ok(Self {
            dir,
            store,
            content,
        })
    }

    async fn fetch(&self, progress: &(dyn Fn(FetchProgress) + Send + Sync)) -> Result<PathBuf> {
        let hashes = HashCache::at(self.dir.path().join("hashes.json"));
        let cache = self.dir.path().join("cache");
        let stages = [Stage::Scoring];
        Ok(fetch_bundle(
            &self.store,
            "bundles/tiny",
            &cache,
            &stages,
            &hashes,
            progress,
        )
        .await?)
    }

    /// Fetches until this many bytes of the large file are there, and then drops the fetch, as SIGTERM does.
    async fn fetch_until(&self, bytes: u64) -> Result<()> {
        let (sender, mut seen) = watch::channel(0);
        let progress = move |progress: FetchProgress| {
            sender.send_replace(progress.fetched);
        };
        tokio::select! {
            whole = self.fetch(&progress) => panic!("it must stand still: {whole:?}"),
            reached = seen.wait_for(|fetched| *fetched >= bytes) => drop(reached?),
        }
        Ok(())
    }

    /// The ranges asked for since the last time.
    fn asked(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.store.asked.lock().unwrap())
    }

    fn partial(&self) -> Result<PathBuf> {
        let bundle = fs::read_dir(self.dir.path().join("cache"))?.next();
        let bundle = bundle.ok_or_else(|| anyhow::anyhow!("no bundle"))??;
        Ok(bundle.path().join(format!("{SCORING}.partial")))
    }
}

#[tokio::test]
async fn a_fetch_that_is_stopped_goes_on_where_it_was() -> Result<()> {
    let bundle = LargeBundle::new(1).await?;
    bundle.fetch_until(PART).await?;
    assert_eq!(fs::metadata(bundle.partial()?)?.len(), PART);
    bundle.asked();
    bundle.store.answers.store(usize::MAX, Ordering::Relaxed);
    let dir = bundle.fetch(&|_| ()).await?;
    let large: Vec<_> = bundle
        .asked()
        .into_iter()
        .filter(|r| r.end > PART)
        .collect();
    assert_eq!(large[0].start, PART, "{large:?}");
    assert!(fs::read(dir.join(SCORING))? == bundle.content);
    assert!(!bundle.partial()?.exists());
    Ok(())
}

#[tokio::test]
async fn a_part_that_is_damaged_is_downloaded_anew_and_no_fault_of_the_store() -> Result<()> {
    let bundle = LargeBundle::new(1).await?;
    bundle.fetch_until(PART).await?;
    let mut part = fs::read(bundle.partial()?)?;
    part[7] ^= 1;
    fs::write(bundle.partial()?, part)?;
    bundle.store.answers.store(usize::MAX, Ordering::Relaxed);
    let dir = bundle.fetch(&|_| ()).await?;
    assert!(fs::read(dir.join(SCORING))? == bundle.content);
    Ok(())
}

#[tokio::test]
async fn of_two_processes_over_one_cache_one_downloads() -> Result<()> {
    let bundle = LargeBundle::new(usize::MAX).await?;
    let (one, other) = (|_| (), |_| ());
    let (first, second) = tokio::join!(bundle.fetch(&one), bundle.fetch(&other));
    assert_eq!(first?, second?);
    let begun = bundle.asked().iter().filter(|r| r.end == PART).count();
    assert_eq!(begun, 1);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_broke_off_sends_what_is_missing_or_damaged_and_the_manifest_last()
-> Result<()> {
    let store = BundleStore::empty()?;
    let files: Vec<String> = store
        .manifest
        .files
        .keys()
        .map(RelativePath::to_string)
        .collect();
    fs::rename(
        store
            .dir
            .path()
            .join("bundle")
            .join(&files[files.len() - 1]),
        store.dir.path().join("kept"),
    )?;
    store.upload().await.unwrap_err();
    assert_eq!(
        store.objects.size(&key(MANIFEST_FILE)).await?,
        None,
        "a part is no bundle"
    );
    fs::rename(
        store.dir.path().join("kept"),
        store
            .dir
            .path()
            .join("bundle")
            .join(&files[files.len() - 1]),
    )?;
    // Of the same size, so that only its content tells.
    let mut damaged = store.objects.get(&key(&files[0])).await?.to_vec();
    damaged[0] ^= 1;
    store.objects.put(&key(&files[0]), damaged.into()).await?;
    let missing = [files[0].clone(), files[files.len() - 1].clone()];
    assert_eq!(store.upload().await?, missing);
    assert_eq!(store.upload().await?, [] as [String; 0]);
    store.fetch(&Stage::ALL).await?;
    Ok(())
}

#[tokio::test]
async fn an_upload_over_another_bundle_is_refused_and_changes_nothing() -> Result<()> {
    let mut store = BundleStore::new().await?;
    let other = store.dir.path().join("other");
    let manifest = RandomBundle::tiny(8).write(&other)?;
    let first = store.objects.get(&key(SCORING)).await?;
    fs::remove_dir_all(store.dir.path().join("bundle"))?;
    fs::rename(other, store.dir.path().join("bundle"))?;
    store.manifest = manifest;
    let error = store.upload().await.unwrap_err();
    assert!(error.to_string().contains("another prefix"), "{error}");
    assert_eq!(store.objects.get(&key(SCORING)).await?, first);
    Ok(())
}

/// Uploads the bundle of a folder to the same prefix.
async fn upload_from(
    objects: &FilesystemObjects,
    dir: &Path,
    manifest: &Manifest,
    progress: &(dyn Fn(&str, Uploaded) + Send + Sync),
) -> Result<(), UploadError> {
    upload_bundle(objects, "bundles/tiny", dir, manifest, progress).await
}

#[tokio::test]
async fn a_prefix_to_which_one_bundle_is_on_its_way_refuses_another_until_that_one_is_given_up()
-> Result<()> {
    let store = BundleStore::empty()?;
    let (ours, other) = (
        store.dir.path().join("bundle"),
        store.dir.path().join("other"),
    );
    let theirs = RandomBundle::tiny(8).write(&other)?;
    // The first upload is broken off behind its first file.
    let (sender, mut sent) = watch::channel(false);
    let progress = move |_: &str, _: Uploaded| {
        sender.send_replace(true);
    };
    tokio::select! {
        biased;
        sent = sent.wait_for(|sent| *sent) => drop(sent?),
        ended = upload_from(&store.objects, &ours, &store.manifest, &progress) => ended?,
    }
    assert!(store.objects.size(&key(MANIFEST_FILE)).await?.is_none());
    let refused = upload_from(&store.objects, &other, &theirs, &|_, _| ()).await;
    let claim = match refused {
        Err(UploadError::Claimed(claim)) => claim,
        other => panic!("{other:?}"),
    };
    // The same bundle goes on, and lets go.
    store.upload().await?;
    store.fetch(&Stage::ALL).await?;
    assert!(store.objects.size(&claim).await?.is_none());
    let refused = upload_from(&store.objects, &other, &theirs, &|_, _| ()).await;
    assert!(matches!(refused, Err(UploadError::Other(_))));
    assert!(store.objects.size(&claim).await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_bundles_uploaded_to_one_prefix_at_once_one_is_there_whole() -> Result<()> {
    let store = BundleStore::empty()?;
    let (ours, other) = (
        store.dir.path().join("bundle"),
        store.dir.path().join("other"),
    );
    let theirs = RandomBundle::tiny(8).write(&other)?;
    for _ in 0..4 {
        let (one, two) = tokio::join!(
            upload_from(&store.objects, &ours, &store.manifest, &|_, _| ()),
            upload_from(&store.objects, &other, &theirs, &|_, _| ()),
        );
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        let winner = if one.is_ok() {
            &store.manifest
        } else {
            &theirs
        };
        let manifest = store.objects.get(&key(MANIFEST_FILE)).await?;
        assert_eq!(Manifest::parse(&manifest)?, *winner);
        for (file, entry) in &winner.files {
            let content = store.objects.get(&key(file.as_str())).await?;
            assert_eq!(ContentHash::of(&content), entry.sha256, "{file:?}");
            store.objects.delete(&key(file.as_str())).await?;
        }
        store.objects.delete(&key(MANIFEST_FILE)).await?;
    }
    Ok(())
}
