//! `radialog evaluate gate`: how many frontal chest X-rays the input gate warns about, and how many other pictures it lets pass.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use radialog_models::input_gate::InputGate;
use radialog_training::data::gate_images::GateSides;
use radialog_training::data::gate_pictures::GateImages;
use radialog_training::evaluation::gate::{self, GroupCounts};
use radialog_training::recipe::{GateRecipe, LoadedRecipe};

use crate::exit::{input_at_fault, usage};
use crate::named_path::require;

/// How often the input gate is right, by kind of picture
///
/// Pictures are the recipe's images of a side as they are, its frontal X-rays turned, inverted, cut
/// into tiles and in part, and drawings. Of frontal X-rays each warning is a false one.
///
/// Example, where OUT is the folder of workers/training/recipes/gate/train.sh:
///   radialog evaluate gate OUT/gate.toml --weights OUT/gate/last/weights.safetensors
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct GateArgs {
    /// The recipe of `radialog train gate`, whose tables name the images
    recipe: PathBuf,
    /// Weights of a training; without it, those of this program
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The side that is measured
    #[arg(long, default_value = "test")]
    split: Side,
    /// Name the pictures on which the gate is wrong
    #[arg(long)]
    names: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Side {
    Train,
    Validate,
    Test,
}

pub(crate) fn run(args: &GateArgs) -> anyhow::Result<ExitCode> {
    let LoadedRecipe { recipe, .. } = GateRecipe::read(&args.recipe).map_err(usage)?;
    let read;
    let gate = match &args.weights {
        None => InputGate::shipped()?,
        Some(path) => {
            read = weights(path)?;
            &read
        }
    };
    let side = match args.split {
        Side::Train => "train",
        Side::Validate => "validate",
        Side::Test => "test",
    };
    let sides = GateSides::read(&recipe.tables, &[side]).map_err(input_at_fault)?;
    for note in &sides.notes {
        errln!("{note}");
    }
    let images = match args.split {
        Side::Train => sides.train,
        Side::Validate => sides.validate,
        Side::Test => sides.test,
    };
    let pool = GateImages::of(images, side).map_err(input_at_fault)?;
    let pictures = pool.measured(recipe.training.seed);
    let groups = gate::counts(gate, &pictures)?;
    outln!(
        "{:<34} {:>8} {:>8} {:>8}  kind named right",
        "",
        "pictures",
        "warned",
        "share"
    );
    for are_frontal in [true, false] {
        let mut all = GroupCounts::default();
        for (name, group) in groups
            .iter()
            .filter(|(_, of)| of.are_frontal == are_frontal)
        {
            line(name, group);
            all.pictures += group.pictures;
            all.warned += group.warned;
            all.named_right += group.named_right;
            if args.names {
                for name in &group.wrong {
                    outln!("    {name}");
                }
            }
        }
        line(
            if are_frontal {
                "all frontal"
            } else {
                "all others"
            },
            &all,
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn line(name: &str, group: &GroupCounts) {
    let share = |count: usize| 100.0 * count as f64 / group.pictures.max(1) as f64;
    outln!(
        "{name:<34} {:>8} {:>8} {:>6.1} %  {:>6.1} %",
        group.pictures,
        group.warned,
        share(group.warned),
        share(group.named_right)
    );
}

fn weights(path: &Path) -> anyhow::Result<InputGate> {
    let shown = path.display();
    require(
        path,
        "--weights is the weights.safetensors of a training of the gate",
    )?;
    let content = std::fs::read(path).with_context(|| format!("cannot read '{shown}'"))?;
    let gate = InputGate::from_bytes(&content);
    gate.with_context(|| format!("'{shown}' has no weights of the input gate"))
        .map_err(usage)
}
