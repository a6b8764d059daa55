//! Progress of a run: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use radialog_coordinator::RunProgress;
use radialog_coordinator::run::StageProgress;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

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

/// Shows snapshots until the sender is gone.
pub(crate) fn show(
    style: ProgressStyle,
    snapshots: watch::Receiver<RunProgress>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        match style {
            ProgressStyle::Off => {}
            ProgressStyle::Auto if stderr().is_terminal() => bars(snapshots).await,
            ProgressStyle::Auto | ProgressStyle::Lines => lines(snapshots).await,
        }
    })
}

async fn bars(mut snapshots: watch::Receiver<RunProgress>) {
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
        total.set_position(now.done + now.failed);
        total.set_message(overview(&now));
        let lines: Vec<String> = now.stages.iter().map(stage_line).collect();
        stages.set_message(lines.join("\n"));
    }
    stages.finish_and_clear();
    total.finish_and_clear();
}

async fn lines(mut snapshots: watch::Receiver<RunProgress>) {
    let mut tick = tokio::time::interval(LINE_EVERY);
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = snapshots.borrow_and_update().clone();
                let stages: Vec<String> = now.stages.iter().map(|stage| format!("{} {}", stage.stage, stage.done)).collect();
                let of = now.total.map_or_else(String::new, |total| format!("/{total}"));
                errln!("{}{of} studies  {}  [{}]", now.done + now.failed, overview(&now), stages.join(", "));
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
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(3.2), "3.2 s");
        assert_eq!(duration(250.0), "4 min 10 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }
}
