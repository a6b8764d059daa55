//! Checkpoints in several files, as Hugging Face shares them: an index says which file has which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::file::open_file;
use super::torch::LeftOut;
use super::{Checkpoint, CheckpointError, StoredTensor};

/// Larger indices than any model has are not read.
const LONGEST_INDEX: u64 = 100_000_000;

/// Names that are listed in a message.
const SHOWN: usize = 5;

/// The tensors of all shards of an index.
#[derive(Debug)]
pub struct ShardedCheckpoint {
    files: Vec<PathBuf>,
    tensors: Vec<StoredTensor>,
    left_out: Vec<LeftOut>,
    section: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ShardedCheckpoint {
    /// Reads an index, e.g. `pytorch_model.bin.index.json`, and which tensors its shards have. For `sections` see [`open_file`].
    ///
    /// # Errors
    /// An index that is none, names no file or one outside of its folder; a shard that is missing, cut or damaged; a tensor
    /// that is not in the file that the index names; a shard beside them that the index does not name.
    pub fn open(index: &Path, sections: &[&str]) -> Result<Self, CheckpointError> {
        let dir = index.parent().unwrap_or(Path::new("."));
        let map = read_index(index)?;
        let content = |reason: String| CheckpointError::content(index)(reason);
        let names: BTreeSet<&str> = map.values().map(String::as_str).collect();
        if names.is_empty() {
            return Err(content("it names no tensor".into()));
        }
        for name in &names {
            let mut parts = Path::new(name).components();
            let plain = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            );
            if !plain {
                let reason = format!("it names '{name}', which is no file of its folder");
                return Err(content(reason));
            }
        }
        let missing: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !dir.join(name).is_file())
            .collect();
        if !missing.is_empty() {
            let reason = format!(
                "of its {} shards {} are missing: {}; download them into the same folder",
                names.len(),
                missing.len(),
                missing.join(", ")
            );
            return Err(content(reason));
        }
        if let Some(extra) = extra_shard(dir, &names)? {
            let reason = format!(
                "'{extra}' beside it is a shard that it does not name: the folder has files of two downloads; remove those \
                 of the other one"
            );
            return Err(content(reason));
        }

        let mut found: BTreeMap<String, StoredTensor> = BTreeMap::new();
        let (mut left_out, mut section) = (Vec::new(), None);
        let files: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
        for file in &files {
            let shard = open_file(file, sections)?;
            section = section.or(shard.section);
            left_out.extend(shard.left_out);
            for tensor in shard.checkpoint.tensors() {
                if let Some(other) = found.insert(tensor.name.clone(), tensor.clone()) {
                    let reason = format!(
                        "'{}' has it, too: a shard is there twice",
                        other.file.display()
                    );
                    return Err(tensor.fault(reason));
                }
            }
        }
        let mut tensors = Vec::new();
        for (name, file) in &map {
            match found.remove(name) {
                Some(tensor) if tensor.file == dir.join(file) => tensors.push(tensor),
                Some(tensor) => {
                    let reason = format!(
                        "the index says that '{file}' has it: shards were mixed up or renamed; download them again"
                    );
                    return Err(tensor.fault(reason));
                }
                None if left_out
                    .iter()
                    .any(|entry| entry.is_tensor && entry.name == *name) => {}
                None => {
                    let reason = format!(
                        "it says that tensor '{name}' is in '{file}', which does not have it: the shard is of another \
                         download"
                    );
                    return Err(content(reason));
                }
            }
        }
        left_out.extend(found.into_keys().map(|name| LeftOut {
            name,
            what: "a tensor that the index does not name".into(),
            is_tensor: false,
        }));
        Ok(Self {
            files,
            tensors,
            left_out,
            section,
        })
    }

    /// The name under which a shard has its tensors, where one has them under one.
    pub fn section(&self) -> Option<&str> {
        self.section.as_deref()
    }

    /// The shards.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What else the shards hold.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

impl Checkpoint for ShardedCheckpoint {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let length = fs::metadata(path).map_err(CheckpointError::io("open", path))?;
    if length.len() > LONGEST_INDEX {
        let reason = format!("an index of {} bytes", length.len());
        return Err(CheckpointError::content(path)(reason));
    }
    let text = fs::read(path).map_err(CheckpointError::io("read", path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| {
        CheckpointError::content(path)(format!("it is no index of shards ({error})"))
    })?;
    Ok(index.weight_map)
}

/// A file beside the shards that is called like one of them and is not named.
fn extra_shard(dir: &Path, names: &BTreeSet<&str>) -> Result<Option<String>, CheckpointError> {
    let form = |name: &str| {
        let form: String = name
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        form.contains("-of-").then_some(form)
    };
    let forms: BTreeSet<String> = names.iter().filter_map(|name| form(name)).collect();
    let mut extra = Vec::new();
    for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
        let entry = entry.map_err(CheckpointError::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let alike = form(&name).is_some_and(|form| forms.contains(&form));
        if alike && !names.contains(name.as_str()) {
            extra.push(name);
        }
    }
    extra.sort_unstable();
    extra.truncate(SHOWN);
    Ok((!extra.is_empty()).then(|| extra.join("', '")))
}
