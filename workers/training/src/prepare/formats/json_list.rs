//! A JSON array written item by item, as Python's `json.dump(.., indent=4)` writes it.

use std::io::{self, Write};
use std::path::Path;

use radialog_files::durable::Replacement;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::TrainingError;

/// Whether characters outside ASCII stand as they are or as `\uXXXX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonAscii {
    Kept,
    Escaped,
}

/// Writes all items; the file appears under its name when it is whole. Returns their number.
pub(crate) fn write<T: Serialize>(
    path: &Path,
    items: impl Iterator<Item = Result<T, TrainingError>>,
    characters: NonAscii,
) -> Result<u64, TrainingError> {
    let write_error = || TrainingError::io("write", path);
    let mut file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
    let mut count = 0;
    for item in items {
        file.write_all(if count == 0 { b"[\n    " } else { b",\n    " })
            .map_err(write_error())?;
        let mut serializer = Serializer::with_formatter(
            &mut file,
            Indented {
                pretty: pretty(),
                characters,
            },
        );
        item?
            .serialize(&mut serializer)
            .map_err(|error| write_error()(error.into()))?;
        count += 1;
    }
    file.write_all(if count == 0 { b"[]" } else { b"\n]" })
        .map_err(write_error())?;
    file.commit().map_err(write_error())?;
    Ok(count)
}

fn pretty() -> PrettyFormatter<'static> {
    PrettyFormatter::with_indent(b"    ")
}

/// One level deeper than the serializer knows, since it sees only the item.
struct Indented {
    pretty: PrettyFormatter<'static>,
    characters: NonAscii,
}

impl Formatter for Indented {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n    }")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"\n        " } else { b",\n        " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if self.characters == NonAscii::Kept {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                writer.write_all(&[character as u8])?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
