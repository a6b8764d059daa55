//! `train language` on a bundle of RaDialog v2: LoRA beside all linear layers, the projector, and samples in LLaVA's format.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::{RandomBundle, System};
use radialog_training::recipe::LanguageRecipe;
use radialog_training::trainers::curves::EpochMetrics;
use radialog_training::trainers::{LanguageTrainer, Training};
use serde_json::{Value, json};

use super::fixture::TrainingFixture;
use super::language_training::{serve, set_recipe};

const IMAGES: usize = 3;
const LORA: &str = "[lora]\nr = 4\nalpha = 8\ntarget_modules = [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \
                    \"gate_proj\", \"up_proj\", \"down_proj\"]\n";

/// A conversation about an image, as RaDialog-Instruct has them.
fn conversation(index: usize) -> Value {
    let lungs = ["clear", "congested", "hazy"][index % 3];
    json!({
        "image": format!("files/p10/s1/image{}.jpg", index % IMAGES),
        "conversations": [
            {"from": "human", "value": "<image>. Predicted Findings: edema. Describe it."},
            {"from": "gpt", "value": format!("The lungs are {lungs}.")},
        ],
    })
}

/// The same as `radialog prepare --system v2` writes it.
fn prompt(index: usize) -> Value {
    let message = &conversation(index)["conversations"];
    json!({
        "instruction": format!("S. USER: {} ASSISTANT:", message[0]["value"].as_str().unwrap()),
        "output": message[1]["value"],
        "dicom": format!("image{}", index % IMAGES),
    })
}

fn fixture() -> TrainingFixture<LanguageTrainer> {
    let start = |recipe: &std::path::Path, out: &std::path::Path, resume| {
        Training::language(LanguageRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    let fixture = TrainingFixture::new(start, None);
    let bundle = RandomBundle {
        dtype: safetensors::Dtype::BF16,
        system: System::V2,
        ..RandomBundle::tiny(7)
    };
    bundle.write(&fixture.path("start")).unwrap();
    let image = |index: usize| {
        let tokens = Tensor::randn(0f32, 1.0, (196, 128), &Device::Cpu).unwrap();
        (format!("image{index}"), tokens)
    };
    let images: HashMap<String, Tensor> = (0..IMAGES).map(image).collect();
    candle_core::safetensors::save(&images, fixture.path("images.safetensors")).unwrap();
    let train = (0..4).map(conversation).chain((0..4).map(prompt));
    fixture.write("train.json", &Value::from_iter(train).to_string());
    let lines: Vec<String> = (0..2)
        .map(|index| conversation(index).to_string())
        .collect();
    fixture.write("validate.jsonl", &lines.join("\n"));
    fixture
}

#[test]
fn all_linear_layers_and_the_projector_learn_and_the_checkpoint_is_served() {
    let fixture = fixture();
    set_recipe(
        &fixture,
        &format!("start = \"start\"\nepochs = 4\nrate = 1e-2\n{LORA}"),
    );
    let learned = fixture.run_whole("out");
    let loss = |row: &EpochMetrics| row.get("validation_loss").unwrap();
    let (first, last) = (loss(&learned[0]), loss(&learned[3]));
    assert!(last < 0.9 * first, "{first} then {last}");

    let adapter = fixture.tensors("out/last/adapter_model.safetensors");
    let before = fixture.tensors("start/adapter.safetensors");
    let bits = |tensor: &Tensor| -> Vec<f32> {
        tensor
            .to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let moved = |name: &str| bits(&adapter[name]).iter().any(|value| *value != 0.0);
    for module in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    ] {
        let name = format!("base_model.model.model.layers.1.{module}.lora_B.weight");
        assert!(moved(&name), "{name}");
    }
    for module in ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
        let name = format!("base_model.model.model.layers.0.{module}.lora_B.weight");
        assert!(moved(&name), "{name}");
    }
    for part in ["0.weight", "0.bias", "2.weight", "2.bias"] {
        let name = format!("base_model.model.model.mm_projector.{part}");
        assert_ne!(bits(&adapter[&name]), bits(&before[&name]), "{name}");
    }
    let served = serve(&fixture, "out/last");
    assert_eq!(served.model.config().num_image_tokens, 196);
    assert!(served.prompts.view.is_some());
}

#[test]
fn a_data_set_of_the_other_system_is_refused_by_name() {
    let fixture = fixture();
    let v1 = json!([{
        "instruction": format!("S. USER: {}. x ASSISTANT:", "<IMG>".repeat(32)),
        "output": "y",
        "dicom": "image0",
    }]);
    fixture.write("train.json", &v1.to_string());
    set_recipe(&fixture, &format!("start = \"start\"\n{LORA}"));
    let fault = fixture
        .training("refused", false)
        .err()
        .unwrap()
        .to_string();
    assert!(
        fault.contains("train.json") && fault.contains("--system"),
        "{fault}"
    );
}
