//! `radialog status`: how far a run is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use radialog_coordinator::RunProgress;
use radialog_coordinator::run::PROGRESS_DOCUMENT;
use radialog_coordinator::run::output::{ArchiveSize, RESULTS_FILE, RunFile};
use radialog_runtime::backends::Backends;
use radialog_schemas::{RunId, StudyRecord, StudyStatus, counted};
use serde::Serialize;

use crate::args::ServiceArgs;
use crate::exit::UsageError;
use crate::progress::overview;
use crate::results_place::{is_in_store, look_at_run};

/// Show how far a run is
///
/// Example: radialog status results, or radialog status 20261124-… --redis redis://host, or radialog status
/// s3://results/cxr --s3 http://host:9000/radialog
#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Output folder of the run, s3://bucket/prefix where its results are in a store, or its id together with --redis
    run: String,
    /// Print JSON: what the folder says, or with --redis the progress that the run publishes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: ServiceArgs,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let config = args.services.load_quiet(&[])?;
    let dir = Path::new(&args.run);
    let folder = if is_in_store(dir) {
        let copy = look_at_run(&args.run, &config).await?;
        Some(FolderStatus::read(copy.folder())?)
    } else if dir.is_dir() {
        Some(FolderStatus::read(dir)?)
    } else {
        None
    };
    if config.redis.is_none() {
        let Some(folder) = folder else {
            let message = format!(
                "'{}' is not a folder; to look a run up by its id, give --redis URL",
                args.run
            );
            return Err(UsageError(message).into());
        };
        folder.say(args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let run = match &folder {
        Some(folder) => folder.run.clone(),
        None => RunId(args.run.clone()),
    };
    let state = Backends::state(&config).await?;
    let text = state.document(&run, PROGRESS_DOCUMENT).await?;
    // The folder says what it has, whatever Redis knows.
    if let Some(folder) = folder.filter(|_| !args.json || text.is_none()) {
        folder.say(args.json)?;
        if text.is_none() {
            errln!("note: {}", unknown(&run));
            return Ok(ExitCode::SUCCESS);
        }
    }
    match text {
        None => bail!("{}", unknown(&run)),
        Some(text) => {
            let progress: RunProgress = serde_json::from_str(&text)
                .context("the run's progress is from another version")?;
            if args.json {
                outln!("{}", serde_json::to_string_pretty(&progress)?);
                return Ok(ExitCode::SUCCESS);
            }
            let of = progress
                .total
                .map_or_else(|| "?".to_owned(), |total| total.to_string());
            outln!(
                "run {run}: {}/{of} studies, {} in flight, {}",
                progress.ended(),
                progress.in_flight,
                overview(&progress)
            );
            for stage in &progress.stages {
                outln!(
                    "  {:<10} {:>8} done {:>8} reused {:>8} failed {:>8.1}/s",
                    stage.stage.name(),
                    stage.done,
                    stage.reused,
                    stage.failed,
                    stage.per_second
                );
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn unknown(run: &RunId) -> String {
    format!(
        "no run '{run}' is known to this Redis; it forgets a run 7 days after its last sign of life"
    )
}

/// What an output folder says of its run.
#[derive(Serialize)]
struct FolderStatus {
    run: RunId,
    /// The archive.
    input: String,
    /// Studies of the archive; none before they are counted.
    total: Option<u64>,
    done: u64,
    failed: u64,
    /// Lines of the results, among the done and failed ones, whose studies the archive did not name any more when it was last read
    /// whole.
    not_in_archive: u64,
    /// Lines of the results that are no records; one that is half written, the last, is none of them.
    unreadable: u64,
}

impl FolderStatus {
    /// Counts the lines of the folder.
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let Some(file) = RunFile::read(dir)? else {
            let message = format!(
                "'{}' holds no run: name the folder that was --out",
                dir.display()
            );
            return Err(UsageError(message).into());
        };
        let size = ArchiveSize::read(dir)?;
        let mut status = Self {
            run: file.spec.run,
            input: file.input,
            total: size.map(|size| size.studies),
            not_in_archive: size.map_or(0, |size| size.not_in_archive),
            done: 0,
            failed: 0,
            unreadable: 0,
        };
        let results = dir.join(RESULTS_FILE);
        let cannot_be_read = || format!("'{}' cannot be read", results.display());
        let mut lines = match File::open(&results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(status),
            file => BufReader::new(file.with_context(cannot_be_read)?),
        };
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .with_context(cannot_be_read)?
            > 0
        {
            match serde_json::from_slice::<StudyRecord>(&line) {
                Ok(record) if record.status == StudyStatus::Done => status.done += 1,
                Ok(_) => status.failed += 1,
                Err(_) if line.ends_with(b"\n") => status.unreadable += 1,
                // It is being written, or was when its writer was killed.
                Err(_) => {}
            }
            line.clear();
        }
        Ok(status)
    }

    /// Prints it as a person or a program reads it.
    fn say(&self, json: bool) -> anyhow::Result<()> {
        match json {
            true => outln!("{}", serde_json::to_string_pretty(self)?),
            false => self.print(),
        }
        if self.unreadable > 0 {
            errln!(
                "note: {} of {RESULTS_FILE} cannot be read; the run names the first such line when it goes on",
                counted(self.unreadable, "line", "lines")
            );
        }
        Ok(())
    }

    fn print(&self) {
        let written = self.done + self.failed;
        let of = match self.total {
            Some(total) => {
                let named = written.saturating_sub(self.not_in_archive);
                format!("{named} of {}", counted(total, "study", "studies"))
            }
            None => format!("{}, not counted yet", counted(written, "study", "studies")),
        };
        let left_out = match self.not_in_archive {
            0 => String::new(),
            lines => format!(
                "; {lines} of these lines are of studies that the archive, or --limit, does not have any more"
            ),
        };
        outln!(
            "run {} over {}: {of}; {} done, {} failed so far{left_out}",
            self.run,
            self.input,
            self.done,
            self.failed
        );
    }
}
