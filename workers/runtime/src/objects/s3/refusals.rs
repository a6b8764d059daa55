//! What a refusal (403) is about: a policy may deny one object of many, which never changes by waiting, and a store whose keys
//! are being exchanged refuses everything for a while. A refused object is told from a refusing store by asking, with the same
//! right, for what does not exist in the object's folder and in those above it.

use std::time::Duration;

use aws_sdk_s3::error::SdkError;
use radialog_schemas::ObjectKey;

use super::{RIGHTS, S3Objects, is_refused};
use crate::backoff::Backoff;
use crate::objects::{NO_VERSION, ObjectError};

/// How often an object is asked for that the store refuses while it answers for others: rights may just have changed.
const ATTEMPTS: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));

/// What is refused.
#[derive(Clone, Copy)]
pub(super) enum Right {
    Read,
    Write,
}

/// The error of a store that refuses everything, which may change.
pub(super) fn of_all(key: String, reason: &str) -> ObjectError {
    ObjectError::Store {
        key,
        reason: format!(
            "{reason}; check s3.access_key_id and s3.secret_access_key (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY): that key \
             must be allowed to read, write, list and delete in the bucket"
        ),
    }
}

impl S3Objects {
    /// Repeats what the store refuses, a few times where it does not refuse others.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] where it stays refused alone, and [`ObjectError::Store`] where others are, too.
    pub(super) async fn unless_refused<T, F>(
        &self,
        key: &ObjectKey,
        right: Right,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, ObjectError>>,
    {
        let (mut backoff, mut attempts) = (BACKOFF, 0);
        loop {
            let (path, reason) = match attempt().await {
                Err(ObjectError::Refused { key, reason }) => (key, reason),
                answer => return answer,
            };
            if !self.answers_beside(key, right).await {
                return Err(of_all(path, &reason));
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                return Err(ObjectError::Refused {
                    key: path,
                    reason: format!(
                        "{reason}; a policy of the bucket denies it: allow the key in AWS_ACCESS_KEY_ID (s3.access_key_id) to read \
                         and write it, or leave it out"
                    ),
                });
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// The error of a refused listing of what lies under a prefix: of that alone where the store answers for its bucket.
    pub(super) async fn refused_listing(&self, prefix: String, reason: &str) -> ObjectError {
        let head = self.client.head_bucket().bucket(&self.bucket).send().await;
        if !is_answered(head.as_ref().err()) {
            return of_all(prefix, reason);
        }
        ObjectError::Refused {
            key: prefix,
            reason: format!(
                "{reason}; allow the key in AWS_ACCESS_KEY_ID (s3.access_key_id) to list and read what lies there"
            ),
        }
    }

    /// Whether the store grants this right to others, of the same folder or of one above it.
    async fn answers_beside(&self, key: &ObjectKey, right: Right) -> bool {
        let mut folder = key.as_str();
        loop {
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            let separator = if folder.is_empty() { "" } else { "/" };
            let path = format!("{}{folder}{separator}{RIGHTS}", self.prefix);
            if self.is_granted(&path, right).await {
                return true;
            }
            if folder.is_empty() {
                return false;
            }
        }
    }

    /// Whether the store answers where nothing is, and does not refuse.
    async fn is_granted(&self, path: &str, right: Right) -> bool {
        match right {
            Right::Read => {
                let get = self.client.get_object().bucket(&self.bucket).key(path);
                is_answered(get.send().await.as_ref().err())
            }
            Right::Write => {
                let put = self.client.put_object().bucket(&self.bucket).key(path);
                let put = put.if_match(NO_VERSION).send().await;
                if put.is_ok() {
                    // A store that does not know conditions has stored it; one that cannot be removed is an empty object.
                    let delete = self.client.delete_object().bucket(&self.bucket).key(path);
                    drop(delete.send().await);
                }
                is_answered(put.as_ref().err())
            }
        }
    }
}

/// Whether the store said something else than that it refuses, or that it is in trouble.
fn is_answered<E>(error: Option<&SdkError<E>>) -> bool {
    let Some(error) = error else { return true };
    // 501: it does not know conditions, which it looks at after the rights.
    let status = super::status(error);
    let is_answer = |status: u16| status == 501 || status < 500 && status != 429;
    !is_refused(error) && status.is_some_and(is_answer)
}
