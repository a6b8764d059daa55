//! A safetensors file of one small tensor an image, e.g. image tokens, written row by row: neither the tensors nor their
//! names are held in memory, however many there are.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use radialog_files::durable::Replacement;
use radialog_schemas::ContentHash;
use serde::Deserialize;

use crate::error::TrainingError;

/// The length of a header stands before it.
const LENGTH_BYTES: usize = 8;
/// Longer headers are refused by readers of the format.
const LONGEST_HEADER: u64 = 100_000_000;

/// What a file's header calls the origin of the component that made its tensors.
const MADE_BY: &str = "made_by";

/// The origin of the component that made a file's tensors, where the file says it.
///
/// # Errors
/// A file that cannot be read, or is no safetensors file.
pub fn tensors_made_by(path: &Path) -> Result<Option<ContentHash>, TrainingError> {
    let failed = TrainingError::io("read", path);
    let mut file = File::open(path).map_err(TrainingError::io("open", path))?;
    let mut length = [0; LENGTH_BYTES];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length).min(LONGEST_HEADER);
    let mut header = Vec::new();
    let mut head = file.take(length);
    head.read_to_end(&mut header)
        .map_err(TrainingError::io("read", path))?;
    let header: TensorFileMetadata =
        serde_json::from_slice(&header).map_err(TrainingError::content(path))?;
    let said = header.metadata.as_ref();
    let Some(origin) = said.and_then(|said| said.get(MADE_BY)) else {
        return Ok(None);
    };
    let unknown = || TrainingError::content(path)(format!("{MADE_BY} is no hash: '{origin}'"));
    ContentHash::from_hex(origin).map(Some).ok_or_else(unknown)
}

/// The part of a header that is not about tensors.
#[derive(Deserialize)]
struct TensorFileMetadata {
    #[serde(rename = "__metadata__")]
    metadata: Option<HashMap<String, String>>,
}

/// A safetensors file whose header is being written: the names of all tensors. Their values follow in the same order
/// through [`TensorFileData`].
pub struct TensorFileHeader {
    file: Replacement,
    shape: Vec<usize>,
    rows: u64,
    /// Bytes of the header so far.
    length: u64,
    /// Whether something stands in it already.
    is_begun: bool,
}

/// A safetensors file whose header is complete, and whose values are being written: f32, row-major, each tensor of the
/// shape that was given.
pub struct TensorFileData {
    file: Replacement,
    /// Values of each tensor.
    values: usize,
    missing: u64,
}

impl TensorFileHeader {
    /// Begins a file of what the component of this origin makes, which the file says; it appears under its name when it is whole.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create_made_by(
        path: &Path,
        shape: &[usize],
        origin: Option<&ContentHash>,
    ) -> Result<Self, TrainingError> {
        let mut names = Self::create(path, shape)?;
        if let Some(origin) = origin {
            names.write(&format!(r#""__metadata__":{{"{MADE_BY}":"{origin}"}}"#))?;
            names.is_begun = true;
        }
        Ok(names)
    }

    /// Begins a file; it appears under its name when it is whole.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, shape: &[usize]) -> Result<Self, TrainingError> {
        let file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
        let mut names = Self {
            file,
            shape: shape.to_vec(),
            rows: 0,
            length: 0,
            is_begun: false,
        };
        names
            .file
            .write_all(&[0; LENGTH_BYTES])
            .map_err(TrainingError::io("write", path))?;
        names.write("{")?;
        Ok(names)
    }

    /// Adds a tensor's name. Names must differ.
    ///
    /// # Errors
    /// When there is no room.
    pub fn add(&mut self, name: &str) -> Result<(), TrainingError> {
        let bytes = 4 * self.shape.iter().product::<usize>() as u64;
        let (begin, end) = (self.rows * bytes, (self.rows + 1) * bytes);
        let name = serde_json::Value::from(name);
        let comma = if self.is_begun { "," } else { "" };
        let shape = &self.shape;
        self.write(&format!(
            r#"{comma}{name}:{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ))?;
        self.rows += 1;
        self.is_begun = true;
        Ok(())
    }

    /// Completes the header.
    ///
    /// # Errors
    /// No name at all, more than a file can have, or no room.
    pub fn rows(mut self) -> Result<TensorFileData, TrainingError> {
        if self.rows == 0 {
            return Err(TrainingError::Empty(format!(
                "nothing to write to '{}'",
                self.file.path().display()
            )));
        }
        self.write("}")?;
        // Tensors begin at a multiple of 8.
        let padding = self.length.next_multiple_of(8) - self.length;
        self.write(&" ".repeat(padding as usize))?;
        if self.length > LONGEST_HEADER {
            return Err(TrainingError::Empty(format!(
                "{} tensors are more than one safetensors file can name: write a split at a time",
                self.rows
            )));
        }
        let length = self.length.to_le_bytes();
        let write = |file: &mut Replacement| {
            file.flush()?;
            let start = OpenOptions::new().write(true).open(file.partial())?;
            start.write_all_at(&length, 0)
        };
        write(&mut self.file).map_err(TrainingError::io("write", self.file.path()))?;
        let values = self.shape.iter().product();
        Ok(TensorFileData {
            file: self.file,
            values,
            missing: self.rows,
        })
    }

    fn write(&mut self, text: &str) -> Result<(), TrainingError> {
        self.length += text.len() as u64;
        self.file
            .write_all(text.as_bytes())
            .map_err(TrainingError::io("write", self.file.path()))
    }
}

impl TensorFileData {
    /// Adds the next tensor's values.
    ///
    /// # Errors
    /// Another number of values than the shape has, more tensors than names, or no room.
    pub fn add(&mut self, values: &[f32]) -> Result<(), TrainingError> {
        if values.len() != self.values {
            let reason = format!(
                "a tensor has {} values and the others {}",
                values.len(),
                self.values
            );
            return Err(TrainingError::content(self.file.path())(reason));
        }
        self.missing = self.missing.checked_sub(1).ok_or_else(|| {
            TrainingError::content(self.file.path())("more tensors than names were given")
        })?;
        for value in values {
            self.file
                .write_all(&value.to_le_bytes())
                .map_err(TrainingError::io("write", self.file.path()))?;
        }
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// When tensors are missing, or there is no room.
    pub fn finish(self) -> Result<(), TrainingError> {
        if self.missing > 0 {
            return Err(TrainingError::content(self.file.path())(format!(
                "{} tensors are missing",
                self.missing
            )));
        }
        let path = self.file.path().to_owned();
        self.file
            .commit()
            .map_err(TrainingError::io("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn a_file_reads_back_by_name_whatever_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("embeddings.safetensors");
        let names = ["b", "a \"quoted\" ä", "c"];
        let mut header = TensorFileHeader::create(&path, &[2, 3]).unwrap();
        names.iter().for_each(|name| header.add(name).unwrap());
        let mut rows = header.rows().unwrap();
        for row in 0..3 {
            assert!(!path.exists());
            rows.add(&[row as f32; 6]).unwrap();
        }
        rows.finish().unwrap();
        let content = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&content).unwrap();
        assert_eq!(tensors.len(), 3);
        for (row, name) in names.iter().enumerate() {
            let tensor = tensors.tensor(name).unwrap();
            assert_eq!(tensor.shape(), [2, 3]);
            assert_eq!(tensor.data()[..4], (row as f32).to_le_bytes());
        }
    }

    #[test]
    fn a_file_says_what_made_it_and_reads_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, origin: Option<&ContentHash>| {
            let path = dir.path().join(name);
            let mut header = TensorFileHeader::create_made_by(&path, &[2], origin).unwrap();
            ["a", "b"].iter().for_each(|name| header.add(name).unwrap());
            let mut rows = header.rows().unwrap();
            (0..2).for_each(|row| rows.add(&[row as f32; 2]).unwrap());
            rows.finish().unwrap();
            path
        };
        let origin = ContentHash::of(b"component");
        let (said, silent) = (write("said", Some(&origin)), write("silent", None));
        assert_eq!(tensors_made_by(&said).unwrap(), Some(origin));
        assert_eq!(tensors_made_by(&silent).unwrap(), None);
        let content = std::fs::read(&said).unwrap();
        let tensors = SafeTensors::deserialize(&content).unwrap();
        assert_eq!(
            tensors.tensor("b").unwrap().data()[..4],
            1_f32.to_le_bytes()
        );
        std::fs::write(&silent, b"none").unwrap();
        assert!(tensors_made_by(&silent).is_err());
    }

    #[test]
    fn a_row_too_few_or_of_another_size_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("embeddings.safetensors");
        assert!(
            TensorFileHeader::create(&path, &[1])
                .unwrap()
                .rows()
                .is_err()
        );
        let mut header = TensorFileHeader::create(&path, &[1]).unwrap();
        header.add("a").unwrap();
        let mut rows = header.rows().unwrap();
        assert!(rows.add(&[1.0, 2.0]).is_err());
        assert!(rows.finish().unwrap_err().to_string().contains("missing"));
        assert!(!path.exists());
    }
}
