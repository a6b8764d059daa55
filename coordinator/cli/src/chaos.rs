//! `radialog chaos`: an installation that is broken on purpose while it works, and the proof that nothing was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use radialog_runtime::config::Config;
use radialog_schemas::ObjectKey;
use tokio_util::sync::CancellationToken;

use archive::{ArchiveRounds, KeptRounds};
use background::{Background, BackgroundClient};
use conversations::{ConversationClient, Conversations};
use damage::IdleObjects;
use faults::Faults;
use installation::Installation;
use journal::{Counts, Journal};
use role::RoleSettings;
use schedule::Schedule;
use services::{ServicePlan, Services};

pub(crate) use installation::Scale;
pub(crate) use report::Report;

mod archive;
mod background;
mod conversations;
mod damage;
mod dead_letters;
mod faults;
mod images;
mod installation;
mod journal;
mod proof;
mod report;
mod role;
mod schedule;
mod services;
mod undisturbed;
mod watchdog;

/// Images that people talk about.
const TALKED_ABOUT: usize = 3;

/// What a run is.
#[derive(Clone, Debug)]
pub(crate) struct ChaosOptions {
    pub(crate) seed: u64,
    /// When no further fault begins.
    pub(crate) end: End,
    /// A folder of images; none draws them.
    pub(crate) archive: Option<PathBuf>,
    pub(crate) studies: usize,
    pub(crate) people: usize,
    pub(crate) scale: Scale,
    /// The longest standstill that is no violation.
    pub(crate) patience: Duration,
}

/// When no further fault begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    After(Duration),
    Faults(u64),
}

/// Runs it over the configured services, or over its own below `directory`, which is the run's alone.
///
/// # Errors
/// Where something cannot be started or looked at. What must not happen is in the report.
pub(crate) async fn run(
    options: ChaosOptions,
    config: Config,
    directory: &Path,
    stop: CancellationToken,
    say: impl Fn(&str),
) -> anyhow::Result<Report> {
    let journal = Arc::new(Journal::new(stop.child_token()));
    let ended = run_with(&journal, options, config, directory, stop, say).await;
    ended.map_err(|error| match &*journal.violations() {
        [] => error,
        violations => error.context(violations.join("; ")),
    })
}

async fn run_with(
    journal: &Arc<Journal>,
    options: ChaosOptions,
    config: Config,
    directory: &Path,
    stop: CancellationToken,
    say: impl Fn(&str),
) -> anyhow::Result<Report> {
    let services = ServicePlan::of(config)?;
    let folder = |name: &str| -> anyhow::Result<PathBuf> {
        let folder = directory.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    let images = match &options.archive {
        Some(folder) => images::read(folder, options.studies)?,
        None => images::draw(options.seed, options.studies)?,
    };
    // What is refused there is said before the undisturbed run, which takes a while.
    say("the services");
    let services = Services::open(services, &directory.join("services")).await?;
    let bundle = options.scale.bundle.clone();
    let bundle = bundle.map_or(Vec::new(), |bundle| vec!["--bundle".to_owned(), bundle]);
    say("the undisturbed run");
    let undisturbed = folder("undisturbed")?;
    let expected =
        undisturbed::lines(&undisturbed, &images, &bundle, journal, options.patience).await?;
    let talked_about: Vec<Bytes> = (images.iter())
        .filter(|image| expected[&image.file].error.is_none())
        .take(TALKED_ABOUT)
        .map(|image| image.content.clone())
        .collect();
    let (texts, expected_work) = undisturbed::texts(
        &undisturbed,
        &talked_about,
        &bundle,
        journal,
        options.patience,
    )
    .await?;

    // What was read of the undisturbed conversations is not counted.
    *journal.counts() = Counts::default();
    say("the installation");
    let objects = services.objects.clone();
    let roles = folder("roles")?;
    let installation = Installation::prepare(services, &roles, options.scale.clone()).await?;
    let installation = Arc::new(installation);
    let about = talked_about.first().cloned().unwrap_or_default();
    let client =
        || ConversationClient::new(installation.gateways(), journal.clone(), options.patience);
    let idle = Arc::new(IdleObjects::new(objects.clone(), journal.clone()));
    let run = Run {
        rounds: ArchiveRounds {
            installation: installation.clone(),
            journal: journal.clone(),
            idle: idle.clone(),
            objects,
            images,
            expected,
            directory: folder("rounds")?,
            patience: options.patience,
        },
        conversations: Conversations {
            client: client()?,
            journal: journal.clone(),
            images: talked_about,
            expected: texts,
            seed: options.seed,
            kept: tokio::sync::Mutex::default(),
        },
        background: Background {
            client: BackgroundClient::new(client()?, journal.clone(), &about, &expected_work.model),
            journal: journal.clone(),
            expected: expected_work,
            seed: options.seed,
        },
        faults: Faults {
            installation: installation.clone(),
            journal: journal.clone(),
            idle,
            patience: options.patience,
        },
        installation,
        journal: journal.clone(),
        options,
    };
    let seconds = run.whole(directory, &stop, &say).await;
    // Whatever happened, nothing of ours goes on.
    run.installation.heal_links();
    run.installation.kill().await;
    let holds = run.journal.violations().is_empty();
    let is_stopped = holds && stop.is_cancelled();
    // What does not hold can be looked at.
    if is_stopped || holds && seconds.is_ok() {
        say("cleaning up");
        if let Err(error) = run.installation.services.lock().await.clear().await {
            run.journal.violated(format!(
                "what the run has left in the services that were given cannot be removed, empty them: {error:#}"
            ));
        }
    }
    let violations = run.journal.violations();
    let counts = run.journal.counts().clone();
    Ok(Report {
        seed: run.options.seed,
        seconds: seconds?,
        interrupted: is_stopped && violations.is_empty(),
        violations,
        counts,
    })
}

/// All parts of a run.
struct Run {
    options: ChaosOptions,
    journal: Arc<Journal>,
    installation: Arc<Installation>,
    rounds: ArchiveRounds,
    conversations: Conversations,
    background: Background,
    faults: Faults,
}

impl Run {
    /// From the first start of a role to the proof. Returns for how many seconds things were broken and work was done.
    async fn whole(
        &self,
        directory: &Path,
        stop: &CancellationToken,
        say: &impl Fn(&str),
    ) -> anyhow::Result<f64> {
        let (journal, patience) = (&self.journal, self.options.patience);
        self.installation.start(journal, patience).await?;
        say("a run without faults");
        let kept = self.rounds.calm().await?;
        say("faults");
        let begun = Instant::now();
        let supervised = self.installation.supervise(journal);
        let objects = tokio::select! {
            // It ends with the stop of the run alone, and then so does the work.
            ended = supervised => {
                ended?;
                Vec::new()
            }
            objects = self.work(kept) => objects?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        if !journal.stop.is_cancelled() {
            say("the proof");
            stop.run_until_cancelled(self.prove(directory, &objects))
                .await
                .transpose()?;
        }
        Ok(seconds)
    }

    /// What must hold now that the work is done, with `objects` stored.
    async fn prove(&self, directory: &Path, objects: &[ObjectKey]) -> anyhow::Result<()> {
        self.conversations.delete_all().await;
        self.background.delete_all().await;
        let purge = self.purge(directory).await?;
        let (journal, patience) = (&self.journal, self.options.patience);
        proof::nothing_is_left(&self.installation, journal, objects, purge, patience).await
    }

    /// Works and breaks until the end; returns the keys of all objects that must be stored then.
    async fn work(&self, kept: KeptRounds) -> anyhow::Result<Vec<ObjectKey>> {
        let schedule = Schedule::new(self.options.seed, self.installation.targets().await);
        let (limit, time) = match self.options.end {
            End::Faults(faults) => (Some(faults), None),
            End::After(time) => (None, Some(time)),
        };
        let clock = async {
            if let Some(time) = time {
                tokio::select! {
                    () = self.journal.closing.cancelled() => {}
                    () = tokio::time::sleep(time) => self.journal.closing.cancel(),
                }
            }
        };
        let people = futures::future::join_all(
            (0..self.options.people).map(|person| self.conversations.talk(person)),
        );
        let (faults, objects, ..) = tokio::join!(
            self.faults.run(schedule, limit),
            self.rounds.run(kept),
            people,
            self.background.respond(),
            self.background.batches(),
            clock
        );
        faults?;
        objects
    }

    /// `radialog purge` over the services, past the links.
    async fn purge(&self, directory: &Path) -> anyhow::Result<RoleSettings> {
        let role = self.installation.role(installation::BATCH).await?;
        Ok(RoleSettings {
            name: "purge".to_owned(),
            // Conversations have been deleted, and must be gone; batches of requests are only ever removed by their age.
            arguments: ["purge", "--older-than", "0s"].map(str::to_owned).into(),
            environment: role.settings.environment.clone(),
            directory: directory.to_owned(),
            log: directory.join("purge.log"),
            health: None,
        })
    }
}
