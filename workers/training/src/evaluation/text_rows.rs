//! Files of texts: CSV without a header, one text a row, read row by row.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use csv::{Reader, ReaderBuilder, StringRecord};
use radialog_schemas::table::{NOT_UTF_8, no_text};

/// Names of columns, in lower case: a first row of these alone is a header.
const NAMES: [&str; 25] = [
    "caption",
    "dicom_id",
    "findings",
    "generated",
    "generated_report",
    "hypotheses",
    "hypothesis",
    "id",
    "image",
    "image_id",
    "impression",
    "model_prediction",
    "prediction",
    "predictions",
    "reference",
    "references",
    "report",
    "report impression",
    "reports",
    "section_findings",
    "study",
    "study_id",
    "subject_id",
    "text",
    "texts",
];

/// The texts of a file with the lines where they begin.
///
/// A row is refused where it has more than one cell (a comma outside of quotes), the first one where it is a header, and a line
/// where it is blank: a reader of CSV passes over it, and every later text would stand beside another one's reference. A file that
/// is not UTF-8 is refused, too. Nothing is read behind an error.
pub struct TextRows {
    reader: Reader<BufReader<File>>,
    record: StringRecord,
    is_over: bool,
}

impl TextRows {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened, is UTF-16, or no text.
    pub fn open(file: &Path) -> csv::Result<Self> {
        // Not read twice: it may be a pipe.
        let mut file = BufReader::new(File::open(file)?);
        let first = file.fill_buf()?.split(|byte| *byte == b'\n').next();
        if let Some(reason) = first.and_then(no_text) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason).into());
        }
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(file);
        Ok(Self {
            reader,
            record: StringRecord::new(),
            is_over: false,
        })
    }

    fn read(&mut self) -> csv::Result<Option<(u64, String)>> {
        let position = self.reader.position();
        let (line, is_first) = (position.line(), position.record() == 0);
        match self.reader.read_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                return Err(refused(line, &format!("cannot be read: {NOT_UTF_8}")));
            }
            Err(error) => return Err(error),
        }
        if is_first && is_header(&self.record) {
            let names: Vec<&str> = self.record.iter().map(str::trim).collect();
            let names = names.join(",");
            return Err(refused(
                line,
                &format!("is the header '{names}': take it away, and give texts alone, one a row"),
            ));
        }
        let mut cells = self.record.iter();
        let (Some(text), None) = (cells.next(), cells.next()) else {
            return Err(refused(
                line,
                "has more than one cell: put the text in quotes",
            ));
        };
        let taken = self.reader.position().line() - line;
        if taken > text.matches('\n').count() as u64 + 1 {
            return Err(refused(line, "is blank: write \"\" for an empty text"));
        }
        Ok(Some((line, text.to_owned())))
    }
}

impl Iterator for TextRows {
    type Item = csv::Result<(u64, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let row = self.read().transpose();
        self.is_over = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Whether all cells are names of columns; pandas writes its index without one.
fn is_header(row: &StringRecord) -> bool {
    let is_name = |cell: &str| NAMES.contains(&cell.trim().to_lowercase().as_str());
    row.iter().any(is_name)
        && row
            .iter()
            .all(|cell| cell.trim().is_empty() || is_name(cell))
}

fn refused(line: u64, reason: &str) -> csv::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line} {reason}")).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::TextRows;

    fn rows(content: impl AsRef<[u8]>) -> Result<Vec<(u64, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.csv");
        fs::write(&file, content).unwrap();
        let rows = TextRows::open(&file).and_then(Iterator::collect);
        rows.map_err(|error| error.to_string())
    }

    #[test]
    fn texts_keep_their_lines_and_blank_lines_or_second_cells_are_refused() {
        let texts = rows("\u{feff}\"a, b\nc\"\n\"\"\nd").unwrap();
        let texts: Vec<(u64, &str)> = texts.iter().map(|(l, t)| (*l, t.as_str())).collect();
        assert_eq!(texts, [(1, "a, b\nc"), (3, ""), (4, "d")]);
        assert!(rows("a\n\nb\n").unwrap_err().contains("line 2 is blank"));
        assert!(rows("a\nb, c\n").unwrap_err().contains("line 2 has more"));
    }

    #[test]
    fn a_header_is_refused_and_a_text_of_its_words_is_not() {
        for header in [
            "report\n",
            "Hypothesis\nx\n",
            "id, report\na,b\n",
            ",findings\n0,x\n",
        ] {
            let error = rows(header).unwrap_err();
            assert!(
                error.contains("line 1 is the header '"),
                "{header}: {error}"
            );
        }
        assert_eq!(rows("No findings.\nreport\n").unwrap().len(), 2);
    }

    #[test]
    fn other_encodings_are_named_with_what_to_do() {
        let utf_16: Vec<u8> = "Clear.\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(rows(&utf_16).unwrap_err().contains("UTF-16"));
        let marked = [b"\xff\xfe".as_slice(), &utf_16].concat();
        assert!(
            rows(marked)
                .unwrap_err()
                .contains("save it as CSV in UTF-8")
        );
        let error = rows(b"Clear.\n\xd6dem.\n").unwrap_err();
        assert!(
            error.contains("line 2 ") && error.contains("in UTF-8"),
            "{error}"
        );
    }
}
