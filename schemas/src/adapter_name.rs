//! Names of adapters: they stand in configurations, file names, messages and the names of models, so that one definition
//! says what such a name may be.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// The name of one of several adapters of a bundle's language model, e.g. `rg`.
///
/// At most [`AdapterName::LONGEST`] lower-case letters, digits, `-` and `_`, of which the first is a letter or digit: a
/// name on every file system, in every address and after the name of a bundle. Deserializing checks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AdapterName(String);

/// A text that is no [`AdapterName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no name of an adapter: take up to 64 lower-case letters, digits, '-' and '_', a letter or digit first"
)]
pub struct InvalidAdapterName(String);

/// As much of an invalid name is repeated in messages, in characters.
const SHOWN: usize = 80;

impl AdapterName {
    /// In characters, all of which are ASCII.
    pub const LONGEST: usize = 64;
    const PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AdapterName {
    type Err = InvalidAdapterName;

    fn from_str(name: &str) -> Result<Self, InvalidAdapterName> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = name.len() <= Self::LONGEST
            && name.bytes().next().is_some_and(is_plain)
            && name
                .bytes()
                .all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'));
        if is_name {
            Ok(Self(name.to_owned()))
        } else {
            let shown = name.chars().flat_map(char::escape_debug).take(SHOWN);
            Err(InvalidAdapterName(shown.collect()))
        }
    }
}

impl<'de> Deserialize<'de> for AdapterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for AdapterName {
    fn schema_name() -> Cow<'static, str> {
        "AdapterName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "The name of one of several adapters of a bundle's language model.",
            "pattern": Self::PATTERN,
        })
    }
}

impl fmt::Display for AdapterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plain_everywhere_is_a_name() {
        let longest = "a".repeat(AdapterName::LONGEST);
        for name in ["rg", "ins", "0", "a-b_c", longest.as_str()] {
            let json = serde_json::to_string(name).unwrap();
            let read: AdapterName = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (read.as_str(), serde_json::to_string(&read).unwrap()),
                (name, json)
            );
        }
        let longer = "a".repeat(AdapterName::LONGEST + 1);
        for name in [
            "",
            "RG",
            "-a",
            "_a",
            "a.b",
            "a/b",
            "../a",
            "a b",
            "a\0",
            "a\n",
            "ä",
            "a\u{202e}",
            longer.as_str(),
        ] {
            let error = name.parse::<AdapterName>().unwrap_err().to_string();
            assert!(
                error.contains("no name of an adapter") && !error.contains('\n'),
                "{error}"
            );
            assert!(
                serde_json::from_value::<AdapterName>(name.into()).is_err(),
                "{name:?}"
            );
        }
    }
}
