//! Our networks and texts beside the original Python programs' recorded outputs.
#![expect(
    clippy::print_stdout,
    reason = "the number of cases passed is this test's result"
)]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use radialog_tests::golden::{self, Case};
use serde::Deserialize;

mod bf16;
pub(crate) mod biovil;
pub(crate) mod chexbert;
mod end_to_end;
pub(crate) mod findings;
mod formula;
pub(crate) mod language;
mod preprocess;
pub(crate) mod qformer;
pub(crate) mod tokenizers;
pub(crate) mod v2;

/// Checks all that a case records.
type Check = fn(&Case) -> Result<()>;

/// What to check, by the `case` field of a `case.json`.
const CHECKS: &[(&str, Check)] = &[
    ("image_preprocessing", preprocess::check),
    ("biovil_t_image_encoder", biovil::check),
    ("qformer_alignment", qformer::check),
    ("findings_classifier", findings::check),
    ("chexbert_labeler", chexbert::check),
    ("llama_one_real_layer", language::check),
    ("llama_image_splice_real_vocab", language::check),
    ("llama_tiny_checkpoint_files", language::check_files),
    ("tokenizers", tokenizers::check),
    ("end_to_end", end_to_end::check),
    ("v2_real_vocab", v2::language::check),
    ("v2_end_to_end", v2::end_to_end::check),
    ("v2_model_folder", v2::folders::check),
    ("v2_file_layouts", v2::folders::check_layouts),
];

/// Cases of training and evaluation, which the inference code cannot be held to.
const NOT_INFERENCE: &[&str] = &["alignment_training_setup", "metrics", "section_parser"];

/// Shows only cases whose folder contains this text; for working on one network.
const ONLY_VARIABLE: &str = "RADIALOG_GOLDEN_ONLY";

/// Values of the weight formula itself; a folder with other seeds need not repeat them.
const FORMULA_FILE: &str = "formula_test.json";

/// What a recording has one of, or a list of where it is of a batch.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T: Clone> OneOrMany<T> {
    fn all(&self) -> Vec<T> {
        match self {
            OneOrMany::One(item) => vec![item.clone()],
            OneOrMany::Many(items) => items.clone(),
        }
    }
}

#[test]
fn every_golden_case_is_reproduced() -> Result<()> {
    let only = std::env::var(ONLY_VARIABLE).unwrap_or_default();
    let mut passed = 0;
    let mut failures = Vec::new();
    for root in golden::roots()?.into_iter().chain(golden::v2_roots()?) {
        let mut report = |path: &Path, started: Instant, outcome: Result<f64>| {
            let name = path
                .strip_prefix(&root)
                .unwrap_or(path)
                .display()
                .to_string();
            match outcome {
                Ok(worst) => {
                    passed += 1;
                    let seconds = started.elapsed().as_secs_f64();
                    println!(
                        "parity: {name}: {:.0}% of the tolerance, {seconds:.1} s",
                        worst * 100.0
                    );
                }
                Err(error) => failures.push(format!("{name}: {error:#}")),
            }
        };
        let file = root.join(FORMULA_FILE);
        if file.is_file() {
            report(&file, Instant::now(), formula::check(&file).map(|()| 0.0));
        }
        for case in golden::cases(&root)? {
            if NOT_INFERENCE.contains(&case.kind()) || !case.dir().to_string_lossy().contains(&only)
            {
                continue;
            }
            report(case.dir(), Instant::now(), check(&case));
        }
    }
    if !failures.is_empty() {
        bail!(
            "{} of {} cases fail:\n{}",
            failures.len(),
            failures.len() + passed,
            failures.join("\n")
        );
    }
    println!("parity: {passed} cases passed");
    Ok(())
}

/// Returns the largest error as a share of what is allowed.
fn check(case: &Case) -> Result<f64> {
    let (_, check) = CHECKS
        .iter()
        .find(|(kind, _)| *kind == case.kind())
        .with_context(|| format!("nobody checks cases of kind '{}'", case.kind()))?;
    if case.has("/weights/probes") {
        formula::check_probes(case).context("weights.probes")?;
    }
    check(case)?;
    ensure!(case.worst() <= 1.0);
    Ok(case.worst())
}

/// Holds two f32 tensors to the same bytes: what a sample is batched with must not change its result.
fn same_bytes(a: &Tensor, b: &Tensor) -> Result<()> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
        let values = tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    };
    ensure!(
        a.dims() == b.dims() && bits(a)? == bits(b)?,
        "a sample's result depends on what it is batched with"
    );
    Ok(())
}
