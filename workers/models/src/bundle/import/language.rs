//! The language model: a base as Hugging Face shares it, adapters as PEFT writes them, v2's other trained weights, and the
//! tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use radialog_schemas::{AdapterName, Stage};

use super::error::ImportError;
use super::gguf::GgufBase;
use super::lora::{Adapter, WRAPPER};
use super::parts::{ImportOptions, ImportParts};
use super::planned::PlannedComponent;
use super::report::ComponentReport;
use super::sources::Source;
use super::{base, non_lora, prompts, quantized, reasons, tokenizer};
use crate::bundle::components::{Component, DefaultAdapters, LanguageComponent, WEIGHTS};
use crate::checkpoint::open_folder;
use crate::language::{ImageProjectionKind, LlamaConfig};
use crate::prompt::Prompts;

mod tensors;

/// Names of adapters that tell what they are for.
const REPORT: [&str; 2] = ["rg", "report"];
const CHAT: [&str; 3] = ["ins", "instruct", "chat"];

/// The component that the parts make, if they make one. `image_tokens` is number and width of what the embedding gives.
pub(super) fn plan(
    parts: &ImportParts,
    options: &ImportOptions,
    image_tokens: Option<(usize, usize)>,
) -> Result<Option<(PlannedComponent, ComponentReport)>, ImportError> {
    let Some(dir) = &parts.base else {
        return match parts.adapters.first() {
            None => Ok(None),
            Some((name, _)) => Err(ImportError::Parts(format!(
                "the adapter '{name}' adds to a base language model: give its folder (--base)"
            ))),
        };
    };
    let non_lora = non_lora::open(parts)?;
    let (base, llama, gguf, config) = match GgufBase::is_one(dir) {
        true => {
            let gguf = GgufBase::open(dir)?;
            (gguf.source()?, gguf.config().clone(), Some(gguf), None)
        }
        false => {
            base::check_folder(dir)?;
            let base = Source::without_prefix(dir, open_folder(dir)?, "module.")?;
            let (llama, config) = base::read_config(dir, non_lora.as_ref())?;
            (base, llama, None, Some(config))
        }
    };
    base::check_geometry(&base, &llama, config.as_deref())?;
    let adapters = parts.adapters.iter().map(|(name, dir)| {
        let adapter = Adapter::open(dir, &llama)?;
        Ok((name.clone(), adapter))
    });
    let named: Vec<(AdapterName, Adapter)> = adapters.collect::<Result<_, ImportError>>()?;
    let mut adapters: BTreeMap<AdapterName, Adapter> = BTreeMap::new();
    for (name, adapter) in named {
        if adapters.contains_key(&name) {
            let reason = format!("two adapters are called '{name}': name them differently");
            return Err(ImportError::Parts(reason));
        }
        adapters.insert(name, adapter);
    }
    let model = Model {
        base,
        gguf,
        config,
        non_lora,
        adapters,
        options,
    };
    model.plan(parts, dir, llama, image_tokens).map(Some)
}

/// All that the component is made of.
struct Model<'a> {
    base: Source,
    /// The file that the base is, where it is one.
    gguf: Option<GgufBase>,
    /// The file of its settings, where it is a folder.
    config: Option<PathBuf>,
    non_lora: Option<Source>,
    adapters: BTreeMap<AdapterName, Adapter>,
    options: &'a ImportOptions,
}

impl Model<'_> {
    fn plan(
        &self,
        parts: &ImportParts,
        dir: &Path,
        llama: LlamaConfig,
        image_tokens: Option<(usize, usize)>,
    ) -> Result<(PlannedComponent, ComponentReport), ImportError> {
        let mut report = ComponentReport::new(Stage::Language);
        let merged = self.merged(&mut report)?;
        let llama = self.with_image(llama, image_tokens)?;
        let prompts = Prompts {
            image_tokens: llama.num_image_tokens,
            ..match llama.image_projection {
                ImageProjectionKind::Mlp2xGelu => Prompts::v2(),
                ImageProjectionKind::Linear | ImageProjectionKind::None => Prompts::default(),
            }
        };
        let prompts = match &parts.prompts {
            Some(path) => prompts::read(path, prompts)?,
            None => prompts,
        };
        let tokenizer = match (&self.gguf, &parts.tokenizer) {
            (Some(gguf), None) => tokenizer::check(dir, gguf.tokenizer()?, &llama)?,
            (_, given) => tokenizer::read(given.as_deref().unwrap_or(dir), &llama)?,
        };
        let (json, tokenizer_file) = (tokenizer.json, tokenizer.file);
        report.notes.extend(tokenizer.note);
        if llama.image_projection == ImageProjectionKind::None {
            let note = "a model of text alone: it takes images when `radialog train language` has given it a projection";
            report.notes.push(note.to_owned());
        }
        let (blank_rule, blank_file) = tokenizer::blank_rule(dir, &tokenizer_file, &llama)?;
        let images = match llama.image_projection {
            ImageProjectionKind::None => "no images".to_owned(),
            ImageProjectionKind::Linear | ImageProjectionKind::Mlp2xGelu => format!(
                "{} image tokens of width {}",
                llama.num_image_tokens, llama.image_dim
            ),
        };
        report.geometry = format!(
            "{} layers, width {}, vocabulary {}, {images}",
            llama.num_hidden_layers, llama.hidden_size, llama.vocab_size
        );
        let mut component = LanguageComponent {
            llama,
            lora: None,
            adapters: BTreeMap::new(),
            default_adapters: None,
            prompts,
            blank_rule,
            precision: None,
        };
        if merged.is_none() {
            self.configure_adapters(&mut component, &mut report);
        }
        let files = self.files(&component, merged)?;
        self.check_adapters_are_whole(&component.llama)?;
        if let Some(base) = files.iter().find(|file| file.usage == WEIGHTS) {
            quantized::note(&base.tensors, self.options.merge.as_ref(), &mut report);
        }
        let used_adapters = self.adapters.iter().filter(|(name, _)| {
            let merged = self.options.merge.as_ref();
            merged.is_none_or(|merged| merged == *name)
        });
        let settings = [self.config.as_deref(), self.base.index()]
            .into_iter()
            .chain(used_adapters.map(|(_, adapter)| Some(adapter.settings.as_path())))
            .chain([Some(tokenizer_file.as_path()), blank_file.as_deref()])
            .chain([parts.prompts.as_deref()]);
        let planned = PlannedComponent {
            stage: Stage::Language,
            config: component.config(),
            files,
            tokenizer: component.tokenizer().map(|name| (name, json)),
            settings: settings.flatten().map(Path::to_owned).collect(),
        };
        self.base.report(&mut report, reasons::why_not_of_base);
        for adapter in self.adapters.values() {
            adapter.source.report(&mut report, |_| None);
        }
        if let Some(non_lora) = &self.non_lora {
            non_lora.report(&mut report, reasons::why_not_of_projector);
        }
        report.used.push((tokenizer_file, "the tokenizer".into()));
        if let Some(path) = &parts.prompts {
            report
                .used
                .push((path.clone(), "the request for a report".into()));
        }
        Ok((planned, report))
    }

    /// The adapter to fold in.
    fn merged(&self, report: &mut ComponentReport) -> Result<Option<&Adapter>, ImportError> {
        let Some(name) = &self.options.merge else {
            return Ok(None);
        };
        let names = || {
            let names: Vec<_> = self.adapters.keys().map(AdapterName::as_str).collect();
            match names.is_empty() {
                true => "none (--adapter NAME=DIR)".to_owned(),
                false => names.join(", "),
            }
        };
        let adapter = self.adapters.get(name).ok_or_else(|| {
            ImportError::Parts(format!(
                "--merge {name}: there is no such adapter; those given are: {}",
                names()
            ))
        })?;
        report
            .notes
            .push(format!("the adapter '{name}' is folded into the base"));
        for (other, adapter) in &self.adapters {
            if other != name {
                let why = format!(
                    "'{name}' is folded into the base, which is no base for another adapter then"
                );
                report.leave_out(&adapter.source.path, &[other.to_string()], why);
            }
        }
        Ok(Some(adapter))
    }

    /// Checks that nothing of an adapter is left over: the result would be another one than PEFT's.
    fn check_adapters_are_whole(&self, llama: &LlamaConfig) -> Result<(), ImportError> {
        let merged = self.options.merge.as_ref();
        let used = self
            .adapters
            .iter()
            .filter(|(name, _)| merged.is_none_or(|merged| merged == *name));
        for (name, adapter) in used {
            let left = adapter.source.untaken();
            let Some(first) = left.first() else {
                continue;
            };
            let reason = match first.contains(".lora_") {
                true => format!(
                    "{} tensors of the adapter '{name}' have no place in the base, the first is '{first}': it was trained \
                     on another base, or target_modules does not name it",
                    left.len()
                ),
                false => format!(
                    "the adapter '{name}' has '{first}', and images reach this base through {}: they are of different models",
                    llama.image_projection.prefix()
                ),
            };
            return Err(ImportError::unusable(&adapter.source.path)(reason));
        }
        Ok(())
    }

    /// The configuration with what the image projection tells.
    fn with_image(
        &self,
        llama: LlamaConfig,
        image_tokens: Option<(usize, usize)>,
    ) -> Result<LlamaConfig, ImportError> {
        let v1 = "model.img_proj_layer.weight";
        let v2 = "model.mm_projector.0.weight";
        let wrapped = [format!("{WRAPPER}{v1}"), format!("{WRAPPER}{v2}")];
        let of_adapters = self.adapters.values().flat_map(|adapter| {
            let [v1, v2] = &wrapped;
            let source = &adapter.source;
            [
                (source, v1.as_str(), ImageProjectionKind::Linear),
                (source, v2, ImageProjectionKind::Mlp2xGelu),
            ]
        });
        let of_non_lora = self
            .non_lora
            .iter()
            .map(|source| (source, v2, ImageProjectionKind::Mlp2xGelu));
        // The base's own `mm_projector` is CLIP's.
        let of_base = [(&self.base, v1, ImageProjectionKind::Linear)];
        let mut places = of_non_lora.chain(of_adapters).chain(of_base);
        let found = places.find(|(source, name, _)| source.has(name));
        let Some((source, name, image_projection)) = found else {
            let alone = self.adapters.is_empty() && self.non_lora.is_none();
            if alone && (image_tokens.is_none() || self.gguf.is_some()) {
                let image_projection = ImageProjectionKind::None;
                return Ok(LlamaConfig {
                    image_projection,
                    ..llama
                });
            }
            let reason = format!(
                "neither it nor another part has {v1} (v1) or {v2} (v2), by which images reach the language model: give the \
                 adapters (--adapter NAME=DIR), or --non-lora for v2"
            );
            return Err(ImportError::unusable(&self.base.path)(reason));
        };
        let [_, image_dim] = source.shape(name)?;
        let mut llama = LlamaConfig {
            image_dim,
            image_projection,
            ..llama
        };
        if image_projection == ImageProjectionKind::Mlp2xGelu {
            llama.num_image_tokens = LlamaConfig::llava_7b().num_image_tokens;
        }
        if let Some((count, width)) = image_tokens {
            if width != image_dim {
                let reason = format!(
                    "it projects image tokens of width {image_dim}, and those of the image encoder's part are {width} wide: \
                     they are of different models"
                );
                return Err(ImportError::unusable(&source.path)(reason));
            }
            llama.num_image_tokens = count;
        }
        Ok(llama)
    }

    /// One adapter is the component's own; several have names, and each task its default.
    fn configure_adapters(&self, component: &mut LanguageComponent, report: &mut ComponentReport) {
        let mut configs = self
            .adapters
            .iter()
            .map(|(name, adapter)| (name.clone(), adapter.config.clone()));
        if self.adapters.len() < 2 {
            if let Some((name, config)) = configs.next() {
                component.lora = Some(config);
                report.notes.push(format!(
                    "one adapter: it answers everything, and its name '{name}' is not kept"
                ));
            }
            return;
        }
        component.adapters = configs.collect();
        let named = |names: &[&str]| {
            let mut keys = self.adapters.keys();
            keys.find(|name| names.contains(&name.as_str()))
        };
        // More than one is there.
        let Some(first) = self.adapters.keys().next() else {
            return;
        };
        let report_adapter = named(&REPORT).unwrap_or(first);
        let defaults = DefaultAdapters {
            report: report_adapter.clone(),
            chat: named(&CHAT).unwrap_or(report_adapter).clone(),
        };
        report.notes.push(format!(
            "reports are written with the adapter '{}', conversations held with '{}'",
            defaults.report, defaults.chat
        ));
        component.default_adapters = Some(defaults);
    }
}
