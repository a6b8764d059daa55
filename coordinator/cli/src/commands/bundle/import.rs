//! `radialog bundle import`: published weights to a bundle.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use radialog_models::bundle::System;
use radialog_models::bundle::import::{
    BaseType, ComponentReport, Import, ImportOptions, ImportPart, ImportParts, ImportProgress,
    ImportStep, Imported, PartSelection, find_parts,
};
use radialog_models::vision::projector_seed::TRAINING_SEED;
use radialog_schemas::{AdapterName, Stage};

use super::bar::{Bar, MIB};
use crate::args::SystemArg;
use crate::bundle_source;
use crate::exit::UsageError;

/// The terms that a bundle has unless others are named.
const LICENSE: &str = "The terms of the imported weights apply: those of RaDialog, of its base language model and of CheXbert.";

/// Make a bundle of published weights: RaDialog v1 or v2, CheXbert, a LLaMA-family model
///
/// Finds the parts below --from by their names, or takes those that flags name; each is optional. Files of torch are read and
/// never executed. An import that was interrupted keeps the files of the bundle that are whole. Example: radialog bundle import /bundles/radialog-v1
/// --from ~/RaDialog --base ~/vicuna-7b-v1.3 --dry-run
#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Folder of the bundle to write
    #[arg(value_parser = bundle_source::new_bundle())]
    out: PathBuf,
    /// Folder that has the parts: the tree of v1's README, or v2's model folder with its base
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Take only what is of this system, where --from has v1 and v2 together
    #[arg(long, value_name = "SYSTEM", requires = "from")]
    system: Option<SystemArg>,
    /// Leave out what --from has of these parts: names of the flags below, e.g. --without adapter,prompts
    #[arg(long, value_name = "PART,...", value_delimiter = ',', requires = "from", value_parser = part())]
    without: Vec<ImportPart>,
    /// BioViL-T, biovil_t_image_model_proj_size_128.pt
    #[arg(long, value_name = "FILE")]
    biovil: Option<PathBuf>,
    /// Alignment module of v1, checkpoint_4.pth
    #[arg(long, value_name = "FILE")]
    alignment: Option<PathBuf>,
    /// Findings classifier, ChexpertClassifier*.ckpt
    #[arg(long, value_name = "FILE")]
    findings: Option<PathBuf>,
    /// CheXbert, chexbert.pth
    #[arg(long, value_name = "FILE")]
    chexbert: Option<PathBuf>,
    /// Base language model: a folder with config.json and weights, or one GGUF file
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Folder of an adapter and the name that it gets; several may be given, those named rg and ins become v1's
    #[arg(long, value_name = "NAME=DIR", value_parser = adapter)]
    adapter: Vec<(AdapterName, PathBuf)>,
    /// Other trained weights of v2, non_lora_trainables.bin, or the folder that has them
    #[arg(long, value_name = "FILE")]
    non_lora: Option<PathBuf>,
    /// Tokenizer of the language model, tokenizer.model or tokenizer.json; the base's own unless given
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Vocabulary of bert-base-uncased, vocab.txt or tokenizer.json, which CheXbert reads by
    #[arg(long, value_name = "FILE")]
    bert_vocab: Option<PathBuf>,
    /// Published prompts, vicuna_prompts.json; the same prompts are built in
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Say what would be used and left out, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Name of the bundle; that of its folder unless given
    #[arg(long)]
    name: Option<String>,
    /// Version of the weights
    #[arg(long, default_value = "1")]
    version: String,
    /// Terms under which the weights may be used
    #[arg(long, default_value = LICENSE)]
    license: String,
    /// Type that the base language model is stored in; that of its files unless given
    #[arg(long)]
    dtype: Option<DtypeArg>,
    /// Fold this adapter into the base, for which no other adapter can be loaded then
    #[arg(long, value_name = "NAME")]
    merge: Option<AdapterName>,
    /// Seed of v1's alignment projector where no file has it: 42 as in its training, 16 as in its demo
    #[arg(long, default_value_t = TRAINING_SEED)]
    projector_seed: u32,
}

impl ImportArgs {
    /// All parts below a folder, with what is usual otherwise.
    pub(super) fn of_folder(out: PathBuf, from: PathBuf, name: String) -> Self {
        Self {
            out,
            from: Some(from),
            name: Some(name),
            system: None,
            without: Vec::new(),
            biovil: None,
            alignment: None,
            findings: None,
            chexbert: None,
            base: None,
            adapter: Vec::new(),
            non_lora: None,
            tokenizer: None,
            bert_vocab: None,
            prompts: None,
            dry_run: false,
            version: "1".into(),
            license: LICENSE.into(),
            dtype: None,
            merge: None,
            projector_seed: TRAINING_SEED,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    F16,
    Bf16,
    F32,
}

/// A part by its name.
fn part() -> impl TypedValueParser<Value = ImportPart> {
    PossibleValuesParser::new(ImportPart::ALL.map(ImportPart::name)).try_map(|name| {
        let mut parts = ImportPart::ALL.into_iter();
        parts.find(|part| part.name() == name).ok_or("no such part")
    })
}

/// What of a folder is taken. What is named and left out, or is of the other system, is refused.
fn selection(
    system: Option<SystemArg>,
    without: Vec<ImportPart>,
    given: &ImportParts,
) -> Result<PartSelection, UsageError> {
    let named = |part: &ImportPart| match part {
        ImportPart::Biovil => given.biovil.is_some(),
        ImportPart::Alignment => given.alignment.is_some(),
        ImportPart::Findings => given.findings.is_some(),
        ImportPart::Chexbert => given.chexbert.is_some(),
        ImportPart::Base => given.base.is_some(),
        // Those that are named are taken, and no others.
        ImportPart::Adapter => false,
        ImportPart::NonLora => given.non_lora.is_some(),
        ImportPart::Tokenizer => given.tokenizer.is_some(),
        ImportPart::BertVocab => given.bert_vocab.is_some(),
        ImportPart::Prompts => given.prompts.is_some(),
    };
    if let Some(part) = without.iter().find(|part| named(part)) {
        let name = part.name();
        return Err(UsageError(format!(
            "--{name} and --without {name} contradict each other: leave one of them out"
        )));
    }
    let system = system.map(SystemArg::system);
    let other = match system {
        Some(System::V1) => Some(("v1", "v2", ImportPart::NonLora)),
        Some(System::V2) => Some(("v2", "v1", ImportPart::Alignment)),
        None => None,
    };
    if let Some((system, other, part)) = other.filter(|(_, _, part)| named(part)) {
        return Err(UsageError(format!(
            "--{} is a part of {other}, and --system {system} leaves {other} out: leave one of them out",
            part.name()
        )));
    }
    Ok(PartSelection {
        system,
        without: without.into_iter().collect(),
    })
}

fn adapter(text: &str) -> Result<(AdapterName, PathBuf), String> {
    let (name, dir) = text
        .split_once('=')
        .ok_or("give NAME=DIR, e.g. rg=checkpoints/vicuna-7b-img-report/checkpoint-11200")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name, dir.into()))
}

pub(crate) fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let given = ImportParts {
        biovil: args.biovil,
        alignment: args.alignment,
        findings: args.findings,
        chexbert: args.chexbert,
        base: args.base,
        adapters: args.adapter,
        non_lora: args.non_lora,
        tokenizer: args.tokenizer,
        bert_vocab: args.bert_vocab,
        prompts: args.prompts,
    };
    if args.from.is_none() && given == ImportParts::default() {
        let hint = "name a folder with --from, or parts such as --biovil, --alignment, --findings, --chexbert, --base";
        return Err(UsageError(hint.into()).into());
    }
    let selection = selection(args.system, args.without, &given)?;
    let (parts, notes) = match &args.from {
        Some(dir) => find_parts(dir, given, &selection)?,
        None => (given, Vec::new()),
    };
    let name = match &args.name {
        Some(name) if name.trim().is_empty() => {
            return Err(UsageError("--name is empty: give the bundle a name".into()).into());
        }
        Some(name) => name.clone(),
        None => folder_name(&args.out)?,
    };
    let options = ImportOptions {
        name,
        version: args.version,
        license: args.license,
        dtype: args.dtype.map(|dtype| match dtype {
            DtypeArg::F16 => BaseType::F16,
            DtypeArg::Bf16 => BaseType::Bf16,
            DtypeArg::F32 => BaseType::F32,
        }),
        merge: args.merge,
        projector_seed: args.projector_seed,
    };
    Import::check_place(&args.out)?;
    let import = Import::plan(&parts, options).inspect_err(|_| {
        notes.iter().for_each(|note| errln!("{note}"));
    })?;
    import.reports().iter().for_each(print_report);
    notes.iter().for_each(|note| outln!("{note}"));
    if args.dry_run {
        outln!(
            "would write {:.1} MiB to {}",
            import.bytes() as f64 / MIB,
            args.out.display()
        );
        let space = import.space(&args.out);
        match space.clone().check() {
            Ok(_) => outln!("{space}"),
            Err(error) => outln!("the import would be refused: {error}"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut bar = Bar::new();
    let mut show = |progress: ImportProgress<'_>| {
        let step = match progress.step {
            ImportStep::Hash => "hashing",
            ImportStep::Write => "writing",
        };
        let message = format!("{step} {}", progress.file);
        bar.show(&message, progress.done, progress.total);
    };
    let Imported { manifest, changed } = import.write(&args.out, &mut show)?;
    bar.finish();
    for file in changed {
        outln!(
            "'{}' has changed since the import that was interrupted: what is made of it was written again",
            file.display()
        );
    }
    let bytes: u64 = manifest.files.values().map(|file| file.size).sum();
    outln!(
        "wrote bundle '{}' ({}, {:.1} MiB) to {}",
        manifest.name,
        manifest.hash().short(),
        bytes as f64 / MIB,
        args.out.display()
    );
    say_what_is_missing(&import);
    Ok(ExitCode::SUCCESS)
}

/// Says what the bundle has no part for, and which flags add it: commands that need it would say so much later.
fn say_what_is_missing(import: &Import) {
    let stages = [
        (
            Stage::Embedding,
            "reads no images (--biovil with --alignment or --non-lora)",
        ),
        (Stage::Findings, "finds no findings (--findings)"),
        (
            Stage::Language,
            "writes no reports and holds no dialogs (--base)",
        ),
        (
            Stage::Scoring,
            "labels no reports (--chexbert with --bert-vocab)",
        ),
    ];
    let missing: Vec<&str> = stages
        .into_iter()
        .filter(|(stage, _)| import.stages().all(|has| has != *stage))
        .map(|(_, words)| words)
        .collect();
    if !missing.is_empty() {
        outln!("the bundle {}", missing.join("; it "));
    }
}

fn folder_name(out: &Path) -> anyhow::Result<String> {
    let name = out.file_name().map(OsStr::to_string_lossy);
    let name = name.ok_or_else(|| UsageError(format!("'{}' names no folder", out.display())))?;
    Ok(name.into_owned())
}

fn print_report(report: &ComponentReport) {
    outln!("{}: {}", report.stage.name(), report.geometry);
    for (file, what) in &report.used {
        outln!("  used      {}: {what}", file.display());
    }
    for part in &report.left_out {
        outln!(
            "  left out  {}: {} ({})",
            part.file.display(),
            part.what,
            part.why
        );
    }
    for note in &report.notes {
        outln!("  note      {note}");
    }
}
