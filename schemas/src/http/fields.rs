//! How fields of OpenAI's APIs are read.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A field that is not supported: null is the same as leaving it out, anything else is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Unsupported {}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom("this is not supported; leave it out"))
    }
}

/// Reads a text or a list, so that what is wrong inside the list keeps its path.
pub(super) struct TextOrItems<Whole, Item>(
    pub(super) fn(String) -> Whole,
    pub(super) fn(Vec<Item>) -> Whole,
);

impl<'de, Whole, Item: Deserialize<'de>> Visitor<'de> for TextOrItems<Whole, Item> {
    type Value = Whole;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or a list")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Whole, E> {
        Ok(self.0(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Whole, E> {
        Ok(self.0(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Whole, A::Error> {
        Vec::<Item>::deserialize(SeqAccessDeserializer::new(items)).map(self.1)
    }
}
