//! Inputs that more than one stage reads. Fetching and decoding happen beside the model, for several tasks at once, so
//! that the device never waits for a decoder.

use std::fmt;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};
use radialog_runtime::objects::Objects;
use radialog_schemas::{ErrorCode, Failure, ObjectKey, Stage};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An object's content.
pub(crate) async fn object(objects: &dyn Objects, key: &ObjectKey) -> Result<Bytes, Failure> {
    objects.get(key).await.map_err(Failure::from)
}

/// An object that an earlier stage wrote as JSON.
pub(crate) async fn json<T: DeserializeOwned>(
    objects: &dyn Objects,
    key: &ObjectKey,
) -> Result<T, Failure> {
    serde_json::from_slice(&object(objects, key).await?).map_err(|error| corrupt(key, error))
}

/// An image file as network input `[3, side, side]`, in main memory.
pub(crate) async fn image(
    objects: &dyn Objects,
    key: &ObjectKey,
    InputSize { short_side, side }: InputSize,
    limits: ImageLimits,
) -> Result<Tensor, Failure> {
    let content = object(objects, key).await?;
    let decode = move || -> Result<Tensor, Failure> {
        Ok(Preprocessed::from_bytes(&content, &limits, short_side)?.tensor(side, &Device::Cpu)?)
    };
    tokio::task::spawn_blocking(decode)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorCode::ImageUnreadable,
                "the decoder failed on this image",
            ))
        })
}

/// What a stage stores as JSON.
pub(crate) fn to_json(output: &impl Serialize) -> Bytes {
    serde_json::to_vec(output)
        .expect("outputs have only string keys")
        .into()
}

/// An object that is there and cannot be decoded.
pub(crate) fn corrupt(key: &ObjectKey, error: impl fmt::Display) -> Failure {
    Failure::new(
        ErrorCode::ObjectCorrupt,
        format!("object '{key}' cannot be decoded: {error}"),
    )
}

/// A task that came to the wrong queue.
pub(crate) fn not_ours(stage: Stage) -> Failure {
    Failure::new(
        ErrorCode::MessageInvalid,
        format!("this is not a task of the {stage} stage"),
    )
}
