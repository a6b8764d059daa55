//! What a GGUF file says about itself: keys with values of thirteen types.

use super::super::CheckpointError;
use super::input::Input;

/// Arrays in arrays; more has no file.
const MAX_DEPTH: usize = 4;

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one type, which take in memory what they take in the file.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Text(Vec<String>),
    Array(Vec<GgufArray>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl GgufValue {
    /// A whole number that is not negative, of any of the eight types.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::U8(value) => Some(value.into()),
            GgufValue::U16(value) => Some(value.into()),
            GgufValue::U32(value) => Some(value.into()),
            GgufValue::U64(value) => Some(value),
            GgufValue::I8(value) => value.try_into().ok(),
            GgufValue::I16(value) => value.try_into().ok(),
            GgufValue::I32(value) => value.try_into().ok(),
            GgufValue::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A number with a fraction.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            GgufValue::F32(value) => Some(value.into()),
            GgufValue::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            GgufValue::Text(value) => Some(value),
            _ => None,
        }
    }

    /// A yes or a no.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Values of one type.
    pub fn as_array(&self) -> Option<&GgufArray> {
        match self {
            GgufValue::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// A key and its value.
pub(super) fn entry(input: &mut Input) -> Result<(String, GgufValue), CheckpointError> {
    let key = input.name()?;
    let kind = input.u32()?;
    let value = value(input, kind, &key)?;
    Ok((key, value))
}

fn value(input: &mut Input, kind: u32, key: &str) -> Result<GgufValue, CheckpointError> {
    Ok(match kind {
        0 => GgufValue::U8(input.array::<1>()?[0]),
        1 => GgufValue::I8(i8::from_le_bytes(input.array()?)),
        2 => GgufValue::U16(u16::from_le_bytes(input.array()?)),
        3 => GgufValue::I16(i16::from_le_bytes(input.array()?)),
        4 => GgufValue::U32(input.u32()?),
        5 => GgufValue::I32(i32::from_le_bytes(input.array()?)),
        6 => GgufValue::F32(f32::from_le_bytes(input.array()?)),
        7 => GgufValue::Bool(truth(input.array::<1>()?[0], input, key)?),
        8 => GgufValue::Text(input.text()?),
        9 => GgufValue::Array(array(input, key, 1)?),
        10 => GgufValue::U64(input.u64()?),
        11 => GgufValue::I64(i64::from_le_bytes(input.array()?)),
        12 => GgufValue::F64(f64::from_le_bytes(input.array()?)),
        other => return Err(unknown(input, key, other)),
    })
}

fn array(input: &mut Input, key: &str, depth: usize) -> Result<GgufArray, CheckpointError> {
    if depth > MAX_DEPTH {
        let reason = format!("the value of '{key}' has arrays in more than {MAX_DEPTH} arrays");
        return Err(input.fault(reason));
    }
    let (kind, count) = (input.u32()?, input.u64()?);
    Ok(match kind {
        0 => GgufArray::U8(input.bytes(count)?),
        1 => GgufArray::I8(numbers(input, count, i8::from_le_bytes)?),
        2 => GgufArray::U16(numbers(input, count, u16::from_le_bytes)?),
        3 => GgufArray::I16(numbers(input, count, i16::from_le_bytes)?),
        4 => GgufArray::U32(numbers(input, count, u32::from_le_bytes)?),
        5 => GgufArray::I32(numbers(input, count, i32::from_le_bytes)?),
        6 => GgufArray::F32(numbers(input, count, f32::from_le_bytes)?),
        7 => {
            let bytes = input.bytes(count)?.into_iter();
            GgufArray::Bool(
                bytes
                    .map(|byte| truth(byte, input, key))
                    .collect::<Result<_, _>>()?,
            )
        }
        8 => {
            // Each has at least its length.
            let count = input.room(count, 8)?;
            let texts = (0..count).map(|_| input.text());
            GgufArray::Text(texts.collect::<Result<_, _>>()?)
        }
        9 => {
            // Each has at least its type and its length.
            let count = input.room(count, 12)?;
            let arrays = (0..count).map(|_| array(input, key, depth + 1));
            GgufArray::Array(arrays.collect::<Result<_, _>>()?)
        }
        10 => GgufArray::U64(numbers(input, count, u64::from_le_bytes)?),
        11 => GgufArray::I64(numbers(input, count, i64::from_le_bytes)?),
        12 => GgufArray::F64(numbers(input, count, f64::from_le_bytes)?),
        other => return Err(unknown(input, key, other)),
    })
}

fn numbers<T, const N: usize>(
    input: &mut Input,
    count: u64,
    number: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    let count = input.room(count, N as u64)?;
    let bytes = input.bytes((count * N) as u64)?;
    let (numbers, _) = bytes.as_chunks::<N>();
    Ok(numbers.iter().map(|bytes| number(*bytes)).collect())
}

fn truth(byte: u8, input: &Input, key: &str) -> Result<bool, CheckpointError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(input.fault(format!(
            "the value of '{key}' is {other}, and a truth value is 0 or 1"
        ))),
    }
}

fn unknown(input: &Input, key: &str, kind: u32) -> CheckpointError {
    input.fault(format!(
        "the value of '{key}' has type {kind}, and 0 to 12 are known"
    ))
}
