//! Progress of a run: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use radialog_coordinator::RunProgress;
use radialog_coordinator::run::StageProgress;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// After so long without the end of a task the display says so: there may be no worker, or none that has the run's bundle.
const SILENCE: Duration = Duration::from_secs(60);

/// The form in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// Bars on a terminal, lines elsewhere
    Auto,
    /// A line every few seconds
    Lines,
    /// Nothing
    Off,
}

/// Where the workers of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// In this process.
    Here,
    /// In others, which may not be there.
    Elsewhere,
}

/// Shows snapshots until the sender is gone.
pub(crate) fn show(
    style: ProgressStyle,
    workers: Workers,
    snapshots: watch::Receiver<RunProgress>,
) -> JoinHandle<()> {
    let quiet = Quiet::new(workers);
    tokio::spawn(async move {
        match style {
            ProgressStyle::Off => {}
            ProgressStyle::Auto if stderr().is_terminal() => bars(snapshots, quiet).await,
            ProgressStyle::Auto | ProgressStyle::Lines => lines(snapshots, quiet).await,
        }
    })
}

/// When a task of a run last ended.
struct Quiet {
    workers: Workers,
    ended: u64,
    since: Instant,
}

impl Quiet {
    fn new(workers: Workers) -> Self {
        Self {
            workers,
            ended: 0,
            since: Instant::now(),
        }
    }

    /// What to say of a run whose tasks do not end, and whose workers may be missing.
    fn hint(&mut self, now: &RunProgress, at: Instant) -> Option<String> {
        let ends = now.stages.iter().map(|stage| stage.done + stage.failed);
        let ended = ends.sum();
        if ended != self.ended || now.in_flight == 0 || now.paused.is_some() {
            (self.ended, self.since) = (ended, at);
        }
        let quiet = at.saturating_duration_since(self.since);
        let is_told = self.workers == Workers::Elsewhere && quiet >= SILENCE;
        is_told.then(|| {
            format!(
                ", no task has ended for {}: are there workers with this bundle, in this worker group?",
                duration(quiet.as_secs_f64())
            )
        })
    }
}

async fn bars(mut snapshots: watch::Receiver<RunProgress>, mut quiet: Quiet) {
    let all = MultiProgress::new();
    let plain = |template: &str| {
        BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar())
    };
    let total =
        all.add(ProgressBar::new(0).with_style(plain("{bar:40} {pos}/{len} studies  {msg}")));
    let stages = all.add(ProgressBar::new_spinner().with_style(plain("{msg}")));
    while snapshots.changed().await.is_ok() {
        let now = snapshots.borrow_and_update().clone();
        if let Some(length) = now.total {
            total.set_length(length);
        }
        total.set_position(now.ended());
        let hint = quiet.hint(&now, Instant::now()).unwrap_or_default();
        total.set_message(overview(&now) + &hint);
        let lines: Vec<String> = now.stages.iter().map(stage_line).collect();
        stages.set_message(lines.join("\n"));
    }
    stages.finish_and_clear();
    total.finish_and_clear();
}

async fn lines(mut snapshots: watch::Receiver<RunProgress>, mut quiet: Quiet) {
    let mut named = None;
    let mut tick = tokio::time::interval(LINE_EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = snapshots.borrow_and_update().clone();
                let stages: Vec<String> = now.stages.iter().map(|stage| format!("{} {}", stage.stage, stage.done)).collect();
                if named != now.run {
                    named = now.run.clone();
                    if let (Some(run), Workers::Elsewhere) = (&named, quiet.workers) {
                        errln!("run {run} (radialog status {run})");
                    }
                }
                let hint = quiet.hint(&now, Instant::now()).unwrap_or_default();
                let of = now.total.map_or_else(String::new, |total| format!("/{total}"));
                errln!("{}{of} studies  {}{hint}  [{}]", now.ended(), overview(&now), stages.join(", "));
            }
            changed = snapshots.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Rate, time left, failures and what the run waits for, in one line.
pub(crate) fn overview(now: &RunProgress) -> String {
    let mut parts = vec![format!("{:.1}/s", now.studies_per_second)];
    if let Some(seconds) = now.seconds_left {
        parts.push(format!("{} left", duration(seconds)));
    }
    if now.failed > 0 {
        parts.push(format!("{} failed", now.failed));
    }
    if now.resumed > 0 {
        parts.push(format!("{} from before", now.resumed));
    }
    if let Some(reason) = &now.paused {
        parts.push(format!("waiting: {reason}"));
    }
    parts.join(", ")
}

fn stage_line(stage: &StageProgress) -> String {
    let mut line = format!(
        "  {:<10} {:>8} done  {:>7.1}/s",
        stage.stage.name(),
        stage.done,
        stage.per_second
    );
    if stage.reused > 0 {
        line += &format!("  {} reused", stage.reused);
    }
    if stage.failed > 0 {
        line += &format!("  {} failed", stage.failed);
    }
    line
}

/// `3.2 s`, `4 min 10 s`, `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Stage;

    use super::*;

    #[test]
    fn a_run_without_workers_says_so_until_a_task_ends() {
        let mut progress = RunProgress {
            in_flight: 12,
            ..RunProgress::default()
        };
        let begun = Instant::now();
        let [minute, later] = [65, 90].map(|seconds| begun + Duration::from_secs(seconds));
        let mut here = Quiet::new(Workers::Here);
        assert_eq!(here.hint(&progress, later), None);
        let mut elsewhere = Quiet::new(Workers::Elsewhere);
        assert_eq!(elsewhere.hint(&progress, begun), None);
        let hint = elsewhere.hint(&progress, minute).unwrap();
        assert!(
            hint.contains("are there workers with this bundle"),
            "{hint}"
        );
        progress.stages.push(StageProgress {
            stage: Stage::Embedding,
            done: 1,
            reused: 0,
            failed: 0,
            per_second: 0.0,
        });
        assert_eq!(elsewhere.hint(&progress, minute), None);
        assert_eq!(elsewhere.hint(&progress, later), None);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(3.2), "3.2 s");
        assert_eq!(duration(250.0), "4 min 10 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }
}
