//! Names that come from outside: from a manifest, a table, an archive, a listing or a zip. One definition of which of them
//! may become a path or an object key, so that none can lead out of the folder or the prefix it belongs to.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// A checked path of `/`-separated parts below some root, e.g. `language/weights.safetensors`.
///
/// It is not empty and not absolute; no part is empty, `.` or `..`; it has no backslash and no control character (so no
/// NUL and no line end), and at most [`RelativePath::LONGEST`] bytes. Other Unicode is allowed. Deserializing checks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RelativePath(String);

/// A name that is no [`RelativePath`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{name}' cannot be used as a path: {reason}")]
pub struct InvalidPath {
    /// The name with control characters escaped, cut to what a person reads.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// As much of an invalid name is repeated in messages, in characters.
const SHOWN: usize = 120;

impl RelativePath {
    /// In bytes; the limit of keys in S3.
    pub const LONGEST: usize = 1024;

    /// Checks a name.
    ///
    /// # Errors
    /// When it could lead elsewhere, or is none that a file or an object should have.
    pub fn parse(name: &str) -> Result<Self, InvalidPath> {
        Self::check(name)
            .map(|()| Self(name.to_owned()))
            .map_err(|reason| InvalidPath {
                name: name.chars().flat_map(escaped).take(SHOWN).collect(),
                reason,
            })
    }

    /// As [`RelativePath::parse`], without keeping the name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(name: &str) -> Result<(), &'static str> {
        if name.is_empty() {
            return Err("it is empty");
        }
        if name.len() > Self::LONGEST {
            return Err("it is longer than 1024 bytes");
        }
        if name.chars().any(char::is_control) {
            return Err("it has a control character");
        }
        if name.contains('\\') {
            return Err("it has a backslash; separate folders by '/'");
        }
        if name.starts_with('/') {
            return Err("it is absolute");
        }
        for part in name.split('/') {
            match part {
                "" => return Err("it has an empty part, '//' or a closing '/'"),
                "." | ".." => return Err("it has a part '.' or '..'"),
                _ => {}
            }
        }
        Ok(())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn escaped(character: char) -> impl Iterator<Item = char> {
    let (control, plain) = match character.is_control() {
        true => (Some(character.escape_default()), None),
        false => (None, Some(character)),
    };
    control.into_iter().flatten().chain(plain)
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for RelativePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Borrow<str> for RelativePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for RelativePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}

/// In a schema it is a string like any other: the rules above cannot be said there.
impl JsonSchema for RelativePath {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused_with_the_reason() {
        let long = "x".repeat(RelativePath::LONGEST + 1);
        for (name, reason) in [
            ("", "empty"),
            ("/etc/passwd", "absolute"),
            ("..", "'..'"),
            ("../secret", "'..'"),
            ("a/../../b", "'..'"),
            ("a/./b", "'.'"),
            ("a//b", "empty part"),
            ("a/", "empty part"),
            ("..\\secret", "backslash"),
            ("C:\\secret", "backslash"),
            ("a\0b", "control character"),
            ("a\nb", "control character"),
            ("a\u{85}b", "control character"),
            (&long, "1024"),
        ] {
            let error = RelativePath::parse(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
            assert!(error.len() < 400, "{error}");
            let json = serde_json::to_string(name).unwrap();
            assert!(serde_json::from_str::<RelativePath>(&json).is_err());
        }
    }

    #[test]
    fn names_of_people_are_allowed_and_unchanged() {
        for name in [
            "a",
            "...",
            "a b/c.png",
            "Röntgen/第一.png",
            ".hidden",
            "a/..b",
            "=cmd|x",
        ] {
            let path = RelativePath::parse(name).unwrap();
            assert_eq!(path.as_str(), name);
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<RelativePath>(&json).unwrap(), path);
        }
    }
}
