//! Token ids and texts, exact.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use radialog_models::prompt::Prompts;
use radialog_models::tokenizers::{BertTokenizer, LlamaTokenizer};
use radialog_schemas::Finding;
use radialog_tests::golden::Case;
use serde::Deserialize;

/// The id that fills the end of padded BERT texts in the recorded lists.
const QFORMER_LENGTH: usize = 32;
/// What the original puts where there is nothing to correct.
const KEEP: &str = "KEEP_OLD";

/// Holds every file of the case to our tokenizers.
pub(super) fn check(case: &Case) -> Result<()> {
    let files: BTreeMap<String, String> = case.field("/files")?;
    for file in files.keys() {
        match file.as_str() {
            "llama.json" => check_llama(case, file, &llama(case)?),
            "llama_decode_random_ids.json" => check_decoding(case, file, &llama(case)?),
            "llama_batches.json" => check_batches(case, file),
            "bert.json" => check_bert(case, file),
            "training_examples.json" => check_training_examples(case, file),
            "downstream_prompts.json" => check_questions(case, file),
            _ => bail!("nobody checks it"),
        }
        .with_context(|| file.clone())?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct LlamaText {
    text: String,
    ids: Vec<u32>,
    ids_no_bos: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
    batch_decoded_skip_special: String,
}

/// Holds ids and texts, and the texts of random ids, to a tokenizer that may have come another way.
pub(crate) fn check_texts(case: &Case, tokenizer: &LlamaTokenizer) -> Result<()> {
    check_llama(case, "llama.json", tokenizer)?;
    check_decoding(case, "llama_decode_random_ids.json", tokenizer)
}

fn check_llama(case: &Case, file: &str, tokenizer: &LlamaTokenizer) -> Result<()> {
    for expected in case.json::<Vec<LlamaText>>(file)? {
        let ids = tokenizer.encode(&expected.text)?;
        same(&expected.text, &ids, &expected.ids)?;
        same(&expected.text, &ids[1..], &expected.ids_no_bos)?;
        same(&expected.text, &tokenizer.decode(&ids), &expected.decoded)?;
        same(
            &expected.text,
            &tokenizer.decode_text(&ids),
            &expected.decoded_skip_special,
        )?;
        same(
            &expected.text,
            &tokenizer.decode_text(&ids),
            &expected.batch_decoded_skip_special,
        )?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Decoding {
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

fn check_decoding(case: &Case, file: &str, tokenizer: &LlamaTokenizer) -> Result<()> {
    for expected in case.json::<Vec<Decoding>>(file)? {
        same(
            &expected.ids,
            &tokenizer.decode(&expected.ids),
            &expected.decoded,
        )?;
        same(
            &expected.ids,
            &tokenizer.decode_text(&expected.ids),
            &expected.decoded_skip_special,
        )?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Batches {
    padding_left: Vec<Batch>,
    truncation_left: Truncated,
}

#[derive(Deserialize)]
struct Batch {
    texts: Vec<String>,
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Truncated {
    text: String,
    max_length: usize,
    input_ids: Vec<u32>,
}

fn check_batches(case: &Case, file: &str) -> Result<()> {
    let tokenizer = llama(case)?;
    let batches: Batches = case.json(file)?;
    for batch in batches.padding_left {
        let rows = batch
            .texts
            .iter()
            .map(|text| tokenizer.encode(text))
            .collect::<Result<Vec<_>, _>>()?;
        let (ids, mask) = pad_left(&rows, tokenizer.pad_id());
        same(&batch.texts, &ids, &batch.input_ids)?;
        same(&batch.texts, &mask, &batch.attention_mask)?;
    }
    // The beginning is cut, the start token is not.
    let Truncated {
        text,
        max_length,
        input_ids,
    } = batches.truncation_left;
    let ids = tokenizer.encode(&text)?;
    let cut = ids.len().saturating_sub(max_length);
    same(&text, &[&ids[..1], &ids[1 + cut..]].concat(), &input_ids)
}

/// Rows of one length, padded on the left, and their masks (1 on tokens, 0 on padding).
fn pad_left(rows: &[Vec<u32>], pad: u32) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let padded = rows.iter().map(|row| {
        let missing = longest - row.len();
        let (ids, mask) = (vec![pad; missing], vec![0; missing]);
        (
            [ids, row.clone()].concat(),
            [mask, vec![1; row.len()]].concat(),
        )
    });
    padded.unzip()
}

#[derive(Deserialize)]
struct BertText {
    text: String,
    ids: Vec<u32>,
    labeler_ids: Vec<u32>,
    qformer_ids_len32: Vec<u32>,
    qformer_mask_len32: Vec<u32>,
}

fn check_bert(case: &Case, file: &str) -> Result<()> {
    let path = vocabulary(case)?.join("bert/tokenizer.json");
    let labeler = BertTokenizer::from_file(&path)?;
    let qformer = BertTokenizer::from_file(&path)?.with_decoder_token()?;
    for expected in case.json::<Vec<BertText>>(file)? {
        same(
            &expected.text,
            &labeler.encode(&expected.text, 512)?,
            &expected.labeler_ids,
        )?;
        same(
            &expected.text,
            &labeler.encode(&expected.text, usize::MAX)?,
            &expected.ids,
        )?;
        let mut ids = qformer.encode(&expected.text, QFORMER_LENGTH)?;
        let mut mask = vec![1; ids.len()];
        ids.resize(QFORMER_LENGTH, qformer.pad_id());
        mask.resize(QFORMER_LENGTH, 0);
        same(&expected.text, &ids, &expected.qformer_ids_len32)?;
        same(&expected.text, &mask, &expected.qformer_mask_len32)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct TrainingExample {
    full_prompt: String,
    cutoff_len: usize,
    input_ids: Vec<u32>,
}

/// Checks only the ids: which of them are learned is training's part.
fn check_training_examples(case: &Case, file: &str) -> Result<()> {
    let tokenizer = llama(case)?;
    for expected in case.json::<Vec<TrainingExample>>(file)? {
        let mut ids = tokenizer.encode(&expected.full_prompt)?;
        ids.push(tokenizer.eos_id());
        ids.truncate(expected.cutoff_len);
        same(&expected.full_prompt, &ids, &expected.input_ids)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct QuestionPrompts {
    classes: Vec<String>,
    predicted: Vec<Vec<f32>>,
    labels: Vec<Vec<f32>>,
    history: Vec<String>,
    correction: Vec<String>,
    findings_all: Vec<String>,
    findings_binary_first: Vec<String>,
}

fn check_questions(case: &Case, file: &str) -> Result<()> {
    let expected: QuestionPrompts = case.json(file)?;
    let prompts = Prompts::default();
    let classes = expected
        .classes
        .iter()
        .map(|name| name.parse::<Finding>())
        .collect::<Result<Vec<_>, _>>();
    let classes = classes.map_err(anyhow::Error::msg)?;
    let where_only = |these: &[f32], others: &[f32]| -> Vec<Finding> {
        let pairs = these.iter().zip(others).zip(&classes);
        pairs
            .filter(|((this, other), _)| **this == 1.0 && **other == 0.0)
            .map(|(_, finding)| *finding)
            .collect()
    };
    for (index, history) in expected.history.iter().enumerate() {
        let (predicted, labels) = (&expected.predicted[index], &expected.labels[index]);
        let correction = prompts.questions.correction(
            &where_only(labels, predicted),
            &where_only(predicted, labels),
        );
        let correction = correction.as_deref().unwrap_or(KEEP);
        same(
            history,
            &prompts.follow_up(history, correction, 1),
            &expected.correction[index],
        )?;
        let all = prompts.follow_up(history, &prompts.questions.all_findings, 1);
        same(history, &all, &expected.findings_all[index])?;
    }
    for (index, finding) in classes.iter().enumerate() {
        let history = &expected.history[0];
        let question = prompts.follow_up(history, &prompts.questions.presence(*finding), index + 1);
        same(history, &question, &expected.findings_binary_first[index])?;
    }
    Ok(())
}

fn vocabulary(case: &Case) -> Result<PathBuf> {
    Ok(case.dir().join(case.field::<String>("/vocab")?))
}

fn llama(case: &Case) -> Result<LlamaTokenizer> {
    Ok(LlamaTokenizer::from_file(
        &vocabulary(case)?.join("llama/tokenizer.json"),
    )?)
}

fn same<T, E>(of: &(impl std::fmt::Debug + ?Sized), actual: &T, expected: &E) -> Result<()>
where
    T: PartialEq<E> + std::fmt::Debug + ?Sized,
    E: std::fmt::Debug + ?Sized,
{
    ensure!(
        actual == expected,
        "{of:?}: {actual:?}, recorded {expected:?}"
    );
    Ok(())
}
