//! The report labeler: hidden states, logits, classes and the original program's CSV.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use radialog_models::chexbert::{Chexbert, ChexbertConfig, ChexbertOutput, clean_text};
use radialog_models::tokenizers::bert::BertTokenizer;
use radialog_schemas::{Finding, Label, Labels};
use radialog_tests::golden::Case;

use super::same_bytes;

/// The largest number of ids of a report in the original program.
const LIMIT: usize = 512;

/// Holds every recorded output; texts and CSV where the case has them.
pub(super) fn check(case: &Case) -> Result<()> {
    let config: ChexbertConfig = case.field("/config")?;
    check_labeler(case, &Chexbert::new(&config, case.weights()?)?)
}

/// The same of a labeler that may have come another way.
pub(crate) fn check_labeler(case: &Case, labeler: &Chexbert) -> Result<()> {
    let inputs = case.tensors("inputs.safetensors")?;
    let reports = unpadded(&inputs["input_ids"], &inputs["attention_mask"])?;
    let outputs = labeler.forward(&reports)?;

    let tolerance = case.tolerance("/tolerance")?;
    for (key, expected) in case.tensors("outputs.safetensors")? {
        case.close(&key, output(&outputs, &key)?, &expected, tolerance)?;
    }
    let last = labeler.forward(&reports[reports.len() - 1..])?;
    same_bytes(
        &last.cls_hidden,
        &outputs.cls_hidden.narrow(0, reports.len() - 1, 1)?,
    )?;

    let labels = labeler.label(&reports)?;
    let predictions: Vec<Vec<usize>> = case.field("/predictions")?;
    for (finding, classes) in Finding::chexbert_order().zip(&predictions) {
        let recorded: Vec<_> = classes
            .iter()
            .map(|&class| Label::from_class(class))
            .collect();
        let ours: Vec<_> = labels
            .iter()
            .map(|labels| labels.get(&finding).copied())
            .collect();
        ensure!(
            ours == recorded,
            "{finding}: {ours:?}, recorded {recorded:?}"
        );
    }
    match case.field::<Option<Vec<String>>>("/cleaned_texts")? {
        Some(cleaned) => check_texts(case, &cleaned, &reports, &labels),
        None => Ok(()),
    }
}

/// Checks the way from the original's input file to its output file.
fn check_texts(
    case: &Case,
    cleaned: &[String],
    reports: &[Vec<u32>],
    labels: &[Labels],
) -> Result<()> {
    let raw = rows(&case.dir().join("reports.csv"), false)?;
    ensure!(
        raw.len() == cleaned.len() && raw.len() == labels.len(),
        "number of reports"
    );
    let tokenizer =
        BertTokenizer::from_file(&case.dir().join("../../tokenizers/bert/tokenizer.json"))?;
    for ((row, cleaned), ids) in raw.iter().zip(cleaned).zip(reports) {
        ensure!(
            clean_text(&row[0]) == *cleaned,
            "cleaned text of '{}'",
            &row[0]
        );
        ensure!(
            tokenizer.encode(cleaned, LIMIT)? == *ids,
            "ids of '{cleaned}'"
        );
    }

    let labeled = rows(&case.dir().join("labeled_reports.csv"), true)?;
    ensure!(labeled.len() == labels.len(), "number of rows in the CSV");
    for ((row, raw), labels) in labeled.iter().zip(&raw).zip(labels) {
        ensure!(row[0] == raw[0], "first column of the CSV");
        for (finding, cell) in Finding::chexbert_order().zip(row.iter().skip(1)) {
            let ours = labels[&finding].csv_value();
            // pandas writes a column without blanks as integers
            ensure!(
                ours.parse::<f64>().ok() == cell.parse().ok(),
                "{finding}: '{ours}', recorded '{cell}'"
            );
        }
    }
    Ok(())
}

/// The rows of a CSV file; a header must have the original's columns.
fn rows(path: &Path, header: bool) -> Result<Vec<csv::StringRecord>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(header)
        .from_path(path)?;
    if header {
        let columns: Vec<_> = ["findings"]
            .into_iter()
            .chain(Finding::chexbert_order().map(Finding::name))
            .collect();
        ensure!(
            reader.headers()? == columns,
            "header of '{}'",
            path.display()
        );
    }
    Ok(reader.records().collect::<Result<_, _>>()?)
}

/// Padded ids `[B, n]` with their mask, as one list a report.
pub(super) fn unpadded(ids: &Tensor, mask: &Tensor) -> Result<Vec<Vec<u32>>> {
    let ids: Vec<Vec<u32>> = ids.to_dtype(DType::U32)?.to_vec2()?;
    let lengths: Vec<f32> = mask.sum(1)?.to_vec1()?;
    Ok(ids
        .into_iter()
        .zip(lengths)
        .map(|(ids, length)| ids[..length as usize].to_vec())
        .collect())
}

fn output<'a>(output: &'a ChexbertOutput, key: &str) -> Result<&'a Tensor> {
    let Some(head) = key.strip_prefix("logits.") else {
        ensure!(key == "cls_hidden", "unknown output '{key}'");
        return Ok(&output.cls_hidden);
    };
    output
        .logits
        .get(head.parse::<usize>()?)
        .with_context(|| format!("unknown output '{key}'"))
}
