//! How the tasks of the instruction data set are asked for. The wording is ours and varies on purpose; it is no input
//! format of the weights. A user who has the original's files names their folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::TrainingError;

/// A list of prompts: its name, and our own wording.
type List = (&'static str, &'static str);

macro_rules! own_lists {
    ($($name:literal),+) => {
        [$(($name, include_str!(concat!("../../task-prompts/", $name, "_prompts.csv")))),+]
    };
}

/// Our own lists.
const OWN: [List; 9] = own_lists!("EL", "SU", "RQA", "CPbQA", "CPaQA", "RE", "CO_both", "CO_add", "CO_rem");

/// A task of the instruction data set, in the order in which they are fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Explain the report in plain language.
    Explain,
    /// Why the report supports a diagnosis.
    Reason,
    /// Correct a report.
    Correct,
    /// Summarise the report.
    Summarise,
    /// A question about a region.
    Region,
    /// Whether one finding is present.
    Presence,
    /// Which findings are present.
    AllFindings,
}

impl Task {
    /// All tasks.
    pub const ALL: [Task; 7] =
        [Task::Explain, Task::Reason, Task::Correct, Task::Summarise, Task::Region, Task::Presence, Task::AllFindings];

    /// Its short name in the original's files.
    pub fn name(self) -> &'static str {
        match self {
            Task::Explain => "EL",
            Task::Reason => "RE",
            Task::Correct => "CO",
            Task::Summarise => "SU",
            Task::Region => "RQA",
            Task::Presence => "CPbQA",
            Task::AllFindings => "CPaQA",
        }
    }

    /// Its task file in a folder, named as the original names it.
    pub fn file(self, folder: &Path) -> PathBuf {
        folder.join(format!("instruct_large_{}.json", self.name()))
    }
}

/// The lists by their names.
#[derive(Clone, Debug)]
pub struct TaskPrompts {
    lists: BTreeMap<String, Vec<String>>,
}

impl TaskPrompts {
    /// Our own wording.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub fn own() -> Result<Self, TrainingError> {
        let lists = OWN.into_iter().map(|(name, text)| {
            let path = format!("{name}_prompts.csv");
            Ok((name.to_owned(), parse(Path::new(&path), text)?))
        });
        Ok(Self { lists: lists.collect::<Result<_, TrainingError>>()? })
    }

    /// The files `{NAME}_prompts.csv` of a folder; what is not there is taken from our own.
    ///
    /// # Errors
    /// A folder without any such file, or one without prompts.
    pub fn read(folder: &Path) -> Result<Self, TrainingError> {
        let mut prompts = Self::own()?;
        let mut found = 0;
        for (name, list) in &mut prompts.lists {
            let path = folder.join(format!("{name}_prompts.csv"));
            if path.is_file() {
                let text = std::fs::read_to_string(&path).map_err(TrainingError::io("read", &path))?;
                *list = parse(&path, &text)?;
                found += 1;
            }
        }
        if found == 0 {
            let reason = "no file like EL_prompts.csv in it: name the folder data/instruct_prompts of the original";
            return Err(TrainingError::Content { path: folder.to_owned(), line: None, reason: reason.to_owned() });
        }
        Ok(prompts)
    }

    /// Every prompt of every list.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.lists.values().flatten().map(String::as_str)
    }

    /// The list of this name; never empty.
    pub fn list(&self, name: &str) -> &[String] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<String>, TrainingError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut prompts = Vec::new();
    for record in reader.records() {
        let record = record.map_err(TrainingError::content(path))?;
        prompts.extend(record.get(0).map(str::to_owned));
    }
    if prompts.is_empty() {
        return Err(TrainingError::line(path, 2, "no prompt under the header 'instruction'"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_lists_have_as_many_prompts_as_the_original_and_its_placeholders() {
        let prompts = TaskPrompts::own().unwrap();
        let expected = [
            ("EL", 10, vec![]),
            ("SU", 9, vec![]),
            ("RQA", 10, vec![]),
            ("CPbQA", 7, vec!["<X>"]),
            ("CPaQA", 10, vec![]),
            ("RE", 11, vec!["<X>"]),
            ("CO_both", 3, vec!["<add>", "<rem>"]),
            ("CO_add", 6, vec!["<add>"]),
            ("CO_rem", 5, vec!["<rem>"]),
        ];
        for (name, count, slots) in expected {
            let list = prompts.list(name);
            assert_eq!(list.len(), count, "{name}");
            assert!(list.iter().all(|prompt| slots.iter().all(|slot| prompt.matches(slot).count() == 1)), "{name}");
        }
    }
}
