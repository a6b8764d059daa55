//! How bodies are read whose options stand beside their own fields. serde reads such flattened types without the names of the
//! fields that are at fault, and takes unknown ones without a word, so that each is read as one list of all its fields first.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::{NewConversation, NewTurn, TurnOptions};
use crate::{Ask, Finding, Region};

/// The fields of a [`NewConversation`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConversationFields {
    image: Option<String>,
    question: Option<String>,
    indication: Option<String>,
    title: Option<String>,
    model: Option<String>,
    max_new_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<u64>,
    deadline_seconds: Option<u32>,
}

/// The fields of a [`NewTurn`], those of every task among them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnFields {
    task: String,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default, deserialize_with = "given")]
    add: Option<Vec<Finding>>,
    #[serde(default, deserialize_with = "given")]
    remove: Option<Vec<Finding>>,
    #[serde(default, deserialize_with = "given")]
    finding: Option<Finding>,
    #[serde(default, deserialize_with = "given")]
    region: Option<Region>,
    #[serde(default, deserialize_with = "given")]
    findings: Option<Vec<Finding>>,
    max_new_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<u64>,
    deadline_seconds: Option<u32>,
}

impl<'de> Deserialize<'de> for NewConversation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = ConversationFields::deserialize(deserializer)?;
        Ok(Self {
            image: fields.image,
            question: fields.question,
            indication: fields.indication,
            title: fields.title,
            model: fields.model,
            options: TurnOptions {
                max_new_tokens: fields.max_new_tokens,
                temperature: fields.temperature,
                top_p: fields.top_p,
                seed: fields.seed,
                deadline_seconds: fields.deadline_seconds,
            },
        })
    }
}

impl<'de> Deserialize<'de> for NewTurn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = TurnFields::deserialize(deserializer)?;
        let given = [
            ("text", json!(fields.text)),
            ("add", json!(fields.add)),
            ("remove", json!(fields.remove)),
            ("finding", json!(fields.finding)),
            ("region", json!(fields.region)),
            ("findings", json!(fields.findings)),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_null());
        Ok(Self {
            ask: ask(fields.task, given).map_err(D::Error::custom)?,
            options: TurnOptions {
                max_new_tokens: fields.max_new_tokens,
                temperature: fields.temperature,
                top_p: fields.top_p,
                seed: fields.seed,
                deadline_seconds: fields.deadline_seconds,
            },
        })
    }
}

/// Reads a field that may be left out, and is not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Makes the task of this name with these fields, and refuses a field that it does not have.
fn ask(
    task: String,
    given: impl Iterator<Item = (&'static str, Value)>,
) -> Result<Ask, serde_json::Error> {
    let mut fields: Map<String, Value> = given
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let names: Vec<String> = fields.keys().cloned().collect();
    fields.insert("task".to_owned(), Value::String(task.clone()));
    let ask: Ask = serde_json::from_value(Value::Object(fields))?;
    let taken = serde_json::to_value(&ask)?;
    match names.iter().find(|name| taken.get(name).is_none()) {
        Some(other) => Err(serde_json::Error::custom(format_args!(
            "the task '{task}' has no field '{other}'; leave it out"
        ))),
        None => Ok(ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(body: Value) -> Result<NewTurn, String> {
        serde_json::from_value(body).map_err(|error| error.to_string())
    }

    #[test]
    fn every_task_is_read_as_it_is_written() {
        let findings = vec![Finding::Edema];
        for ask in [
            Ask::Report,
            Ask::Question { text: "x".into() },
            Ask::Correction {
                add: findings.clone(),
                remove: Vec::new(),
            },
            Ask::AllFindings,
            Ask::Presence {
                finding: Finding::Edema,
            },
            Ask::Summary,
            Ask::PlainLanguage,
            Ask::Region {
                region: Region::Heart,
            },
            Ask::Reasons { findings },
            Ask::View,
            Ask::Impression,
        ] {
            let asked = NewTurn {
                ask,
                options: TurnOptions {
                    max_new_tokens: Some(9),
                    temperature: Some(0.5),
                    top_p: Some(0.75),
                    seed: Some(3),
                    deadline_seconds: Some(60),
                },
            };
            assert_eq!(turn(json!(asked)).as_ref(), Ok(&asked));
        }
        assert_eq!(
            turn(json!({"task": "correction", "remove": ["Edema"], "seed": null})),
            Ok(NewTurn {
                ask: Ask::Correction {
                    add: Vec::new(),
                    remove: vec![Finding::Edema]
                },
                options: TurnOptions::default()
            })
        );
    }

    #[test]
    fn a_field_that_is_not_known_or_not_of_the_task_is_refused_by_its_name() {
        for (body, named) in [
            (
                json!({"task": "question", "text": "x", "tempature": 1}),
                "`tempature`",
            ),
            (
                json!({"task": "summary", "text": "only the left lung"}),
                "the task 'summary' has no field 'text'",
            ),
            (
                json!({"task": "question", "text": "x", "region": "heart"}),
                "region",
            ),
            (
                json!({"task": "correction", "add": null, "remove": ["Edema"]}),
                "null",
            ),
            (json!({"task": "question"}), "missing field `text`"),
            (json!({"text": "x"}), "missing field `task`"),
            (json!({"task": "dance"}), "unknown variant `dance`"),
        ] {
            let error = turn(body).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let body = json!({"question": "x", "indicaton": "cough"});
        let error = serde_json::from_value::<NewConversation>(body).unwrap_err();
        assert!(error.to_string().contains("`indicaton`"), "{error}");
    }

    #[test]
    fn a_conversation_is_read_as_it_is_written() {
        let asked = NewConversation {
            image: Some("data:image/png;base64,AAAA".into()),
            question: Some("x".into()),
            indication: Some("cough".into()),
            title: Some("t".into()),
            model: Some("radialog".into()),
            options: TurnOptions {
                max_new_tokens: Some(9),
                temperature: Some(0.5),
                top_p: Some(0.75),
                seed: Some(3),
                deadline_seconds: Some(60),
            },
        };
        let read = serde_json::from_value::<NewConversation>(json!(asked)).unwrap();
        assert_eq!(read, asked);
    }
}
