//! What prompt lookup saves: the same answers with and without drafts, by steps, tokens a step and time.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use radialog_models::bundle::components::LanguagePipeline;
use radialog_models::language::{
    Drafts, Engine, EngineEvent, EngineLimits, GenerationRequest, Sampling,
};
use radialog_tests::benchmark::processor_seconds;

/// Dialogs about a report: a correction, a list and a translation into plain words.
const DIALOGS: [(&str, &str); 3] = [
    (
        "correction",
        "Report: The heart is mildly enlarged. There is a small left pleural effusion with adjacent atelectasis. The right lung \
         is clear. There is no pneumothorax. The tip of the right internal jugular line is in the lower superior vena cava.\n\
         Request: There is no effusion. Write the whole report again without it, and leave all else as it is.\n\
         Report: The heart is mildly enlarged.",
    ),
    (
        "list",
        "Report: The heart is mildly enlarged. There is a small left pleural effusion with adjacent atelectasis. The right lung \
         is clear. There is no pneumothorax.\nRequest: Repeat each sentence of the report on a line of its own.\n1. The heart is",
    ),
    (
        "plain words",
        "Report: The heart is mildly enlarged. There is a small left pleural effusion. There is no pneumothorax.\n\
         Request: Explain the report to the patient in plain words.\nAnswer: Your heart is",
    ),
];
/// Tokens of an answer, at most.
const ANSWER: usize = 120;
/// Tokens that a step drafts.
const DRAFTED: [usize; 4] = [0, 4, 8, 15];

/// What a run of one dialog gave.
struct Run {
    answers: Vec<Vec<u32>>,
    drafts: Drafts,
    /// Steps behind the prompts.
    steps: usize,
    seconds: f64,
    processor: f64,
}

/// Prints a row for each dialog, number of equal conversations at a time and length of drafts.
pub(super) fn measure(language: &LanguagePipeline) -> Result<()> {
    println!(
        "| dialog | at a time | drafts | tokens | steps | tokens a step and answer | right, of drafted | seconds | processor-seconds |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for (name, text) in DIALOGS {
        let prompt = language.tokenizer.encode(text)?;
        for (at_a_time, temperature) in [(1, None), (1, Some(0.5)), (4, None)] {
            let mut plain: Option<Vec<Vec<u32>>> = None;
            for speculate in DRAFTED {
                let run = answer(language, &prompt, at_a_time, temperature, speculate)?;
                let expected = plain.get_or_insert_with(|| run.answers.clone());
                ensure!(run.answers == *expected, "drafts changed an answer");
                let tokens: usize = run.answers.iter().map(Vec::len).sum();
                println!(
                    "| {name}{} | {at_a_time} | {speculate} | {tokens} | {} | {:.2} | {} of {} | {:.2} | {:.2} |",
                    if temperature.is_some() { ", drawn" } else { "" },
                    run.steps,
                    tokens as f64 / run.steps as f64 / at_a_time as f64,
                    run.drafts.accepted,
                    run.drafts.drafted,
                    run.seconds,
                    run.processor,
                );
            }
            if at_a_time == 1 && temperature.is_none() {
                let said = plain.unwrap_or_default();
                println!(
                    "# {name}: {}",
                    language.tokenizer.decode(&said[0]).replace('\n', " / ")
                );
            }
        }
    }
    Ok(())
}

fn answer(
    language: &LanguagePipeline,
    prompt: &[u32],
    at_a_time: usize,
    temperature: Option<f64>,
    speculate: usize,
) -> Result<Run> {
    let limits = EngineLimits {
        sequences: at_a_time,
        cache_tokens: at_a_time * (prompt.len() + ANSWER),
        speculate,
        ..EngineLimits::default()
    };
    let mut engine = Engine::new(Arc::clone(&language.model), limits);
    for _ in 0..at_a_time {
        engine.admit(GenerationRequest {
            prompt: prompt.to_vec(),
            sampling: Sampling {
                temperature,
                seed: 3,
                ..Sampling::default()
            },
            max_new_tokens: ANSWER,
            ..GenerationRequest::default()
        })?;
    }
    let mut answers = Vec::new();
    let mut took = |events: Vec<EngineEvent>| -> Result<()> {
        for event in events {
            if let EngineEvent::Finished { result, .. } = event {
                answers.push(result?.tokens);
            }
        }
        Ok(())
    };
    while engine.running() < at_a_time && !engine.is_idle() {
        took(engine.step()?)?;
    }
    let (started, before) = (Instant::now(), processor_seconds());
    let mut steps = 0;
    while !engine.is_idle() {
        took(engine.step()?)?;
        steps += 1;
    }
    Ok(Run {
        drafts: engine.take_drafts(),
        steps,
        seconds: started.elapsed().as_secs_f64(),
        processor: processor_seconds() - before,
        answers,
    })
}
