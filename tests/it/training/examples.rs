//! Label masking of the language model's samples: which ids are learned.

use anyhow::{Result, ensure};
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_tests::golden::Case;
use radialog_training::data::tokenized_sample::TokenizedSample;
use serde::Deserialize;

#[derive(Deserialize)]
struct RecordedExample {
    instruction: String,
    output: String,
    cutoff_len: usize,
    input_ids: Vec<u32>,
    labels: Vec<i64>,
    user_len: usize,
}

/// Holds ids, labels and the length of the prompt.
pub(super) fn check(case: &Case) -> Result<()> {
    let vocabulary = case.dir().join(case.field::<String>("/vocab")?);
    let tokenizer = LlamaTokenizer::from_file(&vocabulary.join("llama/tokenizer.json"))?;
    let samples: Vec<RecordedExample> = case.json("training_examples.json")?;
    ensure!(!samples.is_empty(), "no sample is recorded");
    for (index, sample) in samples.iter().enumerate() {
        let ours = TokenizedSample::encode(
            &tokenizer,
            &sample.instruction,
            &sample.output,
            sample.cutoff_len,
        )?;
        ensure!(
            ours.ids == sample.input_ids,
            "sample {index}: {:?}, recorded {:?}",
            ours.ids,
            sample.input_ids
        );
        ensure!(
            ours.read.len() == 1 && ours.read[0] == (0..sample.user_len),
            "sample {index}: {:?} is prompt",
            ours.read
        );
        let labels: Vec<i64> = ours
            .targets()
            .into_iter()
            .map(|target| target.map_or(-100, i64::from))
            .collect();
        ensure!(
            labels == sample.labels,
            "sample {index}: labels {labels:?}, recorded {:?}",
            sample.labels
        );
        ensure!(
            ours.teaches() == sample.labels.iter().any(|label| *label >= 0),
            "sample {index}"
        );
    }
    Ok(())
}
