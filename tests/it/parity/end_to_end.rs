//! The whole chain beside the original, from image files to a report and a follow-up answer, with the weights of the
//! cases of its parts.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig, TextRule};
use radialog_models::language::llama::SequenceChunk;
use radialog_models::language::{
    Engine, EngineEvent, EngineLimits, GenerationRequest, LanguageModel, LlamaConfig, LoraAdapter,
    LoraConfig, Sampling,
};
use radialog_models::preprocess::{ImageLimits, Preprocessed, SHORT_SIDE};
use radialog_models::prompt::{Prompt, Prompts};
use radialog_models::tokenizers::LlamaTokenizer;
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::golden::{Case, FormulaWeights};
use serde::Deserialize;

/// The tokenizer's path, relative to the case's folder.
const TOKENIZER: &str = "../tokenizers/llama/tokenizer.json";

/// One image and the conversation about it.
#[derive(Deserialize)]
struct Dialogue {
    image: String,
    findings_text: String,
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    prompt: String,
    input_ids: Vec<u32>,
    new_ids: Vec<u32>,
    reply: String,
    min_margin: f64,
}

struct Chain {
    vision: VisionConfig,
    encoder: ImageEncoder,
    alignment: Alignment,
    classifier: FindingsClassifier,
    classifier_side: usize,
    model: Arc<LanguageModel>,
    tokenizer: LlamaTokenizer,
    max_new_tokens: usize,
    /// Ids are only comparable where the original's best and second-best logits are further apart.
    least_margin: f64,
}

/// Holds every image's recorded outputs and every turn's texts and ids.
pub(super) fn check(case: &Case) -> Result<()> {
    let chain = Chain::load(case)?;
    let outputs = case.tensors("outputs.safetensors")?;
    let dialogues: Vec<Dialogue> = case.json(&case.field::<String>("/inputs")?)?;
    let mut used = 0;
    for dialogue in &dialogues {
        let name = dialogue.image.rsplit('/').next().unwrap_or_default();
        let recorded: HashMap<&str, &Tensor> = outputs
            .iter()
            .filter_map(|(key, t)| Some((key.strip_prefix(name)?.strip_prefix('.')?, t)))
            .collect();
        used += recorded.len();
        chain
            .check(case, dialogue, &recorded)
            .with_context(|| name.to_owned())?;
    }
    ensure!(
        used == outputs.len(),
        "{} outputs, {used} belong to an image",
        outputs.len()
    );
    Ok(())
}

impl Chain {
    fn load(case: &Case) -> Result<Self> {
        // "../folder (what of it)"
        let part = |name: &str| -> Result<Case> {
            let path: String = case.field(&format!("/weights/{name}"))?;
            case.sibling(path.split(' ').next().unwrap_or_default())
        };
        let (image_encoder, alignment, findings) = (
            part("image_encoder")?,
            part("alignment")?,
            part("findings")?,
        );
        let vision: VisionConfig = image_encoder.field("/config")?;
        let classifier: FindingsConfig = findings.field("/config")?;
        let rule: String = case.field("/tolerance/tokens")?;
        let least_margin = rule.rsplit(' ').next().and_then(|bound| bound.parse().ok());
        Ok(Self {
            encoder: ImageEncoder::single_image(&vision, image_encoder.weights()?)?,
            vision,
            alignment: Alignment::new(
                &alignment.field::<AlignmentConfig>("/config")?,
                alignment.weights()?,
            )?,
            classifier_side: classifier.vision.image_size,
            classifier: FindingsClassifier::new(&classifier, findings.weights()?)?,
            model: Arc::new(language_model(&part("language_model")?)?),
            tokenizer: LlamaTokenizer::from_file(&case.dir().join(TOKENIZER))?,
            max_new_tokens: case.field("/max_new_tokens")?,
            least_margin: least_margin.with_context(|| format!("no bound in '{rule}'"))?,
        })
    }

    fn check(
        &self,
        case: &Case,
        dialogue: &Dialogue,
        recorded: &HashMap<&str, &Tensor>,
    ) -> Result<()> {
        let close = |name: &str, actual: &Tensor| -> Result<()> {
            let expected = recorded
                .get(name)
                .with_context(|| format!("'{name}' is not recorded"))?;
            case.close(
                name,
                actual,
                expected,
                case.tolerance(&format!("/tolerance/{}", last_part(name)))?,
            )
        };
        let image = Preprocessed::from_bytes(
            &std::fs::read(case.dir().join(&dialogue.image))?,
            &ImageLimits::default(),
            SHORT_SIDE,
        )?;
        let input =
            |side: usize| -> Result<Tensor> { Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?) };

        let patches = self.encoder.project(&input(self.vision.image_size)?)?;
        let tokens = self.alignment.forward_image(&patches)?.tokens.squeeze(0)?;
        close("query_output", &tokens)?;

        let classified = self.classifier.forward(&input(self.classifier_side)?)?;
        close("findings_logits", &classified.logits.squeeze(0)?)?;
        let predicted = classified.reports(TextRule::Demo, None, None)?;
        ensure!(
            predicted[0].text == dialogue.findings_text,
            "findings '{}'",
            predicted[0].text
        );

        let prompts = Prompts::demo();
        let mut messages = vec![prompts.report_message(&dialogue.findings_text)];
        for (index, turn) in dialogue.turns.iter().enumerate() {
            if index > 0 {
                messages.push(Prompt::text(question(&prompts, &turn.prompt)?));
            }
            messages.push(Prompt::default());
            let prompt = prompts.conversation(&messages);
            ensure!(
                prompt.to_string() == turn.prompt,
                "prompt of turn {index}: '{prompt}'"
            );
            let ids = self.tokenizer.encode_prompt(&prompt)?;
            ensure!(ids == turn.input_ids, "ids of turn {index}: {ids:?}");
            close(
                &format!("turn{index}.first_step_logits"),
                &self.first_logits(&ids, &tokens)?,
            )?;
            if turn.min_margin > self.least_margin {
                let new = self.answer(ids, &tokens)?;
                ensure!(
                    new == turn.new_ids,
                    "answer of turn {index}: {new:?}, recorded {:?}",
                    turn.new_ids
                );
                let reply = self.tokenizer.decode_continuation(&new);
                ensure!(
                    reply == turn.reply,
                    "reply of turn {index}: '{reply}', recorded '{}'",
                    turn.reply
                );
            }
            messages.pop();
            messages.push(Prompt::text(&turn.reply));
        }
        Ok(())
    }

    /// The logits `[vocab]` behind a prompt.
    fn first_logits(&self, ids: &[u32], tokens: &Tensor) -> Result<Tensor> {
        let mut cache = self.model.cache(ids.len())?;
        let input = self.model.embed(ids, std::slice::from_ref(tokens))?;
        let hidden = self.model.forward(
            &input,
            &mut [SequenceChunk {
                cache: &mut cache,
                len: ids.len(),
            }],
        )?;
        Ok(self
            .model
            .logits(&hidden.narrow(0, ids.len() - 1, 1)?)?
            .squeeze(0)?)
    }

    fn answer(&self, prompt: Vec<u32>, tokens: &Tensor) -> Result<Vec<u32>> {
        let mut engine = Engine::new(
            self.model.clone(),
            EngineLimits {
                sequences: 1,
                cache_tokens: usize::MAX,
                ..EngineLimits::default()
            },
        );
        engine.admit(GenerationRequest {
            prompt,
            images: vec![tokens.clone()],
            sampling: Sampling::default(),
            max_new_tokens: self.max_new_tokens,
            ..GenerationRequest::default()
        })?;
        loop {
            for event in engine.step()? {
                if let EngineEvent::Finished { result, .. } = event {
                    return Ok(result?.tokens);
                }
            }
        }
    }
}

fn language_model(case: &Case) -> Result<LanguageModel> {
    let config: LlamaConfig = case.field("/config")?;
    let weights = FormulaWeights::open(
        case.dir(),
        "adapter_manifest.json",
        case.field("/weights/seed")?,
    )?;
    let lora = LoraConfig {
        r: case.field("/config/lora/r")?,
        lora_alpha: case.field("/config/lora/alpha")?,
        target_modules: case.field("/config/lora/target_modules")?,
    };
    let adapter = LoraAdapter::new(
        lora,
        VarBuilder::from_backend(Box::new(weights), DType::F32, Device::Cpu),
    );
    Ok(LanguageModel::load(
        &config,
        &case.weights()?,
        Some(&adapter),
    )?)
}

/// The last user's message in a written prompt.
fn question<'a>(prompts: &Prompts, prompt: &'a str) -> Result<&'a str> {
    let [user, assistant] = &prompts.roles;
    let (_, last) = prompt
        .rsplit_once(&format!("{user}: "))
        .context("no user's turn")?;
    last.strip_suffix(&format!(" {assistant}:"))
        .context("the prompt does not end in an open turn")
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
