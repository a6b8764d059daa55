//! GGML's blocks of quantised numbers: which types are read, what they are called, and where a block has its scales. A bundle
//! keeps a quantised matrix as bytes, `[rows, bytes a row]`, and names its type in the file's metadata.

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;

/// The key in a safetensors file's metadata whose value is a JSON object: the type of each quantised tensor, by its name.
pub const METADATA_KEY: &str = "ggml_types";

/// The quantised types that are read, with llama.cpp's names.
const TYPES: [(GgmlDType, &str); 10] = [
    (GgmlDType::Q4_0, "Q4_0"),
    (GgmlDType::Q4_1, "Q4_1"),
    (GgmlDType::Q5_0, "Q5_0"),
    (GgmlDType::Q5_1, "Q5_1"),
    (GgmlDType::Q8_0, "Q8_0"),
    (GgmlDType::Q2K, "Q2_K"),
    (GgmlDType::Q3K, "Q3_K"),
    (GgmlDType::Q4K, "Q4_K"),
    (GgmlDType::Q5K, "Q5_K"),
    (GgmlDType::Q6K, "Q6_K"),
];

/// The name of a type, as llama.cpp writes it.
pub fn name(dtype: GgmlDType) -> String {
    let known = TYPES.iter().find(|(known, _)| *known == dtype);
    known.map_or_else(|| format!("{dtype:?}"), |(_, name)| (*name).to_owned())
}

/// The type of a name; nothing for one that is not read.
pub fn parse(name: &str) -> Option<GgmlDType> {
    let known = TYPES.iter().find(|(_, known)| *known == name);
    known.map(|(dtype, _)| *dtype)
}

/// The types by tensor name as the value of [`METADATA_KEY`].
pub fn metadata(types: &BTreeMap<String, GgmlDType>) -> String {
    let names: serde_json::Map<_, _> = types
        .iter()
        .map(|(tensor, dtype)| (tensor.clone(), name(*dtype).into()))
        .collect();
    serde_json::Value::from(names).to_string()
}

/// The types by tensor name, from the value of [`METADATA_KEY`].
///
/// # Errors
/// No JSON object of names, or a type that is not read, in words.
pub fn parse_metadata(json: &str) -> Result<BTreeMap<String, GgmlDType>, String> {
    let names: BTreeMap<String, String> =
        serde_json::from_str(json).map_err(|error| format!("{METADATA_KEY}: {error}"))?;
    let typed = names.into_iter().map(|(tensor, name)| {
        let dtype = parse(&name)
            .ok_or_else(|| format!("{METADATA_KEY}: '{name}' of '{tensor}' is not read"))?;
        Ok((tensor, dtype))
    });
    typed.collect()
}

/// Bytes of a row of so many values; nothing where they are no whole number of blocks.
pub fn row_bytes(dtype: GgmlDType, columns: usize) -> Option<usize> {
    let block = dtype.block_size();
    (columns.is_multiple_of(block)).then(|| columns / block * dtype.type_size())
}

/// Whether all scales of so many blocks are finite; every value of a block is a whole number times a scale, plus another.
pub fn all_finite(dtype: GgmlDType, bytes: &[u8]) -> bool {
    const EXPONENT: u16 = 0x7c00;
    let places: &[usize] = match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q2K => &[80, 82],
        GgmlDType::Q3K => &[108],
        GgmlDType::Q6K => &[208],
        _ => &[],
    };
    bytes.chunks_exact(dtype.type_size()).all(|block| {
        places
            .iter()
            .all(|&at| u16::from_le_bytes([block[at], block[at + 1]]) & EXPONENT != EXPONENT)
    })
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn types_by_name_come_back_and_unknown_ones_are_named() {
        let types: BTreeMap<_, _> = TYPES
            .iter()
            .map(|(dtype, name)| (format!("tensor.{name}"), *dtype))
            .collect();
        assert_eq!(parse_metadata(&metadata(&types)).unwrap(), types);
        let error = parse_metadata(r#"{"a": "IQ2_XS"}"#).unwrap_err();
        assert!(error.contains("'IQ2_XS' of 'a'"), "{error}");
        assert!(parse_metadata("[]").is_err());
    }

    #[test]
    fn a_scale_that_is_not_finite_is_found_in_every_type() {
        let values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        let values = Tensor::from_vec(values, (2, 256), &Device::Cpu).unwrap();
        for (dtype, name) in TYPES {
            let quantized = QTensor::quantize(&values, dtype).unwrap();
            let good = quantized.data().unwrap().into_owned();
            assert!(all_finite(dtype, &good), "{name}");
            // The second block's scale is where writing infinity makes its values infinite.
            let size = dtype.type_size();
            let found = (size..2 * size - 1)
                .step_by(2)
                .filter(|&at| {
                    let mut bytes = good.clone();
                    bytes[at..at + 2].copy_from_slice(&0x7c00_u16.to_le_bytes());
                    let finite = dequantized(dtype, &bytes)
                        .iter()
                        .all(|value| value.is_finite());
                    assert!(finite || !all_finite(dtype, &bytes), "{name} at {at}");
                    !finite
                })
                .count();
            assert!(found > 0, "{name}");
        }
    }

    fn dequantized(dtype: GgmlDType, bytes: &[u8]) -> Vec<f32> {
        let blocks = dtype.from_data(bytes.into());
        let values = blocks.dequantize(512).unwrap();
        values.as_slice::<f32>().unwrap().to_vec()
    }
}
