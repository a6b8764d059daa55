//! Every checkpoint of v1's golden cases, in each of the layouts that lie there.
#![expect(
    clippy::print_stdout,
    reason = "the number of cases passed is this test's result"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Error, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_models::alignment::Alignment;
use radialog_models::bundle::components::{
    Connector, EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent,
};
use radialog_models::bundle::import::{BaseType, ImportOptions, ImportParts};
use radialog_models::bundle::weights::MappedWeights;
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::checkpoint::{OpenedCheckpoint, StoredType, open_file};
use radialog_models::chexbert::Chexbert;
use radialog_models::findings::FindingsClassifier;
use radialog_models::language::{LanguageModel, LlamaConfig, LoraAdapter};
use radialog_schemas::Stage;
use radialog_tests::golden::{self, Case, FormulaWeights};
use radialog_tests::torch_file::{TorchFormat, TorchTensor, TorchType, write_torch};

use super::{copy_folder, import, options, v2, vocabulary};
use crate::parity;

/// What published files are called, by the kind of case whose folder they lie in.
type Layouts = fn(&Case) -> Result<Vec<String>>;

const LAYOUTS: &[(&str, Layouts)] = &[
    ("biovil_t_image_encoder", biovil),
    ("qformer_alignment", alignment),
    ("findings_classifier", findings),
    ("chexbert_labeler", chexbert),
    ("llama_tiny_checkpoint_files", language),
    ("v2_model_folder", v2::model_folder),
    ("v2_file_layouts", v2::file_layouts),
];

#[test]
fn every_golden_checkpoint_imports_and_gives_the_recorded_outputs() -> Result<()> {
    let (mut passed, mut failures) = (0, Vec::new());
    for root in golden::roots()?.into_iter().chain(golden::v2_roots()?) {
        for case in golden::cases(&root)? {
            let Some((_, layouts)) = LAYOUTS.iter().find(|(kind, _)| *kind == case.kind()) else {
                continue;
            };
            let folder = case.dir().strip_prefix(&root).unwrap_or(case.dir());
            match layouts(&case) {
                Ok(layouts) => {
                    for layout in layouts {
                        println!("import: {}: {layout}", folder.display());
                        passed += 1;
                    }
                }
                Err(error) => failures.push(format!("{}: {error:#}", folder.display())),
            }
        }
    }
    if !failures.is_empty() {
        bail!("{} cases fail:\n{}", failures.len(), failures.join("\n"));
    }
    println!("import: {passed} cases passed");
    Ok(())
}

/// The files of a folder whose names end so.
fn files(dir: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() && path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The tensors of a component's file in a bundle, in f32.
fn weights(bundle: &Path, file: &str) -> Result<VarBuilder<'static>> {
    let weights = MappedWeights::open(&[bundle.join(file)])?;
    Ok(weights.var_builder(DType::F32, &Device::Cpu))
}

fn open(bundle: &Path, stage: Stage) -> Result<Bundle> {
    Ok(Bundle::open_with(bundle, &[stage], &HashCache::user())?)
}

/// BioViL-T's own file is no component by itself: its tensors are read as the import reads them.
fn biovil(case: &Case) -> Result<Vec<String>> {
    let mut layouts = Vec::new();
    for path in files(case.dir(), ".pt")? {
        parity::biovil::check_weights(case, checkpoint(open_file(&path, &[])?))?;
        layouts.push(name(&path));
    }
    Ok(layouts)
}

/// The Q-Former beside a BioViL-T file of the published width, without the projector, which is made again from its seed.
fn alignment(case: &Case) -> Result<Vec<String>> {
    let mut layouts = Vec::new();
    for path in files(case.dir(), ".pth")? {
        let dir = tempfile::tempdir()?;
        let biovil = dir.path().join("biovil_t_image_model_proj_size_128.pt");
        write_biovil(&case.sibling("../../02_biovil/real_proj128")?, &biovil)?;
        let parts = ImportParts {
            biovil: Some(biovil),
            alignment: Some(with_config(case, &path, dir.path())?),
            ..ImportParts::default()
        };
        let (_dir, bundle) = import(&parts, options())?;
        let component: EmbeddingComponent =
            open(&bundle, Stage::Embedding)?.config(Stage::Embedding)?;
        let Connector::QFormer { alignment, .. } = component.connector else {
            bail!("another connector");
        };
        let weights = weights(&bundle, "embedding.safetensors")?;
        let projector = weights.pp("visual_encoder.projector.model.0");
        let projector = projector.get((1408, 512, 1, 1), "weight")?.flatten_all()?;
        let first: Vec<f32> = projector.narrow(0, 0, 2)?.to_vec1()?;
        // reference/models.md (b')
        ensure!(
            first == [-0.024_817_508, 0.020_326_551],
            "projector {first:?}"
        );
        parity::qformer::check_alignment(case, &Alignment::new(&alignment, weights)?)?;
        layouts.push(name(&path));
    }
    Ok(layouts)
}

fn findings(case: &Case) -> Result<Vec<String>> {
    let mut layouts = Vec::new();
    for path in files(case.dir(), ".ckpt")? {
        let parts = ImportParts {
            findings: Some(path.clone()),
            ..ImportParts::default()
        };
        let (_dir, bundle) = import(&parts, options())?;
        let component: FindingsComponent =
            open(&bundle, Stage::Findings)?.config(Stage::Findings)?;
        let weights = weights(&bundle, "findings.safetensors")?.pp("model");
        let classifier = FindingsClassifier::new(&component.classifier, weights)?;
        parity::findings::check_classifier(case, &classifier)?;
        layouts.push(name(&path));
    }
    Ok(layouts)
}

fn chexbert(case: &Case) -> Result<Vec<String>> {
    let mut layouts = Vec::new();
    for path in files(case.dir(), ".pth")? {
        let dir = tempfile::tempdir()?;
        let vocabulary = dir.path().join("vocab.txt");
        let tokens: usize = case.field("/config/vocab_size")?;
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
        let words = (special.len()..tokens).map(|number| format!("w{number}"));
        let words: Vec<String> = special.iter().cloned().chain(words).collect();
        fs::write(&vocabulary, words.join("\n"))?;
        let parts = ImportParts {
            chexbert: Some(with_config(case, &path, dir.path())?),
            bert_vocab: Some(vocabulary),
            ..ImportParts::default()
        };
        let (_dir, bundle) = import(&parts, options())?;
        let component: ScoringComponent = open(&bundle, Stage::Scoring)?.config(Stage::Scoring)?;
        let weights = weights(&bundle, "scoring.safetensors")?.pp("module");
        let labeler = Chexbert::new(&component.chexbert, weights)?;
        parity::chexbert::check_labeler(case, &labeler)?;
        layouts.push(name(&path));
    }
    Ok(layouts)
}

/// Every base beside every adapter, alone, as one of two, and folded in.
fn language(case: &Case) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let tokens: usize = case.field("/config/vocab_size")?;
    let tokenizer = vocabulary(dir.path(), tokens)?;
    let (bases, adapters) = language_folders(case, dir.path())?;
    let mut layouts = Vec::new();
    for base in &bases {
        for adapter in &adapters {
            let layout = format!("{} with {}", name(base), name(adapter));
            let parts = ImportParts {
                base: Some(base.clone()),
                adapters: vec![("rg".parse()?, adapter.clone())],
                tokenizer: Some(tokenizer.clone()),
                ..ImportParts::default()
            };
            check_language(case, &parts, options(), &["adapter"])
                .with_context(|| layout.clone())?;
            layouts.push(layout);
        }
    }
    let (base, adapter) = (
        bases.first().context("no base")?,
        adapters.first().context("no adapter")?,
    );
    let parts = ImportParts {
        base: Some(base.clone()),
        adapters: vec![
            ("rg".parse()?, adapter.clone()),
            ("ins".parse()?, adapter.clone()),
        ],
        tokenizer: Some(tokenizer),
        ..ImportParts::default()
    };
    check_language(case, &parts, options(), &["adapter-rg", "adapter-ins"])
        .context("two adapters")?;
    layouts.push("two adapters".into());
    let merged = ImportOptions {
        dtype: Some(BaseType::F32),
        merge: Some("ins".parse()?),
        ..options()
    };
    check_language(case, &parts, merged, &[]).context("folded in")?;
    layouts.push("an adapter folded in".into());
    Ok(layouts)
}

/// The folders of bases and of adapters; a training checkpoint gets the configuration that it lacks.
fn language_folders(case: &Case, dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut bases, mut adapters) = (Vec::new(), Vec::new());
    let mut folders = Vec::new();
    for entry in fs::read_dir(case.dir())? {
        folders.push(entry?.path());
    }
    folders.sort();
    for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
        if folder.join("adapter_config.json").is_file() {
            adapters.push(folder);
        } else if folder.join("config.json").is_file() {
            bases.push(folder);
        } else if folder.join("pytorch_model.bin").is_file() {
            let copy = dir.join(name(&folder));
            copy_folder(&folder, &copy)?;
            let config = case.dir().join("adapter_safetensors/adapter_config.json");
            fs::copy(config, copy.join("adapter_config.json"))?;
            adapters.push(copy);
        }
    }
    Ok((bases, adapters))
}

fn check_language(
    case: &Case,
    parts: &ImportParts,
    options: ImportOptions,
    usages: &[&str],
) -> Result<()> {
    let (_dir, bundle) = import(parts, options)?;
    let opened = open(&bundle, Stage::Language)?;
    opened.verify()?;
    let component: LanguageComponent = opened.config(Stage::Language)?;
    let base = weights(&bundle, "language.safetensors")?;
    let adapters = usages
        .iter()
        .map(|usage| weights(&bundle, &format!("{usage}.safetensors")));
    let adapters: Vec<_> = adapters.collect::<Result<_>>()?;
    let lora = component
        .lora
        .iter()
        .chain(component.adapters.values())
        .next();
    ensure!(lora.is_some() != adapters.is_empty());
    // Without one there is the base, into which it was folded.
    let choices = adapters.len().max(1);
    for choice in 0..choices {
        let load = |config: &LlamaConfig| -> Result<Arc<LanguageModel>> {
            let adapter = lora
                .zip(adapters.get(choice))
                .map(|(lora, weights)| LoraAdapter::new(lora.clone(), weights.clone()));
            Ok(Arc::new(LanguageModel::load(
                config,
                &base,
                adapter.as_ref(),
            )?))
        };
        parity::language::check_model(case, &component.llama, "/tolerance/outputs", &load)?;
    }
    Ok(())
}

/// A copy of a file beside the number of attention heads, which no shape tells.
fn with_config(case: &Case, path: &Path, dir: &Path) -> Result<PathBuf> {
    let copy = dir.join(name(path));
    fs::copy(path, &copy)?;
    let config: serde_json::Value = case.field("/config")?;
    fs::write(dir.join("config.json"), config.to_string())?;
    Ok(copy)
}

/// BioViL-T's file with the formula weights of a case.
fn write_biovil(case: &Case, path: &Path) -> Result<()> {
    let seed = case.field("/weights/seed")?;
    let weights = FormulaWeights::open(case.dir(), "weights_manifest.json", seed)?;
    let mut names: Vec<&str> = weights.names().collect();
    names.sort_unstable();
    let values = |name: &str| -> Result<Tensor> { Ok(weights.tensor(name)?.to_dtype(DType::F32)?) };
    let tensor = |name: &&str| -> Result<TorchTensor> {
        Ok(TorchTensor {
            name: (*name).to_owned(),
            shape: values(name)?.dims().to_vec(),
            dtype: TorchType::Float,
        })
    };
    let tensors: Vec<TorchTensor> = names.iter().map(tensor).collect::<Result<_>>()?;
    write_torch(path, TorchFormat::Zip, None, &tensors, &mut |index, out| {
        let values: Vec<f32> = values(&tensors[index].name)?.flatten_all()?.to_vec1()?;
        for value in values {
            out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    })
}

/// The tensors of a published file, for a network to load.
fn checkpoint(opened: OpenedCheckpoint) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Stored(opened)), DType::F32, Device::Cpu)
}

struct Stored(OpenedCheckpoint);

impl SimpleBackend for Stored {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.get_unchecked(name, dtype, device)?.reshape(shape)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let missing = || Error::CannotFindTensor { path: name.into() };
        let tensor = self.0.checkpoint.find(name).ok_or_else(missing)?;
        let StoredType::Dense(stored) = tensor.dtype else {
            return Err(Error::msg("quantised"));
        };
        let values = self.0.checkpoint.read(tensor).map_err(Error::wrap)?;
        Tensor::from_raw_buffer(&values, stored.try_into()?, &tensor.shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.checkpoint.find(name).is_some()
    }
}
