//! Where an image is, and how its bytes get into memory without trusting its size.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::image_format::SIGNATURE_BYTES;
use radialog_schemas::{ErrorCode, Failure, ImageFormat, ObjectKey};

use super::file_place::FilePlace;

/// Formats that people keep X-rays in and that the models do not read.
const UNSUPPORTED: [&str; 12] = [
    "gif", "bmp", "dcm", "dicom", "tif", "tiff", "webp", "jp2", "j2k", "heic", "avif", "nii",
];

/// The place where an image is.
#[derive(Clone)]
pub enum ImageSource {
    /// A local file.
    File(FilePlace),
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

impl From<ObjectError> for ImageReadError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Refused { .. } => Self::Study(error.into()),
            error => Self::Store(error),
        }
    }
}

/// The kind of a file, as its suffix promises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// PNG or JPEG.
    Image,
    /// An image of another format.
    Unsupported,
    /// Text, a table, a page.
    Document,
    /// Only its first bytes can tell.
    Unknown,
}

/// Suffixes of PNG and of JPEG, browsers' and old Windows' among them.
const IMAGES: [&str; 7] = ["png", "jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp"];
/// Suffixes of files that lie beside images and are none, so that a large tree of reports is not opened to learn that.
const DOCUMENTS: [&str; 16] = [
    "txt", "csv", "tsv", "json", "jsonl", "xml", "html", "htm", "md", "pdf", "log", "yaml", "yml",
    "xls", "xlsx", "docx",
];

impl FileKind {
    pub(super) fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let suffix = name
            .rsplit_once('.')
            .map_or("", |(_, suffix)| suffix)
            .to_ascii_lowercase();
        match suffix.as_str() {
            image if IMAGES.contains(&image) => Self::Image,
            other if UNSUPPORTED.contains(&other) => Self::Unsupported,
            "gz" if name.len() > 7 && name.to_ascii_lowercase().ends_with(".csv.gz") => {
                Self::Document
            }
            text if DOCUMENTS.contains(&text) => Self::Document,
            _ => Self::Unknown,
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
            Self::File(place) => Ok(metadata(place, file).await?.len()),
            Self::Object { store, key } => {
                let size = store.size(key).await?;
                size.ok_or_else(|| missing(file).into())
            }
            Self::Inline(content) => Ok(content.len() as u64),
        }
    }

    /// Looks up what tells the file from another one in its place, without reading it: size, times and inode, or the version
    /// of an object. None where that is not known; whoever wants to know must read it then.
    ///
    /// # Errors
    /// As [`ImageSource::read`].
    pub(crate) async fn stamp(&self, file: &str) -> Result<Option<String>, ImageReadError> {
        match self {
            Self::File(place) => Ok(Some(stamp(&metadata(place, file).await?))),
            Self::Object { store, key } => match store.version(key).await {
                Ok(Some(version)) => Ok(Some(version.to_string())),
                Ok(None) => Err(missing(file).into()),
                // A store that tells no versions.
                Err(_) => Ok(None),
            },
            Self::Inline(_) => Ok(None),
        }
    }

    /// Reads as many first bytes as tell what the file is.
    ///
    /// # Errors
    /// As [`ImageSource::read`], but for what the bytes are.
    pub(super) async fn start(&self, file: &str) -> Result<Bytes, ImageReadError> {
        match self {
            Self::File(place) => {
                let (place, name) = (place.clone(), file.to_owned());
                Ok(on_disk(file, move || file_start(&place, &name)).await?)
            }
            Self::Object { store, key } => {
                match store.get_range(key, 0..SIGNATURE_BYTES as u64).await {
                    Err(ObjectError::NotFound(_)) => Err(missing(file).into()),
                    start => Ok(start?),
                }
            }
            Self::Inline(content) => Ok(content.slice(..content.len().min(SIGNATURE_BYTES))),
        }
    }

    /// Reads the whole file. What does not begin as a PNG or JPEG file does is no image, whatever a table or its name says,
    /// and is not read on.
    ///
    /// # Errors
    /// `image_missing`, `image_empty`, `image_too_large` (over `limit` bytes), `image_unreadable`,
    /// `image_format_unsupported`, `archive_entry` (a file outside of the archive), or the store's.
    pub async fn read(&self, file: &str, limit: u64) -> Result<Bytes, ImageReadError> {
        let size = self.size(file).await?;
        if size > limit {
            return Err(too_large(file, limit).into());
        }
        let content = match self {
            Self::File(place) => {
                let (place, name) = (place.clone(), file.to_owned());
                on_disk(file, move || read_file(&place, &name, limit)).await?
            }
            Self::Object { store, key } => match store.get(key).await {
                Ok(content) => {
                    check_start(file, &content)?;
                    content
                }
                Err(ObjectError::NotFound(_)) => return Err(missing(file).into()),
                Err(error) => return Err(error.into()),
            },
            // Texts are inline, too; whoever makes them knows what they are.
            Self::Inline(content) if content.is_empty() => return Err(empty(file).into()),
            Self::Inline(content) => content.clone(),
        };
        Ok(content)
    }
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(place) => f.debug_tuple("File").field(place).finish(),
            Self::Object { key, .. } => f.debug_tuple("Object").field(key).finish(),
            Self::Inline(content) => f.debug_tuple("Inline").field(&content.len()).finish(),
        }
    }
}

async fn on_disk<T: Send + 'static>(
    file: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(unreadable(file, panic)))
}

/// What the file system says of an image's file.
async fn metadata(place: &FilePlace, file: &str) -> Result<Metadata, Failure> {
    let (place, name) = (place.clone(), file.to_owned());
    let looking = move || {
        let path = inside(&place, &name)?;
        path.metadata().map_err(|error| io_failure(&name, &error))
    };
    on_disk(file, looking).await
}

/// Size, times of content and inode, and inode of a file: one of them differs where another one has taken its place.
fn stamp(file: &Metadata) -> String {
    format!(
        "{} bytes, modified {}.{:09}, changed {}.{:09}, inode {}",
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
        file.ino()
    )
}

/// The path of the file itself, where the archive may name it.
fn inside(place: &FilePlace, name: &str) -> Result<PathBuf, Failure> {
    let path = place.resolve().map_err(|error| io_failure(name, &error))?;
    path.ok_or_else(|| outside(name))
}

/// Says why a study fails whose image lies outside of its archive.
pub(super) fn outside(file: &str) -> Failure {
    let message = format!(
        "'{}' lies outside of the archive, by its path or by a link; if that is meant, give --allow-outside",
        file.escape_debug()
    );
    Failure::new(ErrorCode::ArchiveEntry, message)
}

/// Checks what a file is by its first bytes.
fn check_start(file: &str, start: &[u8]) -> Result<(), Failure> {
    if start.is_empty() {
        return Err(empty(file));
    }
    ImageFormat::of(start).map(drop).map_err(|what| {
        let message =
            format!("'{file}' is {what}, whatever its name says; convert it to PNG or JPEG");
        Failure::new(ErrorCode::ImageFormatUnsupported, message)
    })
}

/// Opens a file that the archive may name, and looks up its size.
fn open(place: &FilePlace, name: &str) -> Result<(File, u64), Failure> {
    let path = inside(place, name)?;
    let metadata = path.metadata().map_err(|error| io_failure(name, &error))?;
    // Opening a pipe or a device could wait for ever.
    if !metadata.is_file() {
        return Err(unreadable(name, "it is not a regular file"));
    }
    let file = File::open(path).map_err(|error| io_failure(name, &error))?;
    Ok((file, metadata.len()))
}

fn file_start(place: &FilePlace, name: &str) -> Result<Bytes, Failure> {
    let (file, _) = open(place, name)?;
    let mut start = Vec::with_capacity(SIGNATURE_BYTES);
    let mut bytes = file.take(SIGNATURE_BYTES as u64);
    bytes
        .read_to_end(&mut start)
        .map_err(|error| io_failure(name, &error))?;
    Ok(start.into())
}

fn read_file(place: &FilePlace, name: &str, limit: u64) -> Result<Bytes, Failure> {
    let (mut file, size) = open(place, name)?;
    let mut content = Vec::with_capacity(size.min(limit) as usize + 1);
    let mut append = |content: &mut Vec<u8>, bytes: u64| {
        let read = (&mut file).take(bytes).read_to_end(content);
        read.map_err(|error| io_failure(name, &error))
    };
    append(&mut content, SIGNATURE_BYTES as u64)?;
    check_start(name, &content)?;
    // The file may have grown since its size was taken.
    append(&mut content, limit + 1)?;
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

fn empty(file: &str) -> Failure {
    Failure::new(ErrorCode::ImageEmpty, format!("'{file}' has no bytes"))
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
        format!(
            "'{file}' is larger than the limit of {limit} bytes: compress it, or raise --max-image-size of radialog batch"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::file_place::OutsideFiles;
    use super::*;

    async fn code(source: ImageSource, limit: u64) -> ErrorCode {
        match source.read("x.png", limit).await {
            Err(ImageReadError::Study(failure)) => {
                assert!(failure.message.contains("x.png"), "{failure}");
                let names_limit = failure.message.contains("--max-image-size");
                let is_too_large = failure.code == ErrorCode::ImageTooLarge;
                assert_eq!(names_limit, is_too_large, "{failure}");
                failure.code
            }
            other => panic!("{other:?}"),
        }
    }

    fn png(length: usize) -> Vec<u8> {
        let mut content = ImageFormat::Png.signature().to_vec();
        content.resize(length, 0);
        content
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_has_a_code_and_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("empty.png"), b"").unwrap();
        std::fs::write(path("large.png"), png(211)).unwrap();
        std::fs::write(path("text.png"), b"PASSWORD=secret").unwrap();
        std::fs::create_dir(path("folder.png")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling.png")).unwrap();
        let file = |name| {
            let place = FilePlace::new(path(name), dir.path(), OutsideFiles::Refused);
            ImageSource::File(place)
        };
        for (name, limit, expected) in [
            ("empty.png", 210, ErrorCode::ImageEmpty),
            ("large.png", 210, ErrorCode::ImageTooLarge),
            ("text.png", 210, ErrorCode::ImageFormatUnsupported),
            ("folder.png", 1 << 20, ErrorCode::ImageUnreadable),
            ("dangling.png", 210, ErrorCode::ImageMissing),
        ] {
            assert_eq!(code(file(name), limit).await, expected, "{name}");
        }
        let whole = file("large.png").read("x.png", 211).await.unwrap();
        assert_eq!(whole, png(211));
    }

    #[tokio::test]
    async fn a_link_that_leads_outside_is_followed_only_where_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("archive");
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(dir.path().join("archive-2")).unwrap();
        for name in ["archive/1.png", "archive-2/2.png"] {
            std::fs::write(dir.path().join(name), png(20)).unwrap();
        }
        std::os::unix::fs::symlink("1.png", root.join("inside.png")).unwrap();
        std::os::unix::fs::symlink("../archive-2/2.png", root.join("file.png")).unwrap();
        std::os::unix::fs::symlink("../archive-2", root.join("folder")).unwrap();
        let source = |name: &str, outside| {
            ImageSource::File(FilePlace::new(root.join(name), &root, outside))
        };
        for name in ["file.png", "folder/2.png", "../archive-2/2.png"] {
            let refused = source(name, OutsideFiles::Refused);
            assert_eq!(code(refused, 100).await, ErrorCode::ArchiveEntry, "{name}");
            let allowed = source(name, OutsideFiles::Allowed);
            assert!(allowed.read("x.png", 100).await.is_ok(), "{name}");
        }
        let inside = source("inside.png", OutsideFiles::Refused);
        assert!(inside.read("x.png", 100).await.is_ok());
    }

    #[test]
    fn suffixes_are_told_apart_in_any_case() {
        assert_eq!(FileKind::of("a/b.PNG"), FileKind::Image);
        assert_eq!(FileKind::of("a.b/c.Jpeg"), FileKind::Image);
        assert_eq!(FileKind::of("a/b.DCM"), FileKind::Unsupported);
        assert_eq!(FileKind::of("a/b.JFIF"), FileKind::Image);
        assert_eq!(FileKind::of("a/b.pjp"), FileKind::Image);
        assert_eq!(FileKind::of("a/b.csv.GZ"), FileKind::Document);
        assert_eq!(FileKind::of("a/b.md"), FileKind::Document);
        assert_eq!(FileKind::of("a.png/b"), FileKind::Unknown);
        assert_eq!(FileKind::of("png"), FileKind::Unknown);
        assert_eq!(FileKind::of("a/image.1"), FileKind::Unknown);
    }
}
