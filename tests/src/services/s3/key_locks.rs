//! One change of an object at a time. The store of files compares a version, writes the content and notes its version in
//! steps; S3 does all of it at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use s3s::{S3Result, s3_error};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// So many objects can be changed at a time; some that differ have to wait for each other.
const LOCKS: usize = 64;

/// Who reads or changes which object.
pub(super) struct KeyLocks(Vec<Arc<RwLock<()>>>);

impl Default for KeyLocks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Arc::default()).collect())
    }
}

impl KeyLocks {
    fn of(&self, bucket: &str, key: &str) -> Arc<RwLock<()>> {
        let mut hasher = DefaultHasher::new();
        (bucket, key).hash(&mut hasher);
        let place = hasher.finish() % LOCKS as u64;
        self.0[usize::try_from(place).unwrap_or_default()].clone()
    }

    /// Waits until nobody changes this object; nobody does so until what is given is dropped.
    pub(super) async fn reading(&self, bucket: &str, key: &str) -> OwnedRwLockReadGuard<()> {
        self.of(bucket, key).read_owned().await
    }

    /// Changes an object while nobody else reads or changes it, to the end, also where the client goes away.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        bucket: &str,
        key: &str,
        change: impl Future<Output = S3Result<T>> + Send + 'static,
    ) -> S3Result<T> {
        let alone = self.of(bucket, key).write_owned().await;
        let changing = tokio::spawn(async move {
            let _alone = alone;
            change.await
        });
        match changing.await {
            Ok(changed) => changed,
            Err(error) => Err(s3_error!(error, InternalError)),
        }
    }
}
