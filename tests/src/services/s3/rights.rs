//! What the key may do in which bucket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// The operations that are refused in each bucket; in every other one the key may do everything.
#[derive(Clone, Default)]
pub(super) struct Rights(Arc<Mutex<HashMap<String, Vec<&'static str>>>>);

impl Rights {
    pub(super) fn refuse(&self, bucket: &str, operations: &[&'static str]) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(bucket.to_owned(), operations.to_vec());
    }
}

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = request.s3_path().get_bucket_name();
        let refused = bucket.and_then(|bucket| refused.get(bucket));
        match refused.is_some_and(|refused| refused.contains(&request.s3_op().name())) {
            true => Err(s3_error!(AccessDenied, "Access Denied")),
            false => Ok(()),
        }
    }
}
