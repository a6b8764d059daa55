//! Parts in a folder, recognised by the names of their files: the tree that the README of v1 tells people to make, in either
//! of its spellings, or the model folder of v2 with its base.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::gguf::GgufBase;
use super::lora;
use super::parts::ImportParts;
use crate::checkpoint::has_weights;

/// Folders in folders: the published trees have four.
const DEEPEST: usize = 6;

/// Entries that are looked at; a folder with more is not one of weights.
const MOST_ENTRIES: usize = 100_000;

/// The adapters of v1 by the folders that the published tree has them in.
const ADAPTERS: [(&str, &str); 2] = [("rg", "report"), ("ins", "instruct")];

/// What is found below a folder.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

/// Finds the parts below `dir`, and says in words what is not taken. Parts that `given` has are not looked for.
///
/// # Errors
/// A folder that cannot be listed, or several files that could be the same part.
pub fn find_parts(
    dir: &Path,
    given: ImportParts,
) -> Result<(ImportParts, Vec<String>), ImportError> {
    let mut found = Found::default();
    let mut seen = 0;
    walk(dir, 0, &mut found, &mut seen)?;
    let mut notes = Vec::new();
    let mut parts = given;
    let file = |matches: &dyn Fn(&str) -> bool| -> Vec<&PathBuf> {
        let named = |path: &&PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| matches(&name))
        };
        found.files.iter().filter(named).collect()
    };
    let biovil = file(&|name| name.starts_with("biovil_t_image_model") && name.ends_with(".pt"));
    choose(&mut parts.biovil, biovil, "--biovil")?;
    choose(
        &mut parts.alignment,
        file(&|name| name == "checkpoint_4.pth"),
        "--alignment",
    )?;
    let findings = file(&|name| name.starts_with("ChexpertClassifier") && name.ends_with(".ckpt"));
    choose(&mut parts.findings, findings, "--findings")?;
    choose(
        &mut parts.chexbert,
        file(&|name| name == "chexbert.pth"),
        "--chexbert",
    )?;
    choose(
        &mut parts.bert_vocab,
        file(&|name| name == "vocab.txt"),
        "--bert-vocab",
    )?;
    choose(
        &mut parts.prompts,
        file(&|name| name == "vicuna_prompts.json"),
        "--prompts",
    )?;
    let non_lora = found.folders.iter().filter(|folder| {
        let names = [
            "non_lora_trainables_extended.bin",
            "non_lora_trainables.bin",
        ];
        names.iter().any(|name| folder.join(name).is_file())
    });
    choose(&mut parts.non_lora, non_lora.collect(), "--non-lora")?;

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
        let in_one_file = in_one_file(&found, &mut notes);
        choose(
            &mut parts.base,
            bases.chain(in_one_file).collect(),
            "--base",
        )?;
    }
    if parts.adapters.is_empty() {
        name_adapters(&mut parts, &adapters)?;
    }
    if parts.tokenizer.is_none() {
        find_tokenizer(&mut parts, &found)?;
    }
    drop_incomplete(&mut parts, &mut notes);
    Ok((parts, notes))
}

/// GGUF files, whatever their names. One that the hub's cache has as a link and under the name of its content counts once.
fn in_one_file<'a>(found: &'a Found, notes: &mut Vec<String>) -> Vec<&'a PathBuf> {
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
    files
}

/// Takes the one candidate there is, unless the part was given.
fn choose(
    part: &mut Option<PathBuf>,
    candidates: Vec<&PathBuf>,
    flag: &str,
) -> Result<(), ImportError> {
    match (&part, candidates.as_slice()) {
        (Some(_), _) | (None, []) => Ok(()),
        (None, [one]) => {
            *part = Some((*one).clone());
            Ok(())
        }
        (None, several) => Err(ambiguous(several, flag)),
    }
}

fn ambiguous(several: &[&PathBuf], flag: &str) -> ImportError {
    let names = several.iter().map(|path| format!("'{}'", path.display()));
    let names = names.collect::<Vec<_>>().join(", ");
    ImportError::Parts(format!(
        "{names} could each be the same part: name the one to take with {flag}"
    ))
}

/// v1's two adapters are known by their folders; a single one needs no name.
fn name_adapters(parts: &mut ImportParts, folders: &[&PathBuf]) -> Result<(), ImportError> {
    let name_of = |folder: &Path| {
        let path = folder.to_string_lossy().to_lowercase();
        let known = ADAPTERS
            .iter()
            .find(|(_, word)| path.contains(&format!("img-{word}")));
        known.map(|(name, _)| *name)
    };
    let named: Vec<(&str, &PathBuf)> = match folders {
        [one] => vec![(name_of(one).unwrap_or("lora"), one)],
        several => {
            let named = several
                .iter()
                .map(|folder| Some((name_of(folder)?, *folder)));
            named
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| ambiguous(several, "--adapter NAME=DIR"))?
        }
    };
    for (index, (name, folder)) in named.iter().enumerate() {
        if let Some((_, other)) = named[..index].iter().find(|(earlier, _)| earlier == name) {
            return Err(ambiguous(&[other, folder], "--adapter NAME=DIR"));
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
    choose(&mut parts.tokenizer, models.collect(), "--tokenizer")
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
    if let (Some(biovil), None, None) = (&parts.biovil, &parts.alignment, &parts.non_lora) {
        notes.push(format!(
            "embedding is left out: '{}' needs v1's checkpoint_4.pth or v2's non_lora_trainables.bin beside it",
            biovil.display()
        ));
        parts.biovil = None;
    }
}

/// Lists files and folders in the order of their names. What is hidden, and links to folders, are not followed.
fn walk(dir: &Path, depth: usize, found: &mut Found, seen: &mut usize) -> Result<(), ImportError> {
    let failed = |error: std::io::Error| ImportError::unusable(dir)(error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
        *seen += 1;
        if *seen > MOST_ENTRIES {
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
        } else if path.is_dir() && !path.is_symlink() && depth < DEEPEST {
            walk(&path, depth + 1, found, seen)?;
        }
    }
    Ok(())
}
