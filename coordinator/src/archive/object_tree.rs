//! An archive in a bucket: the same kinds, listed in pages.

use std::collections::VecDeque;
use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use radialog_runtime::objects::{ListCursor, ObjectError, ObjectPage, Objects};
use radialog_schemas::system_files::is_below_system_file;
use radialog_schemas::{ErrorCode, Failure, ObjectKey, RelativePath};
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
    url: String,
    page: VecDeque<Result<String, EntryProblem>>,
    /// Where the next page begins.
    next: Option<ListCursor>,
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
            url: self.url.clone(),
            page: VecDeque::new(),
            next: None,
            ended: false,
        })
    }

    fn image(&self, path: &str) -> Result<ImageSource, Failure> {
        let key = RelativePath::parse(path)
            .map_err(|invalid| invalid.to_string())
            .and_then(|path| {
                let key = self.key(path.as_str());
                key.ok_or_else(|| format!("'{path}' makes too long a key"))
            })
            .map_err(|reason| Failure::new(ErrorCode::ArchiveEntry, reason))?;
        Ok(ImageSource::Object {
            store: self.store.clone(),
            key,
        })
    }

    /// Tables are read whole: the contract of a store knows no ranges.
    async fn lines(&self, path: &str) -> io::Result<Box<dyn AsyncBufRead + Send + Unpin>> {
        let key = self.key(path).ok_or(io::ErrorKind::NotFound)?;
        let content = self.store.get(&key).await.map_err(|error| match error {
            ObjectError::NotFound(_) => io::Error::from(io::ErrorKind::NotFound),
            other => io::Error::other(other),
        })?;
        Ok(Box::new(Cursor::new(content)))
    }

    fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    fn folder_name(&self) -> Option<String> {
        let folder = self.prefix.trim_end_matches('/').rsplit('/').next();
        folder.filter(|name| !name.is_empty()).map(str::to_owned)
    }

    fn above(&self) -> Option<Arc<dyn FileTree>> {
        let name = self.folder_name()?;
        let up = |path: &str| path.strip_suffix(&name).map(str::to_owned);
        let prefix = up(self.prefix.trim_end_matches('/'))?;
        Some(Arc::new(Self::new(
            &up(&self.url)?,
            self.store.clone(),
            &prefix,
        )))
    }
}

#[async_trait]
impl PathWalk for ObjectPathWalk {
    async fn next(&mut self) -> Option<Result<String, EntryProblem>> {
        loop {
            if let Some(next) = self.page.pop_front() {
                return Some(next);
            }
            if self.ended {
                return None;
            }
            match self
                .store
                .list(&self.prefix, self.next.as_ref(), PAGE)
                .await
            {
                Ok(page) => self.take(page),
                Err(error @ ObjectError::Listing { .. }) => {
                    self.ended = true;
                    let message = format!("the rest of the archive is left out: {error}");
                    let place = format!("{}/{}", self.url, self.prefix[self.root..].escape_debug());
                    let code = ErrorCode::ArchiveUnreadable;
                    return Some(Err(EntryProblem::new(place, code, message)));
                }
                Err(error) => {
                    warn!(%error, "the archive cannot be listed; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl ObjectPathWalk {
    fn take(&mut self, page: ObjectPage) {
        let below = |name: &str| name.get(self.root..).unwrap_or(name).to_owned();
        let paths = page
            .entries
            .iter()
            .map(|entry| below(entry.key.as_str()))
            .filter(|path| !is_below_system_file(path))
            .map(Ok);
        // A name that ends with a slash is the marker of a folder.
        let lost = page
            .unusable
            .iter()
            .filter(|name| !name.ends_with('/') && !is_below_system_file(&below(name)));
        let problems = lost.map(|name| {
            let reason = match RelativePath::parse(name) {
                Err(invalid) => invalid.to_string(),
                Ok(_) => "its name cannot be read".into(),
            };
            let message = format!("{reason}; it is left out: rename it");
            Err(self.problem(&below(name), message))
        });
        let all: VecDeque<_> = paths.chain(problems).collect();
        self.page = all;
        self.next = page.next;
        self.ended = self.next.is_none();
    }

    fn problem(&self, path: &str, message: String) -> EntryProblem {
        let place = format!("{}/{}", self.url, path.escape_debug());
        EntryProblem::of_unusable_path(place, path, message)
    }
}
