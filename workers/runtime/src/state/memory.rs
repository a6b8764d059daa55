//! The state of the embedded mode. A run resumes from its output directory and the objects, so nothing here needs to
//! outlive the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use radialog_schemas::{QueueGroup, RunId, StudyId};

use super::{Fact, Facts, STUDY_FIELD, State, StateError};

/// Run and study state in this process's memory.
#[derive(Default)]
pub struct MemoryState {
    runs: Mutex<BTreeMap<RunId, Run>>,
    groups: Mutex<BTreeSet<QueueGroup>>,
    /// Until when groups are served, as was last said.
    served: Mutex<BTreeMap<QueueGroup, Instant>>,
}

#[derive(Default)]
struct Run {
    documents: BTreeMap<String, String>,
    studies: BTreeMap<StudyId, Facts>,
    finished: VecDeque<String>,
    is_ended: bool,
}

impl MemoryState {
    fn noted(&self) -> MutexGuard<'_, BTreeSet<QueueGroup>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<QueueGroup, Instant>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl State for MemoryState {
    async fn put_document(&self, run: &RunId, name: &str, value: String) -> Result<(), StateError> {
        self.runs()
            .entry(run.clone())
            .or_default()
            .documents
            .insert(name.to_owned(), value);
        Ok(())
    }

    async fn create_document(
        &self,
        run: &RunId,
        name: &str,
        value: String,
    ) -> Result<String, StateError> {
        let mut runs = self.runs();
        let documents = &mut runs.entry(run.clone()).or_default().documents;
        Ok(documents.entry(name.to_owned()).or_insert(value).clone())
    }

    async fn document(&self, run: &RunId, name: &str) -> Result<Option<String>, StateError> {
        Ok(self
            .runs()
            .get(run)
            .and_then(|run| run.documents.get(name))
            .cloned())
    }

    async fn begin(&self, facts: &[Fact]) -> Result<(), StateError> {
        let mut runs = self.runs();
        for fact in facts {
            let studies = &mut runs.entry(fact.run.clone()).or_default().studies;
            add(studies.entry(fact.study.clone()).or_default(), fact);
        }
        Ok(())
    }

    async fn record(&self, facts: &[Fact]) -> Result<Vec<Option<Facts>>, StateError> {
        let mut runs = self.runs();
        let mut record = |fact: &Fact| {
            let study = runs.get_mut(&fact.run)?.studies.get_mut(&fact.study)?;
            if fact.of.is_some() && fact.of.as_ref() != study.get(STUDY_FIELD) {
                return None;
            }
            add(study, fact);
            Some(study.clone())
        };
        Ok(facts.iter().map(&mut record).collect())
    }

    async fn finish(&self, lines: &[Fact]) -> Result<Vec<bool>, StateError> {
        let mut runs = self.runs();
        let mut finish = |line: &Fact| {
            let Some(run) = runs.get_mut(&line.run) else {
                return false;
            };
            let is_appended = run.studies.remove(&line.study).is_some() && !run.is_ended;
            if is_appended {
                run.finished.push_back(line.value.clone());
            }
            is_appended
        };
        Ok(lines.iter().map(&mut finish).collect())
    }

    async fn forget(&self, run: &RunId, study: &StudyId) -> Result<(), StateError> {
        if let Some(run) = self.runs().get_mut(run) {
            run.studies.remove(study);
        }
        Ok(())
    }

    async fn exist(&self, run: &RunId, studies: &[StudyId]) -> Result<Vec<bool>, StateError> {
        let runs = self.runs();
        let run = runs.get(run);
        Ok(studies
            .iter()
            .map(|study| run.is_some_and(|run| run.studies.contains_key(study)))
            .collect())
    }

    async fn finished(&self, run: &RunId, limit: usize) -> Result<Vec<String>, StateError> {
        let runs = self.runs();
        Ok(runs.get(run).map_or_else(Vec::new, |run| {
            run.finished.iter().take(limit).cloned().collect()
        }))
    }

    async fn discard_finished(&self, run: &RunId, count: usize) -> Result<(), StateError> {
        if let Some(run) = self.runs().get_mut(run) {
            run.finished.drain(..count.min(run.finished.len()));
        }
        Ok(())
    }

    async fn end_run(&self, run: &RunId) -> Result<(), StateError> {
        let mut runs = self.runs();
        let run = runs.entry(run.clone()).or_default();
        run.is_ended = true;
        run.finished.clear();
        Ok(())
    }

    async fn open_run(&self, run: &RunId) -> Result<(), StateError> {
        self.runs().entry(run.clone()).or_default().is_ended = false;
        Ok(())
    }

    async fn note_group(&self, group: &QueueGroup) -> Result<(), StateError> {
        self.noted().insert(group.clone());
        Ok(())
    }

    async fn forget_group(&self, group: &QueueGroup) -> Result<bool, StateError> {
        Ok(self.noted().remove(group))
    }

    async fn groups(&self) -> Result<Vec<QueueGroup>, StateError> {
        Ok(self.noted().iter().cloned().collect())
    }

    async fn serve_group(&self, group: &QueueGroup, during: Duration) -> Result<(), StateError> {
        self.served().insert(group.clone(), Instant::now() + during);
        Ok(())
    }

    async fn is_served(&self, group: &QueueGroup) -> Result<bool, StateError> {
        let until = self.served().get(group).copied();
        Ok(match until {
            Some(until) => Instant::now() < until,
            None => self.noted().contains(group),
        })
    }
}

fn add(study: &mut Facts, fact: &Fact) {
    study
        .entry(fact.field.clone())
        .or_insert_with(|| fact.value.clone());
}
