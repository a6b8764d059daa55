//! Where each tensor of the language model comes from: the base, an adapter, an adapter folded into the base, or v2's other
//! trained weights.

use safetensors::Dtype;

use super::super::error::ImportError;
use super::super::lora::{Adapter, WRAPPER};
use super::super::planned::PlannedFile;
use super::super::sources::take_all;
use super::super::tensor::{PlannedTensor, TensorSource};
use super::Model;
use crate::bundle::components::{ADAPTER, Component, LanguageComponent, WEIGHTS, adapter_usage};
use crate::tensors::{TensorHeader, TensorSpec};

impl Model<'_> {
    /// The files of the component, with a source for every tensor; `merged` is the adapter to fold in.
    pub(super) fn files(
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
