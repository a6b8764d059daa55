//! The original's files of predictions: a JSON object of lists of findings by image id.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, ensure};
use radialog_schemas::Finding;
use radialog_schemas::json_members::members;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Reads `{image id: [names of findings]}`; findings come in the published order.
///
/// # Errors
/// Another form, no entry at all, an image that stands twice, or a name that is not one of the 14 findings.
pub(crate) fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<Finding>>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    let Predictions(entries) = serde_json::from_slice(&text).with_context(|| {
        format!(
            "'{}' is no file of predictions, a JSON object of lists of names by image id",
            path.display()
        )
    })?;
    ensure!(
        !entries.is_empty(),
        "'{}' has no prediction",
        path.display()
    );
    Ok(entries)
}

/// An object of lists, no name of which stands twice.
struct Predictions(BTreeMap<String, Vec<Finding>>);

/// The findings of an image, in the published order: the prompt names them so.
#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct PublishedOrder(Vec<Finding>);

impl TryFrom<Vec<String>> for PublishedOrder {
    type Error = <Finding as FromStr>::Err;

    fn try_from(names: Vec<String>) -> Result<Self, Self::Error> {
        let findings = names.iter().map(|name| name.parse());
        let mut findings: Vec<Finding> = findings.collect::<Result<_, _>>()?;
        findings.sort_unstable();
        findings.dedup();
        Ok(Self(findings))
    }
}

impl<'de> Deserialize<'de> for Predictions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut entries = BTreeMap::new();
        let expected = "an object of lists of findings by image id";
        for (image, PublishedOrder(findings)) in members(deserializer, expected)? {
            match entries.entry(image) {
                Entry::Vacant(place) => drop(place.insert(findings)),
                Entry::Occupied(place) => {
                    let image = place.key();
                    return Err(D::Error::custom(format!("'{image}' stands twice")));
                }
            }
        }
        Ok(Self(entries))
    }
}
