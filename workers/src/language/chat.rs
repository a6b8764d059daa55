//! Turns of conversations: a prompt that holds what was said before, and an answer that is read while it is written.

use bytes::Bytes;
use radialog_models::bundle::networks::Language;
use radialog_models::image_tokens;
use radialog_models::language::{Completion, Request, Sampling, Turn};
use radialog_models::prompt::{Dialog, Past, Prompt};
use radialog_models::tokenizers::{LlamaTokenizer, TextStream};
use radialog_runtime::conversations::{self, Snapshot};
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::OpenTurn;
use radialog_schemas::{Answer, Ask, ErrorCode, Failure, TurnEvent, TurnOutcome};
use tokio::sync::mpsc::UnboundedSender;

use crate::input;

/// An answer on its way to its reader.
pub(super) struct Speech {
    voice: UnboundedSender<TurnEvent>,
    text: TextStream,
    /// How many more tokens the answer may have.
    left: usize,
    dropped_turns: Vec<u32>,
}

impl Speech {
    /// Passes a token on.
    pub(super) fn say(&mut self, tokenizer: &LlamaTokenizer, id: u32) {
        let mut text = self.text.push(tokenizer, id);
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            text += &self.text.finish();
        }
        self.send(id, text);
    }

    /// The whole answer. The end token is passed on only where it ends an unfinished character.
    pub(super) fn end(mut self, tokenizer: &LlamaTokenizer, prompt_tokens: usize, completion: &Completion) -> Bytes {
        let rest = self.text.finish();
        if let Some(&id) = completion.tokens.last().filter(|_| !rest.is_empty()) {
            self.send(id, rest);
        }
        input::to_json(&Answer {
            text: tokenizer.decode_continuation(&completion.tokens),
            prompt_tokens: prompt_tokens as u32,
            cached_tokens: completion.cached as u32,
            tokens: completion.tokens.len() as u32,
            complete: completion.complete,
            dropped_turns: self.dropped_turns,
        })
    }

    fn send(&self, id: u32, text: String) {
        // Nobody listens any more after a cancellation or a shutdown.
        let _ = self.voice.send(TurnEvent::Token { id, text });
    }
}

/// Fetches what a turn is answered from. Returns the question as the model reads it, too.
pub(super) async fn request(
    language: &Language,
    window: usize,
    turn: OpenTurn<'_>,
    objects: &dyn Objects,
) -> Result<(Request, Speech, String), Failure> {
    let OpenTurn { snapshot, number, written, voice } = turn;
    let (dialog, open) = dialog(language, snapshot, number)?;
    let asked = dialog.asked.readable();
    let generation = &open.request.generation;
    let fitted = dialog.fit(&language.prompts, &language.tokenizer, window, generation.max_new_tokens as usize)?;
    let image = snapshot.conversation.image.as_ref();
    let mut images = Vec::new();
    if let Some(image) = image {
        let content = input::object(objects, &image.embedding).await?;
        images.push(image_tokens::decode(&content).map_err(|error| input::corrupt(&image.embedding, error))?);
    }
    let mut text = TextStream::default();
    for &id in written {
        text.push(&language.tokenizer, id);
    }
    let left = fitted.max_new_tokens.saturating_sub(written.len());
    let speech = Speech { voice, text, left, dropped_turns: fitted.dropped };
    let request = Request {
        prompt: fitted.ids,
        images,
        sampling: Sampling::from(generation),
        max_new_tokens: fitted.max_new_tokens,
        turn: Some(Turn {
            images: image.map(|image| image.embedding.to_string()).unwrap_or_default(),
            written: written.to_vec(),
        }),
    };
    Ok((request, speech, asked))
}

/// The conversation up to this turn, without the turns that have no answer, and the turn.
fn dialog<'a>(
    language: &Language,
    snapshot: &'a Snapshot,
    number: u32,
) -> Result<(Dialog, &'a conversations::Turn), Failure> {
    let prompts = &language.prompts;
    let nothing = || Failure::new(ErrorCode::MessageInvalid, "the turn asks nothing: name at least one finding");
    let open = (number as usize).checked_sub(1).and_then(|index| snapshot.turns.get(index)).ok_or_else(nothing)?;
    let findings = match (&snapshot.conversation.image, &snapshot.prepared) {
        (Some(_), Some(Ok(report))) => Some(report.text.as_str()),
        _ => None,
    };
    let opening = snapshot.conversation.opening.iter().map(|exchange| {
        let ask = Ask::Question { text: exchange.user.clone() };
        (None, ask, exchange.assistant.as_str())
    });
    let turns = (1..number).zip(&snapshot.turns);
    let turns = turns.filter_map(|(number, turn)| Some((Some(number), turn.request.ask.clone(), answer_of(turn)?)));
    let mut past: Vec<Past> = Vec::new();
    for (turn, ask, answer) in opening.chain(turns) {
        let answer = prompts.plain(answer);
        // An empty answer would leave its turn open, and what asks nothing has none that matters.
        let findings = findings.filter(|_| past.is_empty());
        let Some(asked) = prompts.message(&ask, findings).filter(|_| answer != Prompt::default()) else { continue };
        past.push(Past { turn, asked, answer });
    }
    let findings = findings.filter(|_| past.is_empty());
    let asked = prompts.message(&open.request.ask, findings).filter(|asked| *asked != Prompt::default());
    Ok((Dialog { past, asked: asked.ok_or_else(nothing)? }, open))
}

/// What a turn has answered: a person's version, or the model's words. A turn that was cancelled or failed has no answer,
/// unless a person wrote one.
fn answer_of(turn: &conversations::Turn) -> Option<&str> {
    match (&turn.edited, &turn.outcome) {
        (Some(edited), _) => Some(edited),
        (None, Some(TurnOutcome::Done(answer))) => Some(&answer.text),
        _ => None,
    }
}
