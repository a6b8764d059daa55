//! A trained adapter in Python: PEFT loads the folder of a checkpoint as it is, and gives the same logits. PyTorch's packages
//! take gigabytes, so that this runs only where `RADIALOG_PEFT` is set.
#![expect(
    clippy::print_stdout,
    reason = "whether it ran, and how close both are, is this test's result"
)]

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::language::TrainingSequence;
use radialog_schemas::Stage;
use radialog_tests::benchmark::{peer_python, run};
use serde_json::json;

use super::language_training::{fixture, serve, set_recipe};

/// Says that the test is wanted.
const VARIABLE: &str = "RADIALOG_PEFT";
/// What is installed.
const PACKAGES: [&str; 4] = [
    "torch==2.5.1",
    "numpy<3",
    "transformers>=4.46,<5",
    "peft>=0.13,<1",
];
/// Furthest that a logit may be from Python's.
const TOLERANCE: f32 = 1e-4;

const PYTHON: &str = r#"
import sys, torch, transformers, peft
from safetensors.torch import load_file, save_file
base, adapter, inputs, outputs = sys.argv[1:]
model = transformers.LlamaForCausalLM.from_pretrained(base, torch_dtype=torch.float32, attn_implementation="eager")
model = peft.PeftModel.from_pretrained(model, adapter).eval()
layers = [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
assert all(layer.lora_B["default"].weight.abs().sum() > 0 for layer in layers), "an addition was not loaded"
inputs = load_file(inputs)
projection = load_file(adapter + "/adapter_model.safetensors")
weight, bias = (projection[f"base_model.model.model.img_proj_layer.{name}"] for name in ("weight", "bias"))
with torch.no_grad():
    embed = model.get_input_embeddings()
    image = inputs["image"] @ weight.T + bias
    embedded = torch.cat([embed(inputs["before"]), image, embed(inputs["after"])])[None]
    save_file({"logits": model(inputs_embeds=embedded).logits[0].contiguous()}, outputs)
print(len(layers), "layers,", "peft", peft.__version__, "transformers", transformers.__version__)
"#;

#[test]
fn python_peft_loads_the_adapter_of_a_checkpoint_and_gives_the_same_logits() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        println!("not run: set {VARIABLE}=1 where PyTorch may be installed");
        return Ok(());
    }
    let fixture = fixture();
    let keys = "start = \"start\"\nepochs = 3\nrate = 1e-2\n[lora]\ntarget_modules = [\"q_proj\", \"v_proj\", \"down_proj\"]\n";
    set_recipe(&fixture, keys);
    fixture.run_whole("out");

    let bundle = fixture.bundle("out/last", Stage::Language);
    let config: LanguageComponent = bundle.config(Stage::Language)?;
    let mut hugging_face = serde_json::to_value(&config.llama)?;
    hugging_face["model_type"] = json!("llama");
    hugging_face["architectures"] = json!(["LlamaForCausalLM"]);
    fs::create_dir(fixture.path("base"))?;
    fs::write(fixture.path("base/config.json"), hugging_face.to_string())?;
    let base = fixture.tensors("start/language.safetensors");
    let base: Vec<(String, Tensor)> = base.into_iter().collect();
    let format = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(base, Some(format), &fixture.path("base/model.safetensors"))?;

    let (before, after, image) = (
        [1u32, 300, 301, 302],
        [303u32, 304, 305, 306, 307],
        config.llama.image_token(),
    );
    let tokens = Tensor::randn(
        0f32,
        1.0,
        (config.llama.num_image_tokens, config.llama.image_dim),
        &Device::Cpu,
    )?;
    let as_python = |ids: &[u32]| Tensor::new(ids, &Device::Cpu)?.to_dtype(candle_core::DType::I64);
    let inputs = [
        ("before", as_python(&before)?),
        ("after", as_python(&after)?),
        ("image", tokens.clone()),
    ];
    candle_core::safetensors::save(&inputs.into(), fixture.path("inputs.safetensors"))?;

    let language = serve(&fixture, "out/last");
    let ids = [
        before.as_slice(),
        &vec![image; config.llama.num_image_tokens],
        after.as_slice(),
    ]
    .concat();
    let input = language.model.embed_packed(&[TrainingSequence {
        ids: &ids,
        images: &[tokens],
    }])?;
    let ours = language
        .model
        .logits(&language.model.forward_packed(&input, &[ids.len()])?)?;

    let python = peer_python("peft", &PACKAGES)?;
    let paths = [
        "base",
        "out/last",
        "inputs.safetensors",
        "logits.safetensors",
    ]
    .map(|name| fixture.path(name));
    println!(
        "{}",
        run(Command::new(python)
            .args(["-c", PYTHON])
            .args(&paths)
            .env("HF_HUB_OFFLINE", "1"))?
        .trim()
    );
    let theirs = &candle_core::safetensors::load(&paths[3], &Device::Cpu)?["logits"];
    let worst = (ours - theirs)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_scalar::<f32>()?;
    println!("largest difference of a logit: {worst:.1e}");
    ensure!(worst < TOLERANCE, "a logit differs by {worst}");
    Ok(())
}
