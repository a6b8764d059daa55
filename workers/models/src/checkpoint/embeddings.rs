//! The original's stored embeddings: a Python pickle of a dictionary from image id to a numpy array. Arrays stay where they
//! are in the file until they are wanted, since a split has tens of gigabytes of them.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::pickle::{Array, Pickle, PickleError, PickleLimit, Value};
use super::{CheckpointError, torch};

/// Values of the pickle of the largest data set there is, 377,110 images, ten times over.
const LIMIT: PickleLimit = PickleLimit(100_000_000);

/// Arrays of f32 by image id, in a pickle.
#[derive(Debug)]
pub struct StoredEmbeddings {
    path: PathBuf,
    file: File,
    arrays: Vec<StoredEmbedding>,
}

/// One array of [`StoredEmbeddings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEmbedding {
    /// The image's id.
    pub image: String,
    /// The array's shape: `[tokens, width]` as published, `[32, 768]`.
    pub shape: Vec<usize>,
    offset: u64,
}

impl StoredEmbeddings {
    /// Finds the arrays of a file.
    ///
    /// # Errors
    /// A file that cannot be read, is cut or holds anything but a dictionary of numpy's float32 arrays.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let length = file.metadata().map_err(CheckpointError::io("read", path))?;
        let mut reader = BufReader::with_capacity(1 << 16, &file);
        let read = Pickle::read(&mut reader, 0, length.len(), LIMIT);
        let (pickle, _) = read.map_err(|error| match error {
            PickleError::Io(error) => CheckpointError::io("read", path)(error),
            PickleError::Content(reason) => refusal(path)(reason),
        })?;
        let entries = pickle.dictionary(pickle.root());
        let entries = entries.ok_or_else(|| {
            let kind = pickle.kind(pickle.root());
            refusal(path)(format!("it holds {kind} instead of a dictionary"))
        })?;
        let arrays = entries
            .iter()
            .map(|(image, value)| embedding(&pickle, image, value).map_err(refusal(path)));
        Ok(Self {
            path: path.to_owned(),
            arrays: arrays.collect::<Result<_, _>>()?,
            file,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The arrays, in the file's order.
    pub fn arrays(&self) -> &[StoredEmbedding] {
        &self.arrays
    }

    /// The values of one of [`StoredEmbeddings::arrays`], row-major.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, array: &StoredEmbedding) -> Result<Vec<f32>, CheckpointError> {
        let mut bytes = vec![0; 4 * array.shape.iter().product::<usize>()];
        let mut file = &self.file;
        let mut fill = || {
            file.seek(SeekFrom::Start(array.offset))?;
            file.read_exact(&mut bytes)
        };
        fill().map_err(CheckpointError::io("read", &self.path))?;
        let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(bytes.chunks_exact(4).map(value).collect())
    }
}

fn embedding(pickle: &Pickle, image: &Value, value: &Value) -> Result<StoredEmbedding, String> {
    let Value::Text(image) = image else {
        return Err(format!("it has {} as an image id", pickle.kind(image)));
    };
    let array = pickle.array(value).ok_or_else(|| {
        let kind = pickle.kind(value);
        format!("'{image}' is {kind} instead of an array")
    })?;
    let Array {
        shape,
        dtype,
        offset,
        length,
        ..
    } = array;
    if &**dtype != "f4" || array.big_endian || array.column_major {
        let order = match (array.big_endian, array.column_major) {
            (_, true) => ", column by column",
            (true, _) => " with the highest byte first",
            _ => "",
        };
        return Err(format!("'{image}' is an array of {dtype}{order}"));
    }
    let bytes = shape
        .iter()
        .try_fold(4_u64, |bytes, side| bytes.checked_mul(*side as u64));
    if bytes != Some(*length) {
        return Err(format!("'{image}' is an array {shape:?} of {length} bytes"));
    }
    Ok(StoredEmbedding {
        image: image.to_string(),
        shape: shape.clone(),
        offset: *offset,
    })
}

fn refusal(path: &Path) -> impl Fn(String) -> CheckpointError {
    let path = path.to_owned();
    move |reason| {
        let kind = match torch::is_zip(&path) {
            true => "; it is a zip file, as torch writes weights",
            false => "",
        };
        CheckpointError::content(&path)(format!(
            "{reason}; only a dictionary of numpy float32 arrays by image id can be read{kind}"
        ))
    }
}
