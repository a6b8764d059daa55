//! The bytes of a pickle: numbers, texts and lengths, held against the end of the file before anything is allocated.

use std::io::{self, BufRead, BufReader, Read, Seek};
use std::rc::Rc;

use super::value::{PickleError, Value};

/// A text that is longer is no name and no setting: it stays in the file.
const LONGEST_TEXT: u64 = 1 << 16;

/// A reader that knows where it is in its file, and where the pickle has to end.
pub(super) struct Input<'a, R> {
    reader: &'a mut BufReader<R>,
    pub(super) position: u64,
    end: u64,
}

impl<'a, R: Read + Seek> Input<'a, R> {
    pub(super) fn new(reader: &'a mut BufReader<R>, position: u64, end: u64) -> Self {
        Self {
            reader,
            position,
            end,
        }
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.bytes::<1>()?[0])
    }

    /// Passes over bytes, which stay in the file.
    pub(super) fn skip(&mut self, length: u64) -> Result<Value, PickleError> {
        let offset = self.position;
        self.advance(length)?;
        // A file is far shorter than an i64 can tell.
        self.reader.seek_relative(length.cast_signed())?;
        Ok(Value::Bytes { offset, length })
    }

    /// A text of so many bytes. One that is very long is passed over.
    pub(super) fn text(&mut self, length: u64) -> Result<Value, PickleError> {
        if length > LONGEST_TEXT {
            self.skip(length)?;
            return Ok(Value::Opaque(format!("a text of {length} bytes").into()));
        }
        let offset = self.position;
        self.advance(length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        // Python 2 has one kind for texts and bytes.
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text.into()),
            Err(_) => Value::Bytes { offset, length },
        })
    }

    /// The rest of a line, without its end.
    pub(super) fn line(&mut self) -> Result<Rc<str>, PickleError> {
        let mut line = Vec::new();
        let room = (self.end - self.position).min(LONGEST_TEXT);
        let length = self.reader.take(room).read_until(b'\n', &mut line)?;
        self.position += length as u64;
        if line.pop() != Some(b'\n') {
            return Err(match length as u64 == LONGEST_TEXT {
                true => PickleError::Content("a line without an end".into()),
                false => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            });
        }
        Ok(String::from_utf8_lossy(&line).into())
    }

    /// A whole number of so many bytes, two's complement. One of more than 64 bits is passed over.
    pub(super) fn integer(&mut self, length: u64) -> Result<Value, PickleError> {
        if length > 8 {
            self.skip(length)?;
            return Ok(Value::Opaque("a number of more than 64 bits".into()));
        }
        let mut bytes = [0; 8];
        for byte in &mut bytes[..length as usize] {
            *byte = self.byte()?;
        }
        // The sign is that of the last byte given.
        let shift = 64 - 8 * length as u32;
        Ok(Value::Int(match length {
            0 => 0,
            _ => i64::from_le_bytes(bytes) << shift >> shift,
        }))
    }

    fn advance(&mut self, length: u64) -> Result<(), PickleError> {
        let end = self
            .position
            .checked_add(length)
            .filter(|end| *end <= self.end);
        self.position = end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(())
    }
}
