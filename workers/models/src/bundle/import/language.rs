//! The language model: a base as Hugging Face shares it, adapters as PEFT writes them, v2's other trained weights, and the
//! tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use radialog_schemas::{AdapterName, Stage};
use safetensors::Dtype;

use super::error::ImportError;
use super::gguf::GgufBase;
use super::lora::{Adapter, WRAPPER};
use super::parts::{ImportOptions, ImportParts};
use super::planned::{PlannedComponent, PlannedFile};
use super::report::ComponentReport;
use super::sources::{Source, take_all};
use super::tensor::{PlannedTensor, TensorSource};
use super::{base, non_lora, prompts, quantized, reasons, tokenizer};
use crate::bundle::components::{
    ADAPTER, Component, DefaultAdapters, LanguageComponent, WEIGHTS, adapter_usage,
};
use crate::checkpoint::open_folder;
use crate::language::{ImageProjectionKind, LlamaConfig};
use crate::prompt::Prompts;
use crate::tensors::{TensorHeader, TensorSpec};

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
            let base = Source::without_prefix(dir, open_folder(dir)?, "module.")?;
            let (llama, config) = base::read_config(dir, non_lora.as_ref())?;
            (base, llama, None, Some(config))
        }
    };
    base::check_geometry(&base, &llama)?;
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
        let (json, tokenizer_file) = match (&self.gguf, &parts.tokenizer) {
            (Some(gguf), None) => (
                tokenizer::check(dir, gguf.tokenizer()?, &llama)?,
                dir.to_owned(),
            ),
            (_, given) => tokenizer::read(given.as_deref().unwrap_or(dir), &llama)?,
        };
        if llama.image_projection == ImageProjectionKind::None {
            let note = "a model of text alone: it takes images when `radialog train language` has given it a projection";
            report.notes.push(note.to_owned());
        }
        let (blank_rule, blank_file) = tokenizer::blank_rule(dir, &tokenizer_file, &llama)?;
        report.geometry = format!(
            "{} layers, width {}, vocabulary {}, {} image tokens of width {}",
            llama.num_hidden_layers,
            llama.hidden_size,
            llama.vocab_size,
            llama.num_image_tokens,
            llama.image_dim
        );
        let mut component = LanguageComponent {
            llama,
            lora: None,
            adapters: BTreeMap::new(),
            default_adapters: None,
            prompts,
            blank_rule,
        };
        if merged.is_none() {
            self.configure_adapters(&mut component, &mut report);
        }
        let files = self.files(&component, merged)?;
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
            names.join(", ")
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

    fn files(
        &self,
        component: &LanguageComponent,
        merged: Option<&Adapter>,
    ) -> Result<Vec<PlannedFile>, ImportError> {
        let weights = component.weights(Dtype::F16);
        let weights = weights.map_err(ImportError::geometry(&self.base.path))?;
        let files = weights.into_iter().map(|file| {
            let tensors = match file.usage.as_str() {
                WEIGHTS => self.base_tensors(file.tensors, merged)?,
                usage => {
                    let mut adapters = self.adapters.iter();
                    let adapter =
                        adapters.find(|(name, _)| usage == ADAPTER || usage == adapter_usage(name));
                    let (_, adapter) = adapter.ok_or_else(|| {
                        ImportError::Parts(format!("nothing is known about the file '{usage}'"))
                    })?;
                    self.adapter_tensors(file.tensors, adapter)?
                }
            };
            Ok(PlannedFile {
                usage: file.usage,
                name: file.name,
                tensors,
            })
        });
        files.collect()
    }

    fn base_tensors(
        &self,
        specs: Vec<TensorSpec>,
        merged: Option<&Adapter>,
    ) -> Result<Vec<PlannedTensor>, ImportError> {
        let stored = |tensor: PlannedTensor| match self.options.dtype {
            Some(dtype) => tensor.stored_as(dtype.dtype()),
            None => tensor,
        };
        take_all(specs, self.base.files(), |header| {
            let Some(adapter) = merged else {
                let found = self.base.take(&header.name, header)?;
                return Ok(found.map(stored));
            };
            // The image projection is the adapter's.
            if let Some(found) = self.take_projection(adapter, header)? {
                return Ok(Some(stored(found)));
            }
            let Some(base) = self.base.take(&header.name, header)? else {
                return Ok(None);
            };
            let path = header.name.strip_suffix(".weight").unwrap_or(&header.name);
            let low_rank = |part: &str, shape: [usize; 2]| {
                let part = TensorHeader {
                    name: format!("{WRAPPER}{path}.{part}.weight"),
                    shape: shape.to_vec(),
                    dtype: Dtype::F32,
                };
                adapter.source.take(&part.name, &part)
            };
            let [outputs, inputs] = header.shape[..] else {
                return Ok(Some(stored(base)));
            };
            let rank = adapter.config.r;
            match (
                low_rank("lora_A", [rank, inputs])?,
                low_rank("lora_B", [outputs, rank])?,
            ) {
                (Some(down), Some(up)) if targets(adapter, path) => {
                    let quantized = base.ggml.is_some();
                    let source = TensorSource::Merged {
                        base: Box::new(base.into_numbers()),
                        down: Box::new(down),
                        up: Box::new(up),
                        scale: adapter.config.lora_alpha / rank as f64,
                    };
                    let merged = PlannedTensor::new(header.clone(), source)?;
                    // A sum has no blocks: half precision, which the scales have, too.
                    let merged = match quantized {
                        true => merged.stored_as(Dtype::F16),
                        false => merged,
                    };
                    Ok(Some(stored(merged)))
                }
                _ if !targets(adapter, path) => Ok(Some(stored(base))),
                _ => Err(ImportError::Missing {
                    tensor: format!("{WRAPPER}{path}.lora_A.weight and .lora_B.weight"),
                    expected: vec![rank],
                    files: adapter.source.files().to_vec(),
                }),
            }
        })
    }

    fn adapter_tensors(
        &self,
        specs: Vec<TensorSpec>,
        adapter: &Adapter,
    ) -> Result<Vec<PlannedTensor>, ImportError> {
        take_all(specs, adapter.source.files(), |header| {
            match adapter.source.take(&header.name, header)? {
                Some(tensor) => Ok(Some(tensor)),
                None => self.take_projection(adapter, header),
            }
        })
    }

    /// A tensor of the image projection, by its name in a bundle's base or adapter: the adapter's own or v2's.
    fn take_projection(
        &self,
        adapter: &Adapter,
        header: &TensorHeader,
    ) -> Result<Option<PlannedTensor>, ImportError> {
        let inner = header.name.strip_prefix(WRAPPER).unwrap_or(&header.name);
        if !["model.img_proj_layer.", "model.mm_projector."]
            .iter()
            .any(|part| inner.starts_with(part))
        {
            return Ok(None);
        }
        match adapter.source.take(&format!("{WRAPPER}{inner}"), header)? {
            Some(tensor) => Ok(Some(tensor)),
            None => match &self.non_lora {
                Some(non_lora) => non_lora.take(inner, header),
                None => Ok(None),
            },
        }
    }
}

fn targets(adapter: &Adapter, path: &str) -> bool {
    let module = path.rsplit('.').next().unwrap_or(path);
    adapter
        .config
        .target_modules
        .iter()
        .any(|target| target == module)
}
