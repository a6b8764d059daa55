//! The model loop of the stages whose items are independent of each other.

use std::time::Instant;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::ModelError;
use radialog_runtime::stage::{Feed, StageOutput};
use radialog_schemas::Failure;

/// Takes what is ready, up to `limit` items, runs the model on it and answers, until the feed is closed.
/// `model` returns one content an input, in order; the batch's time is shared evenly.
pub(crate) fn run_batches<I>(
    feed: &mut dyn Feed<I>,
    limit: usize,
    mut model: impl FnMut(&[&I]) -> Vec<Result<Bytes, Failure>>,
) {
    loop {
        let items = feed.wait(limit);
        if items.is_empty() {
            return;
        }
        let started = Instant::now();
        let inputs: Vec<&I> = items.iter().map(|item| &item.input).collect();
        let contents = model(&inputs);
        let batch = items.len() as u32;
        let model_time = started.elapsed() / batch;
        for (item, content) in items.into_iter().zip(contents) {
            let output = content.map(|content| StageOutput {
                content,
                tokens: 0,
                model_time,
                batch,
            });
            // Nobody listens any more after a shutdown.
            let _ = item.answer.send(output);
        }
    }
}

/// Runs `network` on images `[3, side, side]`, stacked to a batch `[B, 3, side, side]`; it returns one output an image.
///
/// Where a batch fails, each of its images is tried alone, so that one which fails fails alone; with `whole_batch`, where an
/// output depends on the whole batch, all have failed.
pub(crate) fn run_on_images<T>(
    device: &Device,
    whole_batch: bool,
    images: &[&Tensor],
    network: impl Fn(&Tensor) -> Result<Vec<T>, ModelError>,
) -> Vec<Result<T, Failure>> {
    let run = |images: &[&Tensor]| -> Result<Vec<T>, ModelError> {
        network(&Tensor::stack(images, 0)?.to_device(device)?)
    };
    let failed = |error: ModelError, count: usize| -> Vec<Result<T, Failure>> {
        let failures = vec![Failure::from(error); count];
        failures.into_iter().map(Err).collect()
    };
    match run(images) {
        Ok(outputs) => outputs.into_iter().map(Ok).collect(),
        Err(_) if !whole_batch && images.len() > 1 => images
            .chunks(1)
            .flat_map(|alone| match run(alone) {
                Ok(outputs) => outputs.into_iter().map(Ok).collect(),
                Err(error) => failed(error, 1),
            })
            .collect(),
        Err(error) => failed(error, images.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_fails_fails_alone_unless_outputs_depend_on_the_batch() {
        let values = [1f32, f32::NAN, 3.0];
        let images = values.map(|value| Tensor::new(&[value], &Device::Cpu).unwrap());
        let images: Vec<&Tensor> = images.iter().collect();
        let network = |batch: &Tensor| -> Result<Vec<f32>, ModelError> {
            let values: Vec<f32> = batch.flatten_all()?.to_vec1()?;
            match values.iter().any(|value| value.is_nan()) {
                true => Err(ModelError::Input("not a number".to_owned())),
                false => Ok(values),
            }
        };
        let found = run_on_images(&Device::Cpu, false, &images, network);
        assert!(matches!(found[..], [Ok(1.0), Err(_), Ok(3.0)]));
        let found = run_on_images(&Device::Cpu, true, &images, network);
        assert!(found.len() == 3 && found.iter().all(Result::is_err));
        let found = run_on_images(&Device::Cpu, false, &images[..1], network);
        assert!(matches!(found[..], [Ok(1.0)]));
    }
}
