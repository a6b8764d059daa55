//! Memory does not grow with the pairs that are evaluated.

use std::fmt::Write as _;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use radialog_tests::patience::Watchdog;
use radialog_tests::processes::radialog;

use super::EvaluationFixture;

/// Pairs of the small and of the large evaluation.
const PAIRS: [u32; 2] = [1_000, 31_000];
/// Bytes that a pair may take. As many as stay are an index of ids and places; the texts alone have 90, and all that is known of a
/// pair over 1,000.
const BYTES: u64 = 300;

impl EvaluationFixture {
    /// Evaluates so many pairs beside texts and labels, with faults, and returns the most memory that was taken, in bytes.
    fn peak(&self, pairs: u32) -> Result<u64> {
        let (mut predictions, mut texts) = (
            "study_id,prediction\n".to_owned(),
            "study_id,subject_id,report\n".to_owned(),
        );
        for pair in 0..pairs {
            // Every third reference has no prediction.
            if pair % 3 > 0 {
                writeln!(
                    predictions,
                    "{},Clear lungs. Heart size {pair}.",
                    50_000_000 + pair
                )?;
            }
            writeln!(
                texts,
                "{},{},The lungs are clear.",
                50_000_000 + pair,
                10_000_000 + pair / 2
            )?;
        }
        self.write("predictions.csv", &predictions)?;
        self.write("texts.csv", &texts)?;
        let mut command = radialog(&[
            "evaluate",
            "report",
            "predictions.csv",
            "--references",
            "texts.csv",
            "--protocol",
            "rexrank",
            "--resamples",
            "2",
        ])?;
        let command = command.current_dir(self.dir.path());
        let mut child = command.stdout(Stdio::null()).spawn()?;
        let watchdog = Watchdog::over(&child);
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            peak = kilobytes.map_or(Ok(peak), str::parse)?;
            thread::sleep(Duration::from_millis(2));
        };
        watchdog.call_off("an evaluation")?;
        ensure!(ended.success(), "{ended}");
        Ok(peak << 10)
    }
}

#[test]
fn thirty_thousand_pairs_more_take_a_few_megabytes() -> Result<()> {
    let folder = EvaluationFixture::new()?;
    let [few, many] = PAIRS;
    let (less, more) = (folder.peak(few)?, folder.peak(many)?);
    let studies = folder.read("evaluation/studies.csv")?.lines().count() as u64;
    ensure!(studies == 1 + u64::from(many) * 2 / 3, "{studies}");
    let grown = more.checked_sub(less).context("memory shrinks")?;
    ensure!(
        grown < BYTES * u64::from(many - few),
        "{few} pairs took {less} bytes, and {many} pairs {more}"
    );
    Ok(())
}
