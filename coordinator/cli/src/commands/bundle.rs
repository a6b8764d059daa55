//! `radialog bundle`: make, check and show bundles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use radialog_models::bundle::{
    Bundle, BundleAssembly, BundleSummary, HashCache, RandomBundle, read_manifest,
};
use radialog_schemas::{AdapterName, PerStage, counted};

use crate::args::SystemArg;
use crate::bundle_source;
use crate::exit::UsageError;

mod bar;
pub(super) mod calibrate;
mod check;
mod fetch;
mod import;
mod quantise;
mod upload;

/// Make, check and show bundles of weights
#[derive(Args)]
pub(crate) struct BundleArgs {
    #[command(subcommand)]
    command: BundleCommand,
}

#[derive(Subcommand)]
enum BundleCommand {
    /// Write a bundle with random weights, for tests and benchmarks; its outputs mean nothing
    ///
    /// Example: radialog bundle random /tmp/bundle --geometry tiny --seed 7
    Random {
        /// Folder to write; made where it is not there
        #[arg(value_parser = bundle_source::new_bundle())]
        dir: PathBuf,
        /// tiny runs anywhere; published has the geometry of the paper and takes 14 GB
        #[arg(long, default_value = "tiny")]
        geometry: GeometryArg,
        /// v1 reads 32 tokens of an image through a Q-Former, v2 the 196 patches themselves
        #[arg(long, default_value = "v1")]
        system: SystemArg,
        /// The same seed gives the same bytes
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Several adapters of the language model by name, e.g. rg,ins: the first writes reports, the last answers
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        adapters: Vec<AdapterName>,
    },
    Import(Box<import::ImportArgs>),
    Fetch(Box<fetch::FetchArgs>),
    Check(check::CheckArgs),
    Quantise(quantise::QuantiseArgs),
    Calibrate(calibrate::CalibrateArgs),
    Upload(upload::UploadArgs),
    /// Put components of other bundles, such as checkpoints of `radialog train`, together into one
    ///
    /// Takes what inference reads and leaves behind what only a training does. Every BUNDLE is a folder, or demo. Example: radialog bundle assemble
    /// runs/bundle --embedding runs/alignment/best --findings runs/findings/best --language runs/language/best --scoring
    /// runs/chexbert/best --name mine --half
    Assemble {
        /// Folder to write
        #[arg(value_parser = bundle_source::new_bundle())]
        dir: PathBuf,
        /// Bundle with the image encoder and the alignment module
        #[arg(long, value_name = "BUNDLE")]
        embedding: Option<PathBuf>,
        /// Bundle with the findings classifier
        #[arg(long, value_name = "BUNDLE")]
        findings: Option<PathBuf>,
        /// Bundle with the language model
        #[arg(long, value_name = "BUNDLE")]
        language: Option<PathBuf>,
        /// Bundle with the labeler
        #[arg(long, value_name = "BUNDLE")]
        scoring: Option<PathBuf>,
        /// Its name
        #[arg(long)]
        name: String,
        /// Its version
        #[arg(long, default_value = "1")]
        version: String,
        /// The terms under which it may be used [default: those of all parts]
        #[arg(long)]
        license: Option<String>,
        /// Store matrices in half precision (f16)
        #[arg(long)]
        half: bool,
    },
    /// Read every file of a bundle and compare its hash, tensors and shapes
    ///
    /// Example: radialog bundle verify /bundles/radialog-v1
    Verify {
        /// The bundle's folder, or demo
        dir: PathBuf,
    },
    /// Say what a bundle holds
    ///
    /// Example: radialog bundle show /bundles/radialog-v1
    Show {
        /// The bundle's folder, or demo
        dir: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum GeometryArg {
    Tiny,
    Published,
}

pub(crate) async fn run(args: BundleArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        BundleCommand::Random {
            dir,
            geometry,
            system,
            seed,
            adapters,
        } => {
            let mut seen = BTreeSet::new();
            if let Some(twice) = adapters.iter().find(|name| !seen.insert(*name)) {
                return Err(UsageError(format!("--adapters names '{twice}' twice")).into());
            }
            let random = match geometry {
                GeometryArg::Tiny => RandomBundle::tiny(seed),
                GeometryArg::Published => RandomBundle::published(seed),
            };
            let random = RandomBundle {
                system: system.system(),
                adapters,
                ..random
            };
            let path = dir.clone();
            let manifest = beside(move || Ok(random.write(&path)?)).await?;
            outln!(
                "wrote bundle '{}' ({}) to {}",
                manifest.name,
                manifest.hash().short(),
                dir.display()
            );
        }
        BundleCommand::Import(args) => {
            let imported = tokio::task::spawn_blocking(move || import::run(*args));
            return imported.await.context("the import was interrupted")?;
        }
        BundleCommand::Fetch(args) => return fetch::run(*args).await,
        BundleCommand::Upload(args) => return upload::run(args).await,
        BundleCommand::Check(args) => {
            let checked = tokio::task::spawn_blocking(move || check::run(&args));
            return checked.await.context("the check was interrupted")?;
        }
        BundleCommand::Quantise(args) => {
            let quantised = tokio::task::spawn_blocking(move || quantise::run(args));
            return quantised
                .await
                .context("the quantisation was interrupted")?;
        }
        BundleCommand::Calibrate(args) => {
            let calibrated = tokio::task::spawn_blocking(move || calibrate::run(&args));
            return calibrated
                .await
                .context("the calibration was interrupted")?;
        }
        BundleCommand::Assemble {
            dir,
            embedding,
            findings,
            language,
            scoring,
            name,
            version,
            license,
            half,
        } => {
            let parts = PerStage {
                embedding,
                findings,
                language,
                scoring,
            };
            let parts = parts
                .iter()
                .filter_map(|(stage, part)| Some((stage, part.as_deref()?)))
                .map(|(stage, part)| Ok((stage, bundle_source::named(part)?)))
                .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
            if parts.is_empty() {
                return Err(UsageError(
                    "name at least one of --embedding --findings --language --scoring".into(),
                )
                .into());
            }
            let assembly = BundleAssembly {
                name,
                version,
                license,
                half,
                parts,
                calibration: None,
            };
            let path = dir.clone();
            let manifest = beside(move || Ok(assembly.write(&path)?)).await?;
            let bytes: u64 = manifest.files.values().map(|file| file.size).sum();
            let mib = bytes as f64 / f64::from(1 << 20);
            outln!(
                "wrote bundle '{}' ({}, {mib:.1} MiB) to {}",
                manifest.name,
                manifest.hash().short(),
                dir.display()
            );
        }
        BundleCommand::Verify { dir } => {
            let verify = move || {
                let bundle = open(&dir)?;
                bundle.verify()?;
                Ok(bundle)
            };
            let bundle = beside(verify).await?;
            outln!(
                "bundle '{}' is whole: {} verified",
                bundle.manifest().name,
                counted(bundle.manifest().files.len(), "file", "files")
            );
        }
        BundleCommand::Show { dir } => print_summary(&open(&dir)?.summary()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what takes long beside the threads that hear signals.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.context("it was interrupted")?
}

/// Opens all components that a bundle has: a checkpoint or an import of one part has one.
fn open(dir: &Path) -> anyhow::Result<Bundle> {
    let dir = &bundle_source::named(dir)?;
    let stages: Vec<_> = read_manifest(dir)?.components.keys().copied().collect();
    Ok(Bundle::open_with(dir, &stages, &HashCache::user())?)
}

fn print_summary(bundle: &BundleSummary) {
    outln!(
        "bundle '{}' version {} ({}) in {}",
        bundle.name,
        bundle.version,
        bundle.hash.short(),
        bundle.dir.display()
    );
    outln!("  licence: {}", bundle.license);
    if bundle.random_weights {
        outln!("  random weights: findings and text mean nothing");
    }
    outln!(
        "  {:<10} {:>8} {:>14} {:>10}  hash",
        "component",
        "tensors",
        "parameters",
        "MiB"
    );
    for part in &bundle.components {
        let mib = part.bytes as f64 / f64::from(1 << 20);
        outln!(
            "  {:<10} {:>8} {:>14} {mib:>10.1}  {}",
            part.stage.name(),
            part.tensors,
            part.parameters,
            part.hash.short()
        );
        if !part.quantized.is_empty() {
            let types = part.quantized.iter();
            let types: Vec<String> = types
                .map(|(name, count)| format!("{count} in {name}"))
                .collect();
            outln!("  {:<10} quantised: {}", "", types.join(", "));
        }
    }
}
