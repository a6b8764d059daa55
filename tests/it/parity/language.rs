//! The language model beside the original: hidden states and logits within the tolerance, generated ids exact. Batches of
//! the original are left-padded; ours are the same sequences decoded together without padding.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{
    Engine, EngineEvent, EngineLimits, GenerationRequest, LanguageModel, LlamaConfig, LoraAdapter,
    LoraConfig, Sampling,
};
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_tests::golden::{Case, Formula, FormulaWeights, read_json};
use serde::Deserialize;

use super::OneOrMany;

/// Tokenizer of the cases that record texts, from their folder.
const TOKENIZER: &str = "../../tokenizers/llama/tokenizer.json";
/// The id that the original pads with.
const PAD: u32 = 0;

/// One generation of the original.
#[derive(Clone, Deserialize)]
struct Entry {
    input_ids: Option<OneOrMany<Vec<u32>>>,
    new_ids: Option<OneOrMany<Vec<u32>>>,
    dicom: Option<OneOrMany<String>>,
    eos_token_id: Option<u32>,
    #[serde(alias = "prompts")]
    prompt: Option<OneOrMany<String>>,
    decoded_skip_special: Option<String>,
    reply: Option<String>,
}

/// A sequence of an entry, without padding.
struct Row {
    ids: Vec<u32>,
    images: Vec<Tensor>,
}

/// Holds a case of formula weights to ours.
pub(super) fn check(case: &Case) -> Result<()> {
    let seed = case.field("/weights/seed")?;
    let config: LlamaConfig = case.field("/config")?;
    let adapter = || -> Result<Option<LoraAdapter>> {
        if !case.has("/config/lora") {
            return Ok(None);
        }
        let weights = FormulaWeights::open(case.dir(), "adapter_manifest.json", seed)?;
        let weights = VarBuilder::from_backend(Box::new(weights), DType::F32, Device::Cpu);
        Ok(Some(LoraAdapter::new(lora(case)?, weights)))
    };
    let load = |config: &LlamaConfig| -> Result<Arc<LanguageModel>> {
        Ok(Arc::new(LanguageModel::load(
            config,
            &case.weights()?,
            adapter()?.as_ref(),
        )?))
    };
    check_model(case, &config, "/tolerance", &load)
}

/// Holds a case of checkpoint files to ours, in f32 with the adapter merged, and in the stored half precision with the
/// adapter beside the weights.
pub(super) fn check_files(case: &Case) -> Result<()> {
    let mut config: LlamaConfig = read_json(&case.dir().join("base_safetensors/config.json"))?;
    config.image_token_id = case.field("/config/image_token_id")?;
    let base = case.tensors("base_safetensors/model.safetensors")?;
    let adapter = |targets: Option<Vec<String>>| -> Result<LoraAdapter> {
        let mut config: LoraConfig =
            read_json(&case.dir().join("adapter_safetensors/adapter_config.json"))?;
        config.target_modules = targets.unwrap_or(config.target_modules);
        let weights = case.tensors("adapter_safetensors/adapter_model.safetensors")?;
        Ok(LoraAdapter::new(
            config,
            VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
        ))
    };
    for dtype in [DType::F32, DType::F16] {
        let base = VarBuilder::from_tensors(base.clone(), dtype, &Device::Cpu);
        let load = |config: &LlamaConfig| -> Result<Arc<LanguageModel>> {
            Ok(Arc::new(LanguageModel::load(
                config,
                &base,
                Some(&adapter(None)?),
            )?))
        };
        check_model(case, &config, "/tolerance/outputs", &load)
            .with_context(|| format!("{dtype:?}"))?;

        let outputs = case.tensors("outputs.safetensors")?;
        let entries: HashMap<String, Entry> =
            case.json(&case.field::<String>("/inputs/tokens")?)?;
        for (name, expected) in &outputs {
            let Some(entry) = name.strip_suffix(".logits_without_lora") else {
                continue;
            };
            let model = LanguageModel::load(&config, &base, Some(&adapter(Some(Vec::new()))?))?;
            let rows = rows(case, entries.get(entry).context("no such entry")?, &config)?;
            let actual = output(&model, &rows[0], "logits", None)?;
            case.close(
                name,
                &actual,
                expected,
                case.tolerance("/tolerance/outputs")?,
            )?;
        }
    }
    Ok(())
}

/// Holds every output and generation of a case to a model; `load` makes it with a configuration.
pub(crate) fn check_model(
    case: &Case,
    config: &LlamaConfig,
    tolerance: &str,
    load: &dyn Fn(&LlamaConfig) -> Result<Arc<LanguageModel>>,
) -> Result<()> {
    let tolerance = case.tolerance(tolerance)?;
    let model = load(config)?;
    let entries = entries(case)?;
    for (name, expected) in case.tensors("outputs.safetensors")? {
        let (entry, quantity) = name.split_once('.').unwrap_or(("batch", &name));
        let entry = entries
            .get(entry)
            .with_context(|| format!("output '{name}' belongs to nothing"))?;
        let rows = rows(case, entry, config)?;
        let actual = match quantity.split_once("_first") {
            _ if quantity == "logits_without_lora" => continue,
            _ if quantity == "last_logits_with_image" => without_placeholder(&model, &rows[0])?,
            Some(("step_scores", steps)) => {
                let steps = steps.parse()?;
                let new = entry
                    .new_ids
                    .as_ref()
                    .context("no new_ids")?
                    .all()
                    .remove(0);
                let ids = [rows[0].ids.as_slice(), &new[..steps - 1]].concat();
                output(
                    &model,
                    &Row {
                        ids,
                        images: rows[0].images.clone(),
                    },
                    "logits",
                    Some(steps),
                )?
            }
            _ => {
                let (what, last) = match quantity.split_once("_last") {
                    Some((what, last)) => (what, Some(last.parse()?)),
                    None if quantity == "last_logits" => ("logits", Some(1)),
                    None => (quantity, None),
                };
                let each = rows.iter().map(|row| {
                    let output = output(&model, row, what, last)?;
                    if quantity == "last_logits" {
                        Ok(output.squeeze(0)?)
                    } else {
                        Ok(output)
                    }
                });
                let each = each.collect::<Result<Vec<_>>>()?;
                match entry.input_ids {
                    Some(OneOrMany::One(_)) => each[0].clone(),
                    _ => Tensor::stack(&each, 0)?,
                }
            }
        };
        case.close(&name, &actual, &expected, tolerance)?;
    }
    for (name, entry) in &entries {
        check_generation(case, &model, entry, load)
            .with_context(|| format!("generation of '{name}'"))?;
    }
    Ok(())
}

/// The original's states at positions of one sequence, `[positions, width]`.
fn output(model: &LanguageModel, row: &Row, what: &str, last: Option<usize>) -> Result<Tensor> {
    let input = model.embed(&row.ids, &row.images)?;
    let len = row.ids.len();
    let mut cache = model.cache(len)?;
    let hidden = model.forward(
        &input,
        &mut [SequenceChunk {
            cache: &mut cache,
            len,
        }],
    )?;
    let hidden = match last {
        Some(last) => hidden.narrow(0, len - last, last)?,
        None => hidden,
    };
    match what {
        "hidden" => Ok(hidden),
        "logits" => Ok(model.logits(&hidden)?),
        _ => anyhow::bail!("nobody computes '{what}'"),
    }
}

/// An image beside a prompt without placeholders: ours leaves the prompt alone. The original overwrites the prompt's
/// first tokens with it, which is what is recorded.
fn without_placeholder(model: &LanguageModel, row: &Row) -> Result<Tensor> {
    let config = model.config();
    let blind = Row {
        ids: row.ids.clone(),
        images: Vec::new(),
    };
    let [ours, expected] = [row, &blind].map(|row| output(model, row, "logits", Some(1)));
    let difference = (ours? - expected?)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_scalar::<f32>()?;
    ensure!(
        difference == 0.0,
        "an image changes a prompt without placeholders"
    );
    let mut overwritten = Row {
        ids: row.ids.clone(),
        images: row.images.clone(),
    };
    overwritten.ids[..config.num_image_tokens].fill(config.image_token());
    Ok(output(model, &overwritten, "logits", Some(1))?.squeeze(0)?)
}

fn check_generation(
    case: &Case,
    model: &Arc<LanguageModel>,
    entry: &Entry,
    load: &dyn Fn(&LlamaConfig) -> Result<Arc<LanguageModel>>,
) -> Result<()> {
    let rows = rows(case, entry, model.config())?;
    let tokenizer = case.dir().join(TOKENIZER);
    if let Some(prompts) = &entry.prompt {
        let tokenizer = LlamaTokenizer::from_file(&tokenizer)?;
        for (prompt, row) in prompts.all().iter().zip(&rows) {
            ensure!(
                tokenizer.encode(prompt)? == row.ids,
                "ids of the prompt {prompt:?}"
            );
        }
    }
    let Some(expected) = entry.new_ids.as_ref().map(OneOrMany::all) else {
        return Ok(());
    };
    let model = match entry.eos_token_id {
        Some(eos_token_id) => &load(&LlamaConfig {
            eos_token_id,
            ..model.config().clone()
        })?,
        None => model,
    };
    let limits = EngineLimits {
        sequences: rows.len(),
        cache_tokens: rows.len() * model.config().max_position_embeddings,
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(Arc::clone(model), limits);
    let mut order = Vec::new();
    for (row, new) in rows.iter().zip(&expected) {
        order.push(engine.admit(GenerationRequest {
            prompt: row.ids.clone(),
            images: row.images.clone(),
            sampling: Sampling::default(),
            max_new_tokens: new.len(),
            ..GenerationRequest::default()
        })?);
    }
    let mut finished = HashMap::new();
    while !engine.is_idle() {
        for event in engine.step()? {
            if let EngineEvent::Finished { sequence, result } = event {
                finished.insert(sequence, result?.tokens);
            }
        }
    }
    for (sequence, expected) in order.iter().zip(&expected) {
        let mut tokens = finished
            .remove(sequence)
            .context("a sequence never finished")?;
        if let Some(reply) = &entry.reply {
            let tokenizer = LlamaTokenizer::from_file(&tokenizer)?;
            ensure!(
                tokenizer.decode_continuation(&tokens) == *reply,
                "reply {reply:?}"
            );
            let whole = tokenizer.decode_text(&[rows[0].ids.as_slice(), &tokens].concat());
            ensure!(
                entry
                    .decoded_skip_special
                    .as_ref()
                    .is_none_or(|text| *text == whole),
                "text {whole:?}"
            );
        }
        tokens.resize(expected.len(), PAD);
        ensure!(tokens == *expected, "ids {tokens:?}, recorded {expected:?}");
    }
    Ok(())
}

/// What was generated, by name. A variant of another entry, such as `batch_early_eos` of `batch`, has its inputs.
fn entries(case: &Case) -> Result<BTreeMap<String, Entry>> {
    let file = if case.has("/inputs/text") {
        "/inputs/text"
    } else {
        "/inputs/tokens"
    };
    let mut entries: BTreeMap<String, Entry> = case.json(&case.field::<String>(file)?)?;
    let full = entries.clone();
    for (name, entry) in entries
        .iter_mut()
        .filter(|(_, entry)| entry.input_ids.is_none())
    {
        let base = full
            .iter()
            .find(|(base, entry)| name.starts_with(base.as_str()) && entry.input_ids.is_some());
        let (_, base) = base.with_context(|| format!("'{name}' has no inputs"))?;
        entry.input_ids.clone_from(&base.input_ids);
        entry.dicom.clone_from(&base.dicom);
    }
    Ok(entries)
}

fn rows(case: &Case, entry: &Entry, config: &LlamaConfig) -> Result<Vec<Row>> {
    let ids = entry.input_ids.as_ref().context("no input_ids")?.all();
    let studies = entry.dicom.as_ref().map(OneOrMany::all).unwrap_or_default();
    let image: Formula = case.field("/inputs/image_embeddings")?;
    ids.into_iter()
        .enumerate()
        .map(|(index, ids)| {
            let ids = ids
                .into_iter()
                .skip_while(|&id| id == PAD)
                .collect::<Vec<_>>();
            let images = studies.get(index).map(|study| {
                Formula {
                    name: image.name.replace("<dicom>", study),
                    ..image.clone()
                }
                .tensor()
            });
            let images = images.into_iter().collect::<Result<Vec<_>>>()?;
            ensure!(
                images
                    .iter()
                    .all(|image| image.dims() == [config.num_image_tokens, config.image_dim])
            );
            Ok(Row { ids, images })
        })
        .collect()
}

fn lora(case: &Case) -> Result<LoraConfig> {
    Ok(LoraConfig {
        r: case.field("/config/lora/r")?,
        lora_alpha: case.field("/config/lora/alpha")?,
        target_modules: case.field("/config/lora/target_modules")?,
    })
}
