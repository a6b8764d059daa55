//! Names of adapters and of groups of queues: they stand in configurations, file names, messages, queues and the names of
//! models, so that one definition says what such a name may be.

use thiserror::Error;

/// A text that is no plain name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{name}' is no name of {what}: take up to 64 lower-case letters, digits, '-' and '_', a letter or digit first"
)]
pub struct InvalidName {
    /// The text with control characters escaped, cut to what a person reads.
    pub name: String,
    /// The kind of name.
    pub what: &'static str,
}

/// The largest number of characters, all of which are ASCII.
const LONGEST: usize = 64;
const PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,63}$";
/// As much of an invalid name is repeated in messages, in characters.
const SHOWN: usize = 80;

fn check(name: &str, what: &'static str) -> Result<(), InvalidName> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = name.len() <= LONGEST
        && name.bytes().next().is_some_and(is_plain)
        && name
            .bytes()
            .all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'));
    if is_name {
        return Ok(());
    }
    let name = name.chars().flat_map(char::escape_debug).take(SHOWN);
    Err(InvalidName {
        name: name.collect(),
        what,
    })
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// At most 64 lower-case letters, digits, `-` and `_`, of which the first is a letter or digit: a name on every
        /// file system, in every address and after other names. Deserializing checks it.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                check(name, $what).map(|()| Self(name.to_owned()))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": concat!("The name of ", $what, "."),
                    "pattern": PATTERN,
                })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

plain_name! {
    /// The name of one of several adapters of a bundle's language model, e.g. `rg`.
    AdapterName, "an adapter"
}
plain_name! {
    /// The name of the queues of one bundle's workers, where several bundles share a broker: see
    /// [`crate::queues::in_group`].
    QueueGroup, "a group of queues"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plain_everywhere_is_a_name() {
        let longest = "a".repeat(LONGEST);
        for name in ["rg", "ins", "0", "a-b_c", longest.as_str()] {
            let json = serde_json::to_string(name).unwrap();
            let read: AdapterName = serde_json::from_str(&json).unwrap();
            let written = serde_json::to_string(&read).unwrap();
            assert_eq!((read.as_str(), written), (name, json));
        }
        let longer = "a".repeat(LONGEST + 1);
        for name in [
            "",
            "RG",
            "-a",
            "_a",
            "a.b",
            "a@b",
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
            assert!(error.contains("no name of an adapter"), "{error}");
            assert!(!error.contains('\n'), "{error:?}");
            assert!(serde_json::from_value::<QueueGroup>(name.into()).is_err());
        }
    }
}
