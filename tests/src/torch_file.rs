//! Weight files as torch writes them, for tests of the import and for releases of random weights: either format, tensors of a
//! dictionary or of one entry of it, beside entries of classes that no reader knows.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The first bytes of the format before torch 1.6: its number, version and machine.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

/// A settings object of a class that only the writing program has, filled in every way that pickles fill objects.
const FOREIGN: &[u8] = b"comegaconf.dictconfig\nDictConfig\n)\x81}(X\x01\0\0\0aK\x01X\x01\0\0\0b](K\x01cposix\nsystem\nX\x02\0\0\0id\x85Reub";

/// The two formats of torch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchFormat {
    /// A zip file, since torch 1.6.
    Zip,
    /// Pickles one after the other.
    Legacy,
}

/// The number types of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchType {
    /// 32 bits.
    Float,
    /// 16 bits.
    Half,
    /// 16 bits with the range of 32.
    BFloat16,
    /// Whole numbers of 64 bits.
    Long,
}

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct TorchTensor {
    /// Its name.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: TorchType,
}

impl TorchType {
    fn class(self) -> &'static str {
        match self {
            TorchType::Float => "FloatStorage",
            TorchType::Half => "HalfStorage",
            TorchType::BFloat16 => "BFloat16Storage",
            TorchType::Long => "LongStorage",
        }
    }

    /// Bytes of a number.
    pub fn width(self) -> usize {
        match self {
            TorchType::Float => 4,
            TorchType::Half | TorchType::BFloat16 => 2,
            TorchType::Long => 8,
        }
    }
}

impl TorchTensor {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes a file whose tensors are its own entries, or those of one of them, `section`, beside settings of a class that no
/// reader knows. `fill` writes the bytes of the tensor with this number.
pub fn write_torch(
    path: &Path,
    format: TorchFormat,
    section: Option<&str>,
    tensors: &[TorchTensor],
    fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let pickle = pickle(section, tensors);
    if format == TorchFormat::Legacy {
        file.write_all(LEGACY)?;
        file.write_all(&pickle)?;
        let keys: Vec<u8> = (0..tensors.len())
            .flat_map(|key| text(&key.to_string()))
            .collect();
        file.write_all(&[b"\x80\x02](", keys.as_slice(), b"e."].concat())?;
        for (index, tensor) in tensors.iter().enumerate() {
            file.write_all(&(tensor.elements() as u64).to_le_bytes())?;
            fill(index, &mut file)?;
        }
        file.flush()?;
        return Ok(());
    }
    let root = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut zip = ZipWriter::new(file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(format!("{root}/data.pkl"), stored)?;
    zip.write_all(&pickle)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.elements() * tensor.dtype.width();
        let options = stored.large_file(bytes > 1 << 31);
        zip.start_file(format!("{root}/data/{index}"), options)?;
        fill(index, &mut zip)?;
    }
    zip.start_file(format!("{root}/version"), stored)?;
    zip.write_all(b"3\n")?;
    zip.finish()?.flush()?;
    Ok(())
}

/// The same as [`write_torch`] in memory, with values that count from 1 on.
pub fn torch_bytes(format: TorchFormat, tensors: &[TorchTensor]) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weights.pth");
    write_torch(&path, format, Some("model"), tensors, &mut |index, out| {
        let bytes = tensors[index].elements() * tensors[index].dtype.width();
        let values: Vec<u8> = (0..bytes).map(|value| value as u8).collect();
        Ok(out.write_all(&values)?)
    })?;
    Ok(std::fs::read(&path)?)
}

fn pickle(section: Option<&str>, tensors: &[TorchTensor]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    if let Some(section) = section {
        pickle.extend(text("config"));
        pickle.extend(FOREIGN);
        pickle.extend(text(section));
        pickle.extend(b"ccollections\nOrderedDict\n)R(");
    }
    for (key, tensor) in tensors.iter().enumerate() {
        pickle.extend(text(&tensor.name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(format!("ctorch\n{}\n", tensor.dtype.class()).into_bytes());
        pickle.extend(
            [
                text(&key.to_string()),
                text("cpu"),
                number(tensor.elements()),
            ]
            .concat(),
        );
        pickle.extend(b"tQK\0");
        let mut strides = vec![1; tensor.shape.len()];
        for index in (1..strides.len()).rev() {
            strides[index - 1] = strides[index] * tensor.shape[index];
        }
        pickle.extend([tuple(&tensor.shape), tuple(&strides)].concat());
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(if section.is_some() {
        b"uu.".as_slice()
    } else {
        b"u."
    });
    pickle
}

fn text(text: &str) -> Vec<u8> {
    [
        b"X",
        &(text.len() as u32).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

/// As an integer of 8 bytes, since the published ones are larger than 4 hold.
fn number(number: usize) -> Vec<u8> {
    [b"\x8a\x08", &(number as i64).to_le_bytes()[..]].concat()
}

fn tuple(sides: &[usize]) -> Vec<u8> {
    let sides: Vec<u8> = sides.iter().flat_map(|side| number(*side)).collect();
    [b"(", sides.as_slice(), b"t"].concat()
}
