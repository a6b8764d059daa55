//! CSV tables as people and programs really write them: manifests, labels, reports. One definition of how columns are
//! found, which cells are missing, and what a label looks like, for every table that is read anywhere.
//!
//! Names of columns are found without regard to case and surrounding spaces, behind a byte order mark too. A cell is
//! missing where pandas would say so: empty, `nan`, `NA`, `N/A`, `None`, `NULL`, `<NA>` and the like. Quoting follows RFC 4180 strictly:
//! a lenient reader takes everything behind an unclosed quote for one field, to the end of the file; here only the
//! broken row is lost, and it is named with its line.
//!
//! The sides of a data set are known by each of their usual names, too ([`split_name`]).
//!
//! Cells stand between commas, or what else the header, or a line `sep=;` before it, shows.
//!
//! Cells that a spreadsheet would run as formulas are written with an apostrophe in front ([`escaped`]); every reader takes
//! it away.

use std::borrow::Cow;
use std::io;

mod formula;
mod header;
mod parser;
mod reader;
mod split;

pub use formula::{escaped, unescaped};
pub use header::{Header, MissingColumn, listed};
pub use parser::{LONGEST_ROW, MalformedRow, Row, RowParser};
pub use reader::{TableError, TableReader};
pub use split::split_name;

/// What programs write where they have no value: pandas' own list, letter for letter.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// What is wrong with a row, or a line of texts, of another encoding, as Latin-1.
pub const NOT_UTF_8: &str = "it is not UTF-8: save the file in UTF-8";

/// What files that are no tables begin with, no text of UTF-8 among them, and what is wrong with each. Short enough to be seen in
/// a first line: that of a PNG file ends after six bytes.
const NO_TABLES: [(&[u8], &str); 5] = [
    (
        b"PK\x03\x04",
        "it is a zip, or a workbook of a spreadsheet: save it as CSV",
    ),
    (
        b"\xd0\xcf\x11\xe0",
        "it is a workbook of a spreadsheet: save it as CSV",
    ),
    (
        b"\x1f\x8b",
        "it is compressed by gzip, or twice where its name ends with .gz: unpack it",
    ),
    (
        b"\xff\xd8\xff",
        "it is an image and no table: let its name end with .jpg",
    ),
    (
        b"\x89PNG",
        "it is an image and no table: let its name end with .png",
    ),
];

/// What is wrong with a table whose first line this is, perhaps without its end, where it is no text of UTF-8 or its kin.
pub fn no_text(line: &[u8]) -> Option<&'static str> {
    let kind = NO_TABLES
        .into_iter()
        .find(|(start, _)| line.starts_with(start));
    if let Some((_, reason)) = kind {
        return Some(reason);
    }
    if is_utf_16(line) {
        return Some("it is UTF-16 text (a spreadsheet's \"Unicode\"): save it as CSV in UTF-8");
    }
    let reason = "it has zero bytes, as no text has: save it as CSV in UTF-8";
    line.contains(&0).then_some(reason)
}

/// Whether a file that begins with these bytes is UTF-16: a mark shows it, or nine of ten in every other place are 0, as of Latin
/// letters, and those between are not.
pub fn is_utf_16(bytes: &[u8]) -> bool {
    let is_mostly_zero = |first: usize| {
        let places = bytes.iter().skip(first).step_by(2);
        let zeros = places.clone().filter(|byte| **byte == 0).count();
        zeros > 0 && zeros * 10 >= places.count() * 9
    };
    bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || is_mostly_zero(0) != is_mostly_zero(1)
}

/// The error of a file whose gzip cannot be read on, with what to do; that of a disk stays as it is.
pub fn gzip_fault(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ (io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof) => {
            let reason = format!(
                "it is no whole gzip file, or something stands behind its end ({error}): fetch it or compress it anew"
            );
            io::Error::new(kind, reason)
        }
        _ => error,
    }
}

/// A column's name for a loose comparison: letters and digits alone, in lower case.
pub fn plain_name(name: &str) -> String {
    let letters = name.chars().filter(|letter| letter.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// A path of a cell with slashes between its folders, where it has none and the backslashes of Windows.
pub fn with_slashes(path: &str) -> Cow<'_, str> {
    match path.contains('\\') && !path.contains('/') {
        true => path.replace('\\', "/").into(),
        false => path.into(),
    }
}

/// A cell without surrounding white space; `None` where it is missing.
pub fn cell(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !MISSING.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_called_what_it_is() {
        let utf_16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(bytes).collect()
        };
        let (little, big) = (u16::to_le_bytes, u16::to_be_bytes);
        for (line, words) in [
            (utf_16("study_id,größe\u{2013}x", little), "UTF-16"),
            (utf_16("study_id,größe", big), "UTF-16"),
            (utf_16("\u{feff}編號,圖像", little), "UTF-16"),
            (utf_16("\u{feff}編號,圖像", big), "UTF-16"),
            (b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0".into(), "a zip"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0".into(), "a workbook"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".into(), "gzip"),
            (b"\x1f\x8b\x08\x08t\n".into(), "gzip"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0".into(), "an image"),
            (b"\x89PNG\r\n".into(), "an image"),
            (vec![0; 128], "zero bytes"),
            (b"study_id,\0image".into(), "zero bytes"),
        ] {
            let reason = no_text(&line).unwrap_or_default();
            assert!(reason.contains(words), "{words}: {reason}");
        }
        for line in ["", "a", "BMI,image", "PK,id", "\u{feff}größe\r\n"] {
            assert_eq!(no_text(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn gzip_at_fault_is_told_with_what_to_do_and_a_disk_as_it_is() {
        let cut = gzip_fault(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        assert!(cut.to_string().contains("compress it anew"), "{cut}");
        let disk = gzip_fault(io::Error::other("lost"));
        assert_eq!(disk.to_string(), "lost");
    }
}
