//! Two records of one study, part by part.

use radialog_schemas::{ContentHash, StudyRecord};
use serde_json::{Map, Value};

/// Characters of a value that are shown.
const SHOWN: usize = 100;

/// What a run has recorded of a study, and what came of it again.
pub(super) struct Comparison {
    recorded: Recorded,
    again: Recorded,
    study: String,
}

/// The fields of a record and the hash of its line, timings aside.
struct Recorded {
    fields: Map<String, Value>,
    line: ContentHash,
}

impl Recorded {
    fn of(mut record: StudyRecord) -> Self {
        record.timings.clear();
        let line = serde_json::to_string(&record).expect("a record has string keys only");
        let fields = match serde_json::to_value(&record) {
            Ok(Value::Object(mut fields)) => {
                fields.remove("timings");
                fields
            }
            _ => Map::new(),
        };
        Self {
            fields,
            line: ContentHash::of(line.as_bytes()),
        }
    }
}

impl Comparison {
    pub(super) fn of(recorded: StudyRecord, again: StudyRecord) -> Self {
        Self {
            study: recorded.study.to_string(),
            recorded: Recorded::of(recorded),
            again: Recorded::of(again),
        }
    }

    /// Whether the lines are the same bytes.
    pub(super) fn is_same(&self) -> bool {
        self.recorded.line == self.again.line
    }

    /// The fields that differ.
    fn differences(&self) -> Vec<&str> {
        let (these, those) = (&self.recorded.fields, &self.again.fields);
        let names = these
            .keys()
            .chain(those.keys().filter(|name| !these.contains_key(*name)));
        names
            .filter(|name| these.get(*name) != those.get(*name))
            .map(String::as_str)
            .collect()
    }

    /// Tells it.
    pub(super) fn print(&self) {
        outln!("study      {}", self.study);
        outln!("recorded   {}", self.recorded.line.as_str());
        outln!("again      {}", self.again.line.as_str());
        if self.is_same() {
            let names: Vec<&str> = self.recorded.fields.keys().map(String::as_str).collect();
            outln!("the same bytes: {}", names.join(", "));
            return;
        }
        outln!("NOT the same:");
        for name in self.differences() {
            let shown = |fields: &Map<String, Value>| {
                let text = fields
                    .get(name)
                    .map_or_else(|| "-".to_owned(), Value::to_string);
                text.chars().take(SHOWN).collect::<String>()
            };
            outln!("  {name}");
            outln!("    recorded {}", shown(&self.recorded.fields));
            outln!("    again    {}", shown(&self.again.fields));
        }
    }
}
