//! The image encoder and its connector: v1's from BioViL-T's file and `checkpoint_4.pth`, v2's from BioViL-T's file and
//! `non_lora_trainables.bin`. Both are read as their authors' programs read them: BioViL-T first, the other over it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use radialog_schemas::Stage;
use safetensors::Dtype;

use super::error::ImportError;
use super::geometry::{heads, vision_of};
use super::parts::{ImportOptions, ImportParts};
use super::planned::{PlannedComponent, PlannedFile};
use super::report::ComponentReport;
use super::sources::{Source, take_all};
use super::tensor::{PlannedTensor, TensorSource};
use super::{non_lora, reasons};
use crate::alignment::AlignmentConfig;
use crate::bundle::components::{Component, Connector, EmbeddingComponent};
use crate::checkpoint::open_file;
use crate::tensors::TensorHeader;
use crate::vision::{BatchNormStatistics, VisionConfig, projector_seed};

/// What the image encoder's names begin with, in `checkpoint_4.pth` and in a bundle.
const ENCODER: &str = "visual_encoder.";

/// What the projector's names have behind that.
const PROJECTOR: &str = "projector.";

/// The Q-Former's layers.
const LAYERS: &str = "Qformer.bert.encoder.layer";

/// A component and the number and width of its image tokens.
pub(super) struct PlannedEmbedding {
    pub(super) planned: PlannedComponent,
    pub(super) tokens: (usize, usize),
}

/// The component that the parts make, if they make one.
pub(super) fn plan(
    parts: &ImportParts,
    options: &ImportOptions,
) -> Result<Option<(PlannedEmbedding, ComponentReport)>, ImportError> {
    let biovil = match &parts.biovil {
        Some(path) => {
            let file = open_file(path, &["state_dict", "model"])?;
            Some(Source::without_prefix(path, file, "module.")?)
        }
        None => None,
    };
    let non_lora = non_lora::open(parts)?;
    match (&parts.alignment, non_lora) {
        (Some(_), Some(_)) => Err(ImportError::Parts(
            "--alignment is a part of v1 and --non-lora one of v2: name one of them".into(),
        )),
        (Some(path), None) => {
            let file = open_file(path, &["model"])?;
            let alignment = Source::without_prefix(path, file, "module.")?;
            v1(&alignment, biovil.as_ref(), options).map(Some)
        }
        (None, Some(non_lora)) => v2(&non_lora, biovil.as_ref()).map(Some),
        (None, None) if biovil.is_some() => Err(ImportError::Parts(
            "BioViL-T alone makes no image tokens: give --alignment (v1's checkpoint_4.pth) or --non-lora (v2's \
             non_lora_trainables.bin) beside it"
                .into(),
        )),
        (None, None) => Ok(None),
    }
}

fn v1(
    alignment: &Source,
    biovil: Option<&Source>,
    options: &ImportOptions,
) -> Result<(PlannedEmbedding, ComponentReport), ImportError> {
    let mut report = ComponentReport::new(Stage::Embedding);
    let config = alignment_config(alignment)?;
    let seeded = !alignment.has(&format!("{ENCODER}{PROJECTOR}model.0.weight"));
    let encoder = Overlay {
        over: alignment,
        under: biovil,
    };
    if biovil.is_none() && !alignment.has(&format!("{ENCODER}encoder.encoder.conv1.weight")) {
        let reason =
            "it has no image encoder, as published: give BioViL-T's file beside it (--biovil)";
        return Err(ImportError::unusable(&alignment.path)(reason));
    }
    let vision = VisionConfig {
        joint_feature_size: config.encoder_width,
        ..encoder.vision(VisionConfig::published())?
    };
    let made = match seeded {
        true => seeded_projector(&vision, options.projector_seed, alignment)?,
        false => BTreeMap::new(),
    };
    report.notes.push(match seeded {
        true => format!(
            "the alignment projector is in no file, as published: it is made again from seed {}",
            options.projector_seed
        ),
        false => "the alignment projector is the file's own".into(),
    });
    let tokens = (config.num_query_token, config.hidden_size);
    report.geometry = format!(
        "v1: image encoder of stem {}, Q-Former of {} layers and width {}, {} image tokens",
        vision.stem_width, config.num_hidden_layers, config.hidden_size, config.num_query_token
    );
    let component = EmbeddingComponent {
        vision,
        connector: Connector::QFormer {
            alignment: config,
            text: None,
        },
    };
    let find = |header: &TensorHeader| -> Result<Option<PlannedTensor>, ImportError> {
        let Some(inner) = header.name.strip_prefix(ENCODER) else {
            return alignment.take(&header.name, header);
        };
        if let Some(tensor) = alignment.take(&header.name, header)? {
            return Ok(Some(tensor));
        }
        match (made.get(inner), biovil) {
            (Some(values), _) => {
                PlannedTensor::new(header.clone(), TensorSource::Made(Arc::clone(values))).map(Some)
            }
            // The published program throws BioViL-T's own projector away.
            (None, Some(biovil)) if !inner.starts_with(PROJECTOR) => biovil.take(inner, header),
            _ => Ok(None),
        }
    };
    let planned = component_of(&component, &files(alignment, biovil), find)?;
    alignment.report(&mut report, reasons::why_not_in_v1);
    if let Some(biovil) = biovil {
        biovil.report(&mut report, reasons::why_not_of_biovil);
    }
    Ok((PlannedEmbedding { planned, tokens }, report))
}

fn v2(
    non_lora: &Source,
    biovil: Option<&Source>,
) -> Result<(PlannedEmbedding, ComponentReport), ImportError> {
    let mut report = ComponentReport::new(Stage::Embedding);
    let tower = non_lora;
    if biovil.is_none() && !tower.has(&format!("{ENCODER}encoder.encoder.conv1.weight")) {
        let reason = "it has no whole image encoder: give BioViL-T's file beside it (--biovil)";
        return Err(ImportError::unusable(&non_lora.path)(reason));
    }
    let encoder = Overlay {
        over: tower,
        under: biovil,
    };
    let vision = encoder.vision(VisionConfig::published())?;
    let component = EmbeddingComponent {
        vision,
        connector: Connector::Grid {
            batch_norm: BatchNormStatistics::Image,
        },
    };
    let tokens = component.token_shape();
    report.geometry = format!(
        "v2: image encoder of stem {}, {} image tokens of width {}",
        component.vision.stem_width, tokens.0, tokens.1
    );
    report.notes.push(
        "batch norms measure each image, as the published demo does; `batch_norm` in bundle.json changes it".into(),
    );
    let find = |header: &TensorHeader| -> Result<Option<PlannedTensor>, ImportError> {
        if let Some(tensor) = tower.take(&header.name, header)? {
            return Ok(Some(tensor));
        }
        let inner = header.name.strip_prefix(ENCODER).unwrap_or(&header.name);
        match biovil {
            Some(biovil) => biovil.take(inner, header),
            None => Ok(None),
        }
    };
    let planned = component_of(&component, &files(tower, biovil), find)?;
    tower.report(&mut report, reasons::why_not_of_tower);
    if let Some(biovil) = biovil {
        biovil.report(&mut report, reasons::why_not_of_biovil);
    }
    Ok((PlannedEmbedding { planned, tokens }, report))
}

fn component_of(
    component: &EmbeddingComponent,
    files: &[PathBuf],
    find: impl Fn(&TensorHeader) -> Result<Option<PlannedTensor>, ImportError>,
) -> Result<PlannedComponent, ImportError> {
    let file = files.first().cloned().unwrap_or_default();
    let weights = component.weights(Dtype::F32);
    let weights = weights.map_err(ImportError::geometry(&file))?;
    let files = weights.into_iter().map(|weights| {
        Ok(PlannedFile {
            tensors: take_all(weights.tensors, files, &find)?,
            usage: weights.usage,
            name: weights.name,
        })
    });
    Ok(PlannedComponent {
        stage: Stage::Embedding,
        config: component.config(),
        files: files.collect::<Result<_, ImportError>>()?,
        tokenizer: None,
        settings: Vec::new(),
    })
}

/// The image encoder's tensors: those of one file, and of BioViL-T's where that has none.
struct Overlay<'a> {
    over: &'a Source,
    under: Option<&'a Source>,
}

impl Overlay<'_> {
    /// The geometry that shapes tell, with the rest of `published`.
    fn vision(&self, published: VisionConfig) -> Result<VisionConfig, ImportError> {
        vision_of(published, |name| {
            let over = format!("{ENCODER}{name}");
            match self.under {
                Some(under) if !self.over.has(&over) => under.shape(name),
                _ => self.over.shape(&over),
            }
        })
    }
}

fn alignment_config(source: &Source) -> Result<AlignmentConfig, ImportError> {
    let published = AlignmentConfig::published();
    let [_, num_query_token, hidden_size] = source.shape("query_tokens")?;
    let num_hidden_layers = source.layers(LAYERS);
    let crosses =
        |layer: &usize| source.has(&format!("{LAYERS}.{layer}.crossattention.self.key.weight"));
    let second = (1..num_hidden_layers).find(crosses);
    let [intermediate_size, _] =
        source.shape(&format!("{LAYERS}.0.intermediate_query.dense.weight"))?;
    let [_, encoder_width] = source.shape(&format!("{LAYERS}.0.crossattention.self.key.weight"))?;
    Ok(AlignmentConfig {
        hidden_size,
        num_hidden_layers,
        num_attention_heads: heads(
            source,
            hidden_size,
            (published.hidden_size, published.num_attention_heads),
        )?,
        intermediate_size,
        num_query_token,
        encoder_width,
        cross_attention_freq: second.unwrap_or(num_hidden_layers.max(1)),
        ..published
    })
}

/// The projector that a seed makes, by its names in BioViL-T's file. Statistics that the file has are its own.
fn seeded_projector(
    vision: &VisionConfig,
    seed: u32,
    alignment: &Source,
) -> Result<BTreeMap<String, Arc<Vec<f32>>>, ImportError> {
    let (input, output) = (2 * vision.vit_dim, vision.joint_feature_size);
    if !projector_seed::fits(input, output) {
        let reason = format!(
            "it has no alignment projector, and that from {input} to {output} channels cannot be made from a seed: only the \
             published one, from 512 to 1408, can"
        );
        return Err(ImportError::unusable(&alignment.path)(reason));
    }
    let shapes: [(&str, Vec<usize>); 7] = [
        ("0.weight", vec![output, input, 1, 1]),
        ("1.weight", vec![output]),
        ("1.bias", vec![output]),
        ("1.running_mean", vec![output]),
        ("1.running_var", vec![output]),
        ("3.weight", vec![output, output, 1, 1]),
        ("3.bias", vec![output]),
    ];
    let failed = |error: String| ImportError::Parts(format!("the alignment projector: {error}"));
    let weights = projector_seed::weights(seed, &Device::Cpu).map_err(|e| failed(e.to_string()))?;
    let values = |name: &str, shape: &[usize]| -> candle_core::Result<Vec<f32>> {
        weights.get(shape, name)?.flatten_all()?.to_vec1()
    };
    let made = shapes.into_iter().map(|(name, shape)| {
        let name = format!("{PROJECTOR}model.{name}");
        let values = values(&name, &shape).map_err(|error| failed(error.to_string()))?;
        Ok((name, Arc::new(values)))
    });
    made.collect()
}

fn files(over: &Source, under: Option<&Source>) -> Vec<PathBuf> {
    let files = [over.files(), under.map_or(&[][..], Source::files)];
    files.concat()
}
