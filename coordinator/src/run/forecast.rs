//! How long a run will take on a described pool of workers: a simulation of the pipeline, event by event, over the model's
//! seconds that a study was measured to take in each stage.
//!
//! What it knows: studies begin while the window has room, a stage waits for those that it needs, a stage's workers take the
//! studies in the order of their coming. What it leaves out: fetching and storing, which lie beside the model in a worker,
//! and faults. Workers that share processors must be measured sharing them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use radialog_schemas::{PerStage, Stage, StageSet};
use serde::Serialize;

/// What remains of a run, and who does it.
#[derive(Clone, Debug)]
pub struct PoolDescription {
    /// The run's stages.
    pub stages: StageSet,
    /// Studies that have no result yet.
    pub studies: u64,
    /// How many of them each stage has to compute; the others' outputs are stored.
    pub remaining: PerStage<u64>,
    /// Seconds in the model that single studies were measured to take; a batch's time is shared among its studies. They are
    /// taken in turn.
    pub seconds: PerStage<Vec<f64>>,
    /// Workers of each stage.
    pub workers: PerStage<u32>,
    /// Studies in flight at a time.
    pub window: usize,
}

/// What a simulated run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// From the first study's begin to the last one's end.
    pub seconds: f64,
    /// The share of that time in which a stage's workers are in the model, 0 to 1.
    pub busy: PerStage<f64>,
}

/// A worker that ends with a study, ordered by the time.
#[derive(PartialEq)]
struct End {
    at: f64,
    study: u64,
    stage: Stage,
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_time = self.at.total_cmp(&other.at);
        by_time.then_with(|| (self.study, self.stage).cmp(&(other.study, other.stage)))
    }
}

/// A pool at work.
struct Simulation<'a> {
    pool: &'a PoolDescription,
    now: f64,
    queues: PerStage<VecDeque<u64>>,
    free: PerStage<u32>,
    taken: PerStage<u64>,
    spent: PerStage<f64>,
    ends: BinaryHeap<Reverse<End>>,
    /// Stages that studies in flight have not ended, by study from `first` on; a bit for each stage.
    open: VecDeque<u8>,
    first: u64,
    in_flight: usize,
    begun: u64,
}

impl PoolDescription {
    /// Simulates the run.
    ///
    /// A stage that has something to compute and no worker, or no measured seconds, is never done: its studies are left
    /// out of nothing, so callers refuse such a pool.
    pub fn simulate(&self) -> Forecast {
        let mut simulation = Simulation {
            pool: self,
            now: 0.0,
            queues: PerStage::from_fn(|_| VecDeque::new()),
            free: self.workers,
            taken: PerStage::from_fn(|_| 0),
            spent: PerStage::from_fn(|_| 0.0),
            ends: BinaryHeap::new(),
            open: VecDeque::new(),
            first: 0,
            in_flight: 0,
            begun: 0,
        };
        simulation.begin_studies();
        while let Some(Reverse(end)) = simulation.ends.pop() {
            simulation.now = end.at;
            *simulation.free.get_mut(end.stage) += 1;
            simulation.finish(end.study, end.stage);
            simulation.begin_studies();
            simulation.start(end.stage);
        }
        let seconds = simulation.now;
        let busy = PerStage::from_fn(|stage| {
            let workers = f64::from((*self.workers.get(stage)).max(1));
            match seconds > 0.0 {
                true => simulation.spent.get(stage) / workers / seconds,
                false => 0.0,
            }
        });
        Forecast { seconds, busy }
    }

    /// The stage whose workers are busy for most of the time.
    pub fn bottleneck(&self, forecast: &Forecast) -> Stage {
        let busiest = |one: &Stage, other: &Stage| {
            let busy = |stage: Stage| *forecast.busy.get(stage);
            busy(*one).total_cmp(&busy(*other))
        };
        self.stages
            .iter()
            .max_by(busiest)
            .unwrap_or(Stage::Embedding)
    }

    /// The same pool with one more worker of a stage.
    pub fn with_another(&self, stage: Stage) -> Self {
        let mut pool = self.clone();
        let workers = pool.workers.get_mut(stage);
        *workers = workers.saturating_add(1);
        pool
    }

    /// Whether a stage computes this study's output. What is stored is spread evenly over the archive.
    fn computes(&self, stage: Stage, study: u64) -> bool {
        let share = |studies: u64| {
            let (remaining, all) = (*self.remaining.get(stage), self.studies);
            u128::from(studies) * u128::from(remaining) / u128::from(all.max(1))
        };
        share(study + 1) > share(study)
    }
}

impl Simulation<'_> {
    /// Lets studies in while the window has room. One with nothing to compute is done at once.
    fn begin_studies(&mut self) {
        while self.begun < self.pool.studies && self.in_flight < self.pool.window {
            let study = self.begun;
            self.begun += 1;
            self.in_flight += 1;
            let open = self
                .pool
                .stages
                .iter()
                .fold(0, |open, stage| open | bit(stage));
            self.open.push_back(open);
            for stage in self.pool.stages.iter() {
                if stage.needs().is_empty() {
                    self.arrive(study, stage);
                }
            }
        }
    }

    /// A study comes to a stage: it waits for a worker, or its output is there.
    fn arrive(&mut self, study: u64, stage: Stage) {
        if self.pool.computes(stage, study) {
            self.queues.get_mut(stage).push_back(study);
            self.start(stage);
        } else {
            self.finish(study, stage);
        }
    }

    /// Gives waiting studies to free workers.
    fn start(&mut self, stage: Stage) {
        while *self.free.get(stage) > 0
            && let Some(study) = self.queues.get_mut(stage).pop_front()
        {
            let seconds = self.pool.seconds.get(stage);
            let turn = *self.taken.get(stage) % seconds.len().max(1) as u64;
            let takes = seconds.get(turn as usize).copied().unwrap_or(0.0);
            *self.taken.get_mut(stage) += 1;
            *self.spent.get_mut(stage) += takes;
            *self.free.get_mut(stage) -= 1;
            let at = self.now + takes;
            self.ends.push(Reverse(End { at, study, stage }));
        }
    }

    /// A study has left a stage: what waited for it goes on, and a study that has left all of them makes room.
    fn finish(&mut self, study: u64, stage: Stage) {
        let place = (study - self.first) as usize;
        self.open[place] &= !bit(stage);
        let open = self.open[place];
        let follows = |next: &Stage| {
            let needs = next.needs();
            needs.contains(&stage) && needs.iter().all(|needed| open & bit(*needed) == 0)
        };
        let next: Vec<Stage> = self.pool.stages.iter().filter(follows).collect();
        for stage in next {
            self.arrive(study, stage);
        }
        // Recursion through `arrive` may have closed it already: the last stage to go counts.
        if open == 0 {
            self.in_flight -= 1;
            while self.open.front() == Some(&0) {
                self.open.pop_front();
                self.first += 1;
            }
        }
    }
}

fn bit(stage: Stage) -> u8 {
    1 << (stage as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(studies: u64, seconds: [f64; 4], workers: [u32; 4]) -> PoolDescription {
        let index = |stage: Stage| Stage::ALL.iter().position(|s| *s == stage).unwrap();
        PoolDescription {
            stages: StageSet::closure(&Stage::ALL),
            studies,
            remaining: PerStage::from_fn(|_| studies),
            seconds: PerStage::from_fn(|stage| vec![seconds[index(stage)]]),
            workers: PerStage::from_fn(|stage| workers[index(stage)]),
            window: 256,
        }
    }

    #[test]
    fn one_study_takes_the_longer_image_stage_then_language_then_scoring() {
        let forecast = pool(1, [1.0, 2.0, 10.0, 0.5], [1; 4]).simulate();
        assert_eq!(forecast.seconds, 12.5);
    }

    #[test]
    fn many_studies_take_as_long_as_the_slowest_stage_and_another_worker_of_it_helps_most() {
        let pool = pool(1000, [0.1, 0.1, 2.0, 0.1], [1, 1, 4, 1]);
        let forecast = pool.simulate();
        assert!((500.0..502.0).contains(&forecast.seconds), "{forecast:?}");
        assert_eq!(pool.bottleneck(&forecast), Stage::Language);
        assert!(*forecast.busy.get(Stage::Language) > 0.99);
        let faster = pool.with_another(Stage::Language).simulate();
        assert!((400.0..402.0).contains(&faster.seconds), "{faster:?}");
        let same = pool.with_another(Stage::Embedding).simulate();
        assert!((same.seconds - forecast.seconds).abs() < 1.0);
    }

    #[test]
    fn a_window_of_one_runs_study_after_study() {
        let mut pool = pool(10, [1.0, 2.0, 3.0, 1.0], [8; 4]);
        pool.window = 1;
        assert_eq!(pool.simulate().seconds, 60.0);
    }

    #[test]
    fn what_is_stored_takes_no_time() {
        let mut pool = pool(100, [1.0; 4], [1; 4]);
        pool.remaining = PerStage::from_fn(|stage| match stage {
            Stage::Scoring => 30,
            _ => 0,
        });
        assert_eq!(pool.simulate().seconds, 30.0);
        pool.remaining = PerStage::from_fn(|_| 0);
        assert_eq!(pool.simulate().seconds, 0.0);
    }
}
