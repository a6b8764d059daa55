//! The model loop of the stages whose items are independent of each other.

use std::time::Instant;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use radialog_models::ModelError;
use radialog_runtime::stage::{Feed, StageOutput};
use radialog_schemas::Failure;
use rayon::prelude::*;

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

/// Runs `network` on images `[3, side, side]`; it takes a batch `[B, 3, side, side]` and returns one output an image.
///
/// With `together` the images are stacked, as a GPU wants them. Else every image is a batch of its own, so that its bytes do
/// not depend on the others; the cores share the images.
pub(crate) fn run_on_images<T: Send>(
    device: &Device,
    together: bool,
    images: &[&Tensor],
    network: impl Fn(&Tensor) -> Result<Vec<T>, ModelError> + Sync,
) -> Vec<Result<T, Failure>> {
    let run = |images: &[&Tensor]| -> Vec<Result<T, Failure>> {
        let outputs = Tensor::stack(images, 0)
            .and_then(|batch| batch.to_device(device))
            .map_err(ModelError::from)
            .and_then(|batch| network(&batch));
        match outputs {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(error) => {
                let failure = Failure::from(error);
                images.iter().map(|_| Err(failure.clone())).collect()
            }
        }
    };
    if together {
        run(images)
    } else {
        images.par_chunks(1).flat_map_iter(run).collect()
    }
}
