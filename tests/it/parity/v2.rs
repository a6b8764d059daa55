//! RaDialog v2 beside the original. Its id lists have -200 where an image goes; ours have the placeholders of all its tokens
//! there, so that ours are as long as what the original makes of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, Tensor};
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{
    Engine, EngineEvent, EngineLimits, GenerationRequest, ImageProjectionKind, LanguageModel,
    LlamaConfig,
};
use radialog_models::prompt::Prompts;
use radialog_models::tokenizers::{ImageRule, LlamaTokenizer, TokenizerRules};
use radialog_models::vision::VisionConfig;
use radialog_tests::golden::Case;
use serde::Deserialize;

use super::OneOrMany;

pub(super) mod end_to_end;
pub(crate) mod folders;
pub(super) mod language;

/// The original's id of an image.
const MARKER_ID: i64 = -200;
/// The id that the original pads with.
const PAD: i64 = 0;
/// The tokenizer of the v1 cases, which v2's have too, from a case's folder.
const TOKENIZER: &str = "../../golden/tokenizers/llama/tokenizer.json";

/// One generation of the original.
#[derive(Clone, Deserialize)]
struct Entry {
    #[serde(alias = "prompts")]
    prompt: Option<OneOrMany<String>>,
    /// Places of the images among those of the case.
    #[serde(alias = "grids")]
    images: Vec<usize>,
    input_ids: OneOrMany<Vec<i64>>,
    new_ids: Option<OneOrMany<Vec<u32>>>,
    reply: Option<String>,
    /// Positions that the original keeps of a prompt.
    tokenizer_model_max_length: Option<usize>,
    /// The positions that the prompt has with its image.
    spliced_length: Option<usize>,
}

/// A sequence without padding, with its images.
#[derive(Clone)]
struct Row {
    ids: Vec<u32>,
    images: Vec<Tensor>,
}

/// A language model of the case, whole or with its first layers alone.
type Load<'a> = dyn Fn(&LlamaConfig) -> Result<LanguageModel> + 'a;

/// The language side of a case.
struct Speaker<'a> {
    model: Arc<LanguageModel>,
    load: &'a Load<'a>,
}

/// The geometry of the language model in a case; the fields are LLaMA's, and the rest follows from the encoder.
fn llama(case: &Case, image_dim: usize) -> Result<LlamaConfig> {
    Ok(LlamaConfig {
        num_image_tokens: 196,
        image_dim,
        image_projection: ImageProjectionKind::Mlp2xGelu,
        ..case.field("/config")?
    })
}

fn tokenizer(case: &Case, rules: TokenizerRules) -> Result<LlamaTokenizer> {
    let tokenizer = LlamaTokenizer::from_file(&case.dir().join(TOKENIZER))?;
    Ok(tokenizer.with_rules(rules, 196))
}

/// The placeholders of a whole image in place of each marker.
fn placed(ids: &[i64], config: &LlamaConfig) -> Result<Vec<u32>> {
    let mut placed = Vec::new();
    for &id in ids {
        if id == MARKER_ID {
            let image = std::iter::repeat_n(config.image_token(), config.num_image_tokens);
            placed.extend(image);
        } else {
            placed.push(u32::try_from(id).context("a negative id that is no image")?);
        }
    }
    Ok(placed)
}

/// The tokens of a grid `[C, h, w]`.
fn tokens(grid: &Tensor) -> Result<Tensor> {
    Ok(grid.flatten_from(1)?.t()?.contiguous()?)
}

/// The grid `[C, h, w]` of tokens, with every `step`-th channel.
fn grid(tokens: &Tensor, vision: &VisionConfig, step: usize) -> Result<Tensor> {
    let side = vision.trunk_grid();
    let grid = tokens.t()?.reshape(((), side, side))?;
    every(&grid, 0, step)
}

/// Every `step`-th part of a dimension, the first one included.
fn every(tensor: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let places = (0..tensor.dim(dim)? as u32).step_by(step);
    let places = Tensor::new(places.collect::<Vec<_>>(), tensor.device())?;
    Ok(tensor.index_select(&places, dim)?)
}

impl Entry {
    /// The sequences of the entry. Each takes an image, but for one sequence with all of them.
    fn rows(&self, config: &LlamaConfig, images: &[Tensor]) -> Result<Vec<Row>> {
        let images: Vec<Tensor> = self
            .images
            .iter()
            .map(|&place| images.get(place).cloned().context("no such image"))
            .collect::<Result<_>>()?;
        let rows = self.input_ids.all();
        let single = rows.len() == 1;
        rows.into_iter()
            .enumerate()
            .map(|(index, ids)| {
                let start = ids.iter().take_while(|&&id| id == PAD).count();
                let mut ids = placed(&ids[start..], config)?;
                if let Some(kept) = self.tokenizer_model_max_length {
                    ids.truncate(kept);
                }
                ensure!(self.spliced_length.is_none_or(|length| length == ids.len()));
                let images = match single {
                    true => images.clone(),
                    false => vec![images[index].clone()],
                };
                Ok(Row { ids, images })
            })
            .collect()
    }

    /// Holds the written prompts to their ids, and the report's prompt to ours.
    fn check_prompts(&self, rows: &[Row], tokenizer: &LlamaTokenizer) -> Result<()> {
        let Some(prompts) = &self.prompt else {
            return Ok(());
        };
        for (prompt, row) in prompts.all().iter().zip(rows) {
            let mut ids = tokenizer.encode(prompt)?;
            ids.truncate(self.tokenizer_model_max_length.unwrap_or(usize::MAX));
            ensure!(
                ids == row.ids,
                "ids of {prompt:?}: {ids:?}, recorded {:?}",
                row.ids
            );
            let findings = prompt.split_once("Predicted Findings: ");
            if let Some((_, rest)) = findings {
                let (findings, _) = rest
                    .split_once(". You are")
                    .context("another report prompt")?;
                let ours = Prompts::v2().report(findings).written(ImageRule::Marker);
                ensure!(
                    prompt.starts_with(&ours),
                    "{prompt:?} does not begin with {ours:?}"
                );
            }
        }
        Ok(())
    }
}

impl<'a> Speaker<'a> {
    fn new(config: &LlamaConfig, load: &'a Load<'a>) -> Result<Self> {
        let model = Arc::new(load(config)?);
        Ok(Self { model, load })
    }

    fn config(&self) -> &LlamaConfig {
        self.model.config()
    }

    /// The decoder's input for an image, `[196, hidden]`.
    fn projected(&self, image: &Tensor) -> Result<Tensor> {
        let ids = placed(&[MARKER_ID], self.config())?;
        Ok(self.model.embed(&ids, std::slice::from_ref(image))?)
    }

    /// Normalised last hidden states of all positions.
    fn states(model: &LanguageModel, row: &Row) -> Result<Tensor> {
        let input = model.embed(&row.ids, &row.images)?;
        let len = row.ids.len();
        let mut cache = model.cache(len)?;
        let cache = &mut cache;
        Ok(model.forward(&input, &mut [SequenceChunk { cache, len }])?)
    }

    fn logits(&self, row: &Row) -> Result<Tensor> {
        Ok(self.model.logits(&Self::states(&self.model, row)?)?)
    }

    /// Logits behind the prompt, `[vocab]`.
    fn last_logits(&self, row: &Row) -> Result<Tensor> {
        let logits = self.logits(row)?;
        Ok(logits.get(logits.dim(0)? - 1)?)
    }

    /// What the original recorded as this quantity of an entry, in the shape of the record.
    fn output(
        &self,
        entry: &Entry,
        rows: &[Row],
        quantity: &str,
        recorded: &Tensor,
    ) -> Result<Tensor> {
        let row = &rows[0];
        let layers = self.config().num_hidden_layers;
        if let Some(layer) = quantity.strip_prefix("hidden.") {
            return match layer.parse::<usize>()? {
                0 => Ok(self.model.embed(&row.ids, &row.images)?),
                layer if layer == layers => Self::states(&self.model, row),
                layer => self.inner_states(row, layer, recorded),
            };
        }
        let (quantity, step) = match quantity.split_once("_every") {
            Some((quantity, step)) => (quantity, step.parse()?),
            // Where the name says nothing the entries are as far apart as they are few.
            None => (
                quantity,
                self.config().vocab_size / recorded.dim(D::Minus1)?,
            ),
        };
        let logits = match quantity {
            "last_logits" => self.last_logits(row)?,
            "logits" => self.logits(row)?,
            "logits_at_image_edges" => self.logits_at_edges(row)?,
            "first_step_scores" => {
                let each = rows.iter().map(|row| self.last_logits(row));
                Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 0)?
            }
            _ => match quantity.split_once("step_scores_first") {
                Some((_, steps)) => self.step_scores(entry, row, steps.parse()?)?,
                None => bail!("nobody computes '{quantity}'"),
            },
        };
        every(&logits, logits.rank() - 1, step)
    }

    /// States behind an inner layer, by the model of as many layers. That ends in the final norm, which loses the length of
    /// each state: it is taken from the recorded one.
    fn inner_states(&self, row: &Row, layer: usize, recorded: &Tensor) -> Result<Tensor> {
        let first_layers = |num_hidden_layers| {
            (self.load)(&LlamaConfig {
                num_hidden_layers,
                ..self.config().clone()
            })
        };
        let normalised = Self::states(&first_layers(layer)?, row)?;
        let eps = self.config().rms_norm_eps;
        let length = (recorded.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?;
        // What the norm alone makes of ones is its weight.
        let norm = first_layers(0)?;
        let (mut cache, len) = (norm.cache(1)?, 1);
        let cache = &mut cache;
        let ones = recorded.narrow(0, 0, 1)?.ones_like()?;
        let weight = norm.forward(&ones, &mut [SequenceChunk { cache, len }])?;
        let weight = (weight * (1.0 + eps).sqrt())?;
        Ok(normalised.broadcast_div(&weight)?.broadcast_mul(&length)?)
    }

    /// Logits at the last position before the image, at its first and last one, and at the first one behind it.
    fn logits_at_edges(&self, row: &Row) -> Result<Tensor> {
        let image = self.config().image_token();
        let first = row.ids.iter().position(|&id| id == image);
        let first = first.context("no image")? as u32;
        let last = first + self.config().num_image_tokens as u32 - 1;
        let places = Tensor::new(&[first - 1, first, last, last + 1], self.model.device())?;
        Ok(self.logits(row)?.index_select(&places, 0)?)
    }

    /// Logits of the first steps of a generation, by one pass over the prompt and what was generated.
    fn step_scores(&self, entry: &Entry, row: &Row, steps: usize) -> Result<Tensor> {
        let new = entry
            .new_ids
            .as_ref()
            .context("no new_ids")?
            .all()
            .remove(0);
        let ids = [row.ids.as_slice(), &new[..steps - 1]].concat();
        let images = row.images.clone();
        let logits = self.logits(&Row { ids, images })?;
        Ok(logits.narrow(0, row.ids.len() - 1, steps)?)
    }

    /// Holds answers to the recorded ids and text; the sequences of an entry are decoded together.
    fn check_answers(
        &self,
        entry: &Entry,
        rows: &[Row],
        tokenizer: Option<&LlamaTokenizer>,
    ) -> Result<()> {
        let Some(expected) = entry.new_ids.as_ref().map(OneOrMany::all) else {
            return Ok(());
        };
        let limits = EngineLimits {
            sequences: rows.len(),
            cache_tokens: rows.len() * self.config().max_position_embeddings,
            ..EngineLimits::default()
        };
        let mut engine = Engine::new(Arc::clone(&self.model), limits);
        let mut order = Vec::new();
        for (row, new) in rows.iter().zip(&expected) {
            order.push(engine.admit(GenerationRequest {
                prompt: row.ids.clone(),
                images: row.images.clone(),
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
            let found = finished.remove(sequence);
            let mut found = found.context("a sequence never finished")?;
            if let Some((reply, tokenizer)) = entry.reply.as_ref().zip(tokenizer) {
                let text = tokenizer.decode_text(&found);
                ensure!(text.trim() == reply, "reply {text:?}, recorded {reply:?}");
            }
            found.resize(expected.len(), PAD as u32);
            ensure!(found == *expected, "ids {found:?}, recorded {expected:?}");
        }
        Ok(())
    }
}

/// Holds every output of these names to its record.
fn close(case: &Case, name: &str, actual: &Tensor, recorded: &Tensor) -> Result<()> {
    let pointer = match case.has("/tolerance/outputs") {
        true => "/tolerance/outputs",
        false => "/tolerance",
    };
    case.close(
        name,
        actual,
        recorded,
        case.output_tolerance(name, pointer)?,
    )
}

/// The entries of a file of tokens, by name.
fn entries(case: &Case, file: &str) -> Result<BTreeMap<String, Entry>> {
    case.json(file)
}
