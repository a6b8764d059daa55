//! The one page of results.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::journal::Counts;
use super::schedule::FaultKind;

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Without preparation and proof.
    pub(crate) seconds: f64,
    /// A person has stopped it: nothing is proved.
    pub(crate) interrupted: bool,
    /// What must not have happened; empty where everything holds.
    pub(crate) violations: Vec<String>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

impl Report {
    pub(crate) fn holds(&self) -> bool {
        self.violations.is_empty() && !self.interrupted
    }

    /// Median and largest time to recover, and the fault that took longest.
    fn recoveries(&self) -> Option<(f64, f64, &str)> {
        let mut recoveries: Vec<_> = self.counts.recoveries.iter().collect();
        recoveries.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let (median, last) = (recoveries.get(recoveries.len() / 2)?, recoveries.last()?);
        Some((median.seconds, last.seconds, &last.fault))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let total: u64 = counts.faults.values().sum();
        let length = Duration::from_secs_f64(self.seconds.max(0.0));
        writeln!(
            f,
            "chaos: {total} faults in {} s, seed {}",
            length.as_secs(),
            self.seed
        )?;
        for kind in FaultKind::ALL {
            if let Some(count) = counts.faults.get(&kind) {
                writeln!(f, "  {count:>7}  {}", kind.words())?;
            }
        }
        let missing = FaultKind::ALL
            .into_iter()
            .filter(|kind| !counts.faults.contains_key(kind));
        let missing: Vec<&str> = missing.map(FaultKind::words).collect();
        if !missing.is_empty() {
            writeln!(f, "did not happen: {}", missing.join(", "))?;
        }
        if let Some((median, largest, fault)) = self.recoveries() {
            writeln!(
                f,
                "recovery: {median:.1} s in the median, {largest:.1} s at most ({fault}), until the role is ready and work goes \
                 on"
            )?;
        }
        for (role, times) in &counts.own_exits {
            writeln!(
                f,
                "started again after it had ended by itself: {role}, {times} times"
            )?;
        }
        writeln!(
            f,
            "archive: {} runs, {} studies in, {} lines out; {} of them a second time over objects that may have been damaged; {} objects \
             compared",
            counts.rounds,
            counts.studies,
            counts.lines,
            counts.studies_again,
            counts.objects_checked
        )?;
        writeln!(
            f,
            "conversations: {} with {} turns and {} events; readers lost their stream {} times",
            counts.conversations, counts.turns, counts.events, counts.streams_resumed
        )?;
        writeln!(
            f,
            "in the background: {} responses, {} batches of requests with {} lines",
            counts.responses, counts.batches, counts.batch_lines
        )?;
        if counts.dead_letters > 0 {
            writeln!(
                f,
                "copies of tasks that were done and whose objects had been taken: {} dead letters",
                counts.dead_letters
            )?;
        }
        if self.interrupted {
            return writeln!(f, "stopped before its end: nothing is proved");
        }
        if self.holds() {
            writeln!(f, "lost: nothing")?;
            writeln!(
                f,
                "  each study has its line once, equal to the undisturbed run's but for timings"
            )?;
            writeln!(
                f,
                "  each turn has ended once, its events without gap or repeat, its text equal to the undisturbed one"
            )?;
            writeln!(
                f,
                "  so has each response in the background, and each line of a batch is answered once, in order, as undisturbed"
            )?;
            return writeln!(
                f,
                "  queues, Redis and store hold nothing that belongs to nothing"
            );
        }
        writeln!(f, "DOES NOT HOLD ({}):", self.violations.len())?;
        for violation in &self.violations {
            writeln!(f, "  - {violation}")?;
        }
        Ok(())
    }
}
