//! The original's files of predictions: a JSON object of lists of findings by image id.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, ensure};
use radialog_schemas::Finding;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

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

impl<'de> Deserialize<'de> for Predictions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Predictions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of lists of findings by image id")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Predictions, M::Error> {
                use serde::de::Error;
                let mut entries = BTreeMap::new();
                while let Some((image, names)) = map.next_entry::<String, Vec<String>>()? {
                    let findings = names.iter().map(|name| name.parse::<Finding>());
                    let mut findings: Vec<Finding> = findings
                        .collect::<Result<_, _>>()
                        .map_err(|error| M::Error::custom(format!("'{image}': {error}")))?;
                    // The prompt names them in the published order.
                    findings.sort_unstable();
                    findings.dedup();
                    if entries.insert(image.clone(), findings).is_some() {
                        return Err(M::Error::custom(format!("'{image}' stands twice")));
                    }
                }
                Ok(Predictions(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
