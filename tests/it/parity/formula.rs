//! The weight formula itself: without it, no other case means anything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::DType;
use radialog_tests::golden::{Case, Formula, FormulaWeights, read_json};
use serde::Deserialize;

/// The manifest that the probes of every case are about.
const MANIFEST: &str = "weights_manifest.json";

#[derive(Deserialize)]
struct Example {
    #[serde(flatten)]
    formula: Formula,
    key: String,
    #[serde(default)]
    u24: Vec<u32>,
    #[serde(default)]
    u24_at: BTreeMap<String, u32>,
    #[serde(default)]
    values: Vec<f32>,
    sum_f64: Option<f64>,
    last: Option<f32>,
}

/// Holds the formula to the recorded keys, bits and values.
pub(super) fn check(file: &Path) -> Result<()> {
    for example in read_json::<Vec<Example>>(file)? {
        let formula = &example.formula;
        let name = &formula.name;
        ensure!(formula.key().to_string() == example.key, "key of '{name}'");
        for (index, &bits) in (0..).zip(&example.u24) {
            ensure!(formula.bits(index) == bits, "bits {index} of '{name}'");
        }
        for (index, &bits) in &example.u24_at {
            ensure!(
                formula.bits(index.parse()?) == bits,
                "bits {index} of '{name}'"
            );
        }
        let values = formula.values();
        ensure!(values.starts_with(&example.values), "values of '{name}'");
        ensure!(
            example.last.is_none_or(|last| values.last() == Some(&last)),
            "last value of '{name}'"
        );
        let sum: f64 = values.iter().copied().map(f64::from).sum();
        ensure!(
            example
                .sum_f64
                .is_none_or(|expected| (sum - expected).abs() < 1e-6),
            "sum of '{name}': {sum}"
        );
    }
    Ok(())
}

/// Holds a case's weights to its (name, index, value) triples and, where they are stored too, to the stored ones.
pub(super) fn check_probes(case: &Case) -> Result<()> {
    let probes: Vec<(String, usize, f32)> = case.field("/weights/probes")?;
    if !case.dir().join(MANIFEST).is_file() {
        return Ok(());
    }
    let weights = FormulaWeights::open(case.dir(), MANIFEST, case.field("/weights/seed")?)?;
    for (name, index, value) in probes
        .iter()
        .filter(|(name, ..)| weights.names().any(|known| known == name))
    {
        let found = weights
            .tensor(name)?
            .flatten_all()?
            .get(*index)?
            .to_scalar::<f32>()?;
        ensure!(
            found == *value,
            "'{name}' at {index}: {found}, recorded {value}"
        );
    }
    if case.dir().join("weights.safetensors").is_file() {
        for (name, stored) in case.tensors("weights.safetensors")? {
            // checkpoints wrap the network that the formula names belong to
            let name = name.strip_prefix("model.").unwrap_or(&name);
            if !weights.names().any(|known| known == name) {
                continue;
            }
            let difference = (weights.tensor(name)? - stored.to_dtype(DType::F32)?)?
                .abs()?
                .flatten_all()?;
            ensure!(
                difference.sum_all()?.to_scalar::<f32>()? == 0.0,
                "stored '{name}' differs from the formula's"
            );
        }
    }
    Ok(())
}
