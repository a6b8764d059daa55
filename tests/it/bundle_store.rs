//! A bundle in an object store is downloaded once and checked.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use bytes::Bytes;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_runtime::objects::Objects;
use radialog_runtime::objects::filesystem::FilesystemObjects;
use radialog_schemas::bundle::MANIFEST_FILE;
use radialog_schemas::{Manifest, ObjectKey, RelativePath, Stage};
use radialog_workers::bundle_cache::{FetchError, fetch_bundle};
use tempfile::TempDir;

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
        let dir = tempfile::tempdir()?;
        let manifest = RandomBundle::tiny(7).write(&dir.path().join("bundle"))?;
        let objects = FilesystemObjects::open(dir.path().join("objects"))?;
        for file in manifest
            .files
            .keys()
            .map(RelativePath::as_str)
            .chain([MANIFEST_FILE])
        {
            let content = fs::read(dir.path().join("bundle").join(file))?;
            objects.put(&key(file), content.into()).await?;
        }
        let hashes = HashCache::at(dir.path().join("hashes.json"));
        Ok(Self {
            dir,
            objects,
            hashes,
            manifest,
        })
    }

    async fn fetch(&self, stages: &[Stage]) -> Result<PathBuf, FetchError> {
        fetch_bundle(
            &self.objects,
            "bundles/tiny/",
            &self.dir.path().join("cache"),
            stages,
            &self.hashes,
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
            matches!(&error, FetchError::Manifest { reason, .. } if reason.contains("not a path below")),
            "{name}: {error}"
        );
        assert!(
            !victim.exists() && !store.dir.path().join("cache").exists(),
            "{name}"
        );
    }
    Ok(())
}
