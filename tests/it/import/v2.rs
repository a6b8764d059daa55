//! v2's model folders: the bundle's networks against what the original's say.

use std::path::Path;

use anyhow::{Context, Result};
use radialog_models::bundle::components::{EmbeddingComponent, LanguageComponent};
use radialog_models::bundle::import::{ImportParts, PartSelection, find_parts};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_models::vision::VisionConfig;
use radialog_schemas::Stage;
use radialog_tests::golden::Case;

use super::{import, options, vocabulary};
use crate::parity::v2::folders::{self, ModelFolder};

/// The tokenizer of the cases, from a case's folder.
const TOKENIZER: &str = "../../golden/tokenizers/llama/tokenizer.model";

/// The stages whose networks the cases record.
const STAGES: [Stage; 2] = [Stage::Embedding, Stage::Language];

/// The folder as it was published, found by its files.
pub(super) fn model_folder(case: &Case) -> Result<Vec<String>> {
    let given = ImportParts {
        tokenizer: Some(case.dir().join(TOKENIZER)),
        ..ImportParts::default()
    };
    let (parts, notes) = find_parts(case.dir(), given, &PartSelection::default())?;
    anyhow::ensure!(notes.is_empty(), "{notes:?}");
    let (_dir, bundle) = import(&parts, options())?;
    let (folder, tokenizer) = folder(case, &bundle)?;
    folders::check_folder(case, &folder, &tokenizer)?;
    Ok(vec!["base and model".into()])
}

/// Other layouts, each beside BioViL-T's own file.
pub(super) fn file_layouts(case: &Case) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let tokenizer = vocabulary(dir.path(), case.field("/config/vocab_size")?)?;
    folders::check_variants(case, &|variant| {
        let model = case.dir().join(format!("model_{variant}"));
        let parts = ImportParts {
            biovil: Some(case.dir().join("biovil_t_image_model.pt")),
            base: Some(case.dir().join("base_bin")),
            adapters: vec![("lora".parse()?, model.clone())],
            non_lora: Some(model),
            tokenizer: Some(tokenizer.clone()),
            ..ImportParts::default()
        };
        let (_dir, bundle) = import(&parts, options())?;
        Ok(folder(case, &bundle)?.0)
    })?;
    Ok(vec!["model_a".into(), "model_b".into()])
}

/// What an imported bundle holds, and its tokenizer.
fn folder(case: &Case, bundle: &Path) -> Result<(ModelFolder, LlamaTokenizer)> {
    let opened = Bundle::open_with(bundle, &STAGES, &HashCache::user())?;
    let embedding: EmbeddingComponent = opened.config(Stage::Embedding)?;
    let language: LanguageComponent = opened.config(Stage::Language)?;
    let tower: VisionConfig = embedding.vision;
    anyhow::ensure!(tower.vit_dim == case.field::<usize>("/config/tower/vit_dim")?);
    let tensors = |name: &str| folders::tensors(&bundle.join(name));
    let encoder = tensors("embedding.safetensors")?.into_iter();
    let encoder = encoder.map(|(name, tensor)| {
        let inner = name.strip_prefix("visual_encoder.");
        (inner.unwrap_or(&name).to_owned(), tensor)
    });
    let folder = ModelFolder {
        base: tensors("language.safetensors")?,
        adapter: tensors("adapter.safetensors")?,
        lora: language.lora.clone().context("no adapter")?,
        tower: encoder.collect(),
    };
    let path = bundle.join("language.tokenizer.json");
    let tokenizer = LlamaTokenizer::from_file(&path)?;
    let tokens = language.llama.num_image_tokens;
    Ok((
        folder,
        tokenizer.with_rules(language.tokenizer_rules(), tokens),
    ))
}
