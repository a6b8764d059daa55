//! Seconds a study, from the timings in the results of a run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_runtime::config::Config;
use radialog_schemas::{PerStage, StudyRecord};

use crate::exit::usage;
use crate::results_place::ResultsPlace;

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
    /// Reads the results of a run, which may be going on: a folder of results, their file, or a prefix of a bucket.
    pub(super) async fn of_run(place: &ResultsPlace, config: &Config) -> anyhow::Result<Self> {
        if let Some(file) = place.folder().filter(|path| path.is_file()) {
            return Self::read(file.to_owned(), place.to_string()).await;
        }
        let looked_at = place.look(config).await?;
        let file = looked_at.folder().join(RESULTS_FILE);
        Self::read(file, place.to_string()).await
    }

    /// Reads a `results.jsonl`, which people know by this name.
    pub(super) async fn read(results: PathBuf, name: String) -> anyhow::Result<Self> {
        let read = tokio::task::spawn_blocking(move || Self::read_file(&results, &name));
        read.await.context("reading the results was interrupted")?
    }

    /// A study whose output was there already says nothing of a stage; nor does a last line that is being written.
    fn read_file(results: &Path, name: &str) -> anyhow::Result<Self> {
        let file = File::open(results)
            .with_context(|| format!("{name}: there are no results of a run ({RESULTS_FILE})"))
            .map_err(usage)?;
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        let mut measured = Self::default();
        for number in 1..=ENOUGH {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            read.with_context(|| format!("{name}: cannot read {RESULTS_FILE}"))?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let record: StudyRecord = serde_json::from_slice(&line)
                .with_context(|| format!("{name}: line {number} is no result"))
                .map_err(usage)?;
            for (stage, timings) in &record.timings {
                if !timings.reused && timings.batch > 0 && timings.model_ms > 0.0 {
                    measured
                        .seconds
                        .get_mut(*stage)
                        .push(timings.model_ms / 1000.0);
                }
            }
        }
        let is_empty = measured.seconds.iter().all(|(_, of)| of.is_empty());
        if is_empty {
            bail!(
                "{name}: no stage of any study was computed there, so that nothing is measured; give --seconds"
            );
        }
        Ok(measured)
    }
}
