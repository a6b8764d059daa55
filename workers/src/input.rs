//! Inputs that more than one stage reads. Fetching and decoding happen beside the model, for several tasks at once, so
//! that the device never waits for a decoder.

use std::fmt;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::input_gate::InputGate;
use radialog_models::language::AdapterId;
use radialog_models::preprocess::{self, DecodedImage, ImageLimits, InputSize, Preprocessed};
use radialog_runtime::cpu;
use radialog_runtime::objects::Objects;
use radialog_schemas::{ErrorCode, Failure, GateVerdict, Generation, ObjectKey, Stage};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Fetches an object's content.
pub(crate) async fn fetch_object(objects: &dyn Objects, key: &ObjectKey) -> Result<Bytes, Failure> {
    objects.get(key).await.map_err(Failure::from)
}

/// Fetches an object that an earlier stage wrote as JSON.
pub(crate) async fn fetch_json<T: DeserializeOwned>(
    objects: &dyn Objects,
    key: &ObjectKey,
) -> Result<T, Failure> {
    serde_json::from_slice(&fetch_object(objects, key).await?).map_err(|error| corrupt(key, error))
}

/// An image file as a network's input.
pub struct InputImage {
    /// `[3, side, side]`, f32 in main memory.
    pub(crate) tensor: Tensor,
    /// What was wrong with the file and was tolerated.
    pub(crate) warnings: Vec<String>,
    /// What the image looks like, where that was asked for.
    pub(crate) verdict: Option<GateVerdict>,
}

/// Fetches an image file and decodes it to network input; with a gate, says what it looks like.
pub(crate) async fn fetch_image(
    objects: &dyn Objects,
    key: &ObjectKey,
    InputSize { short_side, side }: InputSize,
    limits: ImageLimits,
    gate: Option<&'static InputGate>,
) -> Result<InputImage, Failure> {
    let content = fetch_object(objects, key).await?;
    let decode = move || -> Result<InputImage, Failure> {
        let DecodedImage { image, warnings } = preprocess::decode(&content, &limits)?;
        let verdict = gate.map(|gate| gate.judge(&image)).transpose()?;
        let image = Preprocessed::from_gray(&image, short_side);
        Ok(InputImage {
            tensor: image.tensor(side, &Device::Cpu)?,
            warnings,
            verdict,
        })
    };
    cpu::run(decode).await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorCode::ImageUnreadable,
            "the decoder failed on this image",
        ))
    })
}

/// The adapter that writes a text of this task.
pub(crate) fn adapter(
    language: &LanguagePipeline,
    generation: &Generation,
    task: LanguageTask,
) -> Result<AdapterId, Failure> {
    language
        .adapter(generation.adapter.as_ref(), task)
        .map_err(|error| Failure::new(error.code(), error))
}

/// Tokenises, decodes or assembles beside the async threads.
pub(crate) async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    cpu::run(work)
        .await
        .unwrap_or_else(|panicked| Err(Failure::new(ErrorCode::Crash, panicked)))
}

/// Encodes what a stage stores as JSON.
pub(crate) fn to_json(output: &impl Serialize) -> Bytes {
    serde_json::to_vec(output)
        .expect("outputs have only string keys")
        .into()
}

/// The failure of an object that is there and cannot be decoded.
pub(crate) fn corrupt(key: &ObjectKey, error: impl fmt::Display) -> Failure {
    Failure::new(
        ErrorCode::ObjectCorrupt,
        format!("object '{key}' cannot be decoded: {error}"),
    )
}

/// The failure of a task that came to the wrong queue.
pub(crate) fn wrong_stage(stage: Stage) -> Failure {
    Failure::new(
        ErrorCode::MessageInvalid,
        format!("this is not a task of the {stage} stage"),
    )
}
