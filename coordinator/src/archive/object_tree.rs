//! An archive in a bucket: the same kinds, listed in pages.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use radialog_runtime::objects::Objects;
use radialog_schemas::{ErrorCode, Failure, ObjectKey};
use tokio::io::AsyncBufRead;
use tracing::warn;

use super::entries::EntryProblem;
use super::file_tree::{FileTree, PathWalk};
use super::image::ImageSource;

/// Keys in one listing, the most that S3 gives.
const PAGE: usize = 1000;
/// Pause before a listing that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The objects under a prefix of a bucket, as a tree.
pub(super) struct ObjectTree {
    url: String,
    store: Arc<dyn Objects>,
    /// The prefix of all keys, empty or closed by `/`.
    prefix: String,
}

struct ObjectPathWalk {
    store: Arc<dyn Objects>,
    root: usize,
    prefix: String,
    page: std::vec::IntoIter<ObjectKey>,
    last: Option<ObjectKey>,
    ended: bool,
}

impl ObjectTree {
    pub(super) fn new(url: &str, store: Arc<dyn Objects>, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        Self {
            url: url.trim_end_matches('/').to_owned(),
            store,
            prefix,
        }
    }

    fn key(&self, path: &str) -> Option<ObjectKey> {
        ObjectKey::parse(&format!("{}{path}", self.prefix))
    }
}

#[async_trait]
impl FileTree for ObjectTree {
    fn walk(&self, under: &str) -> Box<dyn PathWalk> {
        Box::new(ObjectPathWalk {
            store: self.store.clone(),
            root: self.prefix.len(),
            prefix: format!("{}{under}", self.prefix),
            page: Vec::new().into_iter(),
            last: None,
            ended: false,
        })
    }

    fn image(&self, path: &str) -> Result<ImageSource, Failure> {
        let key = self.key(path).ok_or_else(|| {
            Failure::new(
                ErrorCode::ImageMissing,
                format!("'{path}' is not a path below the archive"),
            )
        })?;
        Ok(ImageSource::Object {
            store: self.store.clone(),
            key,
        })
    }

    /// Tables are read whole: the contract of a store knows no ranges.
    async fn lines(&self, path: &str) -> io::Result<Box<dyn AsyncBufRead + Send + Unpin>> {
        let key = self.key(path).ok_or(io::ErrorKind::NotFound)?;
        let content = self.store.get(&key).await.map_err(|error| match error {
            radialog_runtime::objects::ObjectError::NotFound(_) => {
                io::Error::from(io::ErrorKind::NotFound)
            }
            other => io::Error::other(other),
        })?;
        Ok(Box::new(Cursor::new(content)))
    }

    fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }
}

#[async_trait]
impl PathWalk for ObjectPathWalk {
    async fn next(&mut self) -> Option<Result<String, EntryProblem>> {
        loop {
            if let Some(key) = self.page.next() {
                return Some(Ok(key.as_str()[self.root..].to_owned()));
            }
            if self.ended {
                return None;
            }
            match self
                .store
                .list(&self.prefix, self.last.as_ref(), PAGE)
                .await
            {
                Ok(page) => {
                    self.ended = page.len() < PAGE;
                    self.last = page.last().map(|entry| entry.key.clone());
                    let keys: Vec<_> = page.into_iter().map(|entry| entry.key).collect();
                    self.page = keys.into_iter();
                }
                Err(error) => {
                    warn!(%error, "the archive cannot be listed; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
