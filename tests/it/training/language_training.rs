//! `train language` from a recipe to checkpoints: an adapter beside frozen weights, and all weights.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::bundle::{BundleAssembly, RandomBundle, read_manifest};
use radialog_models::language::TrainingSequence;
use radialog_models::prompt::Prompts;
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_schemas::{ContentHash, Stage};
use radialog_training::data::sample_form::SampleForm;
use radialog_training::data::tokenized_dataset::TokenizedDataset;
use radialog_training::data::tokenized_sample::TokenizedSample;
use radialog_training::losses::language::NextTokenTargets;
use radialog_training::prepare::TensorFileHeader;
use radialog_training::recipe::LanguageRecipe;
use radialog_training::trainers::curves::EpochMetrics;
use radialog_training::trainers::{LanguageTrainer, StepReport, Training};
use serde_json::{Value, json};

use super::fixture::{RECIPE, TrainingFixture, rows};

/// A geometry for the tokenizer of the tiny bundle.
const GEOMETRY: &str = "[geometry]\nvocab_size = 1000\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 2\n\
                        num_attention_heads = 4\nnum_key_value_heads = 2\nimage_dim = 64\n";
const IMAGES: usize = 4;
const SAMPLES: usize = 12;

/// Twelve training samples and three for validation, about four images. The recipe is written by [`set_recipe`].
pub(super) fn fixture() -> TrainingFixture<LanguageTrainer> {
    let start = |recipe: &Path, out: &Path, resume| {
        Training::language(LanguageRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    let fixture = TrainingFixture::new(start, None);
    let bundle = RandomBundle {
        dtype: safetensors::Dtype::F16,
        ..RandomBundle::tiny(7)
    };
    bundle.write(&fixture.path("start")).unwrap();
    let image = |index: usize| {
        (
            format!("image{index}"),
            Tensor::randn(0f32, 1.0, (32, 64), &Device::Cpu).unwrap(),
        )
    };
    let images: HashMap<String, Tensor> = (0..IMAGES).map(image).collect();
    candle_core::safetensors::save(&images, fixture.path("images.safetensors")).unwrap();
    fixture.write(
        "train.json",
        &Value::from_iter((0..SAMPLES).map(sample)).to_string(),
    );
    let lines: Vec<String> = (0..3).map(|index| sample(index).to_string()).collect();
    fixture.write("validate.jsonl", &lines.join("\n"));
    fixture
}

/// Writes a recipe of these keys, over the fixture's data where they name none.
pub(super) fn set_recipe(fixture: &TrainingFixture<LanguageTrainer>, keys: &str) {
    let data = "data = [\"train.json\"]\nvalidation = [\"validate.jsonl\"]\nembeddings = [\"images.safetensors\"]\n\
                batch_size = 2\naccumulation = 2\nwarmup = 2\n";
    let data = if keys.contains("data =") { "" } else { data };
    fixture.write(RECIPE, &format!("{data}{keys}"));
}

/// Runs a training with these keys from its start to its end.
fn run_with(
    fixture: &TrainingFixture<LanguageTrainer>,
    out: &str,
    keys: &str,
) -> Vec<EpochMetrics> {
    set_recipe(fixture, keys);
    fixture.run_whole(out)
}

/// Prepares a training with these keys, which is refused.
fn refusal(fixture: &TrainingFixture<LanguageTrainer>, keys: &str) -> String {
    set_recipe(fixture, keys);
    fixture
        .training("refused", false)
        .err()
        .unwrap()
        .to_string()
}

/// A checkpoint as the language stage loads it.
pub(super) fn serve(fixture: &TrainingFixture<LanguageTrainer>, dir: &str) -> LanguagePipeline {
    let bundle = fixture.bundle(dir, Stage::Language);
    bundle.verify().unwrap();
    LanguagePipeline::load(&bundle, &Device::Cpu).unwrap()
}

/// The validation loss of a checkpoint as it is served.
fn served_loss(fixture: &TrainingFixture<LanguageTrainer>, dir: &str) -> f64 {
    let language = serve(fixture, dir);
    let images = fixture.tensors("images.safetensors");
    let (mut sum, mut count) = (0.0, 0);
    for index in 0..3 {
        let (sample, text) = (sample(index), |value: &Value| {
            value.as_str().unwrap().to_owned()
        });
        let (prompt, answer) = (text(&sample["instruction"]), text(&sample["output"]));
        let example = TokenizedSample::encode(&language.tokenizer, &prompt, &answer, 1024).unwrap();
        let images = [images[sample["dicom"].as_str().unwrap()].clone()];
        let input = language
            .model
            .embed_packed(&[TrainingSequence {
                ids: &example.ids,
                images: &images,
            }])
            .unwrap();
        let hidden = language
            .model
            .forward_packed(&input, &[example.ids.len()])
            .unwrap();
        let learned = NextTokenTargets::of(&[example.targets()]);
        let logits = language
            .model
            .logits(&learned.rows(&hidden).unwrap())
            .unwrap();
        sum += f64::from(learned.loss(&logits).unwrap().to_scalar::<f32>().unwrap())
            * learned.len() as f64;
        count += learned.len();
    }
    sum / count as f64
}

fn sample(index: usize) -> Value {
    let image = "<IMG>".repeat(32);
    let (lungs, heart) = (
        ["clear", "congested", "hazy"][index % 3],
        ["normal", "enlarged"][index % 2],
    );
    json!({
        "instruction": format!("You are a radiologist. USER: Image information: {image}. Describe it. ASSISTANT:"),
        "input": "",
        "output": format!("The lungs are {lungs}. The heart is {heart}."),
        "dicom": format!("image{}", index % IMAGES),
    })
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn an_adapter_that_is_resumed_ends_with_the_same_bytes_and_its_frozen_weights_are_those_of_the_start()
 {
    let fixture = fixture();
    let keys = "start = \"start\"\nepochs = 3\nrate = 1e-2\n[lora]\ndropout = 0.2\n";
    run_with(&fixture, "whole", keys);
    fixture.run_in_parts("parts", &[4]);
    fixture.assert_same_bytes(
        "whole",
        "parts",
        &[
            "adapter_model.safetensors",
            "optimizer.safetensors",
            "bundle.json",
        ],
    );
    let base = "last/language.base.safetensors";
    assert_eq!(
        inode(&fixture.path("whole").join(base)),
        inode(&fixture.path("start/language.safetensors"))
    );
    assert_eq!(
        inode(&fixture.path("parts").join(base)),
        inode(&fixture.path("start/language.safetensors"))
    );
}

#[test]
fn a_language_model_is_not_put_beside_an_encoder_whose_image_tokens_it_never_saw() {
    let fixture = fixture();
    RandomBundle::tiny(8).write(&fixture.path("other")).unwrap();
    let origin = |bundle: &str| {
        let manifest = read_manifest(&fixture.path(bundle)).unwrap();
        manifest.origin(Stage::Embedding).unwrap()
    };
    let images = fixture.tensors("images.safetensors");
    let write = |name: &str, origin: &ContentHash| {
        let path = fixture.path(name);
        let mut header = TensorFileHeader::create_made_by(&path, &[32, 64], Some(origin)).unwrap();
        images.keys().for_each(|name| header.add(name).unwrap());
        let mut rows = header.rows().unwrap();
        for tensor in images.values() {
            rows.add(&tensor.flatten_all().unwrap().to_vec1().unwrap())
                .unwrap();
        }
        rows.finish().unwrap();
    };
    write("images.safetensors", &origin("start"));
    write("strange.safetensors", &origin("other"));
    let keys = "start = \"start\"\nepochs = 1\n[lora]\n";
    run_with(&fixture, "out", keys);
    let learned = read_manifest(&fixture.path("out/best")).unwrap();
    let learned = learned.components[&Stage::Language].image_tokens_of.clone();
    assert_eq!(learned, Some(origin("start")));

    let assemble = |dir: &str, embedding: &str, half: bool| {
        let assembly = BundleAssembly {
            name: dir.to_owned(),
            version: "1".to_owned(),
            license: None,
            half,
            parts: [(Stage::Language, "out/best"), (Stage::Embedding, embedding)]
                .map(|(stage, part)| (stage, fixture.path(part)))
                .into(),
            calibration: None,
        };
        assembly.write(&fixture.path(dir))
    };
    let error = assemble("wrong", "other", false).unwrap_err().to_string();
    assert!(error.contains("image tokens"), "{error}");
    assert!(!fixture.path("wrong").exists());
    // Stored otherwise, and assembled again, it is the same encoder.
    assemble("half", "start", true).unwrap();
    assemble("again", "half", false).unwrap();
    let whole = read_manifest(&fixture.path("again")).unwrap();
    assert_eq!(whole.origin(Stage::Embedding), Some(origin("start")));
    assert_ne!(whole.component_hash(Stage::Embedding), origin("start"));

    let both = "data = [\"train.json\"]\nvalidation = [\"validate.jsonl\"]\nembeddings = [\"images.safetensors\", \
                \"strange.safetensors\"]\nstart = \"start\"\n[lora]\n";
    let refused = refusal(&fixture, both);
    assert!(refused.contains("make them with one bundle"), "{refused}");
}

#[test]
fn all_weights_of_a_training_that_was_killed_end_with_the_same_bytes() {
    let fixture = fixture();
    let keys = format!(
        "full = true\ntokenizer = \"start/language.tokenizer.json\"\nepochs = 2\nrate = 1e-2\ndropout = 0.1\n\
         checkpoint_steps = 2\n{GEOMETRY}"
    );
    run_with(&fixture, "whole", &keys);
    // The third step is lost: the checkpoint is that of the second.
    let killed = fixture.training("parts", false).unwrap();
    let dies = |step: StepReport| assert!(step.step < 3, "killed");
    std::panic::catch_unwind(AssertUnwindSafe(|| killed.run(&|| false, &dies))).unwrap_err();
    rows(fixture.run("parts", true, u64::MAX).unwrap());
    fixture.assert_same_bytes(
        "whole",
        "parts",
        &["language.safetensors", "optimizer.safetensors"],
    );
}

#[test]
fn an_adapter_learns_is_served_as_it_was_measured_and_can_be_taken_into_the_weights() {
    let fixture = fixture();
    let lora = "[lora]\nr = 4\nalpha = 8\ntarget_modules = [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \
                \"up_proj\", \"down_proj\"]\n";
    let learned = run_with(
        &fixture,
        "lora",
        &format!("start = \"start\"\nepochs = 8\nrate = 1e-2\n{lora}"),
    );
    let loss = |row: &EpochMetrics| row.get("validation_loss").unwrap();
    let (first, last) = (loss(&learned[0]), loss(&learned[7]));
    assert!(last < 0.8 * first, "{first} then {last}");
    let served = served_loss(&fixture, "lora/last");
    assert!((served - last).abs() < 1e-4, "{served} and {last}");
    // Steps this small change nothing: what is measured are the weights that the training started from.
    let still = "epochs = 1\nrate = 1e-12\n";
    let whole = run_with(
        &fixture,
        "whole",
        &format!("start = \"lora/last\"\nfull = true\n{still}"),
    );
    assert!(
        (loss(&whole[0]) - last).abs() < 1e-4,
        "{} and {last}",
        loss(&whole[0])
    );
    assert!((served_loss(&fixture, "whole/last") - last).abs() < 1e-4);
    assert!(
        !fixture
            .path("whole/last/adapter_model.safetensors")
            .exists()
    );
    let goes_on =
        format!("start = \"lora/last\"\n{still}{lora}dropout = 0.0\nresume_adapter = true\n");
    let goes_on = run_with(&fixture, "on", &goes_on);
    assert!(
        (loss(&goes_on[0]) - last).abs() < 1e-4,
        "{} and {last}",
        loss(&goes_on[0])
    );
}

#[test]
fn a_small_model_from_random_weights_learns_its_texts() {
    let fixture = fixture();
    let keys = format!(
        "full = true\ntokenizer = \"start/language.tokenizer.json\"\nepochs = 30\nrate = 1e-2\naccumulation = 1\n\
         batch_size = 4\ndata = [\"train.json\"]\nvalidation_size = 2\nembeddings = [\"images.safetensors\"]\nwarmup = 5\n\
         balance = 0.5\n{GEOMETRY}tie_word_embeddings = true\n"
    );
    let rows = run_with(&fixture, "out", &keys);
    let value = |name: &str| rows[29].get(name).unwrap();
    assert!(
        rows[0].get("train_loss").unwrap() > 3.0 && value("train_loss") < 0.5,
        "{}",
        value("train_loss")
    );
    assert!(value("token_accuracy") > 0.8, "{}", value("token_accuracy"));
}

#[test]
fn samples_that_are_split_off_are_all_of_their_patients() {
    let fixture = fixture();
    let tokenizer = LlamaTokenizer::from_file(&fixture.path("start/language.tokenizer.json"));
    let encode = |patients: &HashMap<String, String>| {
        TokenizedDataset::encode(
            &[fixture.path("train.json")],
            tokenizer.as_ref().unwrap(),
            &SampleForm::new(Prompts::default()),
            1024,
            patients,
            &fixture.path("scratch"),
        )
        .unwrap()
    };
    let groups = |samples: &TokenizedDataset| -> BTreeSet<u32> {
        (0..samples.len()).map(|row| samples.group(row)).collect()
    };
    let by_image = encode(&HashMap::new());
    assert_eq!(
        (by_image.unnamed, groups(&by_image).len()),
        (SAMPLES as u64, IMAGES)
    );
    let two = (0..IMAGES).map(|index| (format!("image{index}"), format!("p{}", index / 2)));
    let by_patient = encode(&two.collect());
    assert_eq!((by_patient.unnamed, groups(&by_patient).len()), (0, 2));
    // One sample is asked for; its patient has six.
    let rows = "image0,0\nimage1,0\nimage2,1\nimage3,1\n";
    fixture.write("patients.csv", &format!("dicom_id,subject_id\n{rows}"));
    fixture.write("spelled.csv", &format!("image,Patient ID\n{rows}"));
    let keys = "data = [\"train.json\"]\nembeddings = [\"images.safetensors\"]\nvalidation_size = 1\nstart = \"start\"\n";
    for (more, validation, said) in [
        (
            "patients = \"patients.csv\"\n",
            "6 validation samples",
            false,
        ),
        (
            "patients = \"spelled.csv\"\n",
            "6 validation samples",
            false,
        ),
        ("", "3 validation samples", true),
    ] {
        set_recipe(&fixture, &format!("{keys}{more}"));
        let notes = fixture.training("noted", false).unwrap().notes();
        assert!(notes.iter().any(|note| note == validation), "{notes:?}");
        let says = notes.iter().any(|note| note.contains("name no patient"));
        assert_eq!(says, said, "{notes:?}");
    }
}

#[test]
fn a_training_that_gets_no_better_ends_early_and_stays_ended() {
    let fixture = fixture();
    // Steps this small change nothing.
    let keys = "start = \"start\"\nepochs = 6\nrate = 1e-30\npatience = 1\n";
    assert_eq!(run_with(&fixture, "out", keys).len(), 2);
    let again = rows(fixture.run("out", true, u64::MAX).unwrap());
    assert_eq!(again.len(), 2);
    let license = |dir: &str| {
        fixture
            .bundle(dir, Stage::Language)
            .manifest()
            .license
            .clone()
    };
    assert!(
        license("out/best").starts_with(&license("start")),
        "the terms of the start go on to apply: {}",
        license("out/best")
    );
}

#[test]
fn a_frozen_projection_stays_as_it_is() {
    let fixture = fixture();
    run_with(
        &fixture,
        "out",
        "start = \"start\"\ntrain_projection = false\nepochs = 1\n",
    );
    let (before, after) = (
        fixture.tensors("start/adapter.safetensors"),
        fixture.tensors("out/last/adapter_model.safetensors"),
    );
    let bits = |tensor: &Tensor| {
        tensor
            .to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let name = "base_model.model.model.img_proj_layer.weight";
    assert_eq!(bits(&before[name]), bits(&after[name]));
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
    assert!(
        bits(&after[name]).iter().any(|value| *value != 0.0),
        "the additions learn"
    );
}

#[test]
fn samples_whose_prompt_fills_the_cutoff_are_left_out_and_counted() {
    let fixture = fixture();
    let mut long = sample(0);
    long["instruction"] = format!(
        "{} {}",
        "word ".repeat(400),
        long["instruction"].as_str().unwrap()
    )
    .into();
    fixture.write(
        "long.json",
        &json!([long, sample(1), sample(2)]).to_string(),
    );
    let keys = "data = [\"long.json\"]\nstart = \"start\"\ncutoff = 300\nembeddings = [\"images.safetensors\"]\nvalidation_size = 1\n";
    set_recipe(&fixture, keys);
    let notes = fixture.training("out", false).unwrap().notes();
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("1 sample is left out")),
        "{notes:?}"
    );
    assert!(notes.contains(&"1 training sample".to_owned()), "{notes:?}");
    fixture.write("long.json", &json!([sample(1)]).to_string());
    let error = refusal(&fixture, keys);
    assert!(error.contains("no samples to train on"), "{error}");
}

#[test]
fn faulty_samples_are_named() {
    let fixture = fixture();
    let error = |train: &str, keys: &str| {
        fixture.write("train.json", train);
        refusal(&fixture, keys)
    };
    let mut foreign = sample(3);
    foreign["dicom"] = "s50000001".into();
    let missing = error(
        &json!([sample(0), foreign]).to_string(),
        "start = \"start\"\n",
    );
    assert!(
        missing.contains("'s50000001'") && missing.contains("train.json sample 2"),
        "{missing}"
    );
    let mut cut = sample(3);
    cut["instruction"] = "See <IMG><IMG>. ASSISTANT:".into();
    let cut = error(&json!([cut]).to_string(), "start = \"start\"\n");
    assert!(cut.contains("2 image placeholders"), "{cut}");
    let broken = error("[{\"instruction\": \"a\"}]", "start = \"start\"\n");
    assert!(
        broken.contains("sample 1") && broken.contains("output"),
        "{broken}"
    );
}

#[test]
fn a_loss_that_is_no_number_names_its_samples_and_leaves_the_last_checkpoint() {
    let fixture = fixture();
    let keys = format!(
        "full = true\ntokenizer = \"start/language.tokenizer.json\"\nepochs = 9\nrate = 1e30\ncheckpoint_steps = 1\n{GEOMETRY}"
    );
    set_recipe(&fixture, &keys);
    let error = fixture.run("out", false, u64::MAX).unwrap_err().to_string();
    assert!(
        error.contains("not a number") && error.contains("train.json sample"),
        "{error}"
    );
    serve(&fixture, "out/last");
}

#[test]
fn a_bundle_with_several_adapters_is_gone_on_with_by_the_one_that_is_named() {
    let fixture = fixture();
    let adapters = ["rg", "ins"].map(|name| name.parse().unwrap()).into();
    let bundle = RandomBundle {
        adapters,
        ..RandomBundle::tiny(7)
    };
    bundle.write(&fixture.path("several")).unwrap();
    let keys = "start = \"several\"\nepochs = 1\n";
    let error = refusal(&fixture, keys);
    assert!(error.contains("has several, ins, rg; name one"), "{error}");
    let error = refusal(&fixture, &format!("{keys}adapter = \"chat\"\n"));
    assert!(error.contains("no adapter 'chat'"), "{error}");
    // Steps this small change nothing.
    let still = format!(
        "{keys}rate = 1e-12\nadapter = \"ins\"\n[lora]\ndropout = 0.0\nresume_adapter = true\n"
    );
    run_with(&fixture, "ins", &still);
    let trained = fixture.tensors("ins/last/adapter_model.safetensors");
    let given = fixture.tensors("several/adapter-ins.safetensors");
    let other = fixture.tensors("several/adapter-rg.safetensors");
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, tensor) in &given {
        let distance = |from: &Tensor| {
            let pairs = values(&trained[name]).into_iter().zip(values(from));
            pairs.fold(0f32, |most, (one, other)| most.max((one - other).abs()))
        };
        assert!(
            distance(tensor) < 1e-9 && distance(&other[name]) > 1e-3,
            "{name}"
        );
    }
}
