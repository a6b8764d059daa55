//! `radialog evaluate run`: clinical scores of a finished run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use radialog_coordinator::run::output::RESULTS_FILE;
use radialog_models::durable;
use radialog_schemas::StudyRecord;
use radialog_training::LabelCounts;
use radialog_training::evaluation::clinical::{Rates, UncertainAs};

/// The file that the scores are written to.
const METRICS_FILE: &str = "metrics.json";

/// Compare a run's reports with the references: CheXbert macro F1, precision, recall, accuracy
///
/// Needs a run over an archive with references (a CSV manifest with a reference column). Writes metrics.json beside the
/// results.
///
/// Every score is between 0 and 1, and higher is better. Macro is the mean of classes, micro counts all cells together; over the
/// 14 findings, and over the five of CheXpert's competition (atelectasis, cardiomegaly, consolidation, edema, pleural effusion).
///
/// Examples:
///
/// radialog evaluate run results
///
/// radialog evaluate run results --uncertain positive
#[derive(Args)]
pub(super) struct RunArgs {
    /// Output folder of `radialog batch`
    out: PathBuf,
    /// What an uncertain label counts as, in references and reports. The paper has it as negative
    #[arg(long, value_enum, default_value_t = Uncertain::Negative)]
    uncertain: Uncertain,
}

#[derive(Clone, Copy, ValueEnum)]
enum Uncertain {
    Negative,
    Positive,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let file = args.out.join(RESULTS_FILE);
    let shown = file.display();
    let lines = BufReader::new(
        File::open(&file)
            .with_context(|| format!("cannot open {shown}: give the folder that was --out"))?,
    );
    let mut counts = LabelCounts::default();
    let mut without = 0_u64;
    let uncertain = match args.uncertain {
        Uncertain::Negative => UncertainAs::Negative,
        Uncertain::Positive => UncertainAs::Positive,
    };
    for (number, line) in lines.lines().enumerate() {
        let record: StudyRecord = serde_json::from_str(&line?)
            .with_context(|| format!("{shown} line {}: not a study record", number + 1))?;
        if !counts.add_record(&record, uncertain) {
            without += 1;
        }
    }
    let scores = counts.scores();
    if scores.reports == 0 {
        bail!(
            "none of the {without} studies has a reference to compare with: use a CSV manifest with a reference column"
        );
    }
    outln!(
        "{} reports with a reference, {without} studies without",
        scores.reports
    );
    outln!("  macro F1         {:.4}", scores.macro_f1);
    outln!("  macro precision  {:.4}", scores.macro_precision);
    outln!("  macro recall     {:.4}", scores.macro_recall);
    outln!("  sample F1        {:.4}", scores.sample_f1);
    outln!("  accuracy         {:.4}", scores.accuracy);
    outln!("  higher is better; precision, recall, F1:");
    print("micro", &scores.micro);
    print("macro of five findings", &scores.five_macro);
    print("micro of five findings", &scores.five_micro);
    for (finding, rates) in &scores.labels {
        print(finding.name(), rates);
    }
    let metrics = args.out.join(METRICS_FILE);
    let text = serde_json::to_string_pretty(&scores)? + "\n";
    durable::replace(&metrics, text.as_bytes())
        .with_context(|| format!("cannot write {}", metrics.display()))?;
    outln!("written to {}", metrics.display());
    Ok(ExitCode::SUCCESS)
}

fn print(name: &str, rates: &Rates) {
    let Rates {
        precision,
        recall,
        f1,
    } = rates;
    outln!("  {name:<28} {precision:.4} {recall:.4} {f1:.4}");
}
