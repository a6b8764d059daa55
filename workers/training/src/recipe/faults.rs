//! What is wrong with a recipe, gathered so that a user reads of all of it at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use toml::Spanned;

use super::is_demo;

/// The faults of a recipe, in words that name the key.
#[derive(Default)]
pub(super) struct Faults(Vec<String>);

impl Faults {
    /// Adds a fault unless something holds.
    pub(super) fn unless(&mut self, holds: bool, fault: impl Into<String>) {
        if !holds {
            self.0.push(fault.into());
        }
    }

    /// Adds a fault unless a training starts either from a bundle or from a geometry.
    pub(super) fn start(&mut self, start: Option<&Path>, has_geometry: bool) {
        self.unless(
            start.is_some() != has_geometry,
            "start, geometry: give one of them: a bundle to start from, or a geometry for random weights",
        );
        if let Some(start) = start {
            self.unless(
                start.is_dir() || is_demo(start),
                format!("start: no bundle '{}'", start.display()),
            );
        }
    }

    /// Adds a fault for each key of the file that neither part of a recipe has, at the top and in its tables: networks'
    /// geometries are read leniently elsewhere and cannot refuse them.
    pub(super) fn unknown_keys(
        &mut self,
        text: &str,
        recipe: &impl Serialize,
        training: &impl Serialize,
    ) {
        let parts = [serde_json::to_value(recipe), serde_json::to_value(training)];
        let [Ok(Value::Object(mut known)), Ok(Value::Object(training))] = parts else {
            return;
        };
        known.extend(training);
        let Ok(written) = toml::from_str::<BTreeMap<Spanned<String>, toml::Value>>(text) else {
            return;
        };
        for (key, value) in &written {
            let name = key.get_ref();
            match known.get(name) {
                None => {
                    let line = 1 + text[..key.span().start].matches('\n').count();
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    let names = names.join(", ");
                    self.0.push(format!(
                        "{name}: no such key (line {line}); there are {names}"
                    ));
                }
                Some(known) => self.unknown_nested_keys(name, value, known),
            }
        }
    }

    fn unknown_nested_keys(&mut self, place: &str, written: &toml::Value, known: &Value) {
        let Some(written) = written.as_table() else {
            return;
        };
        for (key, value) in written {
            let place = format!("{place}.{key}");
            match known.get(key) {
                None => self.0.push(format!("{place}: no such key")),
                Some(known) => self.unknown_nested_keys(&place, value, known),
            }
        }
    }

    /// All faults that were added.
    pub(super) fn into_all(self) -> Vec<String> {
        self.0
    }
}
