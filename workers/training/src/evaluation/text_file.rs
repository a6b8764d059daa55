//! Files of text that are no tables: which encoding they have, and a whole file as text.

use std::fs;
use std::path::Path;

use radialog_schemas::table::{NOT_UTF_8, is_utf_16};

use crate::error::TrainingError;

/// The mark that some programs write before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// What is wrong with a file that is UTF-16 and no table.
const UTF_16: &str = "it is UTF-16: save the file in UTF-8";

/// What to do about a line of `results.jsonl` that is no record, behind what is wrong with it.
pub const DAMAGED_RECORD: &str =
    "if the line is damaged, delete it, and run the batch again, which computes its study anew";

/// A line of a file without the mark that a file may begin with.
///
/// # Errors
/// What is wrong with the line's encoding, where it is no UTF-8.
pub fn utf_8(line: &[u8]) -> Result<&str, &'static str> {
    if is_utf_16(line.get(..2).unwrap_or_default()) {
        return Err(UTF_16);
    }
    let line = line.strip_prefix(MARK).unwrap_or(line);
    std::str::from_utf8(line).map_err(|_| NOT_UTF_8)
}

/// Reads a file that must be UTF-8.
///
/// # Errors
/// The file cannot be read; with the line, it is of another encoding.
pub fn read_text(path: &Path) -> Result<String, TrainingError> {
    let bytes = fs::read(path).map_err(TrainingError::io("read", path))?;
    if is_utf_16(bytes.get(..2).unwrap_or_default()) {
        return Err(TrainingError::line(path, 1, UTF_16));
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
        let error = read(b"\xff\xfeC\0").unwrap_err();
        assert!(error.contains("it is UTF-16: save the file"), "{error}");
        assert!(read(b"{\0}\0").unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn a_line_is_read_without_its_mark_and_its_encoding_is_named() {
        assert_eq!(utf_8(b"\xef\xbb\xbf{}\n"), Ok("{}\n"));
        assert_eq!(utf_8(b"\xff\xfe{\0}\0\n"), Err(UTF_16));
        assert_eq!(utf_8(b"{\0}\0\n"), Err(UTF_16));
        assert_eq!(utf_8(b"{\"a\": \"\xd6\"}"), Err(NOT_UTF_8));
        assert_eq!(utf_8(b""), Ok(""));
    }
}
