//! A small LLaMA as llama.cpp's converter would write it, by candle's writer.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// Width, heads, key heads, inner width, layers and vocabulary of the model.
pub(crate) const WIDTH: usize = 64;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
const INNER: usize = 96;
const VOCABULARY: usize = 300;

/// A file in the making.
pub(crate) struct TinyLlama {
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, QTensor)>,
}

/// Values that no two rows share.
pub(crate) fn values(shape: &[usize], phase: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| (i as f32 * 0.377 + phase).sin() * 0.1)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Rows in the order in which the converter writes those of `heads` heads.
pub(crate) fn mixed(matrix: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = matrix.dims2().unwrap();
    let split = matrix.reshape((heads, 2, rows / heads / 2, columns));
    let mixed = split.unwrap().transpose(1, 2).unwrap();
    mixed
        .contiguous()
        .unwrap()
        .reshape((rows, columns))
        .unwrap()
}

impl TinyLlama {
    /// Matrices in Q4_1, the embedding in Q8_0, norms in f32, two layers, a tied head, a SentencePiece-like tokenizer.
    pub(crate) fn new() -> Self {
        let number = |value: usize| Value::U32(value as u32);
        let text = |value: &str| Value::String(value.into());
        let mut keys = vec![
            ("general.architecture", text("llama")),
            ("llama.block_count", number(2)),
            ("llama.context_length", number(128)),
            ("llama.embedding_length", number(WIDTH)),
            ("llama.feed_forward_length", number(INNER)),
            ("llama.attention.head_count", number(HEADS)),
            ("llama.attention.head_count_kv", number(KV_HEADS)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(100_000.0)),
            ("llama.rope.dimension_count", number(WIDTH / HEADS)),
            ("tokenizer.ggml.model", text("llama")),
            ("tokenizer.ggml.bos_token_id", number(1)),
            ("tokenizer.ggml.eos_token_id", number(2)),
            ("tokenizer.ggml.unknown_token_id", number(0)),
        ];
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
        let mut kinds = vec![2, 3, 3];
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        kinds.resize(tokens.len(), 6);
        let words = ["▁", "l", "u", "n", "g", "lu", "ng", "▁lu", "▁lung", "s"];
        tokens.extend(words.map(String::from));
        tokens.extend((tokens.len()..VOCABULARY).map(|id| format!("filler{id}")));
        kinds.resize(VOCABULARY, 1);
        let scores = (0..VOCABULARY).map(|id| Value::F32(-(id as f32)));
        let tokens = tokens.into_iter().map(Value::String);
        let kinds = kinds.into_iter().map(Value::I32);
        keys.extend([
            ("tokenizer.ggml.tokens", Value::Array(tokens.collect())),
            ("tokenizer.ggml.scores", Value::Array(scores.collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds.collect())),
        ]);

        let mut llama = Self {
            keys: keys
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            tensors: Vec::new(),
        };
        llama.add(
            "token_embd.weight",
            &values(&[VOCABULARY, WIDTH], 0.1),
            GgmlDType::Q8_0,
        );
        llama.add("output_norm.weight", &values(&[WIDTH], 0.2), GgmlDType::F32);
        for layer in 0..2 {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let keys = WIDTH / HEADS * KV_HEADS;
            for (part, rows, columns) in [
                ("attn_q", WIDTH, WIDTH),
                ("attn_k", keys, WIDTH),
                ("attn_v", keys, WIDTH),
                ("attn_output", WIDTH, WIDTH),
                ("ffn_gate", INNER, WIDTH),
                ("ffn_up", INNER, WIDTH),
                ("ffn_down", WIDTH, INNER),
            ] {
                let matrix = hugging_face(layer, part, rows, columns);
                let matrix = match part {
                    "attn_q" => mixed(&matrix, HEADS),
                    "attn_k" => mixed(&matrix, KV_HEADS),
                    _ => matrix,
                };
                llama.add(&name(part), &matrix, GgmlDType::Q4_1);
            }
            for part in ["attn_norm", "ffn_norm"] {
                llama.add(&name(part), &values(&[WIDTH], layer as f32), GgmlDType::F32);
            }
        }
        llama
    }

    fn add(&mut self, name: &str, tensor: &Tensor, dtype: GgmlDType) {
        let tensor = QTensor::quantize(tensor, dtype).unwrap();
        self.tensors.push((name.to_owned(), tensor));
    }

    /// Sets or adds a key.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.keys.push((key.to_owned(), value));
    }

    /// Takes a key or a tensor away.
    pub(crate) fn remove(&mut self, name: &str) {
        self.keys.retain(|(key, _)| key != name);
        self.tensors.retain(|(tensor, _)| tensor != name);
    }

    /// Writes the file.
    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("tiny.gguf");
        let mut file = File::create(&path).unwrap();
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        gguf_file::write(&mut file, &keys, &tensors).unwrap();
        path
    }
}

/// A matrix of a layer, its rows as Hugging Face has them.
pub(crate) fn hugging_face(layer: usize, part: &str, rows: usize, columns: usize) -> Tensor {
    let phase = layer as f32 * 10.0 + part.len() as f32 + part.as_bytes()[5] as f32;
    values(&[rows, columns], phase)
}
