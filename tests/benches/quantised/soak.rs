//! An engine at full load for minutes: whether its memory stays what it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use radialog_models::language::{
    ChatLimits, Engine, EngineEvent, EngineLimits, GenerationRequest, LanguageModel, Sampling,
    SequenceId,
};
use radialog_tests::benchmark::memory;

/// Sequences at a time, of which one place is kept for turns.
const SEQUENCES: usize = 9;
/// Tokens of the longest prompt and answer together.
const LONGEST: usize = 512;
/// Lines that are printed.
const LINES: u32 = 30;

/// Admits reports and turns of conversations of any length, goes on with some of the conversations, cancels some, and prints
/// the memory of the process from time to time.
pub(super) fn run(model: &Arc<LanguageModel>, minutes: f64) -> Result<()> {
    let limits = EngineLimits {
        sequences: SEQUENCES,
        cache_tokens: SEQUENCES * LONGEST,
        chat: ChatLimits {
            sequences: 1,
            cache_tokens: LONGEST,
            kept_tokens: 4 * LONGEST,
        },
        speculate: 8,
    };
    let mut engine = Engine::new(Arc::clone(model), limits);
    let mut state = 29u64;
    let mut draw = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    let vocabulary = model.config().vocab_size;
    let whole = Duration::from_secs_f64(60.0 * minutes);
    let (started, mut line) = (Instant::now(), 1);
    let (mut live, mut conversations) =
        (Vec::<(SequenceId, Vec<u32>)>::new(), Vec::<Vec<u32>>::new());
    let (mut tokens, mut finished, mut cancelled, mut known) = (0u64, 0u64, 0u64, 0usize);
    println!(
        "| minutes | answers | cancelled | tokens | tokens known from earlier turns | memory, MB |\n| --- | --- | --- | --- | --- | --- |"
    );
    while started.elapsed() < whole {
        while live.len() < 2 * SEQUENCES {
            let old = match draw(4) {
                0 if !conversations.is_empty() => {
                    conversations.swap_remove(draw(conversations.len()))
                }
                _ => Vec::new(),
            };
            let new = 1 + draw(LONGEST / 2 - old.len().min(LONGEST / 2 - 1));
            let prompt: Vec<u32> = old
                .into_iter()
                .chain((0..new).map(|_| 3 + draw(vocabulary - 3) as u32))
                .collect();
            let is_turn = draw(2) == 0;
            let request = GenerationRequest {
                prompt: prompt.clone(),
                sampling: Sampling {
                    temperature: (draw(2) == 0).then_some(0.7),
                    top_p: Some(0.9),
                    seed: draw(1 << 20) as u64,
                },
                max_new_tokens: 1 + draw(LONGEST / 4),
                turn_key: is_turn.then(String::new),
                ..GenerationRequest::default()
            };
            live.push((
                engine.admit(request)?,
                if is_turn { prompt } else { Vec::new() },
            ));
        }
        if draw(40) == 0 {
            let (id, _) = live.swap_remove(draw(live.len()));
            engine.cancel(id);
            cancelled += 1;
        }
        for event in engine.step()? {
            let EngineEvent::Finished { sequence, result } = event else {
                continue;
            };
            let answer = result?;
            let place = live.iter().position(|(id, _)| *id == sequence);
            let (_, prompt) = live.swap_remove(place.context("an answer to nothing")?);
            tokens += answer.tokens.len() as u64;
            known += answer.cached;
            finished += 1;
            if !prompt.is_empty() && prompt.len() + answer.tokens.len() < LONGEST / 2 {
                conversations.push([prompt, answer.tokens].concat());
                conversations.truncate(64);
            }
        }
        if started.elapsed() * LINES >= whole * line {
            line += 1;
            println!(
                "| {:.1} | {finished} | {cancelled} | {tokens} | {known} | {:.1} |",
                started.elapsed().as_secs_f64() / 60.0,
                memory() as f64 / 1e6
            );
        }
    }
    Ok(())
}
