//! Image to the probabilities of the 14 CheXpert findings, and their text for the prompt; and whether it is a frontal chest X-ray at
//! all.

use async_trait::async_trait;
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::FindingsPredictor;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::input_gate::InputGate;
use radialog_models::preprocess::ImageLimits;
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, StageWork};
use radialog_schemas::{ContentHash, Failure, GateVerdict, Stage, Task, Work};

use crate::input::{self, InputImage};
use crate::{StageOptions, batch};

/// The findings stage: images to findings.
pub struct FindingsStage {
    component: ContentHash,
    predictor: FindingsPredictor,
    gate: &'static InputGate,
    device: Device,
    batch_limit: usize,
    image_limits: ImageLimits,
}

impl FindingsStage {
    /// Loads the findings component onto the device.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(
        bundle: &Bundle,
        device: &Device,
        options: &StageOptions,
    ) -> Result<Self, BundleError> {
        Ok(Self {
            component: bundle.manifest().component_hash(Stage::Findings),
            predictor: FindingsPredictor::load(bundle, device)?,
            gate: InputGate::shipped().map_err(bundle.model_error(Stage::Findings))?,
            device: device.clone(),
            batch_limit: options.batch_limit,
            image_limits: options.image_limits,
        })
    }
}

#[async_trait]
impl StageWork for FindingsStage {
    type Input = InputImage;

    fn stage(&self) -> Stage {
        Stage::Findings
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<InputImage, Failure> {
        let Work::Findings { image } = &task.work else {
            return Err(input::wrong_stage(Stage::Findings));
        };
        let size = self.predictor.input();
        input::fetch_image(objects, image, size, self.image_limits, Some(self.gate)).await
    }

    fn run(&self, feed: &mut dyn Feed<InputImage>) {
        batch::run_batches(feed, self.batch_limit, |images| {
            let tensors: Vec<&Tensor> = images.iter().map(|image| &image.tensor).collect();
            let predict = |images: &Tensor| self.predictor.predict(images);
            let reports = batch::run_on_images(&self.device, false, &tensors, predict);
            let contents = images.iter().zip(reports).map(|(image, report)| {
                let mut report = report?;
                let verdict = image.verdict.as_ref();
                report.warnings = verdict.and_then(GateVerdict::warning).into_iter().collect();
                report.warnings.extend_from_slice(&image.warnings);
                report.input_gate.clone_from(&image.verdict);
                Ok(input::to_json(&report))
            });
            contents.collect()
        });
    }
}
