//! `train findings`: the classifier of the 14 findings, trunk and all, on labelled images.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::bundle::components::FindingsComponent;
use radialog_models::findings::{FindingsClassifier, TextRule};
use radialog_schemas::{Finding, Label, Stage, counted};

use super::initial_weights;
use super::memory;
use super::training::{Measurement, Objective, Trainer, Training, TrainingPlan};
use crate::data::batch_loader::BatchLoader;
use crate::data::labelled_images::{Batching, ImageBatch, LabelledImage, LabelledSides};
use crate::error::TrainingError;
use crate::evaluation::classification::{FEW, Predictions};
use crate::losses::findings::binary_cross_entropy;
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::recipe::{ChosenBy, FindingsRecipe, LabelRule, LoadedRecipe, UncertainLabels};
use crate::trainers::checkpoint::ComponentDescription;
use crate::trainers::curves::Chart;
use crate::variables::Variables;

/// The prefix of the names of the tensors in a bundle.
const PREFIX: &str = "model.";
/// Logit of a finding that nothing is known about: a probability of 2 %.
const UNKNOWN_LOGIT: f64 = -4.0;
const CHARTS: [Chart; 3] = [
    ("Loss", &["train_loss", "validation_loss"]),
    ("Validation macro F1", &["macro_f1", "macro_f1_of_batches"]),
    ("Validation macro AUC", &["macro_auc"]),
];

/// The trainer of the findings classifier, with its images.
pub struct FindingsTrainer {
    recipe: FindingsRecipe,
    config: FindingsComponent,
    variables: Variables,
    network: FindingsClassifier,
    weights: Tensor,
    train: Vec<LabelledImage>,
    validate: Vec<LabelledImage>,
    notes: Vec<String>,
    device: Device,
}

impl Training<FindingsTrainer> {
    /// Prepares a training on a device, from the start or, with `resume`, from the last checkpoint in `out`.
    ///
    /// # Errors
    /// Data or weights that cannot be read; a checkpoint where none may be, or of another recipe or geometry.
    pub fn findings(
        read: LoadedRecipe<FindingsRecipe>,
        out: &Path,
        resume: bool,
        device: &Device,
    ) -> Result<Self, TrainingError> {
        let LoadedRecipe { recipe, hash } = read;
        let (mut config, tensors) = start(&recipe)?;
        let variables = Variables::of(tensors)?.to_device(device)?;
        let network = FindingsClassifier::new(&config.classifier, variables.var_builder(device))?;
        let LabelledSides {
            train,
            validate,
            notes,
        } = LabelledSides::read(&recipe.tables)?;
        for (side, images) in [("train", &train), ("validate", &validate)] {
            if images.is_empty() {
                return Err(TrainingError::Empty(format!(
                    "no image of the split '{side}' in the tables of the recipe"
                )));
            }
        }
        if train.len() < recipe.training.batch_size {
            let (found, needed) = (train.len(), recipe.training.batch_size);
            return Err(TrainingError::Empty(format!(
                "{found} training images do not fill a batch of {needed}"
            )));
        }
        let known = KnownLabels::of(&train, recipe.rule());
        if recipe.training.start.is_none() {
            silence_unknown(&variables, &known)?;
        }
        config.assessed = assessed(config.assessed, recipe.training.start.is_some(), &known);
        let weights = known.iter().map(|counts| {
            let KnownLabels { positive, known } = *counts;
            recipe.weighting.weight(positive, known)
        });
        let weights = Tensor::from_iter(weights.collect::<Vec<f32>>(), device)?;
        let component = ComponentDescription::new(Stage::Findings, &config, PREFIX)?;
        let plan = TrainingPlan {
            arguments: recipe.training.clone(),
            schedule: recipe.schedule(),
            objective: match recipe.choose {
                ChosenBy::MacroF1 | ChosenBy::MacroAuc => Objective::Maximise,
                ChosenBy::ValidationLoss => Objective::Minimise,
            },
            adam: AdamW::findings(),
            title: "Findings classifier",
            charts: &CHARTS,
            recipe: hash,
        };
        let mut notes = notes_of(notes, &recipe, &known, [&train, &validate]);
        if let (Device::Cpu, Some(free)) = (device, memory::available()) {
            let batch = recipe.training.batch_size;
            notes.extend(memory::note(&config.classifier.vision, batch, free));
        }
        let trainer = FindingsTrainer {
            config,
            variables: variables.clone(),
            network,
            weights,
            notes,
            recipe,
            train,
            validate,
            device: device.clone(),
        };
        Self::start(trainer, plan, component, variables, out, resume)
    }
}

impl FindingsTrainer {
    fn batching(&self) -> Batching {
        let input = self.config.classifier.vision.input();
        Batching {
            input,
            rule: self.recipe.rule(),
            augment: None,
            device: self.device.clone(),
        }
    }
}

impl Trainer for FindingsTrainer {
    type Batch = ImageBatch;

    fn batches(
        &self,
        epoch: u64,
        skipped: usize,
    ) -> impl Iterator<Item = Result<ImageBatch, TrainingError>> {
        let mut order = self.train.clone();
        Random::stream(self.recipe.training.seed, &format!("order {epoch}")).shuffle(&mut order);
        let batches: Vec<_> = order
            .chunks_exact(self.recipe.training.batch_size)
            .skip(skipped)
            .map(<[_]>::to_vec)
            .collect();
        let augment = self
            .recipe
            .augment
            .then(|| Random::stream(self.recipe.training.seed, &format!("augment {epoch}")).bits());
        let batching = Batching {
            augment,
            ..self.batching()
        };
        BatchLoader::start(batches, move |images| batching.batch(&images))
    }

    fn batches_in_epoch(&self) -> u64 {
        (self.train.len() / self.recipe.training.batch_size) as u64
    }

    fn loss(&self, batch: &ImageBatch) -> Result<Tensor, TrainingError> {
        let logits = self.network.forward(&batch.images)?.logits;
        Ok(binary_cross_entropy(
            &logits,
            &batch.targets,
            &batch.mask,
            &self.weights,
        )?)
    }

    fn names(&self, batch: &ImageBatch) -> Vec<String> {
        batch.names.clone()
    }

    /// Runs the images through the network of inference.
    fn validate(&self) -> Result<Vec<Measurement>, TrainingError> {
        let weights =
            VarBuilder::from_tensors(self.variables.snapshot()?, DType::F32, &self.device);
        let network = FindingsClassifier::new(&self.config.classifier, weights)?;
        let batches: Vec<_> = self
            .validate
            .chunks(self.recipe.training.batch_size)
            .map(<[_]>::to_vec)
            .collect();
        let batching = self.batching();
        let (mut predictions, mut mean_loss, mut f1_of_batches) =
            (Predictions::default(), 0.0, 0.0);
        for batch in BatchLoader::start(batches, move |images: Vec<_>| batching.batch(&images)) {
            let batch = batch?;
            let logits = network.forward(&batch.images)?.logits;
            let loss = binary_cross_entropy(&logits, &batch.targets, &batch.mask, &self.weights)?;
            let share = batch.names.len() as f64 / self.validate.len() as f64;
            mean_loss += share * f64::from(loss.to_scalar::<f32>()?);
            let rows = |tensor: &Tensor| tensor.to_vec2::<f32>();
            let (logits, targets, mask) =
                (rows(&logits)?, rows(&batch.targets)?, rows(&batch.mask)?);
            let mut of_batch = Predictions::default();
            for ((logits, targets), mask) in logits.iter().zip(&targets).zip(&mask) {
                predictions.add(logits, targets, mask);
                of_batch.add(logits, targets, mask);
            }
            // The original's score: the mean of the batches' own, which depends on their size.
            f1_of_batches += share * of_batch.macro_f1_of_all();
        }
        let scores = predictions.scores();
        let mut measured = vec![
            ("macro_f1", scores.macro_f1),
            ("macro_f1_of_batches", Some(f1_of_batches)),
            ("macro_auc", scores.macro_auc),
            ("validation_loss", Some(mean_loss)),
        ];
        let chosen = match self.recipe.choose {
            ChosenBy::MacroF1 => "macro_f1",
            ChosenBy::MacroAuc => "macro_auc",
            ChosenBy::ValidationLoss => "validation_loss",
        };
        // The first one chooses; the others keep their order.
        measured.sort_by_key(|(name, _)| *name != chosen);
        Ok(measured)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// How much is known of a finding in the training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KnownLabels {
    /// Images that have it.
    positive: usize,
    /// Images of which it is known whether they have it.
    known: usize,
}

impl KnownLabels {
    /// The counts of each finding, in the published order.
    fn of(images: &[LabelledImage], rule: LabelRule) -> [Self; Finding::ALL.len()] {
        let mut counts = [Self::default(); Finding::ALL.len()];
        for image in images {
            for (count, label) in counts.iter_mut().zip(image.labels) {
                let truth = rule.truth(label);
                count.known += usize::from(truth.is_some());
                count.positive += usize::from(truth == Some(true));
            }
        }
        counts
    }
}

/// The findings that the classifier has learned once it was trained: those of its start, and those that are there in one training
/// image and absent in another. A start that says nothing has learned all of them.
fn assessed(
    start: Option<Vec<Finding>>,
    has_start: bool,
    known: &[KnownLabels; Finding::ALL.len()],
) -> Option<Vec<Finding>> {
    let before = match (start, has_start) {
        (None, true) => return None,
        (before, _) => before.unwrap_or_default(),
    };
    let is_learned = |finding: &Finding| {
        let KnownLabels { positive, known } = known[*finding as usize];
        before.contains(finding) || (positive > 0 && positive < known)
    };
    Some(Finding::ALL.into_iter().filter(is_learned).collect())
}

/// What a user should know before the first step: what labels count as, and what cannot be learned or measured.
fn notes_of(
    mut notes: Vec<String>,
    recipe: &FindingsRecipe,
    known: &[KnownLabels; Finding::ALL.len()],
    [train, validate]: [&[LabelledImage]; 2],
) -> Vec<String> {
    let labels = train.iter().chain(validate).flat_map(|image| image.labels);
    let uncertain = labels.filter(|label| *label == Label::Uncertain).count();
    if uncertain > 0 {
        let (taken, name) = match recipe.uncertain {
            UncertainLabels::Ignore => ("left out", "ignore"),
            UncertainLabels::One => ("taken as present", "one"),
            UncertainLabels::Zero => ("taken as absent", "zero"),
        };
        notes.push(format!(
            "{} {taken}: uncertain = \"{name}\"",
            counted(uncertain, "label of -1 is", "labels of -1 are")
        ));
    }
    let named = |is_one: &dyn Fn(KnownLabels) -> bool, of: &[KnownLabels]| {
        let findings = Finding::ALL.into_iter().zip(of);
        let names = findings.filter(|(_, counts)| is_one(**counts));
        names
            .map(|(finding, _)| finding.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut note = |names: String, what: &str| {
        if !names.is_empty() {
            notes.push(format!("{names}: {what}"));
        }
    };
    note(
        named(&|of| of.known == 0, known),
        "no training image has a label; it is not learned",
    );
    note(
        named(&|of| of.known > 0 && of.positive == 0, known),
        "no training image has it; it will not be found",
    );
    note(
        named(&|of| of.known > 0 && of.positive == of.known, known),
        "every known label of the training images is positive; it cannot be told apart",
    );
    let few = Finding::ALL
        .into_iter()
        .zip(known)
        .filter_map(|(finding, of)| {
            let least = of.positive.min(of.known - of.positive);
            (least > 0 && least < FEW).then(|| format!("{} ({least})", finding.name()))
        });
    note(
        few.collect::<Vec<_>>().join(", "),
        &format!(
            "fewer than {FEW} training images with it, or without; what is learned of it is chance as much as anything"
        ),
    );
    let of_validate = KnownLabels::of(validate, recipe.rule());
    let is_scored = |of: KnownLabels| of.positive > 0 && of.positive < of.known;
    note(
        named(&|of| of.known > 0 && !is_scored(of), &of_validate),
        "no validation image has it, or all have; not scored",
    );
    let is_measured = recipe.choose == ChosenBy::ValidationLoss;
    if !is_measured && !of_validate.into_iter().any(is_scored) {
        notes.push(
            "no finding can be scored on the validation images: the last epoch counts as the best"
                .to_owned(),
        );
    }
    notes
}

/// Findings that no image has a label for are not said: no gradient would move their outputs from where they were drawn.
fn silence_unknown(
    variables: &Variables,
    known: &[KnownLabels; Finding::ALL.len()],
) -> Result<(), TrainingError> {
    let (Some(weight), Some(bias)) = (variables.get("fc2.weight"), variables.get("fc2.bias"))
    else {
        return Ok(());
    };
    let kept = Tensor::from_iter(
        known.iter().map(|of| f32::from(u8::from(of.known > 0))),
        weight.device(),
    )?;
    weight.set(
        &weight
            .as_detached_tensor()
            .broadcast_mul(&kept.unsqueeze(1)?)?,
    )?;
    let silent = ((1.0 - &kept)? * UNKNOWN_LOGIT)?;
    bias.set(&((bias.as_detached_tensor() * kept)? + silent)?)?;
    Ok(())
}

/// The configuration and the tensors that the training starts from.
fn start(
    recipe: &FindingsRecipe,
) -> Result<(FindingsComponent, Vec<(String, Tensor)>), TrainingError> {
    if let Some(dir) = &recipe.training.start {
        let (mut config, weights, _) =
            initial_weights::component::<FindingsComponent>(dir, Stage::Findings)?;
        // What the start's logits mean, those of other weights do not.
        config.calibration = None;
        let tensors = initial_weights::loaded(&config.tensors()?, PREFIX, &weights)?;
        return Ok((config, tensors));
    }
    let classifier = recipe
        .geometry
        .clone()
        .ok_or_else(|| TrainingError::Empty("no geometry".to_owned()))?;
    let config = FindingsComponent {
        classifier,
        text_rule: TextRule::default(),
        calibration: None,
        assessed: None,
    };
    let tensors = initial_weights::drawn(&config.tensors()?, PREFIX, recipe.training.seed)?;
    Ok((config, tensors))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::recipe::BlankLabels;

    /// Images of which each has this label of every finding.
    fn images(labels: &[Label]) -> Vec<LabelledImage> {
        let image = |label: &Label| LabelledImage {
            path: PathBuf::new(),
            labels: [*label; Finding::ALL.len()],
        };
        labels.iter().map(image).collect()
    }

    #[test]
    fn what_was_learned_is_assessed_beside_what_the_start_assesses() {
        use Finding::{Cardiomegaly, Edema, Fracture};
        let mut known = [KnownLabels::default(); Finding::ALL.len()];
        // Both kinds of images, images with it alone, images without it alone.
        for (finding, positive) in [(Fracture, 2), (Edema, 5), (Cardiomegaly, 0)] {
            known[finding as usize] = KnownLabels { positive, known: 5 };
        }
        assert_eq!(assessed(None, false, &known), Some(vec![Fracture]));
        assert_eq!(assessed(None, true, &known), None, "all of them, as before");
        let start = Some(vec![Edema]);
        assert_eq!(assessed(start, true, &known), Some(vec![Edema, Fracture]));
    }

    #[test]
    fn labels_that_do_not_count_change_no_weight() {
        use Label::{Blank, Negative, Positive, Uncertain};
        let labelled = [Positive, Negative, Negative, Negative];
        let more = [labelled.as_slice(), &[Blank; 6], &[Uncertain; 2]].concat();
        let of = |labels: &[Label], blank, uncertain| {
            KnownLabels::of(&images(labels), LabelRule { blank, uncertain })[0]
        };
        let (masked, ignored) = (BlankLabels::Mask, UncertainLabels::Ignore);
        let expected = KnownLabels {
            positive: 1,
            known: 4,
        };
        assert_eq!(of(&labelled, masked, ignored), expected);
        assert_eq!(of(&more, masked, ignored), expected);
        let counts = |blank, uncertain| {
            let KnownLabels { positive, known } = of(&more, blank, uncertain);
            (positive, known)
        };
        assert_eq!(counts(BlankLabels::Absent, ignored), (1, 10));
        assert_eq!(counts(masked, UncertainLabels::Zero), (1, 6));
        assert_eq!(counts(masked, UncertainLabels::One), (3, 6));
    }
}
