//! Conversations and turns as clients see them.

use futures::future::try_join_all;
use radialog_runtime::conversations::{ConversationSnapshot, TurnSnapshot};
use radialog_schemas::http::{
    ConversationEntry, ConversationView, ImageView, MAX_TITLE, TurnError, TurnUsage, TurnView,
};
use radialog_schemas::{Ask, ContentHash, ConversationId, TurnEvent, TurnOutcome, TurnStatus};

use super::app_state::AppState;
use super::precondition::tag;
use super::problem::ApiResult;
use super::request_path;

/// Events read at a time.
const PAGE: usize = 512;
/// Characters of a title that nobody gave.
const TITLE: usize = 80;

pub(super) fn conversation_path(id: &ConversationId) -> String {
    format!("/v1/conversations/{id}")
}

pub(super) fn turn_path(id: &ConversationId, turn: u32) -> String {
    format!("/v1/conversations/{id}/turns/{turn}")
}

pub(super) async fn conversation(
    app: &AppState,
    snapshot: &ConversationSnapshot,
) -> ApiResult<ConversationView> {
    let turns = (1..)
        .zip(&snapshot.turns)
        .map(|(number, _)| turn(app, snapshot, number));
    Ok(ConversationView {
        id: snapshot.conversation.id.clone(),
        created_ms: snapshot.conversation.created_ms,
        title: snapshot.title.clone(),
        title_tag: tag(snapshot.title.as_deref()),
        revision: revision(snapshot),
        model: app
            .bundles
            .name_of(&snapshot.conversation)
            .map(str::to_owned),
        indication: snapshot.conversation.indication.clone(),
        image: image(snapshot),
        findings: snapshot
            .prepared
            .as_ref()
            .and_then(|prepared| prepared.as_ref().ok())
            .cloned(),
        turns: try_join_all(turns).await?,
    })
}

pub(super) async fn turn(
    app: &AppState,
    snapshot: &ConversationSnapshot,
    number: u32,
) -> ApiResult<TurnView> {
    let turn = request_path::turn(snapshot, number)?;
    let id = &snapshot.conversation.id;
    let position = match turn.status {
        TurnStatus::Queued => app.backends.conversations.position(id, number).await?,
        _ => None,
    };
    let mut view = TurnView {
        turn: number,
        request: turn.request.clone(),
        status: turn.status,
        position,
        asked: turn.asked.clone(),
        text: String::new(),
        edited: turn.edited.clone(),
        edit_tag: tag(turn.edited.as_deref()),
        rating: turn.rating,
        dropped_turns: Vec::new(),
        comparisons: Vec::new(),
        usage: None,
        error: error(turn),
        events: format!("{}/events", turn_path(id, number)),
        last_event: turn.events,
    };
    match &turn.outcome {
        Some(TurnOutcome::Done(answer)) => {
            view.text = answer.text.clone();
            view.dropped_turns = answer.dropped_turns.clone();
            view.comparisons = answer.comparisons.clone();
            view.usage = Some(TurnUsage {
                prompt_tokens: answer.prompt_tokens,
                cached_tokens: answer.cached_tokens,
                tokens: answer.tokens,
                complete: answer.complete,
            });
        }
        _ if turn.events > 0 => (view.text, view.last_event) = written(app, id, number).await?,
        _ => {}
    }
    Ok(view)
}

/// What a turn without an outcome, or with a bad one, has written, and the number of its last event.
pub(super) async fn written(
    app: &AppState,
    id: &ConversationId,
    turn: u32,
) -> ApiResult<(String, u64)> {
    let (mut text, mut last) = (String::new(), 0);
    loop {
        let events = app
            .backends
            .conversations
            .events(id, turn, last, PAGE)
            .await?;
        let is_last_page = events.len() < PAGE;
        for (number, event) in events {
            last = number;
            if let TurnEvent::Token { text: piece, .. } = event {
                text.push_str(&piece);
            }
        }
        if is_last_page {
            return Ok((text, last));
        }
    }
}

fn error(turn: &TurnSnapshot) -> Option<TurnError> {
    turn.outcome.as_ref().and_then(outcome_error)
}

/// Says why an outcome is no answer.
pub(super) fn outcome_error(outcome: &TurnOutcome) -> Option<TurnError> {
    match outcome {
        TurnOutcome::Done(_) => None,
        TurnOutcome::Failed(failure) => Some(TurnError {
            code: failure.code.as_str(),
            message: failure.message.clone(),
        }),
        TurnOutcome::Cancelled => Some(TurnError {
            code: "cancelled".into(),
            message: "the turn was cancelled".into(),
        }),
    }
}

fn image(snapshot: &ConversationSnapshot) -> Option<ImageView> {
    let href = format!("{}/image", conversation_path(&snapshot.conversation.id));
    snapshot.conversation.image.as_ref().map(|image| ImageView {
        href,
        media_type: image.media_type.clone(),
    })
}

/// A name of how a conversation stands, so that who shows it knows when to read it again.
fn revision(snapshot: &ConversationSnapshot) -> String {
    let turns: Vec<_> = snapshot
        .turns
        .iter()
        .map(|turn| (turn.status, &turn.edited, turn.rating))
        .collect();
    let state = (&snapshot.title, snapshot.prepared.is_some(), turns);
    let text = serde_json::to_vec(&state).unwrap_or_default();
    ContentHash::of(&text).short().to_owned()
}

pub(super) fn entry(snapshot: &ConversationSnapshot) -> ConversationEntry {
    let question = snapshot
        .turns
        .iter()
        .find_map(|turn| match &turn.request.ask {
            Ask::Question { text } => Some(text),
            _ => None,
        });
    let title = snapshot
        .title
        .as_ref()
        .or(question)
        .or(snapshot.conversation.indication.as_ref())
        .map(String::as_str)
        .unwrap_or_default();
    let open = snapshot.turns.iter().find(|turn| !turn.status.is_final());
    let status = open
        .or(snapshot.turns.last())
        .map_or(TurnStatus::Done, |turn| turn.status);
    ConversationEntry {
        id: snapshot.conversation.id.clone(),
        created_ms: snapshot.conversation.created_ms,
        title: title
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(if snapshot.title.is_some() {
                MAX_TITLE
            } else {
                TITLE
            })
            .collect(),
        title_tag: tag(snapshot.title.as_deref()),
        revision: revision(snapshot),
        turns: u32::try_from(snapshot.turns.len()).unwrap_or(u32::MAX),
        status,
        image: image(snapshot),
    }
}
