//! How the tasks of the instruction data set are asked for. The wording is ours and varies on purpose; it is no input
//! format of the weights. A user who has the original's files names their folder.

use std::collections::BTreeMap;
use std::path::Path;

use radialog_models::prompt::Questions;
use radialog_schemas::Finding;
use radialog_schemas::table::{TableError, TableReader};

use super::InstructTask;
use crate::error::TrainingError;
use crate::random::Random;

/// A list of prompts: its name, and our own wording.
type PromptList = (&'static str, &'static str);

macro_rules! own_lists {
    ($($name:literal),+) => {
        [$(($name, include_str!(concat!("../../../../task-prompts/", $name, "_prompts.csv")))),+]
    };
}

/// Our own lists.
const OWN: [PromptList; 9] = own_lists!(
    "EL", "SU", "RQA", "CPbQA", "CPaQA", "RE", "CO_both", "CO_add", "CO_rem"
);

/// The wordings of all tasks, of which one is drawn for each sample.
#[derive(Clone, Debug)]
pub struct TaskPrompts {
    lists: BTreeMap<String, Vec<String>>,
    /// The questions in whose words every second request is made.
    asked: Option<Questions>,
}

impl TaskPrompts {
    /// Returns our own wordings.
    ///
    /// # Errors
    /// None that a test would not have found.
    pub fn own() -> Result<Self, TrainingError> {
        let lists = OWN.into_iter().map(|(name, text)| {
            let path = format!("{name}_prompts.csv");
            Ok((name.to_owned(), parse(Path::new(&path), text)?))
        });
        Ok(Self {
            lists: lists.collect::<Result<_, TrainingError>>()?,
            asked: None,
        })
    }

    /// Reads the files `{NAME}_prompts.csv` of a folder; what is not there is taken from our own.
    ///
    /// # Errors
    /// A folder without any such file, or one without prompts.
    pub fn read(folder: &Path) -> Result<Self, TrainingError> {
        let mut prompts = Self::own()?;
        let mut found = 0;
        for (name, list) in &mut prompts.lists {
            let path = folder.join(format!("{name}_prompts.csv"));
            if path.is_file() {
                let text =
                    std::fs::read_to_string(&path).map_err(TrainingError::io("read", &path))?;
                *list = parse(&path, &text)?;
                found += 1;
            }
        }
        if found == 0 {
            let reason = "no file like EL_prompts.csv in it: name the folder data/instruct_prompts of the original";
            return Err(TrainingError::Content {
                path: folder.to_owned(),
                line: None,
                reason: reason.to_owned(),
            });
        }
        Ok(prompts)
    }

    /// Returns every prompt of every list.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.lists.values().flatten().map(String::as_str)
    }

    /// Every second request in the words in which a model is asked later, and not in those of a list: a small model does
    /// not see from one wording what another means. Questions about regions stay as they are, since the lists name none.
    #[must_use]
    pub fn with_questions(mut self, questions: Questions) -> Self {
        self.asked = Some(questions);
        self
    }

    /// A request that names no finding.
    pub(crate) fn request(&self, task: InstructTask, random: &mut Random) -> String {
        let asked = self.asked(random).and_then(|questions| match task {
            InstructTask::Explain => Some(questions.plain_language.clone()),
            InstructTask::Summarise => Some(questions.summary.clone()),
            InstructTask::AllFindings => Some(questions.all_findings.clone()),
            InstructTask::Reason
            | InstructTask::Correct
            | InstructTask::Region
            | InstructTask::Presence => None,
        });
        asked.unwrap_or_else(|| self.pick(task.name(), random).clone())
    }

    /// A question about one finding.
    pub(crate) fn presence(&self, finding: Finding, random: &mut Random) -> String {
        match self.asked(random) {
            Some(questions) => questions.presence(finding),
            None => self
                .pick(InstructTask::Presence.name(), random)
                .replace("<X>", finding.name()),
        }
    }

    /// What speaks for findings.
    pub(crate) fn reasons(&self, findings: &[Finding], random: &mut Random) -> String {
        let asked = self
            .asked(random)
            .and_then(|questions| questions.reasons(findings));
        asked.unwrap_or_else(|| {
            self.pick(InstructTask::Reason.name(), random)
                .replace("<X>", &enumerate(findings))
        })
    }

    /// A request to bring some findings into a report and to take others out. None where there is nothing to correct.
    pub(crate) fn correction(
        &self,
        add: &[Finding],
        remove: &[Finding],
        random: &mut Random,
    ) -> Option<String> {
        let list = match (add.is_empty(), remove.is_empty()) {
            (true, true) => return None,
            (false, false) => "CO_both",
            (false, true) => "CO_add",
            (true, false) => "CO_rem",
        };
        let asked = self
            .asked(random)
            .and_then(|questions| questions.correction(add, remove));
        let listed = |random: &mut Random| {
            self.pick(list, random)
                .replace("<add>", &enumerate(add))
                .replace("<rem>", &enumerate(remove))
        };
        Some(asked.unwrap_or_else(|| listed(random)))
    }

    fn asked(&self, random: &mut Random) -> Option<&Questions> {
        self.asked.as_ref().filter(|_| random.below(2) == 0)
    }

    /// One of the list of this name.
    fn pick<'a>(&'a self, name: &str, random: &mut Random) -> &'a String {
        random.pick(self.lists.get(name).map_or(&[], Vec::as_slice))
    }
}

/// `A, B and C`, in capitals as the original has them.
pub(crate) fn enumerate(findings: &[Finding]) -> String {
    let names: Vec<&str> = findings.iter().map(|finding| finding.name()).collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<String>, TrainingError> {
    let fault = |error: TableError| TrainingError::content(path)(error);
    let mut prompts = Vec::new();
    // Prompts are in the first column, whatever its name.
    for row in TableReader::new(text.as_bytes()).map_err(fault)? {
        prompts.push(row.map_err(fault)?.text(0).to_owned());
    }
    if prompts.is_empty() {
        return Err(TrainingError::line(
            path,
            2,
            "no prompt under the header 'instruction'",
        ));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
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
            let list = &prompts.lists[name];
            assert_eq!(list.len(), count, "{name}");
            assert!(
                list.iter()
                    .all(|prompt| slots.iter().all(|slot| prompt.matches(slot).count() == 1)),
                "{name}"
            );
        }
    }

    #[test]
    fn every_second_request_can_be_made_as_a_model_is_asked_later() {
        let (listed, questions) = (TaskPrompts::own().unwrap(), Questions::default());
        let mixed = listed.clone().with_questions(questions.clone());
        let random = &mut Random::stream(1, "test");
        let (add, remove) = (
            [Finding::Edema],
            [Finding::Fracture, Finding::PleuralEffusion],
        );
        let asked = questions.correction(&add, &remove).unwrap();
        let mut count = |prompts: &TaskPrompts| {
            (0..200)
                .filter(|_| prompts.correction(&add, &remove, random).unwrap() == asked)
                .count()
        };
        assert_eq!(count(&listed), 0);
        assert!((70..130).contains(&count(&mixed)));
        assert_eq!(mixed.correction(&[], &[], random), None);
        for _ in 0..20 {
            let text = listed.correction(&add, &remove, random).unwrap();
            assert!(
                text.contains("Edema") && text.contains("Fracture and Pleural Effusion"),
                "{text}"
            );
            let text = mixed.presence(Finding::Edema, random);
            assert!(
                text == questions.presence(Finding::Edema) || text.contains("Edema"),
                "{text}"
            );
            assert!(!mixed.request(InstructTask::Region, random).contains('{'));
        }
    }
}
