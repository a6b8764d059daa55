//! Where a batch writes its results: a folder, or a prefix of the object store beside a working folder.

use std::path::{Path, PathBuf};

use clap::Args;
use radialog_coordinator::run::output::check_directory;
use radialog_coordinator::run::{LeaseTimes, StoredOutput};
use radialog_coordinator::{RunOptions, RunSummary};
use radialog_runtime::config::Config;

use crate::bundle_source::bucket;
use crate::cache_folder::cache_folder;
use crate::exit::UsageError;
use crate::results_place::{LookedAt, ResultsPlace};

/// The place of the results.
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// Folder for results.jsonl, results.csv and summary.json, which holds the state to resume from; or s3://bucket/prefix,
    /// from where any machine resumes. One run writes to it at a time
    #[arg(long, value_name = "DIR|URL")]
    out: ResultsPlace,
    /// Working folder of a run into s3://; nothing in it is needed afterwards [default: batch in the cache]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// A place that this process writes to.
pub(crate) enum BatchOutput {
    Folder(PathBuf),
    Store {
        output: Box<StoredOutput>,
        url: String,
    },
}

impl OutputArgs {
    /// Whether a working folder is named.
    pub(crate) fn names_work(&self) -> bool {
        self.work.is_some()
    }

    /// The folder, where it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.out.folder()
    }

    /// Refuses what cannot work before anything takes time. A dry run writes nothing.
    pub(crate) fn check(&self, config: &Config, is_dry_run: bool) -> anyhow::Result<()> {
        self.out.check(config)?;
        match (self.folder(), &self.work) {
            (Some(_), Some(_)) => Err(UsageError(
                "--work is for runs into s3://: a run into a folder works there".into(),
            )
            .into()),
            (Some(folder), None) if !is_dry_run => Ok(check_directory(folder)?),
            _ => Ok(()),
        }
    }

    /// Takes hold of it.
    pub(crate) async fn open(
        &self,
        options: &RunOptions,
        config: &Config,
    ) -> anyhow::Result<BatchOutput> {
        let url = match &self.out {
            ResultsPlace::Folder(folder) => return Ok(BatchOutput::Folder(folder.clone())),
            ResultsPlace::Store(url) => url,
        };
        let (objects, prefix) = bucket(url, config).await?;
        let names = (url.as_str(), config.worker.worker.as_str());
        let (work, times) = (self.work()?, LeaseTimes::default());
        let output = StoredOutput::open(objects, &prefix, names, &work, options, times).await?;
        Ok(BatchOutput::Store {
            output: Box::new(output),
            url: url.clone(),
        })
    }

    /// Shows what is there, without taking hold of it.
    pub(crate) async fn look(&self, config: &Config) -> anyhow::Result<LookedAt> {
        self.out.look(config).await
    }

    fn work(&self) -> anyhow::Result<PathBuf> {
        match &self.work {
            Some(work) => Ok(work.clone()),
            None => Ok(cache_folder()?.join("batch")),
        }
    }
}

impl BatchOutput {
    /// The folder that the run writes to.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Store { output, .. } => output.folder(),
        }
    }

    /// Studies that have lost their lines already, since the archive has others now.
    pub(crate) fn changed(&self) -> u64 {
        match self {
            Self::Folder(_) => 0,
            Self::Store { output, .. } => output.changed(),
        }
    }

    /// Waits for the run, and stores what it writes. Returns where the results are, too.
    pub(crate) async fn beside(
        self,
        run: impl Future<Output = anyhow::Result<RunSummary>>,
    ) -> anyhow::Result<(RunSummary, String)> {
        let (output, url) = match self {
            Self::Folder(folder) => return Ok((run.await?, folder.display().to_string())),
            Self::Store { output, url } => (output, url),
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            // Whoever has taken over has all that was stored; this process has no say any more.
            lost = output.keep() => return Err(lost.into()),
        };
        // What is done is stored, whatever ended the run.
        match (outcome, output.finish().await) {
            (Ok(summary), Ok(())) => Ok((summary, url)),
            (Ok(_), Err(error)) => Err(error.into()),
            (Err(error), stored) => {
                if let Err(error) = stored {
                    tracing::warn!(%error, "the last results are not stored; the next run makes them again");
                }
                Err(error)
            }
        }
    }
}
