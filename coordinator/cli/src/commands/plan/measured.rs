//! Seconds a study, from the timings in the results of a run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};
use radialog_schemas::{PerStage, StudyRecord};

/// A run of millions need not be read whole: so many studies say what one takes.
const ENOUGH: usize = 20_000;

/// Seconds in the model of single studies, in the order of the results.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) seconds: PerStage<Vec<f64>>,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            seconds: PerStage::from_fn(|_| Vec::new()),
        }
    }
}

impl Measured {
    /// Reads a `results.jsonl`. A study whose output was there already says nothing of a stage.
    pub(super) fn read(results: &Path) -> anyhow::Result<Self> {
        let named = || format!("{}", results.display());
        let file = File::open(results).with_context(named)?;
        let mut measured = Self::default();
        for (number, line) in BufReader::new(file).lines().take(ENOUGH).enumerate() {
            let line = line.with_context(named)?;
            let record: StudyRecord = serde_json::from_str(&line).with_context(|| {
                format!("{}: line {} is no result", results.display(), number + 1)
            })?;
            for (stage, timings) in &record.timings {
                if !timings.reused && timings.batch > 0 && timings.model_ms > 0.0 {
                    measured
                        .seconds
                        .get_mut(*stage)
                        .push(timings.model_ms / 1000.0);
                }
            }
        }
        if measured
            .seconds
            .iter()
            .all(|(_, seconds)| seconds.is_empty())
        {
            bail!(
                "{}: no stage of any study was computed in this run, so that nothing is measured",
                results.display()
            );
        }
        Ok(measured)
    }
}
