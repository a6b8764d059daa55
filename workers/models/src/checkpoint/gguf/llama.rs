//! A LLaMA in a GGUF file, as the checkpoint of Hugging Face that it was converted from: its geometry, its names, and the
//! order of rows in its query and key matrices, which the conversion changes.

use super::super::{Checkpoint, CheckpointError, StoredTensor, sorted};
use super::{Gguf, GgufArray, GgufValue};
use crate::language::LlamaConfig;

/// The architecture that is read.
const ARCHITECTURE: &str = "llama";

/// The tensors of a LLaMA that are not in a layer: names there and here.
const OUTER: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The tensors of a layer, below `blk.N.` there and `model.layers.N.` here.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// A GGUF file of architecture `llama` under the names of Hugging Face. Quantised matrices stay quantised: rows of whole
/// blocks are moved.
#[derive(Debug)]
pub struct GgufLlama {
    gguf: Gguf,
    config: LlamaConfig,
    tensors: Vec<StoredTensor>,
}

impl GgufLlama {
    /// Finds geometry and tensors in an opened file.
    ///
    /// # Errors
    /// Another architecture, a geometry that the decoder does not have (stretched rotary frequencies, several experts, heads
    /// of another width), or tensors that are missing, unknown or of another shape. Each is named.
    pub fn new(gguf: Gguf) -> Result<Self, CheckpointError> {
        let config = config(&gguf)?;
        let mut tensors = Vec::with_capacity(gguf.tensors().len());
        for tensor in gguf.tensors() {
            let name = hugging_face_name(&tensor.name, config.num_hidden_layers)
                .ok_or_else(|| tensor.fault(unknown_tensor(&tensor.name)))?;
            tensors.push(StoredTensor {
                name,
                ..tensor.clone()
            });
        }
        let llama = Self {
            tensors: sorted(tensors)?,
            gguf,
            config,
        };
        llama.check_tensors()?;
        Ok(llama)
    }

    /// The geometry. It has no image tokens of its own.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Checks that each tensor of the geometry is there, in its shape. The first one that is missing ends it, so that a number of
    /// layers costs no more than the file has tensors.
    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let config = &self.config;
        let (width, vocabulary) = (config.hidden_size, config.vocab_size);
        self.check_tensor("model.embed_tokens.weight", &[vocabulary, width])?;
        self.check_tensor("model.norm.weight", &[width])?;
        if !config.tie_word_embeddings {
            self.check_tensor("lm_head.weight", &[vocabulary, width])?;
        }
        for layer in 0..config.num_hidden_layers {
            let layer = format!("model.layers.{layer}");
            for (name, inputs, outputs) in config.layer_matrices() {
                self.check_tensor(&format!("{layer}.{name}.weight"), &[outputs, inputs])?;
            }
            for name in ["input_layernorm", "post_attention_layernorm"] {
                self.check_tensor(&format!("{layer}.{name}.weight"), &[width])?;
            }
        }
        Ok(())
    }

    fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<(), CheckpointError> {
        match self.find(name) {
            Some(tensor) if tensor.shape == shape => Ok(()),
            Some(tensor) => {
                let reason = format!("the file's metadata ask for the shape {shape:?}");
                Err(tensor.fault(reason))
            }
            None => {
                let reason = format!(
                    "it has no tensor for '{name}' (shape {shape:?}): it is no whole model"
                );
                Err(fault(&self.gguf, reason))
            }
        }
    }

    /// The heads whose rows the conversion has mixed, of a query or key matrix.
    fn mixed_heads(&self, name: &str) -> Option<usize> {
        if name.ends_with("self_attn.q_proj.weight") {
            Some(self.config.num_attention_heads)
        } else if name.ends_with("self_attn.k_proj.weight") {
            Some(self.config.kv_heads())
        } else {
            None
        }
    }
}

impl Checkpoint for GgufLlama {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    fn read(&self, tensor: &StoredTensor) -> Result<Vec<u8>, CheckpointError> {
        let values = self.gguf.read(tensor)?;
        Ok(match self.mixed_heads(&tensor.name) {
            None => values,
            Some(heads) => in_order(&values, heads, tensor.shape[0]),
        })
    }
}

/// The name in a Hugging Face checkpoint.
fn hugging_face_name(name: &str, layers: usize) -> Option<String> {
    let outer = OUTER.iter().find(|(theirs, _)| *theirs == name);
    if let Some((_, ours)) = outer {
        return Some((*ours).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok().filter(|layer| *layer < layers)?;
    let (_, ours) = LAYER.iter().find(|(theirs, _)| *theirs == part)?;
    Some(format!("model.layers.{layer}.{ours}"))
}

fn unknown_tensor(name: &str) -> String {
    match name {
        "rope_freqs.weight" => "rotary frequencies of its own (as of Llama 3.1) are not supported: use a model without \
                                rope scaling"
            .to_owned(),
        _ if name.ends_with(".bias") => "biases are not supported by this decoder".to_owned(),
        _ => "the decoder has no place for it".to_owned(),
    }
}

/// Rows as Hugging Face orders them: in each head first those of the rotation's first half, then of its second. The file
/// has the two of each angle beside each other.
fn in_order(values: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (row, half) = (values.len() / rows, rows / heads / 2);
    let mut ordered = Vec::with_capacity(values.len());
    for head in values.chunks_exact(2 * half * row) {
        for part in 0..2 {
            for angle in 0..half {
                ordered.extend_from_slice(&head[(2 * angle + part) * row..][..row]);
            }
        }
    }
    ordered
}

fn fault(gguf: &Gguf, reason: String) -> CheckpointError {
    CheckpointError::Content {
        file: gguf.file().to_owned(),
        reason,
    }
}

fn config(gguf: &Gguf) -> Result<LlamaConfig, CheckpointError> {
    let refuse = |reason: String| fault(gguf, reason);
    let architecture = gguf.metadata().get("general.architecture");
    let architecture = architecture.and_then(GgufValue::as_text);
    if architecture != Some(ARCHITECTURE) {
        let name = architecture.unwrap_or("none");
        return Err(refuse(format!(
            "its architecture is {name}, and {ARCHITECTURE} is read: choose a LLaMA-family model"
        )));
    }
    let parts = gguf.metadata().get("split.count");
    if let Some(parts) = parts.and_then(GgufValue::as_u64).filter(|parts| *parts > 1) {
        return Err(refuse(format!(
            "it is one of {parts} files of a model: join them with `llama-gguf-split --merge`"
        )));
    }
    let keys = Keys { gguf };
    let (width, heads) = (
        keys.size("embedding_length")?,
        keys.size("attention.head_count")?,
    );
    let kv_heads = keys.optional_size("attention.head_count_kv")?;
    let head = width.checked_div(heads).unwrap_or(0);
    for key in [
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
    ] {
        if let Some(found) = keys.optional_size(key)?.filter(|found| *found != head) {
            return Err(refuse(format!(
                "{ARCHITECTURE}.{key} is {found}, and this decoder's heads have the width {head} (embedding_length by \
                 head_count)"
            )));
        }
    }
    keys.check_rope()?;
    for key in ["expert_count", "expert_used_count"] {
        if let Some(count) = keys.optional_size(key)?.filter(|count| *count > 0) {
            return Err(refuse(format!(
                "{ARCHITECTURE}.{key} is {count}: mixtures of experts are not supported"
            )));
        }
    }
    let context = keys.size("context_length")?;
    let window = keys.optional_size("attention.sliding_window")?;
    if let Some(window) = window.filter(|window| (1..context).contains(window)) {
        return Err(refuse(format!(
            "{ARCHITECTURE}.attention.sliding_window is {window}: attention to a part of the context is not supported"
        )));
    }
    let embedding = gguf.find("token_embd.weight").ok_or_else(|| {
        refuse("it has no tensor 'token_embd.weight': it is no whole model".to_owned())
    })?;
    let vocabulary = embedding.shape[0];
    if let Some(named) = keys
        .optional_size("vocab_size")?
        .filter(|named| *named != vocabulary)
    {
        return Err(embedding.fault(format!("{ARCHITECTURE}.vocab_size is {named}")));
    }
    let tokens = gguf.metadata().get("tokenizer.ggml.tokens");
    if let Some(GgufArray::Text(tokens)) = tokens.and_then(GgufValue::as_array)
        && tokens.len() != vocabulary
    {
        return Err(embedding.fault(format!(
            "its tokenizer has {} tokens: they belong to another model",
            tokens.len()
        )));
    }
    let eos = gguf.metadata().get("tokenizer.ggml.eos_token_id");
    let eos = eos
        .and_then(GgufValue::as_u64)
        .filter(|eos| *eos < vocabulary as u64)
        .ok_or_else(|| {
            refuse("tokenizer.ggml.eos_token_id is missing or not in the vocabulary".to_owned())
        })?;
    let config = LlamaConfig {
        vocab_size: vocabulary,
        hidden_size: width,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers: keys.size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        max_position_embeddings: context,
        rms_norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| {
                refuse(format!(
                    "{ARCHITECTURE}.attention.layer_norm_rms_epsilon is missing"
                ))
            })?,
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0) as f32,
        tie_word_embeddings: gguf.find("output.weight").is_none(),
        eos_token_id: eos as u32,
        ..LlamaConfig::vicuna_7b()
    };
    config
        .validate()
        .map_err(|error| refuse(error.to_string()))?;
    Ok(config)
}

/// Keys of the architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<(String, &GgufValue)> {
        let key = format!("{ARCHITECTURE}.{key}");
        self.gguf.metadata().get(&key).map(|value| (key, value))
    }

    /// A whole number that is no absurd size.
    fn optional_size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        const LARGEST: u64 = 1 << 24;
        let Some((key, value)) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().filter(|value| *value <= LARGEST) {
            Some(value) => Ok(Some(value as usize)),
            None => {
                let shown = match value {
                    GgufValue::Array(_) => "one for each layer".to_owned(),
                    other => format!("{other:?}"),
                };
                Err(fault(
                    self.gguf,
                    format!("{key} is {shown}, and one whole number up to {LARGEST} is read"),
                ))
            }
        }
    }

    fn size(&self, key: &str) -> Result<usize, CheckpointError> {
        self.optional_size(key)?
            .filter(|size| *size > 0)
            .ok_or_else(|| {
                fault(
                    self.gguf,
                    format!("{ARCHITECTURE}.{key} is missing or 0: it is no whole model"),
                )
            })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let Some((key, value)) = self.get(key) else {
            return Ok(None);
        };
        // A number of six digits that was written in f32 is meant as it reads.
        let number = match value {
            GgufValue::F32(value) => value.to_string().parse().ok(),
            other => other.as_f64(),
        };
        match number.filter(|number: &f64| number.is_finite() && *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(fault(
                self.gguf,
                format!("{key} is {value:?}, and a positive number is read"),
            )),
        }
    }

    /// Refuses rotary frequencies that are stretched.
    fn check_rope(&self) -> Result<(), CheckpointError> {
        let kind = self.get("rope.scaling.type");
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            factor => factor,
        };
        let name = kind.as_ref().and_then(|(_, value)| value.as_text());
        match (name, factor) {
            (None | Some("none"), None) | (Some("none"), _) => Ok(()),
            (None | Some("linear"), Some(1.0)) => Ok(()),
            (name, factor) => Err(fault(
                self.gguf,
                format!(
                    "rope scaling '{}' by {} is not supported: use a model without it",
                    name.unwrap_or("linear"),
                    factor.map_or_else(|| "?".to_owned(), |factor| factor.to_string())
                ),
            )),
        }
    }
}
