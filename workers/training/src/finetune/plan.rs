//! Recipes that fit the size of a table: how many steps, how long, how large. The published schedules are for hundreds of thousands
//! of images; of forty, they make ten steps, all of them while the rate still rises, and nothing is learned.

use std::path::{Path, PathBuf};

use radialog_models::bundle::components::{FindingsComponent, LanguageComponent};
use radialog_models::vision::VisionConfig;
use radialog_schemas::{Finding, Label};
use toml::{Table, Value};

use crate::data::labelled_images::{LabelledImage, LabelledSides};
use crate::error::TrainingError;
use crate::prepare::FindingLabels;
use crate::recipe::ImageTable;
use crate::trainers::memory;

/// Steps that a training aims at where the table allows.
const STEPS: u64 = 400;
/// Epochs at least and at most.
const EPOCHS: (u64, u64) = (3, 40);
/// Epochs without a better score, after which a training ends.
const PATIENCE: u64 = 5;
/// Share of the steps over which the rate rises.
const WARMUP: f64 = 0.06;
/// Images whose mean gradient makes a step of the classifier, where there are so many.
const IMAGES_A_STEP: usize = 32;
/// Samples whose mean gradient makes a step of the language model and the labeler.
const SAMPLES_A_STEP: usize = 16;
/// Fewest training images, and validation images, of a classifier.
const FEWEST: (usize, usize) = (8, 2);
/// Fewest training texts, and validation texts, of a labeler or a language model.
const FEWEST_TEXTS: (usize, usize) = (4, 1);
/// A language model narrower than this is trained at a higher rate and in all its matrices: it has less to lose.
const SMALL: usize = 1024;

/// A part of a bundle that can be fine-tuned, in the order in which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrainedPart {
    /// The classifier of the 14 findings, on labelled images.
    Findings,
    /// The CheXbert labeler, on reports with labels of the table.
    Labeler,
    /// The language model, by LoRA, on images with reports.
    Language,
}

/// What all recipes of a fine-tuning have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bundle that is trained further.
    pub start: PathBuf,
    /// Decides all that is drawn.
    pub seed: u64,
    /// As many epochs, instead of what fits.
    pub epochs: Option<u64>,
}

impl TrainedPart {
    /// All parts.
    pub const ALL: [TrainedPart; 3] = [
        TrainedPart::Findings,
        TrainedPart::Labeler,
        TrainedPart::Language,
    ];

    /// Its name on the command line, and that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            TrainedPart::Findings => "findings",
            TrainedPart::Labeler => "labeler",
            TrainedPart::Language => "language",
        }
    }
}

/// How many of a side's samples make a pass, how many passes a step, how many epochs, and how many steps rise.
struct Schedule {
    batch_size: usize,
    accumulation: usize,
    epochs: u64,
    warmup: u64,
}

impl Schedule {
    fn of(samples: usize, batch_size: usize, a_step: usize, epochs: Option<u64>) -> Self {
        // A small table makes more and smaller steps rather than few.
        let a_step = a_step.min(samples / 4).max(batch_size);
        let accumulation = (a_step / batch_size).max(1);
        let steps = (samples / (batch_size * accumulation)).max(1) as u64;
        let epochs = epochs.unwrap_or_else(|| STEPS.div_ceil(steps).clamp(EPOCHS.0, EPOCHS.1));
        Self {
            batch_size,
            accumulation,
            epochs,
            warmup: ((steps * epochs) as f64 * WARMUP).ceil() as u64,
        }
    }

    fn write(&self, recipe: &mut Table) {
        let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        recipe.insert("batch_size".into(), number(self.batch_size as u64));
        recipe.insert("accumulation".into(), number(self.accumulation as u64));
        recipe.insert("epochs".into(), number(self.epochs));
        recipe.insert("warmup".into(), number(self.warmup));
        recipe.insert("patience".into(), number(PATIENCE));
    }
}

impl Plan {
    /// What may be trained of a table, or why it may not, in words.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub fn findings_allowed(images: &ImageTable) -> Result<Result<(), String>, TrainingError> {
        let sides = LabelledSides::read(std::slice::from_ref(images))?;
        let labels = |side: &[LabelledImage]| side.iter().map(|image| image.labels).collect();
        let (train, validate): (Vec<_>, Vec<_>) = (labels(&sides.train), labels(&sides.validate));
        Ok(Self::labels_allow(&train, &validate))
    }

    /// Whether a classifier may be trained on images of these labels, and chosen by those.
    ///
    /// # Errors
    /// The reason why not, in words.
    pub fn labels_allow(train: &[FindingLabels], validate: &[FindingLabels]) -> Result<(), String> {
        let known = |label: &Label| matches!(label, Label::Positive | Label::Negative);
        let count = |side: &[FindingLabels]| {
            let labelled = side.iter().filter(|labels| labels.iter().any(known));
            labelled.count()
        };
        let (to_train, to_choose) = (count(train), count(validate));
        if to_train < FEWEST.0 || to_choose < FEWEST.1 {
            return Err(format!(
                "{to_train} labelled images to train on and {to_choose} to choose the best by: there must be {} and {}",
                FEWEST.0, FEWEST.1
            ));
        }
        let has_both = |finding: Finding| {
            let any = |label| train.iter().any(|labels| labels[finding as usize] == label);
            any(Label::Positive) && any(Label::Negative)
        };
        match Finding::ALL.into_iter().any(has_both) {
            true => Ok(()),
            false => {
                Err("no finding is there in one training image and absent in another".to_owned())
            }
        }
    }

    /// Whether a training of texts may be done on so many samples, and chosen by so many.
    ///
    /// # Errors
    /// The reason why not, in words; `what` names the samples.
    pub fn texts_allow(what: &str, train: usize, validate: usize) -> Result<(), String> {
        let (least, choose) = FEWEST_TEXTS;
        match train >= least && validate >= choose {
            true => Ok(()),
            false => Err(format!(
                "{train} {what} to train on and {validate} to choose the best by: there must be {least} and {choose}"
            )),
        }
    }

    /// The recipe of the classifier, over so many training images.
    pub fn findings(
        &self,
        config: &FindingsComponent,
        images: &ImageTable,
        train: usize,
    ) -> String {
        let batch_size = images_at_a_time(&config.classifier.vision, train, memory::available());
        let mut recipe = self.common(3e-4);
        Schedule::of(train, batch_size, IMAGES_A_STEP, self.epochs).write(&mut recipe);
        text(&mut recipe, "weighting", "log");
        text(&mut recipe, "blank", "mask");
        text(&mut recipe, "uncertain", "ignore");
        // Of a few images, F1 moves in large steps or not at all.
        text(&mut recipe, "choose", "validation_loss");
        recipe.insert("augment".into(), Value::Boolean(true));
        recipe.insert("clip".into(), Value::Float(1.0));
        let mut table = Table::new();
        path(&mut table, "labels", &images.labels);
        path(&mut table, "images", &images.images);
        recipe.insert("tables".into(), Value::Array(vec![Value::Table(table)]));
        written("the classifier of the 14 findings", &recipe)
    }

    /// The recipe of the labeler, over so many training reports; `read` are the findings that the start's own labeler has read.
    pub fn labeler(&self, reports: &Path, read: &[Finding], train: usize) -> String {
        let batch_size = SAMPLES_A_STEP.min((train / 4).max(1));
        let mut recipe = self.common(1e-4);
        Schedule::of(train, batch_size, SAMPLES_A_STEP, self.epochs).write(&mut recipe);
        path(&mut recipe, "reports", reports);
        text(&mut recipe, "text", "findings");
        if !read.is_empty() {
            let names = read.iter().map(|finding| finding.name().to_owned());
            let names = names.map(Value::String).collect();
            recipe.insert("read".into(), Value::Array(names));
        }
        recipe.insert("clip".into(), Value::Float(1.0));
        written("the labeler", &recipe)
    }

    /// The recipe of the language model, over so many training dialogs: LoRA beside the weights of the start, from its adapter on
    /// where it has one.
    pub fn language(
        &self,
        config: &LanguageComponent,
        dialogs: [&Path; 2],
        embeddings: &Path,
        train: usize,
    ) -> String {
        let width = config.llama.hidden_size;
        let rate = match width {
            width if width >= SMALL => 3e-4,
            _ => 2e-3,
        };
        let mut recipe = self.common(rate);
        Schedule::of(train, 2, SAMPLES_A_STEP, self.epochs).write(&mut recipe);
        let file = |path: &Path| Value::Array(vec![Value::String(path.display().to_string())]);
        recipe.insert("data".into(), file(dialogs[0]));
        recipe.insert("validation".into(), file(dialogs[1]));
        recipe.insert("embeddings".into(), file(embeddings));
        let cutoff = config.llama.max_position_embeddings.min(1024);
        recipe.insert("cutoff".into(), Value::Integer(cutoff as i64));
        let mut lora = Table::new();
        let adapter = config
            .default_adapters
            .as_ref()
            .map(|adapters| &adapters.chat);
        let adapter = adapter.or_else(|| config.adapters.keys().last());
        let old = match adapter {
            Some(name) => {
                text(&mut recipe, "adapter", name.as_str());
                config.adapters.get(name)
            }
            None => config.lora.as_ref(),
        };
        let (r, alpha, modules) = match old {
            Some(old) => (old.r, old.lora_alpha, old.target_modules.clone()),
            None if width >= SMALL => (8, 16.0, ["q_proj", "v_proj"].map(str::to_owned).into()),
            None => {
                let all = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj";
                (16, 32.0, all.split(' ').map(str::to_owned).collect())
            }
        };
        lora.insert("r".into(), Value::Integer(r as i64));
        lora.insert("alpha".into(), Value::Float(alpha));
        let modules = modules.into_iter().map(Value::String).collect();
        lora.insert("target_modules".into(), Value::Array(modules));
        lora.insert("resume_adapter".into(), Value::Boolean(old.is_some()));
        recipe.insert("lora".into(), Value::Table(lora));
        written("the language model", &recipe)
    }

    fn common(&self, rate: f64) -> Table {
        let mut recipe = Table::new();
        path(&mut recipe, "start", &self.start);
        recipe.insert(
            "seed".into(),
            Value::Integer(i64::try_from(self.seed).unwrap_or(i64::MAX)),
        );
        recipe.insert("rate".into(), Value::Float(rate));
        recipe
    }
}

/// Images that the classifier takes at a time: as many as make a step, if they fit into the memory that is free; what is missing
/// is accumulated.
fn images_at_a_time(vision: &VisionConfig, train: usize, free: Option<u64>) -> usize {
    let fits = free.map_or(Some(IMAGES_A_STEP), |free| memory::fitting(vision, free));
    IMAGES_A_STEP.min((train / 4).max(2)).min(fits.unwrap_or(2))
}

fn text(recipe: &mut Table, key: &str, value: &str) {
    recipe.insert(key.to_owned(), Value::String(value.to_owned()));
}

fn path(recipe: &mut Table, key: &str, path: &Path) {
    text(recipe, key, &path.display().to_string());
}

fn written(what: &str, recipe: &Table) -> String {
    format!(
        "# Made by radialog finetune for {what}: change what you like and give it to radialog train.\n{recipe}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_makes_enough_steps_and_a_large_one_few_epochs() {
        let of = |samples| Schedule::of(samples, 2, SAMPLES_A_STEP, None);
        let steps = |samples: usize| {
            let schedule = of(samples);
            (samples / (schedule.batch_size * schedule.accumulation)) as u64 * schedule.epochs
        };
        assert!(steps(43) >= 150, "{}", steps(43));
        assert!(of(43).warmup < steps(43) / 10);
        assert_eq!(of(100_000).epochs, EPOCHS.0);
        assert_eq!(of(100_000).accumulation, SAMPLES_A_STEP / 2);
        assert_eq!(Schedule::of(43, 2, SAMPLES_A_STEP, Some(1)).epochs, 1);
    }

    #[test]
    fn the_recipe_of_the_labeler_names_what_the_start_has_read() {
        let plan = Plan {
            start: PathBuf::from("start"),
            seed: 1,
            epochs: None,
        };
        let recipe = |read: &[Finding]| -> Table {
            let text = plan.labeler(Path::new("reports.csv"), read, 40);
            toml::from_str(&text).unwrap()
        };
        assert!(!recipe(&[]).contains_key("read"));
        let read = recipe(&[Finding::LungOpacity, Finding::Edema]);
        let names: Vec<Finding> = read["read"].clone().try_into().unwrap();
        assert_eq!(names, [Finding::LungOpacity, Finding::Edema]);
    }

    #[test]
    fn what_does_not_fit_into_memory_at_a_time_is_accumulated() {
        let published = VisionConfig::published();
        let step = |train, gib: Option<u64>| {
            let batch = images_at_a_time(&published, train, gib.map(|gib| gib << 30));
            let schedule = Schedule::of(train, batch, IMAGES_A_STEP, None);
            let mut recipe = Table::new();
            schedule.write(&mut recipe);
            let number = |key: &str| recipe[key].as_integer().unwrap();
            assert_eq!(number("patience"), PATIENCE as i64);
            (number("batch_size"), number("accumulation"))
        };
        assert_eq!(step(1000, None), (32, 1), "nothing is known of the memory");
        assert_eq!(step(1000, Some(64)), (32, 1));
        assert_eq!(step(1000, Some(4)), (4, 8));
        assert_eq!(step(1000, Some(1)), (2, 16), "two images at least");
        assert_eq!(step(10, Some(64)), (2, 1));
    }
}
