//! What a run would do, for `radialog batch --dry-run`: which outputs are in the store already. Images are read, since
//! keys follow from their content; nothing is written.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{ContentHash, ObjectKey, RunSpec, Stage, StageSet, StudyStatus};
use serde::{Deserialize, Serialize};

use crate::CoordinatorError;
use crate::archive::{ImageReadError, StudyEntry};
use crate::run::archive_run::RunOptions;
use crate::run::changed_inputs::ChangedInputs;
use crate::run::given::{self, ArchiveOutputs};
use crate::run::output::study_set::StudySet;
use crate::run::output::{RESULTS_FILE, RunFile, journal};
use crate::run::pipeline::OutputKeys;

/// Images looked at side by side.
const AT_ONCE: usize = 16;

/// What a run has done, and what remains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    /// Studies of the archive, duplicates aside.
    pub studies: u64,
    /// Those of them that have a line in `results.jsonl`: nothing remains to be done.
    pub written: u64,
    /// Those of them whose image or row cannot be compared with the line now, by code: what is done stays.
    #[serde(default)]
    pub not_compared: BTreeMap<String, u64>,
    /// Those of the others whose image cannot be read, or that a given file lacks, and that will fail.
    pub unreadable: u64,
    /// Entries that cannot become a study.
    pub problems: u64,
    /// Those of them by which studies may be missing: parts of the archive that could not be read, and entries with the id of an
    /// earlier one.
    #[serde(default)]
    pub unread: u64,
    /// The run's stages in pipeline order, over the studies that have no line and can be read.
    pub stages: Vec<StagePlan>,
}

/// One stage of a [`RunPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// The stage that this is about.
    pub stage: Stage,
    /// Outputs in the store.
    pub stored: u64,
    /// Outputs to compute.
    pub remaining: u64,
}

impl RunPlan {
    /// Whether all of the archive was looked at, as the run would have to.
    pub fn saw_everything(&self) -> bool {
        self.unread == 0 && self.not_compared.is_empty()
    }

    /// A run over so many studies of which nothing is computed.
    pub fn of_new(studies: u64, stages: &StageSet) -> Self {
        let plan = |stage| StagePlan {
            stage,
            stored: 0,
            remaining: studies,
        };
        Self {
            studies,
            stages: stages.iter().map(plan).collect(),
            ..Self::default()
        }
    }
}

/// Looks at every study of the archive (or its first ones, as the options limit it).
///
/// # Errors
/// When the archive or the output directory cannot be read, belongs to another run, or the store does not answer.
pub async fn plan_run(
    options: &RunOptions,
    objects: &dyn Objects,
) -> Result<RunPlan, CoordinatorError> {
    let wanted = options.run_file();
    if let Some(run) = RunFile::of_former(&options.out)? {
        run.check_same_run(&wanted, &options.out)?;
    }
    let stages = options
        .stages
        .iter()
        .map(|stage| StagePlan {
            stage,
            stored: 0,
            remaining: 0,
        })
        .collect();
    let changed = options.changed_inputs(&options.out).await?;
    let mut plan = RunPlan {
        stages,
        not_compared: changed.not_compared.by_code.clone(),
        ..RunPlan::default()
    };
    let mut known = written(options, &changed)?;
    let given = match &options.given {
        Some(given) => Some(ArchiveOutputs::of(given.clone(), &*options.archive).await?),
        None => None,
    };
    let mut entries = options.archive.entries().await?;
    let mut ended = false;
    while !ended {
        let mut chunk = Vec::new();
        while chunk.len() < AT_ONCE && !ended {
            ended = options.limit.is_some_and(|limit| plan.studies >= limit);
            match if ended { None } else { entries.next().await } {
                Some(Ok(entry)) if !known.mark_seen(&entry.study) => {
                    plan.problems += 1;
                    plan.unread += 1;
                }
                Some(Ok(entry)) => {
                    plan.studies += 1;
                    match known.is_written(&entry.study) {
                        true => plan.written += 1,
                        false => {
                            let found =
                                stored(&wanted.spec, options, given.as_ref(), entry, objects);
                            chunk.push(found.boxed());
                        }
                    }
                }
                Some(Err(problem)) => {
                    plan.problems += 1;
                    plan.unread += u64::from(problem.may_hide_studies());
                }
                None => ended = true,
            }
        }
        let found: Vec<_> = stream::iter(chunk).buffered(AT_ONCE).try_collect().await?;
        for stages in found {
            let Some(stages) = stages else {
                plan.unreadable += 1;
                continue;
            };
            for (stage, stored) in plan.stages.iter_mut().zip(stages) {
                stage.stored += u64::from(stored);
                stage.remaining += u64::from(!stored);
            }
        }
    }
    Ok(plan)
}

/// Reads which studies would not be run.
fn written(options: &RunOptions, changed: &ChangedInputs) -> Result<StudySet, CoordinatorError> {
    let mut studies = StudySet::default();
    let path = options.out.join(RESULTS_FILE);
    if path.exists() {
        journal::for_each_record(&path, |record, _| {
            let is_kept = record.status == StudyStatus::Done || !options.retry_failed;
            if is_kept && !changed.studies.contains(&record.study) {
                studies.mark_written(&record.study);
            }
            Ok(())
        })?;
    }
    Ok(studies)
}

/// Says for each stage of the run whether its output is in the store; none where the image cannot be read.
async fn stored(
    run: &RunSpec,
    options: &RunOptions,
    files: Option<&ArchiveOutputs>,
    entry: StudyEntry,
    objects: &dyn Objects,
) -> Result<Option<Vec<bool>>, ObjectError> {
    let mut given = BTreeMap::new();
    if let Some(files) = files {
        let Ok(outputs) = given::of_study(files, &entry).await else {
            return Ok(None);
        };
        given = outputs
            .into_iter()
            .map(|(stage, (output, _))| (stage, output))
            .collect();
    }
    let first = given.values().next().map(|output| output.object.clone());
    let input = match first {
        Some(first) if given::spare_images(&run.given, &run.stages) => first,
        _ => {
            let Ok(source) = entry.image else {
                return Ok(None);
            };
            let content: Bytes = match source.read(&entry.file, options.image_limit).await {
                Ok(content) => content,
                Err(ImageReadError::Study(_)) => return Ok(None),
                Err(ImageReadError::Store(error)) => return Err(error),
            };
            run.source.key(&ContentHash::of(&content))
        }
    };
    let reference = entry
        .reference
        .map(|text| ObjectKey::reference(&ContentHash::of(text.as_bytes())));
    let keys = OutputKeys::with_given(run, &input, reference.as_ref(), &given);
    let mut stages = Vec::new();
    for stage in run.stages.iter() {
        // What is given need not be computed, whether it is stored yet or not.
        stages.push(given.contains_key(&stage) || objects.has_output(keys.output(stage)).await?);
    }
    Ok(Some(stages))
}
