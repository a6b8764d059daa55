//! Recipes: all that decides a training, in one TOML file. Unknown keys are refused, and every fault is told at once.

use std::fs;
use std::path::Path;

use radialog_schemas::ContentHash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TrainingError;
use crate::optimizer::schedule::Schedule;

mod alignment;
mod chexbert;
mod findings;
mod language;

pub use alignment::{AlignmentRecipe, PairTable};
pub use chexbert::{ChexbertRecipe, ZeroLabels};
pub use findings::{BlankLabels, FindingsRecipe, ImageTable};
pub use language::{LanguageRecipe, LoraRecipe};

/// A recipe as read, with its folder and a hash that says whether two are the same.
#[derive(Clone, Debug)]
pub struct LoadedRecipe<T> {
    /// The recipe, its paths made whole.
    pub recipe: T,
    /// Of the file's content.
    pub hash: ContentHash,
}

fn default_seed() -> u64 {
    42
}
fn default_accumulation() -> usize {
    1
}

fn rising_and_falling(rate: f64, warmup: Option<u64>) -> Schedule {
    warmup.map_or(Schedule::Constant { rate }, |warmup| {
        Schedule::WarmupLinear { rate, warmup }
    })
}

/// A recipe as it stands in its file, and the file's text.
fn parse<T: DeserializeOwned>(path: &Path) -> Result<(T, String), TrainingError> {
    let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
    let fault = |error: toml::de::Error| {
        let faults = vec![error.to_string().trim().to_owned()];
        TrainingError::Recipe {
            path: path.to_owned(),
            faults,
        }
    };
    let recipe = toml::from_str(&text).map_err(fault)?;
    Ok((recipe, text))
}

/// What is wrong with a recipe.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, holds: bool, fault: impl Into<String>) {
        if !holds {
            self.0.push(fault.into());
        }
    }

    fn start(&mut self, start: Option<&Path>, has_geometry: bool) {
        self.unless(
            start.is_some() != has_geometry,
            "start, geometry: give one of them: a bundle to start from, or a geometry for random weights",
        );
        if let Some(start) = start {
            self.unless(
                start.is_dir(),
                format!("start: no bundle '{}'", start.display()),
            );
        }
    }

    fn steps(
        &mut self,
        epochs: u64,
        rate: f64,
        accumulation: usize,
        clip: Option<f64>,
        checkpoint_steps: Option<u64>,
    ) {
        self.unless(accumulation > 0, "accumulation: must be 1 or more");
        self.unless(epochs > 0, "epochs: must be 1 or more");
        self.unless(
            rate.is_finite() && rate > 0.0,
            format!("rate: {rate} is not over 0"),
        );
        self.unless(clip.is_none_or(|clip| clip > 0.0), "clip: must be over 0");
        self.unless(
            checkpoint_steps != Some(0),
            "checkpoint_steps: must be 1 or more",
        );
    }

    /// Keys of a geometry that it does not have; geometries are read leniently elsewhere and cannot refuse them.
    fn unknown_geometry(&mut self, text: &str, geometry: Option<&impl Serialize>) {
        let known = geometry.and_then(|geometry| serde_json::to_value(geometry).ok());
        let written = toml::from_str::<toml::Table>(text).ok();
        let (Some(known), Some(written)) = (known, written) else {
            return;
        };
        if let Some(written) = written.get("geometry").and_then(toml::Value::as_table) {
            self.unknown_keys("geometry", written, &known);
        }
    }

    fn unknown_keys(&mut self, place: &str, written: &toml::Table, known: &serde_json::Value) {
        for (key, value) in written {
            let Some(known) = known.get(key) else {
                self.0.push(format!("{place}.{key}: no such key"));
                continue;
            };
            if let Some(value) = value.as_table() {
                self.unknown_keys(&format!("{place}.{key}"), value, known);
            }
        }
    }

    fn none<T>(self, path: &Path, text: &str, recipe: T) -> Result<LoadedRecipe<T>, TrainingError> {
        if self.0.is_empty() {
            return Ok(LoadedRecipe {
                recipe,
                hash: ContentHash::of(text.as_bytes()),
            });
        }
        Err(TrainingError::Recipe {
            path: path.to_owned(),
            faults: self.0,
        })
    }
}
