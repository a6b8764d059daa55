//! What all evaluations share that ask on after reports: a run over an archive, and one over the dialogs that follow from it, each
//! through the queue and the workers, in folders below the evaluation's own. Both are resumed by the same command.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use radialog_coordinator::archive::{self, Archive, OneSplit};
use radialog_coordinator::run::{
    AskOn, DEFAULT_WINDOW, FinishedRun, FollowUps, embedded_by_another_release,
};
use radialog_coordinator::{RunOptions, RunSummary};
use radialog_files::durable;
use radialog_models::bundle::Bundle;
use radialog_models::bundle::components::LanguageComponent;
use radialog_models::prompt::{ImageRule, Prompts};
use radialog_runtime::backends::Backends;
use radialog_runtime::config::Config;
use radialog_schemas::{Generation, Source, Stage, StageSet};
use radialog_training::evaluation::bootstrap::Resampling;
use radialog_training::evaluation::counted_texts::CountsFile;
use radialog_training::evaluation::original_files::OriginalFiles;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

mod coverage;
mod following;
pub(super) mod original_reports;
mod output;
pub(super) mod single_question;
pub(super) mod study_scores;
pub(super) mod text_totals;
mod truth;

pub(super) use coverage::Coverage;
pub(super) use following::Following;
pub(super) use output::{
    AnswersTable, CorrectionsTable, print_intervals, print_original, print_scores, print_texts,
    print_too_long, resampled_words, rule_words,
};
pub(super) use truth::{TruthArgs, Truths};

use super::out_folder::{OutFolder, counts_file};
use super::resampling::ResamplingArgs;
use crate::args::{ModelArgs, ServiceArgs};
use crate::batch_run::{Job, RunEnvironment, tell_left_out, tell_unseen};
use crate::exit::{EXIT_FAILED_STUDIES, UsageError};
use crate::progress::ProgressStyle;
use crate::shared_services;
use crate::{archive_source, bundle_source, interruption, served_bundle};

/// The folder of a run over the archive that ends with labelled reports.
const REPORTS_RUN: &str = "reports";
/// The protocol of all of them.
pub(super) const PROTOCOL: &str = "radialog-2023";

/// Studies whose image tokens are looked up side by side.
const LOOKS: usize = 16;

/// Who labels generated reports in all of them.
pub(super) const LABELER: &str = "CheXbert, the run's scoring stage";

/// What is evaluated, and where.
#[derive(Args)]
pub(super) struct FollowUpArgs {
    /// Archive as `radialog batch` reads it: a folder, a MIMIC-CXR-JPG tree, a CSV manifest with study_id and image, or
    /// s3://bucket/prefix
    input: String,
    /// Folder of the evaluation: scores, tables, and the runs, from which the same command resumes
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Only studies of this split, as the archive says, e.g. test
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    /// Only the first N studies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Also read images outside of the archive's folder, which a manifest can name
    #[arg(long)]
    allow_outside: bool,
    /// Try again what failed in an earlier session
    #[arg(long)]
    retry_failed: bool,
    /// Studies in flight at a time; bounds memory
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Model that writes, of a bundle with several adapters. Default: the one that the bundle names for reports, and for answers
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Progress as bars, as lines, or not at all
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: ProgressStyle,
    #[command(flatten)]
    resampling: ResamplingArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    services: ServiceArgs,
}

/// How the reports that are asked about are written.
#[derive(Args)]
pub(super) struct ReportArgs {
    /// Longest report, in tokens; 300 in the original
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
}

/// An evaluation that is configured.
pub(super) struct Session<'a> {
    args: &'a FollowUpArgs,
    config: Config,
    pub(super) bundle: Arc<Bundle>,
    pub(super) prompts: Prompts,
    pub(super) backends: Backends,
    archive: Arc<dyn Archive>,
    out: OutFolder,
    shutdown: CancellationToken,
    /// Whether its runs could look at all of their archives.
    saw_everything: AtomicBool,
}

impl<'a> Session<'a> {
    /// Opens everything that the evaluation needs. `stages` are those that its runs end with.
    pub(super) async fn open(args: &'a FollowUpArgs, stages: &[Stage]) -> anyhow::Result<Self> {
        let mut config = args.services.load_quiet(&[])?;
        shared_services::require_all_or_own(&config)?;
        if config.amqp.is_some() {
            args.models.check_elsewhere()?;
        }
        config
            .objects
            .directory
            .get_or_insert_with(|| args.out.join("objects"));
        let outside = archive_source::outside(args.allow_outside, &args.input)?;
        let input = archive_source::input(&args.input, &config).await?;
        let mut archive = archive::open_with(&input, outside).await?;
        if let Some(split) = &args.split {
            archive = Arc::new(OneSplit::of(archive, split));
        }
        let wanted: Vec<Stage> = StageSet::closure(stages).iter().collect();
        // Workers behind a broker have the weights.
        let here: &[Stage] = match &config.amqp {
            Some(_) => &[],
            None => &wanted,
        };
        let source = &args.models.source;
        let bundle = bundle_source::open(source, here, &config).await?;
        let manifest = bundle.manifest();
        let has = |stage: &&Stage| manifest.components.contains_key(stage);
        if let Some(missing) = wanted.iter().find(|stage| !has(stage)) {
            let message = format!(
                "bundle '{}' has no {missing} component, which this evaluation needs: name one that has with --bundle",
                manifest.name
            );
            return Err(UsageError(message).into());
        }
        let out = OutFolder::take(&args.out)?;
        let prompts = bundle.config::<LanguageComponent>(Stage::Language)?.prompts;
        Ok(Self {
            shutdown: interruption::take_over()?,
            backends: Backends::connect(&config).await?,
            bundle: Arc::new(bundle),
            args,
            config,
            prompts,
            archive,
            out,
            saw_everything: AtomicBool::new(true),
        })
    }

    /// Sets aside what an earlier evaluation has written under these names, and these files of the original's. `truth` is the table
    /// that says what is true.
    pub(super) fn set_aside(
        &mut self,
        names: &[&str],
        originals: Vec<PathBuf>,
        truth: Option<&Path>,
    ) -> anyhow::Result<()> {
        let files = names.iter().map(|name| self.file(name));
        let files: Vec<PathBuf> = files.chain(originals).collect();
        let read = truth.into_iter().chain([Path::new(&self.args.input)]);
        self.out.set_aside(&files, read)
    }

    /// Ends the evaluation: what was set aside goes where it has come to its end.
    pub(super) fn settle(self, result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        self.out.settle(&result)?;
        result
    }

    /// Whether the bundle is of RaDialog v2, whose test program differs.
    pub(super) fn is_v2(&self) -> bool {
        self.prompts.image_rule == ImageRule::Marker
    }

    /// The most tokens of an answer: as many as v1 has for this task, or as v2 has for all of them.
    pub(super) fn answer_tokens(&self, v1: u32) -> u32 {
        match self.is_v2() {
            true => 300,
            false => v1,
        }
    }

    /// Runs the archive through these stages and what they need; none where it was interrupted, which is told. `reports` is
    /// given where one of the stages writes some.
    pub(super) async fn first(
        &self,
        stages: &[Stage],
        reports: Option<&ReportArgs>,
    ) -> anyhow::Result<Option<FinishedRun>> {
        // Evaluations that begin alike share a run.
        let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
        let folder = match stages {
            [Stage::Scoring] => REPORTS_RUN.to_owned(),
            _ => names.join("-"),
        };
        let tokens = reports.map_or_else(
            || Generation::default().max_new_tokens,
            |reports| reports.max_new_tokens,
        );
        let job = Job {
            folder: self.args.out.join(folder),
            archive: self.archive.clone(),
            source: Source::Image,
            stages: StageSet::closure(stages),
            generation: self.generation(tokens)?,
        };
        let finished = self.run(job, self.args.limit).await?;
        if let Some((_, summary)) = &finished {
            // What was left out is named with what was not scored.
            tell_unseen(summary);
        }
        if let Some((_, summary)) = &finished
            && summary.studies == 0
        {
            let of = self.args.split.as_deref();
            let of = of.map_or_else(String::new, |split| format!(" of split '{split}'"));
            let message = format!(
                "there is no study{of} in '{}': check the archive's name and --split",
                self.args.input
            );
            return Err(UsageError(message).into());
        }
        Ok(finished.map(|(run, _)| run))
    }

    /// Runs the dialogs that follow from a run, in a folder of this name; none where it was interrupted.
    pub(super) async fn ask_on(
        &self,
        name: &str,
        what: &str,
        run: &FinishedRun,
        ask: Arc<AskOn>,
        (stages, tokens): (&[Stage], u32),
    ) -> anyhow::Result<Option<FinishedRun>> {
        self.require_own_embeddings(run).await?;
        let job = Job {
            folder: self.args.out.join(name),
            archive: Arc::new(FollowUps::new(what, run.clone(), ask)),
            source: Source::Dialog,
            stages: StageSet::closure_from(Source::Dialog, stages),
            generation: self.generation(tokens)?,
        };
        let ended = self.run(job, None).await?;
        // What follows is computed again by the same command.
        interruption::give_back();
        Ok(ended.map(|(run, summary)| {
            tell_left_out(&summary);
            run
        }))
    }

    /// Fails where one of the images that are asked about was embedded by another release: this one would look for other tokens,
    /// and fail. Every study is looked at, since a run that was gone on with has some of each release.
    async fn require_own_embeddings(&self, run: &FinishedRun) -> anyhow::Result<()> {
        let (objects, spec) = (&*self.backends.objects, &run.spec);
        let records = stream::unfold(run.records().await?, |mut records| async move {
            let record = records.next().await.transpose()?;
            Some((record, records))
        });
        let others = records.map(|record| async move {
            let record = record?;
            match record.error {
                Some(_) => anyhow::Ok(None),
                None => Ok(embedded_by_another_release(objects, spec, &record).await?),
            }
        });
        let mut others = pin!(others.buffered(LOOKS));
        while let Some(other) = others.try_next().await? {
            let Some(theirs) = other else { continue };
            bail!(
                "images were embedded by another release of radialog (revision {theirs} of the embedding stage, this release \
                 has {}): delete the evaluation's folder '{}', or name another with --out, and run the same command again",
                Stage::REVISIONS.get(Stage::Embedding),
                self.args.out.display()
            );
        }
        Ok(())
    }

    fn generation(&self, max_new_tokens: u32) -> anyhow::Result<Generation> {
        Ok(Generation {
            max_new_tokens,
            adapter: served_bundle::adapter(&self.bundle, self.args.model.as_deref())?,
            ..Generation::default()
        })
    }

    async fn run(
        &self,
        job: Job,
        limit: Option<u64>,
    ) -> anyhow::Result<Option<(FinishedRun, RunSummary)>> {
        let args = self.args;
        let environment = RunEnvironment {
            backends: &self.backends,
            bundle: &self.bundle,
            models: &args.models,
            config: &self.config,
            progress: args.progress,
            shutdown: &self.shutdown,
        };
        let (archive, folder) = (job.archive.clone(), job.folder.clone());
        let options = RunOptions {
            window: args.window as usize,
            retry_failed: args.retry_failed,
            limit,
            ..environment.options(job)
        };
        let advice = "delete the evaluation's folder, or name another with --out";
        let ended = environment.run_to_end(options, advice).await?;
        Ok(ended.map(|(spec, summary)| {
            if !summary.saw_everything() {
                self.saw_everything.store(false, Ordering::Relaxed);
            }
            let run = FinishedRun {
                archive,
                folder,
                spec,
                limit,
            };
            (run, summary)
        }))
    }

    /// The file that keeps counts of texts while the scores of this file are computed.
    fn counts_file(&self, scores: &str) -> CountsFile {
        counts_file(&self.args.out, scores.trim_end_matches(".json"))
    }

    /// How intervals are drawn.
    pub(super) fn resampling(&self) -> Resampling {
        self.args.resampling.resampling()
    }

    /// Says that the bundle cannot do a task, so that nothing is written.
    pub(super) fn skip(self, task: &str, reason: &str) {
        outln!(
            "{task} is skipped: bundle '{}' was not trained for it ({reason}). Name a bundle of RaDialog v2 with --bundle",
            self.bundle.manifest().name
        );
        self.out.leave();
    }

    /// Writes the scores, and ends the command.
    pub(super) fn finish(
        &self,
        name: &str,
        scores: &impl Serialize,
        studies: &Coverage,
    ) -> anyhow::Result<ExitCode> {
        let path = self.file(name);
        let text = serde_json::to_string_pretty(scores)? + "\n";
        durable::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.counts_file(name).remove()?;
        outln!("written to {}", self.args.out.display());
        Ok(
            match studies.failed == 0 && self.saw_everything.load(Ordering::Relaxed) {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(EXIT_FAILED_STUDIES),
            },
        )
    }

    /// The files of the original's names.
    pub(super) fn original_files(&self) -> OriginalFiles {
        OriginalFiles::of(&self.args.out, &self.bundle.manifest().name)
    }

    /// A file of the evaluation.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.args.out.join(name)
    }
}
