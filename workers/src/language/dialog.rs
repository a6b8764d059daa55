//! Answers in dialogs about an image, as evaluations ask for them.

use std::sync::Arc;

use bytes::Bytes;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::image_tokens;
use radialog_models::language::{Completion, GenerationRequest};
use radialog_runtime::objects::Objects;
use radialog_schemas::{ContentHash, DialogPrompt, ErrorCode, Failure, Generation, ObjectKey};

use super::report;
use crate::input;

/// Fetches the dialog that is to go on, and its image.
pub(super) async fn request(
    language: &Arc<LanguagePipeline>,
    prompt: &ObjectKey,
    generation: &Generation,
    output: &ObjectKey,
    objects: &dyn Objects,
) -> Result<GenerationRequest, Failure> {
    let dialog: DialogPrompt = input::fetch_json(objects, prompt).await?;
    let content = input::fetch_object(objects, &dialog.embedding).await?;
    let language = language.clone();
    let (generation, output) = (generation.clone(), output.clone());
    input::compute(move || {
        let image = image_tokens::decode(&content)
            .map_err(|error| input::corrupt(&dialog.embedding, error))?;
        let prompt = language.prompts.dialog(&dialog).ok_or_else(|| {
            let message = "this bundle's model was not trained for a task that the dialog asks for: use a bundle whose \
                           prompts have it";
            Failure::new(ErrorCode::MessageInvalid, message)
        })?;
        let task = LanguageTask::Chat;
        let request = report::asked(&language, task, &prompt, vec![image], &generation, &output)?;
        Ok(GenerationRequest {
            // The questions about a report are many, and begin alike.
            prompt_key: Some(ContentHash::of(&content).to_string()),
            ..request
        })
    })
    .await
}

/// What is stored: what the model wrote behind its last name, without white space around it.
pub(super) fn content(
    language: &LanguagePipeline,
    prompt_tokens: usize,
    completion: &Completion,
) -> Bytes {
    let written = language.tokenizer.decode_continuation(&completion.tokens);
    let answer = language.prompts.last_answer(&written);
    report::written(answer, prompt_tokens, completion)
}
