//! What is printed of a plan.

use radialog_coordinator::RunPlan;
use radialog_coordinator::run::forecast::{Forecast, PoolDescription};
use radialog_schemas::{PerStage, Stage, counted};
use serde::Serialize;

use crate::progress::duration;
use crate::run_summary;

/// A plan and all that was asked of it; also the JSON object.
#[derive(Serialize)]
pub(super) struct PlanReport {
    /// What is computed already, and what remains.
    plan: RunPlan,
    stages: Vec<StageReport>,
    /// Seconds of the whole run.
    seconds: f64,
    studies_per_hour: f64,
    /// None where nothing is to be computed.
    bottleneck: Option<Stage>,
    /// Bytes of weights in all workers.
    weights_bytes: u64,
    /// All workers for the whole time, where prices were given.
    cost: Option<f64>,
}

#[derive(Serialize)]
struct StageReport {
    stage: Stage,
    workers: u32,
    /// Outputs to compute.
    remaining: u64,
    /// Mean of the measured seconds a study.
    seconds_per_study: f64,
    /// The number of studies that were measured.
    measured: usize,
    /// The share of the time in which its workers are in the model.
    busy: f64,
    weights_bytes: u64,
    /// Seconds of the run with one more worker of this stage.
    seconds_with_another: f64,
}

impl PlanReport {
    pub(super) fn new(
        plan: RunPlan,
        pool: PoolDescription,
        weights: PerStage<u64>,
        prices: PerStage<f64>,
    ) -> Self {
        let forecast = pool.simulate();
        let stages: Vec<StageReport> = pool
            .stages
            .iter()
            .map(|stage| StageReport::new(stage, &pool, &forecast, *weights.get(stage)))
            .collect();
        let weights_bytes = stages
            .iter()
            .map(|of| of.weights_bytes * u64::from(of.workers))
            .sum();
        let price: f64 = stages
            .iter()
            .map(|of| prices.get(of.stage) * f64::from(of.workers))
            .sum();
        let hours = forecast.seconds / 3600.0;
        Self {
            bottleneck: stages
                .iter()
                .any(|of| of.remaining > 0)
                .then(|| pool.bottleneck(&forecast)),
            studies_per_hour: if hours > 0.0 {
                pool.studies as f64 / hours
            } else {
                0.0
            },
            seconds: forecast.seconds,
            weights_bytes,
            cost: (price > 0.0).then_some(price * hours),
            plan,
            stages,
        }
    }

    pub(super) fn print(&self) {
        let plan = &self.plan;
        let open = plan.studies - plan.written - plan.unreadable;
        outln!(
            "{}: {} a result, {} cannot be read, {}",
            counted(plan.studies, "study", "studies"),
            counted(plan.written, "has", "have"),
            plan.unreadable,
            counted(open, "remains", "remain")
        );
        run_summary::print_not_comparable(plan);
        run_summary::print_problems(plan);
        if plan.studies == 0 && plan.problems > 0 {
            outln!("No entry of the archive is a study.");
            return;
        }
        if open == 0 {
            outln!("Nothing remains to be done.");
            return;
        }
        let Some(bottleneck) = self.bottleneck else {
            outln!("All outputs of these are stored: a run only writes their lines.");
            return;
        };
        outln!(
            "\n  {:<10} {:>10} {:>8} {:>14} {:>6} {:>12}   one more worker",
            "stage",
            "to compute",
            "workers",
            "s a study",
            "busy",
            "MiB a worker"
        );
        for of in &self.stages {
            outln!(
                "  {:<10} {:>10} {:>8} {:>14} {:>5.0}% {:>12.0}   {}",
                of.stage.name(),
                of.remaining,
                of.workers,
                format!("{:.4} of {}", of.seconds_per_study, of.measured),
                100.0 * of.busy,
                of.weights_bytes as f64 / f64::from(1 << 20),
                self.gain(of.seconds_with_another)
            );
        }
        outln!(
            "\nThe run takes {} ({:.0} studies an hour); most of it waits for {}.",
            duration(self.seconds),
            self.studies_per_hour,
            bottleneck
        );
        outln!(
            "All workers hold {:.1} GiB of weights, and what they compute with besides.",
            self.weights_bytes as f64 / f64::from(1 << 30)
        );
        if let Some(cost) = self.cost {
            outln!("Cost of all workers for that time: {cost:.2}");
        }
    }

    fn gain(&self, seconds: f64) -> String {
        let saved = self.seconds - seconds;
        match self.seconds > 0.0 && saved / self.seconds >= 0.005 {
            true => format!(
                "{} less ({:.0} %)",
                duration(saved),
                100.0 * saved / self.seconds
            ),
            false => "changes nothing".to_owned(),
        }
    }
}

impl StageReport {
    fn new(stage: Stage, pool: &PoolDescription, forecast: &Forecast, weights_bytes: u64) -> Self {
        let seconds = pool.seconds.get(stage);
        Self {
            stage,
            workers: *pool.workers.get(stage),
            remaining: *pool.remaining.get(stage),
            seconds_per_study: seconds.iter().sum::<f64>() / seconds.len().max(1) as f64,
            measured: seconds.len(),
            busy: *forecast.busy.get(stage),
            weights_bytes,
            seconds_with_another: pool.with_another(stage).simulate().seconds,
        }
    }
}
