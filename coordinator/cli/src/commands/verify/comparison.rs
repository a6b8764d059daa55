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
    /// Fields that the release which wrote the line did not know.
    unknown: Vec<&'static str>,
}

/// The fields of a line, timings aside, and the hash of these in the order of their names.
struct Recorded {
    fields: Map<String, Value>,
    line: ContentHash,
}

impl Recorded {
    /// Of a line, with whatever it has: a field that no record has is a difference, too.
    fn of(line: &str) -> serde_json::Result<Self> {
        let mut fields: Map<String, Value> = serde_json::from_str(line)?;
        fields.remove("timings");
        let line = serde_json::to_string(&fields)?;
        Ok(Self {
            fields,
            line: ContentHash::of(line.as_bytes()),
        })
    }
}

impl Comparison {
    /// Compares the line of a study with what came of it again.
    pub(super) fn of(line: &str, mut again: StudyRecord) -> serde_json::Result<Self> {
        let recorded = Recorded::of(line)?;
        // What no release looked for when the line was written is no difference.
        let has = |name: &str| recorded.fields.contains_key(name);
        let mut unknown = Vec::new();
        if has("report_labels") && !has("comparisons") {
            unknown.push("comparisons");
            again.comparisons = None;
        }
        if has("findings")
            && !has("input_gate")
            && let Some(verdict) = again.input_gate.take()
        {
            unknown.push("input_gate");
            let of_gate = verdict.warning();
            again
                .warnings
                .retain(|warning| Some(warning) != of_gate.as_ref());
        }
        Ok(Self {
            unknown,
            study: again.study.to_string(),
            recorded,
            again: Recorded::of(&serde_json::to_string(&again)?)?,
        })
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
        if !self.unknown.is_empty() {
            outln!(
                "not compared: {}, which the line does not have; an earlier release wrote it",
                self.unknown.join(", ")
            );
        }
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
