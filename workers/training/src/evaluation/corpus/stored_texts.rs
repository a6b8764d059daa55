//! Texts in a file that has no name and goes with the process.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Where a text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    offset: u64,
    length: u32,
}

/// Texts that are being stored.
pub struct TextStore {
    file: BufWriter<File>,
    length: u64,
}

/// Texts that are stored.
pub struct StoredTexts {
    file: File,
}

impl Span {
    /// The length of the text, in bytes.
    pub fn bytes(self) -> u32 {
        self.length
    }
}

impl TextStore {
    /// An empty store.
    ///
    /// # Errors
    /// No file can be created in the system's folder of temporary files.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile()?),
            length: 0,
        })
    }

    /// Stores a text.
    ///
    /// # Errors
    /// There is no room, or the text is over 4 GB.
    pub fn add(&mut self, text: &str) -> io::Result<Span> {
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        self.file.write_all(text.as_bytes())?;
        let span = Span {
            offset: self.length,
            length,
        };
        self.length += u64::from(length);
        Ok(span)
    }

    /// Lets the texts be read.
    ///
    /// # Errors
    /// There is no room.
    pub fn finish(self) -> io::Result<StoredTexts> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(StoredTexts { file })
    }
}

impl StoredTexts {
    /// Reads a text; from any thread.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, span: Span) -> io::Result<String> {
        let mut bytes = vec![0; span.length as usize];
        self.file.read_exact_at(&mut bytes, span.offset)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_in_any_order() {
        let mut store = TextStore::new().unwrap();
        let spans: Vec<Span> = ["Clear.", "", "Ödem."]
            .iter()
            .map(|text| store.add(text).unwrap())
            .collect();
        let texts = store.finish().unwrap();
        assert_eq!(texts.read(spans[2]).unwrap(), "Ödem.");
        assert_eq!(texts.read(spans[1]).unwrap(), "");
        assert_eq!(texts.read(spans[0]).unwrap(), "Clear.");
    }
}
