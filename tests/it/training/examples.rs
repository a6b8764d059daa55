//! Label masking of the language model's samples: which ids are learned.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use radialog_models::prompt::Prompts;
use radialog_models::tokenizers::{LlamaTokenizer, TokenizerRules};
use radialog_tests::fixtures;
use radialog_tests::golden::Case;
use radialog_training::data::sample_form::{ConversationMessage, SampleForm};
use radialog_training::data::tokenized_sample::TokenizedSample;
use serde::Deserialize;

/// The tokens of an image in RaDialog v2, and the id that stands for it in the original's lists.
const IMAGE: (usize, i64) = (196, -200);
/// The label of what is not learned.
const NOT_LEARNED: i64 = -100;
/// Longer than any recorded sample.
const CUTOFF: usize = 1300;

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

/// A conversation as RaDialog v2's training program had it.
#[derive(Deserialize)]
struct RecordedConversation {
    conversation: Vec<ConversationMessage>,
    input_ids: Vec<i64>,
    labels: Vec<i64>,
}

/// Holds ids and labels of conversations, under both values of the tokenizer's `legacy` setting.
pub(super) fn check_v2(case: &Case) -> Result<()> {
    let vocabulary = case
        .dir()
        .join("../../golden/tokenizers/llama/tokenizer.json");
    let recorded: BTreeMap<String, RecordedConversation> = case.json("training_labels.json")?;
    ensure!(!recorded.is_empty(), "no conversation is recorded");
    for (name, sample) in &recorded {
        let rules = TokenizerRules::v2(name.ends_with("legacy_true"));
        let tokenizer = LlamaTokenizer::from_file(&vocabulary)?.with_rules(rules, IMAGE.0);
        let form = SampleForm::new(Prompts::v2());
        let written = form.of_conversation(&sample.conversation);
        let written = written.map_err(|fault| anyhow!("{name}: {fault}"))?;
        let ours =
            TokenizedSample::encode(&tokenizer, &written.instruction, &written.output, CUTOFF)?;
        let placed = |of: &[i64], image: i64| -> Vec<i64> {
            let pairs = sample.input_ids.iter().zip(of);
            let placed = pairs.flat_map(|(&id, &value)| match id == IMAGE.1 {
                true => vec![image; IMAGE.0],
                false => vec![value],
            });
            placed.collect()
        };
        let image = i64::from(tokenizer.image_id());
        let ids: Vec<i64> = ours.ids.iter().map(|&id| i64::from(id)).collect();
        let expected = placed(&sample.input_ids, image);
        ensure!(ids == expected, "{name}: {ids:?}, recorded {expected:?}");
        let labels = ours.targets().into_iter();
        let labels: Vec<i64> = labels.map(|id| id.map_or(NOT_LEARNED, i64::from)).collect();
        let expected = placed(&sample.labels, NOT_LEARNED);
        ensure!(
            labels == expected,
            "{name}: labels {labels:?}, recorded {expected:?}"
        );
    }
    Ok(())
}

/// Samples whose answer ends in a written end token, as transformers 4.28.1 and the original's training script encode them.
#[test]
fn an_answer_that_ends_in_a_written_end_token_gets_no_second_one() -> Result<()> {
    let file = fixtures::golden().join("tokenizers/llama/tokenizer.json");
    let tokenizer = LlamaTokenizer::from_file(&file)?;
    for (output, expected) in [
        ("yes</s>", &[1, 4874, 2][..]),
        ("yes </s>", &[1, 4874, 29871, 2]),
        ("yes</s></s>", &[1, 4874, 2, 2]),
        ("yes</s> ", &[1, 4874, 2, 259, 2]),
        ("yes</s>\n", &[1, 4874, 2, 29871, 13, 2]),
        ("a<IMG></s>", &[1, 263, 32000, 2]),
        ("</s>", &[1, 2]),
    ] {
        let ours = TokenizedSample::encode(&tokenizer, "", output, 600)?;
        assert_eq!(ours.ids, expected, "{output:?}");
    }
    Ok(())
}
