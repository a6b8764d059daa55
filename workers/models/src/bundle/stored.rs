//! A checkpoint's tensor in the weights file of a component, as it is stored: a quantised matrix stays quantised.

use candle_core::quantized::GgmlDType;
use safetensors::tensor::Dtype;

use crate::checkpoint::{CheckpointError, StoredTensor, StoredType};
use crate::ggml;
use crate::tensors::TensorHeader;

/// The entry of a tensor in a weights file, and the type of its blocks where it is quantised: it stands there as bytes
/// `[rows, bytes a row]`.
///
/// # Errors
/// A quantised tensor that is no matrix of whole blocks.
pub(crate) fn stored_header(
    tensor: &StoredTensor,
) -> Result<(TensorHeader, Option<GgmlDType>), CheckpointError> {
    let name = tensor.name.clone();
    let ggml = match tensor.dtype {
        StoredType::Dense(dtype) => {
            let shape = tensor.shape.clone();
            return Ok((TensorHeader { name, shape, dtype }, None));
        }
        StoredType::Ggml(ggml) => ggml,
    };
    let [rows, columns] = tensor.shape[..] else {
        return Err(tensor.fault("only matrices are kept quantised"));
    };
    let Some(bytes) = ggml::row_bytes(ggml, columns) else {
        return Err(tensor.fault(format!(
            "its rows are no whole number of blocks of {}",
            ggml.block_size()
        )));
    };
    let header = TensorHeader {
        name,
        shape: vec![rows, bytes],
        dtype: Dtype::U8,
    };
    Ok((header, Some(ggml)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use candle_core::quantized::QTensor;
    use candle_core::{DType, Device, Tensor};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::bundle::weights::MappedWeights;
    use crate::bundle::writer::SafetensorsWriter;
    use crate::checkpoint::{Checkpoint, StoredPlace};
    use crate::language::{
        BaseWeights, LanguageModel, LlamaConfig, LoraAdapter, LoraConfig, QuantizedMatrices,
    };

    /// Writes all tensors into one weights file, one in memory at a time.
    fn write_stored(path: &Path, checkpoint: &dyn Checkpoint) {
        let mut types = BTreeMap::new();
        let mut headers = Vec::with_capacity(checkpoint.tensors().len());
        for tensor in checkpoint.tensors() {
            let (header, ggml) = stored_header(tensor).unwrap();
            types.extend(ggml.map(|ggml| (header.name.clone(), ggml)));
            headers.push(header);
        }
        let mut writer = SafetensorsWriter::create_quantized(path, &headers, &types).unwrap();
        for tensor in checkpoint.tensors() {
            writer.write(&checkpoint.read(tensor).unwrap()).unwrap();
        }
        writer.finish().unwrap();
    }

    const TYPES: [GgmlDType; 3] = [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q5_0];

    fn config() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 96,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: Some(2),
            tie_word_embeddings: true,
            ..LlamaConfig::vicuna_7b()
        }
    }

    /// Tensors in memory, some quantised.
    struct InMemory {
        tensors: Vec<StoredTensor>,
        values: BTreeMap<String, Vec<u8>>,
    }

    impl InMemory {
        fn new() -> Self {
            let config = config();
            let mut made = Self {
                tensors: Vec::new(),
                values: BTreeMap::new(),
            };
            made.add("model.embed_tokens.weight", 96, 64, Some(GgmlDType::Q8_0));
            made.add("model.norm.weight", 1, 64, None);
            for layer in 0..config.num_hidden_layers {
                for (index, (name, inputs, outputs)) in
                    config.layer_matrices().into_iter().enumerate()
                {
                    let name = format!("model.layers.{layer}.{name}.weight");
                    made.add(&name, outputs, inputs, Some(TYPES[index % TYPES.len()]));
                }
                for norm in ["input_layernorm", "post_attention_layernorm"] {
                    made.add(&format!("model.layers.{layer}.{norm}.weight"), 1, 64, None);
                }
            }
            made
        }

        fn add(&mut self, name: &str, rows: usize, columns: usize, ggml: Option<GgmlDType>) {
            let phase = name.len() as f32 + f32::from(name.as_bytes()[13]);
            let values: Vec<f32> = (0..rows * columns)
                .map(|i| (i as f32 * 0.73 + phase).sin() * 0.2 + f32::from(u8::from(rows == 1)))
                .collect();
            let tensor = Tensor::from_vec(values.clone(), (rows, columns), &Device::Cpu).unwrap();
            let (dtype, shape, bytes) = match ggml {
                None => (
                    StoredType::Dense(Dtype::F32),
                    vec![columns],
                    values
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect(),
                ),
                Some(ggml) => {
                    let tensor = QTensor::quantize(&tensor, ggml).unwrap();
                    let bytes = tensor.data().unwrap().into_owned();
                    (StoredType::Ggml(ggml), vec![rows, columns], bytes)
                }
            };
            self.values.insert(name.to_owned(), bytes);
            self.tensors.push(StoredTensor {
                name: name.to_owned(),
                shape,
                dtype,
                file: "memory".into(),
                place: StoredPlace::default(),
            });
        }

        fn write(&self) -> (tempfile::TempDir, MappedWeights) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("language.safetensors");
            write_stored(&path, self);
            let weights = MappedWeights::open(&[path]).unwrap();
            (dir, weights)
        }
    }

    impl Checkpoint for InMemory {
        fn tensors(&self) -> &[StoredTensor] {
            &self.tensors
        }

        fn read(&self, tensor: &StoredTensor) -> Result<Vec<u8>, CheckpointError> {
            Ok(self.values[&tensor.name].clone())
        }
    }

    fn adapter() -> (LoraConfig, VarBuilder<'static>) {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            target_modules: vec!["q_proj".into(), "down_proj".into()],
        };
        let mut tensors = std::collections::HashMap::new();
        for layer in 0..2 {
            for (module, inputs, outputs) in
                [("self_attn.q_proj", 64, 64), ("mlp.down_proj", 96, 64)]
            {
                for (part, shape) in [("lora_A", (4, inputs)), ("lora_B", (outputs, 4))] {
                    let name =
                        format!("base_model.model.model.layers.{layer}.{module}.{part}.weight");
                    let values = (0..shape.0 * shape.1).map(|i| (i as f32 * 0.31).sin() * 0.1);
                    let values: Vec<f32> = values.collect();
                    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
                    tensors.insert(name, tensor);
                }
            }
        }
        (
            config,
            VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu),
        )
    }

    fn logits(model: &LanguageModel, ids: &[u32]) -> Vec<Vec<f32>> {
        let mut cache = model.cache(16).unwrap();
        let input = model.embed(ids, &[]).unwrap();
        let mut chunks = [crate::language::llama::SequenceChunk {
            cache: &mut cache,
            len: ids.len(),
        }];
        let hidden = model.forward(&input, &mut chunks).unwrap();
        model.logits(&hidden).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn a_quantised_base_answers_as_its_widened_form_does_with_and_without_an_adapter() {
        let (_dir, weights) = InMemory::new().write();
        let dense = weights.var_builder(DType::F32, &Device::Cpu);
        let quantized = BaseWeights {
            weights: &dense,
            quantized: Some(&weights),
        };
        let (lora, tensors) = adapter();
        let adapter = LoraAdapter::new(lora, tensors);
        for adapter in [None, Some(&adapter)] {
            let stays = LanguageModel::load(&config(), quantized, adapter).unwrap();
            let widened = LanguageModel::load(&config(), &dense, adapter).unwrap();
            let ids = [3, 70, 12, 95, 1];
            let (found, expected) = (logits(&stays, &ids), logits(&widened, &ids));
            let pairs = found.iter().flatten().zip(expected.iter().flatten());
            let (apart, whole) = pairs.fold((0f32, 0f32), |(apart, whole), (found, expected)| {
                (apart + (found - expected).powi(2), whole + expected.powi(2))
            });
            // Inputs in eight bits, through two layers of matrices that nearly cancel.
            assert!(apart < 0.05f32.powi(2) * whole, "{apart} of {whole}");
            assert_ne!(found, expected, "it was not widened");
            // A prompt has the same bytes in one piece and token by token.
            let alone = logits(&stays, &ids[..1]);
            assert_eq!(alone[0], found[0]);
        }
    }

    #[test]
    fn names_and_shapes_are_those_of_numbers_and_a_damaged_scale_is_found() {
        let mut made = InMemory::new();
        let (_dir, weights) = made.write();
        assert_eq!(weights.count().0, 20);
        let elements = 96 * 64 + 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64 + 2 * 64);
        assert_eq!(weights.count().1, elements as u64);
        assert_eq!(weights.dtype("model.embed_tokens.weight"), None);
        let types = weights.quantized_types();
        assert_eq!(types.values().sum::<usize>(), 15);
        let (stored, widened) = weights.quantized_bytes(DType::F16);
        assert!(stored < widened && widened == 2 * (elements as u64 - 5 * 64));
        weights.check_finite().unwrap();
        let error = weights
            .quantized("model.embed_tokens.weight", (96, 32))
            .unwrap_err();
        assert!(
            error.to_string().contains("model.embed_tokens.weight"),
            "{error}"
        );
        assert!(
            weights
                .quantized("model.norm.weight", (1, 64))
                .unwrap()
                .is_none()
        );

        let name = "model.layers.1.mlp.up_proj.weight";
        let bytes = made.values.get_mut(name).unwrap();
        let last = bytes.len() - 24;
        bytes[last / 22 * 22..][..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
        let (_dir, weights) = made.write();
        let error = weights.check_finite().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }

    #[test]
    fn a_type_that_does_not_fit_its_bytes_is_refused_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("language.safetensors");
        let header = |shape: [usize; 2]| TensorHeader {
            name: "a".into(),
            shape: shape.into(),
            dtype: Dtype::U8,
        };
        let types = BTreeMap::from([("a".to_owned(), GgmlDType::Q4_1)]);
        for shape in [[2, 21], [2, 0]] {
            let headers = [header(shape)];
            let mut writer = SafetensorsWriter::create_quantized(&path, &headers, &types).unwrap();
            writer.write(&vec![0; shape[0] * shape[1]]).unwrap();
            writer.finish().unwrap();
            let error = MappedWeights::open(std::slice::from_ref(&path))
                .map(|_| ())
                .unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains("language.safetensors") && message.contains("'a'"),
                "{message}"
            );
        }
        let matrix = StoredTensor {
            name: "a".into(),
            shape: vec![2, 2, 32],
            dtype: StoredType::Ggml(GgmlDType::Q4_1),
            file: path,
            place: StoredPlace::default(),
        };
        assert!(stored_header(&matrix).is_err());
    }
}
