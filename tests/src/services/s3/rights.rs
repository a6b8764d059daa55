//! What the key may do in which bucket.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// What is refused in each bucket; in every other one the key may do everything.
#[derive(Clone, Default)]
pub(super) struct Rights(Arc<Mutex<HashMap<String, Refused>>>);

/// What is refused in one bucket.
#[derive(Default)]
struct Refused {
    operations: Vec<&'static str>,
    /// Objects that nobody may read or write.
    objects: HashSet<String>,
    /// How many requests were refused.
    requests: usize,
}

impl Rights {
    pub(super) fn refuse(&self, bucket: &str, operations: &[&'static str]) {
        self.buckets()
            .entry(bucket.to_owned())
            .or_default()
            .operations = operations.to_vec();
    }

    pub(super) fn refuse_object(&self, bucket: &str, key: &str) {
        let mut buckets = self.buckets();
        let refused = buckets.entry(bucket.to_owned()).or_default();
        refused.objects.insert(key.to_owned());
    }

    pub(super) fn refusals(&self, bucket: &str) -> usize {
        let buckets = self.buckets();
        buckets.get(bucket).map_or(0, |refused| refused.requests)
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<String, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let mut buckets = self.buckets();
        let bucket = request.s3_path().get_bucket_name();
        let Some(refused) = bucket.and_then(|bucket| buckets.get_mut(bucket)) else {
            return Ok(());
        };
        let object = request.s3_path().get_object_key();
        let is_refused = refused.operations.contains(&request.s3_op().name())
            || object.is_some_and(|object| refused.objects.contains(object));
        if is_refused {
            refused.requests += 1;
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(())
    }
}
