//! How far a run is, for the terminal and for `radialog status`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use radialog_schemas::{PerStage, RunId, Stage, StageSet, StudyRecord, StudyStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pipeline::StudyFacts;
use super::study_record::{StageEnd, stage_ends};

/// Rates are taken over this time.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// A snapshot of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Progress")]
pub struct RunProgress {
    /// The id of the run; none before it has begun.
    pub run: Option<RunId>,
    /// Studies of the archive; none while they are being counted.
    pub total: Option<u64>,
    /// Studies that are done, those of earlier sessions too.
    pub done: u64,
    /// Studies that failed, those of earlier sessions too.
    pub failed: u64,
    /// Those of both that had their line before this session.
    pub resumed: u64,
    /// Those of both whose studies the archive, or as much of it as the run takes, does not name any more; until it was read, as many
    /// as the session before has found.
    #[serde(default)]
    pub not_in_archive: u64,
    /// Studies in flight.
    pub in_flight: u64,
    /// Entries of the archive that could not become a study.
    pub problems: u64,
    /// The run's stages in pipeline order.
    pub stages: Vec<StageProgress>,
    /// The time since this session began, in seconds.
    pub seconds: f64,
    /// Studies a second over the last minute.
    pub studies_per_second: f64,
    /// The time until the end at this rate, in seconds; none while rate or total is unknown.
    pub seconds_left: Option<f64>,
    /// What the run waits for, e.g. a lost broker.
    pub paused: Option<String>,
}

impl RunProgress {
    /// Studies of the archive that are done or have failed.
    pub fn ended(&self) -> u64 {
        (self.done + self.failed).saturating_sub(self.not_in_archive)
    }
}

/// A snapshot of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageProgress {
    /// The stage that this is about.
    pub stage: Stage,
    /// Tasks whose output is in the store, reused ones too.
    pub done: u64,
    /// Those of them that were found there.
    pub reused: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks a second over the last minute.
    pub per_second: f64,
}

/// The counts of stage results, by stage and [`StageEnd`].
#[derive(Clone, Debug, Default)]
pub(crate) struct StageCounts(PerStage<[u64; 3]>);

impl StageCounts {
    pub(crate) fn add_record(&mut self, record: &StudyRecord) {
        for (stage, end) in stage_ends(record) {
            self.0.get_mut(stage)[end as usize] += 1;
        }
    }

    pub(crate) fn add_facts(&mut self, facts: &StudyFacts) {
        for (stage, result) in &facts.results {
            let end = match (facts.is_done(*stage), result.timings.reused) {
                (false, _) => StageEnd::Failed,
                (true, true) => StageEnd::Reused,
                (true, false) => StageEnd::Done,
            };
            self.0.get_mut(*stage)[end as usize] += 1;
        }
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self(PerStage::from_fn(|stage| {
            let (mine, theirs) = (self.0.get(stage), other.0.get(stage));
            [0, 1, 2].map(|end| mine[end] + theirs[end])
        }))
    }

    fn get(&self, stage: Stage, end: StageEnd) -> u64 {
        self.0.get(stage)[end as usize]
    }
}

/// The counts of a run so far.
#[derive(Default)]
pub(crate) struct RunCounts {
    pub(crate) total: Option<u64>,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) resumed: u64,
    /// The counts of the studies that have a line.
    stages: StageCounts,
}

impl RunCounts {
    pub(crate) fn add(&mut self, record: &StudyRecord) {
        match record.status {
            StudyStatus::Done => self.done += 1,
            StudyStatus::Failed => self.failed += 1,
        }
        self.stages.add_record(record);
    }

    pub(crate) fn studies(&self) -> u64 {
        self.done + self.failed
    }
}

/// A meter that turns counts into rates.
pub(crate) struct RateMeter {
    run: RunId,
    stages: StageSet,
    begun: Instant,
    samples: VecDeque<(Instant, u64, StageCounts)>,
}

impl RateMeter {
    pub(crate) fn new(run: RunId, stages: StageSet) -> Self {
        Self {
            run,
            stages,
            begun: Instant::now(),
            samples: VecDeque::new(),
        }
    }

    /// Takes a snapshot, where so many lines are of studies that the archive does not name; the number of studies in flight,
    /// `problems` and `paused` are the caller's to add.
    pub(crate) fn read(
        &mut self,
        totals: &RunCounts,
        in_flight: &StageCounts,
        not_in_archive: u64,
    ) -> RunProgress {
        let now = Instant::now();
        let counts = totals.stages.plus(in_flight);
        self.samples
            .push_back((now, totals.studies(), counts.clone()));
        while self.samples.len() > 2 && now - self.samples[0].0 > RATE_WINDOW {
            self.samples.pop_front();
        }
        let (since, studies, before) = &self.samples[0];
        let seconds = (now - *since).as_secs_f64();
        let rate = |count: u64, before: u64| match seconds > 0.0 {
            true => count.saturating_sub(before) as f64 / seconds,
            false => 0.0,
        };
        let stage = |stage| {
            let sum = |counts: &StageCounts| {
                counts.get(stage, StageEnd::Done) + counts.get(stage, StageEnd::Reused)
            };
            StageProgress {
                stage,
                done: sum(&counts),
                reused: counts.get(stage, StageEnd::Reused),
                failed: counts.get(stage, StageEnd::Failed),
                per_second: rate(sum(&counts), sum(before)),
            }
        };
        let studies_per_second = rate(totals.studies(), *studies);
        let left = totals
            .total
            .map(|total| (total + not_in_archive).saturating_sub(totals.studies()));
        RunProgress {
            run: Some(self.run.clone()),
            total: totals.total,
            done: totals.done,
            failed: totals.failed,
            resumed: totals.resumed,
            not_in_archive,
            stages: self.stages.iter().map(stage).collect(),
            seconds: (now - self.begun).as_secs_f64(),
            studies_per_second,
            seconds_left: left
                .filter(|_| studies_per_second > 0.0)
                .map(|left| left as f64 / studies_per_second),
            ..RunProgress::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_time_left_follow_from_what_was_done_since_the_first_sample() {
        let mut meter = RateMeter::new(RunId::from("run"), StageSet::closure(&[Stage::Findings]));
        let mut totals = RunCounts {
            total: Some(100),
            ..RunCounts::default()
        };
        let none = StageCounts::default();
        let first = meter.read(&totals, &none, 0);
        assert_eq!((first.studies_per_second, first.seconds_left), (0.0, None));
        std::thread::sleep(Duration::from_millis(20));
        totals.done = 10;
        let mut in_flight = StageCounts::default();
        in_flight.0.findings[StageEnd::Reused as usize] = 12;
        let second = meter.read(&totals, &in_flight, 0);
        assert!(second.studies_per_second > 0.0);
        let left = second.seconds_left.unwrap();
        assert!((left - 90.0 / second.studies_per_second).abs() < 1e-9);
        let [findings] = second.stages.as_slice() else {
            panic!("{second:?}")
        };
        assert_eq!(
            (findings.done, findings.reused, findings.failed),
            (12, 12, 0)
        );
    }
}
