//! Answers to texts, without an image: what data sets for training are written with.

use std::sync::Arc;

use bytes::Bytes;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::language::{Completion, GenerationRequest};
use radialog_models::prompt::Prompt;
use radialog_runtime::objects::Objects;
use radialog_schemas::{Failure, Generation, ObjectKey, TextPrompt};

use super::report;
use crate::input;

/// Fetches the conversation that is to go on.
pub(super) async fn request(
    language: &Arc<LanguagePipeline>,
    prompt: &ObjectKey,
    generation: &Generation,
    output: &ObjectKey,
    objects: &dyn Objects,
) -> Result<GenerationRequest, Failure> {
    let TextPrompt { messages } = input::fetch_json(objects, prompt).await?;
    if messages.len().is_multiple_of(2) {
        return Err(input::corrupt(
            prompt,
            "the last message must be the user's",
        ));
    }
    let language = language.clone();
    let (generation, output) = (generation.clone(), output.clone());
    input::compute(move || {
        let messages: Vec<Prompt> = messages
            .iter()
            .map(|text| Prompt::text(text))
            .chain([Prompt::default()])
            .collect();
        let prompt = language.prompts.conversation(&messages);
        report::asked(
            &language,
            LanguageTask::Chat,
            &prompt,
            Vec::new(),
            &generation,
            &output,
        )
    })
    .await
}

/// What is stored: all that the model wrote.
pub(super) fn content(
    language: &LanguagePipeline,
    prompt_tokens: usize,
    completion: &Completion,
) -> Bytes {
    report::written(
        language
            .prompts
            .answer_text(&language.tokenizer.decode_continuation(&completion.tokens)),
        prompt_tokens,
        completion,
    )
}
