//! Image tokens as an object: a safetensors file with the one tensor `image_tokens`, f32 (`[32, 768]` at published
//! geometry).

use std::collections::HashMap;

use candle_core::safetensors::load_buffer;
use candle_core::{DType, Device, Result, Tensor, bail};

/// The tensor's name.
pub const NAME: &str = "image_tokens";

/// Image tokens `[tokens, width]` to the object's content.
///
/// # Errors
/// Values that cannot be read back from the device.
pub fn encode(tokens: &Tensor) -> Result<Vec<u8>> {
    let tokens = tokens.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(safetensors::serialize([(NAME, &tokens)], None)?)
}

/// The object's content to image tokens `[tokens, width]`, f32 in main memory.
///
/// # Errors
/// Not safetensors, or without such a tensor.
pub fn decode(content: &[u8]) -> Result<Tensor> {
    let mut tensors: HashMap<String, Tensor> = load_buffer(content, &Device::Cpu)?;
    match tensors.remove(NAME) {
        Some(tokens) if tokens.rank() == 2 => tokens.to_dtype(DType::F32),
        Some(tokens) => bail!(
            "'{NAME}' has shape {:?} and must have two dimensions",
            tokens.dims()
        ),
        None => bail!("there is no tensor '{NAME}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_tokens_come_back_as_they_were() {
        let tokens =
            Tensor::new(&[[1.5f32, -0.25], [f32::MIN_POSITIVE, 3.0]], &Device::Cpu).unwrap();
        let content = encode(&tokens).unwrap();
        assert_eq!(
            decode(&content).unwrap().to_vec2::<f32>().unwrap(),
            tokens.to_vec2::<f32>().unwrap()
        );
        assert!(decode(&content[..content.len() - 1]).is_err());
    }
}
