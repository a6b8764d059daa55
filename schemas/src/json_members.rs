//! The members of a JSON object in the order in which they stand, those of one name too: what a map would drop or sort.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Characters of a name that a message shows.
const SHOWN: usize = 80;

/// Reads the members of an object. `expected` says what it should be, as "an object of studies by id".
///
/// # Errors
/// No object; a member that cannot be read, with its name.
pub fn members<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Vec<(String, T)>, D::Error> {
    struct Members<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
            members_of(map)
        }
    }
    deserializer.deserialize_map(Members(expected, PhantomData))
}

/// Reads the members of an object that a visitor has come to.
///
/// # Errors
/// A member that cannot be read, with its name.
pub fn members_of<'de, T: Deserialize<'de>, M: MapAccess<'de>>(
    mut map: M,
) -> Result<Vec<(String, T)>, M::Error> {
    let mut members = Vec::new();
    while let Some(name) = map.next_key::<String>()? {
        let value = map
            .next_value()
            .map_err(|error| M::Error::custom(format!("'{}': {error}", shown(&name))))?;
        members.push((name, value));
    }
    Ok(members)
}

/// A name as a message shows it: without control characters, and not longer than a line.
pub(crate) fn shown(name: &str) -> String {
    name.chars()
        .flat_map(char::escape_debug)
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers(Vec<(String, u32)>);

    impl<'de> Deserialize<'de> for Numbers {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            members(deserializer, "an object of numbers").map(Self)
        }
    }

    #[test]
    fn members_come_as_they_stand_and_a_wrong_one_is_named_with_its_line() {
        let read = |json: &str| serde_json::from_str::<Numbers>(json).map(|numbers| numbers.0);
        let named = |name: &str, number| (name.to_owned(), number);
        assert_eq!(
            read(r#"{"b": 1, "a": 2, "b": 3}"#).unwrap(),
            [named("b", 1), named("a", 2), named("b", 3)]
        );
        let error = read("{\"a\": 1,\n\"b\": true}").unwrap_err();
        assert_eq!(error.line(), 2);
        assert!(
            error.to_string().starts_with("'b': invalid type"),
            "{error}"
        );
        let error = read("[1]").unwrap_err().to_string();
        assert!(error.contains("an object of numbers"), "{error}");
    }
}
