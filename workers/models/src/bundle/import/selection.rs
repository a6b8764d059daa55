//! What of a folder is not taken: parts that were named so, or those of the other published system where both lie together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::non_lora::NON_LORA;
use crate::bundle::System;
use crate::checkpoint::has_weights;

/// Adapters of v1 by the folders that the published tree has them in.
pub(super) const ADAPTERS: [(&str, &str); 2] = [("rg", "report"), ("ins", "instruct")];

/// v1's alignment module.
pub(super) const ALIGNMENT: &str = "checkpoint_4.pth";

/// What the name of a findings classifier begins with.
pub(super) const FINDINGS: &str = "ChexpertClassifier";

/// The prompts of v1's language model.
pub(super) const PROMPTS: &str = "vicuna_prompts.json";

/// A part of a published system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImportPart {
    /// BioViL-T.
    Biovil,
    /// v1's alignment module.
    Alignment,
    /// The findings classifier.
    Findings,
    /// CheXbert.
    Chexbert,
    /// The base language model.
    Base,
    /// All adapters.
    Adapter,
    /// v2's other trained weights.
    NonLora,
    /// The tokenizer of the language model.
    Tokenizer,
    /// The vocabulary that CheXbert reads by.
    BertVocab,
    /// The prompts.
    Prompts,
}

impl ImportPart {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Biovil,
        Self::Alignment,
        Self::Findings,
        Self::Chexbert,
        Self::Base,
        Self::Adapter,
        Self::NonLora,
        Self::Tokenizer,
        Self::BertVocab,
        Self::Prompts,
    ];

    /// Its name on the command line: that of its flag.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Biovil => "biovil",
            Self::Alignment => "alignment",
            Self::Findings => "findings",
            Self::Chexbert => "chexbert",
            Self::Base => "base",
            Self::Adapter => "adapter",
            Self::NonLora => "non-lora",
            Self::Tokenizer => "tokenizer",
            Self::BertVocab => "bert-vocab",
            Self::Prompts => "prompts",
        }
    }
}

/// What is taken of a folder; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartSelection {
    /// The only system that is taken.
    pub system: Option<System>,
    /// Parts that are not.
    pub without: BTreeSet<ImportPart>,
}

impl PartSelection {
    /// Whether a part is looked for.
    pub(super) fn takes(&self, part: ImportPart) -> bool {
        !self.without.contains(&part)
    }

    /// Takes the files and folders of the other system away, and says so in words.
    pub(super) fn narrow(
        &self,
        dir: &Path,
        files: &mut Vec<PathBuf>,
        folders: &mut Vec<PathBuf>,
    ) -> Vec<String> {
        let Some(system) = self.system else {
            return Vec::new();
        };
        let models: Vec<PathBuf> = folders.iter().filter(|at| is_of_v2(at)).cloned().collect();
        // What v2's folder holds is v2's, unless everything lies in it.
        let of_v2 = |path: &Path| {
            let mut models = models.iter().filter(|model| *model != dir);
            models.any(|model| path.starts_with(model))
        };
        let has_llava = folders.iter().chain(&*files).any(|path| is_llava(path));
        let named = |path: &Path, start: &str| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(start))
        };
        let own = |start: &str| files.iter().any(|path| named(path, start) && of_v2(path));
        let (own_findings, own_prompts) = (own(FINDINGS), own(PROMPTS));
        let is_other = |path: &PathBuf| match system {
            System::V1 => models.contains(path) || of_v2(path) || is_llava(path),
            System::V2 => {
                let is_base = has_weights(path) || is_gguf(path);
                named(path, ALIGNMENT)
                    || adapter_of_v1(path).is_some()
                    || (named(path, FINDINGS) && own_findings && !of_v2(path))
                    || (named(path, PROMPTS) && !(own_prompts && of_v2(path)))
                    || (is_base && has_llava && !is_llava(path) && !is_of_v2(path))
            }
        };
        let mut notes = Vec::new();
        let name = match system {
            System::V1 => "v1",
            System::V2 => "v2",
        };
        for paths in [files, folders] {
            let all = std::mem::take(paths);
            let (others, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_other);
            *paths = kept;
            // Of a folder that is left out, what it holds is not named, too.
            let outer = others
                .iter()
                .filter(|path| !of_v2(path) || models.contains(path));
            let said = outer.filter(|path| {
                let mut starts = [ALIGNMENT, FINDINGS, PROMPTS].iter();
                holds_part(path) || is_gguf(path) || starts.any(|start| named(path, start))
            });
            notes.extend(said.map(|path| {
                let path = path.display();
                format!("'{path}' is left out: it is not of {name} (--system {name})")
            }));
        }
        notes
    }
}

/// The name of an adapter of v1, by its folder.
pub(super) fn adapter_of_v1(folder: &Path) -> Option<&'static str> {
    let path = folder.to_string_lossy().to_lowercase();
    let known = ADAPTERS
        .iter()
        .find(|(_, word)| path.contains(&format!("img-{word}")));
    known.map(|(name, _)| *name)
}

/// Whether a folder is v2's model folder.
fn is_of_v2(folder: &Path) -> bool {
    NON_LORA.iter().any(|name| folder.join(name).is_file())
}

/// Whether a folder is a part itself.
fn holds_part(folder: &Path) -> bool {
    is_of_v2(folder) || has_weights(folder) || folder.join("adapter_config.json").is_file()
}

fn is_gguf(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// Whether a base is v2's, LLaVA: by its configuration or its name.
fn is_llava(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase());
    let named = name.is_some_and(|name| name.contains("llava"));
    let config = path.join("config.json");
    if !config.is_file() {
        return named && is_gguf(path);
    }
    let text = fs::read(config).ok();
    let content: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let says_so = content.is_some_and(|content| {
        let kind = content["model_type"].as_str().unwrap_or_default();
        kind.starts_with("llava") || !content["mm_vision_tower"].is_null()
    });
    named || says_so
}
