//! Turns of conversations: a prompt that holds what was said before, and an answer that is read while it is written.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::comparisons::comparison_marks;
use radialog_models::image_tokens;
use radialog_models::language::{Completion, GenerationRequest, Sampling};
use radialog_models::prompt::{ChatPrompt, Exchange, FittedPrompt, Prompt, Prompts};
use radialog_models::tokenizers::{LlamaTokenizer, TextStream};
use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::OpenTurn;
use radialog_schemas::{
    Answer, Ask, ContentHash, ErrorCode, Failure, TurnEvent, TurnOutcome, TurnRequest,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::input;

/// An answer on its way to its reader: every token is sent as soon as it is there.
pub(super) struct AnswerStream {
    events: UnboundedSender<TurnEvent>,
    text: TextStream,
    /// The number of tokens that the answer may still have.
    left: usize,
    dropped_turns: Vec<u32>,
    stop: StopTexts,
    edges: Edges,
    /// The tokens that are part of the answer so far.
    taken: usize,
    /// Whether the answer is a report, in which comparisons are marked.
    is_report: bool,
}

/// Texts at which an answer ends. What may be the start of one is held until that shows.
#[derive(Default)]
struct StopTexts {
    texts: Vec<String>,
    held: String,
    is_met: bool,
}

impl StopTexts {
    /// What of the answer is known not to be part of such a text, with this much more of it.
    fn pass(&mut self, text: String) -> String {
        if self.texts.is_empty() || self.is_met {
            return if self.is_met { String::new() } else { text };
        }
        let mut text = std::mem::take(&mut self.held) + &text;
        if let Some(end) = self.first(&text) {
            self.is_met = true;
            text.truncate(end);
            return text;
        }
        let starts_one = |rest: &str| self.texts.iter().any(|stop| stop.starts_with(rest));
        let held = text.char_indices().find(|&(at, _)| starts_one(&text[at..]));
        self.held = text.split_off(held.map_or(text.len(), |(at, _)| at));
        text
    }

    /// Where the first of the texts begins.
    fn first(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|stop| text.find(stop)).min()
    }
}

/// White space around an answer. In front of it that is the blank of its first word, which nobody is shown; the model reads it again.
/// Behind it, it stays, or is dropped as [`trim_answers`](radialog_models::prompt::Prompts::trim_answers) wants it.
#[derive(Default)]
struct Edges {
    trims_end: bool,
    begun: bool,
    /// White space that is dropped unless something follows.
    held: String,
}

impl Edges {
    /// What may be shown of the answer with this much more of it.
    fn pass(&mut self, text: String) -> String {
        let mut text = std::mem::take(&mut self.held) + &text;
        if !self.begun {
            text = text.trim_start().to_owned();
        }
        if self.trims_end {
            self.held = text.split_off(text.trim_end().len());
        }
        self.begun |= !text.is_empty();
        text
    }
}

impl AnswerStream {
    /// An answer of at most `most` tokens behind those that are written already, which ends at one of the texts of `stop`.
    fn new(
        sender: UnboundedSender<TurnEvent>,
        tokenizer: &LlamaTokenizer,
        trims: bool,
        stop: &[String],
        written: &[u32],
        most: usize,
    ) -> Self {
        let mut text = TextStream::default();
        let mut edges = Edges {
            trims_end: trims,
            ..Edges::default()
        };
        let mut stop = StopTexts {
            texts: stop.to_vec(),
            ..StopTexts::default()
        };
        for &id in written {
            edges.pass(stop.pass(text.push(tokenizer, id)));
        }
        let left = most.saturating_sub(written.len());
        if left == 0 || written.last() == Some(&tokenizer.eos_id()) {
            // The text ended with the last of them.
            text.finish();
            stop.held.clear();
        }
        Self {
            events: sender,
            text,
            left,
            dropped_turns: Vec::new(),
            stop,
            edges,
            taken: written.len(),
            is_report: false,
        }
    }

    /// Sends a token, with the characters that it completes.
    pub(super) fn push_token(&mut self, tokenizer: &LlamaTokenizer, id: u32) {
        if self.is_stopped() {
            return;
        }
        let mut text = self.text.push(tokenizer, id);
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            text += &self.text.finish();
        }
        self.taken += 1;
        let mut text = self.stop.pass(text);
        if self.left == 0 {
            text += &std::mem::take(&mut self.stop.held);
        }
        let text = self.edges.pass(text);
        self.send(id, text);
    }

    /// Whether a text was met at which the answer ends.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_met
    }

    /// Returns the whole answer, an [`Answer`] in JSON. The end token is sent only where it ends an unfinished character.
    pub(super) fn finish(
        mut self,
        tokenizer: &LlamaTokenizer,
        prompt_tokens: usize,
        completion: &Completion,
    ) -> Bytes {
        let rest = self.text.finish();
        let mut rest = self.stop.pass(rest);
        rest += &std::mem::take(&mut self.stop.held);
        let rest = self.edges.pass(rest);
        if let Some(&id) = completion.tokens.last().filter(|_| !rest.is_empty()) {
            self.send(id, rest);
        }
        let tokens = match self.is_stopped() {
            true => &completion.tokens[..self.taken.min(completion.tokens.len())],
            false => &completion.tokens[..],
        };
        let mut text = tokenizer.decode_continuation(tokens);
        if let Some(end) = self.stop.first(&text) {
            text.truncate(end);
        }
        let mut lead = text.clone();
        text = text.trim_start().to_owned();
        lead.truncate(lead.len() - text.len());
        if self.edges.trims_end {
            // The model has read no white space here in its training.
            (lead, text) = (String::new(), text.trim_end().to_owned());
        }
        let comparisons = match self.is_report {
            true => comparison_marks(&text),
            false => Vec::new(),
        };
        input::to_json(&Answer {
            text,
            lead,
            prompt_tokens: prompt_tokens as u32,
            cached_tokens: completion.cached as u32,
            tokens: tokens.len() as u32,
            complete: completion.complete || self.stop.is_met,
            dropped_turns: self.dropped_turns,
            comparisons,
        })
    }

    fn send(&self, id: u32, text: String) {
        // Nobody listens any more after a cancellation or a shutdown.
        let _ = self.events.send(TurnEvent::Token { id, text });
    }
}

/// What is answered where there is no image, by a model that cannot: its tokens, all of which are sent. None where the model can, or
/// there is one.
pub(super) fn without_image(
    language: &LanguagePipeline,
    turn: &OpenTurn<'_>,
) -> Result<Option<(AnswerStream, Completion, String)>, Failure> {
    let is_open = language.prompts.text_only || turn.snapshot.conversation.image.is_some();
    let asked = match turn.snapshot.turns.get(turn.number as usize - 1) {
        Some(asked) if !is_open => &asked.request,
        _ => return Ok(None),
    };
    let tokenizer = &language.tokenizer;
    let tokens = tokenizer
        .encode_plain(Prompts::WITHOUT_IMAGE)
        .map_err(|error| Failure::new(ErrorCode::Model, error))?;
    let written = turn.written.len().min(tokens.len());
    let mut stream = AnswerStream::new(
        turn.events.clone(),
        tokenizer,
        true,
        &asked.stop,
        &tokens[..written],
        tokens.len() + 1,
    );
    tokens[written..]
        .iter()
        .for_each(|&token| stream.push_token(tokenizer, token));
    let completion = Completion {
        tokens,
        complete: true,
        cached: 0,
    };
    let question = match &asked.ask {
        Ask::Question { text } => text.clone(),
        _ => String::new(),
    };
    Ok(Some((stream, completion, question)))
}

/// Fetches what a turn is answered from, and builds the request. Returns the question as the model reads it, too.
pub(super) async fn request(
    language: &Arc<LanguagePipeline>,
    window: usize,
    turn: OpenTurn<'_>,
    objects: &dyn Objects,
) -> Result<(GenerationRequest, AnswerStream, String), Failure> {
    let image = turn.snapshot.conversation.image.as_ref();
    let image = match image.map(|image| image.embedding.clone()) {
        Some(embedding) => {
            let content = input::fetch_object(objects, &embedding).await?;
            Some((embedding, content))
        }
        None => None,
    };
    let (language, snapshot) = (language.clone(), turn.snapshot.clone());
    let (number, written, sender) = (turn.number, turn.written.to_vec(), turn.events);
    input::compute(move || {
        let (fitted, asked, turn) = fitted(&language, &snapshot, number, window)?;
        let generation = &turn.generation;
        let (images_key, images) = match image {
            Some((embedding, content)) => {
                let tokens = image_tokens::decode(&content)
                    .map_err(|error| input::corrupt(&embedding, error))?;
                // By content: a client that sends its whole dialog each time makes a new conversation of the same image.
                (ContentHash::of(&content).to_string(), vec![tokens])
            }
            None => Default::default(),
        };
        let (most, trims) = (fitted.max_new_tokens, language.prompts.trim_answers);
        let stream = AnswerStream {
            dropped_turns: fitted.dropped,
            is_report: matches!(turn.ask, Ask::Report | Ask::Correction { .. }),
            ..AnswerStream::new(
                sender,
                &language.tokenizer,
                trims,
                &turn.stop,
                &written,
                most,
            )
        };
        let request = GenerationRequest {
            adapter: input::adapter(&language, generation, LanguageTask::Chat)?,
            prompt: fitted.ids,
            images,
            sampling: Sampling::from(generation),
            max_new_tokens: most,
            prompt_key: None,
            generated: written,
            turn_key: (!snapshot.conversation.of_batch).then_some(images_key),
        };
        Ok((request, stream, asked))
    })
    .await
}

/// The prompt that a turn is answered to, its question as the model reads it, and what was asked for.
fn fitted<'a>(
    language: &LanguagePipeline,
    snapshot: &'a ConversationSnapshot,
    number: u32,
    window: usize,
) -> Result<(FittedPrompt, String, &'a TurnRequest), Failure> {
    let (dialog, open) = dialog(language, snapshot, number)?;
    let fitted = dialog.fit(
        &language.prompts,
        &language.tokenizer,
        window,
        open.request.generation.max_new_tokens as usize,
    )?;
    Ok((fitted, dialog.question.readable(), &open.request))
}

/// The conversation up to this turn, without the turns that have no answer, and the turn.
fn dialog<'a>(
    language: &LanguagePipeline,
    snapshot: &'a ConversationSnapshot,
    number: u32,
) -> Result<(ChatPrompt, &'a TurnSnapshot), Failure> {
    let prompts = &language.prompts;
    let nothing = || {
        Failure::new(
            ErrorCode::MessageInvalid,
            "the turn asks nothing that this bundle's model was trained for: name at least one finding, or ask for another \
             task",
        )
    };
    let open = (number as usize)
        .checked_sub(1)
        .and_then(|index| snapshot.turns.get(index))
        .ok_or_else(nothing)?;
    let untrained = match &open.request.ask {
        Ask::View => Some("view"),
        Ask::Impression => Some("impression"),
        _ => None,
    };
    let nothing = || match untrained {
        Some(task) => Failure::new(
            ErrorCode::MessageInvalid,
            format!("this bundle's model was not trained for the task '{task}': ask for another"),
        ),
        None => nothing(),
    };
    let findings = match (&snapshot.conversation.image, &snapshot.prepared) {
        (Some(_), Some(Ok(report))) => Some(report.text.as_str()),
        _ => None,
    };
    let opening = snapshot.conversation.opening.iter().map(|exchange| {
        let words = || Ask::Question {
            text: exchange.user.clone(),
        };
        let ask = exchange.task.clone().unwrap_or_else(words);
        (None, ask, Cow::from(&exchange.assistant))
    });
    let turns = (1..number).zip(&snapshot.turns);
    let turns = turns.filter_map(|(number, turn)| {
        Some((Some(number), turn.request.ask.clone(), answer_of(turn)?))
    });
    let mut history: Vec<Exchange> = Vec::new();
    for (turn, ask, answer) in opening.chain(turns) {
        let answer = prompts.untrusted(&answer);
        // An empty answer would leave its turn open, and what asks nothing has none that matters.
        let findings = findings.filter(|_| history.is_empty());
        let Some(question) = prompts
            .message(&ask, findings)
            .filter(|_| answer != Prompt::default())
        else {
            continue;
        };
        history.push(Exchange {
            turn,
            question,
            answer,
        });
    }
    let findings = findings.filter(|_| history.is_empty());
    let question = prompts
        .message(&open.request.ask, findings)
        .filter(|question| *question != Prompt::default());
    Ok((
        ChatPrompt {
            history,
            question: question.ok_or_else(nothing)?,
        },
        open,
    ))
}

/// What a turn has answered: a person's version, or the model's words. A turn that was cancelled or failed has no answer,
/// unless a person wrote one.
fn answer_of(turn: &TurnSnapshot) -> Option<Cow<'_, str>> {
    match (&turn.edited, &turn.outcome) {
        (Some(edited), _) => Some(edited.into()),
        (None, Some(TurnOutcome::Done(answer))) => Some(answer.as_written().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use radialog_models::tokenizers::synthetic;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// What a worker writes that finds `written` and generates the rest of `tokens`.
    fn write(
        tokenizer: &LlamaTokenizer,
        tokens: &[u32],
        trims: bool,
        written: usize,
        most: usize,
    ) -> (Vec<u32>, String, Answer) {
        write_until(&[], tokenizer, tokens, trims, written, most)
    }

    /// The same, where the answer ends at one of these texts.
    fn write_until(
        stop: &[String],
        tokenizer: &LlamaTokenizer,
        tokens: &[u32],
        trims: bool,
        written: usize,
        most: usize,
    ) -> (Vec<u32>, String, Answer) {
        let (sender, mut said) = unbounded_channel();
        let mut stream =
            AnswerStream::new(sender, tokenizer, trims, stop, &tokens[..written], most);
        let complete = tokens.last() == Some(&tokenizer.eos_id());
        let ends = tokens.len() - usize::from(complete);
        tokens[..ends]
            .iter()
            .skip(written)
            .for_each(|&id| stream.push_token(tokenizer, id));
        let completion = Completion {
            tokens: tokens.to_vec(),
            complete,
            cached: 0,
        };
        let answer = serde_json::from_slice(&stream.finish(tokenizer, 1, &completion)).unwrap();
        let (mut ids, mut text) = (Vec::new(), String::new());
        while let Ok(TurnEvent::Token { id, text: more }) = said.try_recv() {
            ids.push(id);
            text += &more;
        }
        (ids, text, answer)
    }

    #[test]
    fn an_answer_that_ends_inside_a_character_reads_the_same_wherever_a_worker_left_it() {
        let tokenizer = LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap();
        let mut tokens = tokenizer.encode_plain("no \u{2764}").unwrap();
        tokens.pop();
        let limited = tokens.clone();
        tokens.push(tokenizer.eos_id());
        for (tokens, most) in [(limited.clone(), limited.len()), (tokens, 100)] {
            let (written, text, answer) = write(&tokenizer, &tokens, false, 0, most);
            assert_eq!(text, answer.text);
            assert!(text.ends_with("\u{fffd}\u{fffd}"));
            // Another worker after each of the tokens that the first one wrote.
            for cut in 0..=written.len() {
                let (rest, more, again) = write(&tokenizer, &tokens, false, cut, most);
                assert_eq!([&written[..cut], &rest].concat(), written);
                assert!(text.ends_with(&more));
                assert_eq!(again, answer);
            }
        }
    }

    #[test]
    fn an_answer_ends_before_the_first_stop_text_wherever_a_worker_left_it() {
        let tokenizer = LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap();
        let mut tokens = tokenizer
            .encode_plain("The lungs are clear. No effusion.")
            .unwrap();
        tokens.push(tokenizer.eos_id());
        let whole = write(&tokenizer, &tokens, false, 0, 100).2.text;
        for stop in [
            &["ar. N", "lungs of"][..],
            &[". ", "effusion"],
            &["effusion."],
            &["nowhere", "effusion. "],
        ] {
            let stop: Vec<String> = stop.iter().map(|&text| text.to_owned()).collect();
            let end = stop.iter().filter_map(|stop| whole.find(stop)).min();
            let wanted = &whole[..end.unwrap_or(whole.len())];
            let (ids, text, answer) = write_until(&stop, &tokenizer, &tokens, false, 0, 100);
            assert!(
                wanted.starts_with(&answer.text) && text == answer.text,
                "{text:?} of {wanted:?}"
            );
            assert!(answer.complete);
            assert_eq!(ids, tokens[..ids.len()]);
            assert!(end.is_none() || ids.len() == answer.tokens as usize);
            for cut in 0..=ids.len() {
                let (rest, more, again) = write_until(&stop, &tokenizer, &tokens, false, cut, 100);
                assert_eq!([&ids[..cut], &rest].concat(), ids);
                assert!(text.ends_with(&more));
                assert_eq!(again, answer);
            }
        }
    }

    #[test]
    fn white_space_in_front_of_an_answer_is_shown_to_the_model_alone() {
        let tokenizer = LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap();
        let mut tokens = tokenizer.encode_plain("  no  edema ").unwrap();
        tokens.push(tokenizer.eos_id());
        let whole = tokenizer.decode_continuation(&tokens);
        assert!(whole.starts_with(' '), "{whole:?}");
        let (written, text, answer) = write(&tokenizer, &tokens, false, 0, 100);
        assert_eq!(text, "no  edema ");
        assert_eq!(answer.text, text);
        assert_eq!(answer.as_written(), whole);
        for cut in 0..=written.len() {
            let (_, more, again) = write(&tokenizer, &tokens, false, cut, 100);
            assert!(text.ends_with(&more));
            assert_eq!(again, answer);
        }
    }

    #[test]
    fn a_trimmed_answer_reads_the_same_while_it_is_written_wherever_a_worker_left_it() {
        let tokenizer = LlamaTokenizer::from_json(&synthetic::llama(2048).unwrap().json).unwrap();
        let mut tokens = tokenizer.encode_plain("  no  edema ").unwrap();
        tokens.push(tokenizer.eos_id());
        let (written, text, answer) = write(&tokenizer, &tokens, true, 0, 100);
        assert_eq!(
            (text.as_str(), answer.text.as_str()),
            ("no  edema", "no  edema")
        );
        for cut in 0..=written.len() {
            let (_, more, again) = write(&tokenizer, &tokens, true, cut, 100);
            assert!(text.ends_with(&more) || more.is_empty());
            assert_eq!(again, answer);
        }
    }
}
