//! `radialog bundle quantise`: a smaller bundle of the same model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use radialog_models::bundle::{BundleQuantisation, Quantised, WeightTypes, read_manifest};

use super::bar::{Bar, MIB};
use crate::bundle_source;
use crate::exit::UsageError;

/// Write a bundle whose language model takes four to eight bits a weight
///
/// On a CPU, weights stay in these types in memory: the model takes a quarter to a half of what it takes in half precision, and
/// answers are written faster, since reading the weights is what takes the time. q8_0 is hardly told from the original, q4_k_m
/// is the usual choice where memory is short; README.md has a table of both. A GPU and a training widen them. Adapters and all
/// other components are copied as they are, and every adapter works beside the new base. Answers are others than those of the
/// original bundle, so that its stored outputs are not used.
///
/// Example: radialog bundle quantise --to q4_k_m /bundles/radialog-v1 /bundles/radialog-v1-q4
#[derive(Args)]
pub(crate) struct QuantiseArgs {
    /// Folder of the bundle to read, or demo; its language model is in f32, f16 or bf16
    source: PathBuf,
    /// Folder of the bundle to write
    #[arg(value_parser = bundle_source::new_bundle())]
    out: PathBuf,
    /// Types of the weights, in llama.cpp's words; bits a weight: q8_0 8.5, q6_k 6.6, q4_k_m 4.8, q4_0 4.5
    #[arg(long, value_parser = types())]
    to: WeightTypes,
    /// Name of the new bundle; that of the source and the type unless given
    #[arg(long)]
    name: Option<String>,
}

fn types() -> impl TypedValueParser<Value = WeightTypes> {
    PossibleValuesParser::new(WeightTypes::ALL.map(WeightTypes::name)).try_map(|name| {
        let mut all = WeightTypes::ALL.into_iter();
        all.find(|types| types.name() == name).ok_or("no such type")
    })
}

pub(crate) fn run(args: QuantiseArgs) -> anyhow::Result<ExitCode> {
    let QuantiseArgs {
        source,
        out,
        to,
        name,
    } = args;
    let source = bundle_source::named(&source)?;
    let name = match name {
        Some(name) if name.trim().is_empty() => {
            return Err(UsageError("--name is empty: give the bundle a name".into()).into());
        }
        Some(name) => name,
        None => format!("{}-{}", read_manifest(&source)?.name, to.name()),
    };
    let mut bar = Bar::new();
    let quantised = BundleQuantisation { name, to }.write(&source, &out, &mut |done, total| {
        bar.show("quantising", done, total);
    });
    bar.finish();
    let Quantised { manifest, matrices } =
        quantised.with_context(|| format!("no bundle was written to {}", out.display()))?;
    let bytes: u64 = manifest.files.values().map(|file| file.size).sum();
    let matrices: Vec<String> = matrices
        .iter()
        .map(|(types, count)| format!("{count} in {types}"))
        .collect();
    outln!("matrices of the language model: {}", matrices.join(", "));
    outln!(
        "wrote bundle '{}' ({}, {:.1} MiB) to {}",
        manifest.name,
        manifest.hash().short(),
        bytes as f64 / MIB,
        out.display()
    );
    Ok(ExitCode::SUCCESS)
}
