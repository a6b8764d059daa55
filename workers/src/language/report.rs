//! Reports of a batch: one prompt, one text, and where a run asks for them further texts that are sampled for it.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::Tensor;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::language::{Completion, GenerationRequest, Sampling};
use radialog_models::prompt::Prompt;
use radialog_models::{agreement, image_tokens};
use radialog_runtime::objects::Objects;
use radialog_schemas::{
    ContentHash, ErrorCode, Failure, FindingsReport, GeneratedReport, Generation, ObjectKey, Stage,
    Task, Work,
};

use crate::input;

/// Fetches what a report is written from. The first request is the report's, and those of its samples follow.
pub(super) async fn requests(
    language: &Arc<LanguagePipeline>,
    task: &Task,
    objects: &dyn Objects,
) -> Result<Vec<GenerationRequest>, Failure> {
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
    let drawn_by = drawn_by(task);
    input::compute(move || {
        let image_tokens =
            image_tokens::decode(&content).map_err(|error| input::corrupt(&embedding, error))?;
        let prompt = language.prompts.report(&findings.text);
        let task = LanguageTask::Report;
        let asked = |generation: &Generation, key: &ObjectKey| {
            let images = vec![image_tokens.clone()];
            asked(&language, task, &prompt, images, generation, key)
        };
        let report = asked(&generation, &drawn_by)?;
        let Some(sampling) = generation.samples else {
            return Ok(vec![report]);
        };
        let key = Some(ContentHash::of(&content).to_string());
        let report = GenerationRequest {
            prompt_key: key.clone(),
            ..report
        };
        let sample = |number: u32| {
            let sampled = Generation {
                temperature: Some(sampling.temperature),
                top_p: None,
                ..generation.clone()
            };
            let mut request = asked(&sampled, &output)?;
            // Each sample draws from a stream of its own, none of them from the report's.
            request.sampling.seed = stream(request.sampling.seed, number);
            request.prompt_key = key.clone();
            Ok(request)
        };
        std::iter::once(Ok(report))
            .chain((1..=sampling.count).map(sample))
            .collect()
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
        prompt_key: None,
        generated: Vec::new(),
        turn_key: None,
    })
}

/// What is stored.
pub(super) fn content(
    language: &LanguagePipeline,
    prompt_tokens: usize,
    completion: &Completion,
    samples: &[Completion],
) -> Bytes {
    let text = |completion: &Completion| {
        let answer = language.tokenizer.decode_continuation(&completion.tokens);
        language.prompts.report_text(&answer).to_owned()
    };
    let report = text(completion);
    if samples.is_empty() {
        return written(&report, prompt_tokens, completion);
    }
    let samples = samples.iter().map(text).collect();
    let consistency = Some(agreement::consistency(&report, samples));
    input::to_json(&GeneratedReport {
        consistency,
        ..generated(&report, prompt_tokens, completion)
    })
}

/// A text with its counts.
pub(super) fn written(text: &str, prompt_tokens: usize, completion: &Completion) -> Bytes {
    input::to_json(&generated(text, prompt_tokens, completion))
}

fn generated(text: &str, prompt_tokens: usize, completion: &Completion) -> GeneratedReport {
    GeneratedReport {
        text: text.to_owned(),
        prompt_tokens: prompt_tokens as u32,
        tokens: completion.tokens.len() as u32,
        complete: completion.complete,
        consistency: None,
    }
}

/// The key by which a report is drawn: that of the report alone. Its samples are not part of it, or they would change what they are
/// compared with.
fn drawn_by(task: &Task) -> ObjectKey {
    match &task.work {
        Work::Report {
            embedding,
            findings,
            generation,
        } if generation.samples.is_some() => {
            let alone = Generation {
                samples: None,
                ..generation.clone()
            };
            ObjectKey::report(&task.component, embedding, findings, &alone)
        }
        _ => task.output.clone(),
    }
}

/// Each study draws from a stream of its own, so that a sampled report does not depend on what else is in the batch.
fn seed_of(generation: &Generation, output: &ObjectKey) -> u64 {
    first_bits(&ContentHash::of_parts([
        &generation.seed.to_le_bytes()[..],
        output.as_str().as_bytes(),
    ]))
}

/// The seed of one sample of a study.
fn stream(seed: u64, number: u32) -> u64 {
    first_bits(&ContentHash::of_parts([
        &seed.to_le_bytes()[..],
        &number.to_le_bytes()[..],
    ]))
}

fn first_bits(hash: &ContentHash) -> u64 {
    u64::from_str_radix(&hash.as_str()[..16], 16).expect("a hash is hexadecimal")
}

#[cfg(test)]
mod tests {
    use radialog_schemas::ReportSampling;

    use super::*;

    #[test]
    fn a_report_is_drawn_as_without_samples_and_its_samples_are_not() {
        let component = ContentHash::of(b"component");
        let (embedding, findings) = (
            ObjectKey::embedding(&component, &ObjectKey::text(&component)),
            ObjectKey::findings(&component, &ObjectKey::text(&component)),
        );
        let task = |samples: Option<ReportSampling>| {
            let generation = Generation {
                temperature: Some(0.9),
                seed: 5,
                samples,
                ..Generation::default()
            };
            let output = ObjectKey::report(&component, &embedding, &findings, &generation);
            let work = Work::Report {
                embedding: embedding.clone(),
                findings: findings.clone(),
                generation,
            };
            Task::new(&"run".into(), &"study".into(), &component, output, work)
        };
        let alone = task(None);
        let sampling = ReportSampling {
            count: 2,
            temperature: 1.0,
        };
        let sampled = task(Some(sampling));
        assert_ne!(alone.output, sampled.output);
        assert_eq!(drawn_by(&sampled), drawn_by(&alone));
        assert_eq!(drawn_by(&alone), alone.output);
    }
}
