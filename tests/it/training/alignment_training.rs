//! `train alignment` from a recipe to checkpoints: resumed as if never interrupted, served at once, its image encoder as it
//! was, refused where it must be.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::Dropout;
use radialog_models::alignment::AlignmentPretraining;
use radialog_models::bundle::components::EmbeddingComponent;
use radialog_models::bundle::components::ImageEmbedder;
use radialog_models::bundle::{Bundle, HashCache, RandomBundle};
use radialog_models::vision::ImageEncoder;
use radialog_schemas::Stage;
use radialog_tests::golden::roots;
use radialog_training::recipe::AlignmentRecipe;
use radialog_training::trainers::{AlignmentTrainer, StepReport, Training, TrainingOutcome};
use radialog_training::{TrainingError, Variables};

const SIDE: usize = 64;
const EPOCHS: u64 = 3;
/// 14 training pairs are three batches of four; the last two pairs are left out.
const BATCHES: u64 = 3;

struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    /// Fourteen training pairs and five of validation of eight images, and a random bundle with the image encoder.
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        RandomBundle::tiny(7)
            .write(&dir.path().join("start"))
            .unwrap();
        let source = roots().unwrap()[0].join("01_preprocess/images");
        let mut names: Vec<String> = fs::read_dir(&source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".png"))
            .collect();
        names.sort();
        let mut table = "study_id,split,image,findings,Edema\n".to_owned();
        for index in 0..19 {
            let name = &names[index % 8];
            fs::copy(source.join(name), dir.path().join(name)).unwrap();
            let split = if index < 14 { "train" } else { "validate" };
            let text = [
                "The heart is normal.",
                "There is a left effusion",
                "Edema of both lungs, unchanged",
            ][index % 3];
            table += &format!("{index},{split},{name},\"{text}, study {index}\",\n");
        }
        fs::write(dir.path().join("pairs.csv"), table).unwrap();
        let recipe = format!(
            "epochs = {EPOCHS}\nbatch_size = 4\nrate = 1e-3\nwarmup = 2\nlongest = 32\nimage_encoder = \"start\"\ntokenizer = \
             \"start/scoring.tokenizer.json\"\n{more}\n[[tables]]\npairs = \"pairs.csv\"\n[geometry.vision]\nimage_size = \
             {SIDE}\nstem_width = 8\nvit_dim = 64\njoint_feature_size = 32\n[geometry.alignment]\nhidden_size = \
             32\nnum_hidden_layers = 2\nnum_attention_heads = 4\nintermediate_size = 64\nnum_query_token = \
             8\nencoder_width = 32\ncross_attention_freq = 2\n[geometry.text]\nvocab_size = 401\nmax_position_embeddings = \
             64\nembed_dim = 16\n"
        );
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn training(
        &self,
        out: &str,
        resume: bool,
    ) -> Result<Training<AlignmentTrainer>, TrainingError> {
        Training::alignment(
            AlignmentRecipe::read(&self.path("recipe.toml"))?,
            &self.path(out),
            resume,
            &Device::Cpu,
        )
    }

    /// Runs until the end, or until so many steps are done.
    fn run(&self, out: &str, resume: bool, until: u64) -> Result<TrainingOutcome, TrainingError> {
        let stop = AtomicBool::new(false);
        let report = |report: StepReport| {
            assert_eq!(report.total, BATCHES * EPOCHS);
            stop.fetch_or(report.step >= until, Ordering::Relaxed);
        };
        self.training(out, resume)?
            .run(&|| stop.load(Ordering::Relaxed), &report)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.path(name), &Device::Cpu).unwrap()
    }

    fn bundle(&self, name: &str) -> Bundle {
        let cache = HashCache::at(self.path("hashes.json"));
        Bundle::open_with(&self.path(name), &[Stage::Embedding], &cache).unwrap()
    }
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

fn measured(outcome: TrainingOutcome) -> Vec<Vec<(String, f64)>> {
    let TrainingOutcome::Complete(rows) = outcome else {
        panic!("the run was interrupted")
    };
    rows.into_iter()
        .map(|row| {
            row.0
                .into_iter()
                .filter(|(name, _)| name != "seconds")
                .collect()
        })
        .collect()
}

#[test]
fn a_resumed_training_ends_with_the_same_bytes_as_an_uninterrupted_one_with_and_without_a_cache_of_patches()
 {
    let workshop = Workshop::new("");
    let whole = measured(workshop.run("whole", false, u64::MAX).unwrap());
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    fs::write(
        workshop.path("recipe.toml"),
        format!("cache_patches = true\n{recipe}"),
    )
    .unwrap();
    assert_eq!(
        workshop.run("parts", false, 2).unwrap(),
        TrainingOutcome::Interrupted
    );
    assert_eq!(
        workshop.run("parts", true, 4).unwrap(),
        TrainingOutcome::Interrupted
    );
    // The images are not needed any more: their patches are in the cache.
    let parts = measured(workshop.run("parts", true, u64::MAX).unwrap());
    assert_eq!(whole, parts);
    for name in [
        "embedding.safetensors",
        "optimizer.safetensors",
        "encoder.safetensors",
    ] {
        let [whole, parts] =
            ["whole", "parts"].map(|run| workshop.bytes(&format!("{run}/last/{name}")));
        assert!(whole == parts, "{name} differs");
    }
    assert!(
        fs::metadata(workshop.path("parts/patches.cache"))
            .unwrap()
            .len()
            >= 8 * (8 + 4 * 32 * 2 * 2)
    );
    let csv = fs::read_to_string(workshop.path("parts/metrics.csv")).unwrap();
    assert!(csv.starts_with(
        "epoch,step,rate,train_loss,validation_loss,validation_itc,validation_itm,validation_lm,"
    ));
}

#[test]
fn a_checkpoint_serves_the_tokens_that_the_training_network_makes_and_the_image_encoder_as_it_was()
{
    let workshop = Workshop::new("");
    workshop.run("out", false, u64::MAX).unwrap();
    for checkpoint in ["out/best", "out/last"] {
        let bundle = workshop.bundle(checkpoint);
        let embedder = ImageEmbedder::load(&bundle, &Device::Cpu).unwrap();
        let ramp: Vec<f32> = (0..3 * SIDE * SIDE)
            .map(|index| (index as f32 * 0.37).sin().abs())
            .collect();
        let image = Tensor::from_vec(ramp, (1, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let tokens = embedder.embed(&image).unwrap();
        assert_eq!(tokens.dims(), [1, 8, 32]);

        let encoder = workshop.tensors(&format!("{checkpoint}/encoder.safetensors"));
        let config: EmbeddingComponent = bundle.config(Stage::Embedding).unwrap();
        let builder = VarBuilder::from_tensors(encoder.clone(), DType::F32, &Device::Cpu);
        let encoder_network =
            ImageEncoder::single_image(&config.vision, builder.pp("visual_encoder")).unwrap();
        let trained = workshop.tensors(&format!("{checkpoint}/embedding.safetensors"));
        let variables = Variables::of(trained.clone()).unwrap();
        let text = config.text.clone().unwrap();
        let builder = variables.var_builder(&Device::Cpu);
        let network =
            AlignmentPretraining::new(&config.alignment, &text, builder, Dropout::default())
                .unwrap();
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
        let start = workshop.tensors("start/embedding.safetensors");
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
    let workshop = Workshop::new("");
    workshop.run("out", false, u64::MAX).unwrap();
    let inode = |name: &str| fs::metadata(workshop.path(name)).unwrap().ino();
    assert_eq!(
        inode("out/best/encoder.safetensors"),
        inode("out/last/encoder.safetensors")
    );
}

#[test]
fn a_checkpoint_can_be_trained_further_with_its_own_tokenizer_and_encoder() {
    let workshop = Workshop::new("");
    workshop.run("out", false, u64::MAX).unwrap();
    let recipe = "start = \"out/best\"\nepochs = 1\nbatch_size = 4\nlongest = 32\n[[tables]]\npairs = \"pairs.csv\"\n";
    fs::write(workshop.path("recipe.toml"), recipe).unwrap();
    let training = workshop.training("further", false).unwrap();
    let TrainingOutcome::Complete(rows) = training.run(&|| false, &|_| ()).unwrap() else {
        panic!("interrupted")
    };
    assert_eq!(rows.len(), 1);
    assert!(
        workshop.bytes("out/best/encoder.safetensors")
            == workshop.bytes("further/last/encoder.safetensors")
    );
}

#[test]
fn a_checkpoint_without_text_side_is_no_start() {
    let workshop = Workshop::new("");
    fs::write(
        workshop.path("recipe.toml"),
        "start = \"start\"\n[[tables]]\npairs = \"pairs.csv\"\n",
    )
    .unwrap();
    let error = workshop.training("out", false).err().unwrap().to_string();
    assert!(error.contains("no text side"), "{error}");
}

#[test]
fn the_loss_of_the_training_pairs_falls() {
    let workshop = Workshop::new("dropout = 0.0");
    let rows = measured(workshop.run("out", false, u64::MAX).unwrap());
    let loss = |row: usize| {
        rows[row]
            .iter()
            .find(|(name, _)| name == "train_loss")
            .unwrap()
            .1
    };
    assert!(
        loss(EPOCHS as usize - 1) < loss(0),
        "{} then {}",
        loss(0),
        loss(EPOCHS as usize - 1)
    );
}

#[test]
fn an_image_that_is_missing_or_unreadable_is_named() {
    let workshop = Workshop::new("");
    let table = fs::read_to_string(workshop.path("pairs.csv")).unwrap();
    let first = table
        .lines()
        .nth(1)
        .unwrap()
        .split(',')
        .nth(2)
        .unwrap()
        .to_owned();
    fs::write(workshop.path(&first), "no image").unwrap();
    let error = workshop
        .run("out", false, u64::MAX)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&first), "{error}");
    fs::remove_file(workshop.path(&first)).unwrap();
    let error = workshop
        .run("other", false, u64::MAX)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&first) && error.contains("no such image"),
        "{error}"
    );
}

#[test]
fn a_batch_of_one_and_fewer_pairs_than_a_batch_are_refused_in_words() {
    let workshop = Workshop::new("");
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    for (size, part) in [(1, "each other's negatives"), (15, "14 training pairs")] {
        let changed = recipe.replace("batch_size = 4", &format!("batch_size = {size}"));
        fs::write(workshop.path("recipe.toml"), changed).unwrap();
        let error = workshop.training("out", false).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
