//! The networks of a bundle at work on many inputs: images are decoded and classified, texts are written and labelled, on
//! all cores. What comes out does not depend on how the inputs are divided.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::FindingsComponent;
use radialog_models::bundle::components::{
    FindingsPredictor, ImageEmbedder, LanguagePipeline, LanguageTask, ReportLabeler,
};
use radialog_models::findings::TextRule;
use radialog_models::language::{Engine, EngineEvent, EngineLimits, GenerationRequest};
use radialog_models::preprocess::InputSize;
use radialog_models::prompt::ChatPrompt;
use radialog_schemas::{FindingsReport, Label, Stage};
use rayon::prelude::*;

use super::ProgressCallback;
use super::agreement::CLASSES;
use crate::data::pixels::{pixels, stack};
use crate::error::TrainingError;
use crate::prepare::FindingLabels;

/// Tokens of an answer, as everywhere else by default.
const MOST_TOKENS: usize = 300;
/// Sequences that one core decodes together.
const TOGETHER: usize = 8;
/// Reports and turns that a core takes at a time: enough to keep [`TOGETHER`] of them running.
const SHARE: usize = 24;

/// The networks that an evaluation has loaded.
pub(crate) struct Networks<'a> {
    embedder: Option<ImageEmbedder>,
    predictor: Option<FindingsPredictor>,
    labeler: Option<ReportLabeler>,
    language: Option<LanguagePipeline>,
    rule: TextRule,
    device: Device,
    progress: ProgressCallback<'a>,
}

/// Something to answer: a conversation, and the tokens of its image.
pub(crate) struct DialogRequest {
    pub(crate) dialog: ChatPrompt,
    pub(crate) image: Tensor,
}

impl<'a> Networks<'a> {
    pub(crate) fn load(
        bundle: &Bundle,
        stages: &[Stage],
        device: &Device,
        progress: ProgressCallback<'a>,
    ) -> Result<Self, TrainingError> {
        let wanted = |stage: Stage| stages.contains(&stage);
        // A checkpoint may have no classifier, and then the rule is the one that reports are trained with.
        let has_classifier = bundle.manifest().components.contains_key(&Stage::Findings);
        let config = has_classifier.then(|| bundle.config::<FindingsComponent>(Stage::Findings));
        let config = config.transpose()?;
        Ok(Self {
            embedder: wanted(Stage::Embedding)
                .then(|| ImageEmbedder::load(bundle, device))
                .transpose()?,
            predictor: wanted(Stage::Findings)
                .then(|| FindingsPredictor::load(bundle, device))
                .transpose()?,
            labeler: wanted(Stage::Scoring)
                .then(|| ReportLabeler::load(bundle, device))
                .transpose()?,
            language: wanted(Stage::Language)
                .then(|| LanguagePipeline::load(bundle, device))
                .transpose()?,
            rule: config.map(|config| config.text_rule).unwrap_or_default(),
            device: device.clone(),
            progress,
        })
    }

    /// The rule by which the prompt names findings.
    pub(crate) fn rule(&self) -> TextRule {
        self.rule
    }

    /// The findings of each image.
    pub(crate) fn classify<P: AsRef<Path> + Sync>(
        &self,
        images: &[P],
    ) -> Result<Vec<FindingsReport>, TrainingError> {
        let predictor = self
            .predictor
            .as_ref()
            .ok_or_else(|| missing(Stage::Findings))?;
        self.each("classifying images", images, |image| {
            let reports = predictor.predict(&self.pixels(image.as_ref(), predictor.input())?)?;
            reports
                .into_iter()
                .next()
                .ok_or_else(|| missing(Stage::Findings))
        })
    }

    /// The logits of each image's findings, in the published order, before any calibration.
    pub(crate) fn logits<P: AsRef<Path> + Sync>(
        &self,
        images: &[P],
    ) -> Result<Vec<Vec<f32>>, TrainingError> {
        let predictor = self
            .predictor
            .as_ref()
            .ok_or_else(|| missing(Stage::Findings))?;
        self.each("classifying images", images, |image| {
            let logits = predictor.logits(&self.pixels(image.as_ref(), predictor.input())?)?;
            Ok(logits.flatten_all()?.to_vec1()?)
        })
    }

    /// The image tokens of each image, `[32, 768]` at published geometry.
    pub(crate) fn embed<P: AsRef<Path> + Sync>(
        &self,
        images: &[P],
    ) -> Result<Vec<Tensor>, TrainingError> {
        let embedder = self
            .embedder
            .as_ref()
            .ok_or_else(|| missing(Stage::Embedding))?;
        self.each("embedding images", images, |image| {
            Ok(embedder
                .embed(&self.pixels(image.as_ref(), embedder.input())?)?
                .get(0)?)
        })
    }

    /// The labels of each text, in the published order. An empty text has none.
    pub(crate) fn label<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
    ) -> Result<Vec<FindingLabels>, TrainingError> {
        let labeler = self
            .labeler
            .as_ref()
            .ok_or_else(|| missing(Stage::Scoring))?;
        self.each("labelling reports", texts, |text| {
            if text.as_ref().trim().is_empty() {
                return Ok([Label::Blank; CLASSES]);
            }
            let labels = labeler
                .label(&[labeler.encode(text.as_ref())?])?
                .pop()
                .unwrap_or_default();
            Ok(radialog_schemas::Finding::ALL
                .map(|finding| labels.get(&finding).copied().unwrap_or(Label::Blank)))
        })
    }

    /// A conversation about an image that has not begun: the request for its report.
    pub(crate) fn ask_report(
        &self,
        findings: &str,
        image: &Tensor,
    ) -> Result<DialogRequest, TrainingError> {
        let asked = self.language()?.prompts.report_message(findings);
        Ok(DialogRequest {
            dialog: ChatPrompt {
                history: Vec::new(),
                question: asked,
            },
            image: image.clone(),
        })
    }

    /// The language model's network, tokenizer and prompts.
    pub(crate) fn language(&self) -> Result<&LanguagePipeline, TrainingError> {
        self.language
            .as_ref()
            .ok_or_else(|| missing(Stage::Language))
    }

    /// The most probable answer to each question, as a reader gets it.
    pub(crate) fn answer(
        &self,
        what: &str,
        questions: &[DialogRequest],
    ) -> Result<Vec<String>, TrainingError> {
        let language = self.language()?;
        let done = AtomicU64::new(0);
        let total = questions.len() as u64;
        let write = |share: &[DialogRequest]| {
            self.write(language, share, &|| {
                (self.progress)(what, done.fetch_add(1, Ordering::Relaxed) + 1, total);
            })
        };
        // A GPU is one, and runs one batch at a time.
        let answers: Vec<Vec<String>> = if self.device.is_cpu() {
            questions
                .par_chunks(SHARE)
                .map(write)
                .collect::<Result<_, _>>()?
        } else {
            questions
                .chunks(SHARE)
                .map(write)
                .collect::<Result<_, _>>()?
        };
        Ok(answers.concat())
    }

    fn write(
        &self,
        language: &LanguagePipeline,
        share: &[DialogRequest],
        done: &dyn Fn(),
    ) -> Result<Vec<String>, TrainingError> {
        let window = language.model.config().max_position_embeddings;
        let limits = EngineLimits {
            sequences: TOGETHER,
            cache_tokens: TOGETHER * window,
            ..EngineLimits::default()
        };
        let mut engine = Engine::new(language.model.clone(), limits);
        let mut order = Vec::new();
        for DialogRequest { dialog, image } in share {
            let fitted = dialog.fit(&language.prompts, &language.tokenizer, window, MOST_TOKENS)?;
            // What begins is a report, as a run writes it.
            let task = match dialog.history.is_empty() {
                true => LanguageTask::Report,
                false => LanguageTask::Chat,
            };
            order.push(engine.admit(GenerationRequest {
                adapter: language.adapter(None, task)?,
                prompt: fitted.ids,
                images: vec![image.clone()],
                max_new_tokens: fitted.max_new_tokens,
                ..GenerationRequest::default()
            })?);
        }
        let mut answers = vec![String::new(); share.len()];
        while !engine.is_idle() {
            for event in engine.step()? {
                let EngineEvent::Finished { sequence, result } = event else {
                    continue;
                };
                let answer = language.tokenizer.decode_continuation(&result?.tokens);
                if let Some(place) = order.iter().position(|&id| id == sequence) {
                    answers[place] = language.prompts.report_text(&answer).trim().to_owned();
                }
                done();
            }
        }
        Ok(answers)
    }

    fn pixels(&self, path: &Path, input: InputSize) -> Result<Tensor, TrainingError> {
        stack(vec![pixels(path, input)?], input.side, &self.device)
    }

    /// Does the same with each item, on all cores.
    fn each<I: Sync, O: Send>(
        &self,
        what: &str,
        items: &[I],
        work: impl Fn(&I) -> Result<O, TrainingError> + Sync,
    ) -> Result<Vec<O>, TrainingError> {
        let done = AtomicU64::new(0);
        let one = |item: &I| {
            let result = work(item)?;
            (self.progress)(
                what,
                done.fetch_add(1, Ordering::Relaxed) + 1,
                items.len() as u64,
            );
            Ok(result)
        };
        if self.device.is_cpu() {
            items.par_iter().map(one).collect()
        } else {
            items.iter().map(one).collect()
        }
    }
}

/// A part asked for a network that it does not name in `QualityPart::stages`: nothing a user can cause.
fn missing(stage: Stage) -> TrainingError {
    TrainingError::Empty(format!("the {stage} component was not loaded"))
}
