//! Reports of a batch: one prompt, one text.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::Tensor;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::image_tokens;
use radialog_models::language::{Completion, GenerationRequest, Sampling};
use radialog_models::prompt::Prompt;
use radialog_runtime::objects::Objects;
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, FindingsReport, GeneratedReport, Generation, ObjectKey, Stage,
    Task, Work,
};

use crate::input;

/// Fetches what a report is written from.
pub(super) async fn request(
    language: &Arc<LanguagePipeline>,
    task: &Task,
    objects: &dyn Objects,
) -> Result<GenerationRequest, Failure> {
    let Work::Report {
        embedding,
        findings,
        generation,
    } = &task.work
    else {
        return Err(input::wrong_stage(Stage::Language));
    };
    let (content, findings) = tokio::try_join!(
        input::fetch_object(objects, embedding),
        input::fetch_json::<FindingsReport>(objects, findings)
    )?;
    let (language, embedding) = (language.clone(), embedding.clone());
    let (generation, output) = (generation.clone(), task.output.clone());
    input::compute(move || {
        let image_tokens =
            image_tokens::decode(&content).map_err(|error| input::corrupt(&embedding, error))?;
        let prompt = language.prompts.report(&findings.text);
        let images = vec![image_tokens];
        let task = LanguageTask::Report;
        asked(&language, task, &prompt, images, &generation, &output)
    })
    .await
}

/// A prompt as the model takes it.
pub(super) fn asked(
    language: &LanguagePipeline,
    task: LanguageTask,
    prompt: &Prompt,
    images: Vec<Tensor>,
    generation: &Generation,
    output: &ObjectKey,
) -> Result<GenerationRequest, Failure> {
    Ok(GenerationRequest {
        adapter: input::adapter(language, generation, task)?,
        prompt: language
            .tokenizer
            .encode_prompt(prompt)
            .map_err(|e| Failure::new(ErrorCode::Model, e))?,
        images,
        sampling: Sampling {
            seed: seed_of(generation, output),
            ..Sampling::from(generation)
        },
        max_new_tokens: generation.max_new_tokens as usize,
        chat: None,
    })
}

/// What is stored.
pub(super) fn content(
    language: &LanguagePipeline,
    prompt_tokens: usize,
    completion: &Completion,
) -> Bytes {
    let answer = language.tokenizer.decode_continuation(&completion.tokens);
    written(
        language.prompts.report_text(&answer),
        prompt_tokens,
        completion,
    )
}

/// A text with its counts.
pub(super) fn written(text: &str, prompt_tokens: usize, completion: &Completion) -> Bytes {
    input::to_json(&GeneratedReport {
        text: text.to_owned(),
        prompt_tokens: prompt_tokens as u32,
        tokens: completion.tokens.len() as u32,
        complete: completion.complete,
    })
}

/// Each study draws from a stream of its own, so that a sampled report does not depend on what else is in the batch.
fn seed_of(generation: &Generation, output: &ObjectKey) -> u64 {
    let hash = ContentHash::of_parts([
        &generation.seed.to_le_bytes()[..],
        output.as_str().as_bytes(),
    ]);
    u64::from_str_radix(&hash.as_str()[..16], 16).expect("a hash is hexadecimal")
}
