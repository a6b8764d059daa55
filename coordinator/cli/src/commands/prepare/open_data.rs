//! `radialog prepare openi` and what goes with it: training data for users without access to MIMIC-CXR.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use radialog_schemas::table::split_name;
use radialog_schemas::{Label, counted};
use radialog_training::prepare::{
    OpenI, OpenIReports, Pairing, RemovedWords, ReportTasks, SyntheticReports, TokenizerKind,
    TokenizerTrainer, read_nih, read_radlabels, read_report_table, write_image_table,
    write_pairs_table, write_report_table,
};

use super::WordingArgs;
use crate::exit::UsageError;

#[derive(Subcommand)]
pub(super) enum OpenDataCommand {
    /// Read the reports of the Indiana University collection (Open-i): a report table with 14 labels
    ///
    /// Positive labels come from the annotators' tags. What a report denies (0) or only thinks possible (-1) is told by
    /// phrase lists of ours: weak labels, for training only. Studies that nobody tagged are left out. Prints how far tags
    /// and phrase lists agree.
    ///
    /// Example: radialog prepare openi NLMCXR_reports --out reports.csv
    Openi {
        /// Folder of the publisher's XML files, or a CSV with study_id, findings, impression, and mesh or the 14 findings
        #[arg(value_name = "FOLDER|CSV")]
        source: PathBuf,
        /// What becomes of sentences with XXXX, which stands for words that the publisher removed
        #[arg(long, value_enum, default_value_t = Removed::Mend)]
        removed_words: Removed,
        /// Label the findings section alone: a tagged finding that it does not mention stays blank. For the reports that a
        /// language model learns to write
        #[arg(long)]
        of_findings: bool,
        /// The CSV to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Read NIH ChestX-ray14: an image table with 14 labels
    ///
    /// 0 means "not named" there. Enlarged Cardiomediastinum, Fracture and Support Devices stay empty: the collection has
    /// no class for them. Without the publisher's lists the side of an image follows from the patient's number.
    ///
    /// Example: radialog prepare nih ChestX-ray14 --out images.csv
    Nih {
        /// Folder with Data_Entry_2017*.csv and images_*/images, or a labels.csv with images/ beside it
        #[arg(value_name = "FOLDER|CSV")]
        source: PathBuf,
        /// The CSV to write; its images are named as they lie below the folder (or below images/)
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Give each report an image of another patient with the same findings: WEAK pairs, for training only
    ///
    /// No public collection has images with reports in number. A pair made here says no more than that labels agree: the
    /// report does not describe the image. It is weak supervision for training and never a reference for an evaluation.
    /// Each report gets an image of the same split, uniformly among those with the most similar positive findings (on the
    /// findings that the images have labels for), and among them one of those that are used least.
    ///
    /// Example: radialog prepare pairs --reports reports.csv --images nih/labels.csv nih/images --out pairs.csv
    Pairs {
        /// Written by `radialog prepare openi`
        #[arg(long, value_name = "FILE")]
        reports: PathBuf,
        /// A table of images and the folder of its files; can be given again
        #[arg(long, num_args = 2, value_names = ["TABLE", "FOLDER"], required = true)]
        images: Vec<PathBuf>,
        /// The same seed gives the same bytes
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The CSV to write; paths of images are absolute
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Learn a tokenizer from texts
    ///
    /// The same texts give the same file. Rows of another split than train are not read where a file has a column split.
    ///
    /// Example: radialog prepare tokenizer --kind bpe --texts reports.csv:findings reports.csv:impression --vocab 2000
    /// --out tokenizer.json
    Tokenizer {
        /// bpe for the language model, wordpiece for the labeler and the alignment module
        #[arg(long, value_enum)]
        kind: Kind,
        /// CSV files, each with a column of text
        #[arg(long, value_name = "FILE:COLUMN", num_args = 1.., required = true)]
        texts: Vec<String>,
        /// Ids at most, special ones included; <IMG> comes after them
        #[arg(long, value_name = "N")]
        vocab: usize,
        /// Add the decoder's start token DEC as the last id, which the alignment module needs; wordpiece only
        #[arg(long)]
        decoder: bool,
        /// The tokenizer.json to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Read the synthetic reports of the Python package radlabels: a report table with 14 labels
    ///
    /// The labels are those of the package's program, silver, for training only: what a report doubts often stands as present.
    ///
    /// Example: radialog prepare radlabels site-packages/radlabels/samples --out radlabels.csv
    Radlabels {
        /// The package's folder samples
        #[arg(value_name = "FOLDER")]
        samples: PathBuf,
        /// The report table to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Put reports together from wordings: each finding stated, denied, doubted and of the past, with its label
    ///
    /// What a collection of real reports hardly has, a labeler learns from these. They are for training only: all of them are
    /// of the split train. Wordings are a TOML file; workers/training/recipes/demo/wordings.toml is one.
    ///
    /// Example: radialog prepare synthetic wordings.toml --reports 8000 --out synthetic.csv
    Synthetic {
        /// The TOML file of wordings
        #[arg(value_name = "WORDINGS.toml")]
        wordings: PathBuf,
        /// How many reports
        #[arg(long, value_name = "N")]
        reports: NonZeroUsize,
        /// Report tables whose sentences (train) stand between, labelled by our weak rule where their reports' labels agree
        #[arg(long, value_name = "FILE", num_args = 1..)]
        sentences: Vec<PathBuf>,
        /// A CSV and its column of sentences that are never written, since something is measured by them
        #[arg(long, value_name = "FILE:COLUMN")]
        held_out: Option<String>,
        /// The same seed gives the same bytes
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The report table to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make task files that need no language model: summaries (SU) and corrections (CO)
    ///
    /// A summary is the radiologist's own impression, where it is short and speaks for itself. A correction is sentence
    /// surgery: sentences that state a finding are taken out, or ones of other reports are put in; weak, since phrase lists
    /// of ours tell which sentence states what. `radialog prepare instruct --tasks` reads the folder.
    ///
    /// Example: radialog prepare tasks --reports pairs.csv --out tasks
    Tasks {
        /// A report table or a table of pairs
        #[arg(long, value_name = "FILE")]
        reports: PathBuf,
        /// Which split
        #[arg(long, default_value = "train")]
        split: String,
        /// Most corrections a report
        #[arg(long, default_value_t = 1)]
        corrections: usize,
        #[command(flatten)]
        wording: WordingArgs,
        /// The same seed gives the same bytes
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// The folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Removed {
    /// Delete the mark where it only described the next word, and drop other such sentences
    Mend,
    /// Drop every such sentence
    Drop,
    /// Leave the text as published
    Keep,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Kind {
    Bpe,
    Wordpiece,
}

pub(super) fn run(command: OpenDataCommand) -> anyhow::Result<ExitCode> {
    match command {
        OpenDataCommand::Openi {
            source,
            removed_words,
            of_findings,
            out,
        } => {
            let removed = match removed_words {
                Removed::Mend => RemovedWords::Mend,
                Removed::Drop => RemovedWords::Drop,
                Removed::Keep => RemovedWords::Keep,
            };
            let reports = OpenI {
                source,
                removed,
                of_findings,
            }
            .read()?;
            write_report_table(&out, &reports.rows)?;
            print_agreement(&reports);
            outln!(
                "{} written to {}",
                counted(reports.rows.len(), "report", "reports"),
                out.display()
            );
        }
        OpenDataCommand::Nih { source, out } => {
            let images = read_nih(&source)?;
            write_image_table(&out, &images.rows)?;
            outln!(
                "{} written to {}; {} are not there, {} are there and in no row, {} are in none of the lists of sides",
                counted(images.rows.len(), "image", "images"),
                out.display(),
                images.missing,
                images.unnamed,
                images.unlisted
            );
        }
        OpenDataCommand::Pairs {
            reports,
            images,
            seed,
            out,
        } => {
            let images = images
                .chunks(2)
                .map(|two| (two[0].clone(), two[1].clone()))
                .collect();
            let (pairs, sides) = Pairing { images, seed }.pair(&read_report_table(&reports)?)?;
            write_pairs_table(&out, &pairs)?;
            outln!(
                "{:<9} {:>8} {:>16} {:>11} {:>14} {:>9}",
                "split",
                "reports",
                "same findings",
                "similarity",
                "images used",
                "at most"
            );
            for (side, of) in &sides {
                let used = format!("{} of {}", of.used, of.images);
                outln!(
                    "{side:<9} {:>8} {:>16} {:>11.3} {used:>14} {:>8}x",
                    of.reports,
                    of.exact,
                    of.similarity,
                    of.most
                );
            }
            outln!(
                "{} weak pairs (for training only) written to {}",
                pairs.len(),
                out.display()
            );
        }
        OpenDataCommand::Tokenizer {
            kind,
            texts,
            vocab,
            decoder,
            out,
        } => {
            tokenizer(kind, &texts, vocab, decoder, out)?;
        }
        OpenDataCommand::Radlabels { samples, out } => {
            let rows = read_radlabels(&samples)?;
            write_report_table(&out, &rows)?;
            let count = counted(rows.len(), "report", "reports");
            outln!("{count} written to {}", out.display());
        }
        OpenDataCommand::Synthetic {
            wordings,
            reports,
            sentences,
            held_out,
            seed,
            out,
        } => {
            let rows = SyntheticReports {
                wordings,
                reports: reports.get(),
                sentences,
                held_out: held_out.as_deref().map(file_and_column).transpose()?,
                seed,
            }
            .rows()?;
            write_report_table(&out, &rows)?;
            outln!(
                "{} synthetic reports (for training only) written to {}",
                rows.len(),
                out.display()
            );
        }
        OpenDataCommand::Tasks {
            reports,
            split,
            corrections,
            wording,
            seed,
            out,
        } => {
            let mut rows = read_report_table(&reports)?;
            rows.retain(|row| row.split == split_name(&split));
            let task_prompts = wording.read()?;
            let tasks = ReportTasks {
                reports: &rows,
                task_prompts: &task_prompts,
                corrections,
                seed,
            };
            for (task, samples) in tasks.write(&out)? {
                outln!("  {:<7} {samples:>8}", task.name());
            }
            outln!("written to {}", out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tokenizer(
    kind: Kind,
    texts: &[String],
    size: usize,
    decoder: bool,
    out: PathBuf,
) -> anyhow::Result<()> {
    let kind = match kind {
        Kind::Bpe if decoder => {
            let reason = "--decoder belongs to --kind wordpiece: the language model has no [DEC]";
            return Err(UsageError(reason.to_owned()).into());
        }
        Kind::Bpe => TokenizerKind::Bpe,
        Kind::Wordpiece => TokenizerKind::WordPiece { decoder },
    };
    let texts = texts.iter().map(|text| file_and_column(text));
    let texts = texts.collect::<anyhow::Result<_>>()?;
    let ids = TokenizerTrainer { texts, size, kind }.write(&out)?;
    outln!("{ids} ids written to {}", out.display());
    Ok(())
}

fn file_and_column(text: &str) -> anyhow::Result<(PathBuf, String)> {
    let (file, column) = text
        .rsplit_once(':')
        .ok_or_else(|| UsageError(format!("'{text}' is not FILE:COLUMN")))?;
    Ok((PathBuf::from(file), column.to_owned()))
}

/// Says how far tags and weak rule agree, and what became of it.
fn print_agreement(reports: &OpenIReports) {
    outln!(
        "{:<27}|  tagged, and in the text         |  not tagged, and in the text",
        ""
    );
    outln!(
        "{:<27}| {:>6} {:>8} {:>6} {:>9} | {:>6} {:>8} {:>6} |  labels 1, 0, -1",
        "finding",
        "stated",
        "possible",
        "denied",
        "no word",
        "stated",
        "possible",
        "denied"
    );
    for (finding, counts) in &reports.agreement {
        let of = |label: Label| {
            reports
                .rows
                .iter()
                .filter(|row| row.labels[*finding as usize] == label)
                .count()
        };
        outln!(
            "{:<27}| {:>6} {:>8} {:>6} {:>9} | {:>6} {:>8} {:>6} |  {}, {}, {}",
            finding.name(),
            counts.tagged_stated,
            counts.tagged_possible,
            counts.tagged_denied,
            counts.tagged_silent,
            counts.untagged_stated,
            counts.untagged_possible,
            counts.untagged_denied,
            of(Label::Positive),
            of(Label::Negative),
            of(Label::Uncertain)
        );
    }
    outln!(
        "left out: {} that nobody tagged, {} without any text left",
        reports.untagged,
        reports.without_text
    );
}
