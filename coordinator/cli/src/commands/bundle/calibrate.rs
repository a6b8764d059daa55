//! `radialog bundle calibrate`: a bundle whose classifier's probabilities are right as often as they say.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use radialog_files::durable;
use radialog_models::bundle::{BundleAssembly, read_manifest};
use radialog_models::device;
use radialog_models::findings::ThresholdRule;
use radialog_schemas::counted;
use radialog_training::evaluation::quality::FittedCalibration;
use radialog_training::evaluation::report_files::{ReliabilityPlot, reliability_page};
use radialog_training::recipe::ImageTable;

use crate::bundle_source;
use crate::commands::evaluate::{progress_bar, show};
use crate::exit::{UsageError, input_at_fault};
use crate::named_path;

/// Write a bundle whose probabilities of findings are right as often as they say
///
/// On labelled images of a split that the classifier did not learn from, each finding gets Platt's sigmoid and a threshold by the rule
/// of --thresholds, where there are enough images with and without it; rarer ones have the slope and the threshold of all findings
/// together and an intercept of their own. Both are stored in the bundle and used for the prompt, records, page and chat. Weights stay
/// as they are. How often findings are there by stated probability is drawn in OUT/reliability.html.
///
/// Example: radialog bundle calibrate demo /bundles/demo-calibrated --images nih/labels.csv nih/images
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Folder of the bundle to read, or demo
    source: PathBuf,
    /// Folder of the bundle to write
    #[arg(value_parser = bundle_source::new_bundle())]
    out: PathBuf,
    /// Table of labelled images (image, split, the 14 findings), and their folder; repeatable
    #[arg(long, num_args = 2, value_names = ["TABLE", "FOLDER"], required = true)]
    images: Vec<PathBuf>,
    /// The split to fit on: one that the classifier has not learned from
    #[arg(long, default_value = "validate")]
    split: String,
    /// When a finding counts as present: over the threshold of the largest F1, or over that which calls as many images as have it; as
    /// the source's own calibration unless given, and f1 where it has none
    #[arg(long, value_enum)]
    thresholds: Option<Thresholds>,
    /// Name of the new bundle; that of the source and -calibrated unless given
    #[arg(long)]
    name: Option<String>,
    /// Where the classifier computes: cpu, or cuda:0 in a build with --features cuda
    #[arg(long, env = "RADIALOG_DEVICE", default_value = "cpu")]
    device: String,
}

/// How thresholds are found.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Thresholds {
    F1,
    AsMany,
}

impl From<Thresholds> for ThresholdRule {
    fn from(thresholds: Thresholds) -> Self {
        match thresholds {
            Thresholds::F1 => Self::LargestF1,
            Thresholds::AsMany => Self::AsMany,
        }
    }
}

pub(crate) fn run(args: &CalibrateArgs) -> anyhow::Result<ExitCode> {
    let source = bundle_source::named(&args.source)?;
    for path in &args.images {
        named_path::require(path, "--images names a table and a folder of images")?;
    }
    let bundle = super::open(&source)?;
    let device = device::from_name(&args.device)?;
    let table = |pair: &[PathBuf]| ImageTable {
        labels: pair[0].clone(),
        images: pair[1].clone(),
        ..ImageTable::default()
    };
    let tables: Vec<ImageTable> = args.images.chunks_exact(2).map(table).collect();
    let split = radialog_schemas::table::split_name(&args.split);
    let bar = progress_bar()?;
    let progress = |what: &str, done: u64, total: u64| show(&bar, what, done, total);
    let fitted = FittedCalibration::fit(
        &bundle,
        &tables,
        split,
        args.thresholds.map(ThresholdRule::from),
        &device,
        &progress,
    );
    bar.finish_and_clear();
    let Some(fitted) = fitted.map_err(input_at_fault)? else {
        let reason = format!(
            "the images of the split '{split}' are too few to fit anything on, or their findings have nothing to do with what the \
             classifier says: no bundle was written"
        );
        return Err(UsageError(reason).into());
    };
    let manifest = read_manifest(&source)?;
    let stages = manifest.components.keys();
    let written = BundleAssembly {
        name: match &args.name {
            Some(name) => name.clone(),
            // One that is calibrated is calibrated anew.
            None if manifest.name.ends_with(CALIBRATED) => manifest.name.clone(),
            None => format!("{}{CALIBRATED}", manifest.name),
        },
        version: manifest.version.clone(),
        license: None,
        half: false,
        parts: stages.map(|stage| (*stage, source.clone())).collect(),
        calibration: Some(fitted.calibration.clone()),
    }
    .write(&args.out)?;
    let page = args.out.join(RELIABILITY_FILE);
    durable::replace(&page, reliability(&fitted, split).as_bytes())
        .with_context(|| format!("cannot write '{}'", page.display()))?;
    outln!("{}", fitted.words());
    if let Some(caution) = fitted.caution() {
        outln!("{caution}");
    }
    for (finding, of) in &fitted.calibration.findings {
        outln!(
            "  {:26} slope {:6.3}  intercept {:6.3}  present over {:.3}",
            finding.name(),
            of.slope,
            of.intercept,
            of.threshold
        );
    }
    outln!("{}", fitted.calibration.rule);
    outln!(
        "wrote bundle '{}' ({}) to {}",
        written.name,
        written.hash().short(),
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// What the name of a calibrated bundle ends with.
const CALIBRATED: &str = "-calibrated";
/// The file with the plots.
pub(crate) const RELIABILITY_FILE: &str = "reliability.html";

/// The plots of a calibration on the images that it was fitted on.
pub(crate) fn reliability(fitted: &FittedCalibration, split: &str) -> String {
    let plot = |when: &str, bins, score: f64| ReliabilityPlot {
        title: format!(
            "{when} calibration, {} of the split '{split}'",
            counted(fitted.images, "image", "images")
        ),
        bins,
        note: format!(
            "Brier score over all answers {score:.4}, of a constant {:.4}; lower is better. These are the images that it was fitted on. \
             (Of an evaluation it is the mean of the findings', and another number.)",
            fitted.constant
        ),
    };
    let plots = [
        plot("Before", &fitted.reliability_before, fitted.before),
        plot("After", &fitted.reliability_after, fitted.after),
    ];
    reliability_page("Reliability of the findings", &plots)
}
