//! `train alignment` from a recipe to checkpoints: resumed as if never interrupted, served at once, its image encoder as it
//! was, refused where it must be.

use std::fs;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::alignment::AlignmentPretraining;
use radialog_models::bundle::RandomBundle;
use radialog_models::bundle::components::{Connector, EmbeddingComponent, ImageEmbedder};
use radialog_models::vision::ImageEncoder;
use radialog_schemas::Stage;
use radialog_training::Variables;
use radialog_training::recipe::AlignmentRecipe;
use radialog_training::trainers::{AlignmentTrainer, Training};

use super::fixture::{RECIPE, TrainingFixture, rows};

const SIDE: usize = 64;
const EPOCHS: u64 = 3;
/// 14 training pairs are three batches of four; the last two pairs are left out.
const BATCHES: u64 = 3;

/// Fourteen training pairs and five of validation of eight images, and a random bundle with the image encoder.
fn fixture(more: &str) -> TrainingFixture<AlignmentTrainer> {
    let start = |recipe: &Path, out: &Path, resume| {
        Training::alignment(AlignmentRecipe::read(recipe)?, out, resume, &Device::Cpu)
    };
    let fixture = TrainingFixture::new(start, Some(BATCHES * EPOCHS));
    RandomBundle::tiny(7).write(&fixture.path("start")).unwrap();
    let names = fixture.copy_images("");
    let mut table = "study_id,split,image,findings,Edema\n".to_owned();
    for index in 0..19 {
        let name = &names[index % 8];
        let split = if index < 14 { "train" } else { "validate" };
        let text = [
            "The heart is normal.",
            "There is a left effusion",
            "Edema of both lungs, unchanged",
        ][index % 3];
        table += &format!("{index},{split},{name},\"{text}, study {index}\",\n");
    }
    fixture.write("pairs.csv", &table);
    let recipe = format!(
        "epochs = {EPOCHS}\nbatch_size = 4\nrate = 1e-3\nwarmup = 2\nlongest = 32\nimage_encoder = \"start\"\ntokenizer = \
         \"start/scoring.tokenizer.json\"\n{more}\n[[tables]]\npairs = \"pairs.csv\"\n[geometry.vision]\nimage_size = \
         {SIDE}\nstem_width = 8\nvit_dim = 64\njoint_feature_size = 32\n[geometry.alignment]\nhidden_size = \
         32\nnum_hidden_layers = 2\nnum_attention_heads = 4\nintermediate_size = 64\nnum_query_token = \
         8\nencoder_width = 32\ncross_attention_freq = 2\n[geometry.text]\nvocab_size = 401\nmax_position_embeddings = \
         64\nembed_dim = 16\n"
    );
    fixture.write(RECIPE, &recipe);
    fixture
}

fn worst(a: &Tensor, b: &Tensor) -> f32 {
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes_as_an_uninterrupted_one_with_and_without_a_cache_of_patches()
 {
    let fixture = fixture("");
    let whole = fixture.run_whole("whole");
    fixture.change_recipe("epochs =", "cache_patches = true\nepochs =");
    let parts = fixture.run_in_parts("parts", &[2, 4]);
    assert_eq!(whole, parts);
    fixture.assert_same_bytes(
        "whole",
        "parts",
        &[
            "embedding.safetensors",
            "optimizer.safetensors",
            "encoder.safetensors",
        ],
    );
    assert!(
        fs::metadata(fixture.path("parts/patches.cache"))
            .unwrap()
            .len()
            >= 8 * (8 + 4 * 32 * 2 * 2)
    );
    let csv = fixture.text("parts/metrics.csv");
    assert!(csv.starts_with(
        "epoch,step,rate,train_loss,validation_loss,validation_itc,validation_itm,validation_lm\n"
    ));
}

#[test]
fn a_checkpoint_serves_the_tokens_that_the_training_network_makes_and_the_image_encoder_as_it_was()
{
    let fixture = fixture("");
    fixture.run_whole("out");
    for checkpoint in ["out/best", "out/last"] {
        let bundle = fixture.bundle(checkpoint, Stage::Embedding);
        let embedder = ImageEmbedder::load(&bundle, &Device::Cpu).unwrap();
        let ramp: Vec<f32> = (0..3 * SIDE * SIDE)
            .map(|index| (index as f32 * 0.37).sin().abs())
            .collect();
        let image = Tensor::from_vec(ramp, (1, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let tokens = embedder.embed(&image).unwrap();
        assert_eq!(tokens.dims(), [1, 8, 32]);

        let encoder = fixture.tensors(&format!("{checkpoint}/encoder.safetensors"));
        let config: EmbeddingComponent = bundle.config(Stage::Embedding).unwrap();
        let builder = VarBuilder::from_tensors(encoder.clone(), DType::F32, &Device::Cpu);
        let encoder_network =
            ImageEncoder::single_image(&config.vision, builder.pp("visual_encoder")).unwrap();
        let trained = fixture.tensors(&format!("{checkpoint}/embedding.safetensors"));
        let variables = Variables::of(trained.clone()).unwrap();
        let Connector::QFormer { alignment, text } = &config.connector else {
            panic!("a Q-Former was trained");
        };
        let text = text.clone().unwrap();
        let builder = variables.var_builder(&Device::Cpu);
        let network =
            AlignmentPretraining::new(alignment, &text, builder, Dropout::default()).unwrap();
        let strips = network
            .image_embeds(&encoder_network.project(&image).unwrap())
            .unwrap();
        let features = network.query_images(&strips).unwrap().features;
        // What texts are compared with is a projection of the tokens.
        let weight = trained["vision_proj.weight"].t().unwrap();
        let projected = tokens.squeeze(0).unwrap().matmul(&weight).unwrap();
        let projected = projected
            .broadcast_add(&trained["vision_proj.bias"])
            .unwrap();
        let length = projected
            .sqr()
            .unwrap()
            .sum_keepdim(D::Minus1)
            .unwrap()
            .sqrt()
            .unwrap();
        let expected = projected.broadcast_div(&length).unwrap();
        assert!(worst(&features.squeeze(0).unwrap(), &expected) < 1e-4);

        // The bundle's projector has another width and is drawn; the trunk is its own.
        let start = fixture.tensors("start/embedding.safetensors");
        assert!(encoder.len() > 100);
        for (name, tensor) in encoder
            .iter()
            .filter(|(name, _)| !name.contains(".projector."))
        {
            assert_eq!(worst(tensor, &start[name]), 0.0, "{name}");
        }
        assert_eq!(
            encoder["visual_encoder.projector.model.0.weight"].dims(),
            [32, 128, 1, 1]
        );
        assert_ne!(trained["temp"].to_scalar::<f32>().unwrap(), 0.07);
    }
}

#[test]
fn both_checkpoints_and_the_output_folder_share_one_file_of_the_image_encoder() {
    use std::os::unix::fs::MetadataExt;
    let fixture = fixture("");
    fixture.run_whole("out");
    let inode = |name: &str| fs::metadata(fixture.path(name)).unwrap().ino();
    assert_eq!(
        inode("out/best/encoder.safetensors"),
        inode("out/last/encoder.safetensors")
    );
}

#[test]
fn a_checkpoint_can_be_trained_further_with_its_own_tokenizer_and_encoder() {
    let fixture = fixture("");
    fixture.run_whole("out");
    let recipe = "start = \"out/best\"\nepochs = 1\nbatch_size = 4\nlongest = 32\n[[tables]]\npairs = \"pairs.csv\"\n";
    fixture.write(RECIPE, recipe);
    let training = fixture.training("further", false).unwrap();
    let rows = rows(training.run(&|| false, &|_| ()).unwrap());
    assert_eq!(rows.len(), 1);
    assert!(
        fixture.bytes("out/best/encoder.safetensors")
            == fixture.bytes("further/last/encoder.safetensors")
    );
}

#[test]
fn a_checkpoint_without_text_side_is_no_start() {
    let fixture = fixture("");
    fixture.write(
        RECIPE,
        "start = \"start\"\n[[tables]]\npairs = \"pairs.csv\"\n",
    );
    let error = fixture.training("out", false).err().unwrap().to_string();
    assert!(error.contains("no Q-Former with a text side"), "{error}");
}

#[test]
fn the_loss_of_the_training_pairs_falls() {
    let fixture = fixture("dropout = 0.0");
    let rows = fixture.run_whole("out");
    let loss = |row: usize| rows[row].get("train_loss").unwrap();
    assert!(
        loss(EPOCHS as usize - 1) < loss(0),
        "{} then {}",
        loss(0),
        loss(EPOCHS as usize - 1)
    );
}

#[test]
fn an_image_that_is_missing_or_unreadable_is_named() {
    let fixture = fixture("");
    let table = fixture.text("pairs.csv");
    let first = table
        .lines()
        .nth(1)
        .unwrap()
        .split(',')
        .nth(2)
        .unwrap()
        .to_owned();
    fixture.write(&first, "no image");
    let error = fixture.run("out", false, u64::MAX).unwrap_err().to_string();
    assert!(error.contains(&first), "{error}");
    fs::remove_file(fixture.path(&first)).unwrap();
    let error = fixture
        .run("other", false, u64::MAX)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&first) && error.contains("there is no image"),
        "{error}"
    );
}

#[test]
fn a_batch_of_one_and_fewer_pairs_than_a_batch_are_refused_in_words() {
    let fixture = fixture("");
    let recipe = fixture.text(RECIPE);
    for (size, part) in [(1, "each other's negatives"), (15, "14 training pairs")] {
        let changed = recipe.replace("batch_size = 4", &format!("batch_size = {size}"));
        fixture.write(RECIPE, &changed);
        let error = fixture.training("out", false).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
