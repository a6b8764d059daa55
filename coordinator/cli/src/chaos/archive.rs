//! Runs over the archive, one after the other, in an installation that breaks: each study has its line once, and it is the
//! one of the undisturbed run.
//!
//! Each round brings every image with other bytes, so that everything is computed anew, and the images of the round before
//! the last again. Between the two, the objects of a round are idle, and may be damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use radialog_coordinator::run::output::{RESULTS_FILE, RunFile};
use radialog_runtime::objects::Objects;
use radialog_schemas::{ContentHash, ObjectKey, StudyRecord, StudyStatus};

use super::damage::{IdleObjects, RoundObjects};
use super::images::ArchiveImage;
use super::installation::{BATCH, Installation};
use super::journal::Journal;
use super::watchdog::Watchdog;
use crate::exit::is_run_ended;

/// Short reports: a run spends its time on many studies.
pub(super) const REPORT_TOKENS: &str = "16";
/// Few enough studies in flight that a run is under way for a while.
const WINDOW: &str = "12";

/// The runs over the archive.
pub(super) struct ArchiveRounds {
    pub(super) installation: Arc<Installation>,
    pub(super) journal: Arc<Journal>,
    pub(super) idle: Arc<IdleObjects>,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) images: Vec<ArchiveImage>,
    /// The line of each image in the undisturbed run.
    pub(super) expected: BTreeMap<String, StudyRecord>,
    pub(super) directory: PathBuf,
    pub(super) patience: Duration,
}

/// A round that is over and whose objects are still there.
struct Round {
    number: u64,
    objects: RoundObjects,
}

impl ArchiveRounds {
    /// A round without faults, so that there are idle objects from the first fault on.
    pub(super) async fn calm(&self) -> anyhow::Result<KeptRounds> {
        let objects = self.round(0, &[]).await?;
        let round = objects.map(|objects| Round { number: 0, objects });
        let objects = round.as_ref().map(|round| round.objects.clone());
        self.idle.become_idle(objects).await;
        Ok(KeptRounds(round.into_iter().collect()))
    }

    /// Goes on until the time is over; then asks for whatever is still stored once more. Returns the keys of all objects
    /// that must be in the store at the end.
    pub(super) async fn run(&self, kept: KeptRounds) -> anyhow::Result<Vec<ObjectKey>> {
        let mut kept = kept.0;
        let mut number = 1;
        while !self.journal.closing.is_cancelled() {
            // The last round stays idle during this one, the one before it is asked for again.
            let again = kept.len().saturating_sub(1);
            let Some(objects) = self.round(number, &kept[..again]).await? else {
                return Ok(Vec::new());
            };
            self.idle.become_idle(Some(objects.clone())).await;
            for old in kept.drain(..again) {
                self.forget(&old).await?;
            }
            kept.push(Round { number, objects });
            number += 1;
        }
        self.idle.become_idle(None).await;
        if self.closing_round(number, &kept).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut left = Vec::new();
        for round in &kept {
            left.extend(self.whole(round).await?);
        }
        Ok(left)
    }

    async fn closing_round(
        &self,
        number: u64,
        kept: &[Round],
    ) -> anyhow::Result<Option<RoundObjects>> {
        self.run_over(number, None, kept).await
    }

    async fn round(&self, number: u64, again: &[Round]) -> anyhow::Result<Option<RoundObjects>> {
        self.run_over(number, Some(number), again).await
    }

    /// Runs one archive to its end and compares every line. None where the run was stopped. Returns the inputs of what was
    /// new in it.
    async fn run_over(
        &self,
        number: u64,
        new: Option<u64>,
        again: &[Round],
    ) -> anyhow::Result<Option<RoundObjects>> {
        let directory = self.directory.join(format!("round-{number}"));
        let (archive, out) = (directory.join("archive"), directory.join("out"));
        tokio::fs::create_dir_all(&archive).await?;
        let (mut expected, mut inputs) = (BTreeMap::new(), Vec::new());
        for round in again.iter().map(|round| round.number).chain(new) {
            for image in &self.images {
                let content = image.of_round(round);
                let input = ObjectKey::image(&ContentHash::of(&content));
                let file = format!("{round}-{}", image.file);
                tokio::fs::write(archive.join(&file), &content).await?;
                let line = self.expected_line(image, &file, &input)?;
                expected.insert(line.study.to_string(), line);
                if Some(round) == new {
                    inputs.push(input);
                }
            }
        }
        if !self.batch(&archive, &out, expected.len()).await? {
            return Ok(None);
        }
        compare(&self.journal, &out, &expected)?;
        let run = RunFile::read(&out)?.context("a run that has ended has a run.json")?;
        {
            let mut counts = self.journal.counts();
            counts.rounds += 1;
            counts.studies += expected.len() as u64;
            counts.studies_again += (expected.len() - inputs.len()) as u64;
        }
        tokio::fs::remove_dir_all(&directory).await?;
        Ok(Some(RoundObjects {
            spec: run.spec,
            inputs,
        }))
    }

    fn expected_line(
        &self,
        image: &ArchiveImage,
        file: &str,
        input: &ObjectKey,
    ) -> anyhow::Result<StudyRecord> {
        let line = self.expected.get(&image.file);
        let line = line.with_context(|| format!("no undisturbed line of {}", image.file))?;
        Ok(renamed(line, file, input))
    }

    /// Keeps `radialog batch` running until it says that it is through. False where the run was stopped.
    async fn batch(&self, archive: &Path, out: &Path, studies: usize) -> anyhow::Result<bool> {
        {
            let mut role = self.installation.role(BATCH).await?;
            let health = role.settings.health.context("the batch serves health")?;
            let flags = ["--max-new-tokens", REPORT_TOKENS, "--window", WINDOW];
            let mut arguments = vec![
                "batch".to_owned(),
                archive.display().to_string(),
                "--out".to_owned(),
                out.display().to_string(),
                "--progress".to_owned(),
                "off".to_owned(),
                "--health-address".to_owned(),
                health.to_string(),
            ];
            arguments.extend(flags.map(str::to_owned));
            arguments.extend(self.installation.bundle_flag());
            role.settings.arguments = arguments;
            role.start()?;
        }
        let mut watchdog = Watchdog::new(&self.journal, self.patience);
        let mut written = 0;
        loop {
            let lines = lines(out).await;
            if lines > written {
                written = lines;
                watchdog.moved();
            }
            let what = || format!("the run with {written} of {studies} lines");
            if !watchdog.goes_on(what).await {
                return Ok(false);
            }
            let mut role = self.installation.role(BATCH).await?;
            if role.is_held {
                continue;
            }
            match role.ended()? {
                Some(status) if is_run_ended(status) => return Ok(true),
                Some(_) => {
                    let mut counts = self.journal.counts();
                    *counts.own_exits.entry(BATCH.to_owned()).or_default() += 1;
                    role.start()?;
                }
                // A fault ended it just when it was through: it is started again, and says so.
                None if !role.is_running() => role.start()?,
                None => {}
            }
        }
    }

    /// Removes a round's objects, which must be whole.
    async fn forget(&self, round: &Round) -> anyhow::Result<()> {
        for key in self.whole(round).await? {
            self.journal.takes(&key);
            self.objects.delete(&key).await?;
        }
        Ok(())
    }

    /// The keys of a round's objects. Each must be there as it was stored, whatever had happened to it.
    async fn whole(&self, round: &Round) -> anyhow::Result<Vec<ObjectKey>> {
        let mut whole = Vec::new();
        for (image, input) in self.images.iter().zip(&round.objects.inputs) {
            let line = self.expected.get(&image.file);
            if line.is_some_and(|line| line.input.is_none()) {
                // What could not be read was never stored.
                continue;
            }
            let is_done = line.is_some_and(|line| line.status == StudyStatus::Done);
            let mut keys = round.objects.keys(input).into_iter();
            whole.extend(keys.next());
            if self.objects.get(input).await? != image.of_round(round.number) {
                self.journal
                    .violated(format!("object {input} is not what was stored"));
            }
            for key in keys.filter(|_| is_done) {
                if !self.objects.has_whole_output(&key).await? {
                    self.journal
                        .violated(format!("object {key} is lost or damaged"));
                }
                whole.push(key);
            }
        }
        self.journal.counts().objects_checked += whole.len() as u64;
        Ok(whole)
    }
}

/// The line of a study whose image has another name and other bytes, and shows the same.
fn renamed(line: &StudyRecord, file: &str, input: &ObjectKey) -> StudyRecord {
    let mut line = line.clone();
    let name = Path::new(file).file_stem().unwrap_or_default();
    line.study = name.to_string_lossy().as_ref().into();
    let before = std::mem::replace(&mut line.file, file.to_owned());
    line.input = line.input.map(|_| input.clone());
    if let Some(error) = &mut line.error {
        // What cannot be read is told by its name.
        error.message = error.message.replace(&before, file);
    }
    line
}

/// Rounds whose objects are stored, the last one idle.
pub(super) struct KeptRounds(Vec<Round>);

async fn lines(out: &Path) -> usize {
    let text = tokio::fs::read(out.join(RESULTS_FILE)).await;
    text.map_or(0, |text| text.iter().filter(|&&byte| byte == b'\n').count())
}

/// Every study once, and with the undisturbed line.
fn compare(
    journal: &Journal,
    out: &Path,
    expected: &BTreeMap<String, StudyRecord>,
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(out.join(RESULTS_FILE))?;
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        let mut record: StudyRecord = serde_json::from_str(line)?;
        record.timings.clear();
        let study = record.study.to_string();
        match expected.get(&study) {
            Some(expected) if *expected == record => {}
            Some(expected) => {
                let (found, expected) = (
                    serde_json::to_string(&record)?,
                    serde_json::to_string(expected)?,
                );
                let differ = format!("study {study} is\n{found}\ninstead of\n{expected}");
                journal.violated(differ);
            }
            None => journal.violated(format!("nobody asked for study {study}")),
        }
        journal.counts().lines += 1;
        if seen.insert(study.clone(), ()).is_some() {
            journal.violated(format!("study {study} has two lines"));
        }
    }
    for study in expected.keys().filter(|study| !seen.contains_key(*study)) {
        journal.violated(format!("study {study} has no line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn record(study: &str, split: Option<&str>) -> StudyRecord {
        let record = serde_json::json!({
            "study": study, "file": format!("{study}.png"), "status": "done", "split": split,
            "bundle": ContentHash::of(b"bundle"),
        });
        serde_json::from_value(record).unwrap()
    }

    /// What is said of these lines, where `a` and `b` were asked for.
    fn violations(lines: &[StudyRecord]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let text: String = lines
            .iter()
            .map(|line| serde_json::to_string(line).unwrap() + "\n")
            .collect();
        std::fs::write(dir.path().join(RESULTS_FILE), text).unwrap();
        let expected = ["a", "b"].map(|study| (study.to_owned(), record(study, None)));
        let journal = Journal::new(CancellationToken::new());
        compare(&journal, dir.path(), &expected.into()).unwrap();
        assert_eq!(
            journal.stop.is_cancelled(),
            !journal.violations().is_empty()
        );
        journal.violations()
    }

    #[test]
    fn the_line_of_another_round_names_the_image_of_that_round() {
        let mut line = record("0003", None);
        let key = |name: &[u8]| ObjectKey::image(&ContentHash::of(name));
        let message = "'0003.png' is a text, whatever its name says; convert it to PNG or JPEG";
        let code = radialog_schemas::ErrorCode::ImageFormatUnsupported;
        line.error = Some(radialog_schemas::Failure::new(code, message));
        let other = renamed(&line, "7-0003.png", &key(b"other"));
        assert_eq!(
            (&*other.study.to_string(), &*other.file),
            ("7-0003", "7-0003.png")
        );
        assert_eq!(other.input, None);
        let told = other.error.unwrap().message;
        assert!(told.starts_with("'7-0003.png' is a text"), "{told}");
        line.input = Some(key(b"one"));
        let other = renamed(&line, "7-0003.png", &key(b"other"));
        assert_eq!(other.input, Some(key(b"other")));
    }

    #[test]
    fn a_line_that_is_missing_doubled_different_or_of_nobody_is_a_violation() {
        let (a, b) = (record("a", None), record("b", None));
        assert_eq!(violations(&[b.clone(), a.clone()]), [""; 0]);
        assert_eq!(
            violations(std::slice::from_ref(&a)),
            ["study b has no line"]
        );
        let doubled = violations(&[a.clone(), b.clone(), a.clone()]);
        assert_eq!(doubled, ["study a has two lines"]);
        let other = violations(&[a.clone(), record("b", Some("test"))]);
        assert!(
            other.len() == 1 && other[0].starts_with("study b is"),
            "{other:?}"
        );
        let unknown = violations(&[a, b, record("c", None)]);
        assert_eq!(unknown, ["nobody asked for study c"]);
    }
}
