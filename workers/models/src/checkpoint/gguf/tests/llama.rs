//! A LLaMA under the names of Hugging Face, and what is refused.

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};

use super::super::super::{Checkpoint, CheckpointError, StoredType};
use super::super::{Gguf, GgufLlama};
use super::written::{HEADS, KV_HEADS, TinyLlama, WIDTH, hugging_face, mixed, values};

fn open(llama: &TinyLlama) -> Result<GgufLlama, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    // The file is gone when this returns: what is read of it later is not asked for here.
    GgufLlama::new(Gguf::open(&llama.write(dir.path()))?)
}

/// The refusal of a good file that was spoilt in one way.
fn refusal(spoil: impl FnOnce(&mut TinyLlama)) -> String {
    let mut llama = TinyLlama::new();
    spoil(&mut llama);
    let error = open(&llama).expect_err("it is not as it should be");
    let message = error.to_string();
    assert!(message.contains("tiny.gguf'"), "{message}");
    message
}

#[test]
fn metadata_become_the_geometry_and_names_those_of_hugging_face() {
    let llama = open(&TinyLlama::new()).unwrap();
    let config = llama.config();
    assert_eq!(
        (
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size
        ),
        (300, 64, 96)
    );
    assert_eq!(
        (
            config.num_attention_heads,
            config.kv_heads(),
            config.num_hidden_layers
        ),
        (4, 2, 2)
    );
    assert_eq!(config.max_position_embeddings, 128);
    assert_eq!(config.rope_theta, 100_000.0);
    assert_eq!(
        config.rms_norm_eps, 1e-5,
        "as it was meant, not as f32 rounds it"
    );
    assert!(config.tie_word_embeddings, "there is no output.weight");
    assert_eq!(config.eos_token_id, 2);
    let names: Vec<&str> = llama
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names.len(), 20);
    assert!(names.is_sorted());
    for name in [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    ] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn rows_of_queries_and_keys_are_moved_back_in_whole_blocks_in_every_type() {
    for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let mut llama = TinyLlama::new();
        for (part, rows, heads) in [("attn_q", WIDTH, HEADS), ("attn_k", WIDTH / 2, KV_HEADS)] {
            let name = format!("blk.1.{part}.weight");
            llama.remove(&name);
            let matrix = mixed(&hugging_face(1, part, rows, WIDTH), heads);
            let matrix = QTensor::quantize(&matrix, dtype).unwrap();
            llama.tensors.push((name, matrix));
        }
        let gguf = Gguf::open(&llama.write(dir.path())).unwrap();
        let llama = GgufLlama::new(gguf).unwrap();
        for (part, name, rows) in [("attn_q", "q_proj", WIDTH), ("attn_k", "k_proj", WIDTH / 2)] {
            let name = format!("model.layers.1.self_attn.{name}.weight");
            let tensor = llama.find(&name).unwrap();
            let expected = QTensor::quantize(&hugging_face(1, part, rows, WIDTH), dtype).unwrap();
            assert_eq!(llama.read(tensor).unwrap(), &*expected.data().unwrap());
        }
        let values = llama
            .find("model.layers.0.self_attn.v_proj.weight")
            .unwrap();
        assert_eq!(values.dtype, StoredType::Ggml(GgmlDType::Q4_1));
        let expected = hugging_face(0, "attn_v", WIDTH / 2, WIDTH);
        let expected = QTensor::quantize(&expected, GgmlDType::Q4_1).unwrap();
        assert_eq!(llama.read(values).unwrap(), &*expected.data().unwrap());
    }
}

#[test]
fn another_architecture_is_refused_by_its_name() {
    let message = refusal(|file| file.set("general.architecture", Value::String("qwen2".into())));
    assert!(message.contains("architecture is qwen2"), "{message}");
    assert!(refusal(|file| file.remove("general.architecture")).contains("is none"));
}

#[test]
fn what_the_decoder_does_not_have_is_refused_by_its_key() {
    let set = |key: &'static str, value: Value| move |file: &mut TinyLlama| file.set(key, value);
    let text = |text: &str| Value::String(text.into());
    let message = refusal(|file| {
        file.set("llama.rope.scaling.type", text("yarn"));
        file.set("llama.rope.scaling.factor", Value::F32(4.0));
    });
    assert!(message.contains("rope scaling 'yarn' by 4"), "{message}");
    assert!(refusal(set("llama.rope.scale_linear", Value::F32(2.0))).contains("'linear' by 2"));
    for (key, value) in [
        ("llama.attention.key_length", 32),
        ("llama.attention.value_length", 8),
        ("llama.rope.dimension_count", 8),
        ("llama.expert_count", 8),
        ("llama.attention.sliding_window", 32),
        ("llama.vocab_size", 301),
    ] {
        let message = refusal(set(key, Value::U32(value)));
        assert!(message.contains(key), "{message}");
    }
    let per_layer = Value::Array(vec![Value::U32(2), Value::U32(4)]);
    let message = refusal(set("llama.attention.head_count_kv", per_layer));
    assert!(
        message.contains("head_count_kv is one for each layer"),
        "{message}"
    );
    let message = refusal(set("llama.attention.head_count_kv", Value::U32(3)));
    assert!(message.contains("num_key_value_heads"), "{message}");
    let message = refusal(set("llama.block_count", Value::U32(u32::MAX)));
    assert!(message.contains("llama.block_count"), "{message}");
    assert!(refusal(|file| file.remove("llama.context_length")).contains("llama.context_length"));
    assert!(refusal(|file| file.remove("tokenizer.ggml.eos_token_id")).contains("eos_token_id"));

    // What changes nothing is no reason.
    let mut fine = TinyLlama::new();
    fine.set("llama.rope.scaling.type", text("none"));
    fine.set("llama.attention.key_length", Value::U32(16));
    fine.set("llama.attention.sliding_window", Value::U32(0));
    open(&fine).unwrap();
}

#[test]
fn a_part_of_a_model_and_a_tokenizer_of_another_are_refused() {
    let message = refusal(|file| file.set("split.count", Value::U16(3)));
    assert!(message.contains("one of 3 files"), "{message}");
    let tokens = Value::Array(vec![Value::String("a".into()), Value::String("b".into())]);
    let message = refusal(|file| file.set("tokenizer.ggml.tokens", tokens));
    assert!(
        message.contains("'token_embd.weight' (shape [300, 64])") && message.contains("2 tokens"),
        "{message}"
    );
}

#[test]
fn tensors_that_are_missing_unknown_or_of_another_shape_are_refused() {
    let message = refusal(|file| file.remove("blk.1.ffn_up.weight"));
    assert!(
        message.contains("'model.layers.1.mlp.up_proj.weight' (shape [96, 64])"),
        "{message}"
    );
    let message = refusal(|file| file.remove("token_embd.weight"));
    assert!(message.contains("'token_embd.weight'"), "{message}");
    let add = |name: &'static str| {
        move |file: &mut TinyLlama| {
            let tensor = QTensor::quantize(&values(&[64], 0.0), GgmlDType::F32).unwrap();
            file.tensors.push((name.to_owned(), tensor));
        }
    };
    assert!(refusal(add("blk.0.attn_q.bias")).contains("biases"));
    assert!(refusal(add("rope_freqs.weight")).contains("rotary frequencies of its own"));
    assert!(refusal(add("blk.2.attn_norm.weight")).contains("'blk.2.attn_norm.weight'"));
    let message = refusal(|file| {
        file.remove("blk.0.attn_norm.weight");
        add("blk.0.attn_norm.weight")(file);
        file.set("llama.embedding_length", Value::U32(128));
        file.set("llama.rope.dimension_count", Value::U32(32));
    });
    assert!(message.contains("ask for the shape"), "{message}");
}
