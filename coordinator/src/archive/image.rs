//! Where an image is, and how its bytes get into memory without trusting its size.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ErrorCode, Failure, ObjectKey};

/// Formats that people keep X-rays in and that the models do not read.
const UNSUPPORTED: [&str; 12] = [
    "gif", "bmp", "dcm", "dicom", "tif", "tiff", "webp", "jp2", "j2k", "heic", "avif", "nii",
];

/// The place where an image is.
#[derive(Clone)]
pub enum ImageSource {
    /// A local file.
    File(PathBuf),
    /// An object of the archive's bucket.
    Object {
        /// The bucket.
        store: Arc<dyn Objects>,
        /// The key of the object.
        key: ObjectKey,
    },
    /// The bytes themselves, e.g. of a synthetic archive.
    Inline(Bytes),
}

/// The reason why an image was not read.
#[derive(Debug, thiserror::Error)]
pub enum ImageReadError {
    /// The image can never be read.
    #[error(transparent)]
    Study(#[from] Failure),
    /// The archive's store does not answer; may work later.
    #[error(transparent)]
    Store(ObjectError),
}

/// The kind of a file, as its suffix promises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Image,
    Unsupported,
    Other,
}

impl FileKind {
    pub(super) fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let suffix = name
            .rsplit_once('.')
            .map_or("", |(_, suffix)| suffix)
            .to_ascii_lowercase();
        match suffix.as_str() {
            "png" | "jpg" | "jpeg" => Self::Image,
            other if UNSUPPORTED.contains(&other) => Self::Unsupported,
            _ => Self::Other,
        }
    }
}

/// Says why a study fails whose image is of [`FileKind::Unsupported`].
pub(super) fn unsupported(path: &str) -> Failure {
    Failure::new(
        ErrorCode::ImageFormatUnsupported,
        format!("'{path}' is neither PNG nor JPEG; convert it"),
    )
}

impl ImageSource {
    /// Looks up the size in bytes; `file` is the image's name in messages.
    ///
    /// # Errors
    /// As [`ImageSource::read`].
    pub async fn size(&self, file: &str) -> Result<u64, ImageReadError> {
        match self {
            Self::File(path) => {
                let metadata = tokio::fs::metadata(path)
                    .await
                    .map_err(|error| io_failure(file, &error))?;
                Ok(metadata.len())
            }
            Self::Object { store, key } => {
                let size = store.size(key).await.map_err(ImageReadError::Store)?;
                size.ok_or_else(|| missing(file).into())
            }
            Self::Inline(content) => Ok(content.len() as u64),
        }
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// `image_missing`, `image_empty`, `image_too_large` (over `limit` bytes), `image_unreadable`, or the store's.
    pub async fn read(&self, file: &str, limit: u64) -> Result<Bytes, ImageReadError> {
        let size = self.size(file).await?;
        if size > limit {
            return Err(too_large(file, limit).into());
        }
        let content = match self {
            Self::File(path) => {
                let (path, name) = (path.clone(), file.to_owned());
                let reading = tokio::task::spawn_blocking(move || read_file(&path, &name, limit));
                reading
                    .await
                    .unwrap_or_else(|panic| Err(unreadable(file, panic)))?
            }
            Self::Object { store, key } => match store.get(key).await {
                Ok(content) => content,
                Err(ObjectError::NotFound(_)) => return Err(missing(file).into()),
                Err(error) => return Err(ImageReadError::Store(error)),
            },
            Self::Inline(content) => content.clone(),
        };
        if content.is_empty() {
            return Err(
                Failure::new(ErrorCode::ImageEmpty, format!("'{file}' has no bytes")).into(),
            );
        }
        Ok(content)
    }
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Object { key, .. } => f.debug_tuple("Object").field(key).finish(),
            Self::Inline(content) => f.debug_tuple("Inline").field(&content.len()).finish(),
        }
    }
}

fn read_file(path: &Path, name: &str, limit: u64) -> Result<Bytes, Failure> {
    let metadata = path.metadata().map_err(|error| io_failure(name, &error))?;
    // Opening a pipe or a device could wait for ever.
    if !metadata.is_file() {
        return Err(unreadable(name, "it is not a regular file"));
    }
    let file = File::open(path).map_err(|error| io_failure(name, &error))?;
    let mut content = Vec::with_capacity(metadata.len().min(limit) as usize + 1);
    // The file may have grown since its size was taken.
    file.take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|error| io_failure(name, &error))?;
    if content.len() as u64 > limit {
        return Err(too_large(name, limit));
    }
    Ok(content.into())
}

fn io_failure(file: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => missing(file),
        _ => unreadable(file, error),
    }
}

fn missing(file: &str) -> Failure {
    Failure::new(ErrorCode::ImageMissing, format!("there is no '{file}'"))
}

fn unreadable(file: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(
        ErrorCode::ImageUnreadable,
        format!("'{file}' cannot be read: {reason}"),
    )
}

fn too_large(file: &str, limit: u64) -> Failure {
    Failure::new(
        ErrorCode::ImageTooLarge,
        format!("'{file}' is larger than the limit of {limit} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code(source: ImageSource, limit: u64) -> ErrorCode {
        match source.read("x.png", limit).await {
            Err(ImageReadError::Study(failure)) => {
                assert!(failure.message.contains("x.png"), "{failure}");
                failure.code
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_has_a_code_and_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("empty.png"), b"").unwrap();
        std::fs::write(path("large.png"), [0; 11]).unwrap();
        std::fs::create_dir(path("folder.png")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling.png")).unwrap();
        let file = |name| ImageSource::File(path(name));
        assert_eq!(code(file("empty.png"), 10).await, ErrorCode::ImageEmpty);
        assert_eq!(code(file("large.png"), 10).await, ErrorCode::ImageTooLarge);
        assert_eq!(
            code(file("folder.png"), 1 << 20).await,
            ErrorCode::ImageUnreadable
        );
        assert_eq!(
            code(file("dangling.png"), 10).await,
            ErrorCode::ImageMissing
        );
        assert_eq!(file("large.png").read("x.png", 11).await.unwrap().len(), 11);
    }

    #[test]
    fn suffixes_are_told_apart_in_any_case() {
        assert_eq!(FileKind::of("a/b.PNG"), FileKind::Image);
        assert_eq!(FileKind::of("a.b/c.Jpeg"), FileKind::Image);
        assert_eq!(FileKind::of("a/b.DCM"), FileKind::Unsupported);
        assert_eq!(FileKind::of("a.png/b"), FileKind::Other);
        assert_eq!(FileKind::of("png"), FileKind::Other);
    }
}
