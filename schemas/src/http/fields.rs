//! How fields of OpenAI's APIs are read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
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

/// A type that a client writes as an object. serde would take a list for it, too: its values in the order of our fields.
pub(super) trait ObjectOfFields {
    /// What an error says that is expected, as "an object with `url`".
    const EXPECTED: &'static str;
}

/// A value that is read from an object, and from nothing else.
pub(super) struct FromObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + ObjectOfFields> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = ObjectVisitor::<T>(PhantomData);
        deserializer.deserialize_map(visitor).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + ObjectOfFields> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

/// The values of a list of objects.
pub(super) fn values<T>(objects: Vec<FromObject<T>>) -> Vec<T> {
    objects.into_iter().map(|FromObject(value)| value).collect()
}

/// Reads a field that is an object.
pub(super) fn object<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + ObjectOfFields,
    D: Deserializer<'de>,
{
    FromObject::<T>::deserialize(deserializer).map(|FromObject(value)| value)
}

/// Reads a field that is an object, or null.
pub(super) fn optional_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + ObjectOfFields,
    D: Deserializer<'de>,
{
    let given = Option::<FromObject<T>>::deserialize(deserializer)?;
    Ok(given.map(|FromObject(value)| value))
}

/// Reads a field that is a list of objects.
pub(super) fn objects<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de> + ObjectOfFields,
    D: Deserializer<'de>,
{
    Vec::<FromObject<T>>::deserialize(deserializer).map(values)
}
