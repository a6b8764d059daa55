//! Tables as PhysioNet ships them: compressed with gzip, read as if they were not.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::stream;
use radialog_schemas::table::gzip_fault;
use tokio::io::{AsyncBufRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::file_tree::FileTree;

/// The lines of a table, wherever it lies.
pub(super) type Lines = Box<dyn AsyncBufRead + Send + Unpin>;

/// In bytes, of what is inflated at a time.
const PART: usize = 1 << 16;
/// Parts that wait to be read.
const PARTS_AHEAD: usize = 4;

/// Opens a table of an archive; what ends with `.gz` is inflated meanwhile, on a thread of its own.
pub(super) async fn lines(tree: &dyn FileTree, path: &str) -> io::Result<Lines> {
    let lines = tree.lines(path).await?;
    let is_compressed = path.len() > 3 && path.to_ascii_lowercase().ends_with(".gz");
    Ok(if is_compressed {
        inflated(lines)
    } else {
        lines
    })
}

/// Lines that are waited for on a thread which may wait.
struct BlockingLines(Lines, Handle);

impl Read for BlockingLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.block_on(self.0.read(buffer))
    }
}

fn inflated(compressed: Lines) -> Lines {
    let (sender, mut parts) = mpsc::channel::<io::Result<Bytes>>(PARTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut content = MultiGzDecoder::new(BlockingLines(compressed, Handle::current()));
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = content.by_ref().take(PART as u64).read_to_end(&mut part);
            let last = !matches!(read, Ok(bytes) if bytes > 0);
            let part = read.map(|_| Bytes::from(part)).map_err(gzip_fault);
            // Whoever reads may have gone.
            if sender.blocking_send(part).is_err() || last {
                return;
            }
        }
    });
    Box::new(StreamReader::new(stream::poll_fn(move |context| {
        parts.poll_recv(context)
    })))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn what_is_compressed_is_read_whole_in_several_members_too() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let members = [compressed(&text), compressed(b"end")].concat();
        let mut read = Vec::new();
        let mut lines = inflated(Box::new(Cursor::new(members)));
        lines.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [text, b"end".to_vec()].concat());
    }

    #[tokio::test]
    async fn what_is_cut_or_not_compressed_is_an_error() {
        let mut cut = compressed(&[7; 100_000]);
        cut.truncate(cut.len() - 9);
        let trail = [compressed(b"dicom_id,split\n"), b"trail".to_vec()].concat();
        for content in [cut, b"dicom_id,split\n".to_vec(), trail] {
            let mut lines = inflated(Box::new(Cursor::new(content)));
            let read = lines.read_to_end(&mut Vec::new()).await;
            let error = read.unwrap_err().to_string();
            assert!(
                error.contains("gzip") && error.contains("compress it anew"),
                "{error}"
            );
        }
    }
}
