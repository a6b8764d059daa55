//! From two radiographs to second answers, with the image encoder at its real size.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use radialog_models::language::LlamaConfig;
use radialog_models::preprocess::{ImageLimits, Preprocessed, SHORT_SIDE};
use radialog_models::prompt::{Prompt, Prompts};
use radialog_models::tokenizers::ImageRule;
use radialog_models::vision::{BatchNormStatistics, ImageEncoder, VisionConfig};
use radialog_tests::golden::Case;
use serde::Deserialize;

use super::super::same_bytes;
use super::{Entry, OneOrMany, Row, Speaker, close, grid, language, placed, tokenizer};

/// One image and the conversation about it.
#[derive(Deserialize)]
struct Dialogue {
    image: String,
    findings_text: String,
    turns: Vec<Turn>,
}

#[derive(Clone, Deserialize)]
struct Turn {
    prompt: String,
    input_ids: Vec<i64>,
    new_ids: Vec<u32>,
    reply: String,
}

/// A preprocessed image `[1, 3, side, side]` of a case.
pub(super) fn image(case: &Case, path: &str, side: usize) -> Result<Tensor> {
    let bytes = std::fs::read(case.dir().join(path)).with_context(|| path.to_owned())?;
    let image = Preprocessed::from_bytes(&bytes, &ImageLimits::default(), SHORT_SIDE)?;
    Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?)
}

/// Holds grids, projected tokens, logits, prompts and answers.
pub(in super::super) fn check(case: &Case) -> Result<()> {
    let part = |name: &str| -> Result<Case> {
        let path: String = case.field(&format!("/weights/{name}"))?;
        case.sibling(path.split(' ').next().unwrap_or_default())
    };
    let (tower, speech) = (part("image_encoder")?, part("language_model")?);
    let vision: VisionConfig = tower.field("/config")?;
    let encoder = |statistics| -> Result<ImageEncoder> {
        Ok(ImageEncoder::patches_only(
            &vision,
            statistics,
            tower.weights()?,
        )?)
    };
    let [running, own, shared] = [
        BatchNormStatistics::Running,
        BatchNormStatistics::Image,
        BatchNormStatistics::Batch,
    ]
    .map(encoder);
    let (running, own, shared) = (running?, own?, shared?);
    let load = |config: &LlamaConfig| language::load(&speech, config);
    let speaker = Speaker::new(&language::geometry(&speech)?, &load)?;

    let dialogues: Vec<Dialogue> = case.json("turns.json")?;
    let images = dialogues
        .iter()
        .map(|dialogue| image(case, &dialogue.image, vision.image_size));
    let images: Vec<Tensor> = images.collect::<Result<_>>()?;
    let images = Tensor::cat(&images, 0)?;
    let (of_both, of_each) = (shared.grid_tokens(&images)?, own.grid_tokens(&images)?);
    let mut outputs = case.tensors("outputs.safetensors")?;
    for (index, dialogue) in dialogues.iter().enumerate() {
        let name = dialogue.image.rsplit('/').next().unwrap_or_default();
        let one = images.narrow(0, index, 1)?;
        let tokens = of_each.get(index)?;
        same_bytes(&tokens, &own.grid_tokens(&one)?.get(0)?)?;
        let stored = running.grid_tokens(&one)?.get(0)?;
        let turns = dialogue
            .turns
            .iter()
            .map(|turn| turn.row(speaker.config(), &tokens));
        let turns: Vec<Row> = turns.collect::<Result<_>>()?;
        let mut hold = |what: &str, actual: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<()> {
            let key = format!("{name}.{what}");
            match outputs.remove(&key) {
                Some(recorded) => close(case, &key, &actual(&recorded)?, &recorded),
                None => Ok(()),
            }
        };
        hold("running_stats.grid_every4th_channel", &|_| {
            grid(&stored, &vision, 4)
        })?;
        hold("running_stats.projected", &|_| speaker.projected(&stored))?;
        hold("batch_stats.grid_every4th_channel", &|_| {
            grid(&tokens, &vision, 4)
        })?;
        hold("batch_stats.projected", &|_| speaker.projected(&tokens))?;
        hold("batch_stats_of_both.projected", &|_| {
            speaker.projected(&of_both.get(index)?)
        })?;
        hold("running_stats.last_logits_every8", &|recorded| {
            let row = dialogue.turns[0].row(speaker.config(), &stored)?;
            speaker.output(
                &dialogue.turns[0].entry(),
                &[row],
                "last_logits_every8",
                recorded,
            )
        })?;
        for (number, (turn, row)) in dialogue.turns.iter().zip(&turns).enumerate() {
            let rows = std::slice::from_ref(row);
            hold(&format!("turn{number}.last_logits_every8"), &|recorded| {
                speaker.output(&turn.entry(), rows, "last_logits_every8", recorded)
            })?;
        }
        check_turns(case, &speech, &speaker, dialogue, &turns).with_context(|| name.to_owned())?;
    }
    ensure!(outputs.is_empty(), "nobody computes {:?}", outputs.keys());
    Ok(())
}

/// Holds prompts, ids and answers of a conversation.
fn check_turns(
    case: &Case,
    speech: &Case,
    speaker: &Speaker<'_>,
    dialogue: &Dialogue,
    rows: &[Row],
) -> Result<()> {
    let tokenizer = tokenizer(case, language::rules(speech)?)?;
    let prompts = Prompts::v2();
    let mut messages = vec![prompts.report_message(&dialogue.findings_text)];
    for (index, (turn, row)) in dialogue.turns.iter().zip(rows).enumerate() {
        if index > 0 {
            let (_, asked) = turn
                .prompt
                .rsplit_once("</s>USER: ")
                .context("no question")?;
            let asked = asked.strip_suffix(" ASSISTANT:").context("no open turn")?;
            messages.push(Prompt::text(asked));
        }
        messages.push(Prompt::default());
        let prompt = prompts.conversation(&messages);
        let written = prompt.written(ImageRule::Marker);
        ensure!(
            written == turn.prompt,
            "prompt of turn {index}: {written:?}"
        );
        let ids = tokenizer.encode_prompt(&prompt)?;
        ensure!(ids == row.ids, "ids of turn {index}: {ids:?}");
        speaker.check_answers(&turn.entry(), std::slice::from_ref(row), Some(&tokenizer))?;
        messages.pop();
        messages.push(Prompt::text(&turn.reply));
    }
    Ok(())
}

impl Turn {
    fn row(&self, config: &LlamaConfig, tokens: &Tensor) -> Result<Row> {
        Ok(Row {
            ids: placed(&self.input_ids, config)?,
            images: vec![tokens.clone()],
        })
    }

    fn entry(&self) -> Entry {
        Entry {
            prompt: None,
            images: Vec::new(),
            input_ids: OneOrMany::One(self.input_ids.clone()),
            new_ids: Some(OneOrMany::One(self.new_ids.clone())),
            reply: Some(self.reply.clone()),
            tokenizer_model_max_length: None,
            spliced_length: None,
        }
    }
}
