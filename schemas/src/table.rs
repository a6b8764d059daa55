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

mod formula;
mod header;
mod parser;
mod reader;
mod split;

pub use formula::{escaped, unescaped};
pub use header::{Header, MissingColumn};
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

/// What is wrong with a table that begins with these bytes, where it is UTF-16.
pub fn utf_16(bytes: &[u8]) -> Option<&'static str> {
    let reason = "it is UTF-16 text (a spreadsheet's \"Unicode\"): save it as CSV in UTF-8";
    is_utf_16(bytes).then_some(reason)
}

/// Whether a file that begins with these bytes is UTF-16: every other one is 0, or a mark shows it.
pub fn is_utf_16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.contains(&0)
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
