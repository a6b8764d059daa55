//! A whole file as text.

use std::fs;
use std::path::Path;

use radialog_schemas::table::{NOT_UTF_8, utf_16};

use crate::error::TrainingError;

/// Reads a file that must be UTF-8.
///
/// # Errors
/// The file cannot be read; with the line, it is of another encoding.
pub fn read_text(path: &Path) -> Result<String, TrainingError> {
    let bytes = fs::read(path).map_err(TrainingError::io("read", path))?;
    if let Some(reason) = utf_16(bytes.get(..2).unwrap_or_default()) {
        return Err(TrainingError::line(path, 1, reason));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        TrainingError::line(path, line as u64, NOT_UTF_8)
    })?;
    // A byte order mark is no part of the text.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_another_encoding_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s1.txt");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_text(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbfClear.").as_deref(), Ok("Clear."));
        let error = read(b"Clear.\n\xd6dem.").unwrap_err();
        assert!(error.contains("line 2: it is not UTF-8"), "{error}");
        assert!(read(b"\xff\xfeC\0").unwrap_err().contains("UTF-16"));
        assert!(read(b"{\0}\0").unwrap_err().contains("UTF-16"));
    }
}
