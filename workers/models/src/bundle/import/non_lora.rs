//! v2's weights beside its adapter: the projector and the fine-tuned image encoder, under the names of a bundle.

use super::error::ImportError;
use super::parts::ImportParts;
use super::sources::Source;
use crate::checkpoint::open_file;

/// v2's other trained weights; the first one is read where both are there, as its authors' program does.
pub(super) const NON_LORA: [&str; 2] = [
    "non_lora_trainables_extended.bin",
    "non_lora_trainables.bin",
];

/// v2's other trained weights under the names of a bundle, where the parts have them.
pub(super) fn open(parts: &ImportParts) -> Result<Option<Source>, ImportError> {
    let Some(path) = &parts.non_lora else {
        return Ok(None);
    };
    let file = match path.is_dir() {
        true => {
            let mut names = NON_LORA.iter().map(|name| path.join(name));
            names.find(|file| file.is_file()).ok_or_else(|| {
                let reason = format!("none of {} is in it", NON_LORA.join(", "));
                ImportError::unusable(path)(reason)
            })?
        }
        false => path.clone(),
    };
    let opened = open_file(&file, &[])?;
    let first = |name: &str| -> String {
        let name = name.strip_prefix("module.").unwrap_or(name);
        name.strip_prefix("base_model.").unwrap_or(name).to_owned()
    };
    let mut names = opened
        .checkpoint
        .tensors()
        .iter()
        .map(|tensor| first(&tensor.name));
    let twice = names.any(|name| name.starts_with("model.model."));
    let source = Source::new(&file, opened, |name| {
        let name = first(name);
        let name = match twice {
            true => name.strip_prefix("model.").unwrap_or(&name).to_owned(),
            false => name,
        };
        Some(match name.strip_prefix("model.vision_tower.") {
            Some(tower) => format!("visual_encoder.{tower}"),
            None => name,
        })
    })?;
    Ok(Some(source))
}
