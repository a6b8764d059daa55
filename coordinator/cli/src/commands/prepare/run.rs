//! What all preparations share that need a model: a run through the queue and the workers, as `radialog batch` does it, in a
//! folder beside the file that is made of it. What comes out does not depend on interruptions, nor on the order in which
//! workers were done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use radialog_coordinator::RunOptions;
use radialog_coordinator::archive::Archive;
use radialog_coordinator::run::DEFAULT_WINDOW;
use radialog_coordinator::run::output::OrderedRecords;
use radialog_models::bundle::Bundle;
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{Generation, RunSpec, Source, Stage, StageSet, StudyRecord};

use super::LISTED;
use crate::args::{ModelArgs, ServiceArgs};
use crate::batch_run::{self, RunEnvironment};
use crate::exit::{EXIT_FAILED_STUDIES, UsageError};
use crate::progress::ProgressStyle;
use crate::shared_services;
use crate::{bundle_source, interruption};

/// The settings with which a preparation runs.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// Folder of the run; holds the state to resume from, and without --s3 or --objects what the models made. It may be
    /// deleted when the file is there. Default: the file's name with .run
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Try again what failed in an earlier session
    #[arg(long)]
    retry_failed: bool,
    /// Items in flight at a time; bounds memory
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Progress as bars, as lines, or not at all
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressStyle,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

impl RunArgs {
    /// Whether the folder of the run is named.
    pub(crate) fn names_run(&self) -> bool {
        self.run.is_some()
    }

    /// Whether what failed is to be tried again.
    pub(crate) fn retries_failed(&self) -> bool {
        self.retry_failed
    }

    /// Where services and stores are, for whoever reads what another run has stored.
    pub(crate) fn configuration(&self) -> anyhow::Result<Config> {
        self.services.load_quiet(&[])
    }

    /// Whether a bundle is named, by the flag or the environment.
    pub(crate) fn names_bundle(&self) -> bool {
        self.models.source.bundle.is_some()
    }
}

/// A run that is configured.
pub(crate) struct Session<'a> {
    args: &'a RunArgs,
    folder: PathBuf,
    pub(crate) config: Config,
}

/// What goes through which stages.
pub(crate) struct Job {
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) source: Source,
    /// The last stages.
    pub(crate) stages: &'static [Stage],
    pub(crate) generation: Generation,
}

/// A run that came to its end.
pub(crate) struct Finished {
    archive: Arc<dyn Archive>,
    pub(crate) folder: PathBuf,
    pub(crate) spec: RunSpec,
    pub(crate) backends: Backends,
    pub(crate) bundle: Arc<Bundle>,
    saw_everything: bool,
}

/// What a run has for each item, in the order of the archive.
pub(crate) struct Results {
    records: OrderedRecords,
    /// The number of items that failed, by the code of the error.
    failed: BTreeMap<String, u64>,
    /// The first of them.
    failures: Vec<String>,
}

impl<'a> Session<'a> {
    /// Reads the configuration of a run whose results go to `out`.
    pub(crate) fn configure(args: &'a RunArgs, out: &Path) -> anyhow::Result<Self> {
        let folder = args.run.clone().unwrap_or_else(|| {
            let mut name = out.as_os_str().to_owned();
            name.push(".run");
            name.into()
        });
        let mut config = args.services.load_quiet(&[])?;
        config
            .objects
            .directory
            .get_or_insert_with(|| folder.join("objects"));
        shared_services::require_all_or_own(&config)?;
        if config.amqp.is_some() {
            args.models.check_elsewhere()?;
        }
        Ok(Self {
            args,
            folder,
            config,
        })
    }

    /// Opens the bundle, which must have these stages.
    pub(crate) async fn bundle(&self, stages: &[Stage]) -> anyhow::Result<Arc<Bundle>> {
        let bundle = bundle_source::open(&self.args.models.source, stages, &self.config).await?;
        let manifest = bundle.manifest();
        if let Some(missing) = stages
            .iter()
            .find(|stage| !manifest.components.contains_key(stage))
        {
            bail!(
                "bundle '{}' has no {missing} component: name one that has with --bundle",
                manifest.name
            );
        }
        Ok(Arc::new(bundle))
    }

    /// Runs to the end; none where it was interrupted, which is told.
    pub(crate) async fn run(
        self,
        bundle: &Arc<Bundle>,
        job: Job,
    ) -> anyhow::Result<Option<Finished>> {
        let Self {
            args,
            folder,
            config,
        } = self;
        let shutdown = interruption::take_over()?;
        let backends = Backends::connect(&config).await?;
        let environment = RunEnvironment {
            backends: &backends,
            bundle,
            models: &args.models,
            config: &config,
            progress: args.progress,
            shutdown: &shutdown,
        };
        let options = environment.options(batch_run::Job {
            archive: job.archive.clone(),
            folder: folder.clone(),
            source: job.source,
            stages: StageSet::closure_from(job.source, job.stages),
            generation: job.generation,
        });
        let options = RunOptions {
            window: args.window as usize,
            retry_failed: args.retry_failed,
            ..options
        };
        let advice = "delete the run's folder, or name another with --run";
        let Some((spec, summary)) = environment.run_to_end(options, advice).await? else {
            return Ok(None);
        };
        batch_run::tell_left_out(&summary);
        Ok(Some(Finished {
            archive: job.archive,
            folder,
            spec,
            backends,
            bundle: bundle.clone(),
            saw_everything: summary.saw_everything(),
        }))
    }
}

/// Refuses a table of which nothing is asked for, before anything is made for it. `advice` says what it lacks, and what to do.
pub(super) async fn refuse_empty(archive: &dyn Archive, advice: &str) -> anyhow::Result<()> {
    match archive.entries().await?.next().await {
        Some(_) => Ok(()),
        None => Err(UsageError(format!("{}: {advice}", archive.name())).into()),
    }
}

impl Finished {
    /// How a preparation ends that has written what it could: not well where a part of the archive could not be looked at.
    pub(crate) fn exit(&self) -> ExitCode {
        match self.saw_everything {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(EXIT_FAILED_STUDIES),
        }
    }

    /// One pass over the results.
    pub(crate) async fn results(&self) -> anyhow::Result<Results> {
        let records = OrderedRecords::open(&*self.archive, &self.folder).await?;
        Ok(Results {
            records,
            failed: BTreeMap::new(),
            failures: Vec::new(),
        })
    }
}

impl Results {
    /// The next item that did not fail.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<StudyRecord>> {
        while let Some(record) = self.records.next().await? {
            let Some(error) = &record.error else {
                return Ok(Some(record));
            };
            *self.failed.entry(error.code.as_str()).or_default() += 1;
            if self.failures.len() < LISTED {
                self.failures.push(format!("{}: {error}", record.study));
            }
        }
        Ok(None)
    }

    /// Tells what failed, after a whole pass.
    pub(crate) fn tell_failures(&self) {
        if self.failed.is_empty() {
            return;
        }
        let counts: Vec<String> = self
            .failed
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        errln!(
            "{} failed and are left out ({}):",
            self.failed.values().sum::<u64>(),
            counts.join(", ")
        );
        for failure in &self.failures {
            errln!("  {failure}");
        }
        if self.failed.values().sum::<u64>() > LISTED as u64 {
            errln!("  …");
        }
        errln!(
            "They stay left out until they are tried again: mend what they name, and run the same command with --retry-failed."
        );
    }
}
