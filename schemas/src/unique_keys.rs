//! JSON in which no name of an object stands twice. A parser that keeps the last one would drop what a person wrote, e.g.
//! one of two adapters of the same name, without a word.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::json_members::shown;

/// Any JSON without such names; nothing of it is kept.
pub(crate) struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<UniqueKeys, M::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(M::Error::custom(format!(
                    "'{}' stands twice in an object",
                    shown(&name)
                )));
            }
            map.next_value::<UniqueKeys>()?;
        }
        Ok(UniqueKeys)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<UniqueKeys, S::Error> {
        while seq.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E: Error>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_come_again_in_another_object_and_not_in_the_same() {
        let check = |json: &str| serde_json::from_str::<UniqueKeys>(json).err();
        for good in [
            r#"{"a": {"a": [1, -2, 3.5, "a", null, true]}, "b": {"a": 1}}"#,
            r#"[{"a": 1}, {"a": 1}]"#,
        ] {
            assert!(check(good).is_none(), "{good}");
        }
        for twice in [
            r#"{"a": 1, "a": 1}"#,
            r#"[{"x": {"a": 1, "b": {}, "a": 2}}]"#,
            r#"{"\u0061": 1, "a": 2}"#,
        ] {
            let error = check(twice).unwrap().to_string();
            assert!(error.contains("'a' stands twice"), "{error}");
        }
    }
}
