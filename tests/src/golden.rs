//! Golden cases: inputs and outputs of the original Python programs, which ours must reproduce.
//!
//! A case is a folder with a `case.json`; which check it needs follows from its `case` field alone, so that a golden
//! folder made with other seeds and geometries works unchanged. Small cases are copied into `tests/fixtures/golden`; the
//! whole set is taken from `RADIALOG_GOLDEN`, by default `../shared/golden` beside the project. Cases of RaDialog v2 lie in a
//! folder `golden-v2` beside either.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fixtures;

mod formula;
mod tolerance;

pub use formula::{Formula, FormulaWeights};
pub use tolerance::Tolerance;

/// Names the folder with the whole golden set.
pub const GOLDEN_VARIABLE: &str = "RADIALOG_GOLDEN";

/// The file that makes a folder a case.
const CASE_FILE: &str = "case.json";

/// The folder with the cases of RaDialog v2, beside that of v1's.
const V2_FOLDER: &str = "golden-v2";

/// One golden case.
pub struct Case {
    dir: PathBuf,
    content: Value,
    worst: Cell<f64>,
}

impl Case {
    /// Reads the case in a folder.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let content = read_json(&dir.join(CASE_FILE))?;
        Ok(Self {
            dir,
            content,
            worst: Cell::new(0.0),
        })
    }

    /// Another case that this one names, by a path relative to this folder.
    pub fn sibling(&self, relative: &str) -> Result<Self> {
        Self::open(self.dir.join(relative))
    }

    /// The `case` field, which says what must be checked.
    pub fn kind(&self) -> &str {
        self.content["case"].as_str().unwrap_or_default()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A part of `case.json` by its JSON pointer, e.g. `/config/grid`.
    pub fn field<T: DeserializeOwned>(&self, pointer: &str) -> Result<T> {
        let value = self
            .content
            .pointer(pointer)
            .with_context(|| format!("{CASE_FILE} has no {pointer}"))?;
        serde_json::from_value(value.clone()).with_context(|| format!("{CASE_FILE} {pointer}"))
    }

    /// Whether `case.json` has this part.
    pub fn has(&self, pointer: &str) -> bool {
        self.content.pointer(pointer).is_some()
    }

    /// A JSON file of the case.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        read_json(&self.dir.join(file))
    }

    /// All tensors of a safetensors file of the case.
    pub fn tensors(&self, file: &str) -> Result<HashMap<String, Tensor>> {
        load_tensors(&self.dir.join(file))
    }

    /// The case's weights in f32, made when asked for.
    pub fn weights(&self) -> Result<VarBuilder<'static>> {
        let weights = FormulaWeights::open(
            &self.dir,
            "weights_manifest.json",
            self.field("/weights/seed")?,
        )?;
        Ok(VarBuilder::from_backend(
            Box::new(weights),
            DType::F32,
            Device::Cpu,
        ))
    }

    /// An input made by the weight formula; `pointer` leads to its name, shape, offset, scale and seed.
    pub fn formula_input(&self, pointer: &str) -> Result<Tensor> {
        self.field::<Formula>(pointer)?.tensor()
    }

    /// Holds a tensor to a recorded one, within `tolerance`.
    pub fn close(
        &self,
        name: &str,
        actual: &Tensor,
        expected: &Tensor,
        tolerance: Tolerance,
    ) -> Result<()> {
        let share = tolerance
            .check(actual, expected)
            .with_context(|| format!("output '{name}'"))?;
        self.worst.set(self.worst.get().max(share));
        Ok(())
    }

    /// The largest error so far, as a share of what is allowed.
    pub fn worst(&self) -> f64 {
        self.worst.get()
    }

    /// The tolerance of one output: its own in `tolerance_by_output` where there is one, else that of the case.
    pub fn output_tolerance(&self, name: &str, pointer: &str) -> Result<Tolerance> {
        let own = format!("/tolerance_by_output/{name}");
        if self.has(&own) {
            return self.field(&own);
        }
        self.tolerance(pointer)
    }

    /// The tolerance of this case: `tolerance_calibrated` where there is one, else the bounds at `pointer`.
    pub fn tolerance(&self, pointer: &str) -> Result<Tolerance> {
        let calibrated = "/tolerance_calibrated";
        self.field(if self.has(calibrated) {
            calibrated
        } else {
            pointer
        })
    }
}

/// The folders with golden cases: the fixtures, and the whole set where there is one. A set that is named but not there is
/// an error.
pub fn roots() -> Result<Vec<PathBuf>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut roots = vec![fixtures::golden()];
    match std::env::var_os(GOLDEN_VARIABLE) {
        Some(named) => {
            let named = PathBuf::from(named);
            // cargo runs tests in the crate's folder, but a person names a folder from the project's
            let root = if named.is_relative() {
                tests.join("..").join(named)
            } else {
                named
            };
            ensure!(
                root.is_dir(),
                "{GOLDEN_VARIABLE} names '{}', which is not a folder",
                root.display()
            );
            roots.push(root);
        }
        None => {
            roots.extend(Some(tests.join("../../shared/golden")).filter(|default| default.is_dir()))
        }
    }
    Ok(roots)
}

/// The folders with golden cases of RaDialog v2: those that lie beside [`roots`].
///
/// # Errors
/// As [`roots`].
pub fn v2_roots() -> Result<Vec<PathBuf>> {
    let roots = roots()?.into_iter();
    Ok(roots
        .map(|root| root.with_file_name(V2_FOLDER))
        .filter(|root| root.is_dir())
        .collect())
}

/// All cases below a folder, in the order of their paths. Finding none is an error.
pub fn cases(root: &Path) -> Result<Vec<Case>> {
    let mut found = Vec::new();
    collect(root, &mut found)?;
    if found.is_empty() {
        bail!("no {CASE_FILE} below '{}'", root.display());
    }
    found.sort();
    found.into_iter().map(Case::open).collect()
}

/// All tensors of a safetensors file, on the CPU.
pub fn load_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .with_context(|| format!("'{}'", path.display()))
}

/// A JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("'{}'", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("'{}'", path.display()))
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if dir.join(CASE_FILE).is_file() {
        found.push(dir.to_owned());
    }
    for entry in std::fs::read_dir(dir).with_context(|| format!("'{}'", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        }
    }
    Ok(())
}
