//! Parts in a folder, recognised by the names of their files: the tree that the README of v1 tells people to make, in either
//! of its spellings, or the model folder of v2 with its base.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::gguf::GgufBase;
use super::non_lora::NON_LORA;
use super::parts::ImportParts;
use super::selection::{
    ADAPTERS, ALIGNMENT, FINDINGS, ImportPart, PROMPTS, PartSelection, adapter_of_v1,
};
use super::{embedding, lora};
use crate::checkpoint::has_weights;

/// Folders in folders: the published trees have four.
const DEEPEST: usize = 6;

/// Entries that are looked at; a folder with more is not one of weights.
const MOST_ENTRIES: usize = 100_000;

/// How an adapter is named on the command line.
const ADAPTER: &str = "--adapter NAME=DIR";

/// What is found below a folder.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

/// Finds the parts below `dir`, and says in words what is not taken. Parts that `given` has are not looked for, nor those that
/// `selection` leaves out.
///
/// # Errors
/// A folder that cannot be listed, several files that could be the same part, or both systems' parts.
pub fn find_parts(
    dir: &Path,
    given: ImportParts,
    selection: &PartSelection,
) -> Result<(ImportParts, Vec<String>), ImportError> {
    let mut found = Found::default();
    if !dir.is_dir() {
        let reason = match dir.exists() {
            true => "it is a file: name the folder that it lies in",
            false => "there is no such folder",
        };
        return Err(ImportError::unusable(dir)(reason));
    }
    let mut walked = Walked::default();
    walk(dir, 0, &mut found, &mut walked)?;
    // A folder that is reached both ways has the name that it has without a link.
    while let Some((link, depth)) = walked.links.pop() {
        walk(&link, depth, &mut found, &mut walked)?;
    }
    let mut notes = selection.narrow(dir, &mut found.files, &mut found.folders);
    let mut parts = given;
    let mut choose =
        |part: &mut Option<PathBuf>, candidates: Vec<&PathBuf>, kind: ImportPart| match selection
            .takes(kind)
        {
            true => choose(part, candidates, kind),
            false => {
                notes.extend(candidates.into_iter().map(|path| without(path, kind)));
                Ok(())
            }
        };
    let file = |matches: &dyn Fn(&str) -> bool| -> Vec<&PathBuf> {
        let named = |path: &&PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| matches(&name))
        };
        found.files.iter().filter(named).collect()
    };
    let alignment = file(&|name| name == ALIGNMENT);
    let non_lora: Vec<&PathBuf> = found
        .folders
        .iter()
        .filter(|folder| NON_LORA.iter().any(|name| folder.join(name).is_file()))
        .collect();
    let both = (alignment.first(), non_lora.first());
    if let (Some(v1), Some(v2)) = both
        && parts.alignment.is_none()
        && parts.non_lora.is_none()
        && selection.takes(ImportPart::Alignment)
        && selection.takes(ImportPart::NonLora)
    {
        return Err(ImportError::Parts(format!(
            "'{}' is a part of v1 and '{}' of v2: take one of the systems with --system v1 or --system v2, or leave a part out \
             with --without {} or --without {}",
            v1.display(),
            v2.display(),
            ImportPart::Alignment.name(),
            ImportPart::NonLora.name()
        )));
    }
    let biovil = file(&|name| name.starts_with("biovil_t_image_model") && name.ends_with(".pt"));
    choose(&mut parts.biovil, biovil, ImportPart::Biovil)?;
    let (of_v1, of_v2) = (parts.alignment.is_some(), parts.non_lora.is_some());
    // One that was named says which system is wanted.
    let other = match (of_v1, of_v2) {
        (true, false) => Some((&non_lora, ImportPart::Alignment)),
        (false, true) => Some((&alignment, ImportPart::NonLora)),
        _ => None,
    };
    let of_other: Vec<String> = other
        .into_iter()
        .flat_map(|(paths, named)| paths.iter().map(move |path| (path, named)))
        .map(|(path, named)| {
            let (path, named) = (path.display(), named.name());
            format!(
                "'{path}' is left out: --{named} was named, which is a part of the other system"
            )
        })
        .collect();
    if !of_v2 {
        choose(&mut parts.alignment, alignment, ImportPart::Alignment)?;
    }
    if !of_v1 {
        choose(&mut parts.non_lora, non_lora, ImportPart::NonLora)?;
    }
    let findings = file(&|name| name.starts_with(FINDINGS) && name.ends_with(".ckpt"));
    choose(&mut parts.findings, findings, ImportPart::Findings)?;
    choose(
        &mut parts.chexbert,
        file(&|name| name == "chexbert.pth"),
        ImportPart::Chexbert,
    )?;
    choose(
        &mut parts.bert_vocab,
        file(&|name| name == "vocab.txt"),
        ImportPart::BertVocab,
    )?;
    choose(
        &mut parts.prompts,
        file(&|name| name == PROMPTS),
        ImportPart::Prompts,
    )?;

    let adapters: Vec<&PathBuf> = found
        .folders
        .iter()
        .filter(|folder| folder.join("adapter_config.json").is_file())
        .filter(|folder| lora::tensors_of(folder).is_some())
        .collect();
    let bases = found.folders.iter().filter(|folder| {
        folder.join("config.json").is_file() && has_weights(folder) && !adapters.contains(folder)
    });
    if parts.base.is_none() {
        let (in_one_file, damaged) = in_one_file(&found);
        let bases = bases.chain(in_one_file).collect();
        choose(&mut parts.base, bases, ImportPart::Base)?;
        notes.extend(damaged);
    }
    notes.extend(of_other);
    match (
        selection.takes(ImportPart::Adapter),
        parts.adapters.is_empty(),
    ) {
        (false, _) => {
            let left = adapters
                .iter()
                .map(|path| without(path, ImportPart::Adapter));
            notes.extend(left);
        }
        (true, true) => name_adapters(&mut parts, &adapters)?,
        (true, false) => add_adapters(&mut parts, &adapters, &mut notes)?,
    }
    if parts.tokenizer.is_none() && selection.takes(ImportPart::Tokenizer) {
        find_tokenizer(&mut parts, &found)?;
    }
    drop_incomplete(&mut parts, &mut notes);
    Ok((parts, notes))
}

/// GGUF files, whatever their names. One that the hub's cache has as a link and under the name of its content counts once.
/// Says in words what has such a name and is none.
fn in_one_file(found: &Found) -> (Vec<&PathBuf>, Vec<String>) {
    let mut notes = Vec::new();
    let mut files: Vec<&PathBuf> = Vec::new();
    let mut known = BTreeSet::new();
    let (named, others): (Vec<_>, Vec<_>) = found
        .files
        .iter()
        .partition(|path| GgufBase::is_named(path));
    for path in named.into_iter().chain(others) {
        if GgufBase::begins_so(path) {
            if known.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                files.push(path);
            }
        } else if GgufBase::is_named(path) {
            notes.push(format!(
                "'{}' is left out: it does not begin as a GGUF file does, so that it is damaged or of another kind",
                path.display()
            ));
        }
    }
    (files, notes)
}

/// What is said of a part that is not wanted.
fn without(path: &Path, kind: ImportPart) -> String {
    format!(
        "'{}' is left out: --without {}",
        path.display(),
        kind.name()
    )
}

/// Takes the one candidate there is, unless the part was given.
fn choose(
    part: &mut Option<PathBuf>,
    candidates: Vec<&PathBuf>,
    kind: ImportPart,
) -> Result<(), ImportError> {
    match (&part, candidates.as_slice()) {
        (Some(_), _) | (None, []) => Ok(()),
        (None, [one]) => {
            *part = Some((*one).clone());
            Ok(())
        }
        (None, several) => Err(ambiguous(several, &format!("--{}", kind.name()), kind)),
    }
}

fn ambiguous(several: &[&PathBuf], flag: &str, kind: ImportPart) -> ImportError {
    let names = several.iter().map(|path| format!("'{}'", path.display()));
    let names = names.collect::<Vec<_>>().join(", ");
    ImportError::Parts(format!(
        "{names} could each be the same part: name the one to take with {flag}, leave them out with --without {}, or, where v1 \
         and v2 lie together, take one of them with --system v1 or --system v2",
        kind.name()
    ))
}

/// Beside adapters of v1 that were named, the other one is taken; what else there is, is left out in words.
fn add_adapters(
    parts: &mut ImportParts,
    folders: &[&PathBuf],
    notes: &mut Vec<String>,
) -> Result<(), ImportError> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let given: BTreeSet<PathBuf> = parts
        .adapters
        .iter()
        .map(|(_, folder)| real(folder))
        .collect();
    let is_given = |name: &str| {
        parts
            .adapters
            .iter()
            .any(|(given, _)| given.as_str() == name)
    };
    let of_v1 = parts
        .adapters
        .iter()
        .all(|(name, _)| ADAPTERS.iter().any(|(known, _)| *known == name.as_str()));
    let others = folders
        .iter()
        .filter(|folder| !given.contains(&real(folder)));
    let is_taken =
        |folder: &&PathBuf| of_v1 && adapter_of_v1(folder).is_some_and(|name| !is_given(name));
    let (taken, left): (Vec<&PathBuf>, Vec<&PathBuf>) = others.copied().partition(is_taken);
    for folder in left {
        notes.push(format!(
            "'{}' is left out: other adapters were named; name it with --adapter NAME=DIR to take it, too",
            folder.display()
        ));
    }
    match taken.is_empty() {
        true => Ok(()),
        false => name_adapters(parts, &taken),
    }
}

/// v1's two adapters are known by their folders; a single one needs no name.
fn name_adapters(parts: &mut ImportParts, folders: &[&PathBuf]) -> Result<(), ImportError> {
    let named: Vec<(&str, &PathBuf)> = match folders {
        [one] => vec![(adapter_of_v1(one).unwrap_or("lora"), one)],
        several => {
            let named = several
                .iter()
                .map(|folder| Some((adapter_of_v1(folder)?, *folder)));
            named
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| ambiguous(several, ADAPTER, ImportPart::Adapter))?
        }
    };
    for (index, (name, folder)) in named.iter().enumerate() {
        if let Some((_, other)) = named[..index].iter().find(|(earlier, _)| earlier == name) {
            return Err(ambiguous(&[other, folder], ADAPTER, ImportPart::Adapter));
        }
        let adapter = name.parse().map_err(ImportError::unusable(folder))?;
        parts.adapters.push((adapter, (*folder).clone()));
    }
    Ok(())
}

/// The base's own tokenizer, or one that lies elsewhere in the tree.
fn find_tokenizer(parts: &mut ImportParts, found: &Found) -> Result<(), ImportError> {
    const NAMES: [&str; 2] = ["tokenizer.model", "tokenizer.json"];
    let of_base = parts.base.as_ref();
    let has_one = |base: &PathBuf| {
        GgufBase::is_one(base) || NAMES.iter().any(|name| base.join(name).is_file())
    };
    if of_base.is_some_and(has_one) {
        return Ok(());
    }
    let models = found.files.iter().filter(|path| path.ends_with(NAMES[0]));
    choose(
        &mut parts.tokenizer,
        models.collect(),
        ImportPart::Tokenizer,
    )
}

/// Drops parts whose other half is not there, so that what is whole can be imported.
fn drop_incomplete(parts: &mut ImportParts, notes: &mut Vec<String>) {
    if parts.base.is_none() && !parts.adapters.is_empty() {
        let folders = parts
            .adapters
            .iter()
            .map(|(_, folder)| format!("'{}'", folder.display()));
        notes.push(format!(
            "language is left out: {} add to a base language model, which is not below the folder (--base)",
            folders.collect::<Vec<_>>().join(", ")
        ));
        parts.adapters.clear();
    }
    if let (Some(chexbert), None) = (&parts.chexbert, &parts.bert_vocab) {
        notes.push(format!(
            "scoring is left out: '{}' needs the vocabulary of bert-base-uncased, whose vocab.txt is not below the folder \
             (--bert-vocab)",
            chexbert.display()
        ));
        parts.chexbert = None;
    }
    if let (Some(alignment), None, None) = (&parts.alignment, &parts.biovil, &parts.non_lora)
        && !embedding::has_encoder(alignment)
    {
        notes.push(format!(
            "embedding is left out: '{}' needs BioViL-T's biovil_t_image_model_proj_size_128.pt, which is not below the folder \
             (--biovil)",
            alignment.display()
        ));
        parts.alignment = None;
    }
    if let (Some(biovil), None, None) = (&parts.biovil, &parts.alignment, &parts.non_lora) {
        notes.push(format!(
            "embedding is left out: '{}' needs v1's checkpoint_4.pth or v2's non_lora_trainables.bin beside it",
            biovil.display()
        ));
        parts.biovil = None;
    }
}

/// What has been looked at.
#[derive(Default)]
struct Walked {
    entries: usize,
    /// Without links, so that each is looked at once.
    folders: BTreeSet<PathBuf>,
    /// Links to folders that wait, and how deep they lie.
    links: Vec<(PathBuf, usize)>,
}

/// Lists files and folders in the order of their names. What is hidden is not looked at; links to folders are put off.
fn walk(
    dir: &Path,
    depth: usize,
    found: &mut Found,
    walked: &mut Walked,
) -> Result<(), ImportError> {
    let failed = |error: std::io::Error| ImportError::unusable(dir)(error);
    if !walked.folders.insert(dir.canonicalize().map_err(failed)?) {
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
        walked.entries += 1;
        if walked.entries > MOST_ENTRIES {
            let reason =
                format!("it has more than {MOST_ENTRIES} entries: name the folder of the weights");
            return Err(ImportError::unusable(dir)(reason));
        }
    }
    entries.sort_unstable();
    found.folders.push(dir.to_owned());
    for path in entries {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_file() {
            found.files.push(path);
        } else if path.is_dir() && depth < DEEPEST {
            match path.is_symlink() {
                true => walked.links.push((path, depth + 1)),
                false => walk(&path, depth + 1, found, walked)?,
            }
        }
    }
    Ok(())
}
