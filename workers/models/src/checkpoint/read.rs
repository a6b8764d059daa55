//! The values of one tensor, out of its file: contiguous ones as they are, others gathered row by row.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::{CheckpointError, StoredTensor};

/// Bytes that a view which repeats stored values, as `expand` makes it, may have: more than any norm's or bias's.
const MOST_REPEATED: u64 = 1 << 26;

/// Checks that the tensor's values lie before the byte `end` of its file.
pub(super) fn check(tensor: &StoredTensor, end: u64) -> Result<(), CheckpointError> {
    let absurd = || tensor.fault("no file holds so many values");
    let size = tensor.size().ok_or_else(absurd)?;
    let room = end.saturating_sub(tensor.place.offset);
    // A view that repeats values may be larger than what is stored: the file would size an allocation.
    if repeats(tensor) {
        if size as u64 > room.max(MOST_REPEATED) {
            let reason = format!(
                "it repeats the {room} bytes of its storage up to {size}: save it with contiguous()"
            );
            return Err(tensor.fault(reason));
        }
    } else if size as u64 > room {
        let reason =
            format!("it needs {size} bytes and its storage has {room}: the file is cut or damaged");
        return Err(tensor.fault(reason));
    }
    let span = span(tensor).ok_or_else(absurd)?;
    if span as u64 > room {
        let reason = format!("it spans {span} bytes of a storage of {room}: the file is damaged");
        return Err(tensor.fault(reason));
    }
    Ok(())
}

/// Reads the values.
pub(super) fn values(tensor: &StoredTensor) -> Result<Vec<u8>, CheckpointError> {
    let absurd = || tensor.fault("no file holds so many values");
    let path = &tensor.file;
    let mut file = File::open(path).map_err(CheckpointError::io("open", path))?;
    let length = file
        .metadata()
        .map_err(CheckpointError::io("read", path))?
        .len();
    check(tensor, length)?;
    file.seek(SeekFrom::Start(tensor.place.offset))
        .map_err(CheckpointError::io("read", path))?;
    let mut stored = vec![0; span(tensor).ok_or_else(absurd)?];
    file.read_exact(&mut stored)
        .map_err(CheckpointError::io("read", path))?;
    let width = tensor.dtype.block().1;
    if let Some(checksum) = &tensor.place.checksum
        && !checksum
            .holds(&mut file, tensor.place.offset, &stored)
            .map_err(CheckpointError::io("read", path))?
    {
        let reason = "the bytes of its storage are not those of their checksum: the file is damaged, copy it again";
        return Err(tensor.fault(reason));
    }
    let mut values = match &tensor.place.strides {
        None => stored,
        Some(strides) => gather(&stored, &tensor.shape, strides, width),
    };
    if tensor.place.big_endian {
        values.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    Ok(values)
}

/// Whether one stored value stands in several places of the tensor.
fn repeats(tensor: &StoredTensor) -> bool {
    let strides = tensor.place.strides.as_deref().unwrap_or_default();
    let mut steps = tensor.shape.iter().zip(strides);
    steps.any(|(side, stride)| *side > 1 && *stride == 0)
}

/// Bytes from the first value's beginning to the last one's end, in the file.
fn span(tensor: &StoredTensor) -> Option<usize> {
    let size = tensor.size()?;
    let Some(strides) = &tensor.place.strides else {
        return Some(size);
    };
    if size == 0 {
        return Some(0);
    }
    let mut steps = tensor.shape.iter().zip(strides);
    let last = steps.try_fold(0_usize, |last, (side, stride)| {
        last.checked_add((side - 1).checked_mul(*stride)?)
    })?;
    (last.checked_add(1)?).checked_mul(tensor.dtype.block().1)
}

/// The elements of a view in row-major order.
fn gather(stored: &[u8], shape: &[usize], strides: &[usize], width: usize) -> Vec<u8> {
    let mut values = Vec::with_capacity(shape.iter().product::<usize>() * width);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    if shape.contains(&0) {
        return values;
    }
    loop {
        values.extend_from_slice(&stored[at * width..(at + 1) * width]);
        // The next index: like a counter whose digits have the sides as their bases.
        let mut dimension = shape.len();
        loop {
            let Some(next) = dimension.checked_sub(1) else {
                return values;
            };
            dimension = next;
            index[dimension] += 1;
            at += strides[dimension];
            if index[dimension] < shape[dimension] {
                break;
            }
            at -= strides[dimension] * shape[dimension];
            index[dimension] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::Dtype;

    use super::super::{StoredPlace, StoredType};
    use super::*;

    fn tensor(file: &std::path::Path, shape: &[usize], strides: Option<&[usize]>) -> StoredTensor {
        StoredTensor {
            name: "weight".into(),
            shape: shape.to_vec(),
            dtype: StoredType::Dense(Dtype::U16),
            file: file.to_owned(),
            place: StoredPlace {
                offset: 2,
                strides: strides.map(<[usize]>::to_vec),
                ..StoredPlace::default()
            },
        }
    }

    #[test]
    fn a_view_is_gathered_row_by_row_whatever_its_strides() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storage");
        let bytes: Vec<u8> = (0..8_u16).flat_map(u16::to_le_bytes).collect();
        fs::write(&path, bytes).unwrap();
        let read = |shape: &[usize], strides: Option<&[usize]>| {
            let bytes = values(&tensor(&path, shape, strides)).unwrap();
            let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
            bytes.chunks(2).map(number).collect::<Vec<_>>()
        };
        assert_eq!(read(&[2, 3], None), [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            read(&[3, 2], Some(&[1, 3])),
            [1, 4, 2, 5, 3, 6],
            "a transposed one"
        );
        assert_eq!(read(&[2, 2], Some(&[4, 2])), [1, 3, 5, 7], "each second");
        assert_eq!(read(&[3], Some(&[0])), [1, 1, 1], "an expanded one");
        assert_eq!(
            read(&[64], Some(&[0])),
            [1; 64],
            "one that is larger than what is stored"
        );
        assert_eq!(read(&[], Some(&[])), [1], "a single value");
        assert!(read(&[0, 3], Some(&[3, 1])).is_empty());
    }

    #[test]
    fn a_view_beyond_its_storage_is_refused_before_anything_is_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storage");
        fs::write(&path, [0; 16]).unwrap();
        let refusal = |shape: &[usize], strides: Option<&[usize]>| {
            values(&tensor(&path, shape, strides))
                .unwrap_err()
                .to_string()
        };
        assert!(refusal(&[8], None).contains("needs 16 bytes and its storage has 14"));
        assert!(refusal(&[2], Some(&[7])).contains("spans 16 bytes"));
        assert!(refusal(&[1 << 40], Some(&[0])).contains("'weight' (shape [1099511627776])"));
        assert!(refusal(&[1 << 40, 1 << 40], None).contains("no file holds so many"));
        assert!(refusal(&[1 << 40], Some(&[0])).contains("contiguous()"));
        assert!(refusal(&[2, 2], Some(&[usize::MAX, 1])).contains("no file holds so many"));
    }
}
