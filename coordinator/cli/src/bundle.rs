//! `radialog bundle`: make, check and show bundles.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use radialog_models::bundle::{Bundle, RandomBundle, Summary};

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
        dir: PathBuf,
        /// tiny runs anywhere; published has the geometry of the paper and takes 14 GB
        #[arg(long, default_value = "tiny")]
        geometry: GeometryArg,
        /// The same seed gives the same bytes
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Read every file of a bundle and compare its hash, tensors and shapes
    ///
    /// Example: radialog bundle verify /bundles/radialog-v1
    Verify {
        /// The bundle's folder
        dir: PathBuf,
    },
    /// Say what a bundle holds
    ///
    /// Example: radialog bundle show /bundles/radialog-v1
    Show {
        /// The bundle's folder
        dir: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum GeometryArg {
    Tiny,
    Published,
}

pub(crate) fn run(args: BundleArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        BundleCommand::Random { dir, geometry, seed } => {
            let random = match geometry {
                GeometryArg::Tiny => RandomBundle::tiny(seed),
                GeometryArg::Published => RandomBundle::published(seed),
            };
            let manifest = random.write(&dir)?;
            println!("wrote bundle '{}' ({}) to {}", manifest.name, manifest.hash().short(), dir.display());
        }
        BundleCommand::Verify { dir } => {
            let bundle = Bundle::open(&dir)?;
            bundle.verify()?;
            println!("bundle '{}' is whole: {} files verified", bundle.manifest().name, bundle.manifest().files.len());
        }
        BundleCommand::Show { dir } => print_summary(&Bundle::open(&dir)?.summary()),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_summary(bundle: &Summary) {
    println!(
        "bundle '{}' version {} ({}) in {}",
        bundle.name,
        bundle.version,
        bundle.hash.short(),
        bundle.dir.display()
    );
    println!("  licence: {}", bundle.license);
    if bundle.random_weights {
        println!("  random weights: findings and text mean nothing");
    }
    println!("  {:<10} {:>8} {:>14} {:>10}  hash", "component", "tensors", "parameters", "MiB");
    for part in &bundle.components {
        let mib = part.bytes as f64 / f64::from(1 << 20);
        println!(
            "  {:<10} {:>8} {:>14} {mib:>10.1}  {}",
            part.stage.name(),
            part.tensors,
            part.parameters,
            part.hash.short()
        );
    }
}
